# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Rows of culled tokens, kept as long as there is room, so that they can come back byte for byte.

Knows saved rows and uids. Must not know engines, tokens or the journal. It is a cache, in a database of its
own: what is not here any more is read again by the model, so a damaged file is thrown away (not laid aside: a
redaction would not reach it there), and a damaged entry counts as absent.

An entry is what was culled together, one BLOB of safetensors; its number is taken from the SHA-256 of its
bytes. So the same number never means other rows, not even where a crash took the newest entries along (each
commit is in order, but not synced: `hold` is). An entry names its uids itself; `runs` only tells where to
look.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import apsw
import numpy as np
from jaxtyping import Bool, Int64

from haloweave.errors import InvalidInput, JournalFailed
from haloweave.journal.disk import failure
from haloweave.journal.entry import Entry, alike, number_of, packed, runs_of, unpacked
from haloweave.memory.rows import SavedRows

T = TypeVar("T")

_VERSION = 1
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE entries (id INTEGER PRIMARY KEY, age INTEGER, size INTEGER, held INTEGER) STRICT;
CREATE TABLE bodies (id INTEGER PRIMARY KEY, body BLOB) STRICT;
CREATE TABLE runs (first INTEGER, last INTEGER, entry INTEGER, PRIMARY KEY (first, last, entry))
    STRICT, WITHOUT ROWID;
CREATE INDEX runs_of ON runs (entry);
CREATE TABLE maker (words TEXT) STRICT;
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_SETTINGS = """
PRAGMA secure_delete = ON;
PRAGMA cell_size_check = ON;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = 0;
"""
_DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)
_LARGEST = 1_000_000_000
"""Bytes in a BLOB that any SQLite takes."""


@dataclass(frozen=True)
class _Part:
    """What one entry has of the rows that are wanted."""

    number: int
    """The entry's, if it is just what is wanted; else 0."""
    places: Int64[np.ndarray, " M"]
    """Of its rows, among those wanted."""
    rows: SavedRows


class RowStore:
    """Saved rows of one mind, at most `quota_bytes` of them. `close` it.

    Where `fingerprint` (what made the rows) is another than it was, all rows go: they mean nothing any more.
    What was lost, and why, is told by `notices`. Whatever else the disk refuses is a JournalFailed, and harms
    no mind.
    """

    def __init__(
        self,
        path: Path,
        quota_bytes: int,
        *,
        fingerprint: Mapping[str, str] | None = None,
        vfs: str | None = None,
    ) -> None:
        if quota_bytes < 0:
            raise InvalidInput(f"rows quota: expected bytes from 0 on, got {quota_bytes}")
        self._path, self._quota, self._vfs = path, quota_bytes, vfs
        self._maker = None if fingerprint is None else json.dumps(dict(fingerprint), sort_keys=True)
        self._notices: list[str] = []
        self.damaged = 0
        """Entries that were not what they had been, and were dropped."""
        self._db: apsw.Connection
        self._do("open", self._open, None)
        self._do("open", self._fit, None)

    def put(self, uids: Sequence[int] | np.ndarray, rows: SavedRows) -> int:
        """Keep rows of these uids; the oldest that are not held make room. The entry's number, or 0 if it
        cannot be kept: larger than the quota, or than what the held entries leave of it."""
        uid = np.array(uids, np.int64)
        if not len(uid) or len(uid) != len(rows) or len(np.unique(uid)) != len(uid):
            raise InvalidInput(f"rows: expected some, one for each uid, got {len(rows)} for {len(uid)} uids")
        body = packed(uid, rows)
        return self._do("write", lambda: self._put(uid, body), 0, again=True)

    def get(self, number: int) -> SavedRows | None:
        """The rows of an entry; None if it is not here (any more)."""
        entry = self._do("read", lambda: self._entry(number), None)
        return None if entry is None else entry[1]

    def fetch(self, uids: Sequence[int] | np.ndarray) -> tuple[int, SavedRows] | None:
        """The newest rows of each uid, in this order, and the number of the entry that is just these: a new
        one if they were gathered. None if one is not here, or if there is no room for what was gathered."""
        uid = np.array(uids, np.int64)
        while len(uid):
            home = self._do("read", lambda: self._home(uid), None)
            if home is None:
                return None
            parts = [self._part(int(number), uid, home == number) for number in np.unique(home)]
            whole = [part for part in parts if part is not None]
            if len(whole) == len(parts):
                return self._gathered(uid, whole)
        return None

    def hold(self, number: int, seq: int) -> bool:
        """Never evict it until `release` passes `seq`. Whether it is here. Durable on return, with the entry:
        so it can be called before the record `seq`, which names the entry, is written."""
        return self._do("write", lambda: self._hold(number, seq), False)

    def release(self, before_seq: int) -> None:
        """What was held for records before this one may be evicted."""
        sql = "UPDATE entries SET held = 0 WHERE held > 0 AND held < ?"
        self._do("write", lambda: _run(self._db, sql, before_seq), None)

    def remove(self, uids: Sequence[int] | np.ndarray) -> int:
        """Redact: no byte of any entry with one of these uids is in the file afterwards. How many there were.

        Entries go whole, and by what they say themselves, not by the index. Rows of *other* tokens that were
        computed while a redacted one was in the context still carry what they learned from it: see `clear`.
        """
        gone = np.array(uids, np.int64)
        return self._do("redact", lambda: self._remove(gone), 0)

    def clear(self) -> None:
        """Forget everything, held or not."""
        self._do("clear", self._start_anew, None)

    def size(self) -> int:
        """Bytes of all entries."""
        return self._do("read", lambda: _number(self._db, "SELECT coalesce(sum(size), 0) FROM entries"), 0)

    def notices(self) -> list[str]:
        """What there is to tell since this was last asked."""
        told, self._notices = self._notices, []
        return told

    def close(self) -> None:
        self._db.close()

    # ---- the file ----------------------------------------------------------------------------------------

    def _do(self, doing: str, act: Callable[[], T], otherwise: T, *, again: bool = False) -> T:
        """Carry out `act`. If the database is damaged it is begun anew, and the answer is `otherwise`, or
        what `act` says `again`."""
        try:
            return self._told(doing, act)
        except _DAMAGE as err:
            lost = str(err)
        self._notices.append(
            f"{self._path.name} was damaged ({lost}): rows of culled tokens are lost, their text is not"
        )
        try:
            self._told("begin anew", self._start_anew)
        except _DAMAGE as err:
            raise self._failure("begin anew", err) from err
        return self._do(doing, act, otherwise) if again else otherwise

    def _told(self, doing: str, act: Callable[[], T]) -> T:
        try:
            return act()
        except _DAMAGE:
            raise
        except apsw.Error as err:
            raise self._failure(doing, err) from err
        except OSError as err:
            raise failure(doing, self._path, err) from err

    def _failure(self, doing: str, err: apsw.Error) -> JournalFailed:
        return JournalFailed(f"cannot {doing} {self._path}: {err}. It is only a cache: a mind can do without")

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = apsw.Connection(str(self._path), vfs=self._vfs)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        db = self._db
        db.execute(_SETTINGS).fetchall()  # each: what follows a row waits until it is fetched
        if not _number(db, "SELECT count(*) FROM sqlite_schema"):
            db.execute(_SCHEMA).fetchall()
        version = _number(db, "PRAGMA user_version")
        if version != _VERSION:
            raise apsw.FormatError(f"version {version}, expected {_VERSION}")
        try:
            db.execute("SELECT age, size, held, body, first, last, words FROM entries, bodies, runs, maker")
        except apsw.SQLError as err:
            raise apsw.FormatError(str(err)) from err

    def _fit(self) -> None:
        """Let go of rows that another engine made, and of what is beyond the quota."""
        words = self._db.execute("SELECT words FROM maker").get
        if self._maker is not None and words not in (None, self._maker):
            self._notices.append(
                "rows of culled tokens were made by another model or library, and are forgotten"
            )
            self._start_anew()
        elif self._maker is not None and words is None:
            _run(self._db, "INSERT INTO maker VALUES (?)", self._maker)
        with self._transaction():
            evicted = self._make_room(0, whatever=True)
        if evicted:
            self._compact()

    def _start_anew(self) -> None:
        self._db.close(True)
        for suffix in ("", "-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._open()
        if self._maker is not None:
            _run(self._db, "INSERT INTO maker VALUES (?)", self._maker)

    def _compact(self) -> None:
        """Write the file anew, without what was deleted, and empty the log beside it."""
        self._db.execute("VACUUM")
        if _numbers(self._db, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            raise apsw.BusyError("somebody else reads it, and keeps what was deleted in its log")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; inside another one, part of that. SQLite rolls back by itself when a disk is full:
        then there is nothing to roll back, and the error to tell is the first."""
        inside: bool = self._db.in_transaction
        if inside:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    # ---- writing -----------------------------------------------------------------------------------------

    def _put(self, uid: Int64[np.ndarray, " N"], body: bytes) -> int:
        number = number_of(body)
        db = self._db
        with self._transaction():
            newest = 1 + _number(db, "SELECT coalesce(max(age), 0) FROM entries")
            if self._entry(number) is not None:
                _run(db, "UPDATE entries SET age = ? WHERE id = ?", newest, number)
                return number
            if self._make_room(len(body)) is None:
                return 0
            _run(db, "INSERT INTO entries VALUES (?, ?, ?, 0)", number, newest, len(body))
            db.execute("INSERT INTO bodies VALUES (?, ?)", (number, body))
            db.executemany("INSERT INTO runs VALUES (?, ?, ?)", [(a, b, number) for a, b in runs_of(uid)])
        return number

    def _make_room(self, size: int, *, whatever: bool = False) -> int | None:
        """Evict the oldest entries until so many bytes more fit. How many went; None, and none goes, if they
        would not fit even so (unless `whatever` is gained counts)."""
        excess = _number(self._db, "SELECT coalesce(sum(size), 0) FROM entries") + size - self._quota
        oldest = _numbers(self._db, "SELECT id, size FROM entries WHERE held = 0 ORDER BY age")
        going = []
        for number, freed in oldest:
            if excess <= 0:
                break
            going.append(number)
            excess -= freed
        if (excess > 0 or size > _LARGEST) and not whatever:
            return None
        for number in going:
            self._delete(number)
        return len(going)

    def _delete(self, number: int) -> None:
        for sql in (
            "DELETE FROM entries WHERE id = ?",
            "DELETE FROM bodies WHERE id = ?",
            "DELETE FROM runs WHERE entry = ?",
        ):
            self._db.execute(sql, (number,))

    def _hold(self, number: int, seq: int) -> bool:
        db = self._db
        db.execute("PRAGMA synchronous = FULL")
        try:
            _run(db, "UPDATE entries SET held = max(held, ?) WHERE id = ?", seq, number)
            return bool(db.changes())
        finally:
            db.execute("PRAGMA synchronous = NORMAL")

    def _remove(self, gone: Int64[np.ndarray, " N"]) -> int:
        removed = 0
        for (number,) in _numbers(self._db, "SELECT id FROM bodies"):
            entry = self._entry(number)
            if entry is not None and np.isin(entry[0], gone).any():
                self._drop(number)
                removed += 1
        self._compact()
        return removed

    def _drop(self, number: int) -> None:
        with self._transaction():
            self._delete(number)

    # ---- reading -----------------------------------------------------------------------------------------

    def _home(self, uid: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"] | None:
        """For each uid the newest entry that has it, as far as the index knows; None if one is nowhere."""
        home = np.zeros(len(uid), np.int64)
        near = (
            "SELECT r.first, r.last, r.entry FROM runs r JOIN entries e ON e.id = r.entry "
            "WHERE r.first <= ? AND r.last >= ? ORDER BY e.age DESC"
        )
        for first, last, number in _numbers(self._db, near, int(uid.max()), int(uid.min())):
            home[(home == 0) & (uid >= first) & (uid <= last)] = number
            if home.all():
                return home
        return None

    def _entry(self, number: int) -> Entry | None:
        """An entry's uids and rows; None if there is none, or no more since it was damaged."""
        body = self._db.execute("SELECT body FROM bodies WHERE id = ?", (number,)).get
        entry = unpacked(body) if isinstance(body, bytes) and number_of(body) == number else None
        if entry is None and body is not None:
            self._count_damage(number)
        return entry

    def _part(self, number: int, uid: Int64[np.ndarray, " N"], mine: Bool[np.ndarray, " N"]) -> _Part | None:
        """The rows of `uid[mine]` in an entry. None if it has not all of them, or is damaged: then it is
        gone."""
        entry = self._do("read", lambda: self._entry(number), None)
        if entry is None:
            self._do("write", lambda: self._drop(number), None)
            return None
        own, rows = entry
        if not np.isin(uid[mine], own).all():
            self._do("write", lambda: self._count_damage(number), None)
            return None
        order = np.argsort(own)
        at = order[np.searchsorted(own, uid[mine], sorter=order)]
        just_these = mine.all() and np.array_equal(own, uid)
        return _Part(number if just_these else 0, np.flatnonzero(mine), rows.take(at))

    def _count_damage(self, number: int) -> None:
        self.damaged += 1
        self._drop(number)

    def _gathered(self, uid: Int64[np.ndarray, " N"], parts: Sequence[_Part]) -> tuple[int, SavedRows] | None:
        """The parts as one entry: one that there is, or a new one."""
        if not alike([part.rows for part in parts]):
            return None
        places = np.concatenate([part.places for part in parts])
        rows = SavedRows.concat([part.rows for part in parts]).take(np.argsort(places))
        number = parts[0].number or self.put(uid, rows)
        return (number, rows) if number else None


def _run(db: apsw.Connection, sql: str, *values: int | str) -> None:
    db.execute(sql, values)


def _number(db: apsw.Connection, sql: str, *values: int) -> int:
    return _numbers(db, sql, *values)[0][0]


def _numbers(db: apsw.Connection, sql: str, *values: int) -> list[tuple[int, ...]]:
    rows: list[Any] = db.execute(sql, values).fetchall()
    return rows
