# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Pieces in the order in which they are read, how long they are, and what a text already tells.

Knows text and lengths. Must not know files, models or what a task is about.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np

from haloweave.bench.facts import Fact
from haloweave.bench.memory.cases import LEAD, Case, Piece, Question
from haloweave.errors import InvalidInput

T = TypeVar("T")

_NUMBER = re.compile(r"(?<!\w)\d{5}(?!\w)")
_NUMBERS = np.arange(10_000, 100_000)


@dataclass(frozen=True)
class Script:
    """What one case reads. Questions are put after a piece, about an earlier one."""

    pieces: tuple[Piece, ...]
    ends: tuple[int, ...]
    """Tokens read once each piece is over."""

    @staticmethod
    def of(pieces: Iterable[Piece], size: Callable[[Piece], int]) -> Script:
        """With the length of each piece, in tokens, frame included."""
        read = tuple(pieces)
        return Script(read, tuple(accumulate(size(piece) for piece in read)))

    @property
    def tokens(self) -> int:
        return self.ends[-1] if self.ends else 0

    def later(self, said: int, distance: int) -> int:
        """Pieces read when at least so many tokens have followed piece number `said`; more than there are if
        that never comes to pass."""
        return bisect_left(self.ends, self.ends[said] + distance) + 1

    def question(
        self, said: int, evidence: str, asked: str, answer: str, group: str = "", after: int | None = None
    ) -> Question:
        """About piece number `said`, put when `after` pieces are read (None: all)."""
        read = len(self.pieces) if after is None else after
        distance = self.ends[read - 1] - self.ends[said]
        return Question(read, asked, answer, evidence, distance, group, lead(asked))

    def case(self, task: str, document: str, name: str, questions: Iterable[Question]) -> Case:
        """The case, its questions in the order in which they are put."""
        asked = sorted(questions, key=lambda q: (q.after, q.distance))
        return Case(task, name, document, self.pieces, tuple(asked), tokens=self.tokens)


def lead(asked: str) -> str:
    """How a reply begins that comes to the point: `What is the X?` is answered by `The X is`."""
    what = re.fullmatch(r"(?:What|Which) is (the .+)\?", asked)
    return f"T{what[1][1:]} is" if what else LEAD


def checked(tokens: int, count: int, seed: int) -> None:
    """Raises InvalidInput for sizes that no task can be made of."""
    if tokens < 1 or count < 1 or seed < 0:
        raise InvalidInput(
            f"expected tokens and count of at least 1 and a seed of at least 0, "
            f"got tokens {tokens}, count {count}, seed {seed}"
        )


def named(document: str, *numbers: int) -> str:
    """Of a case: its document, and all that its text depends on."""
    return "-".join([document, *map(str, numbers)])


def distinct(names: Iterable[str]) -> None:
    """Raises InvalidInput if two texts have one name: cases are told apart by it."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InvalidInput(f"expected texts of different names, got several called {twice[0]!r}: rename one")


# ---- what a text tells -------------------------------------------------------------------------------


def tells(text: str, answer: str) -> bool:
    """The answer stands in it as a word, in whatever case: then a question would not measure memory."""
    if answer.casefold() not in text.casefold():  # fast, and so it is with most
        return False
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None


def untold(facts: Sequence[Fact], text: str) -> list[Fact]:
    """The facts whose answers stand neither in a text nor in another of the facts."""
    open_ = [fact for fact in facts if not tells(text, fact.answer)]
    said = {fact: "\n".join(other.said for other in open_ if other is not fact) for fact in open_}
    return [fact for fact in open_ if not tells(said[fact], fact.answer)]


def numbers(rng: np.random.Generator, count: int, text: str = "") -> list[str]:
    """Of five digits, no two alike, none of them in a text. Raises InvalidInput if there are too few."""
    taken = [int(found) for found in _NUMBER.findall(text)]
    free = np.setdiff1d(_NUMBERS, np.asarray(taken, _NUMBERS.dtype))
    return [str(n) for n in drawn(rng, free.tolist(), count, "numbers of five digits")]


def drawn(rng: np.random.Generator, free: Sequence[T], count: int, what: str) -> list[T]:
    """Some of them, no one twice. Raises InvalidInput if there are too few."""
    if count > len(free):
        raise InvalidInput(f"{count} different {what} are needed, {len(free)} are free: ask for fewer tokens")
    return [free[n] for n in rng.choice(len(free), count, replace=False).tolist()]
