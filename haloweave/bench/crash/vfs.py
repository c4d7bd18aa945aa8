# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A file system under SQLite that fails, or dies, at an operation of one's choosing.

Knows apsw. Must not know what the database holds. Operations that change a file are counted; those that read
one as well, if wanted. After a death `power_cut` may take away what was written since a file's last sync, all
of it or some (a disk keeps any of it, in any order, or half). Names are SQLite's own business: it syncs the
folder with the first sync of a journal.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from haloweave.bench.faults import Died, Power


@dataclass
class _Unsynced:
    """A file as it was at its last sync, and what was done to it since."""

    safe: bytes
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Written there; None: cut off there."""


class FaultyVFS(apsw.VFS):
    """The default file system, until operation `at` (1 is the first): that one raises `error`, and after it
    every one, unless it `recovers`. A write that is `torn` leaves its first half behind. Once the power is
    off, what changes a file is not done any more, without a word: so that a connection can be closed."""

    def __init__(self, name: str, power: Power | None = None) -> None:
        self.name = name
        self.power = power or Power()
        self.reads = False
        """Whether reading counts, too."""
        self.watch = False
        """Whether it is noted what a power cut would take."""
        self._unsynced: dict[Path, _Unsynced] = {}
        self.beneath = apsw.vfs_names()[0]
        self.calm()
        super().__init__(name, self.beneath)

    def calm(self) -> None:
        """Nothing fails any more; counting begins anew."""
        self.count = 0
        self.at = 0
        self.error: type[BaseException] = apsw.IOError
        self.recovers = self.torn = False
        self.names: list[str] = []

    def fail(
        self,
        at: int,
        error: type[BaseException] = apsw.IOError,
        *,
        recovers: bool = False,
        torn: bool = False,
    ) -> None:
        """Have operation `at`, from now on, fail; `Died` as error kills the process there."""
        self.calm()
        self.at, self.error, self.recovers, self.torn = at, error, recovers, torn

    def step(self, what: str, file: str) -> bool:
        """Count an operation; whether it fails."""
        self.count += 1
        self.names.append(f"{what} {file}")
        if self.at and self.count == self.at:
            self.power.full |= self.error is apsw.FullError and not self.recovers
            self.power.on = self.error is not Died
            return True
        return bool(self.at) and self.count > self.at and not self.recovers

    def begin(self, what: str, file: str) -> bool:
        """Count an operation. Raises where it is to fail; False if nobody is there any more to do it."""
        if not self.power.on:
            return False
        if self.step(what, file):
            raise self.error("told to fail")
        if self.power.full and what == "write":
            raise apsw.FullError("told to be full")
        return True

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        if self.begin("delete", Path(filename).name):
            self._unsynced.pop(Path(filename), None)
            super().xDelete(filename, syncdir)

    # ---- what is not safe yet ----------------------------------------------------------------------------

    def changed(self, path: Path, at: int, data: bytes | None) -> None:
        """About to be written, or cut off, there."""
        if self.watch and path.name:
            if path not in self._unsynced:
                self._unsynced[path] = _Unsynced(path.read_bytes() if path.exists() else b"")
            self._unsynced[path].changes.append((at, data))

    def synced(self, path: Path) -> None:
        self._unsynced.pop(path, None)

    def power_cut(self, some: random.Random | None = None) -> None:
        """Undo what was not synced; or just `some` of it. Every connection has to be closed."""
        self.power.on = False
        for path, lost in self._unsynced.items():
            if path.exists():
                kept = [] if some is None else [c for c in lost.changes if some.random() < 0.5]
                path.write_bytes(_made(lost.safe, kept, some))
        self._unsynced.clear()

    def forget(self) -> None:
        """A new life: all that is there is safe."""
        self._unsynced.clear()


def _made(safe: bytes, changes: list[tuple[int, bytes | None]], some: random.Random | None) -> bytes:
    """The file with these changes, the last perhaps half done."""
    data = bytearray(safe)
    for n, (at, new) in enumerate(changes):
        if new is None:
            del data[at:]
            continue
        last = n == len(changes) - 1
        part = new[: len(new) // 2] if last and some is not None and some.random() < 0.5 else new
        data += bytes(max(at + len(part) - len(data), 0))
        data[at : at + len(part)] = part
    return bytes(data)


class _File(apsw.VFSFile):
    def __init__(self, vfs: FaultyVFS, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._vfs, self._path = vfs, Path(path or "")
        self._file = self._path.name or "temporary"
        super().__init__(vfs.beneath, name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._vfs.reads:
            self._vfs.begin("read", self._file)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        try:
            alive = self._vfs.begin("write", self._file)
        except BaseException:
            if self._vfs.torn and self._vfs.count == self._vfs.at:
                self._write(data[: len(data) // 2], offset)
            raise
        if alive:
            self._write(data, offset)

    def _write(self, data: bytes, offset: int) -> None:
        self._vfs.changed(self._path, offset, bytes(data))
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if self._vfs.begin("sync", self._file):
            super().xSync(flags)
            self._vfs.synced(self._path)

    def xTruncate(self, size: int) -> None:
        if self._vfs.begin("truncate", self._file):
            self._vfs.changed(self._path, size, None)
            super().xTruncate(size)


@contextmanager
def faulty(
    name: str = "faulty", *, power: Power | None = None, everywhere: bool = False
) -> Iterator[FaultyVFS]:
    """Such a file system; `everywhere`: for all databases that are opened meanwhile."""
    vfs = FaultyVFS(name, power)
    if everywhere:
        apsw.set_default_vfs(name)
    try:
        yield vfs
    finally:
        if everywhere:
            apsw.set_default_vfs(vfs.beneath)
        vfs.unregister()
