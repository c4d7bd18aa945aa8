# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A denoiser that first decides what becomes of a token, and only then asks which token takes its place.

    decision     keep | substitute | delete, of every place, from a small head: 3 numbers instead of V
    token        the vocabulary, asked only where something is substituted

The two make one distribution, a softmax in two levels (Morin & Bengio, 2005): log p(keep) of what stands
there, log p(delete) of the pad, and log p(substitute) + log q(token) of all others. The first level is
ELECTRA's question, right or wrong (2003.10555), with a third answer. In a memory of which most may stay, a
head over 49,000 tokens would be nearly all the work, and nearly all of it would confirm what is there.

Knows two trunks. Must not know corruption, repair or sampling. Axes: B batch, T sequence,
V vocabulary, D width, N chosen positions, E a host's width; 3 decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from haloweave.diffusion.denoisers.base import DenoiserConfig, Hidden
from haloweave.diffusion.denoisers.eco_hybrid import EcoHybrid, EcoHybridConfig
from haloweave.diffusion.denoisers.embedded import Embedded
from haloweave.diffusion.denoisers.transformer import Transformer, TransformerConfig
from haloweave.diffusion.errors import BadInput

KEEP, SUBSTITUTE, DELETE = range(3)


@dataclass(frozen=True, kw_only=True)
class Deciding(DenoiserConfig):
    """What an editor has beside its trunk. Without a pad no target says delete. Raises BadInput for a weight
    that is none."""

    lambda_edit: float = 3.0
    """Weight of the decisions' loss beside that of the tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.lambda_edit < math.inf:
            raise BadInput(f"{self.arch}: lambda_edit should be above 0, got {self.lambda_edit}")


class Editor(Embedded):
    """A second, small head on a trunk that it is mixed into. The trunk's `logits` say which token, given that
    it is another one."""

    config: Deciding

    def __init__(self, config: DenoiserConfig, borrowed: Float[Tensor, "V E"] | None = None) -> None:
        super().__init__(config, borrowed)
        width = config.d_model
        self.decide = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, 3)
        )

    def hidden(
        self,
        xt: Int[Tensor, "B T"],
        t: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
        previous: Float[Tensor, "B T D"] | None = None,
    ) -> Hidden:
        thought: Hidden = super().hidden(xt, t, previous)  # type: ignore[safe-super]  # the trunk's
        return Hidden(thought.tokens, trail=(xt,))

    def edits(self, states: Float[Tensor, "*N D"], shown: Int[Tensor, "*N"]) -> Float[Tensor, "*N 3"]:
        """Log probability of each decision about the tokens `shown` at these states. A mask is never kept."""
        scores: Tensor = self.decide(states).float()
        never = (shown == self.config.mask_id)[..., None] & (torch.arange(3, device=scores.device) == KEEP)
        return scores.masked_fill(never, -math.inf).log_softmax(-1)

    def head_weight(
        self, xt: Int[Tensor, "B T"], x0: Int[Tensor, "B T"], weight: Float[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """The head learns from what is substituted alone."""
        return torch.where(decisions(xt, x0, self.config.pad_id) == SUBSTITUTE, weight, 0)

    def auxiliary(
        self, hidden: Hidden, x0: Int[Tensor, "B T"], weight: Float[Tensor, "B T"]
    ) -> Mapping[str, Tensor]:
        """The decisions' cross-entropy: the weighted mean of each row's places that are asked about, and the
        mean of these. A row that asks for nothing counts 0."""
        (shown,) = hidden.trail
        told = self.edits(hidden.tokens, shown)
        # Nobody keeps a mask, and no corruption wants it: what asks for one all the same would be infinite.
        weight = torch.where((shown == self.config.mask_id) & (x0 == shown), 0, weight).to(told.dtype)
        right = decisions(shown, x0, self.config.pad_id)
        terms = F.nll_loss(told.flatten(0, 1), right.flatten(), reduction="none").view(x0.shape)
        terms = torch.where(weight > 0, terms * weight, 0)
        each = terms.sum(-1) / weight.sum(-1).clamp(min=1e-9)
        return {"edit": self.config.lambda_edit * each.mean()}


@dataclass(frozen=True, kw_only=True)
class TransformerEditorConfig(Deciding, TransformerConfig):
    arch: ClassVar[str] = "editor"


class TransformerEditor(Editor, Transformer):
    """An editor that compares all tokens with each other."""

    config: TransformerEditorConfig


@dataclass(frozen=True, kw_only=True)
class EcoEditorConfig(Deciding, EcoHybridConfig):
    arch: ClassVar[str] = "eco_editor"


class EcoEditor(Editor, EcoHybrid):
    """An editor that looks at neighbours, and at the whole through a few slots of memory."""

    config: EcoEditorConfig


def decisions(xt: Int[Tensor, "B T"], x0: Int[Tensor, "B T"], pad_id: int | None) -> Int[Tensor, "B T"]:
    """What has to be done at each place for the noisy row to become the clean one."""
    nothing = x0 == (-1 if pad_id is None else pad_id)
    return torch.where(x0 == xt, KEEP, torch.where(nothing, DELETE, SUBSTITUTE))
