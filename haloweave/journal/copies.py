# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Copies of a mind's database: backups beside it, which a redaction reaches too, and files to carry away.

Knows the log and files. Must not know engines or minds. The source is only read, so a mind may be awake
meanwhile; what it has promised to redact, and not carried out yet, is redacted in the copy before that takes
its name. Backups are made, and redacted, by one process at a time (`.lock`): else one that is made while
another redacts might be missed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import apsw
from filelock import FileLock, Timeout

from haloweave.errors import JournalCorrupt, JournalError, JournalFailed, MindExists, MindLocked
from haloweave.journal.archive import Archive
from haloweave.journal.connection import explained
from haloweave.journal.disk import Disk, Files, failure
from haloweave.journal.log import Log

_PART = ".part"
_SUFFIX = ".db"
_STAMP = re.compile(r"(\d{8}T\d{6})(?:-(\d+))?")
_PATIENCE = 60.0
"""Seconds to wait for another process to be done with the backups."""


@contextmanager
def reading(path: Path) -> Iterator[Log]:
    """A log, for reading only: it is not even migrated, and somebody else may be writing to it.

    Raises JournalError.
    """
    log = Log(path, create=False, readonly=True)
    try:
        yield log
    finally:
        log.close()


def copy_database(log: Log, target: Path, disk: Files, *, force: bool = False) -> bool:
    """A whole, consistent copy of a log that may be live, as one file, durable when this returns. False if
    the log had promised a redaction, and not carried it out (in the copy it is).

    Raises MindExists if there is such a file (unless `force`), JournalFailed if it cannot be written,
    JournalCorrupt if the log is damaged; then there is none, or the one that was there before.
    """
    if disk.exists(target) and (not force or disk.is_folder(target)):
        what = "a folder" if disk.is_folder(target) else "a file"
        raise MindExists(f"{target}: there is {what} of that name already")
    half = target.with_name(target.name + _PART)
    try:
        _remove(disk, half)
        disk.write(half, b"")  # ours to read, nobody else's
        _vacuum(log, half)
        clean = _redacted(half)
        disk.sync(half)
        disk.rename(half, target)
    except BaseException:
        with suppress(JournalError):  # the first failure is the one to tell
            _remove(disk, half)
        raise
    disk.sync_folder(target.parent)
    return clean


def _vacuum(log: Log, target: Path) -> None:
    try:
        log.db.execute("VACUUM INTO ?", (str(target),))
    except (apsw.CorruptError, apsw.NotADBError) as err:
        raise explained(log.path, err) from err
    except (apsw.Error, OSError) as err:
        raise JournalFailed(f"{target.with_suffix('')}: cannot be written: {err}") from err


def _redacted(copy: Path) -> bool:
    """Carry out what the copy still promises to redact; whether there was nothing."""
    log = Log(copy, create=False)
    try:
        if not log.pending():
            return True
        Archive(log)
        log.scrub()
        return False
    finally:
        log.close()


def _remove(disk: Files, half: Path) -> None:
    """A copy that was broken off, and what SQLite keeps beside it."""
    for end in ("", "-wal", "-shm", "-journal"):
        path = half.with_name(half.name + end)
        if disk.exists(path):
            disk.remove_folder(path)


class Copies:
    """The backups of one mind."""

    def __init__(
        self, folder: Path, *, disk: Files | None = None, now: Callable[[], datetime] | None = None
    ) -> None:
        self._folder, self._disk = folder, disk or Disk()
        self._now = now or (lambda: datetime.now(UTC))

    def all(self) -> tuple[Path, ...]:
        """The backups, oldest first."""
        if not self._disk.exists(self._folder):
            return ()
        names = [n for n in self._disk.names(self._folder) if n.endswith(_SUFFIX)]
        return tuple(self._folder / n for n in sorted(names, key=_age))

    def make(self, log: Log) -> Path:
        """A new backup of the database. Raises JournalFailed."""
        if not self._disk.exists(self._folder):
            self._disk.make_folder(self._folder)
            self._disk.sync_folder(self._folder.parent)
        with self._alone():
            target = self._free_name()
            copy_database(log, target, self._disk)
        return target

    def scrub(self, uids: Sequence[int]) -> None:
        """Redact these tokens in every backup. Raises the first JournalError once all have been tried; then
        some backup may still hold them, and this has to be done again."""
        if not self._disk.exists(self._folder):
            return
        failed: list[JournalError] = []
        with self._alone():
            for path in self.all():
                try:
                    _scrub(path, uids)
                except JournalError as err:
                    failed.append(err)
        if failed:
            raise failed[0]

    def _free_name(self) -> Path:
        stamp = self._now().strftime("%Y%m%dT%H%M%S")
        names = (f"{stamp}-{n}{_SUFFIX}" if n else f"{stamp}{_SUFFIX}" for n in count())
        return next(path for n in names if not self._disk.exists(path := self._folder / n))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While nobody else makes or redacts backups; halves that were broken off are gone."""
        lock = FileLock(self._folder / ".lock", timeout=_PATIENCE, mode=0o600)
        try:
            lock.acquire()
        except Timeout as err:
            raise MindLocked(f"{self._folder}: another process is at work on the backups; try again") from err
        except OSError as err:
            raise failure("lock", self._folder / ".lock", err) from err
        try:
            for name in self._disk.names(self._folder):
                if name.endswith(_SUFFIX + _PART):
                    _remove(self._disk, self._folder / name)
            yield
        finally:
            lock.release()


def _age(name: str) -> tuple[str, int, str]:
    found = _STAMP.fullmatch(name.removesuffix(_SUFFIX))
    return (found[1], int(found[2] or 0), name) if found else (name, 0, name)


def _scrub(path: Path, uids: Sequence[int]) -> None:
    try:
        log = Log(path, create=False)
    except JournalCorrupt as err:
        raise JournalCorrupt(
            f"{err}; it may hold what was to be redacted: remove it, or put it right"
        ) from err
    try:
        Archive(log)
        log.scrub(uids)
    finally:
        log.close()
