# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What goes into a masked LM and what comes out: rows of ids and heat, and guesses at their positions.

Knows numpy. Must not know torch, host tokens or text. Axes: T tokens of a row, N positions asked for,
K choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

MASKED = 1.0
"""The heat at which nothing is left of a token."""


@dataclass(frozen=True, eq=False)
class Row:
    """One text for the masked LM, without the tokens that frame it."""

    ids: Int64[np.ndarray, " T"]
    heat: Float32[np.ndarray, " T"]
    at: Int64[np.ndarray, " N"]
    """Positions asked for."""
    old: Int64[np.ndarray, " N"]
    """What stands there now; its likelihood is told too."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Guess:
    """What a masked LM says at the positions of one row; log probabilities in nats."""

    ids: Int64[np.ndarray, "N K"]
    """The likeliest first."""
    nats: Float32[np.ndarray, "N K"]
    old: Float32[np.ndarray, " N"]
    """Of what stood there."""

    def __len__(self) -> int:
        return len(self.ids)


def cut(row: Row, room: int) -> list[tuple[Row, Int64[np.ndarray, " N"]]]:
    """A row in overlapping pieces of at most `room` tokens, and which of its positions each answers: every
    position is asked for once, where it has most text on its poorer side."""
    if len(row) <= room:
        return [(row, np.arange(len(row.at)))]
    starts = np.unique([*range(0, len(row) - room, max(1, room // 2)), len(row) - room])
    left = row.at[None, :] - starts[:, None]
    right = room - 1 - left
    inside = (left >= 0) & (right >= 0)
    left = np.where(starts[:, None] == 0, room, left)
    right = np.where(starts[:, None] + room == len(row), room, right)
    best = np.where(inside, np.minimum(left, right), -1).argmax(0)
    pieces = []
    for n, start in enumerate(starts.tolist()):
        mine = np.flatnonzero(best == n)
        here = slice(start, start + room)
        piece = Row(row.ids[here], row.heat[here], row.at[mine] - start, row.old[mine])
        pieces.append((piece, mine))
    return [p for p in pieces if len(p[1])]


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in batches of like length that hold at most `tokens` tokens, padding included; a row that is
    longer goes alone."""
    batch: list[int] = []
    for n in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch
