# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a task wants of an arm: that it reads, that what it reads is scored, that it is asked.

A question is put to a copy of the context, so that the order of questions does not matter and no answer is
ever read. Knows minds. Must not know tasks, arms by name or records. Axes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from haloweave.bench.memory.cases import Piece, Question
from haloweave.engine.sampling import log_softmax
from haloweave.errors import InvalidInput
from haloweave.events import Event, Fed, Recalled
from haloweave.memory.tokens import Source
from haloweave.mending import Mender
from haloweave.mind import Mind
from haloweave.recall import Recaller


@dataclass(frozen=True)
class Answer:
    """What came of a question."""

    nats: float
    """Log-probability of the answer's tokens, at most 0."""
    exact: bool
    """Whether greedy decoding goes on with the answer."""
    alive: float
    """Share of the evidence's tokens in the context when the answer is due."""
    brought: int = 0
    """Memories that came back."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """One pass over running text."""

    nats: float
    tokens: int
    log_p: Float32[np.ndarray, " V"] = field(repr=False)
    """Of what comes next."""


@dataclass(eq=False)
class MindReader:
    """One arm in the middle of a case: a mind, and a copy of it that is asked."""

    mind: Mind
    copy: Callable[[], Mind]
    """An empty mind of the same making; called once, when the first question comes."""
    mender: Mender | None = None
    recaller: Recaller | None = None
    before: Callable[[Mind, Piece], None] = lambda mind, piece: None
    """Called before each piece is read: an arm's own way to make room."""
    settle: Callable[[], None] = lambda: None
    """Called before a question: what goes on beside the mind comes to an end."""
    chunk: int = 64
    _told: _Told = field(init=False)
    _asked: Mind | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._told = _Told(self.mind)

    def read(self, piece: Piece) -> None:
        self.before(self.mind, piece)
        for event in self.mind.listen(piece.text, piece.source):
            self._mend()
            if isinstance(event, Fed):
                self._told.look()

    def score(self, ids: np.ndarray) -> Iterator[Chunk]:
        """Running text, token by token; the first token of all has no loss."""
        foreseen: np.ndarray | None = None
        for at in range(0, len(ids), self.chunk):
            part = ids[at : at + self.chunk]
            forward = self.mind.feed_ids(part, Source.TEXT, score=True)
            nats = 0.0 if forward.logprobs is None else -float(forward.logprobs.sum())
            count = len(part) if foreseen is not None else len(part) - 1
            nats -= 0.0 if foreseen is None else float(foreseen[part[0]])
            foreseen = log_softmax(forward.logits).astype(np.float32)
            self._mend()
            yield Chunk(nats, count, foreseen)

    def ask(self, question: Question) -> Answer:
        self.settle()
        if self._asked is None:
            self._asked = self.copy()
        mind, uids = self._asked, self._told.where(question.evidence)
        mind.resume(self.mind.state(), (), ())
        events = list(self._put(mind, question.asked))
        events += mind.listen(question.lead, Source.MODEL, fresh=False)
        there = 1.0 if question.evidence in mind.text() else _alive(mind, uids)
        nats, exact = _answered(mind, question.answer)
        return Answer(nats, exact, there, sum(isinstance(event, Recalled) for event in events))

    def _put(self, mind: Mind, asked: str) -> Iterator[Event]:
        return mind.listen(asked) if self.recaller is None else self.recaller.hear(mind, asked)

    def _mend(self) -> None:
        if self.mender is not None:
            for _ in self.mender.step(self.mind):
                pass


class _Told:
    """Which token said what: uids and bytes of all that was read, in the order of their births."""

    def __init__(self, mind: Mind) -> None:
        self._mind, self._next = mind, mind.view.next_uid
        self._uids: list[int] = []
        self._ends: list[int] = []
        self._bytes = bytearray()

    def look(self) -> None:
        """Take note of what was read since the last look; a pass's tokens are all there when it ends."""
        tokens, piece = self._mind.view.tokens, self._mind.codec.piece
        spoken = ~np.isin(tokens.source, (Source.CONTROL, Source.MARKER)) & (tokens.uid >= self._next)
        for uid, token in zip(tokens.uid[spoken].tolist(), tokens.token_id[spoken].tolist(), strict=True):
            self._bytes += piece(token)
            self._uids.append(uid)
            self._ends.append(len(self._bytes))
        self._next = self._mind.view.next_uid

    def where(self, evidence: str) -> np.ndarray:
        """The uids that spell it, where it was last said; none if it was never read."""
        sought = evidence.encode()
        start = self._bytes.rfind(sought)
        if start < 0:
            return np.empty(0, np.int64)
        first, last = np.searchsorted(self._ends, [start + 1, start + len(sought)])
        return np.array(self._uids[int(first) : int(last) + 1], np.int64)


def _alive(mind: Mind, uids: np.ndarray) -> float:
    return float(np.isin(uids, mind.view.tokens.uid).mean()) if len(uids) else 0.0


def _answered(mind: Mind, answer: str) -> tuple[float, bool]:
    """Nats of an answer, and whether greedy decoding would give it: each of its tokens is the likeliest,
    given those before it."""
    nats, exact = 0.0, True
    for token in mind.codec.encode([f" {answer}"])[0]:
        logits = mind.logits()
        if logits is None:
            raise InvalidInput("expected a question or a lead before an answer, got nothing")
        nats += float(log_softmax(logits)[token])
        exact = exact and int(logits.argmax()) == token
        mind.feed_ids([token], Source.MODEL)
    return nats, exact
