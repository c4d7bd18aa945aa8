# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Who beats whom, and what each part of halo adds: differences, and a word for each.

Every word is read off an interval. Knows numbers and names. Must not know files or pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from haloweave.bench.memory.glossary import ALIVE, ANSWER, ASKED, BOOKS, EVICTION, EXACT, HALO, LOSS, metric
from haloweave.bench.memory.tables import Gap, Numbers, gap

WINS, TIES, LOSES, UNKNOWN = "wins", "ties", "loses", "nothing can be said"
TARGETS = ((BOOKS, LOSS), *((task, ALIVE) for task in ASKED))
"""What the default is to be better at than every baseline that only lets go."""
PARTS = (
    (HALO, "cull"),
    ("halo+repair", HALO),
    ("halo+random", HALO),
    ("halo+repair", "halo+random"),
    ("halo+recall", HALO),
    ("halo+both", HALO),
)
"""Markers, repair, recall: each against the same without it, and repair against words that nobody chose."""
_ABLATED = (*((task, name) for task in ASKED for name in (ANSWER, EXACT, ALIVE)), (BOOKS, LOSS))
_WORDS = {WINS: "helps", TIES: "no effect seen", LOSES: "harms", UNKNOWN: UNKNOWN}


@dataclass(frozen=True)
class Bout:
    """One arm against another, at one budget, in one task and metric."""

    task: str
    metric: str
    budget: int
    arm: str
    other: str
    gap: Gap

    @property
    def outcome(self) -> str:
        """Read off the interval: who does not exclude zero ties."""
        return outcome(self.gap, metric(self.metric).better)

    @property
    def sure(self) -> bool:
        """Of enough documents to believe an interval."""
        return not self.gap.count.few

    @property
    def effect(self) -> str:
        return _WORDS[self.outcome]


@dataclass(frozen=True)
class Standing:
    """How an arm did against all of some others, in one task and metric at one budget."""

    task: str
    metric: str
    budget: int
    bouts: tuple[Bout, ...]
    missing: tuple[str, ...]
    """Others that were not run."""

    def of(self, outcome: str) -> list[str]:
        return [bout.other for bout in self.bouts if bout.outcome == outcome]

    @property
    def few(self) -> bool:
        return any(not bout.sure for bout in self.bouts)

    @property
    def holds(self) -> bool:
        """All of them, of enough documents, beaten."""
        return not self.missing and not self.few and len(self.of(WINS)) == len(self.bouts) > 0


def outcome(one: Gap, better: int) -> str:
    low, high = one.value.low, one.value.high
    if math.isnan(low) or math.isnan(high) or not better:
        return UNKNOWN
    if low <= 0 <= high:
        return TIES
    return WINS if (low > 0) == (better > 0) else LOSES


def bouts(numbers: Numbers, task: str, name: str, arm: str, others: Sequence[str]) -> Iterator[Bout]:
    """Of every budget that both were run at."""
    for budget in numbers.budgets(task, name):
        arms = numbers.at(task, name, budget)
        for other in others:
            if arm in arms and other in arms:
                yield Bout(task, name, budget, arm, other, gap(arms[arm], arms[other]))


def standings(numbers: Numbers, arm: str = HALO, others: Sequence[str] = tuple(EVICTION)) -> list[Standing]:
    """The target, task by task and budget by budget."""
    found = []
    for task, name in TARGETS:
        fought = list(bouts(numbers, task, name, arm, others))
        for budget in numbers.budgets(task, name):
            here = tuple(bout for bout in fought if bout.budget == budget)
            missing = tuple(other for other in others if other not in {bout.other for bout in here})
            found.append(Standing(task, name, budget, here, missing))
    return found


def parts(numbers: Numbers) -> list[Bout]:
    """What each part adds, wherever it was run."""
    return [
        bout
        for task, name in _ABLATED
        for arm, other in PARTS
        for bout in bouts(numbers, task, name, arm, [other])
    ]


def by_chance(bouts: Sequence[Bout]) -> float:
    """How many of so many intervals would exclude zero if nothing differed at all."""
    return 0.05 * len(bouts)
