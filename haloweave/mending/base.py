# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The values of repair beside a living mind: how it goes about it, a scar, its figures, and whom it mends.

Knows memory values and events. Must not know threads or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

from haloweave.errors import InvalidInput
from haloweave.events import Edited
from haloweave.memory.plan import Proposal
from haloweave.memory.tokens import View

NOBODY = -1
"""In place of a uid: the context begins or ends there."""


@dataclass(frozen=True)
class Mending:
    """How repair goes about it."""

    window: int = 64
    """Tokens of text that the repairer is shown around a scar."""
    reach: int = 6
    """Tokens on either side of a joint that may change."""
    cutoff: float = 0.5
    """Heat from which a token near a joint may change."""
    batch: int = 4
    """Windows asked at once."""
    queue: int = 256
    """Scars that may wait; the oldest go first. They cost little: close ones are mended in one window."""
    pace: float = 0.5
    """Share of the time that the repairer may work: after a batch that took t seconds it rests for
    t * (1 / pace - 1), so that decoding is slowed only so much. 1: without rest."""
    wait: bool = False
    """Whether the mind waits, after each edit that left a scar, until it is mended. Then the same seed gives
    the same repairs (as long as the repairer answers in time), and `pace` means nothing. Otherwise what is
    ready is applied at the next chance, which depends on the clock."""
    timeout: float = 30.0
    """Seconds after which a batch without an answer is given up."""
    backoff: float = 1.0
    """Seconds before the next try after a failure; doubled with each further one."""
    backoff_max: float = 300.0
    give_up: int = 8
    """Failures in a row after which repair stops for good."""
    grace: float = 2.0
    """Seconds that stopping waits for a batch to end, lest the process leave in the middle of one."""

    def __post_init__(self) -> None:
        numbers = [float(getattr(self, f.name)) for f in fields(self)]
        counts = min(self.reach, self.batch, self.queue, self.give_up) >= 1
        shares = 0 < self.cutoff <= 1 and 0 < self.pace <= 1
        times = self.timeout > 0 and 0 < self.backoff <= self.backoff_max and self.grace >= 0
        if not (counts and shares and times and all(map(math.isfinite, numbers))):
            raise InvalidInput(
                f"mending: expected counts from 1 on, cutoff and pace in (0, 1], times above 0, got {self}"
            )
        if self.window < 2 * self.reach:
            raise InvalidInput(
                f"mending: a window of {self.window} does not hold {self.reach} on either side"
            )


@dataclass(frozen=True)
class Scar:
    """A joint where running text was cut out, named by the survivors on either side of it."""

    left: int
    """Uid; NOBODY if the context began there."""
    right: int
    tick: int
    """When it was found: the newest is the most urgent."""
    tries: int = 0
    """Batches that failed over it."""


@dataclass(frozen=True)
class Stats:
    """What repair has done so far."""

    state: str = "closed"
    """Of the circuit breaker: "closed" (it works), "open" (it failed and waits), "spent" (it has stopped)."""
    scars: int = 0
    """Seen."""
    waiting: int = 0
    windows: int = 0
    """Shown to the repairer."""
    proposals: int = 0
    applied: int = 0
    stale: int = 0
    """Proposals that came too late, no longer applied, or lost to a better one for the same tokens."""
    dropped: int = 0
    """Scars left as they are: their place is gone or was filled, nothing near may change, the queue was full,
    or repair failed over them."""
    overflowed: int = 0
    """Those of them that were dropped because the queue was full."""
    failures: int = 0
    gain: float = 0.0
    """Nats won by what was applied, by the repairer's own reckoning."""
    seconds: float = 0.0
    """That the repairer has worked."""
    p50: float = 0.0
    """Seconds a window, median and 99th percentile of the newest."""
    p99: float = 0.0


class Patient(Protocol):
    """A mind, as far as repair needs one."""

    @property
    def view(self) -> View: ...

    def accept(self, proposals: Sequence[Proposal]) -> Edited | None:
        """Carry out those proposals that still apply; None if none does."""
        ...
