# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Every operation on files that is not a database's, one method each, so that any one of them can be made to
fail.

Knows the operating system. Must not know what is in a file. Nothing here is durable by itself: a file's bytes
are after `sync`, its name after `sync_folder` of the folder that holds it (the order in which a file system
keeps unsynced things is its own business: ALICE, OSDI'14). A sync that failed must not be tried again on the
same file: the kernel has dropped the bytes and calls them clean (ATC'20, "Can applications recover from fsync
failures").
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from haloweave.errors import JournalFailed

try:
    import fcntl
except ImportError:  # Windows
    FULL_SYNC: int | None = None
else:
    FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)
    """macOS: fsync alone leaves the bytes in the drive's cache."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_AT_ONCE = 1 << 26

_WORDS = {
    "ENOSPC": "the disk is full; free some space",
    "EDQUOT": "the disk quota is used up; free some space, or have it raised",
    "EFBIG": "the file would be larger than this file system allows",
    "EROFS": "the disk is read-only; make it writable, or choose another folder",
    "EACCES": "permission denied; see who owns it",
    "EPERM": "permission denied; see who owns it",
    "EIO": "the disk reports a failure; save what is on it elsewhere",
    "ENOENT": "it is not there",
    "EEXIST": "it is there already",
    "ENOTDIR": "it is no folder",
    "EISDIR": "it is a folder",
    "ELOOP": "it is a symbolic link, and those are not followed",
    "EMFILE": "this process has too many files open",
}


class Files(Protocol):
    """What `Disk` can do. Each raises JournalFailed, with the OSError as its cause."""

    def write(self, path: Path, data: bytes) -> None:
        """Create or empty the file, and write all of this."""
        ...

    def read(self, path: Path) -> bytes: ...

    def sync(self, path: Path) -> None:
        """The file's bytes are safe once this returns. Once it has failed, they never will be."""
        ...

    def sync_folder(self, path: Path) -> None:
        """Which names are in the folder is safe once this returns."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Takes the place of a file at `new`, in one step."""
        ...

    def remove(self, path: Path) -> None:
        """One file or link."""
        ...

    def remove_empty(self, path: Path) -> None:
        """One folder with nothing in it."""
        ...

    def remove_folder(self, path: Path) -> None:
        """A folder and all in it, one operation after another."""
        ...

    def make_folder(self, path: Path) -> None: ...

    def names(self, folder: Path) -> list[str]:
        """What is in it, sorted."""
        ...

    def exists(self, path: Path) -> bool:
        """Also if it is a link to nowhere."""
        ...

    def is_folder(self, path: Path) -> bool:
        """And not a link to one."""
        ...


class Disk:
    """See `Files`. What it makes is for its owner's eyes only."""

    def write(self, path: Path, data: bytes) -> None:
        with _telling("write", path):
            file = os.open(path, _NEW, 0o600)
            try:
                _write_all(file, data)
            finally:
                os.close(file)

    def read(self, path: Path) -> bytes:
        with _telling("read", path):
            return path.read_bytes()

    def sync(self, path: Path) -> None:
        """See `Files.sync`. The file is opened anew: Linux (since 4.16) tells a failed write-back to it all
        the same."""
        with _telling("sync", path):
            _synced(os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0)))

    def sync_folder(self, path: Path) -> None:
        """See `Files.sync_folder`. Does nothing where a folder cannot be opened (Windows) or synced (some
        network file systems): there, names are safe when their file system makes them so."""
        if os.name == "nt":
            return
        with _telling("sync", path):
            try:
                _synced(os.open(path, os.O_RDONLY))
            except OSError as err:
                if err.errno not in (errno.EINVAL, errno.ENOTSUP):
                    raise

    def rename(self, old: Path, new: Path) -> None:
        with _telling(f"rename to {new.name}", old):
            os.replace(old, new)

    def remove(self, path: Path) -> None:
        with _telling("remove", path):
            os.unlink(path)

    def remove_empty(self, path: Path) -> None:
        with _telling("remove", path):
            os.rmdir(path)

    def remove_folder(self, path: Path) -> None:
        remove_tree(self, path)

    def make_folder(self, path: Path) -> None:
        with _telling("make the folder", path):
            os.mkdir(path, 0o700)

    def names(self, folder: Path) -> list[str]:
        with _telling("list", folder):
            return sorted(os.listdir(folder))

    def exists(self, path: Path) -> bool:
        with _telling("look at", path):
            return _status(path) is not None

    def is_folder(self, path: Path) -> bool:
        with _telling("look at", path):
            found = _status(path)
            link = bool(getattr(found, "st_reparse_tag", 0))  # Windows: a junction says it is a folder
            return found is not None and stat.S_ISDIR(found.st_mode) and not link


def remove_tree(files: Files, path: Path) -> None:
    """Remove a folder from the inside out; a link in it is removed, and what it leads to stays."""
    if not files.is_folder(path):
        files.remove(path)
        return
    for name in files.names(path):
        remove_tree(files, path / name)
    files.remove_empty(path)


def failure(doing: str, path: Path, err: OSError) -> JournalFailed:
    """What went wrong, in words."""
    name = errno.errorcode.get(err.errno or 0, "")
    words = _WORDS.get(name) or err.strerror or str(err)
    return JournalFailed(f"cannot {doing} {path}: {words}" + (f" ({name})" if name else ""))


@contextmanager
def _telling(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise failure(doing, path, err) from err


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while len(rest):
        written = os.write(file, rest[:_AT_ONCE])  # may take less than it is given
        if written <= 0:
            raise OSError(errno.EIO, "no byte was written")
        rest = rest[written:]


def _synced(file: int) -> None:
    try:
        if FULL_SYNC is None:
            os.fsync(file)
        else:
            fcntl.fcntl(file, FULL_SYNC)
    finally:
        os.close(file)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
