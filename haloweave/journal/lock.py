# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One process at a time has a mind: a lock of the operating system, which dies with its owner.

Knows the mind's folder. Must not know what else is in it. `lock` is what is locked; `owner.json` only tells
others who it is that they wait for, so it is neither trusted nor needed: a dead owner's is written over.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from haloweave.errors import JournalFailed, MindLocked, MindNotFound
from haloweave.journal.disk import Disk, Files, failure


class MindLock:
    """Held from `acquire` (or `with`) to `release`, by whichever threads of this process."""

    def __init__(self, folder: Path, *, disk: Files | None = None) -> None:
        self._folder, self._disk = folder, disk or Disk()
        self._owner = folder / "owner.json"
        self._lock = FileLock(folder / "lock", mode=0o600, thread_local=False)

    def __enter__(self) -> MindLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def held(self) -> bool:
        return self._lock.is_locked

    def acquire(self) -> None:
        """Raises MindLocked, at once, if anybody has it, be it this very process; MindNotFound without a
        folder."""
        if not self._disk.is_folder(self._folder):
            raise MindNotFound(f"no mind {self._folder.name!r}: {self._folder} is no folder")
        if self.held:
            raise self._refusal()
        try:
            self._lock.acquire(timeout=0)
        except Timeout as err:
            raise self._refusal() from err
        except OSError as err:
            raise failure("lock", self._folder / "lock", err) from err
        with suppress(JournalFailed):  # others will be told less; the lock holds all the same
            self._disk.write(self._owner, _this_process())

    def release(self) -> None:
        """May be called twice."""
        if not self.held:
            return
        with suppress(JournalFailed):  # it is written over by the next owner
            self._disk.remove(self._owner)
        self._lock.release()

    def _refusal(self) -> MindLocked:
        return MindLocked(
            f"mind {self._folder.name!r} is in use{self._by_whom()}; close it there, or use another mind"
        )

    def _by_whom(self) -> str:
        """As much as can be read."""
        try:
            owner = json.loads(self._disk.read(self._owner))
            pid, host, since = int(owner["pid"]), str(owner["host"])[:64], str(owner["since"])[:32]
        except (JournalFailed, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return ""
        shown = f" by process {pid} on {host} since {since}"
        return shown if shown.isprintable() else ""


def _this_process() -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()
