# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Accept only what measurably helps: the host LM judges each proposal by the text around it.

Knows windows, proposals and a scorer. Must not know who proposed, or why.

The gain of replacing a run `old` by `new`, in nats, over the right context `c` (the next tokens):

    same length   log p(new, c) - log p(old, c)
    shorter       the same, with log p(new) scaled by len(old) / len(new): as if the tokens saved had cost as
                  much as the ones kept; else every deletion would win by being short
    deleted       log p(c | nothing) - log p(c | old): it must help what follows
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

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
    own = float(new[:after].sum(dtype=np.float64)) * (before / after)
    return context + own - float(old[:before].sum(dtype=np.float64))


@dataclass
class Gated:
    """A repairer whose proposals go through only if the host LM finds the text better by `margin` nats.

    Proposals of one window are judged from left to right, each in the text as the accepted ones before it
    left it; overlapping ones are tried in the order of their own gain until one passes.
    """

    repairer: Repairer
    scorer: Scorer
    margin: float = 0.5
    right: int = 24
    """Tokens of right context that are judged."""
    left: int = 256
    """Tokens of left context that are read."""

    def __post_init__(self) -> None:
        if not (self.margin >= 0 and math.isfinite(self.margin)) or self.right < 1 or self.left < 1:
            raise InvalidInput(f"gate: expected a margin >= 0 and contexts of at least 1 token, got {self}")
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
        began = time.perf_counter()
        pass_through: list[Proposal] = []
        reading, done = _Left(self.scorer, self.left, window), 0
        offered = sorted(offered, key=lambda o: (o[0].start, -o[1].gain))
        for start, group in groupby(offered, key=lambda o: o[0].start):
            choices = [o for o in group if o[0].start >= done]
            if not choices:
                continue
            best = self._best(reading.at(start), window, choices)
            if best is not None:
                run, proposal = best
                pass_through.append(proposal)
                reading.replace(run, proposal.new_ids)
                done = run.stop
        won = sum(p.gain for p in pass_through)
        self.stats += GateStats(len(offered), len(pass_through), won, time.perf_counter() - began)
        return pass_through

    def _best(
        self, reading: Reading, window: RepairWindow, choices: Sequence[tuple[slice, Proposal]]
    ) -> tuple[slice, Proposal] | None:
        """The choice that helps most, if any helps enough: all in one batched pass."""
        ids = window.token_id
        texts: list[np.ndarray] = []
        rights = [min(self.right, len(ids) - run.stop) for run, _ in choices]
        for (run, proposal), right in zip(choices, rights, strict=True):
            after = ids[run.stop : run.stop + right]
            texts += [ids[run.start : run.stop + right], np.concatenate([proposal.new_ids, after])]
        scores = reading.score([t.astype(np.int32) for t in texts])
        gains = [gain(scores[2 * i], scores[2 * i + 1], right) for i, right in enumerate(rights)]
        best = int(np.argmax(gains))
        if not gains[best] > self.margin:
            return None
        run, proposal = choices[best]
        return run, replace(proposal, gain=gains[best])


class _Left:
    """The text left of a growing position, as it stands after what was accepted, read once."""

    def __init__(self, scorer: Scorer, left: int, window: RepairWindow) -> None:
        self._scorer, self._left, self._ids = scorer, left, window.token_id
        self._reading: Reading | None = None
        self._at = 0

    def at(self, start: int) -> Reading:
        """What was read up to `start`."""
        if self._reading is None or start - self._at > self._left:
            self._reading = self._scorer.read(self._ids[max(0, start - self._left) : start])
        elif start > self._at:
            self._reading.extend(self._ids[self._at : start])
        self._at = max(self._at, start)
        return self._reading

    def replace(self, run: slice, new_ids: np.ndarray) -> None:
        """A run became something else; read that instead."""
        if self._reading is not None and len(new_ids):
            self._reading.extend(new_ids)
        self._at = run.stop
