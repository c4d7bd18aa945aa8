# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A connection to a mind's database, set up so that what is committed is durable and what is deleted is gone.

Knows SQLite and the schema. Must not know records. Nothing of a foreign file is changed before it is refused.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw

from haloweave.errors import JournalCorrupt, JournalError, JournalFailed, MindNotFound
from haloweave.journal import schema

PATIENCE = 500
"""Milliseconds to wait for somebody else who writes to the file; nobody should."""

_DAMAGED = (apsw.CorruptError, apsw.NotADBError)
_REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (apsw.FullError, "the disk is full: free some space"),
    (apsw.ReadOnlyError, "it is read-only: make the file and its folder writable"),
    (apsw.BusyError, "another program is writing to it: end that program"),
    (apsw.LockedError, "another program is writing to it: end that program"),
    (apsw.CantOpenError, "it cannot be opened: see that its folder is there and writable"),
    (apsw.IOError, "the disk failed: see that it is sound"),
    (apsw.CorruptError, "it is damaged: restore a backup"),
    (apsw.NotADBError, "it is damaged: restore a backup"),
)


def connect(path: Path, *, vfs: str | None, create: bool, readonly: bool = False) -> apsw.Connection:
    """The database at `path`, migrated. Raises MindNotFound, JournalCorrupt or JournalFailed.

    `readonly`: nothing is written, not even by a migration; somebody else may be writing meanwhile.
    """
    rests = _rests(path, create)
    try:
        db = _opened(path, vfs, create=create, readonly=readonly, rests=rests)
        try:
            (_set_up_to_read if readonly else _set_up)(db, path, create=create, rests=rests)
        except BaseException:
            leave(db)
            raise
    except (apsw.Error, OSError) as err:
        raise explained(path, err) from err
    except JournalError as err:
        raise type(err)(f"{path}: {err}") from err
    return db


def _opened(path: Path, vfs: str | None, *, create: bool, readonly: bool, rests: bool) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE * create
    if not readonly:
        return apsw.Connection(str(path.absolute()), flags=flags, vfs=vfs)
    db = apsw.Connection(str(path.absolute()), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
    try:
        db.pragma("schema_version")  # the first look needs an -shm beside the file
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        db.close(True)
        if not rests:
            raise
        # Where nothing can be written nobody writes, and all there is is in the one file.
        unchanging = f"{path.absolute().as_uri()}?immutable=1"
        db = apsw.Connection(unchanging, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, vfs=vfs)
    except apsw.Error:
        pass  # it will be told when it is set up
    return db


def explained(path: Path, err: Exception, *, writing: bool = False) -> JournalError:
    """What went wrong, and what to do about it."""
    if isinstance(err, _DAMAGED) and not writing:
        return JournalCorrupt(f"{path}: damaged, or not the database of a mind ({err}): restore a backup")
    words = next((words for kind, words in _REMEDIES if isinstance(err, kind)), "it could not be used")
    return JournalFailed(f"{path}: {words} and open the mind again; nothing that was shown is lost ({err})")


def leave(db: apsw.Connection) -> None:
    """Close without touching the files: after a sync that failed, nobody knows what is in them."""
    with contextlib.suppress(apsw.Error):
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    with contextlib.suppress(apsw.Error):
        db.close(True)


def _rests(path: Path, create: bool) -> bool:
    """Look before SQLite does. Whether all of the database is in this one file."""
    wal, journal = (path.with_name(path.name + end) for end in ("-wal", "-journal"))
    try:
        if not create and not path.exists():
            raise MindNotFound(f"{path}: there is no such file")
        if path.is_dir():
            raise JournalCorrupt(f"{path}: a folder, expected the database of a mind")
        written = [p.exists() and p.stat().st_size > 0 for p in (path, wal, journal)]
    except OSError as err:
        raise explained(path, err) from err
    if written == [False, True, False]:
        raise JournalCorrupt(f"{path}: empty, though its -wal file is not: truncated; restore a backup")
    return not any(written[1:])


def _set_up(db: apsw.Connection, path: Path, *, create: bool, rests: bool) -> None:
    db.set_busy_timeout(PATIENCE)
    found = schema.version(db)
    if not found and not create:
        raise JournalCorrupt("empty: it was truncated, or never finished; restore a backup or remove it")
    if rests:
        _check_length(db, path)
    if found:
        _check_tables(db)
    if db.readonly("main"):
        raise apsw.ReadOnlyError("opened for reading only")
    if (mode := db.pragma("journal_mode", "WAL")) != "wal":
        raise JournalFailed(f"cannot be kept in WAL mode (but {mode}) here: use a local disk")
    for pragma, value in _SETTINGS.items():
        db.pragma(pragma, value)
    schema.migrate(db, found)


def _set_up_to_read(db: apsw.Connection, path: Path, *, create: bool, rests: bool) -> None:
    db.set_busy_timeout(PATIENCE)
    found = schema.version(db)
    if not found:
        raise JournalCorrupt("empty: it was truncated, or never finished; restore a backup or remove it")
    if rests:
        _check_length(db, path)
    _check_tables(db)
    if found < len(schema.MIGRATIONS):
        raise JournalCorrupt(f"written by an older release (schema {found}): wake the mind once")
    for pragma in ("cell_size_check", "trusted_schema", "temp_store"):
        db.pragma(pragma, _SETTINGS[pragma])


_SETTINGS: dict[str, str] = {
    "synchronous": "FULL",
    "secure_delete": "ON",
    "cell_size_check": "ON",
    "trusted_schema": "OFF",
    # What SQLite sorts or copies aside is text of a mind, and no other disk's business.
    "temp_store": "MEMORY",
}


def _check_length(db: apsw.Connection, path: Path) -> None:
    """Refuse a file that is longer or shorter than it says of itself."""
    pages, page = db.pragma("page_count"), db.pragma("page_size")
    expected = pages * page if isinstance(pages, int) and isinstance(page, int) else 0
    if (size := path.stat().st_size) != expected:
        remedy = f"cut it to {expected} bytes, or " if size > expected > 0 else ""
        raise JournalCorrupt(f"{size} bytes long, expected {expected}: {remedy}restore a backup")


def _check_tables(db: apsw.Connection) -> None:
    """What has no checksum of its own is small, and looked over."""
    for table in ("meta", "pending"):
        if (said := db.execute(f"PRAGMA integrity_check({table})").get) != "ok":
            raise JournalCorrupt(f"table {table} is damaged ({said}): restore a backup")
