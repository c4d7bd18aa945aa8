# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Records to means, differences and shares, each with a 95 % interval and what it was drawn from.

What is compared is paired: number by number, of the same case, place and weight; what only one arm has is
left out and counted. What is drawn again is whole documents, as cases of one text resemble each other.
Knows numbers. Must not know files, words or pictures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from haloweave.bench.memory.doubt import FEW, NOTHING, of_chances, over_documents, within
from haloweave.bench.memory.glossary import ANSWER, FULL, HALO, NONE, Metric, metric
from haloweave.bench.memory.record import Record
from haloweave.diffusion.judging.intervals import Interval
from haloweave.errors import InvalidInput

Key = tuple[str, str, float | None, float, int]
"""Case, group, place, weight, and the how-manieth such number."""
Items = Mapping[Key, Record]
"""What one arm has at one budget, of one task and metric."""


@dataclass(frozen=True)
class Count:
    """What a number was drawn from."""

    numbers: int
    cases: int
    documents: int

    @property
    def few(self) -> bool:
        return self.documents < FEW


@dataclass(frozen=True)
class Gap:
    """Mean of one arm less another's."""

    value: Interval
    """Without ends where there is one document alone, and nan where the two share nothing."""
    count: Count
    """Of the pairs."""
    alone: int
    """Numbers that only one of the two has: left out."""


@dataclass(frozen=True)
class Line:
    """One arm in the table of one budget; an arm that nothing bounds stands in every one of them."""

    budget: int
    arm: str
    rows: int
    mean: Interval
    count: Count
    gap: Gap | None
    """To `against`; None of itself, and where that was not run."""


def checked(records: Iterable[Record]) -> list[Record]:
    """Raises InvalidInput for what no mean can be made of."""
    found = list(records)
    for one in found:
        numbers = (one.value, one.weight, *(() if one.x is None else (one.x,)))
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) or one.weight <= 0:
            raise InvalidInput(
                f"{one.task} {one.case}, {one.arm} at {one.rows} rows: {one.metric} is {one.value!r}, weight "
                f"{one.weight!r}, x {one.x!r}: expected finite numbers and a weight above 0; measure it again"
            )
        if not isinstance(one.rows, int) or one.rows < 0:
            raise InvalidInput(f"{one.task} {one.case}, {one.arm}: rows is {one.rows!r}: expected 0 or more")
    return found


class Numbers:
    """Records, found by task, metric, rows and arm. Raises InvalidInput for what no mean can be made of."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._all: dict[tuple[str, str], dict[tuple[int, str], dict[Key, Record]]] = {}
        seen: Counter[tuple[object, ...]] = Counter()
        for one in checked(records):
            place = (one.case, one.group, one.x, float(one.weight))
            where = (one.task, one.metric, one.rows, one.arm, *place)
            arms = self._all.setdefault((one.task, one.metric), {})
            arms.setdefault((one.rows, one.arm), {})[(*place, seen[where])] = one
            seen[where] += 1

    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for task, _ in self._all))

    def metrics(self, task: str) -> list[str]:
        return [name for of, name in self._all if of == task]

    def arms(self, task: str | None = None) -> list[str]:
        return list(
            dict.fromkeys(arm for (of, _), a in self._all.items() for _, arm in a if task in (None, of))
        )

    def records(self, task: str) -> list[Record]:
        found = [arms for (of, _), arms in self._all.items() if of == task]
        return [one for arms in found for items in arms.values() for one in items.values()]

    def kinds(self, task: str, name: str) -> list[str]:
        """Groups within a task: kinds of question, or whose text it is."""
        return sorted({one.group for one in self.records(task) if one.metric == name})

    def of_kind(self, task: str, name: str, kind: str) -> Numbers:
        """These alone."""
        return Numbers(one for one in self.records(task) if (one.metric, one.group) == (name, kind))

    def budgets(self, task: str, name: str) -> list[int]:
        """Rows of the arms that are bounded, most first; 0 alone where none is."""
        found = {rows for rows, _ in self._all.get((task, name), {})}
        return sorted(found - {0}, reverse=True) or sorted(found)

    def at(self, task: str, name: str, budget: int) -> dict[str, Items]:
        """The arms of one budget, and those that nothing bounds."""
        there = sorted(
            self._all.get((task, name), {}).items(), key=lambda one: one[0][0]
        )  # a bounded run counts
        return {arm: items for (rows, arm), items in there if rows in (0, budget)}


def lines(numbers: Numbers, task: str, name: str, against: str = HALO) -> list[Line]:
    """Every arm of every budget, the best first."""
    found: list[Line] = []
    for budget in numbers.budgets(task, name):
        arms = numbers.at(task, name, budget)
        told = [_line(budget, arm, arms, against, name) for arm in arms]
        found += sorted(told, key=lambda line: -(metric(name).better or -1) * line.mean.value)
    return found


def _line(budget: int, arm: str, arms: Mapping[str, Items], against: str, name: str) -> Line:
    items = list(arms[arm].values())
    other = None if arm == against else arms.get(against)
    to = None if other is None else gap(arms[arm], other)
    return Line(budget, arm, items[0].rows, mean(items, metric(name)), count(items), to)


def mean(records: Sequence[Record], of: Metric | None = None) -> Interval:
    """Weighted; a share stays one, and of zeros and ones doubt is left where all agree."""
    if not records:
        return NOTHING
    weights = np.array([one.weight for one in records])
    values = np.array([one.value for one in records])
    found = over_documents(values * weights, weights, _documents(records))
    if of is not None and of.chance:
        found = of_chances(found, round(float(values.sum())), len(records))
    return within(found, 0.0, 1.0) if of is not None and of.unit == "share" else found


def gap(one: Items, other: Items) -> Gap:
    """one - other, over what both have."""
    keys = [key for key in one if key in other]
    alone = len(one) + len(other) - 2 * len(keys)
    if not keys:
        return Gap(NOTHING, Count(0, 0, 0), alone)
    pairs = [one[key] for key in keys]
    weights = np.array([record.weight for record in pairs])
    apart = np.array([one[key].value - other[key].value for key in keys]) * weights
    return Gap(over_documents(apart, weights, _documents(pairs)), count(pairs), alone)


def _documents(records: Sequence[Record]) -> list[str]:
    return [one.document for one in records]


def count(records: Sequence[Record]) -> Count:
    cases = {(one.document, one.case) for one in records}
    return Count(len(records), len(cases), len({one.document for one in records}))


def shares(numbers: Numbers, task: str, budget: int) -> dict[str, Gap]:
    """Of what full context gains over none in the answers' log-probability, by arm: ratios of means."""
    arms = numbers.at(task, ANSWER, budget)
    if FULL not in arms or NONE not in arms:
        return {}
    told = {arm: share(arms[arm], arms[NONE], arms[FULL]) for arm in arms if arm not in (FULL, NONE)}
    return {arm: one for arm, one in told.items() if one is not None}


def share(arm: Items, none: Items, full: Items, only: Callable[[Record], bool] | None = None) -> Gap | None:
    """(arm - none) / (full - none) over what all three have; None where full context gains nothing for sure,
    as a share of nothing has no meaning."""
    keys = [key for key in arm if key in none and key in full and (only is None or only(arm[key]))]
    whole = gap({key: full[key] for key in keys}, {key: none[key] for key in keys})
    if not (whole.value.value > 0 and not whole.value.low <= 0):
        return None
    weights = np.array([arm[key].weight for key in keys])
    won = np.array([arm[key].value - none[key].value for key in keys]) * weights
    most = np.array([full[key].value - none[key].value for key in keys]) * weights
    pairs = [arm[key] for key in keys]
    return Gap(over_documents(won, most, _documents(pairs)), count(pairs), len(arm) - len(keys))
