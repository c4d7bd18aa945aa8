# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Held-out text, as evaluation wants it: rows of tokens, which document each is of, how many bytes it spells.

Knows token ids and a tokenizer's table of bytes. Must not know denoisers, files or packing.
Axes: N rows, T sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from haloweave.diffusion.errors import TooLittleText
from haloweave.diffusion.judging.languages import LETTER, PURE, share_of_scripts

FEW_DOCUMENTS = 8
"""Below it a bootstrap over documents says little, and blocks are drawn instead."""

Decode = Callable[[list[int]], str]
"""Token ids to the text that they spell."""


@dataclass(frozen=True, eq=False)
class Held:
    """Rows that were kept from training, padded at the end. Raises TooLittleText for no token at all."""

    rows: Int[Tensor, "N T"]
    bytes: Int[np.ndarray, " N"]
    """UTF-8 bytes that each row spells."""
    scripts: tuple[str, ...]
    """devanagari, latin, mixed, other or none: of each row."""
    documents: Int[np.ndarray, " N"] | None = None
    """Which document a row is of; None where nobody knows."""
    pad_id: int | None = None
    specials: tuple[int, ...] = ()
    """Tokens that no text has: mask, padding, the end of a document, a host's control tokens."""
    eos_id: int | None = None
    """Ends a document; one of the specials."""

    def __post_init__(self) -> None:
        if not self.rows.numel() or not int(self.real.sum()) or not self.bytes.sum():
            raise TooLittleText("held-out text: expected at least one token, got none; give more text")

    @cached_property
    def real(self) -> Bool[Tensor, "N T"]:
        """Where there is a token, and no padding."""
        return self.rows != (-1 if self.pad_id is None else self.pad_id)

    @cached_property
    def tokens(self) -> Int[np.ndarray, " N"]:
        """Tokens of each row, padding not counted."""
        return self.real.sum(1).numpy()

    @cached_property
    def text(self) -> Int[np.ndarray, " N"]:
        """Tokens of each row up to the first special one: what spells text."""
        special = torch.isin(self.rows, torch.tensor(self.specials, dtype=self.rows.dtype))
        return (self.real & ~special).long().cumprod(1).sum(1).numpy()

    def never(self, mask_id: int, *, ending: bool = False, nothing: bool = False) -> tuple[int, ...]:
        """What is never to be written: nothing that no text has, but, if `ending`, the end of a document, and
        if `nothing`, the pad, by which a denoiser trained on spans says that nothing belongs into a place."""
        ids = {mask_id, *self.specials, *(() if self.pad_id is None else (self.pad_id,))}
        allowed = ({self.eos_id} if ending else set()) | ({self.pad_id} if nothing else set())
        return tuple(sorted(ids - allowed))

    def units(self, rows: Int[np.ndarray, " K"] | None = None) -> Int[np.ndarray, " K"]:
        """What a bootstrap draws again, for each of some rows (all of them if None): its document, or the row
        by itself where these rows are of few documents."""
        which = np.arange(len(self.rows)) if rows is None else rows
        return which if self.documents is None or self._few(which) else self.documents[which]

    @property
    def unit(self) -> str:
        """What `units` of all rows are."""
        return "blocks" if self.documents is None or self._few(np.arange(len(self.rows))) else "documents"

    def _few(self, rows: Int[np.ndarray, " K"]) -> bool:
        return self.documents is None or len(np.unique(self.documents[rows])) < FEW_DOCUMENTS


def held_out(
    rows: Int[Tensor, "N T"],
    bytes_per_token: Int[np.ndarray, " V"],
    decode: Decode,
    *,
    pad_id: int | None = None,
    eos_id: int | None = None,
    documents: Int[np.ndarray, " N"] | None = None,
) -> Held:
    """Rows with their bytes and scripts; rows of padding alone are left out. What has no bytes is special."""
    keep = (rows != (-1 if pad_id is None else pad_id)).any(1)
    rows = rows[keep].long()
    table = np.asarray(bytes_per_token)
    specials = tuple(np.flatnonzero(table == 0).tolist())
    scripts = tuple(script(decode([i for i in row if i != pad_id])) for row in rows.tolist())
    which = None if documents is None else documents[keep.numpy()]
    return Held(rows, table[rows.numpy()].sum(1), scripts, which, pad_id, specials, eos_id)


def script(text: str) -> str:
    """The script of a text by its letters and vowel signs; `mixed` is Hindi and Latin in one text."""
    if not LETTER.search(text):
        return "none"
    hindi, latin = share_of_scripts(text)
    for name, share in (("devanagari", hindi), ("latin", latin)):
        if share >= PURE:
            return name
    return "mixed" if hindi and latin and hindi + latin >= PURE else "other"


def per_script(held: Held) -> dict[str, Int[np.ndarray, " K"]]:
    """The rows of each script that the text has, most frequent first."""
    names = np.array(held.scripts)
    found = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def blocks_of(
    documents: Iterable[Sequence[int]], length: int, *, pad_id: int | None
) -> tuple[Int[Tensor, "N T"], Int[np.ndarray, " N"]]:
    """Documents cut into rows, none of two documents, the last of each padded; without a pad, left out.

    Also tells each row's document. Raises TooLittleText where no row is left.
    """
    rows: list[list[int]] = []
    which: list[int] = []
    for number, ids in enumerate(documents):
        for at in range(0, len(ids), length):
            row = list(ids[at : at + length])
            if len(row) == length or pad_id is not None:
                rows.append(row + [pad_id or 0] * (length - len(row)))
                which.append(number)
    if not rows:
        raise TooLittleText(f"held-out text: expected a row of {length} tokens, got none; give more text")
    return torch.tensor(rows), np.array(which)
