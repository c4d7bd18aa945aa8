# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Bringing a mind back: from its newest snapshot and what the journal tells since, or from the journal alone.

Knows minds, the log and snapshots. Must not know backends or screens. A snapshot gives every number back, and
replaying gives every number that followed; without one, the tokens are prefilled afresh, which is near but
not the same. Which of these it was is always told, and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from haloweave.errors import EngineError, InvalidInput, JournalCorrupt, JournalError, ModelCorrupt
from haloweave.history import KEPT, Step
from haloweave.journal.base import Born, Checkpoint, Committed, Record, State
from haloweave.journal.fold import context_at, happened, happened_before
from haloweave.journal.keeper import Keeper
from haloweave.journal.log import Log
from haloweave.journal.snapshot import Snapshot
from haloweave.memory.tokens import View
from haloweave.mind import Mind

_UNUSABLE = (JournalError, ModelCorrupt, InvalidInput, EngineError)


@dataclass(frozen=True)
class Resumed:
    """How a mind came back."""

    how: Literal["new", "snapshot", "replayed", "reread"]
    passes: int = 0
    """Passes and edits repeated from the journal."""
    prefilled: int = 0
    """Tokens read again, without what they had learned from the culled."""
    why: str = ""
    """What kept it from being brought back from a snapshot, or from the newest one."""

    def __str__(self) -> str:
        told = {
            "new": "a new mind",
            "snapshot": "as it was, from its snapshot",
            "replayed": f"as it was: its snapshot, and {self.passes} passes and edits repeated",
            "reread": f"its {self.prefilled} tokens read again; what they knew of culled text is lost",
        }[self.how]
        return f"{told} ({self.why})" if self.why else told


def resume(mind: Mind, keeper: Keeper) -> Resumed:
    """Bring `mind`, which has read nothing yet, to where its journal ends.

    Finishes a redaction that was broken off, or notes why it cannot. Raises JournalCorrupt if the journal
    cannot be read, InvalidInput if the context is larger than the mind's budget.
    """
    if not keeper.log.last:
        return Resumed("new")
    found = _from_snapshots(mind, keeper)
    if isinstance(found, str):
        found = _reread(mind, keeper.log, found or "there is no snapshot")
    keeper.resumed(found.passes)
    if found.how == "reread":
        keeper.snapshot(mind.state())  # older ones cannot lead here any more
    try:
        keeper.finish_redaction(mind.state)
    except JournalError as err:  # no reason not to wake, but to be told of, each time
        if keeper.log.failed:
            raise
        keeper.note(str(err))
    return found


def _from_snapshots(mind: Mind, keeper: Keeper) -> Resumed | str:
    """From the newest snapshot that can be used; what is wrong with the newest if none can, empty if there
    is none."""
    why = ""
    for snapshot in keeper.shelf.all():
        try:
            state = _state(keeper, snapshot)
            steps = steps_before(keeper.log, snapshot.seq, state.checkpoint.view)
            since = list(happened(keeper.log, snapshot.seq))
            mind.resume(state, steps, since, _last_before(keeper.log, snapshot.seq))
        except _UNUSABLE as err:
            why = why or str(err)
            continue
        passes = sum(not isinstance(r, Checkpoint) for r in since)
        return Resumed("replayed" if passes else "snapshot", passes=passes, why=why)
    return why


def _state(keeper: Keeper, snapshot: Snapshot) -> State:
    """What a snapshot and its checkpoint tell. Raises JournalError."""
    found = keeper.log.checkpoint(at=snapshot.seq)
    if found is None or found[0] != snapshot.seq:
        raise JournalCorrupt(f"snapshot {snapshot.seq}: the journal has no checkpoint of that number")
    return State(found[1], *keeper.shelf.read(snapshot, keeper.fingerprint, found[1]))


def _last_before(log: Log, seq: int) -> Record | None:
    """The birth or edit before record `seq`: a snapshot may be of the midst of a weave, and only that edit
    tells how far it still has to go."""
    return next((r for r in happened_before(log, seq) if isinstance(r, Born | Committed)), None)


def _reread(mind: Mind, log: Log, why: str) -> Resumed:
    told = context_at(log)
    last = _last_before(log, log.last + 1)
    mind.reread(told, steps_before(log, log.last, told.view), last)
    return Resumed("reread", prefilled=len(told.view.tokens), why=why)


def steps_before(log: Log, seq: int, view: View) -> tuple[Step, ...]:
    """The last revisions before record `seq`, at which the context was `view`: what can still be undone."""
    rows, revision = len(view.tokens), view.revision
    steps: list[Step] = []
    for record in happened_before(log, seq + 1):
        if isinstance(record, Born):
            rows, revision = rows - len(record.tokens), revision - 1
            if steps and steps[-1].edit is None:
                steps.pop()
            steps.append(Step(revision, rows, None))
        elif isinstance(record, Committed):
            if record.redacts:
                break  # nothing before a redaction can be undone
            rows, revision = rows - record.edit.growth, revision - 1
            steps.append(Step(revision, rows, record.edit, record.takes_back))
        if len(steps) > KEPT:
            break
    return tuple(reversed(steps[:KEPT]))
