# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a teacher holds likely at each place, as targets beside the true token (distillation, 1503.02531).

Of a large vocabulary the likeliest few are kept with their probabilities, and the rest as one lump: what a
teacher says of tokens it deems unlikely is mostly noise, and 49 thousand numbers a token would not be kept.
Knows logits and probabilities. Must not know teachers, files or training. Axes: B batch, T sequence, K kept
tokens, N counted places, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.errors import BadInput

_LEAST = 1e-6
"""Of the student's probability that the lump has: log(1 - p) is a number, and its slope stays below 1e6."""


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """A batch's. A place without an answer has probabilities of 0 alone, and is taught by its true token.

    Raises BadInput for a share outside 0..1, or shapes that differ.
    """

    tokens: Int[Tensor, "B T K"]
    probabilities: Float[Tensor, "B T K"]
    share: float
    """a in (1 - a) CE(true token) + a CE(teacher), at masked places that have an answer."""

    def __post_init__(self) -> None:
        if self.tokens.shape != self.probabilities.shape or self.tokens.ndim != 3:
            raise BadInput(
                f"soft targets: expected tokens and probabilities [B T K], got {list(self.tokens.shape)} and "
                f"{list(self.probabilities.shape)}"
            )
        if not 0 <= self.share <= 1:
            raise BadInput(f"soft targets: share should be in [0, 1], got {self.share}")

    @property
    def answered(self) -> Bool[Tensor, "B T"]:
        """Where the teacher has an answer."""
        return self.probabilities.sum(-1) > 0

    def rows(self, which: slice | Int[Tensor, " N"]) -> SoftTargets:
        """Some rows: a process or a microbatch takes its own."""
        return SoftTargets(self.tokens[which], self.probabilities[which], self.share)

    def to(self, device: torch.device | str) -> SoftTargets:
        return SoftTargets(self.tokens.to(device), self.probabilities.to(device), self.share)

    def cross_entropies(self, logits: Float[Tensor, "N V"], at: Bool[Tensor, "B T"]) -> Float[Tensor, " N"]:
        """CE of the teacher's answers at N places, the lump as one more outcome; 0 where it has none."""
        tokens, kept = self.tokens[at].long(), self.probabilities[at].to(logits.dtype)
        log_q = logits.gather(-1, tokens) - logits.logsumexp(-1, keepdim=True)
        lump = (1 - kept.sum(-1)).clamp(min=0)
        log_lump = (1 - log_q.exp().sum(-1)).clamp(min=_LEAST).log()
        found = (
            -(kept * log_q.masked_fill(kept == 0, 0)).sum(-1) - lump * log_lump
        )  # 0 times -inf is no number
        return torch.where(kept.sum(-1) > 0, found, 0.0)


def kept(logits: Float[Tensor, "*N V"], top: int) -> tuple[Int[Tensor, "*N K"], Float[Tensor, "*N K"]]:
    """The likeliest tokens of each distribution and their probabilities, which add up to less than 1."""
    logits = logits.float()
    values, tokens = logits.topk(top, dim=-1)
    return tokens.int(), (values - logits.logsumexp(-1, keepdim=True)).exp()
