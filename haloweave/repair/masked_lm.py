# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Any off-the-shelf masked LM as a repairer: heat softens what it reads, its answers cross into host tokens.

Knows windows, a masked LM and the bridge between two tokenizers. Must not know who asks, or what is done
with its proposals.

    window -> Draft (align, holes) -> rows -> MaskedLM.predict -> Draft.take (bridge) -> proposals
              one or more passes over all windows at once
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, RepairWindow
from haloweave.repair.masked.bridge import Bridge, BridgeCounts
from haloweave.repair.masked.checkpoint import load
from haloweave.repair.masked.draft import Draft
from haloweave.repair.masked.encoder import MaskedLM
from haloweave.repair.masked.rows import MASKED
from haloweave.repair.masked.softmask import Noise
from haloweave.text import Codec

__all__ = ["BridgeCounts", "MaskedLM", "MaskedLMRepairer", "load"]


@dataclass
class MaskedLMRepairer:
    """Proposes what a masked LM would rather read at the hot places of a window.

    A proposal's gain is the masked LM's own reckoning: log p of the answer less log p of what stands there,
    at the same places of the same pass. A doomed run, and a word of several MLM tokens, is asked about as one
    mask; there log p of the answer counts once for each MLM token that stands there now, and log p of those
    is taken under as many masks, in a second row. Only answers with a gain are proposed.
    """

    model: MaskedLM
    codec: Codec
    cutoff: float = 0.5
    """Positions of at least this heat are asked about. Above 1: none but doomed ones."""
    hard: bool = False
    """Mask wholly from the cutoff on, and nothing below it, instead of mixing by heat."""
    noise: float = 0.0
    """Gaussian noise on what is hot, in units of the word embeddings' RMS."""
    seed: int = 0
    passes: int = 1
    """Passes over each window. Those after the first ask what had to wait; then the least sure answers
    again, with the others in place (mask-predict, arXiv 1904.09324)."""
    spacing: int = 1
    """MLM tokens that keep two holes of one pass apart: parallel holes are filled independently."""
    choices: int = 1
    """Answers offered for each one-token hole, as proposals that overlap: for a gate to choose among."""
    join_doomed: bool = True
    """Ask about a doomed run as one mask; else doomed tokens are asked about like any other."""
    join_words: bool = True
    """Ask about a word of several MLM tokens as one mask (see `Bridge`); it costs the second row."""

    def __post_init__(self) -> None:
        if not self.cutoff >= 0 or not (self.noise >= 0 and math.isfinite(self.noise)) or self.seed < 0:
            raise InvalidInput(
                f"masked LM: expected cutoff, noise and seed of at least 0, got {self.cutoff}, {self.noise} "
                f"and {self.seed}"
            )
        if self.passes < 1 or self.spacing < 0 or self.choices < 1:
            raise InvalidInput(
                f"masked LM: expected at least 1 pass, 0 tokens of spacing and 1 choice, got {self.passes}, "
                f"{self.spacing} and {self.choices}"
            )
        self._bridge = Bridge(self.codec, self.model.subwords, join_words=self.join_words)
        self._counts = BridgeCounts()

    @property
    def counts(self) -> BridgeCounts:
        """What became of everything asked so far."""
        return self._counts

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        """See `Repairer.propose`. Raises EngineFault if the model's numbers are not finite."""
        drafts = [self._draft(w) for w in windows if self._asks(w)]
        noise = Noise(self.noise, self.seed)
        for n in range(self.passes):
            share = (self.passes - n) / self.passes
            asked = [d for d in drafts if d.open(share, self.spacing)]
            rows = [d.rows() for d in asked]
            guesses = iter(
                self.model.predict([r for mine in rows for r in mine], top=self.choices, noise=noise)
            )
            for draft, mine in zip(asked, rows, strict=True):
                draft.take([next(guesses) for _ in mine])
        for draft in drafts:
            self._counts += draft.counts
        return tuple(p for d in drafts for p in d.proposals)

    def _draft(self, window: RepairWindow) -> Draft:
        heat = window.heat
        if self.hard:
            heat = np.where(self._hot(window), np.float32(MASKED), np.float32(0))
        return Draft(self._bridge, window, heat, self._hot(window), self._doomed(window))

    def _asks(self, window: RepairWindow) -> bool:
        return bool((self._hot(window) | self._doomed(window)).any())

    def _hot(self, window: RepairWindow) -> np.ndarray:
        return (window.heat > 0) & (window.heat >= self.cutoff)

    def _doomed(self, window: RepairWindow) -> np.ndarray:
        return window.doomed & (window.heat > 0) & self.join_doomed
