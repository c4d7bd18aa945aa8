# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The one thread that a repairer works on: windows in, checked proposals out.

Knows repairers, threads and queues. Must not know views, scars or minds. Nothing that a repairer raises or
returns gets past here unseen: an outcome is either proposals that keep what `Repairer` promises, or an error.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, Repairer, RepairWindow


@dataclass(frozen=True)
class Task:
    """Windows to be asked; the number comes back with the outcome."""

    number: int
    windows: tuple[RepairWindow, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    number: int
    proposals: tuple[Proposal, ...] = ()
    seconds: float = 0.0
    error: BaseException | None = None


class Worker:
    """Owns a repairer. `wake` is called on its thread whenever an outcome is there.

    The thread starts with the first task. It is a daemon: a repairer that never returns keeps nobody from
    leaving.
    """

    def __init__(
        self, repairer: Repairer, clock: Callable[[], float], wake: Callable[[], None] = lambda: None
    ) -> None:
        self._repairer, self._clock, self.wake = repairer, clock, wake
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="halo-repair", daemon=True)

    def send(self, task: Task) -> None:
        """Ask."""
        if self._thread.ident is None:
            self._thread.start()
        self._tasks.put(task)

    def receive(self) -> Outcome | None:
        """An outcome, if there is one."""
        found: Outcome | None = None
        while found is None:
            try:
                found = self._outcomes.get_nowait()
            except queue.Empty:
                return None
        return found

    def wait(self, seconds: float) -> Outcome | None:
        """The next outcome; None if `release` was called meanwhile. Raises TimeoutError."""
        try:
            return self._outcomes.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None

    def release(self) -> None:
        """Whoever waits, waits no longer. Any thread may call this."""
        self._outcomes.put(None)

    def stop(self, grace: float) -> None:
        """End the thread after its present task; wait for that, but not for longer than `grace` seconds."""
        if self._thread.ident is not None:
            self._tasks.put(None)
            self._thread.join(grace)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._outcomes.put(self._carry_out(task))
            self.wake()

    def _carry_out(self, task: Task) -> Outcome:
        began = self._clock()
        try:
            proposals = checked(self._repairer.propose(task.windows), task.windows)
            return Outcome(task.number, proposals, self._clock() - began)
        except BaseException as err:  # noqa: BLE001  (whatever it is, it is the repairer's, and is told)
            return Outcome(task.number, (), self._clock() - began, err)


def checked(found: Any, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
    """What a repairer returned. Raises InvalidInput where it is not what `Repairer` promises."""
    if not isinstance(found, tuple | list):
        raise InvalidInput(f"expected a tuple of proposals, got {type(found).__name__}")
    for proposal in found:
        _check(proposal, windows)
    return tuple(found)


def _check(p: Any, windows: Sequence[RepairWindow]) -> None:
    if not isinstance(p, Proposal):
        raise InvalidInput(f"expected a proposal, got {type(p).__name__}")
    for column in (p.uid, p.new_ids):
        if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in "iu":
            raise InvalidInput(f"expected uids and ids as rows of whole numbers, got {column!r}")
    if not math.isfinite(p.gain):
        raise InvalidInput(f"expected a finite gain, got {p.gain}")
    if len(p.new_ids) > len(p.uid) or np.any(p.new_ids < 0):
        raise InvalidInput(f"expected at most {len(p.uid)} ids from 0 on, got {p.new_ids.tolist()}")
    runs = [(w, run) for w in windows if (run := w.run(p)) is not None]
    if not any(np.all(w.heat[run] > 0) for w, run in runs):
        raise InvalidInput(f"uids {p.uid.tolist()} are no unbroken run of tokens that may change")
    if any(np.array_equal(w.token_id[run], p.new_ids) for w, run in runs):
        raise InvalidInput(f"the proposal for uids {p.uid.tolist()} changes nothing")
