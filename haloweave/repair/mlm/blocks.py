# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Documents to blocks of token ids of one length, and blocks to masked batches.

Knows ids, word starts and counter-based randomness: the batch of a step depends on (seed, step) alone, so
a training that was interrupted goes on as if it had not been. Must not know models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32

from haloweave.corpus import Document

_HELD_OUT = 100
"""One piece of text in this many is never trained on."""
_PIECE = 20_000
"""Characters of one piece: what is held out is held out by the page, not by the line."""


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know of a tokenizer."""

    size: int
    mask: int
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    special: frozenset[int]
    continues: Bool[np.ndarray, " V"]
    """True for tokens that go on with the word before (`##ing`)."""


@dataclass(frozen=True)
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

    def batch(
        self, blocks: Int32[np.ndarray, "B T"], vocabulary: Vocabulary, rng: np.random.Generator
    ) -> Batch:
        """Hide part of some blocks."""
        fixed = np.isin(blocks, list(vocabulary.special))
        word = np.cumsum(~vocabulary.continues[blocks] | fixed, axis=1)
        lot = rng.random((len(blocks), blocks.shape[1] + 1))
        picked = (np.take_along_axis(lot, word, axis=1) < self.rate) & ~fixed
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


def pieces(text: str) -> list[str]:
    """A document in pieces of some pages, cut at line ends where there are any."""
    cut, at = [], 0
    while at < len(text):
        stop = text.find("\n", at + _PIECE)
        stop = len(text) if stop < 0 else stop
        cut.append(text[at:stop])
        at = stop
    return cut


def is_held_out(piece: str) -> bool:
    """By content, so that it does not depend on order or on what else is trained on."""
    return int.from_bytes(hashlib.sha256(piece.encode()).digest()[:4], "big") % _HELD_OUT == 0


def blocks(
    documents: Iterable[Document],
    encode: Callable[[Sequence[str]], list[list[int]]],
    vocabulary: Vocabulary,
    length: int,
) -> tuple[Int32[np.ndarray, "B T"], Int32[np.ndarray, "H T"]]:
    """Blocks to train on and blocks held out, each framed by the opening and closing tokens."""
    inner = length - len(vocabulary.opening) - len(vocabulary.closing)
    streams: tuple[list[int], list[int]] = ([], [])
    for document in documents:
        cut = pieces(document.text)
        for piece, ids in zip(cut, encode(cut), strict=True):
            streams[is_held_out(piece)].extend(ids)
    framed = []
    for stream in streams:
        body = np.array(stream[: len(stream) // inner * inner], np.int32).reshape(-1, inner)
        ends = [
            np.tile(np.array(e, np.int32), (len(body), 1)) for e in (vocabulary.opening, vocabulary.closing)
        ]
        framed.append(np.concatenate([ends[0], body, ends[1]], axis=1))
    return framed[0], framed[1]


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which one epoch reads its blocks."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def step_blocks(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """The blocks that one step reads."""
    first = step * batch
    epoch, at = divmod(first, count)
    chosen = order(seed, epoch, count)[at : at + batch]
    if len(chosen) < batch:
        chosen = np.concatenate([chosen, order(seed, epoch + 1, count)[: batch - len(chosen)]])
    return chosen
