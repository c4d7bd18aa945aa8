# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The one thread: order, interruption, errors, and that nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from typing import Any

import pytest
from fakes import fake_mind
from whole import assert_well_formed, assert_whole

from haloweave.engine.sampling import Sampling
from haloweave.errors import EngineFault, InvalidInput, MindClosed
from haloweave.events import Event, Fed, Notice, Spoke, TurnEnded
from haloweave.memory.plan import delete, pin
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.runner import Runner

GREEDY = Sampling(temperature=0)
SOON = 5.0
"""Seconds after which something that should happen at once has not."""

crashing = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + SOON
    while left := [t for t in threading.enumerate() if t.name == "halo-mind"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


class Gate:
    """Work that waits in the middle until it is let through."""

    def __init__(self, events: int = 1) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        self.events = events

    def __call__(self, mind: Mind) -> Iterator[Event]:
        for n in range(self.events):
            yield Notice(f"event {n}")
            self.inside.set()
            assert self.go.wait(SOON)


def _settles(*futures: Future[Any]) -> None:
    """Each has an outcome, good or bad, soon."""
    waiting = wait(futures, timeout=SOON).not_done
    assert not waiting, f"{len(waiting)} of {len(futures)} wait for ever"


def _closed(future: Future[Any]) -> bool:
    """It ended because the runner did, in a way its holder can tell."""
    if future.cancelled():
        return True
    return isinstance(future.exception(0), MindClosed | CancelledError)


def test_events_come_in_order_and_the_future_after_them() -> None:
    seen: list[Event] = []
    with Runner(fake_mind(says="Yes."), seen.append) as runner:
        runner.do(lambda m: m.listen("hello")).result(SOON)
        assert [type(e) for e in seen] == [Fed] * len(seen)
        read = len(seen)
        runner.do(lambda m: m.reply(GREEDY)).result(SOON)
    said = [e for e in seen[read:] if isinstance(e, Spoke)]
    assert "".join(e.text for e in said) == "Yes."
    assert seen[-1] == TurnEnded("end", 4)


def test_jobs_run_one_after_another_in_order() -> None:
    seen: list[str] = []
    gate = Gate()
    with Runner(fake_mind(), lambda e: seen.append(getattr(e, "text", ""))) as runner:
        jobs = [runner.do(gate)]
        jobs += [runner.do(lambda m, n=n: iter([Notice(f"job {n}")])) for n in range(5)]
        gate.go.set()
        for job in jobs:
            job.result(SOON)
    assert seen == ["event 0", *(f"job {n}" for n in range(5))]


def test_a_question_is_answered_between_two_events_of_a_running_reply() -> None:
    seen: list[Event] = []
    step = threading.Semaphore(0)

    def publish(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Spoke):
            step.acquire(timeout=SOON)

    with Runner(fake_mind(says="A rather long answer."), publish) as runner:
        runner.do(lambda m: m.listen("hello")).result(SOON)
        talk = runner.do(lambda m: m.reply(GREEDY))
        while not any(isinstance(e, Spoke) for e in seen):
            time.sleep(0.001)
        look = runner.ask(lambda m: (m.rows, len(seen)))
        held = runner.ask(lambda m: m.commit(pin(m.view, m.view.tokens.uid[8:10].tolist())))
        step.release()
        rows, events = look.result(SOON)
        assert held.result(SOON).rows == rows
        assert not talk.done()
        assert events < 25
        step.release(100)
        talk.result(SOON)
        assert runner.ask(lambda m: m.view.tokens.pinned[8:10].all()).result(SOON)


def test_a_question_is_answered_while_nothing_runs() -> None:
    with Runner(fake_mind(), lambda e: None) as runner:
        assert runner.ask(lambda m: m.rows).result(SOON) == 0


def test_interruption_ends_what_runs_and_leaves_a_usable_mind() -> None:
    seen: list[Event] = []
    mind = fake_mind(says="x" * 200, budget=512)
    spoken = threading.Event()

    def publish(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Spoke):
            spoken.set()
            time.sleep(0.001)

    with Runner(mind, publish) as runner:
        runner.do(lambda m: m.listen("hello")).result(SOON)
        talk = runner.do(lambda m: m.reply(GREEDY))
        assert spoken.wait(SOON)
        runner.interrupt()
        talk.result(SOON)
        spoke = sum(isinstance(e, Spoke) for e in seen)
        assert 0 < spoke < 200
        assert isinstance(seen[-1], TurnEnded)
        assert seen[-1].reason == "interrupted"
        runner.do(lambda m: m.listen("and again")).result(SOON)
        runner.do(lambda m: m.reply(GREEDY, limit=3)).result(SOON)
    assert seen[-1] == TurnEnded("length", 3)
    assert_whole(mind)
    assert_well_formed(mind)


def test_an_interrupted_turn_tells_its_tokens_not_its_events() -> None:
    """`TurnEnded.tokens` are tokens: the header's pass is none of them."""
    seen: list[Event] = []
    with Runner(fake_mind(says="a long answer"), lambda e: (seen.append(e), stop_after_three())[0]) as runner:

        def stop_after_three() -> None:
            if sum(isinstance(e, Spoke) for e in seen) == 3:
                runner.interrupt()

        runner.do(lambda m: m.listen("hello")).result(SOON)
        runner.do(lambda m: m.reply(GREEDY)).result(SOON)
    assert seen[-1] == TurnEnded("interrupted", 3)


def test_a_finished_turn_ends_once() -> None:
    """An interruption that comes with the last event finds nothing to interrupt."""
    seen: list[Event] = []

    def publish(event: Event) -> None:
        seen.append(event)
        if isinstance(event, TurnEnded):
            runner.interrupt()

    with Runner(fake_mind(), publish) as runner:
        runner.do(lambda m: m.listen("hello")).result(SOON)
        runner.do(lambda m: m.reply(GREEDY)).result(SOON)
    assert [e for e in seen if isinstance(e, TurnEnded)] == [TurnEnded("end", 4)]


def test_what_is_held_back_for_a_stop_text_is_not_lost_by_an_interruption() -> None:
    """Tokens that are in the context have been shown, or are shown now."""
    seen: list[Event] = []
    mind = fake_mind(says="abc<|x")

    def publish(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(e, Spoke) for e in seen) == 5:
            runner.interrupt()

    with Runner(mind, publish) as runner:
        runner.do(lambda m: m.listen("hello")).result(SOON)
        runner.do(lambda m: m.reply(Sampling(temperature=0, stop=("<|y",)))).result(SOON)
    assert mind.text().endswith("abc<|")
    assert "".join(e.text for e in seen if isinstance(e, Spoke)) == "abc<|"


@pytest.mark.parametrize("_", range(20))
def test_interruption_just_before_a_job_starts_harms_nobody(_: int) -> None:
    mind = fake_mind(says="Yes.")
    with Runner(mind, lambda e: None) as runner:
        jobs = [runner.do(lambda m: m.listen("hello"))]
        runner.interrupt()
        jobs.append(runner.do(lambda m: m.reply(GREEDY)))
        runner.interrupt()
        asked = runner.ask(lambda m: m.rows)
        _settles(*jobs, asked)
        for job in jobs:
            job.result(0)
        runner.do(lambda m: m.listen("still there?")).result(SOON)
    assert_whole(mind)
    assert_well_formed(mind)


def test_a_known_error_reaches_its_future_and_the_runner_lives() -> None:
    mind = fake_mind()
    with Runner(mind, lambda e: None) as runner:
        with pytest.raises(InvalidInput):
            runner.do(lambda m: m.reply(GREEDY, limit=0)).result(SOON)
        with pytest.raises(InvalidInput):
            runner.ask(lambda m: m.commit(delete(m.view, [99]))).result(SOON)
        mind.engine.fail = "feed"  # type: ignore[attr-defined]
        with pytest.raises(EngineFault):
            runner.do(lambda m: m.listen("lost")).result(SOON)
        runner.do(lambda m: m.listen("found")).result(SOON)
    assert_well_formed(mind)


def _boom(*_: Any) -> Any:
    raise ZeroDivisionError("not one of ours")


@crashing
def test_a_question_with_a_mistake_in_it_does_not_stop_the_mind() -> None:
    """Any client can ask something that raises a KeyError: that is the client's trouble alone."""
    with Runner(fake_mind(), lambda e: None) as runner:
        with pytest.raises(ZeroDivisionError):
            runner.ask(_boom).result(SOON)
        assert runner.ask(lambda m: m.rows).result(SOON) == 0


@crashing
@pytest.mark.parametrize("culprit", ["question", "job", "publish", "not an iterator"])
def test_after_an_unknown_error_nobody_waits_for_ever(culprit: str) -> None:
    gate = Gate(2)
    broken = threading.Event()

    def publish(event: Event) -> None:
        if culprit == "publish" and broken.is_set():
            _boom()

    runner = Runner(fake_mind(), publish).start()
    try:
        first = runner.do(gate)
        assert gate.inside.wait(SOON)
        broken.set()
        bad: list[Future[Any]] = []
        if culprit == "question":
            bad.append(runner.ask(_boom))
        elif culprit == "job":
            bad.append(runner.do(_boom))
        elif culprit == "not an iterator":
            bad.append(runner.do(lambda m: m.rows))  # type: ignore[arg-type, return-value]
        waiting = [runner.do(lambda m: m.listen("hello")), runner.ask(lambda m: m.rows)]
        gate.go.set()
        _settles(first, *bad, *waiting)
        for future in bad:
            assert future.exception(0) is not None
        with suppress(MindClosed):  # alive and answering, or closed and saying so
            assert runner.ask(lambda m: m.rows).result(SOON) >= 0
    finally:
        runner.stop()


@crashing
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_even_an_exit_leaves_nobody_waiting(error: type[BaseException]) -> None:
    def leave(mind: Mind) -> None:
        raise error

    runner = Runner(fake_mind(), lambda e: None).start()
    gate = Gate()
    first = runner.do(gate)
    assert gate.inside.wait(SOON)
    futures = [runner.ask(leave), runner.do(lambda m: m.listen("x")), runner.ask(lambda m: m.rows)]
    gate.go.set()
    _settles(first, *futures)
    runner.stop()


def test_stopping_answers_or_ends_all_who_wait() -> None:
    runner = Runner(fake_mind(), lambda e: None).start()
    gate = Gate(5)
    running = runner.do(gate)
    assert gate.inside.wait(SOON)
    jobs = [runner.do(lambda m: m.listen("hello")) for _ in range(5)]
    asked = [runner.ask(lambda m: m.rows) for _ in range(5)]
    stopper = threading.Thread(target=runner.stop)
    stopper.start()
    while not runner._closed.is_set():
        time.sleep(0.001)
    gate.go.set()
    stopper.join(SOON)
    assert not stopper.is_alive()
    _settles(running, *jobs, *asked)
    assert all(_closed(job) for job in jobs)
    assert all(_closed(a) or a.result(0) == 0 for a in asked)


def test_a_stopped_runner_refuses() -> None:
    runner = Runner(fake_mind(), lambda e: None)
    with pytest.raises(MindClosed):
        runner.do(lambda m: m.listen("hello"))
    runner.start()
    runner.stop()
    runner.stop()
    with pytest.raises(MindClosed):
        runner.do(lambda m: m.listen("hello"))
    with pytest.raises(MindClosed):
        runner.ask(lambda m: m.rows)
    runner.interrupt()


def test_stopping_what_never_started() -> None:
    Runner(fake_mind(), lambda e: None).stop()


@pytest.mark.parametrize("where", ["publish", "question", "work"])
def test_stopping_from_the_runners_own_thread(where: str) -> None:
    seen: list[Event] = []

    def publish(event: Event) -> None:
        seen.append(event)
        if where == "publish":
            runner.stop()

    def work(mind: Mind) -> Iterator[Event]:
        yield Notice("one")
        if where == "work":
            runner.stop()
        yield Notice("two")
        yield Notice("three")

    runner = Runner(fake_mind(), publish).start()
    if where == "question":
        runner.ask(lambda m: runner.stop()).result(SOON)
    else:
        job = runner.do(work)
        _settles(job)
        assert Notice("three") not in seen
    runner._thread.join(SOON)
    assert not runner._thread.is_alive()
    with pytest.raises(MindClosed):
        runner.ask(lambda m: m.rows)


def test_many_stop_at_once() -> None:
    runner = Runner(fake_mind(), lambda e: None).start()
    threads = [threading.Thread(target=runner.stop) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(SOON)
    assert not any(t.is_alive() for t in threads)


@pytest.mark.parametrize("call", ["do", "ask"])
def test_a_call_that_meets_a_stop_is_refused_or_ended(call: str) -> None:
    """Between the look whether it is open and the entry into the queue, the runner may stop and drain."""

    class Late(Runner):
        armed = False

        def _refuse_if_closed(self) -> None:
            super()._refuse_if_closed()
            if self.armed:
                self.armed = False
                stopper = threading.Thread(target=self.stop)
                stopper.start()
                stopper.join(0.5)  # not longer: a runner that locks both makes this stop wait its turn

    runner = Late(fake_mind(), lambda e: None).start()
    runner.armed = True
    try:
        future: Future[Any] = runner.do(lambda m: iter(())) if call == "do" else runner.ask(lambda m: 1)
    except MindClosed:
        return
    _settles(future)


def test_many_ask_while_it_stops() -> None:
    runner = Runner(fake_mind(), lambda e: None).start()
    futures: list[Future[Any]] = []

    def client() -> None:
        try:
            while True:
                futures.append(runner.ask(lambda m: m.rows))
                futures.append(runner.do(lambda m: iter(())))
        except MindClosed:
            pass

    clients = [threading.Thread(target=client) for _ in range(3)]
    for t in clients:
        t.start()
    time.sleep(0.05)
    runner.stop()
    for t in clients:
        t.join(SOON)
    _settles(*futures)


def test_a_cancelled_wish_is_not_carried_out() -> None:
    gate, done = Gate(), []
    with Runner(fake_mind(), lambda e: None) as runner:
        running = runner.do(gate)
        assert gate.inside.wait(SOON)
        wish = runner.ask(lambda m: done.append("act"))
        job = runner.do(lambda m: iter([done.append("job")]))  # type: ignore[list-item]
        assert wish.cancel()
        assert job.cancel()
        gate.go.set()
        running.result(SOON)
        runner.ask(lambda m: None).result(SOON)
    assert done == []


def test_a_job_that_holds_no_events_is_done() -> None:
    with Runner(fake_mind(), lambda e: None) as runner:
        assert runner.do(lambda m: iter(())).result(SOON) is None


@pytest.mark.xfail(strict=True, reason="open: an iterable with nothing to give holds the runner")
def test_waiting_for_more_of_a_growing_log_keeps_no_question_waiting() -> None:
    """`listen` reads an iterable as it comes (a growing log). A reader that yields "" while it has nothing
    gives the runner its chance, if the mind takes it: an empty piece could be an event."""
    fed, over = threading.Event(), threading.Event()

    def growing() -> Iterator[str]:
        yield "line one of the log, long enough to fill a whole chunk\n"
        while not over.is_set():
            fed.set()
            time.sleep(0.002)
            yield ""

    with Runner(fake_mind(), lambda e: None) as runner:
        try:
            runner.do(lambda m: m.listen(growing(), Source.LOG))
            assert fed.wait(SOON)
            assert wait([runner.ask(lambda m: m.rows)], timeout=1.0).done
        finally:
            over.set()
