# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The baseline: a plain bidirectional transformer. Whatever is new must beat it.

With `loops` its blocks run several times over, each time on what they made before (Universal Transformer,
1807.03819): more computation from as many parameters, which is what any recurrent denoiser has to beat.

Knows attention and feed-forward blocks, normed before each part (2002.04745). Must not know loss or sampling.
Axes: B batch, T sequence, V vocabulary, D width, H heads, E a host's width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from haloweave.diffusion.denoisers.base import UNTOLD, DenoiserConfig, Hidden
from haloweave.diffusion.denoisers.embedded import Embedded
from haloweave.diffusion.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(DenoiserConfig):
    """A call makes `loops * n_layers` block passes. Raises BadInput."""

    arch: ClassVar[str] = "transformer"

    loops: int = field(default=1, metadata=UNTOLD)
    """Times that all the blocks run; 1 is a transformer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.loops <= 1024:
            raise BadInput(f"transformer: loops should be in 1..1024, got {self.loops}")


class Block(nn.Module):
    """Attention, then a feed-forward network, each added to the states."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, self.heads = config.d_model, config.n_heads
        self.norm_attention, self.norm_ff = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.d_ff), nn.Linear(config.d_ff, width)
        self.dropout = nn.Dropout(config.dropout)
        # So that the states' scale does not grow with depth (GPT-2). Over loops a block adds up linearly, its
        # biases too: the same weights see much the same states. Left alone, 4 blocks of width 64 in 16 loops
        # began at 3.3 of the scale of one loop; with loops^-0.5 at 1.4, so at 1.02.
        for added in (self.out, self.down):
            added.weight.data.mul_((2 * config.n_layers) ** -0.5 / config.loops)
            added.bias.data.div_(config.loops)

    def forward(
        self, states: Float[Tensor, "B T D"], present: Bool[Tensor, "B T"] | None
    ) -> Float[Tensor, "B T D"]:
        states = states + self.dropout(self._attention(self.norm_attention(states), present))
        out: Tensor = states + self.dropout(self.down(F.gelu(self.up(self.norm_ff(states)))))
        return out

    def _attention(
        self, states: Float[Tensor, "B T D"], present: Bool[Tensor, "B T"] | None
    ) -> Float[Tensor, "B T D"]:
        mixed: Tensor = self.out(attended(self.qkv(states), self.heads, present))
        return mixed


def attended(
    qkv: Float[Tensor, "B T K"], heads: int, present: Bool[Tensor, "B T"] | None
) -> Float[Tensor, "B T D"]:
    """Attention of all tokens to all that are present, by heads. `qkv`: queries, keys and values, K = 3 D."""
    q, k, v = torch.unflatten(qkv, -1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    # Without a mask torch takes its fused kernel's shortest way; most training batches have no pad.
    allowed = None if present is None else present[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, allowed).transpose(1, 2).flatten(2)


class Transformer(Embedded):
    """Embedding, `n_layers` blocks `loops` times, a norm, the tied head. Attention costs T^2.

    `borrowed`: a host's embedding table [V, config.borrowed_dim], kept frozen. Raises BadInput.
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig, borrowed: Float[Tensor, "V E"] | None = None) -> None:
        super().__init__(config, borrowed)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def hidden(
        self,
        xt: Int[Tensor, "B T"],
        t: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
        previous: Float[Tensor, "B T D"] | None = None,
    ) -> Hidden:
        self.check(xt)
        states, present = self.embedding(xt, t, previous), self.embedding.present(xt)
        for _ in range(self.config.loops):
            for block in self.blocks:
                states = block(states, present)
        return Hidden(self.norm(states))
