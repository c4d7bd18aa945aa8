# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Every case of a part of a plan on every arm at every budget: one record a number.

Of one case the full context comes first, since others are compared with what it foresaw. Knows cases, readers
and records. Must not know how an arm works or what the numbers are good for. Axes: C chunks, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from haloweave.bench.compact.drift import kl
from haloweave.bench.hay import sizes
from haloweave.bench.memory import speed
from haloweave.bench.memory.arms import FULL, NONE, Studio
from haloweave.bench.memory.arms import arm as named
from haloweave.bench.memory.cases import Case
from haloweave.bench.memory.plan import Part
from haloweave.bench.memory.reader import Answer, MindReader
from haloweave.bench.memory.record import Record
from haloweave.bench.memory.shelf import Shelf
from haloweave.bench.memory.tasks import TASKS
from haloweave.settings import Settings

Foreseen = list[Float32[np.ndarray, " V"]]
Tell = Callable[[int], None]
RAW = ("books", "stream", "speed")
"""Tasks that are running text out of books."""
ROOM = 128
"""Rows that a question, its lead and its answer may take."""


@dataclass
class Session:
    """One model, the texts, and a seed: what all parts of a run share."""

    studio: Studio
    raw: Studio
    """For running text."""
    shelf: Shelf
    seed: int = 0

    @staticmethod
    def of(loaded: Any, s: Settings, shelf: Shelf, seed: int) -> Session:
        longest = loaded.max_positions
        return Session(Studio(loaded, s, longest), Studio(loaded, s, longest, raw=True), shelf, seed)

    def cases(self, part: Part) -> list[Case]:
        """Raises InvalidInput where there is too little text."""
        generator: Callable[..., list[Case]] = TASKS["books" if part.task in RAW else part.task]
        given = {"tokens": part.tokens, "count": part.count, "seed": self.seed}
        made = generator(self.shelf.of(part.task), sizes(self.studio.codec), **given, **part.more)
        return [replace(case, task=part.task) for case in made]

    def check(self, part: Part) -> None:
        """Makes each reader once, so that what cannot be made is told before hours of work. Raises
        InvalidInput, or what a model raises."""
        studio = self.raw if part.task in RAW else self.studio
        for arm, rows in _each(part):
            if not (part.task in RAW and named(arm)[0].asked):
                with studio.reader(arm, rows or studio.longest):
                    pass

    def measure(
        self, part: Part, cases: Sequence[Case], tell: Tell = lambda readings: None
    ) -> Iterator[Record]:
        """The records of a part, as they come; `tell` hears how many of `readings(part)` are done."""
        done = 0
        for case in cases:
            if part.task == speed.TASK:
                yield from speed.measure(self.raw, case, part.arms, part.rows[0], part.tokens, part.said)
                continue
            studio, foreseen = self.raw if case.raw else self.studio, Foreseen()
            for arm, rows in _each(part):
                yield from _reading(studio, case, part, arm, rows, foreseen)
                tell(done := done + 1)


def readings(part: Part) -> int:
    """Of cases by arms."""
    return 1 if part.task == speed.TASK else part.count * len(list(_each(part)))


def _each(part: Part) -> Iterator[tuple[str, int]]:
    """Arms and budgets, the full context first."""
    for arm in sorted(part.arms, key=lambda arm: arm != FULL):
        yield from ((arm, rows) for rows in ((0,) if arm in (FULL, NONE) else part.rows))


def _reading(
    studio: Studio, case: Case, part: Part, arm: str, rows: int, foreseen: Foreseen
) -> Iterator[Record]:
    """One case by one arm; nothing where it would not fit or say nothing of its own. `foreseen`: by full
    context, which comes first and fills it."""
    tokens = part.tokens if case.raw else case.tokens
    if (arm == FULL and tokens > studio.longest - ROOM) or (case.raw and named(arm)[0].asked):
        return
    of = Record(case.task, arm, rows, case.name, case.document, "", 0.0)
    with studio.reader(arm, rows or studio.longest) as reader:
        yield from (
            _losses(studio, reader, case, of, tokens, foreseen) if case.raw else _questioned(reader, case, of)
        )


# ---- running text --------------------------------------------------------------------------------------


def _losses(
    studio: Studio, reader: MindReader, case: Case, of: Record, tokens: int, foreseen: Foreseen
) -> Iterator[Record]:
    """Loss of each chunk, and how what is foreseen at its end differs from what the full context foresees."""
    text = "".join(piece.text for piece in case.pieces)
    ids = np.array(studio.codec.encode([text])[0][:tokens], np.int32)
    read = 0
    for number, chunk in enumerate(reader.score(ids)):
        read += chunk.tokens
        yield of.told("nats", chunk.nats / max(chunk.tokens, 1), weight=chunk.tokens, x=read)
        if of.arm == FULL:
            foreseen.append(chunk.log_p)
        elif number < len(foreseen):
            full = foreseen[number]
            yield of.told("kl", kl(full.astype(np.float64), chunk.log_p.astype(np.float64)), x=read)
            yield of.told("top1", float(full.argmax() == chunk.log_p.argmax()), x=read)


# ---- questions -----------------------------------------------------------------------------------------


def _questioned(reader: MindReader, case: Case, of: Record) -> Iterator[Record]:
    read = 0
    for question in sorted(case.questions, key=lambda question: question.after):
        for piece in case.pieces[read : question.after]:
            if of.arm != NONE:
                reader.read(piece)
        read = question.after
        answer = reader.ask(question)
        one = of.told("", 0.0, x=question.distance, group=question.group)
        yield from _told(one, answer)


def _told(one: Record, answer: Answer) -> Iterator[Record]:
    yield one.told("answer", answer.nats)
    yield one.told("exact", float(answer.exact))
    if one.arm != NONE:
        yield one.told("alive", answer.alive)
