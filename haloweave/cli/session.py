# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A mind on its runner, as the one thread that talks to a person sees it.

Knows runners, events and Ctrl-C. Must not know consoles. `play` hands out what happens moment by moment;
whatever interrupts it, the mind is whole and idle afterwards. `meanwhile` tells what happens to an idle mind.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from haloweave.events import Event
from haloweave.journal.base import Totals
from haloweave.memory.laws import Laws
from haloweave.memory.tokens import Source, View
from haloweave.mending import Mender, Stats
from haloweave.mind import Mind
from haloweave.runner import Runner, Work
from haloweave.text import Codec

if TYPE_CHECKING:
    from haloweave.waking import Awake

T = TypeVar("T")
_POLL = 0.25  # seconds; a wait without end would keep Ctrl-C from being noticed on Windows


@dataclass(frozen=True)
class Moment:
    """An event, and the mind right after it."""

    event: Event
    view: View
    totals: Totals
    at: float
    """Seconds, by a clock that only goes forward."""


class Session:
    """Use as a context: the runner starts with it and ends with it."""

    def __init__(self, mind: Mind, mender: Mender | None = None, kept: Awake | None = None) -> None:
        self._mind, self._mender, self.kept = mind, mender, kept
        self.codec: Codec = mind.codec
        self.laws: Laws = mind.laws
        self.budget = mind.budget
        self._moments: queue.SimpleQueue[Moment | None] = queue.SimpleQueue()
        self._running: Future[None] | None = None
        self._runner = Runner(mind, self._publish, mender, kept.keeper if kept else None)

    def _publish(self, event: Event) -> None:
        """On the runner's thread, which alone may look at the mind."""
        self._moments.put(Moment(event, self._mind.view, self._mind.totals, time.perf_counter()))

    def __enter__(self) -> Session:
        self._runner.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.stop()

    def play(self, work: Work) -> Iterator[Moment]:
        """Do something long, moment by moment. Raises what the work raised."""
        done = self._running = self._runner.do(work)
        done.add_done_callback(lambda _: self._moments.put(None))
        while True:
            try:
                moment = self._moments.get(timeout=_POLL)
            except queue.Empty:
                continue
            if moment is None:
                break
            yield moment
        self._running = None
        done.result()

    def interrupt(self) -> list[Moment]:
        """End what is playing after its present forward pass; what was not yet seen of it."""
        running, self._running = self._running, None
        if running is None:
            return []
        while not running.done():
            self._runner.interrupt()  # again: the runner may only now be taking the work up
            _settled(running, 0.05)
        missed = []
        while (moment := self._moments.get()) is not None:
            missed.append(moment)
        return missed

    def meanwhile(self) -> list[Moment]:
        """What happened since the last of what was played: repairs, and what is to be told of them."""
        missed: list[Moment] = []
        while self._running is None and not self._moments.empty():
            if (moment := self._moments.get()) is not None:
                missed.append(moment)
        return missed

    def ask(self, act: Callable[[Mind], T]) -> T:
        """Do something short, now."""
        answer = self._runner.ask(act)
        while not _settled(answer, _POLL):
            continue
        return answer.result()

    def at_work(self, working: bool) -> None:
        """Note on disk, where a mind is kept, whether being cut off now would be by nobody's wish."""
        if self.kept is not None:
            log, state = self.kept.keeper.log, "no" if working else "paused"
            self.ask(lambda mind: None if log.get("asleep") == state else log.put("asleep", state))

    def hear(self, text: str) -> Work:
        """A person says something; where a mind is kept, what it was strongly like comes back first."""
        recaller = self.kept.recaller if self.kept else None
        if recaller is None:
            return lambda mind: mind.listen(text, Source.USER)
        return partial(recaller.hear, text=text)

    def view(self) -> View:
        """The context now."""
        return self.ask(lambda mind: mind.view)

    def totals(self) -> Totals:
        """The mind's counters now."""
        return self.ask(lambda mind: mind.totals)

    def repairs(self) -> Stats | None:
        """The figures of repair now; None if nobody repairs."""
        mender = self._mender
        return None if mender is None else self.ask(lambda mind: mender.stats)


def _settled(future: Future[T], seconds: float) -> bool:
    """Wait a little; whether there is an outcome, good or bad."""
    return bool(wait([future], timeout=seconds).done)
