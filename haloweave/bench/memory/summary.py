# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A report's numbers for programs: what its tables and curves show, by name.

Knows numbers. Must not know text, files or pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from haloweave.bench.memory import curves
from haloweave.bench.memory.glossary import ANSWER, EXACT
from haloweave.bench.memory.tables import Count, Gap, Line, Numbers, lines, shares
from haloweave.bench.memory.verdict import Bout, Standing, parts, standings


def summary(numbers: Numbers) -> dict[str, Any]:
    """No number in it that is not finite: null stands for an interval's ends where there are none."""
    return {
        "tasks": {task: _task(numbers, task) for task in numbers.tasks()},
        "quality": _curves(curves.quality(numbers)),
        "target": [_standing(one) for one in standings(numbers)],
        "parts": [_bout(one) | {"effect": one.effect} for one in parts(numbers)],
    }


def _task(numbers: Numbers, task: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in numbers.metrics(task):
        found[name] = {"arms": [_line(one) for one in lines(numbers, task, name)]}
        distances = curves.recall if name in (ANSWER, EXACT, "alive") else curves.along
        found[name]["curves"] = {
            budget: _curves(distances(numbers, task, name, budget))
            for budget in numbers.budgets(task, name)
            if budget or distances is curves.along
        }
    told = {budget: shares(numbers, task, budget) for budget in numbers.budgets(task, ANSWER)}
    found["share_of_gain"] = {b: {arm: _gap(one) for arm, one in of.items()} for b, of in told.items() if of}
    return found


def _line(one: Line) -> dict[str, Any]:
    start = {"budget": one.budget, "arm": one.arm, "rows": one.rows, "mean": one.mean.plain()}
    return start | _count(one.count) | {"to_halo": None if one.gap is None else _gap(one.gap)}


def _gap(one: Gap) -> dict[str, Any]:
    return {"value": one.value.plain(), **_count(one.count), "left_out": one.alone, "few": one.count.few}


def _count(one: Count) -> dict[str, int]:
    return {"numbers": one.numbers, "cases": one.cases, "documents": one.documents}


def _bout(one: Bout) -> dict[str, Any]:
    told = {"task": one.task, "metric": one.metric, "budget": one.budget, "arm": one.arm, "other": one.other}
    return told | _gap(one.gap) | {"outcome": one.outcome}


def _standing(one: Standing) -> dict[str, Any]:
    told = {"task": one.task, "metric": one.metric, "budget": one.budget, "holds": one.holds}
    return told | {"missing": list(one.missing), "bouts": [_bout(bout) for bout in one.bouts]}


def _curves(told: Iterable[curves.Curve]) -> dict[str, list[dict[str, Any]]]:
    return {
        curve.arm: [{"x": s.x, "value": s.value.plain()} | _count(s.count) for s in curve.spots]
        for curve in told
    }
