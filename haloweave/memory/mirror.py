# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The mirror: what the KV cache holds, row for row, as tokens. The only code that changes token rows.

Knows tokens and edits. Must not know the KV cache, policies or text. An illegal call raises and
leaves the mirror unchanged.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from haloweave.errors import EditConflict, InvalidEdit, InvalidInput
from haloweave.memory.edit import Edit
from haloweave.memory.tokens import FULL, Tokens, View


class Mirror:
    """The tokens of one context. Slot i here is row i of the KV cache, always."""

    def __init__(self, view: View | None = None) -> None:
        self._view = view or View(Tokens.empty(), revision=0, tick=0, next_uid=0)

    @property
    def view(self) -> View:
        return self._view

    @property
    def rows(self) -> int:
        return len(self._view.tokens)

    def append(self, born: Tokens) -> None:
        """Tokens fed in one forward pass join at the tail; the tick advances by one."""
        v = self._view
        if not len(born):
            raise InvalidInput("append: expected at least one token, got none")
        if born.uid[0] != v.next_uid or np.any(np.diff(born.uid) != 1):
            raise InvalidEdit(f"append: expected uids from {v.next_uid} on, got {born.uid[:3].tolist()}")
        self._view = View(Tokens.concat([v.tokens, born]), v.revision + 1, v.tick + 1, v.next_uid + len(born))

    def check(self, edit: Edit) -> Tokens:
        """The tokens that `edit` would leave; raises where it does not fit, changes nothing."""
        if edit.base != self._view.revision:
            raise EditConflict(f"edit made for revision {edit.base}, the context is at {self._view.revision}")
        return edit.apply(self._view.tokens)

    def apply(self, edit: Edit) -> None:
        """Carry out one edit; provisional uids become real."""
        v = self._view
        edit = edit.stamped(v.next_uid)
        after = self.check(edit)
        next_uid = max(v.next_uid, int(edit.born_uids.max()) + 1) if len(edit.born_uids) else v.next_uid
        self._view = View(after, v.revision + 1, v.tick, next_uid)

    def shine(self, brightness: Float32[np.ndarray, " S"]) -> None:
        """Set the brightness of every slot (finite, 0..255)."""
        v = self._view
        if brightness.shape != v.tokens.uid.shape:
            raise InvalidInput(f"brightness: expected {v.tokens.uid.shape}, got {brightness.shape}")
        low, high = (float(brightness.min()), float(brightness.max())) if len(brightness) else (0.0, 0.0)
        if not (low >= 0.0 and high <= FULL):
            raise InvalidInput(f"brightness: expected 0..{FULL}, got {low}..{high}")
        self._view = View(
            v.tokens.replace(brightness=brightness.astype(np.float32)), v.revision, v.tick, v.next_uid
        )
