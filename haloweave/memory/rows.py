# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Rows of a KV cache as values outside of it: numbers that travel, and mean nothing but to their engine.

Knows numpy. Must not know engines, tokens or files. Axes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64

from haloweave.errors import InvalidInput

Image: TypeAlias = Mapping[str, np.ndarray]
"""All that a KV cache holds, as arrays of the engine's own naming: opaque to everybody else."""


@dataclass(frozen=True)
class SavedRows:
    """Some rows of a KV cache, outside of it."""

    positions: Int64[np.ndarray, " N"]
    """RoPE position that each row was computed or last turned to."""
    columns: Image
    """Arrays of the engine's own naming, all with axis 0 = rows."""

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, rows: Sequence[int] | np.ndarray) -> SavedRows:
        """The rows at these indices."""
        picked = np.asarray(rows, np.int64)
        return SavedRows(self.positions[picked], {k: v[picked] for k, v in self.columns.items()})

    @classmethod
    def concat(cls, parts: Sequence[SavedRows]) -> SavedRows:
        """The parts, one after another. Raises InvalidInput if there are none, or of different engines."""
        if not parts or any(p.columns.keys() != parts[0].columns.keys() for p in parts):
            raise InvalidInput("saved rows: expected some, all of one engine")
        columns = {k: np.concatenate([p.columns[k] for p in parts]) for k in parts[0].columns}
        return cls(np.concatenate([p.positions for p in parts]), columns)
