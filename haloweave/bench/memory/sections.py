# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The sections of a report, in order; a section whose task was not run is left out, and named at the end.

Knows numbers, blocks and the gallery. Must not know HTML, Markdown or how anything was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from haloweave.bench.memory import findings, glossary, tabled
from haloweave.bench.memory.blocks import Block, Code, Heading, Paragraph, Points, Table
from haloweave.bench.memory.cells import Budgets
from haloweave.bench.memory.doubt import FEW
from haloweave.bench.memory.gallery import Gallery
from haloweave.bench.memory.glossary import (
    ALIVE,
    ANSWER,
    ASKED,
    BOOKS,
    COMPARE,
    EXACT,
    SCALE,
    SPEED,
    TASKS,
)
from haloweave.bench.memory.tables import Numbers
from haloweave.bench.memory.verdict import TARGETS, bouts, by_chance, parts, standings

_APART = ("command", "cannot", "budgets")
"""Facts that are shown elsewhere than in the table of facts."""
Facts = Mapping[str, Any]


class Unable(Protocol):
    """What an arm cannot do, and why, whoever says it."""

    @property
    def arm(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def why(self) -> str: ...


@dataclass(frozen=True)
class Cannot:
    """What an arm cannot do, and why."""

    arm: str
    task: str
    why: str


@dataclass(frozen=True)
class Told:
    """What a report is made of."""

    numbers: Numbers
    facts: Sequence[Facts]
    cannot: Sequence[Unable]
    budgets: Budgets
    notes: Sequence[str]


def sections(told: Told, gallery: Gallery) -> Iterator[Block]:
    """Draws its pictures as it goes. Raises CannotWrite."""
    yield from _opening(told)
    yield from _made(told.facts)
    yield from _verdict(told, gallery)
    for task in told.numbers.tasks():
        if task not in (SPEED, COMPARE, SCALE):
            yield from _task(told, gallery, task)
    yield from _ablation(told, gallery)
    yield from _peers(told)
    yield from _speed(told, gallery)
    yield from _compare(told, gallery)
    yield from _scale(told, gallery)
    yield from _not_run(told.numbers)
    yield from _glossary(told.numbers)


def _opening(told: Told) -> Iterator[Block]:
    yield Heading("What a context of fixed size still knows", 1)
    yield Paragraph(
        "Every arm met the same cases. Intervals are 95 %: whole documents are drawn again (percentile "
        "bootstrap, widened by Student's t), for right and wrong Wilson's interval where that is wider. "
        "Differences are paired, number by number; what only one of two arms has is left out and counted. "
        f"Over fewer than {FEW} documents no interval is to be believed, and what it says is marked."
    )
    yield Heading("What was found")
    said = findings.found(told.numbers, told.budgets)
    yield Points(tuple(said)) if said else Paragraph("Nothing that the targets speak of was run.")
    if told.notes:
        yield Heading("Notes", 3)
        yield Paragraph("Written by hand; everything else here is computed from the records.")
        yield Points(tuple(told.notes))


def _made(facts: Sequence[Facts]) -> Iterator[Block]:
    yield Heading("How it was made")
    commands = list(dict.fromkeys(str(one["command"]) for one in facts if "command" in one))
    yield Code("\n".join(commands)) if commands else Paragraph("No file of records said how it was made.")
    facts = [one for one in facts if one.keys() - set(_APART)]
    names = list(dict.fromkeys(name for one in facts for name in one if name not in _APART))
    rows = [(name, *(_fact(one.get(name, "")) for one in facts)) for name in names]
    if rows:
        headings = ("", *(f"file {number}" for number in range(1, len(facts) + 1)))
        yield Table(headings, tuple(rows), len(headings))


def _fact(value: Any) -> str:
    match value:
        case Mapping():
            return ", ".join(f"{name} {_fact(one)}" for name, one in value.items())
        case list() | tuple():
            return ", ".join(map(_fact, value))
        case None:
            return "not known"
        case _:
            return str(value)


def _verdict(told: Told, gallery: Gallery) -> Iterator[Block]:
    found = standings(told.numbers)
    if found:
        yield Heading("Against baselines that only let go")
        yield from gallery.verdict(found)
        yield tabled.of_standings(found, told.budgets)


def _task(told: Told, gallery: Gallery, task: str) -> Iterator[Block]:
    yield Heading(task)
    if task in TASKS:
        yield Paragraph(f"{TASKS[task]}.")
    if task == BOOKS:
        yield from gallery.quality()
        yield from gallery.drift()
    else:
        yield from gallery.recall(task)
    for name in told.numbers.metrics(task):
        yield Heading(f"{task}: {name}", 3)
        yield tabled.of_metric(told.numbers, task, name, told.budgets)
    yield from _asked(told, task)


def _asked(told: Told, task: str) -> Iterator[Block]:
    share = tabled.of_shares(told.numbers, task, told.budgets)
    if share is not None:
        yield Heading(f"{task}: share of full context's gain", 3)
        yield share
    for name in (EXACT, ALIVE):
        kinds = tabled.of_groups(told.numbers, task, name, told.budgets)
        if kinds is not None:
            yield Heading(f"{task}: {name} by kind of question", 3)
            yield kinds


def _ablation(told: Told, gallery: Gallery) -> Iterator[Block]:
    found = parts(told.numbers)
    if found:
        yield Heading("What each part adds")
        yield Paragraph(
            f"A word is read off each interval; of {len(found)} intervals at 95 %, about "
            f"{by_chance(found):.1f} would exclude zero by chance if no part did anything."
        )
        yield from gallery.parts(found)
        yield tabled.of_bouts(found, told.budgets)


def _peers(told: Told) -> Iterator[Block]:
    peers = sorted(filter(glossary.is_peer, _arms(told.numbers)))
    if not peers and not told.cannot:
        return
    yield Heading("Other packages")
    if any(name.startswith("kvpress") for name in peers):
        yield Paragraph(f"kvpress: {glossary.arm('kvpress')}.")
    against = (*TARGETS, *((task, ANSWER) for task in ASKED))
    fought = [
        bout for task, name in against for bout in bouts(told.numbers, task, name, glossary.HALO, peers)
    ]
    if fought:
        yield tabled.of_bouts(fought, told.budgets, effects=False)
    if told.cannot:
        yield Heading("What they cannot do", 3)
        yield Table(("arm", "task", "why"), tuple((one.arm, one.task, one.why) for one in told.cannot), 3)


def _speed(told: Told, gallery: Gallery) -> Iterator[Block]:
    if SPEED in told.numbers.tasks():
        yield Heading("Speed and memory")
        yield Paragraph("Each arm where its stream was longest; of one document there is no interval.")
        yield from gallery.pace()
        yield tabled.of_speed(told.numbers, told.budgets)


def _compare(told: Told, gallery: Gallery) -> Iterator[Block]:
    """Metric by metric and kind by kind, with a picture of what has places."""
    numbers = told.numbers
    if COMPARE not in numbers.tasks():
        return
    yield Heading("Compact against full")
    yield Paragraph(f"{TASKS[COMPARE]}.")
    for name in numbers.metrics(COMPARE):
        for kind in numbers.kinds(COMPARE, name):
            yield Heading(f"{COMPARE}: {name}" + (f", {kind}" if kind else ""), 3)
            yield from gallery.along(COMPARE, name, kind)
            yield tabled.of_metric(numbers.of_kind(COMPARE, name, kind), COMPARE, name, told.budgets)


def _scale(told: Told, gallery: Gallery) -> Iterator[Block]:
    records = told.numbers.records(SCALE)
    if not records:
        return
    yield Heading("Scale")
    yield Paragraph(
        f"{TASKS[SCALE]}. What is extrapolated was computed by laws fitted to what was measured, and not "
        "measured. Numbers are single ones or medians: halo bench scale tells the laws and their doubt."
    )
    yield from gallery.scale()
    for document in dict.fromkeys(one.document for one in records):
        yield Heading(f"{SCALE}: {document}", 3)
        yield tabled.of_sizes([one for one in records if one.document == document])


def _not_run(numbers: Numbers) -> Iterator[Block]:
    missing = [task for task in TASKS if task not in numbers.tasks()]
    if missing:
        yield Heading("Not run")
        yield Points(tuple(f"{task}: {TASKS[task]}." for task in missing))


def _glossary(numbers: Numbers) -> Iterator[Block]:
    yield Heading("Words")
    arms = sorted(_arms(numbers), key=glossary.order)
    yield Table(("arm", "what it is"), tuple((arm, glossary.arm(arm)) for arm in arms), 2)
    tasks = [task for task in numbers.tasks() if task != SCALE]
    names = dict.fromkeys(name for task in tasks for name in numbers.metrics(task))
    yield Table(("metric", "what it is", "better"), tuple(map(_metric, names)), 3)


def _arms(numbers: Numbers) -> list[str]:
    """Those of tasks; what scale measures are no arms."""
    return list(dict.fromkeys(arm for task in numbers.tasks() if task != SCALE for arm in numbers.arms(task)))


def _metric(name: str) -> tuple[str, str, str]:
    one = glossary.metric(name)
    return name, one.label, {1: "more", -1: "less", 0: ""}[one.better]


def cannot(facts: Iterable[Facts]) -> list[Cannot]:
    """What files of records say themselves."""
    said = [line for one in facts for line in one.get("cannot") or () if isinstance(line, Mapping)]
    return [Cannot(*(str(line.get(name, "")) for name in ("arm", "task", "why"))) for line in said]
