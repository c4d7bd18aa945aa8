# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Keeps a mind's text whole while it lives: finds scars, has them mended elsewhere, applies what comes back.

Knows scars, windows, the worker and the breaker. Must not know runners, engines or text. All methods but
`release` belong to the thread that owns the mind; `step` is to be called between two events of the mind, when
`wake` is called, and after `due` seconds without either.

One batch is under way at a time, and nobody enters a repairer twice: while one that gave no answer in time is
still at it, each further try fails.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from haloweave.events import Edited, Event, Notice
from haloweave.memory.laws import Laws
from haloweave.memory.plan import Proposal
from haloweave.memory.tokens import View
from haloweave.mending.base import Mending, Patient, Scar, Stats
from haloweave.mending.breaker import Breaker, State
from haloweave.mending.scars import Queue, found
from haloweave.mending.windows import cut
from haloweave.mending.worker import Outcome, Task, Worker
from haloweave.repair.base import Repairer

_NEWEST = 1024
"""Windows whose latency is remembered."""
_TOLD = 200
"""Characters of an error that are told."""


@dataclass(frozen=True)
class _Flight:
    """The batch that is under way."""

    number: int
    scars: tuple[Scar, ...]
    windows: int
    deadline: float
    void: bool = False
    """What comes back is not to be used."""


class Mender:
    """Mends one mind. Made anywhere; a thread starts only when there is a scar to mend."""

    def __init__(
        self,
        repairer: Repairer,
        laws: Laws,
        how: Mending | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._laws, self._how, self._clock = laws, how or Mending(), clock
        self._queue = Queue(self._how.queue)
        self._breaker = Breaker(self._how.backoff, self._how.backoff_max, self._how.give_up)
        self._worker = Worker(repairer, clock)
        self._seen: View | None = None
        self._flight: _Flight | None = None
        self._number = 0
        self._lost = False
        """A batch was given up, and the repairer is still at it."""
        self._rest_until = -math.inf
        self._stats = Stats()
        self._latencies: deque[float] = deque(maxlen=_NEWEST)
        self._told = 0
        """Overflowed scars when this was last told."""
        self._over = False

    # ---- for the runner --------------------------------------------------------------------------

    def start(self, wake: Callable[[], None]) -> None:
        """`wake` is called, on another thread, when there is reason for a `step`."""
        self._worker.wake = wake

    def step(self, mind: Patient, hurried: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Look at what became of the mind, apply what is ready, ask for more. Raises nothing.

        With `Mending.wait`, goes on until no scar is left, unless `hurried` says that there is no time;
        whoever makes it say so calls `release` afterwards.
        """
        if self._over:
            return
        try:
            yield from self._step(mind, hurried)
        except Exception as err:  # noqa: BLE001  (a mistake in here must not end a reply)
            yield self._end(f"stopped for good: {_told(err)}")

    def due(self) -> float | None:
        """Seconds after which `step` has something to do though nothing happens; None if it has not."""
        if self._over:
            return None
        if self._flight is not None:
            at = self._flight.deadline
        elif len(self._queue):
            at = max(self._breaker.retry_at, self._rest_until)
        else:
            return None
        return max(at - self._clock(), 0.0)

    def void(self) -> None:
        """The person's hands were on the context: what is under way was made for another one (it may repeat
        what was just redacted), and is asked for again."""
        if self._flight is not None:
            self._flight = replace(self._flight, void=True)

    def release(self) -> None:
        """Whoever waits in `step`, waits no longer. Any thread may call this."""
        self._worker.release()

    def stop(self) -> None:
        """No more steps. A repairer that hangs is left to itself."""
        self._over = True
        self._worker.stop(0.0 if self._lost else self._how.grace)

    @property
    def stats(self) -> Stats:
        """So far."""
        times = np.quantile(list(self._latencies) or [0.0], [0.5, 0.99])
        return replace(
            self._stats,
            state=State.SPENT.value if self._over else self._breaker.state.value,
            waiting=len(self._queue),
            p50=float(times[0]),
            p99=float(times[1]),
        )

    # ---- inside ----------------------------------------------------------------------------------

    def _step(self, mind: Patient, hurried: Callable[[], bool]) -> Iterator[Event]:
        yield from self._look(mind.view)
        yield from self._collect(mind)
        yield from self._send(mind.view)
        while self._how.wait and (flight := self._flight) is not None and not hurried():
            try:
                outcome = self._worker.wait(max(flight.deadline - self._clock(), 0.0))
            except TimeoutError:
                yield from self._abandon(flight)
                continue
            if outcome is None:
                return
            yield from self._take(mind, outcome)
            yield from self._send(mind.view)

    def _look(self, view: View) -> Iterator[Event]:
        """Queue the scars that came about since the last look."""
        before, self._seen = self._seen, view
        if before is None or before.revision == view.revision:
            return
        scars = found(before, view, self._laws, self._how)
        lost = self._queue.add(scars)
        self._count(scars=len(scars), dropped=lost, overflowed=lost)
        lost = self._stats.overflowed
        if lost and lost >= 2 * self._told:  # at 1, 2, 4 ...: told, but no flood
            self._told = lost
            yield Notice(f"repair does not keep up: {lost} scars dropped so far, the oldest first")

    def _collect(self, mind: Patient) -> Iterator[Event]:
        """Take what has come back, or see that it will not."""
        outcome = self._worker.receive()
        if outcome is not None:
            yield from self._take(mind, outcome)
        elif self._flight is not None and self._clock() >= self._flight.deadline:
            yield from self._abandon(self._flight)

    def _abandon(self, flight: _Flight) -> Iterator[Event]:
        self._lost, self._flight = True, None
        yield from self._failed(f"no answer within {self._how.timeout:g} s", flight.scars)

    def _take(self, mind: Patient, outcome: Outcome) -> Iterator[Event]:
        flight = self._flight
        self._count(proposals=len(outcome.proposals), seconds=outcome.seconds)
        self._rest_until = self._clock() + outcome.seconds * (1 / self._how.pace - 1)
        if flight is None or flight.number != outcome.number:
            self._lost = False
            self._count(stale=len(outcome.proposals))
            return
        self._flight = None
        self._latencies.extend([outcome.seconds / flight.windows] * flight.windows)
        if outcome.error is not None:
            yield from self._failed(_told(outcome.error), flight.scars)
        elif flight.void:
            self._count(stale=len(outcome.proposals))
        else:
            yield from self._apply(mind, outcome.proposals, flight.scars)

    def _apply(self, mind: Patient, proposals: Sequence[Proposal], scars: Sequence[Scar]) -> Iterator[Event]:
        """Have the mind carry out what still applies."""
        try:
            done = mind.accept(proposals) if proposals else None
        except Exception as err:  # noqa: BLE001  (told, and counted as the repairer's failure)
            self._count(stale=len(proposals))
            yield from self._failed(f"what it proposed could not be applied: {_told(err)}", scars)
            return
        self._seen = mind.view
        self._queue.settle(scars)
        won = _applied(proposals, done)
        gain = float(sum(p.gain for p in won))
        self._count(applied=len(won), stale=len(proposals) - len(won), gain=gain)
        if self._breaker.succeeded():
            yield Notice("repair works again")
        if done is not None:
            yield done

    def _send(self, view: View) -> Iterator[Event]:
        """Ask for the most urgent scars, if it is time to."""
        now = self._clock()
        resting = now < self._rest_until and not self._how.wait
        if self._flight is not None or not len(self._queue) or resting or not self._breaker.ready(now):
            return
        if self._lost:
            yield from self._failed("still no answer to an earlier batch", ())
            return
        made = cut(view, self._queue.urgent, self._laws, self._how)
        self._queue.settle(made.moot)
        self._count(windows=len(made.windows), dropped=len(made.moot))
        if made.windows:
            self._number += 1
            self._flight = _Flight(self._number, made.asked, len(made.windows), now + self._how.timeout)
            self._worker.send(Task(self._number, made.windows))

    def _failed(self, why: str, scars: Sequence[Scar]) -> Iterator[Event]:
        self._count(failures=1, dropped=self._queue.failed(scars))
        seconds = self._breaker.failed(self._clock())
        if self._breaker.state is State.SPENT:
            yield self._end(f"failed {self._breaker.failures} times in a row and stops for good: {why}")
        else:
            yield Notice(f"repair failed: {why}; the next try is in {seconds:g} s")

    def _end(self, why: str) -> Notice:
        self._over, self._flight = True, None
        self._count(dropped=self._queue.clear())
        self._worker.stop(0.0)
        return Notice(f"repair {why}")

    def _count(self, **more: Any) -> None:
        self._stats = replace(self._stats, **{k: getattr(self._stats, k) + n for k, n in more.items()})


def _applied(proposals: Sequence[Proposal], done: Edited | None) -> list[Proposal]:
    """Those that the edit carried out: all their tokens left in it, and no better one had claimed them."""
    if done is None:
        return []
    gone = {int(uid) for s in done.edit.splices for uid in s.old.uid}
    won = []
    for p in sorted(proposals, key=lambda p: -p.gain):
        uids = set(p.uid.tolist())
        if uids <= gone:
            gone -= uids
            won.append(p)
    return won


def _told(err: BaseException) -> str:
    """An error on one line."""
    text = f"{type(err).__name__}: {' '.join(str(err).split())}".rstrip(": ")
    return text if len(text) <= _TOLD else text[: _TOLD - 1] + "…"
