# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Cases as token ids: what a mind with room for everything would hold, so that every arm and every peer
reads the same tokens.

Knows cases, codecs and minds over an engine that computes nothing. Must not know peers or their packages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from haloweave import build
from haloweave.bench.memory.cases import Case, Question
from haloweave.bench.peers.null import NullEngine
from haloweave.errors import InvalidInput
from haloweave.events import Event
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.settings import Settings
from haloweave.text import Codec

_ENOUGH = 1 << 24
"""Rows that no case fills."""
CHECKED = 128
"""Tokens of the text that shows whether a peer computes what we do."""
_CHECK = (
    "The ferry left at a quarter to seven, as it did on every working day, and nobody on the quay looked up. "
    "There were crates of lemons, two bicycles, a grey dog that belonged to no one in particular, and a man "
    "who counted the crates a second time because the first count had come out at thirty-nine. Rain had been "
    "promised for the afternoon. The harbour master wrote the hour into his book, closed it, and returned to "
    "the window, where the kettle had begun to sing. On the other side of the bay the lamps were still lit, "
    "one above the other, like steps that somebody had forgotten to take in for the day. When the engine "
    "changed its note, the dog stood up, turned round once, and lay down again on the warm side of the deck, "
    "next to the crates and well away from the rope, which experience had taught it not to trust."
)


@dataclass(frozen=True)
class Asked:
    """A question, as ids that follow what has been read by then."""

    after: int
    asked_ids: list[int]
    """Its turn, and what the model's turn begins with."""
    answer_ids: list[int]
    evidence_spans: list[list[int]]
    """Half-open ranges in `opening` and pieces put together."""
    distance: int
    group: str


@dataclass(frozen=True)
class Ask:
    """Turns, and questions on the way."""

    task: str
    case: str
    document: str
    opening: list[int]
    """The system turn, where there is one."""
    pieces: list[list[int]]
    questions: list[Asked]
    kind: str = "ask"


@dataclass(frozen=True)
class Stream:
    """Running text; every token but the first is scored."""

    task: str
    case: str
    document: str
    ids: list[int]
    kind: str = "stream"


@dataclass(frozen=True)
class Job:
    """All that a peer is told."""

    model: Path
    """Folder of weights and config, as transformers 5 writes it."""
    cases: Sequence[Ask | Stream]
    rows: Sequence[int]
    check: list[int]
    """Text whose loss is told first."""
    arms: Sequence[str] = ()
    """Empty: all that the peer has."""
    dtype: str = "float32"
    threads: int = 1
    chunk: int = 64
    decode: int = 64
    """Tokens decoded after each stream, for speed; 0: none."""

    def json(self) -> dict[str, Any]:
        return asdict(self) | {"model": str(self.model.resolve())}


def job(
    codec: Codec,
    model: Path,
    cases: Iterable[Case],
    s: Settings,
    *,
    tokens: Mapping[str, int] | None = None,
    **more: Any,
) -> Job:
    """A job for peers. `tokens`: of raw texts that are read, by task, all if it says nothing; `more`: fields
    of Job. Raises InvalidInput."""
    most = tokens or {}
    return Job(
        model=model,
        cases=[written(case, codec, s, most.get(case.task, 0)) for case in cases],
        check=check_ids(codec),
        chunk=s.chunk,
        **more,
    )


def check_ids(codec: Codec) -> list[int]:
    """The text that shows whether a peer computes what we do."""
    return codec.encode([_CHECK])[0][:CHECKED]


def written(case: Case, codec: Codec, s: Settings, tokens: int = 0) -> Ask | Stream:
    """A case as ids. Raises InvalidInput where evidence is not what was read."""
    if case.raw:
        text = "".join(piece.text for piece in case.pieces)
        ids = codec.encode([text])[0][: tokens or None]
        return Stream(case.task, case.name, case.document, ids)
    return _Writing(case, codec, s).ask()


class _Writing:
    """One case on its way to ids."""

    def __init__(self, case: Case, codec: Codec, s: Settings) -> None:
        self._case, self._codec = case, codec
        roomy = s.model_copy(update={"budget": _ENOUGH, "policy": "window"})
        self._mind: Mind = build.assemble(roomy, NullEngine(_ENOUGH), codec)
        build.introduce(self._mind, roomy)

    def ask(self) -> Ask:
        case, mind = self._case, self._mind
        opening, pieces, questions = self._since(0), [], []
        for number, piece in enumerate(case.pieces, 1):
            before = mind.rows
            _all(mind.listen(piece.text, piece.source))
            pieces.append(self._since(before))
            questions += [self._asked(q) for q in case.questions if q.after == number]
        return Ask(case.task, case.name, case.document, opening, pieces, questions)

    def _asked(self, question: Question) -> Asked:
        """Ids of a question; the mind is left as it was."""
        mind, codec = self._mind, self._codec
        spans, state, before = self._spans(question.evidence), mind.state(), mind.rows
        _all(mind.listen(question.asked))
        if question.lead:
            _all(mind.listen(question.lead, Source.MODEL, fresh=False))
        answer = f" {question.answer}"
        _all(mind.listen(answer, Source.MODEL, fresh=False))
        ids, answer_ids = self._since(before), codec.encode([answer])[0]
        mind.resume(state, (), ())
        return Asked(
            question.after,
            ids[: -len(answer_ids)],
            answer_ids,
            spans,
            question.distance,
            question.group,
        )

    def _since(self, row: int) -> list[int]:
        return [int(i) for i in self._mind.view.tokens.token_id[row:]]

    def _spans(self, evidence: str) -> list[list[int]]:
        """Where it was last said: tokens that spell any of it, frames between turns left out."""
        tokens = self._mind.view.tokens
        spoken = np.flatnonzero(tokens.source != Source.CONTROL)
        pieces = [self._codec.piece(i) for i in tokens.token_id[spoken].tolist()]
        start = b"".join(pieces).rfind(evidence.encode())
        if not evidence or start < 0:
            raise InvalidInput(f"{self._case.task} {self._case.name}: never read: {evidence!r}")
        ends = list(accumulate(map(len, pieces)))
        first, last = np.searchsorted(ends, [start + 1, start + len(evidence.encode())])
        return _ranges(spoken[int(first) : int(last) + 1])


def _ranges(slots: np.ndarray) -> list[list[int]]:
    """Ascending numbers as half-open ranges."""
    parts = np.split(slots, np.flatnonzero(np.diff(slots) != 1) + 1)
    return [[int(part[0]), int(part[-1]) + 1] for part in parts]


def _all(events: Iterable[Event]) -> None:
    for _ in events:
        pass
