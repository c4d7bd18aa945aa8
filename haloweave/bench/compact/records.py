# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What was compared, as records: one number a line, the same names for every arm.

    kl, top1      of one token; x = its number, from 1; group = whose text it is: full, or the arm's own
    diverges      tokens said alike before the first that differs: its index; all of them if none does
    repeats       share of 4-grams said before        distinct1..3   share of n-grams that differ
    judge         how unlikely the text is: nats a token for the same model with full context, or bits a byte
                  for another one, whose name is then the group

Knows outcomes and records. Must not know minds, files or tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from haloweave.bench.compact.drift import Drift
from haloweave.bench.compact.run import Outcome, Said
from haloweave.bench.compact.text_figures import DISTINCT, alike, distinct, repeats
from haloweave.bench.memory.record import Record

TASK, FULL, OWN = "compare", "full", "own"
KL, TOP1, DIVERGES, REPEATS, JUDGE = "kl", "top1", "diverges", "repeats", "judge"
DISTINCTS = tuple(f"distinct{n}" for n in DISTINCT)
Judged = tuple[float, int, str]
"""How unlikely, of how much (tokens, bytes), and the judge's name; empty for the model itself."""
Judging = Callable[[str, Said], Judged]
"""Of a document, what was said after it."""


def by_host(document: str, said: Said) -> Judged:
    """The model itself, with the full context: nats a token."""
    return float(said.nats.mean()), len(said.nats), ""


def records(found: Outcome, judge: Judging, *, first: bool) -> Iterator[Record]:
    """All of one outcome; `first`: `full` has no records of this case yet."""
    case = _Case(found)
    yield from case.drift(found.on_own, OWN)
    yield from case.drift(found.on_full, FULL)
    yield case.number(DIVERGES, alike(found.own.ids, found.full.ids))
    yield from case.text(found.own, judge)
    if first:
        yield from _Case(found, FULL).text(found.full, judge)


class _Case:
    """One arm after one text with one seed."""

    def __init__(self, found: Outcome, arm: str = "") -> None:
        self._arm, self._rows = arm or found.arm.policy, 0 if arm else found.arm.rows
        self._document, self._name = found.document, f"{found.document} seed {found.seed}"

    def number(
        self, metric: str, value: float, *, weight: float = 1.0, x: float | None = None, group: str = ""
    ) -> Record:
        names = (TASK, self._arm, self._rows, self._name, self._document)
        return Record(*names, metric, float(value), float(weight), x, group)

    def drift(self, drift: Drift, whose: str) -> Iterator[Record]:
        for n, (nats, same) in enumerate(zip(drift.kl, drift.top1, strict=True), 1):
            yield self.number(KL, nats, x=n, group=whose)
            yield self.number(TOP1, same, x=n, group=whose)

    def text(self, said: Said, judge: Judging) -> Iterator[Record]:
        yield self.number(REPEATS, repeats(said.ids))
        for n in DISTINCT:
            yield self.number(f"distinct{n}", distinct(said.ids, n))
        value, weight, name = judge(self._document, said)
        if weight and np.isfinite(value):
            yield self.number(JUDGE, value, weight=weight, group=name)
