# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The durable log of a mind: one SQLite database, one writer, each record safe on disk before it is acted on.

Knows the database and how records become rows. Must not know engines, minds or codecs.

    write    one transaction: the record, and what followers make of it; synced when it returns
    failure  of any write or sync: never tried again (a second fsync may succeed over lost bytes: "Can
             applications recover from fsync failures", ATC'20). The log is dead; opening it anew tells what
             got through, and nothing was acknowledged that did not
    reading  in batches, so that the log may go on being written meanwhile

Records are numbered without gaps, so a lost one is noticed; `first_uid` and `tick` never fall, so the record
of a uid or of a tick is found by bisection and needs no index.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import apsw
import numpy as np

from haloweave.errors import InvalidInput, JournalCorrupt, JournalError, JournalFailed
from haloweave.journal import scrub, transcript
from haloweave.journal.base import Aborted, Born, Checkpoint, Record
from haloweave.journal.connection import connect, explained, leave
from haloweave.journal.records import Kind, Row, pack, thinned, unpack
from haloweave.journal.schema import LANDMARK
from haloweave.journal.transcript import Line

_BATCH = 256
"""Rows read at once."""
_NEWEST = 8
"""Checkpoints that are never thinned out."""
_APART = 8192
"""Ticks that older checkpoints are apart, at least."""
_BIRTHS = (int(Kind.BORN), int(Kind.COMMITTED))
_COLUMNS = "seq, kind, tick, first_uid, tokens, source, text, body"


class Follower(Protocol):
    """Whoever keeps something of its own in step with the records, in the same database."""

    def follow(self, db: apsw.Connection, seq: int, record: Record) -> None:
        """Called within the transaction that writes the record. Raising kills the log."""
        ...

    def scrubbed(self, db: apsw.Connection, uids: set[int]) -> None:
        """Called within the transaction that redacts these uids, when no record names them any more."""
        ...

    def cut(self, db: apsw.Connection, seq: int) -> None:
        """Called within the transaction that forgets all records after `seq`, when they are gone."""
        ...


class Log:
    """The log of one mind. Raises JournalFailed from every method once a write has failed; `close` it."""

    def __init__(
        self, path: Path, *, vfs: str | None = None, create: bool = True, readonly: bool = False
    ) -> None:
        """Opens or makes it. Raises MindNotFound (if it may not be made), JournalCorrupt, JournalFailed.

        `readonly`: to look at what may be another process's log. What that one writes later is not seen, nor
        what it has promised to redact.
        """
        self.path = path
        self.followers: list[Follower] = []
        self.db = connect(path, vfs=vfs, create=create and not readonly, readonly=readonly)
        self._dead = ""
        """Why nothing can be done any more; empty while all is well."""
        self._closed = False
        self.last = 0
        """Number of the newest record."""
        self._tick = self._next_uid = 0
        self._veil = np.empty(0, np.int64)
        """Uids that a reader is not shown any more."""
        self._fallible: Row | None = None
        """The newest birth or edit, if an abort may still follow."""
        try:
            self._find_end()
            self._aborted = self._find_aborted()
            if readonly:
                self._veil = np.array(self.pending(), np.int64)
        except BaseException:
            leave(self.db)
            raise

    # ---- writing ---------------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether a write failed: the mind has to be opened again."""
        return bool(self._dead)

    def write(self, record: Record) -> int:
        """The record's number, once it and what followers made of it are on disk.

        Raises JournalFailed, and then nobody knows whether it is (but reopening tells); InvalidInput for a
        record that cannot come next, and then nothing has changed.
        """
        self._alive()
        row = self._row_for(record)
        undone = self._taken_back(record)
        with self.transaction() as db:
            _insert(db, row)
            scrub.promise(db, record, undone)
            for follower in self.followers:
                follower.follow(db, row.seq, record)
        if isinstance(record, Aborted) and self._fallible is not None:
            self._aborted.add(self._fallible.seq)
        self._moved_to(row)
        return row.seq

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """All that is written within is durable at its end, or nothing is, and the log is dead."""
        self._alive()
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield self.db
            self.db.execute("COMMIT")
        except (apsw.Error, OSError) as err:
            raise self._died(explained(self.path, err, writing=True)) from err
        except BaseException as err:  # followers may be ahead of what was written
            self._died(JournalFailed(f"{self.path}: broken off while writing ({err!r}): open the mind again"))
            raise

    def put(self, key: str, value: str) -> None:
        """Keep a text under a name, beside the records."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def thin(self) -> None:
        """Give up old checkpoints: the newest 8 stay, and older ones at least 8,192 ticks apart."""
        found = self._query(
            f"SELECT seq, tick FROM records WHERE {LANDMARK} ORDER BY seq", (int(Kind.CHECKPOINT),)
        )
        spare: list[int] = []
        kept: int | None = None
        for seq, tick in found[:-_NEWEST]:
            if kept is None or tick >= kept + _APART:
                kept = tick
            else:
                spare.append(seq)
        if spare:
            rows = [thinned(self._row(seq)) for seq in spare]
            with self.transaction() as db:
                for row in rows:
                    rewrite(db, row)

    # ---- redaction -------------------------------------------------------------------------------

    def pending(self) -> tuple[int, ...]:
        """Uids that a record promised to forget, and that are not gone from every byte yet."""
        return tuple(uid for (uid,) in self._query("SELECT uid FROM pending ORDER BY uid"))

    def scrub(self, uids: Sequence[int] | None = None) -> None:
        """Make good on what is pending (and on these `uids`): afterwards no byte of the database's files
        holds their text or ids. Whatever breaks it off, the next call goes on."""
        scrub.scrub(self, () if uids is None else uids)

    def cut(self, seq: int) -> None:
        """Forget every record after `seq`: in a copy, which is to have another future.

        What is pending is redacted first. Raises InvalidInput if there is no such record, or if only a later
        one tells that one of those left did not happen.
        """
        if not 0 <= seq <= self.last:
            raise InvalidInput(f"cut: expected a record 0..{self.last}, got {seq}")
        if self._taken_back_after(seq):
            raise InvalidInput(f"cut: after record {seq} comes an abort, which belongs to it; cut after that")
        self.scrub()
        with self.transaction() as db:
            db.execute("DELETE FROM records WHERE seq > ?", (seq,))
            for follower in self.followers:
                follower.cut(db, seq)
        self.last = self._tick = self._next_uid = 0
        self._fallible = None
        self._find_end()
        self._aborted = self._find_aborted()

    def check(self) -> None:
        """Read everything there is. Raises JournalCorrupt where it is damaged."""
        told = [str(line) for (line,) in self._query("PRAGMA integrity_check(4)")]
        if told != ["ok"]:
            raise JournalCorrupt(f"{self.path}: damaged ({'; '.join(told)}): restore a backup")
        for _ in self.records():
            pass

    @property
    def aborted(self) -> frozenset[int]:
        """Numbers of the records that did not happen."""
        return frozenset(self._aborted)

    @contextmanager
    def outside(self) -> Iterator[apsw.Connection]:
        """For what cannot run in a transaction (VACUUM): any failure kills the log."""
        self._alive()
        try:
            yield self.db
        except (apsw.Error, OSError) as err:
            raise self._died(explained(self.path, err, writing=True)) from err

    # ---- reading ---------------------------------------------------------------------------------

    def records(self, after: int = 0, until: int | None = None) -> Iterator[tuple[int, Record]]:
        """All records with after < seq <= until, in order, aborted ones included."""
        for row in self.rows(after, until):
            if row.kind != Kind.THINNED:
                yield row.seq, unpack(row)

    def backwards(self, before: int) -> Iterator[tuple[int, Record]]:
        """All records with seq < before, newest first."""
        at = min(before, self.last + 1)
        while at > 1:
            first = max(at - _BATCH, 1)
            for row in reversed(list(self.rows(first - 1, at - 1))):
                if row.kind != Kind.THINNED:
                    yield row.seq, unpack(row)
            at = first

    def rows(self, after: int = 0, until: int | None = None) -> Iterator[Row]:
        """The rows of these records. Raises JournalCorrupt where one is missing."""
        end = self.last if until is None else min(until, self.last)
        while after < end:
            stop = min(after + _BATCH, end)
            batch = self._query(f"SELECT {_COLUMNS} FROM records WHERE seq > ? AND seq <= ?", (after, stop))
            found = [seq for seq, *_ in batch]
            if found != list(range(after + 1, stop + 1)):
                raise JournalCorrupt(
                    f"{self.path}: of records {after + 1}..{stop} there are {len(found)}, some are lost; "
                    "restore a backup"
                )
            yield from (scrub.veiled(Row(*values), self._veil) for values in batch)
            after = stop

    def checkpoint(self, *, at: int | None = None) -> tuple[int, Checkpoint] | None:
        """The newest checkpoint with seq <= at, and its number."""
        found = self._query(
            f"SELECT {_COLUMNS} FROM records WHERE {LANDMARK} AND seq <= ? ORDER BY seq DESC LIMIT 1",
            (int(Kind.CHECKPOINT), self.last if at is None else at),
        )
        if not found:
            return None
        row = scrub.veiled(Row(*found[0]), self._veil)
        record = unpack(row)
        return (row.seq, record) if isinstance(record, Checkpoint) else None

    def seq_at_tick(self, tick: int) -> int:
        """The newest record of that tick or before; 0 if there is none."""
        return bisect_right(range(1, self.last + 1), tick, key=lambda seq: self._number("tick", seq))

    def born_at(self, uid: int) -> int:
        """The record that gave birth to this uid, if any did: the last before which it was not given."""
        return bisect_right(range(1, self.last + 1), uid, key=lambda seq: self._number("first_uid", seq))

    def get(self, key: str) -> str | None:
        """What `put` kept under that name."""
        found = self._query("SELECT value FROM meta WHERE key = ?", (key,))
        return str(found[0][0]) if found else None

    def transcript(self, after_uid: int = -1, limit: int | None = None) -> Iterator[Line]:
        """Everything ever born after that uid, in order of birth, as text; at most `limit` lines."""
        after = max(self.born_at(after_uid + 1) - 1, 0)
        return islice(transcript.lines(self._told(after), after_uid), limit)

    def occurrences(self, text: str, *, any_case: bool = False) -> tuple[tuple[int, ...], ...]:
        """Uids of all tokens, living or dead, that say `text`: one tuple for each place."""
        return transcript.occurrences(self._told(), text, any_case=any_case)

    def pieces(self, uids: Iterable[int]) -> dict[int, bytes]:
        """What each of these tokens spelt; uids never given are left out."""
        found: dict[int, bytes] = {}
        row: Row | None = None
        told: dict[int, bytes] = {}
        for uid in sorted(set(uids)):
            if row is None or not row.first_uid <= uid < row.next_uid:
                row, told = self._told_of(uid)
            if uid in told:
                found[uid] = told[uid]
        return found

    def size(self) -> int:
        """Bytes on disk."""
        files = (self.path.with_name(self.path.name + end) for end in ("", "-wal"))
        return sum(f.stat().st_size for f in files if f.exists())

    def close(self) -> None:
        """Let go of the files; again and again does no harm."""
        if self._closed:
            return
        self._closed = True
        if self._dead:
            leave(self.db)
            return
        self._dead = f"{self.path}: closed"
        try:
            self.db.close()
        except apsw.Error as err:
            raise explained(self.path, err, writing=True) from err

    # ---- inside ----------------------------------------------------------------------------------

    def _alive(self) -> None:
        if self._dead:
            raise JournalFailed(self._dead)

    def _died(self, why: JournalError) -> JournalError:
        self._dead = self._dead or str(why)
        return why

    def _query(self, sql: str, values: tuple[int | str, ...] = ()) -> list[tuple[Any, ...]]:
        self._alive()
        try:
            return self.db.execute(sql, values).fetchall()
        except (apsw.Error, OSError) as err:
            raise explained(self.path, err) from err

    def _row(self, seq: int) -> Row:
        return next(self.rows(seq - 1, seq))

    def _number(self, column: str, seq: int) -> int:
        found = self._query(f"SELECT {column} FROM records WHERE seq = ?", (seq,))
        if not found or not isinstance(found[0][0], int):
            raise JournalCorrupt(f"{self.path}: record {seq} is lost or damaged; restore a backup")
        return found[0][0]

    def _told_of(self, uid: int) -> tuple[Row | None, dict[int, bytes]]:
        """The row that gave birth to this uid, and what all of its tokens spell."""
        seq = self.born_at(uid)
        row = self._row(seq) if seq else None
        if row is None or not row.first_uid <= uid < row.next_uid:
            return None, {}
        uids, _, pieces = transcript.births(row)
        return row, dict(zip(uids, pieces, strict=True))

    def _told(self, after: int = 0) -> Iterator[Row]:
        """Births, and edits in which something was born, that happened."""
        for row in self.rows(after):
            if row.kind in _BIRTHS and row.source is not None and row.seq not in self._aborted:
                yield row

    def _row_for(self, record: Record) -> Row:
        tick, next_uid = self._tick, self._next_uid
        if isinstance(record, Born):
            _check_uids(record.tokens.uid, next_uid)
        if isinstance(record, Aborted):
            if self._fallible is None:
                raise InvalidInput("abort: there is no birth or edit that it could take back")
            tick, next_uid = self._fallible.tick, self._fallible.first_uid
        return pack(record, seq=self.last + 1, tick=tick, next_uid=next_uid)

    def _taken_back(self, record: Record) -> Record | None:
        """The record that an abort takes back."""
        if not isinstance(record, Aborted) or self._fallible is None:
            return None
        return unpack(self._row(self._fallible.seq))

    def _moved_to(self, row: Row) -> None:
        self.last, self._tick, self._next_uid = row.seq, row.next_tick, row.next_uid
        if row.kind in _BIRTHS:
            self._fallible = row._replace(text=b"", body=b"")
        elif row.kind in (Kind.ABORTED, Kind.CHECKPOINT):
            self._fallible = None

    def _taken_back_after(self, seq: int) -> bool:
        """Whether the first record after it that could be an abort is one: of what came up to `seq`, then."""
        next_one = "SELECT kind FROM records WHERE seq > ? AND +kind IN (?, ?, ?, ?) ORDER BY seq LIMIT 1"
        kinds = (Kind.BORN, Kind.COMMITTED, Kind.ABORTED, Kind.CHECKPOINT)
        return self._query(next_one, (seq, *(int(k) for k in kinds))) == [(int(Kind.ABORTED),)]

    def _find_end(self) -> None:
        newest = self._query(f"SELECT {_COLUMNS} FROM records ORDER BY seq DESC LIMIT 1")
        if not newest:
            return
        turning = ", ".join(str(int(k)) for k in (Kind.BORN, Kind.COMMITTED, Kind.ABORTED, Kind.CHECKPOINT))
        before = self._query(
            f"SELECT {_COLUMNS} FROM records WHERE +kind IN ({turning}) ORDER BY seq DESC LIMIT 1"
        )
        for values in (*before, newest[0]):
            row = Row(*values)
            if row.kind != Kind.THINNED:
                unpack(row)
            self._moved_to(row)

    def _find_aborted(self) -> set[int]:
        before = "SELECT seq FROM records WHERE seq < ? AND +kind IN (?, ?) ORDER BY seq DESC LIMIT 1"
        aborts = self._query(f"SELECT seq FROM records WHERE {LANDMARK}", (int(Kind.ABORTED),))
        return {seq for (abort,) in aborts for (seq,) in self._query(before, (abort, *_BIRTHS))}


def _insert(db: apsw.Connection, row: Row) -> None:
    db.execute(f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def rewrite(db: apsw.Connection, row: Row) -> None:
    """Put a row in the place of the one with its number."""
    db.execute(
        "UPDATE records SET kind = ?, text = ?, body = ? WHERE seq = ?",
        (row.kind, row.text, row.body, row.seq),
    )


def _check_uids(uid: np.ndarray, next_uid: int) -> None:
    if not len(uid) or uid[0] < next_uid or np.any(np.diff(uid) != 1):
        raise InvalidInput(f"born: expected tokens with uids from {next_uid} on, got {uid[:3].tolist()}")
