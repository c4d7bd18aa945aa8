# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Documents to blocks of token ids of one length, and which of them a step reads.

Knows ids and counter-based randomness: what a step reads depends on (seed, step) alone, so a training that
was interrupted goes on as if it had not been. Must not know models. Axes: N tokens of a stream, B blocks,
T tokens of a block.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int32

from haloweave.corpus import Document
from haloweave.errors import InvalidInput
from haloweave.repair.mlm.masking import Vocabulary

_HELD_OUT = 100
"""One piece of text in this many is never trained on."""
_PIECE = 20_000
"""Characters of one piece: what is held out is held out by the page, not by the line."""

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Texts to token ids, without special tokens."""


@dataclass(frozen=True, eq=False)
class Streams:
    """All tokens, in the order of their documents: those to train on, and those held out."""

    train: Int32[np.ndarray, " N"]
    held_out: Int32[np.ndarray, " N"]


def pieces(text: str) -> list[str]:
    """A document in pieces of some pages, cut at line ends where there are any."""
    cut, at = [], 0
    while at < len(text):
        stop = _page_end(text, at + _PIECE)
        cut.append(text[at:stop])
        at = stop
    return cut


def _page_end(text: str, near: int) -> int:
    """The next line end; if that is more than a page away, the next space."""
    if (line := text.find("\n", near, near + _PIECE)) >= 0:
        return line
    if len(text) <= near + _PIECE:
        return len(text)
    space = text.find(" ", near, near + _PIECE)
    return space if space >= 0 else near


def rank(piece: str) -> int:
    """A number by content alone, so that what is held out does not depend on what else is trained on."""
    return int.from_bytes(hashlib.sha256(piece.encode("utf-8", "surrogatepass")).digest()[:4], "big")


def streams(documents: Iterable[Document], encode: Encode, least: int) -> Streams:
    """Encode documents, holding out one piece in a hundred, and at least `least` tokens of them."""
    ids, lengths, ranks = array("i"), array("q"), array("q")
    for document in documents:
        cut = pieces(document.text)
        for piece, encoded in zip(cut, encode(cut), strict=True):
            ids.extend(encoded)
            lengths.append(len(encoded))
            ranks.append(rank(piece))
    sizes = np.array(lengths, np.int64)
    held = np.repeat(_held_out(np.array(ranks, np.int64), sizes, least), sizes)
    tokens = np.array(ids, np.int32)
    return Streams(tokens[~held], tokens[held])


def _held_out(ranks: np.ndarray, sizes: np.ndarray, least: int) -> Bool[np.ndarray, " P"]:
    """Pieces of the same text go the same way. A small text holds out its lowest ranks besides."""
    held: np.ndarray = ranks % _HELD_OUT == 0
    for low in np.unique(ranks):
        if sizes[held].sum() >= least:
            break
        held |= ranks == low
    return held


def framed(stream: Int32[np.ndarray, " N"], vocabulary: Vocabulary, length: int) -> Int32[np.ndarray, "B T"]:
    """A stream cut into blocks, each between the opening and closing tokens; what is left over is dropped."""
    inner = length - len(vocabulary.opening) - len(vocabulary.closing)
    if inner < 1:
        raise InvalidInput(
            f"blocks of {length} tokens leave no room for text; expected at least {length - inner + 1}"
        )
    body = stream[: len(stream) // inner * inner].reshape(-1, inner)
    first, last = (
        np.tile(np.array(e, np.int32), (len(body), 1)) for e in (vocabulary.opening, vocabulary.closing)
    )
    return np.concatenate([first, body, last], axis=1)


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which one epoch reads its blocks."""
    drawn = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    drawn.flags.writeable = False
    return drawn


def step_blocks(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """The blocks that one step reads: the next `batch` of an endless row of epochs."""
    first = step * batch
    epochs = range(first // count, (first + batch - 1) // count + 1)
    read = np.concatenate([order(seed, epoch, count) for epoch in epochs])
    at = first - epochs[0] * count
    return read[at : at + batch]
