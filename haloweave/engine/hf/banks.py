# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One query against an arena that is cut into two banks of rows, so that the threads share the work evenly.

A batched product gives each thread whole key heads: of three heads on two threads one thread gets two, and
the other waits. The same memory [H, C, D], seen as [2 H, C / 2, D], is six products of half the length.
That reads the rows that are not filled yet, too; so it pays only where there are few of them.

Knows tensors. Must not know passes, layers or the tap. What lies behind the rows that count may be anything
finite: it gets a weight of zero, and zero times NaN would be NaN.
"""

from __future__ import annotations

from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

_EVEN = 4
"""Queries of a head are filled up to a multiple of this: four are faster than three (3.7 ms against 4.2)."""
_LONG = 2048
"""Rows below which a product is too short for sharing to matter."""
_FULL = 0.75
"""Part of the arena that must be filled."""


def pays(heads: int, rows: int, capacity: int, threads: int) -> bool:
    """Whether the busiest thread has less to read this way, and all together hardly more. `capacity` (C) is
    even. Measured for three heads on two threads; with fewer heads than threads the library divides
    a product itself."""
    if heads <= threads or rows < max(_LONG, _FULL * capacity):
        return False
    return ceil(2 * heads / threads) * (capacity // 2) < ceil(heads / threads) * rows


def scores(q: Float[Tensor, "H G D"], key: Float[Tensor, "H C D"], rows: int) -> Float[Tensor, "H G S"]:
    """q k for the first S = `rows` rows."""
    heads, groups, width = q.shape
    twice = q[:, None].expand(heads, 2, groups, width).reshape(2 * heads, groups, width)
    every = torch.bmm(_banks(key), twice.transpose(1, 2))  # queries laid out as rows: three times as fast
    return every.view(heads, -1, groups)[:, :rows].transpose(1, 2).contiguous()


def mixed(weights: Float[Tensor, "H G S"], value: Float[Tensor, "H C D"]) -> Float[Tensor, "H G D"]:
    """Values of the first S rows by their weights."""
    heads, groups, rows = weights.shape
    half = value.shape[1] // 2
    split = weights.new_zeros((heads, 2, _EVEN * ceil(groups / _EVEN), half))
    split[:, 0, :groups] = weights[:, :, :half]
    split[:, 1, :groups, : rows - half] = weights[:, :, half:]
    parts = torch.bmm(split.view(2 * heads, -1, half), _banks(value)).view(heads, 2, -1, value.shape[2])
    return parts.sum(1)[:, :groups]


def _banks(arena: Float[Tensor, "H C D"]) -> Float[Tensor, "2H C/2 D"]:
    heads, capacity, width = arena.shape
    return arena.view(2 * heads, capacity // 2, width)
