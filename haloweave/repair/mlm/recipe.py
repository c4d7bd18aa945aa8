# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a training run is made of. Knows numbers and their ranges. Must not know models or text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from haloweave.errors import InvalidInput
from haloweave.repair.mlm.masking import Masking


@dataclass(frozen=True)
class Recipe:
    """Two runs of one recipe on one machine, with as many threads, give the same weights."""

    tokens: int = 16_000_000
    batch_tokens: int = 4096
    phases: tuple[tuple[float, int], ...] = ((0.7, 64), (0.3, 128))
    """Share of the run, and length of its blocks: short blocks are cheaper, long ones teach positions."""
    rate: float = 6e-4
    warmup: float = 0.03
    decay: float = 0.01
    seed: int = 0
    checkpoint_every: int = 500
    masking: Masking = field(default_factory=Masking)

    def __post_init__(self) -> None:
        shares, lengths = [share for share, _ in self.phases], self.lengths
        if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-9):
            raise InvalidInput(f"recipe: the phases' shares should be above 0 and sum to 1, got {shares}")
        if min(lengths) < 1 or max(lengths) > self.batch_tokens or self.tokens < self.batch_tokens:
            raise InvalidInput(
                f"recipe: expected blocks <= batch <= tokens, got {max(lengths)}, {self.batch_tokens}, "
                f"{self.tokens}; give more tokens"
            )
        if not 0 < self.rate < 1 or not 0 <= self.warmup < 1 or not 0 <= self.decay < 1:
            raise InvalidInput(f"recipe: expected a rate in (0, 1), warm-up and decay in [0, 1), got {self}")
        if not 0 <= self.seed < 2**32 or self.checkpoint_every < 1:
            raise InvalidInput(
                f"recipe: expected a seed of 32 bits and checkpoints >= 1 step apart, got {self}"
            )

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_tokens

    @property
    def lengths(self) -> tuple[int, ...]:
        """The block lengths that occur, each once, in order."""
        return tuple(sorted({length for _, length in self.phases}))

    def length(self, step: int) -> int:
        """Length of the blocks of a step."""
        ends = np.cumsum([share for share, _ in self.phases])
        phase = int(np.searchsorted(ends, step / self.steps, side="right"))
        return self.phases[min(phase, len(self.phases) - 1)][1]

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear to zero."""
        up = max(1, int(self.warmup * self.steps))
        return self.rate * min((step + 1) / up, (self.steps - step) / max(1, self.steps - up))
