# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Feeding files to a mind as they arrive, and asking it questions: what `stream`, `demo` and `inspect` share.

Knows sessions, readers and a `Report` to tell. Must not know consoles or formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

from haloweave.cli.reading import Reader, Said
from haloweave.cli.session import Moment, Session
from haloweave.cli.tally import Tally
from haloweave.engine.sampling import Sampling
from haloweave.events import Event, Notice, Spoke, TurnEnded
from haloweave.memory.tokens import Source
from haloweave.mending import Stats
from haloweave.mind import Mind


class Report(Protocol):
    """Whoever tells the person what happens."""

    def reading(self, tally: Tally, budget: int) -> None:
        """Something more was read."""
        ...

    def status(self, tally: Tally, budget: int) -> None:
        """A status line is due."""
        ...

    def notice(self, text: str) -> None:
        """Something a person should know of."""
        ...

    def asked(self, question: str) -> None:
        """A question is about to be answered."""
        ...

    def spoke(self, text: str) -> None:
        """A piece of the answer."""
        ...

    def answered(self, question: str, text: str, ended: TurnEnded, speed: float) -> None:
        """The answer is whole."""
        ...

    def summary(self, reading: Reading, budget: int) -> None:
        """All is done."""
        ...


@dataclass(frozen=True)
class Reading:
    """What became of what was read."""

    tally: Tally
    interrupted: bool = False
    repairs: Stats | None = None
    """What repair did; None if nobody repaired."""


Watch = Callable[[Moment], None]


def read(
    session: Session,
    files: Iterable[tuple[Reader | Said, Source]],
    report: Report,
    *,
    every: int = 0,
    watch: Watch | None = None,
) -> Reading:
    """Feed everything as it arrives, each file as one turn. Ctrl-C ends it early, and loses nothing fed."""
    reading = Reading(Tally(session.codec))
    due = every
    try:
        for moment in _moments(session, files, report, reading.tally):
            reading.tally.add(moment)
            if watch:
                watch(moment)
            if isinstance(moment.event, Notice):
                report.notice(moment.event.text)
            report.reading(reading.tally, session.budget)
            if every and reading.tally.tokens >= due:
                due = (reading.tally.tokens // every + 1) * every
                report.status(reading.tally, session.budget)
    except KeyboardInterrupt:
        for moment in session.interrupt():
            reading.tally.add(moment)
            if watch:
                watch(moment)
        return replace(reading, interrupted=True)
    return reading


def settled(session: Session, reading: Reading, report: Report) -> Reading:
    """The reading with the figures of repair, once what was told in idle moments is told on."""
    for moment in session.meanwhile():
        if isinstance(moment.event, Notice):
            report.notice(moment.event.text)
    return replace(reading, repairs=session.repairs())


def _moments(
    session: Session, files: Iterable[tuple[Reader | Said, Source]], report: Report, tally: Tally
) -> Iterator[Moment]:
    """One turn a file, one burst at a time."""
    for file, source in files:
        fresh = True
        for text in file:
            if not text.strip():
                continue
            tally.resume()
            yield from session.play(_listening(text, source, fresh))
            fresh = False
        if fresh:
            report.notice(f"{file.name}: nothing to read, it is empty or blank")
        if file.bad:
            report.notice(f"{file.name}: {file.bad:,} of {file.size:,} bytes are not UTF-8, read as �")
        if file.interrupted:
            raise KeyboardInterrupt


def _listening(text: str, source: Source, fresh: bool) -> Callable[[Mind], Iterator[Event]]:
    return lambda mind: mind.listen(text, source, fresh=fresh)


def turn(session: Session, text: str, how: Sampling, limit: int) -> Callable[[Mind], Iterator[Event]]:
    """A person says something, and the model replies."""
    hear = session.hear(text)
    return lambda mind: chain(hear(mind), mind.reply(how, limit))


def ask(session: Session, questions: Sequence[str], how: Sampling, limit: int, report: Report) -> bool:
    """Have each question answered. Ctrl-C ends the answer and leaves out the rest; whether that happened."""
    for question in questions:
        report.asked(question)
        answer = Answer(report)
        try:
            for moment in session.play(turn(session, question, how, limit)):
                answer.add(moment)
        except KeyboardInterrupt:
            for moment in session.interrupt():
                answer.add(moment)
        report.answered(question, answer.text, answer.ended, answer.speed)
        if answer.ended.reason == "interrupted":
            return True
    return False


class Answer:
    """The model's turn, added up."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._first, self._last = 0.0, 0.0
        self.text = ""
        self.tokens = 0
        self.ended = TurnEnded("interrupted", 0)

    def add(self, moment: Moment) -> None:
        """One more moment of it."""
        event = moment.event
        if isinstance(event, Spoke):
            self.tokens += event.token_id >= 0
            self._first = self._first or moment.at
            self._last = moment.at
            self.text += event.text
            self._report.spoke(event.text)
        elif isinstance(event, Notice):
            self._report.notice(event.text)
        elif isinstance(event, TurnEnded):
            self.ended = TurnEnded(event.reason, self.tokens)

    @property
    def speed(self) -> float:
        """Tokens per second, after the first."""
        seconds = self._last - self._first
        return (self.tokens - 1) / seconds if self.tokens > 1 and seconds > 0 else 0.0
