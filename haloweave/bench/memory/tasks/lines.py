# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Questions about an earlier line, all the while: after every ten lines, about the one twenty lines earlier
(StreamEval of StreamingLLM, arXiv 2309.17453, whose data were never published). The lines are registers,
as in LongEval's line retrieval: a key of two words, and a number.

Knows no file: the lines are made here. Must not know models. No key and no number comes twice in a case.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from haloweave.bench.memory.cases import Case, Piece, Question
from haloweave.bench.memory.tasks.names import KEYS
from haloweave.bench.memory.tasks.script import Script, checked, drawn, named, numbers
from haloweave.errors import InvalidInput
from haloweave.memory.tokens import Source

TASK = "lines"
EVERY = 10
"""Lines between questions."""
BACK = (20, 50, 100)
_TURN = (3, 8)
"""Lines of one piece, at least and less than: so a line that is asked for may stand anywhere in its piece."""


def cases(
    data: Sequence[Path],
    size: Callable[[Piece], int],
    *,
    tokens: int,
    count: int,
    seed: int,
    every: int = EVERY,
    back: Sequence[int] = BACK,
    source: Source = Source.TOOL,
) -> list[Case]:
    """Registers of about `tokens` tokens. Whenever `every` more lines have been read and a piece is over, a
    question for each `back`: about the line that stands so many lines before the next one. `data` is not
    read.

    The lines are a TOOL's: they are rows of data, a row without its number is worth nothing, and so each
    lives and dies as a whole, for every arm alike. As USER text, a line can lose a word and keep its number.
    Raises InvalidInput if there are too few lines for the farthest question, or too few keys for the lines.
    """
    checked(tokens, count, seed)
    if every < 1 or not back or min(back) < 1:
        raise InvalidInput(f"expected questions every 1 line or more, back 1 or more; got {every}, {back}")
    made = []
    for number in range(1, count + 1):
        register = _Register.of(size, tokens, source, np.random.default_rng([seed, number]))
        document = named(TASK, seed, number)
        questions = register.questions(every, back)
        made.append(register.script.case(TASK, document, named(document, tokens), questions))
    return made


@dataclass(frozen=True)
class _Register:
    """Lines in pieces."""

    keys: Sequence[str]
    values: Sequence[str]
    script: Script
    ends: Sequence[int]
    """Lines read once each piece is over."""

    @staticmethod
    def of(size: Callable[[Piece], int], tokens: int, source: Source, rng: np.random.Generator) -> _Register:
        keys = drawn(rng, KEYS, len(KEYS), "keys")
        values = numbers(rng, len(KEYS))
        pieces: list[Piece] = []
        ends = [0]
        while tokens > 0:
            end = ends[-1] + int(rng.integers(*_TURN))
            if end > len(keys):
                raise InvalidInput(
                    f"{len(keys)} keys are too few, {tokens} tokens are still missing: ask for fewer tokens"
                )
            lines = (_line(keys[n], values[n]) for n in range(ends[-1], end))
            pieces.append(Piece("\n".join(lines), source))
            ends.append(end)
            tokens -= size(pieces[-1])
        return _Register(keys, values, Script.of(pieces, size), ends[1:])

    def questions(self, every: int, back: Sequence[int]) -> Iterator[Question]:
        before = (0, *self.ends[:-1])
        due = [n for n, last in enumerate(before) if last // every < self.ends[n] // every]
        if not due or self.ends[due[-1]] < max(back):
            raise InvalidInput(
                f"expected lines enough to ask every {every} about the one {max(back)} back, "
                f"got {self.ends[-1]}: ask for more tokens, or less far back"
            )
        for number in due:
            read = self.ends[number]
            yield from (self._question(read, far, number + 1) for far in dict.fromkeys(back) if far <= read)

    def _question(self, read: int, far: int, after: int) -> Question:
        line = read - far
        key, value = self.keys[line], self.values[line]
        asked = f"What is the REGISTER_CONTENT in line {key}?"
        said = bisect_right(self.ends, line)
        return self.script.question(said, _line(key, value), asked, f"<{value}>", f"{far} lines", after)


def _line(key: str, value: str) -> str:
    return f"line {key}: REGISTER_CONTENT is <{value}>"
