# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Rows that were culled together as bytes, and back: safetensors, with the uids among the columns.

Knows numpy and safetensors. Must not know where they are kept. The number of an entry comes from its bytes:
so the same number is the same rows, and bytes that were damaged are found out by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64
from safetensors import SafetensorError
from safetensors.numpy import load, save

from haloweave.errors import InvalidInput
from haloweave.memory.rows import SavedRows

_COLUMN = "column."

Entry: TypeAlias = tuple[Int64[np.ndarray, " N"], SavedRows]
"""Uids, and their rows."""


def packed(uid: Int64[np.ndarray, " N"], rows: SavedRows) -> bytes:
    """Raises InvalidInput for columns of another length, or of what are no numbers."""
    columns = {_COLUMN + name: np.asarray(column, order="C") for name, column in rows.columns.items()}
    if bad := [name for name, column in rows.columns.items() if column.shape[:1] != uid.shape]:
        raise InvalidInput(f"rows: expected {len(uid)} in each column, not so in {bad[:4]}")
    try:
        body: bytes = save({"uid": uid, "position": np.asarray(rows.positions, np.int64), **columns})
    except SafetensorError as err:
        raise InvalidInput(f"rows: a column cannot be kept: {err}") from err
    return body


def unpacked(body: bytes) -> Entry | None:
    """Inverse of `packed`; None for anything else."""
    try:
        arrays: dict[str, np.ndarray] = load(body)
        columns = {n.removeprefix(_COLUMN): a for n, a in arrays.items() if n.startswith(_COLUMN)}
        return arrays["uid"], SavedRows(arrays["position"], columns)
    except (SafetensorError, KeyError, ValueError, TypeError):
        return None


def number_of(body: bytes) -> int:
    """63 bits of its hash, and never 0."""
    return int.from_bytes(hashlib.sha256(body).digest()[:8], "little") >> 1 or 1


def runs_of(uid: Int64[np.ndarray, " N"]) -> Iterator[tuple[int, int]]:
    """First and last of each stretch of consecutive uids."""
    for run in np.split(np.sort(uid), np.flatnonzero(np.diff(np.sort(uid)) != 1) + 1):
        yield int(run[0]), int(run[-1])


def alike(rows: Sequence[SavedRows]) -> bool:
    """Whether one engine may have made all of them."""
    kinds = [{name: (a.dtype, a.shape[1:]) for name, a in each.columns.items()} for each in rows]
    return all(kind == kinds[0] for kind in kinds)
