# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The minds that are kept on disk, by name: where each lives; copying, forking and deleting them whole.

Knows folders, locks and the journal. Must not know engines, models or settings. A mind is a folder:

    NAME/mind.db      journal, transcript and archive
    NAME/rows.db      rows of culled tokens, if any are kept
    NAME/snapshots/   of the KV cache
    NAME/backups/
    NAME/lock, owner.json

What is made is made aside (`.new-NAME`) and takes its place in one step; what is deleted is first set aside
in one step (`.gone-NAME`). One process at a time does either (`.lock`), so what lies aside belongs to nobody,
and the next one sweeps it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import apsw
from filelock import FileLock, Timeout

from haloweave.errors import (
    InvalidInput,
    JournalCorrupt,
    JournalError,
    JournalFailed,
    MindExists,
    MindLocked,
    MindNotFound,
)
from haloweave.journal import schema
from haloweave.journal.archive import Archive
from haloweave.journal.copies import Copies, copy_database, reading
from haloweave.journal.disk import Disk, Files, failure
from haloweave.journal.fold import context_at, seq_at
from haloweave.journal.lock import MindLock
from haloweave.journal.log import Log
from haloweave.journal.snapshot import Shelf

DATABASE, ROWS, SNAPSHOTS, BACKUPS = "mind.db", "rows.db", "snapshots", "backups"
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that are devices on Windows, in whichever folder: a mind has to be able to go there."""
_NEW, _GONE = ".new-", ".gone-"
_PATIENCE = 60.0
"""Seconds that one who makes or deletes waits for another to be done with it."""


@dataclass(frozen=True)
class Place:
    """Where one mind lives."""

    name: str
    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / DATABASE

    @property
    def rows(self) -> Path:
        return self.folder / ROWS

    @property
    def snapshots(self) -> Path:
        return self.folder / SNAPSHOTS

    @property
    def backups(self) -> Path:
        return self.folder / BACKUPS


class Minds:
    """All minds in one folder."""

    def __init__(self, folder: Path, *, disk: Files | None = None) -> None:
        self._folder, self._disk = folder, disk or Disk()

    @property
    def folder(self) -> Path:
        return self._folder

    # ---- finding -----------------------------------------------------------------------------------

    def place(self, name: str) -> Place:
        """Where a mind of that name lives, or would live. Raises InvalidInput if it cannot be a name."""
        if not _NAME.fullmatch(name) or _DEVICE.fullmatch(name):
            raise InvalidInput(
                "a mind's name has letters (a to z), digits, dots, dashes and underscores, at most 64; it "
                f"begins with a letter or digit and does not end with a dot: {name[:80]!a} cannot be one"
            )
        return Place(name, self._folder / name)

    def names(self) -> tuple[str, ...]:
        """Of all that looks like a mind, sorted: every folder, or link to one, that is named as minds are."""
        if not self._disk.exists(self._folder):
            return ()
        found = [n for n in self._disk.names(self._folder) if _NAME.fullmatch(n)]
        return tuple(n for n in found if (self._folder / n).is_dir())

    def find(self, name: str) -> Place:
        """A mind that is there. Raises MindNotFound, naming those that are, or what is in its place."""
        place = self.place(name)
        if not self._disk.exists(place.folder):
            there = ", ".join(self.names()) or "there is none yet; halo chat --mind NAME makes one"
            raise MindNotFound(f"no mind {name!r} in {self._folder} ({there})")
        if not self._disk.is_folder(place.folder):
            what = "a link, and those are not followed" if place.folder.is_symlink() else "a file"
            raise MindNotFound(f"no mind {name!r}: {place.folder} is {what}; move it elsewhere")
        return place

    def whole(self, name: str) -> Place:
        """`find`, and its database is there too."""
        place = self.find(name)
        if not self._disk.exists(place.database):
            raise MindNotFound(f"no mind {name!r}: {place.database} is missing;{_remedy(place)}")
        return place

    def make(self, name: str) -> Place:
        """Its folder, made if need be."""
        place = self.place(name)
        self._make_folder(place.folder)
        return self.find(name)

    def lock(self, name: str) -> MindLock:
        """To be held while a mind is awake, or changed. See `MindLock`."""
        return MindLock(self.place(name).folder)

    # ---- copies ------------------------------------------------------------------------------------

    def backup(self, name: str) -> Path:
        """A copy of its journal and archive beside it, which redactions reach. It may be awake meanwhile."""
        place = self.whole(name)
        with reading(place.database) as log:
            return Copies(place.backups, disk=self._disk).make(log)

    def export(self, name: str, target: Path, *, force: bool = False) -> None:
        """Its journal and archive as one file, which no redaction reaches. It may be awake meanwhile.

        Raises MindExists if there is such a file, unless `force`; JournalFailed if it cannot be written.
        """
        with reading(self.whole(name).database) as log:
            copy_database(log, target, self._disk, force=force)

    def bring_in(self, source: Path, name: str) -> None:
        """Make a mind of an exported file or a backup, checked from end to end.

        Raises MindExists, MindNotFound (no such file), JournalCorrupt.
        """
        _check_file(source)
        with self._staged(name) as staged:
            with reading(source) as log:
                copy_database(log, staged.database, self._disk)
            _checked(staged.database)
            with _copied(staged.database) as log:
                log.put("foreign", "yes")  # it may not choose what is fetched and loaded here

    def fork(self, name: str, new: str, *, tick: int | None = None) -> int:
        """A second mind with the past of the first, up to `tick`. Its number of records.

        Snapshots of that past come along, saved rows do not. A later redaction in one does not reach the
        other. Raises MindExists, MindNotFound, InvalidInput for a tick before the first or after the newest.
        """
        place = self.whole(name)
        with self._staged(new) as staged:
            with reading(place.database) as log:
                clean = copy_database(log, staged.database, self._disk)
            last = _shortened(staged.database, tick)
            if clean:  # else they may still hold what was redacted
                self._copy_snapshots(place.snapshots, staged.snapshots, last)
        return last

    def _copy_snapshots(self, source: Path, target: Path, last: int) -> None:
        self._disk.make_folder(target)
        for snapshot in Shelf.peek(source, self._disk):
            if snapshot.seq <= last:
                self._copy_folder(snapshot.folder, target / snapshot.folder.name)
        self._disk.sync_folder(target)

    def _copy_folder(self, source: Path, target: Path) -> None:
        """All files of it, or none if it goes away meanwhile: a mind that is awake removes old snapshots."""
        self._disk.make_folder(target)
        try:
            for name in self._disk.names(source):
                self._disk.write(target / name, self._disk.read(source / name))
                self._disk.sync(target / name)
        except JournalFailed:
            if self._disk.exists(source):
                raise
            self._disk.remove_folder(target)
            return
        self._disk.sync_folder(target)

    def delete(self, name: str) -> None:
        """A mind, its snapshots and its backups, for good. Raises MindNotFound, MindLocked."""
        place = self.find(name)
        with self._alone():
            gone = self._folder / f"{_GONE}{name}"
            with self.lock(name):
                self._disk.rename(place.folder, gone)
                self._disk.sync_folder(self._folder)
            self._disk.remove_folder(gone)

    # ---- one step ----------------------------------------------------------------------------------

    @contextmanager
    def _staged(self, name: str) -> Iterator[Place]:
        """A folder that becomes the mind `name` in one step, once the block is done; nothing if it fails."""
        place = self.place(name)
        with self._alone():
            self._free(place)
            staged = Place(name, self._folder / f"{_NEW}{name}")
            self._disk.make_folder(staged.folder)
            try:
                yield staged
                self._disk.sync_folder(staged.folder)
                self._free(place)  # one may have been woken under that name meanwhile
                self._disk.rename(staged.folder, place.folder)
            except BaseException:
                with suppress(JournalError):  # the first failure is the one to tell; the next sweeps
                    self._disk.remove_folder(staged.folder)
                raise
            self._disk.sync_folder(self._folder)

    def _free(self, place: Place) -> None:
        if self._disk.exists(place.folder):
            raise MindExists(
                f"there is a mind {place.name!r} already: choose another name, or delete it first"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While nobody else makes or deletes; what an earlier one left half done is gone."""
        self._make_folder(self._folder)
        lock = FileLock(self._folder / ".lock", timeout=_PATIENCE, mode=0o600)
        try:
            lock.acquire()
        except Timeout as err:
            raise MindLocked(
                f"{self._folder}: another command is at work there; wait until it is done"
            ) from err
        except OSError as err:
            raise failure("lock", self._folder / ".lock", err) from err
        with lock:
            try:
                self._sweep()
                yield
            finally:
                lock.release()

    def _sweep(self) -> None:
        for name in self._disk.names(self._folder):
            if name.startswith((_NEW, _GONE)):
                self._disk.remove_folder(self._folder / name)

    def _make_folder(self, folder: Path) -> None:
        """With all above it; names are safe when this returns."""
        if self._disk.exists(folder):
            return
        if folder.parent != folder:
            self._make_folder(folder.parent)
        self._disk.make_folder(folder)
        self._disk.sync_folder(folder.parent)


def _remedy(place: Place) -> str:
    """What to do about a mind without a database."""
    backups = Copies(place.backups).all()
    if not backups:
        return f" there is no backup either; halo minds delete {place.name}"
    return f" its newest backup is {backups[-1]}; halo minds import makes a mind of that"


def _check_file(source: Path) -> None:
    """Raises JournalCorrupt if it is a folder, or a device: reading one of those may never end."""
    try:
        mode = source.stat().st_mode
    except FileNotFoundError:
        return  # to be told by who opens it
    except (OSError, ValueError) as err:
        raise JournalFailed(f"{str(source)[:200]!r} cannot be read: {err}") from err
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise JournalCorrupt(f"{source}: {what}, expected an exported mind or a backup")


@contextmanager
def _copied(database: Path) -> Iterator[Log]:
    """A copy that is to become a mind of its own, which nobody has cut off."""
    log = Log(database, create=False)
    try:
        Archive(log)
        yield log
        log.put("id", uuid4().hex)
        log.put("asleep", "yes")
    finally:
        log.close()


def _checked(database: Path) -> None:
    """Raises JournalCorrupt where it is damaged, contradicts itself, or holds what is no mind's."""
    with _copied(database) as log:
        if foreign := sorted(_schema(log.db) ^ _schema_expected()):
            raise JournalCorrupt(f"not as a mind's database is made: {', '.join(foreign)[:200]}")
        log.check()
        context_at(log)


def _schema(db: apsw.Connection) -> set[str]:
    """Every table, index, trigger and view, as it was made."""
    return {
        f"{kind} {name}: {sql}" for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_schema")
    }


def _schema_expected() -> set[str]:
    db = apsw.Connection(":memory:")
    try:
        schema.migrate(db, 0)
        return _schema(db)
    finally:
        db.close()


def _shortened(database: Path, tick: int | None) -> int:
    """Forget what came after `tick`; the number of records left."""
    with _copied(database) as log:
        if tick is not None:
            log.cut(seq_at(log, tick))
        return log.last
