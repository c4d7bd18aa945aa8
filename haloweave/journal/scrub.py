# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Redaction inside the database: text and ids of some tokens leave every byte of its files; their uids stay.

Knows the log, its rows, and records. Must not know what else a mind keeps on disk. A redacted token keeps its
uid, place, unit and pins, has the id REDACTED and spells nothing: so the fold over the records goes on.

    promise   with the record that redacts: its uids are pending, durable with it
    rewrite   one transaction: no record names them, followers have forgotten them; the mark moves on
    vacuum    the file is written anew, without the pages that held them, and the -wal is cut to nothing
    keep      the mark goes

Whatever is broken off is found pending by the next call, which repeats at most what harms nobody. What never
happened (an aborted birth or edit) is forgotten whole on that occasion: its uids may mean other tokens now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import apsw
import numpy as np
from jaxtyping import Bool, Int64

from haloweave.errors import JournalFailed
from haloweave.journal.base import Born, Checkpoint, Committed, Pieces, Record
from haloweave.journal.records import Kind, Row, pack, unpack
from haloweave.memory.edit import Splice
from haloweave.memory.tokens import Tokens

REDACTED = -1
"""Token id of a token that was redacted: it had one, and nobody can tell which."""


class Follower(Protocol):
    """Whoever keeps something of its own beside the records."""

    def scrubbed(self, db: apsw.Connection, uids: set[int]) -> None:
        """See `log.Follower.scrubbed`."""
        ...


class Scrubbed(Protocol):
    """As much of a log as a redaction needs."""

    @property
    def path(self) -> Path: ...

    @property
    def followers(self) -> Sequence[Follower]: ...

    @property
    def aborted(self) -> frozenset[int]: ...

    def transaction(self) -> AbstractContextManager[apsw.Connection]: ...

    def outside(self) -> AbstractContextManager[apsw.Connection]: ...

    def pending(self) -> tuple[int, ...]: ...

    def rows(self, after: int = 0, until: int | None = None) -> Iterator[Row]: ...

    def born_at(self, uid: int) -> int: ...


def promise(db: apsw.Connection, record: Record, undone: Record | None) -> None:
    """Note what `record` redacts; or, where it aborts a record, no longer what that one did."""
    if isinstance(record, Committed):
        _note(db, record.redacts)
    if isinstance(undone, Committed):
        db.executemany("DELETE FROM pending WHERE uid = ?", [(uid,) for uid in undone.redacts])


def scrub(log: Scrubbed, uids: Sequence[int]) -> None:
    """See `Log.scrub`."""
    if len(uids):
        with log.transaction() as db:
            _note(db, uids)
    if not log.pending():
        return
    with log.transaction() as db:
        promised = {uid for (uid,) in db.execute("SELECT uid FROM pending WHERE NOT rewritten")}
        if promised:
            for row in _rewritten(log, promised):
                db.execute(
                    "UPDATE records SET text = ?, body = ? WHERE seq = ?", (row.text, row.body, row.seq)
                )
            for follower in log.followers:
                follower.scrubbed(db, promised)
            db.execute("UPDATE pending SET rewritten = 1")
    with log.outside() as db:
        db.execute("VACUUM")
        _empty_wal(db, log)
    with log.transaction() as db:
        db.execute("DELETE FROM pending WHERE rewritten")


def _empty_wal(db: apsw.Connection, log: Scrubbed) -> None:
    """Raises JournalFailed, and the log lives, if a reader holds on to old pages."""
    try:
        db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.BusyError as err:
        raise JournalFailed(
            f"{log.path}: not wholly redacted yet, as another program is reading it: end that, redact again"
        ) from err


def _note(db: apsw.Connection, uids: Sequence[int]) -> None:
    db.executemany("INSERT OR REPLACE INTO pending (uid) VALUES (?)", [(int(uid),) for uid in uids])


def _rewritten(log: Scrubbed, uids: set[int]) -> Iterator[Row]:
    """Rows that name any of these tokens, without them; and those that never happened, without any."""
    for seq in sorted(log.aborted):
        for row in log.rows(seq - 1, seq):
            yield _again(row, forgotten(unpack(row)))
    gone = np.array(sorted(uids), np.int64)
    for row in log.rows(max(log.born_at(min(uids)) - 1, 0)):  # no record named them before they were born
        if row.seq not in log.aborted and _may_name(row, gone):
            record = unpack(row)
            if (without := redacted(record, gone)) is not record:
                yield _again(row, without)


def veiled(row: Row, gone: Int64[np.ndarray, " N"]) -> Row:
    """The row as it will be when these uids are redacted."""
    if not len(gone) or not _may_name(row, gone):
        return row
    record = unpack(row)
    without = redacted(record, gone)
    return row if without is record else _again(row, without)


def _again(row: Row, record: Record) -> Row:
    return pack(record, seq=row.seq, tick=row.tick, next_uid=row.first_uid)


def _may_name(row: Row, gone: Int64[np.ndarray, " N"]) -> bool:
    """Births say in their columns whom they name; what else holds tokens has to be read."""
    if row.kind != Kind.BORN:
        return row.kind in (Kind.COMMITTED, Kind.CHECKPOINT)
    at = int(np.searchsorted(gone, row.first_uid))
    return at < len(gone) and int(gone[at]) < row.next_uid


# ---- records without what was redacted ---------------------------------------------------------------


def redacted(record: Record, gone: Int64[np.ndarray, " N"]) -> Record:
    """The record with nothing said of these uids but that they were; itself if it does not name them."""
    if isinstance(record, Born):
        hit = np.isin(record.tokens.uid, gone)
        if not hit.any():
            return record
        return replace(record, tokens=_without_ids(record.tokens, gone), pieces=_without(record.pieces, hit))
    if isinstance(record, Committed):
        return _redacted_edit(record, gone)
    if isinstance(record, Checkpoint) and np.isin(record.view.tokens.uid, gone).any():
        return replace(record, view=replace(record.view, tokens=_without_ids(record.view.tokens, gone)))
    return record


def forgotten(record: Record) -> Record:
    """The record with all of its tokens redacted."""
    if isinstance(record, Born):
        return redacted(record, record.tokens.uid)
    if isinstance(record, Committed):
        runs = [run.uid for s in record.edit.splices for run in (s.old, s.new)]
        return redacted(record, np.concatenate([np.empty(0, np.int64), *runs]))
    return record


def _redacted_edit(record: Committed, gone: Int64[np.ndarray, " N"]) -> Committed:
    edit = record.edit
    if not any(np.isin(run.uid, gone).any() for s in edit.splices for run in (s.old, s.new)):
        return record
    splices = tuple(
        Splice(s.start, _without_ids(s.old, gone), _without_ids(s.new, gone)) for s in edit.splices
    )
    pieces = _without(record.pieces, np.isin(edit.born_uids, gone))
    return replace(record, edit=replace(edit, splices=splices), pieces=pieces)


def _without_ids(tokens: Tokens, gone: Int64[np.ndarray, " N"]) -> Tokens:
    ids = np.where(np.isin(tokens.uid, gone), np.int32(REDACTED), tokens.token_id)
    return tokens.replace(token_id=ids)


def _without(pieces: Pieces, hit: Bool[np.ndarray, " N"]) -> Pieces:
    return tuple(b"" if h else p for p, h in zip(pieces, hit.tolist(), strict=bool(pieces)))
