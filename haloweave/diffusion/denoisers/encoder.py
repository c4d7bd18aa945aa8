# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""BERT's own blocks, so that a denoiser may begin with the weights of an encoder that is there.

A block is normed after each part (1810.04805), not before as the baseline's: only so do an encoder's weights
mean what they meant. Words are not taken over, for the denoiser's tokens are another tokenizer's: its own or
its host's vectors have to learn to speak to the blocks. Knows blocks and what families of BERT call their
weights. Must not know files, loss or sampling. Axes: B batch, T sequence, V vocabulary, D width, H heads,
E a host's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from haloweave.diffusion.denoisers.base import DenoiserConfig, Hidden
from haloweave.diffusion.denoisers.embedded import Embedded
from haloweave.diffusion.denoisers.transformer import attended
from haloweave.diffusion.errors import BadInput

_FAMILY = "bert."
"""Before every name, where the encoder was saved with a head."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(DenoiserConfig):
    """By default the shape of MiniLM-L6 (2002.10957). `n_layers` may be fewer than an encoder's that lends
    its weights: the first ones are taken."""

    arch: ClassVar[str] = "encoder"

    d_model: int = 384
    n_heads: int = 12
    d_ff: int = 1536
    norm_eps: float = 1e-12
    """Added to variances in the blocks' norms; BERT's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.norm_eps < 1:
            raise BadInput(f"encoder: norm_eps should be in (0, 1), got {self.norm_eps}")


class Block(nn.Module):
    """Attention, then a feed-forward network; a norm after each is added to the states."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, eps, self.heads = config.d_model, config.norm_eps, config.n_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.d_ff), nn.Linear(config.d_ff, width)
        self.norm_attention, self.norm_ff = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, states: Float[Tensor, "B T D"], present: Bool[Tensor, "B T"] | None
    ) -> Float[Tensor, "B T D"]:
        mixed = self.out(attended(self.qkv(states), self.heads, present))
        states = self.norm_attention(states + self.dropout(mixed))
        out: Tensor = self.norm_ff(states + self.dropout(self.down(F.gelu(self.up(states)))))
        return out


class Encoder(Embedded):
    """Embedding, `n_layers` BERT blocks, BERT's transform before the head, the tied head. Costs T^2.

    The transform (dense, gelu, norm) leads from where the last block thinks to where token vectors are.
    `borrowed`: a host's embedding table [V, config.borrowed_dim], kept frozen. Raises BadInput.
    """

    config: EncoderConfig

    def __init__(self, config: EncoderConfig, borrowed: Float[Tensor, "V E"] | None = None) -> None:
        super().__init__(config, borrowed)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.transform = nn.Linear(config.d_model, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)

    def hidden(
        self,
        xt: Int[Tensor, "B T"],
        t: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
        previous: Float[Tensor, "B T D"] | None = None,
    ) -> Hidden:
        self.check(xt)
        states = self.trunk(self.embedding(xt, t, previous), self.embedding.present(xt))
        return Hidden(self.norm(F.gelu(self.transform(states))))

    def trunk(
        self, states: Float[Tensor, "B T D"], present: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """The blocks alone: what an encoder makes of these states. `present`: where there is a token."""
        for block in self.blocks:
            states = block(states, present)
        return states

    @torch.no_grad()
    def start_from(self, weights: Mapping[str, Tensor], heads: int) -> None:
        """Take over the first blocks of a BERT of `heads` heads, its positions and the norm before them.

        `weights`: its state dict, by transformers' names. Its first segment's vector, which it adds to every
        token, goes into the positions. Raises BadInput for another shape; nothing is changed then.
        """
        if heads != self.config.n_heads:
            raise BadInput(f"initialiser: it has {heads} heads, got n_heads {self.config.n_heads}; set that")
        bert = {name.removeprefix(_FAMILY): value for name, value in weights.items()}
        taken = _around(bert, self.config.max_len)
        for number in range(self.config.n_layers):
            taken |= {f"blocks.{number}.{name}": value for name, value in _block(bert, number).items()}
        mine = dict(self.named_parameters())
        for name, value in taken.items():
            if value.shape != mine[name].shape:
                raise BadInput(
                    f"initialiser: {name}: expected {tuple(mine[name].shape)}, got {tuple(value.shape)}; set "
                    f"d_model and d_ff to the encoder's widths, and seq_len to its positions at most"
                )
        for name, value in taken.items():
            mine[name].copy_(value)


def _around(bert: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """What stands before the blocks, words left out, by our names."""
    segment = _found(bert, "embeddings.token_type_embeddings.weight")[0]
    return {
        "embedding.position": _found(bert, "embeddings.position_embeddings.weight")[:length] + segment,
        "embedding.norm.weight": _found(bert, "embeddings.LayerNorm.weight"),
        "embedding.norm.bias": _found(bert, "embeddings.LayerNorm.bias"),
    }


_PARTS = {
    "out": "attention.output.dense",
    "norm_attention": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm_ff": "output.LayerNorm",
}


def _block(bert: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """One block by our names: query, key and value, three layers there, are one here."""
    found, start = {}, f"encoder.layer.{number}."
    for kind in ("weight", "bias"):
        parts = [_found(bert, f"{start}attention.self.{n}.{kind}") for n in ("query", "key", "value")]
        found[f"qkv.{kind}"] = torch.cat(parts)
        found |= {
            f"{ours}.{kind}": _found(bert, f"{start}{theirs}.{kind}") for ours, theirs in _PARTS.items()
        }
    return found


def _found(bert: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in bert:
        raise BadInput(
            f"initialiser: expected an encoder of BERT's kind with as many layers as the denoiser, it has no "
            f"{name}; set fewer n_layers, or take minilm-l6"
        )
    return bert[name].float()
