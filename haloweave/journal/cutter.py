# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Follows the journal: cuts what is born into passages, archives a passage when its first token leaves, notes
who left, when and from between whom.

Knows records and the tables `passages`, `runs`, `recalls`. Must not know how anything is found. All is
written in the transaction of the record itself: so text is archived before it is culled, and an abort takes
it back.

What it holds in memory (who lives, which stretch is open) follows from the journal, and is made from it again
after opening and after an abort.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apsw
import numpy as np
from jaxtyping import Int64

from haloweave.journal.base import Aborted, Born, Committed, Record
from haloweave.journal.index import Index
from haloweave.journal.log import Log
from haloweave.journal.passages import NEVER, Bit, Passage, Stretch, advance, bits, passage, spelt
from haloweave.journal.runs import Run, alive_after, leaving, packed_runs
from haloweave.memory.edit import Edit
from haloweave.memory.tokens import Source

COLUMNS = "id, last_uid, source, unit, first_tick, last_tick, text, holes"
"""Of the table `passages`, as `from_row` wants them."""


@dataclass(frozen=True)
class _State:
    alive: Int64[np.ndarray, " S"]
    """Uids in the context, by slot."""
    open: Stretch


class Cutter:
    """Of one log's archive."""

    def __init__(self, log: Log, index: Index) -> None:
        self._log, self._index = log, index
        self._state: _State | None = None
        """None: to be made from the journal."""

    # ---- following ---------------------------------------------------------------------------------

    def follow(self, db: apsw.Connection, seq: int, record: Record) -> None:
        """See `Follower.follow`."""
        if isinstance(record, Aborted):
            self._take_back(db, seq)
            self._state = None
            return
        state = self._state or self._made(db)
        if isinstance(record, Born):
            state = self._born(db, seq, record, state)
        elif isinstance(record, Committed):
            state = self._edited(db, seq, record.edit, state)
        self._state = replace(state, alive=alive_after(state.alive, record))

    def _born(self, db: apsw.Connection, seq: int, record: Born, state: _State) -> _State:
        closed, open_ = advance(state.open, bits(record))
        for stretch in closed:
            _keep(db, seq, passage(stretch))
        if record.origin:
            uid = record.tokens.uid
            span = int(uid[0]), int(uid[-1])
            db.execute("INSERT INTO recalls VALUES (?, ?, ?, ?)", (record.origin, seq, *span))
        return replace(state, open=open_)

    def _edited(self, db: apsw.Connection, seq: int, edit: Edit, state: _State) -> _State:
        runs = list(leaving(state.alive, edit))
        if any(run.first_uid <= bit.uid <= run.last_uid for bit in state.open for run in runs):
            _keep(db, seq, passage(state.open))
            state = replace(state, open=())
        self._gone(db, seq, runs)
        return state

    def _gone(self, db: apsw.Connection, seq: int, runs: Iterable[Run]) -> None:
        """Note who left, by passage, and archive those passages."""
        left: dict[int, list[Run]] = {}
        for run in runs:
            for number, owner, part in _parts(db, run):
                left.setdefault(number, []).append(part)
                db.execute("UPDATE passages SET culled = ? WHERE id = ? AND culled IS NULL", (seq, number))
                if owner is not None and db.changes():
                    self._index.enter(owner)
        rows = [(number, seq, packed_runs(parts, number - 1)) for number, parts in left.items()]
        db.executemany("INSERT INTO runs VALUES (?, ?, ?)", rows)

    # ---- taking back -------------------------------------------------------------------------------

    def _take_back(self, db: apsw.Connection, abort: int) -> None:
        """Whatever the record before an abort brought about."""
        seqs = (seq for seq, record in self._log.backwards(abort) if isinstance(record, Born | Committed))
        self._forget(db, next(seqs))

    def cut(self, db: apsw.Connection, seq: int) -> None:
        """See `Follower.cut`."""
        self._forget(db, seq + 1)
        self._index.reword(_archived(db))  # no beginnings of words that were never said
        self._state = None

    def _forget(self, db: apsw.Connection, first: int) -> None:
        """Whatever came about by record `first`, or a later one."""
        entered = db.execute(f"SELECT {COLUMNS} FROM passages WHERE culled >= ?", (first,)).fetchall()
        for row in entered:
            self._index.leave(from_row(row))
        db.execute("UPDATE passages SET culled = NULL WHERE culled >= ?", (first,))
        for table, column in (("passages", "closed"), ("runs", "seq"), ("recalls", "seq")):
            db.execute(f"DELETE FROM {table} WHERE {column} >= ?", (first,))

    def _made(self, db: apsw.Connection) -> _State:
        """The state after all records there are."""
        aborted, found = self._log.aborted, self._log.checkpoint()
        after, alive = (found[0], found[1].view.tokens.uid) if found else (0, np.empty(0, np.int64))
        for seq, record in self._log.records(after):
            if seq not in aborted:
                alive = alive_after(alive, record)
        newest = db.execute("SELECT last_uid FROM passages ORDER BY id DESC LIMIT 1").get
        last = -1 if newest is None else int(newest)
        closed, open_ = advance((), reversed(list(self._unclosed(last))))
        none_yet = newest is None and self._log.last > 0
        if none_yet or closed or not np.isin([bit.uid for bit in open_], alive).all():
            return self._again(db)  # somebody wrote to the log without an archive
        return _State(alive, open_)

    def rebuild(self, db: apsw.Connection) -> None:
        """Everything anew from the records; vectors of passages that come out the same are kept."""
        self._state = self._again(db)

    def _again(self, db: apsw.Connection) -> _State:
        vectors = self._index.clear()
        db.execute("DELETE FROM passages; DELETE FROM runs; DELETE FROM recalls")
        self._state = _State(np.empty(0, np.int64), ())
        aborted = self._log.aborted
        for seq, record in self._log.records():
            if seq not in aborted and not isinstance(record, Aborted):
                self.follow(db, seq, record)
        self._index.bring_back(vectors)
        return self._state

    def _unclosed(self, last: int) -> Iterator[Bit]:
        """The tokens of the open stretch, newest first; `last` is the end of the newest passage."""
        source: int | None = None
        aborted = self._log.aborted
        for seq, record in self._log.backwards(self._log.last + 1):
            for bit in reversed(bits(record)) if isinstance(record, Born) and seq not in aborted else ():
                if bit.uid <= last or bit.source in NEVER or source not in (None, bit.source):
                    return
                source = bit.source
                yield bit

    # ---- redaction ---------------------------------------------------------------------------------

    def scrubbed(self, db: apsw.Connection, uids: Iterable[int]) -> None:
        """See `Follower.scrubbed`: passages are told anew from records that say nothing of these."""
        owners = {owner.id: owner for uid in uids if (owner := _owner(db, uid)[0]) is not None}
        for number, owner in owners.items():
            pieces = self._log.pieces(owner.uids)
            text = spelt(pieces.get(uid, b"") for uid in owner.uids)
            if text != owner.text:
                db.execute("UPDATE passages SET text = ? WHERE id = ?", (text, number))
                culled = db.execute("SELECT culled FROM passages WHERE id = ?", (number,)).get
                self._index.outdated(number, again=culled is not None and not replace(owner, text=text).blank)
        if owners:
            self._index.reword(_archived(db))
        self._state = None


def _archived(db: apsw.Connection) -> Iterator[Passage]:
    """Every archived passage, oldest first."""
    for row in db.execute(f"SELECT {COLUMNS} FROM passages WHERE culled IS NOT NULL ORDER BY id"):
        yield from_row(row)


def from_row(row: tuple[Any, ...]) -> Passage:
    """A passage from its COLUMNS."""
    number, last, source, unit, first_tick, last_tick, text, holes = row
    gaps = tuple((a, b) for a, b in json.loads(holes)) if holes else ()
    return Passage(number, number - 1, last, Source(source), unit, first_tick, last_tick, text, gaps)


def _keep(db: apsw.Connection, seq: int, kept: Passage) -> None:
    holes = json.dumps(kept.holes) if kept.holes else None
    ticks = kept.first_tick, kept.last_tick
    values = (kept.id, kept.last_uid, int(kept.source), kept.unit, *ticks, kept.text, holes, seq)
    db.execute(f"INSERT INTO passages ({COLUMNS}, closed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def _parts(db: apsw.Connection, run: Run) -> Iterator[tuple[int, Passage | None, Run]]:
    """A run in parts that lie in one passage each, or in none; each with the number it is kept under."""
    first = run.first_uid
    while first <= run.last_uid:
        owner, upto = _owner(db, first)
        last = min(upto, run.last_uid)
        yield first + 1 if owner is None else owner.id, owner, replace(run, first_uid=first, last_uid=last)
        first = last + 1


def _owner(db: apsw.Connection, uid: int) -> tuple[Passage | None, int]:
    """The passage that a token is part of, and the last uid from there on of which the same can be said."""
    row = db.execute(f"SELECT {COLUMNS} FROM passages WHERE id <= ? ORDER BY id DESC LIMIT 1", (uid + 1,)).get
    if row is not None:
        found = from_row(row)
        if found.holds(uid):
            return found, min([found.last_uid, *(first - 1 for first, _ in found.holes if first > uid)])
        if uid < found.last_uid:
            return None, next(last for first, last in found.holes if first <= uid <= last)
    after = db.execute("SELECT id FROM passages WHERE id > ? ORDER BY id LIMIT 1", (uid + 1,)).get
    return None, 2**62 if after is None else int(after) - 2
