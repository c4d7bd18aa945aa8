# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How numbers are written in a report: with their interval and what they were drawn from.

Knows text. Must not know files, HTML or Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from haloweave.bench.memory.glossary import metric
from haloweave.bench.memory.tables import Count, Gap
from haloweave.bench.memory.verdict import LOSES, TIES, WINS, outcome
from haloweave.diffusion.judging.intervals import Interval

NO_ENDS = "one document, no interval"
NO_PAIR = "no number in common"
_TO = {WINS: "better", TIES: "not told apart", LOSES: "worse"}
Budgets = Mapping[int, str]
"""What part of the full context some rows are: 512 to "1/4"."""


def interval(one: Interval, digits: int, sign: str = "") -> str:
    if math.isnan(one.value):
        return ""
    if math.isnan(one.low):
        return f"{one.value:{sign},.{digits}f} ({NO_ENDS})"
    return f"{one.value:{sign},.{digits}f} ({one.low:{sign},.{digits}f} .. {one.high:{sign},.{digits}f})"


def gap(one: Gap, digits: int) -> str:
    return interval(one.value, digits, "+") if one.count.numbers else NO_PAIR


def share(one: Interval) -> str:
    if math.isnan(one.low):
        return f"{one.value:.1%} ({NO_ENDS})"
    return f"{one.value:.1%} ({one.low:.1%} .. {one.high:.1%})"


def told(one: Gap, name: str) -> str:
    """Whether an arm is better than what it is compared with, or cannot be told from it."""
    word = _TO.get(outcome(one, metric(name).better), "")
    return f"{word}, few documents" if word and one.count.few else word


def counted(one: Count) -> str:
    return f"{one.numbers:,} / {one.cases:,} / {one.documents:,}"


def documents(number: int) -> str:
    return f"{number:,} document{'' if number == 1 else 's'}"


def rows(number: int, budgets: Budgets) -> str:
    if not number:
        return "unbounded"
    part = budgets.get(number)
    return f"{number:,} rows" + (f" ({part} of the context)" if part else "")


def listed(names: list[str]) -> str:
    """As a person lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nobody"
