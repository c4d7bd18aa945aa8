# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The context that a journal tells of: the mirror as a fold over its records.

Knows records, the log and the mirror. Must not know engines or text. Brightness is not journalled: tokens
have that of the last checkpoint, or of their birth. Whatever cannot have happened raises JournalCorrupt. The
chat frame may be ahead of the tokens (text is given units before it is fed): a checkpoint has the last word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from haloweave.errors import InvalidInput, JournalCorrupt
from haloweave.journal.base import (
    Aborted,
    Born,
    Checkpoint,
    Committed,
    Record,
    Totals,
    Turn,
)
from haloweave.journal.log import Log
from haloweave.journal.records import Kind
from haloweave.memory.mirror import Mirror
from haloweave.memory.tokens import COLUMNS, Tokens, View

_NOWHERE = Checkpoint(View(Tokens.empty(), revision=0, tick=0, next_uid=0), Turn(), Totals())


def fold(start: Checkpoint | None, records: Iterable[Record]) -> Checkpoint:
    """Where `records` lead to from `start` (None: a mind that has read nothing yet)."""
    state = _Fold(start or _NOWHERE)
    waiting: Born | Committed | None = None
    for record in records:
        if isinstance(record, Aborted):
            if waiting is None:
                raise JournalCorrupt("an abort, and nothing before it that could have failed")
            waiting = None
        elif isinstance(record, Born | Committed):
            state.take(waiting)
            waiting = record
        elif isinstance(record, Checkpoint):
            state.take(waiting)
            waiting = None
            state.meet(record)
    state.take(waiting)
    return state.checkpoint


class _Fold:
    """A mirror, a chat frame and counters, on their way through a journal."""

    def __init__(self, start: Checkpoint) -> None:
        self._mirror, self._turn, self._totals = Mirror(start.view), start.turn, start.totals

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self._mirror.view, self._turn, self._totals)

    def take(self, record: Born | Committed | None) -> None:
        """A record of which it is certain that no abort follows."""
        try:
            if isinstance(record, Born):
                self._mirror.append(record.tokens)
                self._turn = record.turn or self._turn
                self._totals = self._totals.after_birth(record)
            elif record is not None:
                self._mirror.apply(record.edit)
                self._totals = self._totals.after_edit(record.edit)
        except InvalidInput as err:
            raise JournalCorrupt(f"the journal contradicts itself: {err}; restore a backup") from err

    def meet(self, told: Checkpoint) -> None:
        """A checkpoint names the same tokens, and knows more of the rest."""
        if wrong := _difference(self._mirror.view, told.view):
            raise JournalCorrupt(
                f"the journal contradicts its checkpoint at tick {told.view.tick}: {wrong}; restore a backup"
            )
        self._mirror, self._turn, self._totals = Mirror(told.view), told.turn, told.totals


def _difference(here: View, there: View) -> str:
    """What the two do not agree in, brightness apart; empty if nothing."""
    names = [n for n in ("revision", "tick", "next_uid") if getattr(here, n) != getattr(there, n)]
    columns = [n for n in COLUMNS if n != "brightness"]
    a, b = here.tokens, there.tokens
    return ", ".join([*names, *(n for n in columns if not np.array_equal(getattr(a, n), getattr(b, n)))])


# ---- over a log ------------------------------------------------------------------------------------------


def context_at(log: Log, seq: int | None = None) -> Checkpoint:
    """The context as the journal tells it right after record `seq` (default: the newest).

    Brightness is that of the last checkpoint before; what was born since has the brightness of its birth.
    """
    found = log.checkpoint(at=seq)
    after, start = found if found else (0, None)
    return fold(start, happened(log, after, seq))


def happened(log: Log, after: int = 0, until: int | None = None) -> Iterator[Record]:
    """The records with after < seq <= until that happened: no aborts, and nothing that they took back."""
    for seq, record in log.records(after, until):
        if seq not in log.aborted and not isinstance(record, Aborted):
            yield record


def happened_before(log: Log, seq: int) -> Iterator[Record]:
    """The records with a smaller number that happened, newest first."""
    for number, record in log.backwards(seq):
        if number not in log.aborted and not isinstance(record, Aborted):
            yield record


def seq_at(log: Log, tick: int) -> int:
    """The newest record of which the context was at `tick`, edits of that tick included.

    Raises InvalidInput for a tick that never was.
    """
    newest = context_at(log).view.tick
    if not 0 <= tick <= newest:
        raise InvalidInput(f"tick: expected 0..{newest}, got {tick}")
    seq = log.seq_at_tick(tick - 1)
    for row in log.rows(after=seq):
        if row.kind == Kind.BORN and row.seq not in log.aborted:
            break
        seq = row.seq
    return seq
