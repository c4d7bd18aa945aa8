# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Heat as a soft mask: word embeddings mixed with the mask's, and noise.

Knows torch tensors and counter-based noise. Must not know models, host tokens or text. Axes: B rows of a
batch, T tokens, D embedding.

    e' = (1 - h) e + h e_mask + noise h RMS(E) g,    g ~ N(0, 1)

on *word* embeddings: positions, types and the norm are the model's to add, once. Where the heat h is 0, e'
is e, bit for bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from haloweave.repair.masked.rows import Row


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on what is hot: `scale` times the heat times the RMS of the word embeddings."""

    scale: float = 0.0
    seed: int = 0

    def draw(self, row: Row, width: int) -> Float32[np.ndarray, "T D"]:
        """The same for the same row, whatever it is batched with."""
        told = hashlib.sha256(row.ids.tobytes() + row.heat.tobytes()).digest()
        rng = np.random.Generator(np.random.Philox(key=[self.seed, int.from_bytes(told[:8], "little")]))
        return rng.standard_normal((len(row), width), np.float32) * (self.scale * row.heat[:, None])


def mixed(
    words: Float[Tensor, "B T D"], mask: Float[Tensor, " D"], heat: Float[Tensor, "B T"]
) -> Float[Tensor, "B T D"]:
    """Word embeddings mixed with the mask's by heat."""
    return torch.lerp(words, mask.expand_as(words), heat[..., None].to(words.dtype))
