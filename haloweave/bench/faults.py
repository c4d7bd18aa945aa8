# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A disk that fails on demand: at operation k with an error, with half a write, with a lie, or by dying
there.

Knows `Files`. Must not know what is kept on it. After a death `power_cut` may also take away what was never
synced: bytes of a file before its `sync`, names before the `sync_folder` of their folder. (A real file system
keeps any subset of these; here it loses all such bytes, all such names, or both.) A file whose `sync` failed
has lost its bytes for good, however often it is synced again (ATC'20, "Can applications recover from fsync
failures").
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, Flag
from pathlib import Path

from haloweave.errors import JournalFailed
from haloweave.journal.disk import Disk, Files, failure, remove_tree


class Died(BaseException):
    """The process was killed. No handler of errors may take it for one."""


@dataclass
class Power:
    """What all that is kept on one machine's disk has in common."""

    on: bool = True
    """Off: the process is dead. Nothing works any more."""
    full: bool = False
    """No room is left: whatever takes some fails."""


class Kind(Enum):
    """What happens at operation k."""

    ERROR = "the operation fails, and nothing has happened"
    TORN = "half of a write is done, then it fails; anything else just fails"
    SILENT = "half of a write is done, and nobody is told; anything else is done"
    DEATH = "killed before it"
    TORN_DEATH = "killed in the middle of a write; before anything else"


class Loss(Flag):
    """What a power cut takes of what was not synced."""

    NOTHING = 0
    BYTES = 1
    NAMES = 2
    ALL = 3


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when."""

    at: int
    """Number of the operation, from 0."""
    kind: Kind = Kind.ERROR
    errno: int = errno.EIO
    lasting: bool = False
    """Whatever takes room fails from then on: a disk once full stays so."""


@dataclass(eq=False)
class _Unsafe:
    """Something that a power cut would undo."""

    loss: Loss
    path: Path
    """Where it is now; a rename takes it along."""
    undo: Callable[[Path], None]
    ruined: bool = False
    """Its sync failed: no later one makes it safe."""


@dataclass
class FaultyDisk:
    """Does what `disk` does, until it does not. `log` holds every operation begun, in order."""

    fault: Fault | None = None
    disk: Files = field(default_factory=Disk)
    log: list[tuple[str, Path]] = field(default_factory=list)
    power: Power = field(default_factory=Power)
    """Shared with whatever else is to die, or to run out of room, at the same moment."""
    _unsafe: list[_Unsafe] = field(default_factory=list)

    @property
    def operations(self) -> int:
        return len(self.log)

    def write(self, path: Path, data: bytes) -> None:
        half = data[: len(data) // 2]
        try:
            lied = self._begin("write", path)
        except (JournalFailed, Died):
            if self._torn():
                self._write(path, half)
            raise
        self._write(path, half if lied else data)

    def read(self, path: Path) -> bytes:
        self._begin("read", path)
        return self.disk.read(path)

    def sync(self, path: Path) -> None:
        try:
            self._begin("sync", path)
        except JournalFailed:
            for unsafe in self._of(Loss.BYTES, path):
                unsafe.ruined = True
            raise
        self.disk.sync(path)
        self._settle([u for u in self._of(Loss.BYTES, path) if not u.ruined])

    def sync_folder(self, path: Path) -> None:
        self._begin("sync_folder", path)
        self.disk.sync_folder(path)
        safe = [u for u in self._unsafe if u.loss is Loss.NAMES and u.path.parent == path]
        gone = [u.path for u in safe if not self.disk.exists(u.path)]
        self._settle(safe + [u for u in self._unsafe if any(g in u.path.parents for g in gone)])

    def rename(self, old: Path, new: Path) -> None:
        self._begin("rename", old)
        before = self.disk.read(new) if self.disk.exists(new) and not self.disk.is_folder(new) else None
        self.disk.rename(old, new)
        self._settle([u for u in self._unsafe if u.path == new])
        taken_along = [u for u in self._unsafe if old in (u.path, *u.path.parents)]
        _move(taken_along, old, new)

        def undo(there: Path) -> None:
            self.disk.rename(there, old)
            _move(taken_along, new, old)
            if before is not None:
                self.disk.write(there, before)

        self._note(Loss.NAMES, new, undo)

    def remove(self, path: Path) -> None:
        self._begin("remove", path)
        before = self.disk.read(path) if path.is_file() else b""
        self.disk.remove(path)
        self._note(Loss.NAMES, path, lambda there: self.disk.write(there, before))

    def remove_empty(self, path: Path) -> None:
        self._begin("remove_empty", path)
        self.disk.remove_empty(path)
        self._note(Loss.NAMES, path, self.disk.make_folder)

    def remove_folder(self, path: Path) -> None:
        remove_tree(self, path)

    def make_folder(self, path: Path) -> None:
        self._begin("make_folder", path)
        self.disk.make_folder(path)
        self._note(Loss.NAMES, path, self._remove_if_there)

    def names(self, folder: Path) -> list[str]:
        self._begin("names", folder)
        return self.disk.names(folder)

    def exists(self, path: Path) -> bool:
        self._begin("exists", path)
        return self.disk.exists(path)

    def is_folder(self, path: Path) -> bool:
        self._begin("is_folder", path)
        return self.disk.is_folder(path)

    def power_cut(self, loss: Loss = Loss.ALL) -> None:
        """Undo what was not synced, last first. Nothing works afterwards."""
        self.power.on = False
        for unsafe in reversed(self._unsafe):
            if unsafe.loss in loss:
                unsafe.undo(unsafe.path)
        self._unsafe.clear()

    # ---- the fault ---------------------------------------------------------------------------------------

    def _begin(self, doing: str, path: Path) -> bool:
        """Count the operation. Raises where it is to fail; True if it is to go wrong and nobody told."""
        if not self.power.on:
            raise Died
        self.log.append((doing, path))
        fault = self.fault
        if fault is not None and self.operations - 1 == fault.at:
            return self._strike(fault, doing, path)
        if self.power.full and doing in ("write", "make_folder"):
            raise _error(fault.errno if fault else errno.ENOSPC, doing, path)
        return False

    def _strike(self, fault: Fault, doing: str, path: Path) -> bool:
        if fault.kind is Kind.SILENT:
            return True
        if fault.kind in (Kind.DEATH, Kind.TORN_DEATH):
            self.power.on = False
            raise Died
        self.power.full |= fault.lasting
        raise _error(fault.errno, doing, path)

    def _torn(self) -> bool:
        """Whether the operation that has just failed did half of its work."""
        fault = self.fault
        return fault is not None and not self._again() and fault.kind in (Kind.TORN, Kind.TORN_DEATH)

    def _again(self) -> bool:
        """Whether the fault itself lies behind."""
        return self.fault is not None and self.operations - 1 > self.fault.at

    # ---- what is not safe yet ----------------------------------------------------------------------------

    def _write(self, path: Path, data: bytes) -> None:
        old = self.disk.read(path) if self.disk.exists(path) else None
        self.disk.write(path, data)
        for unsafe in self._of(Loss.BYTES, path):
            unsafe.ruined = False  # these bytes replace them
        if old is None:
            self._note(Loss.NAMES, path, self._remove_if_there)
        self._note(Loss.BYTES, path, lambda there: self._write_if_there(there, old or b""))

    def _note(self, loss: Loss, path: Path, undo: Callable[[Path], None]) -> None:
        self._unsafe.append(_Unsafe(loss, path, undo))

    def _of(self, loss: Loss, path: Path) -> list[_Unsafe]:
        return [u for u in self._unsafe if u.loss is loss and u.path == path]

    def _settle(self, safe: list[_Unsafe]) -> None:
        self._unsafe = [u for u in self._unsafe if u not in safe]

    def _remove_if_there(self, path: Path) -> None:
        if self.disk.exists(path):
            self.disk.remove_folder(path)

    def _write_if_there(self, path: Path, data: bytes) -> None:
        if self.disk.exists(path):
            self.disk.write(path, data)


def _error(number: int, doing: str, path: Path) -> JournalFailed:
    err = OSError(number, os.strerror(number))
    told = failure(doing, path, err)
    told.__cause__ = err
    return told


def _move(unsafe: list[_Unsafe], old: Path, new: Path) -> None:
    for one in unsafe:
        one.path = new / one.path.relative_to(old)
