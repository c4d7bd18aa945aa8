# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The host LM repairs its own context, without training: it proposes, and it judges.

Knows windows and a scorer. Must not know text or engines. At a hot place the candidates are the tokens the
host would have expected from the left context, the original, and nothing at all (in place of a doomed run:
one token for all of it); each is judged by the log-likelihood of itself and the right context, all candidates
in one pass over a shared prefix. Both sides speak the host's vocabulary, so nothing has to be bridged.

The places are taken from left to right, each in the text as the changes before it left it, so the gains of
one window add up to what the window gains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, RepairWindow, Scorer
from haloweave.repair.gate import TextSoFar, gain, stumbles, surprises

_NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True)
class SelfRepairer:
    """Proposes with the host LM. `forbidden` ids (control tokens) are never proposed."""

    scorer: Scorer
    forbidden: frozenset[int] = frozenset()
    cutoff: float = 0.5
    """Heat from which a token may change."""
    candidates: int = 6
    """Most likely tokens that are tried at a place."""
    right: int = 16
    """Tokens of right context that are judged."""
    left: int = 256
    """Tokens of left context that are read."""
    margin: float = 4.0
    """Nats a change must win at heat 1; at heat h it must win margin / h: the darker, the more malleable."""
    stumble: float = 10.0
    """Nats by which what stands there must surprise the host before it may change (see `Gated`)."""
    sight: int = 8
    """Tokens that must stand before and after a place in its window (see `Gated`)."""
    delete: bool = True
    """Whether leaving a token out is tried."""
    places: int = 0
    """Only so many places of a window are tried, those that surprise the host most; 0 tries all."""

    def __post_init__(self) -> None:
        if not 0 < self.cutoff <= 1 or self.candidates < 1 or self.right < 1 or self.left < 1:
            raise InvalidInput(f"self repairer: expected a cutoff in (0, 1] and counts from 1 on, got {self}")
        if not (self.margin >= 0 and self.stumble >= 0 and math.isfinite(self.margin + self.stumble)):
            raise InvalidInput(f"self repairer: expected a margin and a stumble >= 0, got {self}")

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        """See `Repairer.propose`."""
        return tuple(p for window in windows for p in self._repair(window))

    def _repair(self, window: RepairWindow) -> list[Proposal]:
        runs = self._runs(window)
        if not runs:
            return []
        text, found = TextSoFar(self.scorer, window.standing, self.left), []
        for run in runs:
            new, won = self._best(text, window, run)
            if new is not None:
                found.append(Proposal(window.uid[run], new, won))
                text.take(window.place(run), new)
        return found

    def _runs(self, window: RepairWindow) -> list[slice]:
        """Hot places: a single token, or a run of doomed ones."""
        hot = window.heat >= self.cutoff
        runs, at = [], 0
        while at < len(window):
            stop = at + 1
            while window.doomed[at] and stop < len(window) and window.doomed[stop]:
                stop += 1
            if hot[at:stop].all():
                runs.append(slice(at, stop))
            at = stop
        return self._worst(window, runs) if runs else runs

    def _worst(self, window: RepairWindow, runs: list[slice]) -> list[slice]:
        """The places at which the host stumbles; of these, those where it finds what stands there, or follows
        a gap, least likely, weighed by heat."""
        surprise = surprises(self.scorer, window.standing)
        runs = [r for r in runs if stumbles(surprise, window.place(r), self.stumble, self.sight)]
        after = np.append(surprise, 0.0)
        score = [float(after[window.place(r).start] * window.heat[r].min()) for r in runs]
        chosen = np.sort(np.argsort(np.negative(score), kind="stable")[: self.places or len(runs)])
        return [runs[i] for i in chosen]

    def _best(
        self, text: TextSoFar, window: RepairWindow, run: slice
    ) -> tuple[Int32[np.ndarray, " R2"] | None, float]:
        """The candidate that wins most, and what it wins; None if none wins enough."""
        place = window.place(run)
        old, after = text.ids[place], text.ids[place.stop : place.stop + self.right]
        reading = text.before(place.start)
        news = self._candidates(reading.logits, window.token_id[run])
        if self.delete and len(old):
            news.append(_NOTHING)
        scores = reading.score([np.concatenate([new, after]) for new in (old, *news)])
        gains = [gain(scores[0], s, len(after)) for s in scores[1:]]
        best = int(np.argmax(gains))
        needed = self.margin / float(window.heat[run].min())
        return (news[best], gains[best]) if gains[best] > needed else (None, 0.0)

    def _candidates(
        self, logits: Float32[np.ndarray, " V"], old: Int32[np.ndarray, " R"]
    ) -> list[Int32[np.ndarray, " R2"]]:
        """Likely tokens that may stand in place of `old`; a single token does not become itself."""
        shut = {*self.forbidden, *(old.tolist() if len(old) == 1 else ())}
        open_ids = np.ones(len(logits), np.bool_)
        open_ids[[i for i in shut if i < len(logits)]] = False
        ranked = np.flatnonzero(open_ids)
        best = ranked[np.argsort(-logits[ranked], kind="stable")[: self.candidates]]
        return [np.array([i], np.int32) for i in best]
