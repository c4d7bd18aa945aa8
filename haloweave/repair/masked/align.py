# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Host tokens beside a masked LM's tokens, by character offsets.

Knows bytes, characters and intervals. Must not know models, heat or proposals. Axes: W host tokens of a
window, T tokens of the masked LM.

    host   | The| love|ly|  caf|é|!"|        spaces belong to tokens
    MLM    | the| lovely | cafe | !|"|       spaces belong to nobody
    blocks   ---  -------  -----  ---        the finest cut on which both agree

A block is where intervals overlap; inside it neither side can be changed alone.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int32, Int64

from haloweave.repair.masked.subwords import Subwords
from haloweave.text import Codec


@dataclass(frozen=True)
class Block:
    """A run of host tokens and the run of MLM tokens that says the same."""

    host: slice
    mlm: slice
    start: int
    """First character, spaces left out."""
    stop: int
    usable: bool
    """False if the masked LM does not see all of it, or a host token holds part of a character."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """One window as both tokenizers see it."""

    ids: Int32[np.ndarray, " W"]
    pieces: tuple[bytes, ...]
    control: Bool[np.ndarray, " W"]
    text: str
    """As the masked LM reads it: a control token is a line break, broken bytes are U+FFFD."""
    spans: Int64[np.ndarray, "W 2"]
    """The characters that end in each host token."""
    whole: Bool[np.ndarray, " W"]
    """True for tokens that hold whole characters only."""
    mlm_ids: Int64[np.ndarray, " T"]
    mlm_spans: Int64[np.ndarray, "T 2"]
    blocks: tuple[Block, ...]
    block_of: Int64[np.ndarray, " W"]
    """Index of each host token's block, -1 for one that has none (spaces, control tokens)."""
    joint: Bool[np.ndarray, " W1"]
    """True for boundaries at which both sides may be cut, the ends of the window included."""

    def __len__(self) -> int:
        return len(self.ids)

    def gaps(self, mlm: slice) -> list[str]:
        """The spaces between some MLM tokens."""
        spans = self.mlm_spans[mlm].tolist()
        return [self.text[a[1] : b[0]] for a, b in pairwise(spans)]

    def spell(self, run: slice) -> str | None:
        """The text of some host tokens; None if it is not whole characters, or a control token is among
        them."""
        if self.control[run].any():
            return None
        try:
            return b"".join(self.pieces[run]).decode()
        except UnicodeDecodeError:
            return None


def align(codec: Codec, subwords: Subwords, ids: Int32[np.ndarray, " W"]) -> Alignment:
    """Spell a window, encode it for the masked LM, and find the blocks on which both agree."""
    control = np.isin(ids, list(codec.control_ids))
    pieces = tuple(codec.piece(int(i)) for i in ids)
    text, spans, whole, cut = _characters(pieces, control)
    mlm_ids, mlm_spans = subwords.encode(text)
    bare = np.array([_bare(text, *span) for span in spans.tolist()], np.int64).reshape(-1, 2)
    bare[control] = 0
    hidden = _hidden(text, mlm_spans, subwords.strips_marks)
    unknown = mlm_ids == (-1 if subwords.unknown is None else subwords.unknown)
    blocks = []
    for start, stop, hosts, mlms in _overlaps(bare, mlm_spans):
        host, mlm = slice(min(hosts), max(hosts) + 1), slice(min(mlms), max(mlms) + 1)
        seen = not hidden[start:stop].any() and not unknown[mlm].any()
        blocks.append(Block(host, mlm, start, stop, seen and bool(whole[host].all())))
    block_of = np.full(len(ids), -1, np.int64)
    joint = ~cut
    for n, block in enumerate(blocks):
        block_of[block.host] = n
        joint[block.host.start + 1 : block.host.stop] = False
    return Alignment(
        ids=ids,
        pieces=pieces,
        control=control,
        text=text,
        spans=spans,
        whole=whole,
        mlm_ids=mlm_ids,
        mlm_spans=mlm_spans,
        blocks=tuple(blocks),
        block_of=block_of,
        joint=joint,
    )


def _characters(
    pieces: Sequence[bytes], control: Bool[np.ndarray, " W"]
) -> tuple[str, Int64[np.ndarray, "W 2"], Bool[np.ndarray, " W"], Bool[np.ndarray, " W1"]]:
    """The text, the characters that each token completes, which tokens are whole characters, and which
    boundaries stand inside a character."""
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    text, spans = "", np.zeros((len(pieces), 2), np.int64)
    whole, cut = np.zeros(len(pieces), np.bool_), np.zeros(len(pieces) + 1, np.bool_)
    for n, piece in enumerate(pieces):
        said = utf8.decode(b"" if control[n] else piece, final=bool(control[n])) + "\n" * bool(control[n])
        cut[n + 1] = bool(utf8.getstate()[0])
        whole[n] = not (control[n] or cut[n] or cut[n + 1]) and said.encode() == piece
        spans[n] = len(text), len(text) + len(said)
        text += said
    return text + utf8.decode(b"", final=True), spans, whole, cut


def _bare(text: str, start: int, stop: int) -> tuple[int, int]:
    """A span without the spaces at its ends."""
    inner = text[start:stop]
    left = len(inner) - len(inner.lstrip())
    return start + left, max(start + left, start + len(inner.rstrip()))


def _hidden(text: str, mlm_spans: Int64[np.ndarray, "T 2"], strips_marks: bool) -> Bool[np.ndarray, " C"]:
    """Characters that the masked LM does not see: what its normaliser dropped, spaces aside."""
    hidden = np.array([not c.isspace() for c in text], np.bool_)
    for start, stop in mlm_spans.tolist():
        hidden[start:stop] = False
    if strips_marks:
        hidden |= np.array([unicodedata.category(c) == "Mn" for c in text], np.bool_)
    return hidden


def _overlaps(
    host: Int64[np.ndarray, "W 2"], mlm: Int64[np.ndarray, "T 2"]
) -> list[tuple[int, int, list[int], list[int]]]:
    """Merge intervals that overlap; keep what has members on both sides, in the order of the text."""
    spans = [(int(a), int(b), side, n) for side, s in ((0, host), (1, mlm)) for n, (a, b) in enumerate(s)]
    merged: list[tuple[int, int, tuple[list[int], list[int]]]] = []
    for start, stop, side, n in sorted(s for s in spans if s[1] > s[0]):
        if not merged or start >= merged[-1][1]:
            merged.append((start, stop, ([], [])))
        first, last, members = merged[-1]
        members[side].append(n)
        merged[-1] = (first, max(last, stop), members)
    return [(a, b, hosts, mlms) for a, b, (hosts, mlms) in merged if hosts and mlms]
