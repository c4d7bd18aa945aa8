# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The one thread: order, interruption, errors, and that nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from typing import Any

import pytest
from fakes import FakeEngine, fake_mind
from repairers import Scripted, Stuck, boom, repaired, star, told
from whole import Ledger, assert_journal_tells_all, assert_well_formed, assert_whole

from haloweave.engine.sampling import Sampling
from haloweave.errors import EngineFault, InvalidInput, MindClosed
from haloweave.events import Edited, Event, Fed, Notice, Spoke, TurnEnded
from haloweave.memory.plan import delete, pin
from haloweave.memory.tokens import Source
from haloweave.mending import Mender, Mending
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
    while left := [t for t in threading.enumerate() if t.name in ("halo-mind", "halo-repair")]:
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


# ---- repair between events ----------------------------------------------------------------------------

PROSE = "the quick brown fox jumps over the lazy dog and runs away; "
HOT = Mending(cutoff=0.01, pace=1.0, backoff=0.01, grace=1.0)


class Woken(Mender):
    """Tells the test when an answer has come, and how often it was looked after."""

    steps = 0

    def start(self, wake: Callable[[], None]) -> None:
        self.woken = threading.Event()
        super().start(lambda: (self.woken.set(), wake())[1])

    def step(self, mind: Any, hurried: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        self.steps += 1
        yield from super().step(mind, hurried)


class Ear:
    """A `publish` that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self._news = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._news:
            self.heard.append(event)
            self._news.notify_all()

    def waits_for(self, what: Callable[[list[Event]], object]) -> None:
        with self._news:
            assert self._news.wait_for(lambda: what(self.heard), SOON), self.heard


def tight(**more: Any) -> Mind:
    """A mind that soon has to weave."""
    return fake_mind(budget=128, tail=24, journal=Ledger(), **more)


def wound(mind: Mind) -> Edited:
    """Somebody cuts out a token of the free middle."""
    return mind.commit(delete(mind.view, [int(mind.view.tokens.uid[40])]))


def _all_is_whole(mind: Mind) -> None:
    assert_whole(mind)
    assert_well_formed(mind)
    ledger: Any = mind.journal
    assert_journal_tells_all(mind, ledger.records)


def test_a_scar_of_a_weave_is_repaired_while_the_reply_goes_on() -> None:
    mind = tight(says=None)
    mender = Woken(Scripted(star), mind.laws, HOT)
    seen: list[Event] = []

    def publish(event: Event) -> None:
        """After the first weave the reply is held up, once, until the worker has answered."""
        seen.append(event)
        woven = any(isinstance(e, Edited) for e in seen)
        if isinstance(event, Spoke) and woven and not repaired(seen):
            assert mender.woken.wait(SOON)

    with Runner(mind, publish, mender) as runner:
        runner.do(lambda m: m.listen(PROSE)).result(SOON)
        runner.do(lambda m: m.reply(GREEDY, limit=60)).result(SOON)
        spoken = [type(e) for e in seen]
        stats = runner.ask(lambda m: mender.stats).result(SOON)
    first = seen.index(repaired(seen)[0])
    assert Edited in spoken[:first]
    assert spoken[:first].count(Spoke) >= 1
    assert spoken[first:].count(Spoke) >= 2
    assert seen[spoken.index(TurnEnded)] == TurnEnded("length", 60)
    assert sum(isinstance(e, Spoke) for e in seen) == 60
    assert "*" in mind.text()
    assert stats.applied >= 1
    assert told(seen) == []
    _all_is_whole(mind)


def test_a_scar_of_the_last_turn_is_repaired_while_nothing_runs() -> None:
    mind, ear = tight(), Ear()
    with Runner(mind, ear, Mender(Scripted(star), mind.laws, HOT)) as runner:
        runner.do(lambda m: m.listen(PROSE * 2)).result(SOON)
        runner.do(lambda m: m.weave(70)).result(SOON)
        ear.waits_for(repaired)
        runner.ask(lambda m: m.undo()).result(SOON)
        assert "*" not in runner.ask(lambda m: m.text()).result(SOON)
    _all_is_whole(mind)


def test_a_runner_with_nothing_to_repair_sleeps() -> None:
    mind = tight()
    mender = Woken(Scripted(star), mind.laws, HOT)
    with Runner(mind, lambda e: None, mender) as runner:
        runner.do(lambda m: m.listen(PROSE)).result(SOON)
        steps = runner.ask(lambda m: mender.steps).result(SOON)
        time.sleep(0.05)
        assert runner.ask(lambda m: mender.steps).result(SOON) <= steps + 2


def test_wishes_of_the_mender_do_not_pile_up_while_something_long_runs() -> None:
    mind = tight()
    mender = Woken(Scripted(star), mind.laws, HOT)

    def long(m: Mind) -> Iterator[Event]:
        for _ in range(30):
            wound(m)
            yield Notice("more")
            assert mender.woken.wait(SOON)
            mender.woken.clear()
            yield from m.listen("more; ", fresh=False)
        waiting.append(runner._jobs.qsize())

    waiting: list[int] = []
    with Runner(mind, lambda e: None, mender) as runner:
        runner.do(lambda m: m.listen(PROSE * 2)).result(SOON)
        runner.do(long).result(SOON)
        assert waiting[0] <= 2
        assert runner.ask(lambda m: mender.stats.windows).result(SOON) >= 30


def test_a_mind_that_waits_repeats_itself_to_the_byte() -> None:
    def life() -> tuple[list[Event], str, list[bytes]]:
        mind, ear = tight(says=None), Ear()
        how = Mending(cutoff=0.01, wait=True, window=16, reach=3, batch=2)
        with Runner(mind, ear, Mender(Scripted(star), mind.laws, how)) as runner:
            runner.do(lambda m: m.listen(PROSE)).result(SOON)
            runner.do(lambda m: m.reply(Sampling(temperature=1.0, seed=3), limit=80)).result(SOON)
        edits = [e.edit.to_bytes() for e in ear.heard if isinstance(e, Edited)]
        return [e for e in ear.heard if not isinstance(e, Edited)], mind.text(), edits

    once = life()
    assert once == life()
    assert "*" in once[1]


def test_what_is_woven_is_mended_before_the_next_token_where_the_mind_waits() -> None:
    mind, ear = tight(says=None), Ear()
    with Runner(mind, ear, Mender(Scripted(star), mind.laws, Mending(cutoff=0.01, wait=True))) as runner:
        runner.do(lambda m: m.listen(PROSE)).result(SOON)
        runner.do(lambda m: m.reply(GREEDY, limit=60)).result(SOON)
    kinds = [getattr(getattr(e, "edit", None), "reason", type(e).__name__) for e in ear.heard]
    assert "weave" in kinds
    for at in [i for i, kind in enumerate(kinds) if kind == "weave"]:
        assert kinds[at + 1] in ("repair", "weave")


@pytest.mark.parametrize("answer", [boom, lambda windows: "garbage"])
def test_a_repairer_that_fails_disturbs_no_reply_and_is_told(answer: Any) -> None:
    spoken: list[str] = []
    for mender in (False, True):
        mind, ear = tight(says="a long answer, " * 5), Ear()
        how = Mending(cutoff=0.01, wait=True, backoff=1000.0, backoff_max=1000.0)
        made = Mender(Scripted(answer), mind.laws, how) if mender else None
        with Runner(mind, ear, made) as runner:
            runner.do(lambda m: m.listen(PROSE)).result(SOON)
            runner.do(lambda m: m.reply(GREEDY, limit=60)).result(SOON)
        spoken.append("".join(e.text for e in ear.heard if isinstance(e, Spoke)))
        assert len(told(ear.heard)) == mender
        assert not repaired(ear.heard)
        _all_is_whole(mind)
    assert spoken[0] == spoken[1]


def test_an_engine_that_fails_at_a_repair_disturbs_no_reply() -> None:
    engine = FakeEngine(max_rows=128, says="a" * 70)
    mind, ear = tight(engine=engine), Ear()

    def sabotaged(windows: Any) -> Any:
        engine.fail = "apply"
        return star(windows)

    how = Mending(cutoff=0.01, wait=True, backoff=1000.0, backoff_max=1000.0)
    with Runner(mind, ear, Mender(Scripted(sabotaged), mind.laws, how)) as runner:
        runner.do(lambda m: m.listen(PROSE)).result(SOON)
        runner.do(lambda m: m.reply(GREEDY, limit=70)).result(SOON)
    (note,) = told(ear.heard)
    assert "could not be applied: EngineFault" in note
    assert "".join(e.text for e in ear.heard if isinstance(e, Spoke)) == "a" * 70
    _all_is_whole(mind)


def test_after_a_failure_repair_is_tried_again_though_nothing_runs() -> None:
    mind, ear = tight(), Ear()
    with Runner(mind, ear, Mender(Scripted(boom, star), mind.laws, HOT)) as runner:
        runner.do(lambda m: m.listen(PROSE)).result(SOON)
        runner.ask(wound).result(SOON)
        ear.waits_for(repaired)
    assert [n.split(":")[0] for n in told(ear.heard)] == ["repair failed", "repair works again"]


def test_a_repairer_that_gives_no_answer_is_told_of_though_nothing_runs() -> None:
    mind, ear, stuck = tight(), Ear(), Stuck()
    how = Mending(cutoff=0.01, timeout=0.02, grace=0.01)
    with Runner(mind, ear, Mender(Scripted(stuck), mind.laws, how)) as runner:
        runner.do(lambda m: m.listen(PROSE)).result(SOON)
        runner.ask(wound).result(SOON)
        ear.waits_for(told)
    assert "no answer within 0.02 s" in told(ear.heard)[0]
    stuck.out.set()


def test_what_the_person_does_voids_what_is_under_way() -> None:
    mind, ear, stuck = tight(), Ear(), Stuck()
    mender = Woken(Scripted(stuck, star), mind.laws, HOT)
    with Runner(mind, ear, mender) as runner:
        runner.do(lambda m: m.listen(PROSE)).result(SOON)
        runner.ask(wound).result(SOON)
        assert stuck.inside.wait(SOON)
        gone = set(runner.ask(lambda m: m.view.tokens.uid[42:45].tolist()).result(SOON))
        runner.ask(lambda m: m.redact(sorted(gone))).result(SOON)
        stuck.out.set()
        ear.waits_for(repaired)
        assert runner.ask(lambda m: mender.stats.stale).result(SOON) == 1
    assert not gone & set(mind.view.tokens.uid.tolist())
    _all_is_whole(mind)


@pytest.mark.parametrize("wait_", [False, True], ids=["beside", "waited for"])
def test_stopping_does_not_wait_for_a_repairer_that_hangs(wait_: bool) -> None:
    mind, stuck = tight(), Stuck()
    how = Mending(cutoff=0.01, wait=wait_, timeout=1000.0, grace=0.02)
    runner = Runner(mind, lambda e: None, Mender(Scripted(stuck), mind.laws, how)).start()
    runner.do(lambda m: m.listen(PROSE * 2)).result(SOON)
    woven = runner.do(lambda m: m.weave(70))
    assert stuck.inside.wait(SOON)
    began = time.monotonic()
    runner.stop()
    assert time.monotonic() - began < SOON
    assert not runner._thread.is_alive()
    _settles(woven)
    stuck.out.set()


def test_interrupting_ends_the_waiting_for_a_repair() -> None:
    mind, ear, stuck = tight(says=None), Ear(), Stuck()
    how = Mending(cutoff=0.01, wait=True, timeout=1000.0)
    with Runner(mind, ear, Mender(Scripted(stuck, star), mind.laws, how)) as runner:
        runner.do(lambda m: m.listen(PROSE)).result(SOON)
        talk = runner.do(lambda m: m.reply(GREEDY, limit=100))
        assert stuck.inside.wait(SOON)
        runner.interrupt()
        talk.result(SOON)
        assert ear.heard[-1] == TurnEnded("interrupted", sum(isinstance(e, Spoke) for e in ear.heard))
        stuck.out.set()
        ear.waits_for(repaired)
    assert_whole(mind)


def test_a_publish_that_fails_while_nothing_runs_is_told_and_the_runner_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_of: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told_of.append(args.exc_type))
    mind, heard = tight(), threading.Event()

    def publish(event: Event) -> None:
        if isinstance(event, Edited) and event.edit.reason == "repair":
            heard.set()
            _boom()

    with Runner(mind, publish, Mender(Scripted(star), mind.laws, HOT)) as runner:
        runner.do(lambda m: m.listen(PROSE)).result(SOON)
        runner.ask(wound).result(SOON)
        assert heard.wait(SOON)
        assert runner.ask(lambda m: m.rows).result(SOON) > 0
        runner.do(lambda m: m.listen("and on")).result(SOON)
    assert told_of == [ZeroDivisionError]
    _all_is_whole(mind)
