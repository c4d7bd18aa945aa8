# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A long stream of talk and server logs, and facts hidden in it (needles in a haystack).

Knows files and text. Must not know minds or models. Facts lie at even distances; every second one is said in
a turn of its own, the others on a line amid somebody else's talk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Protocol

import numpy as np

from haloweave.bench.facts import Fact
from haloweave.corpus import documents, files
from haloweave.errors import InvalidInput
from haloweave.memory.tokens import Source
from haloweave.text import Codec

_TALK, _LOG = 4, 2
"""Lines of one turn."""
_TALKS_A_LOG = 3
_SPOKEN = 20
"""Characters from which a line of talk says something."""
_OVER = 1.1
"""Times the length asked for that a stream may have, if the last facts make it longer."""


@dataclass(frozen=True)
class Piece:
    """One turn of the stream."""

    text: str
    source: Source
    fact: int | None = None
    """Number of the fact that is said in it."""
    alone: bool = False
    """It says nothing else."""


class Hay:
    """Turns without facts, the same for the same seed. `data`: files and folders; what ends in .log is a log,
    the rest is talk. Raises InvalidInput where there is no such file, or no talk in any."""

    def __init__(self, data: Sequence[Path], seed: int = 0) -> None:
        if gone := [path for path in data if not path.exists()]:
            raise InvalidInput(f"no such file or folder: {gone[0]}")
        logs, talks = _split(data)
        rng = np.random.default_rng(seed)
        self._talks = _shuffled(_turns(_dialogues(talks), _TALK), rng)
        if not self._talks:
            where = ", ".join(map(str, data))
            raise InvalidInput(f"no talk in {where}: expected {_TALK} lines of {_SPOKEN} characters")
        self._logs = _shuffled(_turns((p.read_text("utf-8", "replace") for p in logs), _LOG), rng)

    def pieces(self) -> Iterator[Piece]:
        """For ever; after the last turn the first comes again."""
        logs = cycle(self._logs)
        for number, talk in enumerate(cycle(self._talks)):
            yield Piece(talk, Source.USER)
            if self._logs and number % _TALKS_A_LOG == _TALKS_A_LOG - 1:
                yield Piece(next(logs), Source.LOG)

    def lines(self, count: int) -> list[str]:
        """Lines of talk from the far end, which a stream reaches last: one of each turn."""
        said = (max(talk.splitlines(), key=len) for talk in reversed(self._talks))
        return [line for _, line in zip(range(count), said, strict=False)]


class Said(Protocol):
    """Something that somebody says in a turn."""

    @property
    def text(self) -> str: ...

    @property
    def source(self) -> Source: ...


def sizes(codec: Codec) -> Callable[[Said], int]:
    """Tokens of a turn, with the frame around it."""

    def size(said: Said) -> int:
        around = 0
        if (frame := codec.frame) is not None:
            role = frame.role(said.source)
            around = len(frame.headers[role]) + len(frame.footers[role])
        return around + len(codec.encode([said.text])[0])

    return size


def planted(
    hay: Iterator[Piece], facts: Sequence[Fact], tokens: int, size: Callable[[Piece], int], seed: int
) -> list[Piece]:
    """A stream of about so many tokens with all the facts in it, in an order of the seed's.

    Raises InvalidInput if it is too short for them.
    """
    order = np.random.default_rng(seed).permutation(len(facts)).tolist()
    stream: list[Piece] = []
    count = said = 0
    while count < tokens or said < len(order):
        piece = next(hay)
        if said < len(order) and count >= (said + 0.5) * tokens / len(order):
            number, alone = order[said], said % 2 == 0
            if alone:
                stream.append(Piece(facts[number].said, Source.USER, number, alone=True))
                count += size(stream[-1])
            elif piece.source is Source.USER:
                piece = Piece(_amid(piece.text, facts[number].said), Source.USER, number)
            said += alone or piece.fact is not None
        stream.append(piece)
        count += size(piece)
    if count > _OVER * tokens:
        raise InvalidInput(f"{tokens} tokens are too few for {len(order)} facts: raise budget or times")
    return stream


def _amid(text: str, said: str) -> str:
    lines = text.splitlines()
    middle = len(lines) // 2
    return "\n".join([*lines[:middle], said, *lines[middle:]])


def _split(data: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Logs and other texts."""
    within = (sorted(root.rglob("*.log")) if root.is_dir() else [root] for root in data)
    logs = [path for paths in within for path in paths if path.suffix == ".log"]
    return logs, files([root for root in data if root.suffix != ".log"])


def _dialogues(paths: Sequence[Path]) -> Iterator[str]:
    for document in documents(paths):
        yield from document.text.split("\n\n")


def _turns(texts: Iterator[str], size: int) -> list[str]:
    """Stretches of so many lines."""
    turns = []
    for text in texts:
        lines = [line for line in text.splitlines() if len(line) >= _SPOKEN and not line.startswith("#")]
        turns += ["\n".join(lines[n : n + size]) for n in range(0, len(lines) - size + 1, size)]
    return turns


def _shuffled(turns: list[str], rng: np.random.Generator) -> list[str]:
    return [turns[n] for n in rng.permutation(len(turns))]
