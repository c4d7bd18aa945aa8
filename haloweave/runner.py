# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The one thread that owns a mind: commands in, immutable events out.

Knows minds, menders, keepers, threads and queues. Must not know screens, servers or backends. Everybody else
talks to a mind only through here. A long command (reading, replying) is carried out event by event; between
two events the runner does short acts that have come in meanwhile (a pin, a look), has the keeper take its
snapshots, applies what a mender has ready, and sees whether it was interrupted. While nothing runs it sleeps,
until somebody wants something, the mender has something, or one of them is due.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from haloweave.errors import HaloError, Interrupted, MindClosed
from haloweave.events import Event, Notice, TurnEnded
from haloweave.journal.base import State
from haloweave.mending import Mender
from haloweave.mind import Mind

T = TypeVar("T")
Work = Callable[[Mind], Iterator[Event]]


@dataclass(frozen=True)
class _Job:
    work: Work
    done: Future[None]


@dataclass(frozen=True)
class _Act:
    do: Callable[[], None]
    refuse: Callable[[MindClosed], None]


class Attendant(Protocol):
    """Whoever keeps a mind on disk (a `Keeper`)."""

    def tend(self, state: Callable[[], State]) -> list[str]:
        """Between two ticks: do what is due. What a person should know of it."""
        ...

    def due(self) -> float | None:
        """Seconds after which to call `tend` even if nothing happens; None: not until something does."""
        ...


class Runner:
    """Owns `mind`, `mender` and `keeper` from `start` to `stop`. `publish` is called on the runner's thread,
    once per event; a repair is an event like any other, and may come while nothing else runs."""

    def __init__(
        self,
        mind: Mind,
        publish: Callable[[Event], None],
        mender: Mender | None = None,
        keeper: Attendant | None = None,
    ) -> None:
        self._mind = mind
        self._publish = publish
        self._mender = mender
        self._keeper = keeper
        self._woken = threading.Event()
        """The mender's wish to be looked after is in the queue of jobs."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._acts: queue.SimpleQueue[_Act] = queue.SimpleQueue()
        self._interrupted = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="halo-mind", daemon=True)

    def start(self) -> Runner:
        """Start the thread."""
        if self._mender is not None:
            self._mender.start(self._wake)
        self._thread.start()
        return self

    def __enter__(self) -> Runner:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def do(self, work: Work) -> Future[None]:
        """Queue something long, such as `lambda mind: mind.reply(how)`; done when its last event is out."""
        self._refuse_if_closed()
        job = _Job(work, Future())
        self._jobs.put(job)
        self._refuse_late()
        return job.done

    def ask(self, act: Callable[[Mind], T]) -> Future[T]:
        """Do something short, such as `lambda mind: mind.commit(edit)`, at the next chance: at once, or
        between two events of what is running."""
        self._refuse_if_closed()
        answer: Future[T] = Future()
        self._acts.put(_Act(partial(_fulfil, answer, partial(act, self._mind)), partial(_refuse, answer)))
        self._jobs.put(_nothing())
        self._refuse_late()
        return answer

    def interrupt(self) -> None:
        """End what is running after its present event; the mind stays whole."""
        self._interrupted.set()
        if self._mender is not None:
            self._mender.release()

    def stop(self) -> None:
        """Interrupt, and wait until the thread has ended."""
        if not self._closed.is_set():
            self._closed.set()
            self.interrupt()
            self._jobs.put(None)
        if self._thread is not threading.current_thread():
            self._join()

    def _join(self) -> None:
        """Whoever stops a runner may touch its mind afterwards: so no Ctrl-C cuts the waiting short, it only
        makes itself felt at the end of it."""
        impatient: KeyboardInterrupt | None = None
        while self._thread.is_alive():
            try:
                self._thread.join()
            except KeyboardInterrupt as err:
                impatient = err
        if impatient is not None:
            raise impatient

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set() or not self._thread.is_alive():
            raise MindClosed("the runner has stopped, or was not started")

    def _refuse_late(self) -> None:
        """What was queued while the thread was ending would wait for ever."""
        if not self._thread.is_alive():
            self._drain()

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._interrupted.clear()
                if self._closed.is_set():
                    _refuse(job.done, MindClosed("the runner stopped before this could be done"))
                else:
                    _fulfil(job.done, partial(self._carry_out, job.work))
        finally:
            self._closed.set()
            self._drain()
            if self._mender is not None:
                self._mender.stop()

    def _wake(self) -> None:
        """On the mender's thread: have the mender looked after, even if nothing runs."""
        if not self._woken.is_set():
            self._woken.set()
            self._jobs.put(_nothing())

    def _next(self) -> _Job | None:
        """The next job; nothing, if the mender is due before there is one; None at the end."""
        try:
            due = [who.due() for who in (self._mender, self._keeper) if who is not None]
            job = self._jobs.get(
                timeout=min((seconds for seconds in due if seconds is not None), default=None)
            )
        except queue.Empty:
            job = _nothing()
        self._woken.clear()  # before the mender is looked after, so that no call of `_wake` is lost
        return job

    def _carry_out(self, work: Work) -> None:
        self._between()
        events = work(self._mind)
        try:
            for event in events:
                self._publish(event)
                self._between()
                if self._interrupted.is_set() and not isinstance(event, TurnEnded):
                    self._break_off(events)
                    return
        finally:
            close: Any = getattr(events, "close", None)
            if close is not None:
                close()

    def _break_off(self, events: Iterator[Event]) -> None:
        """Throw `Interrupted` into what is running, and publish what it still has to say."""
        throw: Any = getattr(events, "throw", None)
        try:
            if throw is None:
                raise Interrupted("interrupted")
            self._publish(throw(Interrupted("interrupted")))
            for event in events:
                self._publish(event)
        except Interrupted:
            self._publish(TurnEnded("interrupted", 0))
        except StopIteration:
            return

    def _between(self) -> None:
        """What is done between two events: acts, then snapshots, then repairs."""
        revision = self._mind.view.revision
        self._do_acts()
        if self._keeper is not None and not self._closed.is_set():
            self._tend(self._keeper)
        if self._mender is None or self._closed.is_set():
            return
        if self._mind.view.revision != revision:
            self._mender.void()
        for event in self._mender.step(self._mind, self._interrupted.is_set):
            self._publish(event)

    def _tend(self, keeper: Attendant) -> None:
        try:
            told = keeper.tend(self._mind.state)
        except HaloError as err:  # the mind finds out by itself, when it next wants to write
            told = [str(err)]
        for text in told:
            self._publish(Notice(text))

    def _do_acts(self) -> None:
        while True:
            try:
                act = self._acts.get_nowait()
            except queue.Empty:
                return
            act.do()

    def _drain(self) -> None:
        """Nobody waits for ever on a runner that has stopped."""
        stopped = MindClosed("the runner stopped before this could be done")
        while not self._jobs.empty():
            left = self._jobs.get()
            if left is not None:
                _refuse(left.done, stopped)
        while not self._acts.empty():
            self._acts.get_nowait().refuse(stopped)


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    """Run `work`, and hand its result or its error to whoever holds the future. Only what is meant to end
    a thread (SystemExit, KeyboardInterrupt) goes further."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as err:  # noqa: BLE001
        future.set_exception(err)
    except BaseException as err:
        future.set_exception(err)
        raise


def _nothing() -> _Job:
    """A job that does nothing: it makes the runner look up. Nobody holds its future."""
    done: Future[None] = Future()
    done.add_done_callback(_tell)
    return _Job(lambda mind: iter(()), done)


def _tell(unheld: Future[None]) -> None:
    """What went wrong in nobody's job (`publish` raised) is told as an error that ends a thread is."""
    err = unheld.exception()
    if err is not None and not isinstance(err, MindClosed):
        told = (type(err), err, err.__traceback__, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(told))


def _refuse(future: Future[Any], error: MindClosed) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
