# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a comparison has found so far: written as it comes, so that hours of work are not lost with the last.

Knows outcomes, records and streams. Must not know options or tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from haloweave.bench.compact.judge import Judge
from haloweave.bench.compact.records import Judged, Judging, records
from haloweave.bench.compact.run import Outcome, Said
from haloweave.bench.memory.record import Record, head
from haloweave.bench.report import put

_ROOM = 8
"""Tokens of a judge for each one said, at most: vocabularies differ."""


@dataclass
class Told:
    """Outcomes and their records; each is also a line on every stream."""

    streams: Sequence[TextIO]
    found: list[Outcome] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def begin(self, facts: Mapping[str, Any]) -> None:
        """How, when and where they are made."""
        self._write([head(facts)])

    def follow(self, outcomes: Iterator[Outcome], judge: Judging) -> bool:
        """Until all is told, or Ctrl-C ends it; which of the two."""
        try:
            for outcome in outcomes:
                self._add(outcome, judge)
        except KeyboardInterrupt:
            return False
        return True

    def _add(self, outcome: Outcome, judge: Judging) -> None:
        first = all((o.document, o.seed) != (outcome.document, outcome.seed) for o in self.found)
        numbers = list(records(outcome, judge, first=first))
        self._write(record.line() for record in numbers)
        self.found.append(outcome)
        self.records += numbers

    def _write(self, lines: Iterable[str]) -> None:
        for line in lines:
            put(self.streams, line)


def by_judge(judge: Judge, read: Mapping[str, str], say: int, note: Callable[[str], None]) -> Judging:
    """Another model hears each text once, and judges what follows; `read`: texts by document."""
    heard: list[str] = []

    def judged(document: str, said: Said) -> Judged:
        if heard[-1:] != [document]:
            if cut := judge.hears(read[document], _ROOM * say):
                note(f"{document}: {judge.name} cannot hold all of it; the first {cut:,} tokens are left out")
            heard.append(document)
        return (*judge.bits_per_byte(said.text), judge.name)

    return judged
