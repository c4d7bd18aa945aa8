# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Blocks of token ids to masked batches.

Knows ids, word starts and the randomness it is handed. Must not know text, files or models. Axes: B blocks,
T tokens of a block, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32

from haloweave.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What masking needs to know of a tokenizer."""

    size: int
    mask: int
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    special: frozenset[int]
    continues: Bool[np.ndarray, " V"]
    """True for tokens that go on with the word before (`##ing`)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input. Positions with `target` < 0 are not predicted."""

    ids: Int32[np.ndarray, "B T"]
    heat: Float32[np.ndarray, "B T"]
    """How far a position's embedding is mixed with the mask's: 0 as it is, 1 masked."""
    target: Int32[np.ndarray, "B T"]


@dataclass(frozen=True)
class Masking:
    """How blocks are hidden. Whole words are picked; of those, most are masked, some replaced by a random
    token (else a model only copies what it sees: GIDD, arXiv 2503.04482), some mixed with the mask, as the
    soft mask of a repair mixes them."""

    rate: float = 0.2
    random: float = 0.1
    soft: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 1 and self.random >= 0 and self.soft >= 0 and self.random + self.soft <= 1):
            raise InvalidInput(f"masking: expected a rate in (0, 1] and shares that fit into 1, got {self}")

    def batch(
        self, blocks: Int32[np.ndarray, "B T"], vocabulary: Vocabulary, rng: np.random.Generator
    ) -> Batch:
        """Hide part of some blocks; at least one word, where there is one."""
        fixed = np.isin(blocks, list(vocabulary.special))
        word = np.cumsum(~vocabulary.continues[blocks] | fixed, axis=1)
        lot = rng.random((len(blocks), blocks.shape[1] + 1))
        drawn = np.where(fixed, 1.0, np.take_along_axis(lot, word, axis=1))  # 1.0 is never drawn
        picked = (drawn < max(self.rate, np.nextafter(drawn.min(initial=1.0), 2.0))) & ~fixed
        kind = np.take_along_axis(rng.random(lot.shape), word, axis=1)
        noise = rng.integers(0, vocabulary.size, blocks.shape)
        softly = rng.uniform(0.3, 0.9, blocks.shape)
        replaced = picked & (kind < self.random)
        mixed = picked & (kind >= self.random) & (kind < self.random + self.soft)
        masked = picked & ~replaced & ~mixed
        heat = np.where(masked, 1.0, np.where(mixed, softly, 0.0))
        return Batch(
            np.where(replaced, noise, np.where(masked, vocabulary.mask, blocks)).astype(np.int32),
            heat.astype(np.float32),
            np.where(picked, blocks, -1).astype(np.int32),
        )
