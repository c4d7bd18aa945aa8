# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Repairers that do as they are told, for tests of whoever uses one.

Know the protocol `Repairer`. Must not know menders or minds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from haloweave.events import Edited, Event, Notice
from haloweave.memory.plan import Proposal
from haloweave.repair.base import RepairWindow

SOON = 5.0
"""Seconds after which something that should happen at once has not."""

STAR = ord("*")

Answer = Callable[[Sequence[RepairWindow]], Any]


class Scripted:
    """A repairer that answers as it is told to, window by window, and remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        """One for each call; the last one for all further calls."""
        self.asked: list[tuple[RepairWindow, ...]] = []

    def propose(self, windows: Sequence[RepairWindow]) -> Any:
        self.asked.append(tuple(windows))
        return self.answers[min(len(self.asked), len(self.answers)) - 1](windows)


def star(windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
    """The first hot token of each window that is no star becomes one."""
    found = []
    for w in windows:
        at = np.flatnonzero((w.heat > 0) & (w.token_id != STAR))[:1]
        if len(at):
            found.append(Proposal(w.uid[at], np.array([STAR], np.int32), 1.5))
    return tuple(found)


def nothing(windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
    return ()


def boom(windows: Sequence[RepairWindow]) -> Any:
    raise ZeroDivisionError("by  nothing\nat all")


class Stuck:
    """An answer that does not come until it is let out."""

    def __init__(self, then: Answer = star) -> None:
        self.inside, self.out, self.then = threading.Event(), threading.Event(), then

    def __call__(self, windows: Sequence[RepairWindow]) -> Any:
        self.inside.set()
        assert self.out.wait(2 * SOON)
        return self.then(windows)


def repaired(events: Sequence[Event]) -> list[Edited]:
    return [e for e in events if isinstance(e, Edited) and e.edit.reason == "repair"]


def told(events: Sequence[Event]) -> list[str]:
    return [e.text for e in events if isinstance(e, Notice)]
