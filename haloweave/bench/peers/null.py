# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""An engine that computes nothing: a mind over it only keeps books of its tokens.

Knows the protocols of engines. Must not know models. Axes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from haloweave.engine.base import Capabilities, Forward
from haloweave.errors import CapacityExceeded, ModelCorrupt, SurgeryUnsupported
from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.rows import Image, SavedRows

_ANY = int(np.iinfo(np.int32).max)
"""Its vocabulary: it refuses no token."""


@dataclass(eq=False)
class NullEngine:
    """Counts rows. It is its own KV cache, which knows no surgery: a budget that is never met needs none."""

    max_rows: int
    """Most rows it may be asked to hold; holding them costs nothing."""
    rows: int = 0
    surgeries: frozenset[Surgery] = frozenset()
    _even: Float32[np.ndarray, " V"] = field(default_factory=lambda: np.zeros(1, np.float32), repr=False)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("null", self.surgeries, self.max_rows, _ANY, 0, "none", "none")

    @property
    def kv(self) -> NullEngine:
        return self

    def feed(self, ids: Sequence[int] | np.ndarray, *, score: bool = False) -> Forward:
        if self.rows + len(ids) > self.max_rows:
            raise CapacityExceeded(f"{self.rows} + {len(ids)} rows, expected at most {self.max_rows}")
        self.rows += len(ids)
        return Forward(self._even, None)

    def reread(self) -> Forward:
        return Forward(self._even, None)

    def apply(self, edit: Edit, rows: SavedRows | None = None) -> None:
        raise SurgeryUnsupported(f"nothing to edit here: {edit.surgery.name}")

    def rebuild(self, ids: Sequence[int] | np.ndarray) -> None:
        self.rows = len(ids)

    def save(self, slots: Sequence[int] | np.ndarray) -> SavedRows:
        raise SurgeryUnsupported("nothing to save here")

    def dump(self) -> Image:
        return {"rows": np.array([self.rows])}

    def load(self, image: Image) -> None:
        if image.keys() != {"rows"}:
            raise ModelCorrupt(f"expected a count of rows, got {sorted(image)}")
        self.rows = int(image["rows"][0])
