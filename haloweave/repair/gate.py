# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Accept only what measurably helps: the host LM judges each proposal by the text around it.

Knows windows, proposals and a scorer. Must not know who proposed, or why.

The gain of replacing a run `old` by `new`, in nats, over the right context `c` (the next tokens):

    same length   log p(new, c) - log p(old, c)
    shorter       the same, with log p(new) scaled by len(old) / len(new): as if the tokens saved had cost as
                  much as the ones kept; else every deletion would win by being short
    deleted       log p(c | nothing) - log p(c | old): it must help what follows
    inserted      (in place of a doomed run, which would else go) log p(new, c) - log p(c | nothing)
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from jaxtyping import Float32

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, Reading, Repairer, RepairWindow, Scorer


@dataclass(frozen=True)
class GateStats:
    """What a gate has seen."""

    judged: int = 0
    accepted: int = 0
    gain: float = 0.0
    """Nats won by what was accepted."""
    seconds: float = 0.0

    @property
    def acceptance(self) -> float:
        return self.accepted / self.judged if self.judged else 0.0

    def __add__(self, other: GateStats) -> GateStats:
        return GateStats(
            self.judged + other.judged,
            self.accepted + other.accepted,
            self.gain + other.gain,
            self.seconds + other.seconds,
        )


def gain(old: np.ndarray, new: np.ndarray, right: int) -> float:
    """Nats won, from log p of old + right context and of new + right context, token by token."""
    before, after = len(old) - right, len(new) - right
    context = float(new[after:].sum(dtype=np.float64) - old[before:].sum(dtype=np.float64))
    if not after:
        return context
    scale = max(1.0, before / after)
    own = scale * float(new[:after].sum(dtype=np.float64))
    return context + own - float(old[:before].sum(dtype=np.float64))


def surprises(scorer: Scorer, ids: np.ndarray) -> Float32[np.ndarray, " S"]:
    """Nats by which each token of a text surprises the host, from what stands before it; one reading."""
    room = scorer.limit - 1
    parts = [-scorer.read([]).extend(ids[at : at + room]) for at in range(0, len(ids), room)]
    return np.concatenate([np.empty(0, np.float32), *parts])


def stumbles(surprise: Float32[np.ndarray, " S"], place: slice, bar: float, sight: int) -> bool:
    """Whether something at a place surprises that much, or nothing stands there, with `sight` tokens before
    and after to judge by."""
    if place.start < sight or len(surprise) - place.stop < sight:
        return False
    return place.start == place.stop or bool(surprise[place].max() >= bar)


@dataclass
class Gated:
    """A repairer whose proposals go through only if the host LM finds the text better by `margin` nats.

    Proposals of one window are judged from left to right, each in the text as the accepted ones before it
    left it; overlapping ones are tried in the order of their own gain until one passes.
    """

    repairer: Repairer
    scorer: Scorer
    margin: float = 4.0
    stumble: float = 10.0
    """Nats by which something in the run must surprise the host before it may change. Scars do, good writing
    seldom: 2 % of clean tokens stand above 10, 33 % of those next to a gap. This parts the two better than
    any margin alone (docs/lab-notes.md)."""
    sight: int = 8
    """Tokens that must stand before and after a place in its window: at a text's edges everything surprises,
    and nothing contradicts."""
    right: int = 24
    """Tokens of right context that are judged."""
    left: int = 256
    """Tokens of left context that are read."""

    def __post_init__(self) -> None:
        bars = self.margin >= 0 and self.stumble >= 0 and math.isfinite(self.margin + self.stumble)
        if not bars or self.sight < 0 or self.right < 1 or self.left < 1:
            raise InvalidInput(
                f"gate: expected a margin and a stumble >= 0 and contexts of at least 1 token, got {self}"
            )
        self.stats = GateStats()

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        """See `Repairer.propose`; gains are the host's."""
        accepted: list[Proposal] = []
        offered = self.repairer.propose(windows)
        for window in windows:
            mine = [(run, p) for p in offered if (run := window.run(p)) is not None]
            accepted += self.judge(window, mine)
        return tuple(accepted)

    def judge(self, window: RepairWindow, offered: Sequence[tuple[slice, Proposal]]) -> list[Proposal]:
        """Those of the proposals for one window that help, in the order of the text."""
        if not offered:
            return []
        began, done = time.perf_counter(), 0
        accepted: list[Proposal] = []
        text = TextSoFar(self.scorer, window.standing, self.left)
        surprise = surprises(self.scorer, window.standing)
        worth = [o for o in offered if stumbles(surprise, window.place(o[0]), self.stumble, self.sight)]
        worth.sort(key=lambda o: (o[0].start, -o[1].gain))
        for start, group in groupby(worth, key=lambda o: o[0].start):
            choices = [p for run, p in group if run.start >= done]
            if start < done or not choices:
                continue
            best = self._best(text, window, choices)
            if best is not None:
                run = window.run(best) or slice(start, start)
                accepted.append(best)
                text.take(window.place(run), best.new_ids)
                done = run.stop
        won = sum(p.gain for p in accepted)
        self.stats += GateStats(len(offered), len(accepted), won, time.perf_counter() - began)
        return accepted

    def _best(self, text: TextSoFar, window: RepairWindow, choices: Sequence[Proposal]) -> Proposal | None:
        """The choice that helps most, if any helps enough: all of one place in one batched pass."""
        places = [window.place(run) for p in choices if (run := window.run(p)) is not None]
        texts: list[np.ndarray] = []
        rights: list[int] = []
        for proposal, place in zip(choices, places, strict=True):
            after = text.ids[place.stop : place.stop + self.right]
            texts += [np.concatenate([text.ids[place], after]), np.concatenate([proposal.new_ids, after])]
            rights.append(len(after))
        scores = text.before(places[0].start).score(texts)
        gains = [gain(scores[2 * i], scores[2 * i + 1], right) for i, right in enumerate(rights)]
        best = int(np.argmax(gains))
        return replace(choices[best], gain=gains[best]) if gains[best] > self.margin else None


class TextSoFar:
    """A text from the left, read once, as the changes made to it so far have left it."""

    def __init__(self, scorer: Scorer, ids: np.ndarray, left: int) -> None:
        self._scorer, self._left = scorer, left
        self.ids = ids
        """As they were."""
        self._done: list[np.ndarray] = []
        self._reading: Reading | None = None
        self._at = self._held = 0

    def before(self, start: int) -> Reading:
        """Everything before `start` was read, or about the last `left` tokens of it."""
        self._take(self.ids[self._at : start])
        self._at = start
        if self._reading is None or self._held > 2 * self._left:
            recent = np.concatenate([np.empty(0, np.int64), *self._done])[-self._left :]
            self._done, self._held = [recent], len(recent)
            self._reading = self._scorer.read(recent)
        return self._reading

    def take(self, place: slice, new_ids: np.ndarray) -> None:
        """What stands at `place` became something else."""
        self._take(self.ids[self._at : place.start])
        self._take(new_ids)
        self._at = place.stop

    def _take(self, ids: np.ndarray) -> None:
        if not len(ids):
            return
        self._done.append(ids.astype(np.int64))
        self._held += len(ids)
        if self._reading is not None and self._held <= 2 * self._left:
            self._reading.extend(ids)
