# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What came after: carries an edit made for an earlier revision to the present one, and takes edits back.

Knows edits. Must not know engines or text. Bounded: what is older than `keep` revisions is forgotten,
and an edit made for it is refused rather than guessed at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from haloweave.errors import EditConflict, InvalidEdit
from haloweave.memory.edit import Edit

KEPT = 128
"""Revisions that are remembered, neighbouring appends counted as one."""


@dataclass(frozen=True)
class Step:
    """One revision: `edit` is None where tokens were appended. `rows` are those before it."""

    revision: int
    rows: int
    edit: Edit | None
    takes_back: int | None = None
    """Revision of the step that this one undid."""


class History:
    """The last revisions of one context."""

    def __init__(self, keep: int = KEPT, steps: Iterable[Step] = ()) -> None:
        self._steps: deque[Step] = deque(maxlen=keep)
        self._settled: set[int] = set()
        for step in steps:
            self._steps.append(replace(step, takes_back=None))
            if step.takes_back is not None:
                self.took_back(step.takes_back)

    def appended(self, revision: int, rows: int) -> None:
        """At `revision`, with `rows` rows, tokens were appended. Neighbouring appends cost one entry."""
        if not self._steps or self._steps[-1].edit is not None:
            self._steps.append(Step(revision, rows, None))

    def edited(self, edit: Edit, rows: int) -> None:
        """`edit` was carried out on `rows` rows."""
        self._steps.append(Step(edit.base, rows, edit))

    def forward(self, edit: Edit, revision: int) -> Edit:
        """The edit as it reads at `revision`. Raises EditConflict if a later edit touched its places, or
        if it is older than this history."""
        if edit.base == revision:
            return edit
        if edit.base > revision or not self._steps or edit.base < self._steps[0].revision:
            raise EditConflict(
                f"edit made for revision {edit.base}, the context is at {revision}: look again"
            )
        for step in self._since(edit.base):
            if step.edit is not None:
                edit = edit.shifted(step.revision).over(step.edit, step.rows)
        return edit.shifted(revision)

    def _since(self, revision: int) -> list[Step]:
        """Steps from `revision` on, without edits that were taken back before any other edit came."""
        left: list[Step] = []
        for step in self._steps:
            if step.edit is None or step.revision < revision:
                continue
            if left and step.takes_back == left[-1].revision:
                left.pop()
            else:
                left.append(step)
        return left

    def undo(self, revision: int) -> tuple[Edit, int]:
        """The edit that takes back the newest one not yet taken back, and a key for `took_back`.

        Raises InvalidEdit if there is none, EditConflict if a later edit touched its places.
        """
        for step in reversed(self._steps):
            if step.edit is not None and step.revision not in self._settled:
                return self.forward(step.edit.inverse(), revision), step.revision
        raise InvalidEdit("there is nothing left to undo")

    def took_back(self, key: int) -> None:
        """The undo with this key was carried out, as the newest edit: neither is to be undone again."""
        last = self._steps.pop()
        self._steps.append(replace(last, takes_back=key))
        alive = {step.revision for step in self._steps}
        self._settled = (self._settled | {key, last.revision}) & alive
