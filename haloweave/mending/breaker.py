# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The circuit breaker: what becomes of a repairer that fails.

Knows numbers. Must not know repairers, threads or clocks: the time is told to it.

    CLOSED  --failure-->               OPEN, for `first` seconds
    OPEN    --its time is over-->      one try is allowed
            --it succeeds-->           CLOSED
            --it fails-->              OPEN, for twice as long, at most `longest` seconds
    any     --`give_up` failures in a row-->  SPENT, for good
"""

from __future__ import annotations

import math
from enum import StrEnum


class State(StrEnum):
    """See the table above."""

    CLOSED = "closed"
    OPEN = "open"
    SPENT = "spent"


class Breaker:
    """Counts failures in a row."""

    def __init__(self, first: float, longest: float, give_up: int) -> None:
        self._first, self._longest, self._give_up = first, longest, give_up
        self.failures = 0
        """In a row."""
        self.retry_at = -math.inf
        """When the next try is allowed."""

    @property
    def state(self) -> State:
        if self.failures >= self._give_up:
            return State.SPENT
        return State.OPEN if self.failures else State.CLOSED

    def ready(self, now: float) -> bool:
        """Whether a try is allowed."""
        return self.state is not State.SPENT and now >= self.retry_at

    def failed(self, now: float) -> float:
        """One more failure; seconds until the next try."""
        self.failures += 1
        doublings = min(self.failures - 1, 64)  # beyond any sensible `longest`, and no float overflows
        seconds = min(self._first * 2.0**doublings, self._longest)
        self.retry_at = now + seconds
        return seconds

    def succeeded(self) -> bool:
        """A try went well; whether the breaker was open until now."""
        was_open = self.state is State.OPEN
        self.failures, self.retry_at = 0, -math.inf
        return was_open
