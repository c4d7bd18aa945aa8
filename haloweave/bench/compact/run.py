# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Every text, seed and arm: what was said by either side, and how far apart they were while it was said.

    full    holds every row of text and speech; nothing is ever culled
    arm     a policy at a budget: reads the same passes, weaves where it must

Each text is read once by every side. Then, for each seed, `full` speaks while every arm hears it, and each
arm speaks while `full` hears it: teacher-forced twice, once along either text.

Knows settings, minds and ids. Must not know files, records or tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from haloweave import build
from haloweave.bench.compact.drift import Drift, kl
from haloweave.bench.compact.generation import Step, speech, spoken
from haloweave.bench.compact.judge import opening
from haloweave.bench.compact.side import Side
from haloweave.engine.sampling import Sampling, log_softmax
from haloweave.errors import InvalidInput
from haloweave.mind import Mind
from haloweave.settings import Settings
from haloweave.text import Codec, spell

_LONG = 16
"""Characters of a token, at most, for most texts: a book need not be encoded for its first page."""
_SPARE = 32
"""Rows beside sinks and a chunk without which no mind can be had."""


@dataclass(frozen=True)
class Arm:
    """A policy at a budget."""

    policy: str
    rows: int


@dataclass(frozen=True)
class Plan:
    """What is to be compared."""

    arms: tuple[Arm, ...]
    say: int
    """Tokens that each side says."""
    seeds: tuple[int, ...]

    def passes(self, tokens: int, chunk: int) -> int:
        """Forward passes for a text of so many tokens, all sides together."""
        arms = len(self.arms)
        return -(-tokens // chunk) * (1 + arms) + len(self.seeds) * self.say * (1 + 3 * arms)


@dataclass(frozen=True)
class Said:
    """One side's text."""

    ids: tuple[int, ...]
    nats: Float64[np.ndarray, " N"] = field(repr=False)
    """-log p of each token for the side that holds everything, at temperature 1."""
    text: str


@dataclass(frozen=True)
class Outcome:
    """One arm with one seed after one text."""

    document: str
    seed: int
    arm: Arm
    full: Said
    own: Said
    on_full: Drift
    """Along what `full` said."""
    on_own: Drift
    """Along what the arm said."""
    culled: int
    """Tokens that the arm had lost by the time it had spoken."""


class Contest:
    """The sides, over one model that is loaded. Raises InvalidInput for a budget that no mind can have."""

    def __init__(self, loaded: Any, s: Settings, how: Sampling, plan: Plan) -> None:
        self._loaded, self._s, self._how, self._plan = loaded, s, how, plan
        self._opening = opening(loaded.tokenizer)
        minds = [self._mind(arm) for arm in plan.arms]  # so that a bad budget is told before anything is read
        self._codec: Codec = minds[0].codec
        self.tell: Callable[[int], None] = lambda passes: None
        """Told the passes done so far."""
        self._passes = 0

    def encoded(self, text: str, limit: int) -> list[int]:
        """The first `limit` tokens of a text, and before them what the tokenizer begins a text with.

        Raises InvalidInput if there are none, or if they and what is to be said are more than the model was
        trained on: there would be no full context to compare with.
        """
        ids = self._codec.encode([text[: _LONG * limit]])[0]
        if len(ids) < limit and len(text) > _LONG * limit:
            ids = self._codec.encode([text])[0]
        if not ids:
            raise InvalidInput("nothing to read: the text is empty")
        ids = self._opening + ids[:limit]
        most, say = self._loaded.max_positions, self._plan.say
        if len(ids) + say > most:
            raise InvalidInput(
                f"{len(ids):,} tokens read and {say:,} said are more than the {most:,} that the model was "
                "trained on: there is no full context to compare with; lower --tokens or --say"
            )
        return ids

    def heard(self, ids: Sequence[int]) -> str:
        """The text of what was encoded, without what the tokenizer put before it."""
        return spell(self._codec, ids[len(self._opening) :])

    def run(self, texts: Mapping[str, Sequence[int]]) -> Iterator[Outcome]:
        """One outcome after another, as each is there; texts by name, encoded."""
        for document, ids in texts.items():
            full = self._read(self._whole(len(ids) + self._plan.say), ids)
            arms = {arm: self._read(self._mind(arm), ids) for arm in self._plan.arms}
            for seed in self._plan.seeds:
                yield from self._speak(document, seed, ids, full, arms)

    def _speak(
        self, document: str, seed: int, ids: Sequence[int], full: Side, arms: Mapping[Arm, Side]
    ) -> Iterator[Outcome]:
        whole = _Trace(len(arms))
        for step in self._steps(full, list(arms.values()), seed, ids):
            whole.add(step.token_id, step.logits[0], step.logits[1:])
        for n, (arm, side) in enumerate(arms.items()):
            own = _Trace(1)
            for step in self._steps(side, [full], seed, ids):
                own.add(step.token_id, step.logits[1], step.logits[:1])
            texts = whole.said(self._codec), own.said(self._codec)
            culled = side.mind.totals.culled
            yield Outcome(document, seed, arm, *texts, whole.drift(n), own.drift(0), culled)

    def _steps(self, speaker: Side, hearers: Sequence[Side], seed: int, ids: Sequence[int]) -> Iterator[Step]:
        how = speech(self._how, self._codec, seed)
        tick = -(-len(ids) // self._s.chunk)
        for step in spoken(speaker, hearers, how, self._plan.say, after=ids, tick=tick):
            yield step
            self._passed(1 + len(hearers))

    def _read(self, mind: Mind, ids: Sequence[int]) -> Side:
        side = Side(mind)
        side.read(ids, self._s.chunk, lambda: self._passed(1))
        return side

    def _passed(self, passes: int) -> None:
        self._passes += passes
        self.tell(self._passes)

    def _mind(self, arm: Arm) -> Mind:
        changes = {"policy": arm.policy, "budget": arm.rows}
        return build.mind_of(self._s.model_copy(update=changes), self._loaded)

    def _whole(self, rows: int) -> Mind:
        """A mind that never has to weave. Its policy watches, and decides nothing."""
        least = self._s.sinks + self._s.chunk + _SPARE
        changes = {"policy": "window", "budget": max(rows, least), "tail": 0.0}
        return build.mind_of(self._s.model_copy(update=changes), self._loaded)


class _Trace:
    """One text as it comes, with what `full` and some arms expected at each token."""

    def __init__(self, arms: int) -> None:
        self._ids: list[int] = []
        self._nats: list[float] = []
        self._kl: list[list[float]] = [[] for _ in range(arms)]
        self._top1: list[list[bool]] = [[] for _ in range(arms)]

    def add(
        self,
        token_id: int,
        full: Float32[np.ndarray, " V"],
        arms: Sequence[Float32[np.ndarray, " V"]],
    ) -> None:
        expected = log_softmax(full)
        self._ids.append(token_id)
        self._nats.append(-float(expected[token_id]))
        for n, logits in enumerate(arms):
            self._kl[n].append(kl(expected, log_softmax(logits)))
            self._top1[n].append(bool(full.argmax() == logits.argmax()))

    def said(self, codec: Codec) -> Said:
        return Said(tuple(self._ids), np.array(self._nats), spell(codec, self._ids))

    def drift(self, arm: int) -> Drift:
        return Drift(np.array(self._kl[arm]), np.array(self._top1[arm], np.bool_))
