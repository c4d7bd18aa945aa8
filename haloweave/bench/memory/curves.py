# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Numbers along something: distance, rows, tokens read. One curve an arm, each point with its interval.

Places are put together in geometric bins, as distances grow by factors. Knows numbers. Must not know files,
words or pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from haloweave.bench.memory.glossary import ANSWER, BOOKS, FULL, LOSS, NONE, Metric, metric
from haloweave.bench.memory.record import Record
from haloweave.bench.memory.tables import Count, Items, Numbers, count, gap, mean, share
from haloweave.diffusion.judging.intervals import Interval

_NEAREST = -2
"""Binary logarithm of the nearest bin's beginning: what is nearer than half a budget is near."""
_PLAIN = 12
"""As many places as this are shown as they are."""


@dataclass(frozen=True)
class Spot:
    """One point of a curve."""

    x: float
    value: Interval
    count: Count


@dataclass(frozen=True)
class Curve:
    """One arm."""

    arm: str
    spots: tuple[Spot, ...]


Bin = Callable[[float], float]
"""Where in the picture a place stands."""


def by_distance(budget: int) -> Bin:
    """Distances in multiples of the budget, each in the middle of its octave."""

    def middle(x: float) -> float:
        octave = math.floor(math.log2(x / budget)) if x > 0 else _NEAREST
        return float(2.0 ** (max(octave, _NEAREST) + 0.5))

    return middle


def recall(numbers: Numbers, task: str, name: str, budget: int) -> list[Curve]:
    """A metric of questions against the distance of what they ask for, in budgets."""
    return _curves(numbers.at(task, name, budget), by_distance(budget), metric(name))


def gained(numbers: Numbers, task: str, budget: int) -> list[Curve]:
    """The share of full context's gain against distance, where full context gains anything."""
    arms, where = numbers.at(task, ANSWER, budget), by_distance(budget)
    if FULL not in arms or NONE not in arms:
        return []
    told = [Curve(arm, _gained(arms, arm, where)) for arm in arms if arm not in (FULL, NONE)]
    return [curve for curve in told if curve.spots]


def _gained(arms: dict[str, Items], arm: str, where: Bin) -> tuple[Spot, ...]:
    found = []
    for x in sorted({where(one.x) for one in arms[arm].values() if one.x is not None}):
        within = _within(where, x)
        told = share(arms[arm], arms[NONE], arms[FULL], within)
        if told is not None:
            found.append(Spot(x, told.value, told.count))
    return tuple(found)


def _within(where: Bin, x: float) -> Callable[[Record], bool]:
    return lambda one: one.x is not None and where(one.x) == x


def along(numbers: Numbers, task: str, name: str, budget: int) -> list[Curve]:
    """A metric against tokens read: as it was measured, or in half octaves where that is at many places."""
    arms = numbers.at(task, name, budget)
    places = {one.x for items in arms.values() for one in items.values() if one.x}
    plain = len(places) <= _PLAIN
    return _curves(arms, float if plain else _half_octave, metric(name))


def _half_octave(x: float) -> float:
    """The middle of the half octave that x is in."""
    return float(2.0 ** ((math.floor(2 * math.log2(x)) + 0.5) / 2))


def _curves(arms: dict[str, Items], where: Bin, of: Metric) -> list[Curve]:
    found = []
    for arm, items in arms.items():
        bins: dict[float, list[Record]] = {}
        for one in items.values():
            if one.x is not None and (one.x > 0 or where is not _half_octave):
                bins.setdefault(where(one.x), []).append(one)
        spots = tuple(Spot(x, mean(bins[x], of), count(bins[x])) for x in sorted(bins))
        found += [Curve(arm, spots)] if spots else []
    return found


def quality(numbers: Numbers, task: str = BOOKS, name: str = LOSS) -> list[Curve]:
    """How much is lost to full context against rows, over what both have. Arms that met fewer documents than
    others are left out: they would stand elsewhere for that alone."""
    found: dict[str, list[Spot]] = {}
    for budget in sorted(numbers.budgets(task, name)):
        arms = numbers.at(task, name, budget)
        held = [arm for arm in arms if FULL in arms and next(iter(arms[arm].values())).rows == budget > 0]
        lost = {arm: gap(arms[arm], arms[FULL]) for arm in held}
        most = max((to.count.documents for to in lost.values()), default=0)
        for arm, to in lost.items():
            if to.count.documents == most > 0:
                found.setdefault(arm, []).append(Spot(budget, to.value, to.count))
    return [Curve(arm, tuple(spots)) for arm, spots in found.items()]
