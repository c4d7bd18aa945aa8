# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The numbers of a report as tables, each line with its interval and its counts.

Knows numbers and blocks. Must not know files, HTML or Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from haloweave.bench.memory import cells, glossary
from haloweave.bench.memory.blocks import Table
from haloweave.bench.memory.cells import Budgets
from haloweave.bench.memory.glossary import HALO, SPEED, metric
from haloweave.bench.memory.record import Record
from haloweave.bench.memory.tables import Gap, Items, Numbers, count, lines, mean, shares
from haloweave.bench.memory.verdict import Bout, Standing

COUNTS = "numbers / cases / documents"


def of_metric(numbers: Numbers, task: str, name: str, budgets: Budgets) -> Table:
    """Every arm's mean and its difference to halo."""
    digits = metric(name).digits
    rows = []
    for one in lines(numbers, task, name):
        to = ("", "", "", "") if one.gap is None else _to(one.gap, name)
        start = (cells.rows(one.budget, budgets), one.arm, cells.interval(one.mean, digits))
        rows.append((*start, cells.counted(one.count), *to))
    headings = ("budget", "arm", metric(name).label, COUNTS, f"less {HALO}'s", "", "in pairs", "left out")
    return Table(headings, tuple(rows), 2)


def _to(one: Gap, name: str) -> tuple[str, str, str, str]:
    difference, word = cells.gap(one, metric(name).digits), cells.told(one, name)
    return difference, word, cells.counted(one.count), f"{one.alone:,}"


def of_shares(numbers: Numbers, task: str, budgets: Budgets) -> Table | None:
    """Of full context's gain; None where that gains nothing for sure, or was not run."""
    rows = []
    for budget in numbers.budgets(task, glossary.ANSWER):
        told = shares(numbers, task, budget)
        for arm, one in sorted(told.items(), key=lambda pair: -pair[1].value.value):
            what = (cells.share(one.value), cells.counted(one.count), f"{one.alone:,}")
            rows.append((cells.rows(budget, budgets), arm, *what))
    headings = ("budget", "arm", "share of full context's gain over none", COUNTS, "left out")
    return Table(headings, tuple(rows), 2) if rows else None


def of_groups(numbers: Numbers, task: str, name: str, budgets: Budgets) -> Table | None:
    """Kinds of question, each arm's mean; None where there is one kind."""
    rows, kinds = [], numbers.kinds(task, name)
    for budget in numbers.budgets(task, name) if len(kinds) > 1 else ():
        arms = numbers.at(task, name, budget)
        for arm in sorted(arms, key=glossary.order):
            of = [[one for one in arms[arm].values() if one.group == kind] for kind in kinds]
            means = [f"{_mean(some, name)}; {len(some):,}" if some else "" for some in of]
            rows.append((cells.rows(budget, budgets), arm, *means))
    return Table(("budget", "arm", *(kind or "others" for kind in kinds)), tuple(rows), 2) if rows else None


def _mean(records: Sequence[Record], name: str) -> str:
    """Without a word about one document: there are many such cells, and a column of counts."""
    found, digits = mean(records, metric(name)), metric(name).digits
    return f"{found.value:,.{digits}f}" if math.isnan(found.low) else cells.interval(found, digits)


def of_speed(numbers: Numbers, budgets: Budgets) -> Table:
    """Every arm where its stream was longest."""
    names = numbers.metrics(SPEED)
    rows = []
    for budget in sorted({b for name in names for b in numbers.budgets(SPEED, name)}, reverse=True):
        at = {name: numbers.at(SPEED, name, budget) for name in names}
        for arm in sorted({arm for arms in at.values() for arm in arms}, key=glossary.order):
            rows.append((cells.rows(budget, budgets), arm, *_longest(at, arm, names)))
    headings = ("budget", "arm", "tokens read", *(metric(name).label for name in names), COUNTS)
    return Table(headings, tuple(rows), 2)


def _longest(at: Mapping[str, Mapping[str, Items]], arm: str, names: Sequence[str]) -> list[str]:
    """The cells of one arm. A number without a place is of the whole run."""
    measured = {name: list(at[name].get(arm, {}).values()) for name in names}
    most = max((one.x for some in measured.values() for one in some if one.x is not None), default=None)
    there = {name: [one for one in some if one.x in (None, most)] for name, some in measured.items()}
    told = [_mean(there[name], name) if there[name] else "" for name in names]
    every = max(there.values(), key=len)
    return ["" if most is None else f"{most:,.0f}", *told, cells.counted(count(every))]


def of_standings(told: Sequence[Standing], budgets: Budgets) -> Table:
    """Halo against every baseline; a baseline that was not run has a line all the same."""
    rows: list[tuple[str, ...]] = []
    for one in told:
        where = (one.task, metric(one.metric).short, cells.rows(one.budget, budgets))
        rows += [(*where, bout.other, *_bout(bout, bout.outcome)) for bout in one.bouts]
        rows += [(*where, other, "", "not run", "", "") for other in one.missing]
    headings = ("task", "measured", "budget", "against", f"{HALO}'s less theirs", HALO, COUNTS, "left out")
    return Table(headings, tuple(rows), 4)


def of_bouts(told: Sequence[Bout], budgets: Budgets, effects: bool = True) -> Table:
    """Differences of any two arms, and the word for each."""
    rows = [
        (f"{one.arm} against {one.other}", one.task, metric(one.metric).short,
         cells.rows(one.budget, budgets), *_bout(one, one.effect if effects else one.outcome))
        for one in told
    ]  # fmt: skip
    headings = ("compared", "task", "measured", "budget", "difference", "", COUNTS, "left out")
    return Table(headings, tuple(rows), 4)


def of_sizes(records: Sequence[Record]) -> Table:
    """A line a metric, a column a size; what has no size stands first."""
    sizes = sorted({one.x for one in records if one.x is not None})
    columns = [*([None] if any(one.x is None for one in records) else []), *sizes]
    rows = []
    for arm, name in dict.fromkeys((one.arm, one.metric) for one in records):
        at = [
            [one.value for one in records if (one.arm, one.metric, one.x) == (arm, name, x)] for x in columns
        ]
        rows.append((arm, name, *(f"{sum(some) / len(some):,.4g}" if some else "" for some in at)))
    return Table(("of", "measured", *("" if x is None else f"{x:,.0f}" for x in columns)), tuple(rows), 2)


def _bout(one: Bout, word: str) -> tuple[str, ...]:
    few = "" if one.sure or word == "nothing can be said" else ", few documents"
    count_ = cells.counted(one.gap.count)
    return cells.gap(one.gap, metric(one.metric).digits), f"{word}{few}", count_, f"{one.gap.alone:,}"
