# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Fifty facts in a stream many times the budget: does recall bring them back, and is it worth anything?

    none      system turn and question            full      the whole stream, nothing culled
    POLICY    the stream, by eviction alone       recall    halo, kept on disk, and what the question is like

All arms but `full` hold the same rows; each reads the stream once, and every question is asked of the state
after it. An arm's figure is the log-probability of the answer, right after the header of the model's turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from haloweave import build
from haloweave.bench.facts import FACTS, Fact
from haloweave.bench.hay import Hay, Piece, planted, sizes
from haloweave.errors import InvalidInput
from haloweave.events import Event, Fed, Recalled
from haloweave.journal.archive import Archive
from haloweave.journal.base import Journal, State, Vault
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.progress import Progress
from haloweave.recall import Recaller
from haloweave.settings import Settings
from haloweave.waking import fingerprint, wake

RECALL, FULL, NONE = "recall", "full", "none"
TUNED = len(FACTS) // 2
"""Facts that thresholds may be chosen on; the others are for judging."""
_QUESTION = 128
"""Rows that a question and its answer may take."""
_HOST = "halo"
"""The policy that recall is added to."""


@dataclass(frozen=True)
class Answer:
    """One question put to one arm."""

    arm: str
    fact: int
    logprob: float
    """Nats, all tokens of the answer."""
    there: bool
    """The planted sentence stands in the context, word for word."""
    brought: int = 0
    """Passages that came back."""
    wrong: int = 0
    """Of these, without the planted sentence."""
    before: bool = False
    """It stood in the context before anything came back."""


@dataclass(frozen=True)
class Hit:
    """How a search for one question went. Scores of -1: nothing was found."""

    fact: int
    rank: int
    """Of the planted passage, from 1 on; 0: not found."""
    score: float
    wrong: float
    """Of the best passage without the planted sentence."""
    seconds: float
    """Of the search, embedding the question included."""


@dataclass(frozen=True)
class Alarm:
    """What a turn that asks for nothing planted brought back."""

    text: str
    score: float
    """Of the best passage."""
    brought: int
    planted: int
    """Of these, with a planted fact."""


@dataclass
class Recollection:
    """Everything that was measured."""

    answers: list[Answer] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    alone: frozenset[int] = frozenset()
    """Facts that were said in a turn of their own."""
    tokens: int = 0
    """Of the stream."""

    def of(self, arm: str, chosen: Callable[[int], bool] = lambda _: True) -> list[Answer]:
        """An arm's answers, in the order of the facts."""
        found = (a for a in self.answers if a.arm == arm and chosen(a.fact))
        return sorted(found, key=lambda a: a.fact)

    def logprobs(self, arm: str) -> np.ndarray:
        return np.array([a.logprob for a in self.of(arm)])


@dataclass
class Bench:
    """One stream, and minds that read it."""

    settings: Settings
    """Of every arm; `budget` is what all but `full` hold."""
    hay: Hay
    stream: Sequence[Piece]
    make: Callable[[Settings, Journal | None, Vault | None], Mind]
    marks: Mapping[str, str]
    """What minds are made of: the fingerprint that snapshots carry."""
    longest: int
    """Rows that `full` may hold."""
    tell: Callable[[int], None] = lambda _: None
    facts: Sequence[Fact] = FACTS
    found: Recollection = field(default_factory=Recollection)
    done: int = 0

    @staticmethod
    def of(loaded: Any, s: Settings, data: Sequence[Path], times: int, seed: int) -> Bench:
        """A stream of `times` the budget's tokens, for a loaded model."""

        def make(settings: Settings, journal: Journal | None, vault: Vault | None) -> Mind:
            return build.mind_of(settings, loaded, journal=journal, vault=vault)

        hay = Hay(data, seed)
        stream = planted(hay.pieces(), FACTS, times * s.budget, sizes(make(s, None, None).codec), seed)
        return Bench(s, hay, stream, make, fingerprint(loaded), loaded.max_positions)

    def run(self, policies: Sequence[str], *, full: bool = True, alarms: int = 50) -> Iterator[str]:
        """Measure arm after arm; the name of each when it is through."""
        alone = frozenset(p.fact for p in self.stream if p.alone and p.fact is not None)
        self.found = Recollection(alone=alone)
        self._evicted(NONE, self.settings, [])
        yield NONE
        self._recalled(alarms)
        yield RECALL
        for policy in policies:
            if policy != _HOST:
                self._evicted(policy, self.settings.model_copy(update={"policy": policy}), self.stream)
                yield policy
        if full and self.found.tokens + _QUESTION <= self.longest:
            whole = {"budget": self.longest}
            self._evicted(FULL, self.settings.model_copy(update=whole), self.stream)
            yield FULL

    # ---- arms --------------------------------------------------------------------------------------

    def _evicted(self, arm: str, s: Settings, stream: Sequence[Piece]) -> None:
        mind = self.make(s, None, None)
        build.introduce(mind, s)
        self._read(mind, stream)
        self._ask(arm, mind, mind.state())

    def _recalled(self, alarms: int) -> None:
        """A mind that is kept reads the stream; a copy of it in memory is asked, with its archive and
        without."""
        s = self.settings
        with TemporaryDirectory(prefix="halo-bench-") as folder:
            given = {**s.model_dump(), "policy": _HOST, "minds": folder}
            with wake("bench", given, make=self._kept) as awake:
                self._read(awake.mind, self.stream)
                archive = awake.keeper.archive
                while archive.embed_pending(64):
                    pass
                self.found.tokens = awake.mind.totals.fed
                state = awake.mind.state()
                copy = self.make(awake.settings, None, None)
                self._ask(_HOST, copy, state)
                if awake.recaller is None:
                    raise InvalidInput("recall: expected it to be on; unset HALO_RECALL")
                self._ask(RECALL, copy, state, awake.recaller)
                self._search(copy, state, awake.recaller, archive)
                self._alarm(copy, state, awake.recaller, alarms)

    def _kept(self, s: Settings, journal: Journal, vault: Vault, progress: Progress) -> tuple[Mind, Any]:
        return self.make(s, journal, vault), self.marks

    def _read(self, mind: Mind, stream: Sequence[Piece]) -> None:
        for piece in stream:
            for _ in mind.listen(piece.text, piece.source):
                pass
            self.done += 1
            self.tell(self.done)

    # ---- questions ---------------------------------------------------------------------------------

    def _ask(self, arm: str, mind: Mind, state: State, recaller: Recaller | None = None) -> None:
        for number, fact in enumerate(self.facts):
            mind.resume(state, (), ())
            before = fact.said in mind.text()
            events = list(recaller.hear(mind, fact.asked) if recaller else mind.listen(fact.asked))
            brought = [e for e in events if isinstance(e, Recalled)]
            wrong = sum(fact.said not in e.text for e in brought)
            there = fact.said in mind.text()
            self.found.answers.append(
                Answer(arm, number, logprob(mind, fact.answer), there, len(brought), wrong, before)
            )

    def _search(self, mind: Mind, state: State, recaller: Recaller, archive: Archive) -> None:
        """Of the search alone: where the planted passage stands among all there are."""
        for number, fact in enumerate(self.facts):
            mind.resume(state, (), ())
            start = time.perf_counter()
            recaller.search(mind, fact.asked)
            took = time.perf_counter() - start
            found = archive.search(fact.asked, limit=64)
            right = [n for n, f in enumerate(found) if fact.said in f.passage.text]
            wrong = max((f.score for n, f in enumerate(found) if n not in right), default=-1.0)
            rank, score = (right[0] + 1, found[right[0]].score) if right else (0, -1.0)
            self.found.hits.append(Hit(number, rank, score, wrong, took))

    def _alarm(self, mind: Mind, state: State, recaller: Recaller, count: int) -> None:
        for text in self.hay.lines(count):
            mind.resume(state, (), ())
            best = recaller.search(mind, text)
            brought = [e for e in recaller.hear(mind, text) if isinstance(e, Recalled)]
            right = sum(any(fact.said in e.text for fact in self.facts) for e in brought)
            self.found.alarms.append(Alarm(text, best[0].score if best else -1.0, len(brought), right))


def logprob(mind: Mind, answer: str) -> float:
    """Nats that the model gives an answer as the beginning of its turn."""
    return _sum(mind.listen(answer, Source.MODEL, fresh=False, score=True))


def _sum(events: Iterator[Event]) -> float:
    return sum(e.logprob or 0.0 for e in events if isinstance(e, Fed) and e.source is Source.MODEL)
