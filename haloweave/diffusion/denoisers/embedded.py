# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What denoisers on the common embedding share: its head, its vectors, and how it begins and ends.

Knows the embedding. Must not know blocks. Axes: B batch, T sequence, N chosen positions, V vocabulary,
D width, E a host's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from haloweave.diffusion.denoisers.base import Denoiser, DenoiserConfig, Hidden
from haloweave.diffusion.denoisers.embedding import Embedding


class Embedded(Denoiser):
    """A denoiser that lacks only what is between embedding and head: `hidden`, with whatever it is made of.

    `borrowed`: a host's embedding table [V, config.borrowed_dim], kept frozen. Raises BadInput.
    """

    def __init__(self, config: DenoiserConfig, borrowed: Float[Tensor, "V E"] | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config, borrowed)

    def logits(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        return self.embedding.logits(states)

    def embed_prediction(self, logits: Float[Tensor, "B T V"]) -> Float[Tensor, "B T D"]:
        return self.embedding.expected(logits)

    def auxiliary(
        self, hidden: Hidden, x0: Int[Tensor, "B T"], weight: Float[Tensor, "B T"]
    ) -> Mapping[str, Tensor]:
        return {}

    def begin_at(self, counts: Int[Tensor, " V"]) -> None:
        self.embedding.begin_at(counts)

    def settled(self, dtype: torch.dtype = torch.float32) -> Self:
        self.embedding.settle()
        return super().settled(dtype)
