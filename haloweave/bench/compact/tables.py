# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Records of a comparison as tables for people: means, and 95 % intervals where there is more than one run.

An interval is a paired bootstrap over documents; with one document, over its seeds, and then it says how far
the numbers depend on what the dice chose to say, not how they would be for other texts.

Knows records and rich. Must not know how anything was measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from haloweave.bench.compact.records import DISTINCTS, DIVERGES, FULL, JUDGE, KL, OWN, REPEATS, TOP1
from haloweave.bench.compact.run import Arm, Outcome
from haloweave.bench.compact.text_figures import alike
from haloweave.bench.memory.record import Record, documents
from haloweave.bench.stats import Interval, paired
from haloweave.errors import InvalidInput

LEAST = 3
"""Units from which on an interval is drawn: of two, the bootstrap knows no more than the two."""
PERCENT = 0
"""Digits of a share, which is told in per cent."""
_DIGITS = {KL: 3, TOP1: PERCENT, JUDGE: 2}
_NARROW: dict[str, Any] = {"padding": (0, 1, 0, 0), "pad_edge": False}
"""Numbers with their intervals fit into 80 columns."""
_LEAD = 160
"""Characters shown of the end of what was read."""

_CONTROL = {c: 0x2400 + c for c in range(32) if c not in (9, 10)} | {127: 0x2421}
_CONTROL |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""What is read or said must not steer the terminal."""


@dataclass(frozen=True)
class Means:
    """Of each unit that intervals are drawn over, in one order; every unit counts as much as another."""

    names: tuple[str, ...]
    values: Float64[np.ndarray, " U"]

    def beside(self, other: Means | None = None) -> Interval:
        """The mean, or the mean difference from another's, with its interval. Raises InvalidInput if the two
        do not tell of the same units."""
        if other is not None and self.names != other.names:
            raise InvalidInput(f"expected pairs, got {self.names} beside {other.names}")
        against = np.zeros(len(self.values)) if other is None else other.values
        return paired(self.values, against, np.ones(len(self.values)))


def means(records: Sequence[Record]) -> Means:
    """Weighted means: of each document, or, of a single document, of each of its cases."""
    several = len(documents(records)) > 1
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record.document if several else record.case].append(record)
    return Means(tuple(found), np.array([_mean(unit) for unit in found.values()]))


def _mean(records: Sequence[Record]) -> float:
    return sum(r.value * r.weight for r in records) / sum(r.weight for r in records)


def of(records: Sequence[Record], metric: str, arm: str, rows: int, group: str | None = None) -> list[Record]:
    """Those of one arm."""
    return [
        r
        for r in records
        if (r.metric, r.arm, r.rows) == (metric, arm, rows) and (group is None or r.group == group)
    ]


def tables(records: Sequence[Record], arm: Arm, block: int) -> Iterator[Table]:
    """Of one arm against `full`: the drift in blocks of so many tokens, then the texts."""
    yield _drift(records, arm, block)
    yield _texts(records, arm)


def _drift(records: Sequence[Record], arm: Arm, block: int) -> Table:
    table = _table(f"{_name(arm)}: drift from full context")
    for column in ("tokens", "KL, own text", "top 1, %", "KL, full's text", "top 1, %"):
        table.add_column(column)
    each = [(metric, whose) for whose in (OWN, FULL) for metric in (KL, TOP1)]
    told = [(metric, of(records, metric, arm.policy, arm.rows, whose)) for metric, whose in each]
    last = int(max((r.x or 0 for _, found in told for r in found), default=0))
    spans = [(start, min(start + block, last)) for start in range(0, last, block)]
    for low, high in spans:
        table.add_row(f"{low + 1}-{high}", *_span(told, low, high), end_section=high == last)
    if len(spans) > 1:
        table.add_row("all", *_span(told, 0, last))
    return table


def _span(told: Sequence[tuple[str, list[Record]]], low: int, high: int) -> Iterator[str]:
    for metric, found in told:
        here = means([r for r in found if low < (r.x or 0) <= high])
        yield cell(here, _DIGITS[metric])


def _texts(records: Sequence[Record], arm: Arm) -> Table:
    table = _table(f"{_name(arm)}: what was said")
    for column in ("", "full context", "compact", "difference"):
        table.add_column(column)
    unit = "bits/byte" if any(r.group for r in records if r.metric == JUDGE) else "nats/token"
    labels = {REPEATS: "repeat 4-grams, %", JUDGE: f"judge, {unit}"}
    for metric in (REPEATS, *DISTINCTS, JUDGE):
        whole, ours = _pairs(of(records, metric, FULL, 0), of(records, metric, arm.policy, arm.rows))
        if len(whole.names):
            digits = _DIGITS.get(metric, PERCENT)
            label = labels.get(metric, f"distinct-{metric[-1]}, %")
            table.add_row(label, cell(whole, digits), cell(ours, digits), cell(ours, digits, whole))
    same = of(records, DIVERGES, arm.policy, arm.rows)
    table.add_row("tokens until apart", "", _range([r.value for r in same]))
    return table


def _pairs(whole: Sequence[Record], ours: Sequence[Record]) -> tuple[Means, Means]:
    """Of the cases that both sides have: whoever said nothing has not been judged, and Ctrl-C leaves arms
    behind."""
    cases = {r.case for r in whole} & {r.case for r in ours}
    left, right = ([r for r in side if r.case in cases] for side in (whole, ours))
    return means(left), means(right)


def _table(title: str) -> Table:
    return Table(title=title, box=SIMPLE_HEAD, title_justify="left", **_NARROW)


def _range(values: Sequence[float]) -> str:
    low, high, middle = min(values), max(values), float(np.median(values))
    return f"{middle:g}" if low == high else f"{middle:g} ({low:g} to {high:g})"


def cell(found: Means, digits: int, against: Means | None = None) -> str:
    """A mean or a difference of means; with its interval, where there are enough units for one."""
    told, factor = found.beside(against), 100 if digits == PERCENT else 1
    form = f"{{:{'' if against is None else '+'}.{digits}f}}"
    mean, low, high = (form.format(factor * x) for x in (told.mean, told.low, told.high))
    return mean if len(found.names) < LEAST else f"{mean} [{low}, {high}]"


# ---- texts -----------------------------------------------------------------------------------------------


def side_by_side(found: Sequence[Outcome], before: str, show: int) -> RenderableType:
    """How a text that was read ends, and what each side said next, with one seed; dim where an arm says what
    full context says."""
    first = found[0]
    table = Table("full context", box=SIMPLE_HEAD, expand=True, **_NARROW)
    for outcome in found:
        table.add_column(_name(outcome.arm))
    table.add_row(_said(first.full.text, 0, show), *(_said(o.own.text, _same(o), show) for o in found))
    lead = f"{first.document}, seed {first.seed}; it ends: ... {_line(before[-_LEAD:])}"
    return Group(Text(lead, style="dim"), table)


def _said(text: str, same: int, show: int) -> Text:
    cut = text[:show] + (" ..." if len(text) > show else "")
    return Text(_shown(cut[:same]), style="dim").append(_shown(cut[same:]), style="not dim")


def _same(found: Outcome) -> int:
    """Characters said alike before the first that differs."""
    return alike(found.own.text, found.full.text)


def _shown(text: str) -> str:
    return text.replace("\r\n", "\n").translate(_CONTROL)


def _line(text: str) -> str:
    return _shown(" ".join(text.split()))


def _name(arm: Arm) -> str:
    return f"{arm.policy}, {arm.rows:,} rows"
