# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Repair beside a living mind: scars, windows, the mender on its owner's thread, and all that can fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, fake_mind
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_strategies import Row, contexts, renumbered, rows_of, text, view_of
from repairers import SOON, STAR, Answer, Scripted, Stuck, boom, nothing, repaired, star, told
from whole import Ledger, assert_journal_tells_all, assert_well_formed, assert_whole

from haloweave.engine.sampling import Sampling
from haloweave.errors import InvalidInput
from haloweave.events import Edited, Event, Spoke
from haloweave.memory.cull import CullChoice, DimmestFirst
from haloweave.memory.laws import Laws
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import Marker, Proposal, delete, pin, plan
from haloweave.memory.tokens import NO_UNIT, Source, View
from haloweave.mending import Mender, Mending
from haloweave.mending.base import NOBODY, Scar
from haloweave.mending.breaker import Breaker, State
from haloweave.mending.scars import Queue, found
from haloweave.mending.windows import cut
from haloweave.mind import Mind
from haloweave.repair.base import RepairWindow

FREE = Laws(sinks=0, tail=0, lock=300.0)
ANY = Mending(cutoff=0.01, pace=1.0)
"""Nearly every free token is hot."""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + SOON
    while left := [t for t in threading.enumerate() if t.name == "halo-repair"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.005)


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ward:
    """A mind with some text, and a mender whose steps the test makes itself."""

    def __init__(self, *answers: Answer, how: Mending = ANY, mind: Mind | None = None) -> None:
        self.mind = mind or fake_mind(chat=False, journal=Ledger())
        self.clock, self.woken = Clock(), threading.Event()
        self.repairer = Scripted(*answers)
        self.mender = Mender(self.repairer, self.mind.laws, how, clock=self.clock)
        self.mender.start(self.woken.set)
        if not self.mind.rows:
            for _ in self.mind.listen("the quick brown fox jumps over the lazy dog and " * 3):
                pass
        assert self.step() == []

    def __enter__(self) -> Ward:
        return self

    def __exit__(self, *error: object) -> None:
        self.mender.stop()

    def step(self) -> list[Event]:
        return list(self.mender.step(self.mind))

    def answered(self) -> list[Event]:
        """The step after the worker has answered."""
        assert self.woken.wait(SOON)
        self.woken.clear()
        return self.step()

    def wound(self, *slots: int) -> list[int]:
        """Cut out single tokens; the uids that went."""
        uids = self.mind.view.tokens.uid[list(slots)].tolist()
        self.mind.commit(delete(self.mind.view, uids))
        return uids


# ---- scars ------------------------------------------------------------------------------------------


def after(view: View, *dead: int) -> View:
    """The view without the tokens of these uids."""
    mirror = Mirror(view)
    mirror.apply(delete(view, dead))
    return mirror.view


def joints(scars: Sequence[Scar]) -> list[tuple[int, int]]:
    return [(s.left, s.right) for s in scars]


@pytest.mark.parametrize(
    ("rows", "dead", "wanted"),
    [
        pytest.param(text(8), [3], [(2, 4)], id="one token"),
        pytest.param(text(8), [2, 3, 4], [(1, 5)], id="a run is one scar"),
        pytest.param(text(8), [2, 4], [(1, 3), (3, 5)], id="two holes"),
        pytest.param(text(8), [0, 1], [(NOBODY, 2)], id="the beginning"),
        pytest.param(text(8), [6, 7], [(5, NOBODY)], id="the end"),
        pytest.param(text(8), [], [], id="nothing"),
        pytest.param(
            renumbered(text(3), text(3, source=Source.LOG, unit=1), text(3)), [3, 4, 5], [], id="unit"
        ),
        pytest.param(
            renumbered(text(3), text(3, source=Source.LOG, unit=1), text(3)),
            [2, 3, 4, 5],
            [(1, 6)],
            id="both",
        ),
        pytest.param(
            renumbered(text(3), text(1, source=Source.MARKER, unit=1), text(3)), [3], [], id="marker"
        ),
        pytest.param(text(8, source=Source.LOG), [3], [], id="log, nothing near may change"),
        pytest.param(text(8, pinned=True), [3], [], id="all pinned"),
        pytest.param(text(8, brightness=254.0), [3], [], id="all too bright"),
    ],
)
def test_a_scar_is_where_running_text_died(
    rows: list[Row], dead: list[int], wanted: list[tuple[int, int]]
) -> None:
    view = view_of(rows)
    scars = found(view, after(view, *dead), FREE, ANY)
    assert joints(scars) == wanted
    assert {s.tick for s in scars} <= {9}


def test_text_that_other_text_replaced_leaves_no_scar() -> None:
    view = view_of(text(8))
    mirror = Mirror(view)
    proposal = Proposal(np.array([3, 4]), np.array([77], np.int32), 1.0)
    chosen = CullChoice(np.array([3, 4, 6], np.int64), "test")
    mirror.apply(plan(view, chosen, [proposal], laws=FREE, marker=Marker()))
    assert joints(found(view, mirror.view, FREE, ANY)) == [(5, 7)]


def test_growing_is_no_wound_and_what_grew_since_hides_none() -> None:
    mirror = Mirror(view_of(text(8)))
    before = mirror.view
    mirror.append(mirror.view.tokens[:3].replace(uid=np.arange(8, 11)))
    assert found(before, mirror.view, FREE, ANY) == ()
    mirror.apply(delete(mirror.view, [4]))
    assert joints(found(before, mirror.view, FREE, ANY)) == [(3, 5)]


@given(contexts, st.integers(1, 12), st.sampled_from([Marker(), Marker((91, 92), 64.0)]))
def test_scars_against_a_slow_search(view: View, n: int, marker: Marker) -> None:
    laws, how = Laws(sinks=1, tail=2, lock=250.0), Mending(cutoff=0.3, reach=2)
    mirror = Mirror(view)
    mirror.apply(plan(view, DimmestFirst(laws).choose(view, n), laws=laws, marker=marker))
    assert joints(found(view, mirror.view, laws, how)) == _searched(view, mirror.view, laws, how)


def _searched(before: View, now: View, laws: Laws, how: Mending) -> list[tuple[int, int]]:
    """For each pair of neighbours that are no new markers, what stood between them before."""
    old, new = rows_of(before.tokens), rows_of(now.tokens)
    hot = _hot(now, laws, how)
    index = {r.uid: i for i, r in enumerate(old)}
    stays = [i for i, r in enumerate(new) if r.uid in index]
    wanted = []
    for a, b in zip([None, *stays], [*stays, None], strict=True):
        first = index[new[a].uid] + 1 if a is not None else 0
        last = index[new[b].uid] if b is not None else len(old)
        prose = [r for r in old[first:last] if r.unit == NO_UNIT and r.source in (0, 1, 2, 5)]
        left = range(max(0, a - how.reach + 1), a + 1) if a is not None else []
        right = range(b, min(len(new), b + how.reach)) if b is not None else []
        if prose and any(hot[s] for s in [*left, *right]):
            wanted.append((new[a].uid if a is not None else -1, new[b].uid if b is not None else -1))
    return wanted


def _hot(view: View, laws: Laws, how: Mending) -> list[float]:
    """Heat by the letter of the laws."""
    fixed = laws.untouchable(view.tokens).tolist()
    heat = []
    for slot, r in enumerate(rows_of(view.tokens)):
        free = r.unit == NO_UNIT and r.source in (0, 1, 2, 5) and not fixed[slot]
        dim = 1 - np.float32(r.brightness) / np.float32(255)
        heat.append(float(dim) if free and dim >= how.cutoff else 0.0)
    return heat


def test_the_queue_puts_the_newest_first_and_lets_the_oldest_go() -> None:
    queue = Queue(3)
    old, new = [Scar(n, n + 1, 0) for n in (0, 10, 20)], [Scar(n, n + 1, 1) for n in (30, 40)]
    assert (queue.add(old), queue.add(new)) == (0, 2)
    assert queue.urgent == (new[1], new[0], old[2])
    queue.settle([new[0], old[0]])
    assert queue.urgent == (new[1], old[2])


def test_a_hole_that_grows_is_one_scar() -> None:
    queue = Queue(9)
    queue.add([Scar(1, 3, 0), Scar(7, 9, 0), Scar(12, 14, 0), Scar(NOBODY, 0, 0), Scar(20, NOBODY, 0)])
    queue.add([Scar(1, 5, 1), Scar(6, 9, 1), Scar(NOBODY, 2, 1)])
    assert [(s.left, s.right) for s in queue.urgent] == [(-1, 2), (6, 9), (1, 5), (20, -1), (-1, 0), (12, 14)]


def test_a_scar_over_which_repair_fails_twice_is_dropped() -> None:
    queue = Queue(9)
    a, b = Scar(0, 1, 0), Scar(5, 6, 1)
    queue.add([a, b])
    assert queue.failed([b, Scar(99, 98, 0)]) == 0
    assert joints(queue.urgent) == [(0, 1), (5, 6)]
    assert queue.failed(queue.urgent[1:]) == 1
    assert queue.urgent == (a,)
    assert (queue.clear(), len(queue)) == (1, 0)


# ---- windows ----------------------------------------------------------------------------------------


@given(contexts, st.integers(1, 12), st.integers(1, 4), st.integers(4, 9), st.integers(1, 3))
def test_windows_are_hot_only_where_the_laws_let_them(
    view: View, reach: int, reach_: int, window: int, batch: int
) -> None:
    reach = min(reach_, window // 2)
    laws, how = Laws(1, 2, 250.0), Mending(window=window, reach=reach, batch=batch, cutoff=0.3)
    mirror = Mirror(view)
    mirror.apply(plan(view, DimmestFirst(laws).choose(view, 5), laws=laws, marker=Marker()))
    now, hot = mirror.view, _hot(mirror.view, laws, how)
    scars = found(view, now, laws, how)[::-1]
    made = cut(now, scars, laws, how)
    assert set(made.asked) <= set(scars)
    assert not made.moot
    assert len(made.windows) <= batch
    assert bool(made.windows) == bool(scars)
    slot = {uid: s for s, uid in enumerate(now.tokens.uid.tolist())}
    near = [_near(slot, s, reach, len(slot)) for s in made.asked]
    for w in made.windows:
        first = slot[int(w.uid[0])]
        assert w.uid.tolist() == now.tokens.uid[first : first + len(w)].tolist()
        assert w.token_id.tolist() == now.tokens.token_id[first : first + len(w)].tolist()
        assert len(w) == min(window, len(slot))
        assert not w.doomed.any()
        for n, heat in enumerate(w.heat.tolist()):
            assert heat in (0.0, hot[first + n])
            if heat:
                assert any(first + n in zone for zone in near)
    if made.asked:  # the most urgent is always asked, and all that is hot near it is offered
        assert made.asked[0] == scars[0]
        offered = {int(u): float(h) for u, h in zip(made.windows[0].uid, made.windows[0].heat, strict=True)}
        wanted = {int(now.tokens.uid[s]): hot[s] for s in near[0] if hot[s]}
        assert wanted.items() <= offered.items()


def _near(slot: dict[int, int], scar: Scar, reach: int, size: int) -> set[int]:
    left, right = slot.get(scar.left, -1), slot.get(scar.right, size)
    return set(range(max(0, left - reach + 1), left + 1)) | set(range(right, min(size, right + reach)))


def test_neighbouring_scars_share_a_window() -> None:
    view = view_of(text(100))
    now = after(view, 20, 23, 60)
    scars = found(view, now, FREE, ANY)
    made = cut(now, scars[::-1], FREE, Mending(cutoff=0.01, reach=2, window=20, batch=2))
    assert joints(made.asked) == [(59, 61), (22, 24), (19, 21)]
    assert [w.uid[w.heat > 0].tolist() for w in made.windows] == [[58, 59, 61, 62], [18, 19, 21, 22, 24, 25]]
    one = cut(now, scars[::-1], FREE, Mending(cutoff=0.01, reach=2, window=20, batch=1))
    assert joints(one.asked) == [(59, 61)]


def test_a_scar_whose_neighbours_are_gone_or_whose_hole_was_filled_is_moot() -> None:
    view = view_of(text(30))
    now = after(view, 10, 20, 25)
    dead, half, filled = found(view, now, FREE, ANY)
    later = after(now, 9, 11, 19)
    rows = rows_of(later.tokens)
    at = next(i for i, r in enumerate(rows) if r.uid == 26)
    rows.insert(at, rows[at]._replace(uid=99))
    made = cut(view_of(rows), [dead, half, filled], FREE, Mending(cutoff=0.01, reach=1, window=10))
    assert made.asked == (half,)
    assert made.moot == (dead, filled)
    assert made.windows[0].uid[made.windows[0].heat > 0].tolist() == [18, 21]


def test_a_scar_around_which_everything_was_pinned_since_is_moot() -> None:
    view = view_of(text(30))
    now = after(view, 10)
    mirror = Mirror(now)
    mirror.apply(pin(now, [uid for uid in now.tokens.uid.tolist() if uid < 20]))
    scars = found(view, now, FREE, ANY)
    assert cut(mirror.view, scars, FREE, ANY).moot == scars


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 5, "reach": 3},
        {"reach": 0},
        {"batch": 0},
        {"queue": 0},
        {"give_up": 0},
        {"cutoff": 0.0},
        {"cutoff": 1.1},
        {"cutoff": float("nan")},
        {"pace": 0.0},
        {"pace": 1.5},
        {"timeout": 0.0},
        {"timeout": float("inf")},
        {"backoff": 0.0},
        {"backoff": 2.0, "backoff_max": 1.0},
        {"grace": -1.0},
    ],
)
def test_a_way_of_mending_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="mending"):
        Mending(**wrong)


# ---- the circuit breaker ------------------------------------------------------------------------------


def test_the_breaker_waits_twice_as_long_each_time_and_closes_at_once() -> None:
    breaker = Breaker(1.0, 6.0, 9)
    assert (breaker.state, breaker.ready(0.0), breaker.succeeded()) == (State.CLOSED, True, False)
    assert [breaker.failed(10.0) for _ in range(5)] == [1.0, 2.0, 4.0, 6.0, 6.0]
    assert breaker.state is State.OPEN
    assert (breaker.ready(15.9), breaker.ready(16.0)) == (False, True)
    assert breaker.succeeded()
    assert (breaker.state, breaker.ready(0.0)) == (State.CLOSED, True)
    assert breaker.failed(10.0) == 1.0


def test_the_breaker_gives_up_for_good() -> None:
    breaker = Breaker(1.0, 1e300, 3000)
    for _ in range(2999):
        breaker.failed(0.0)
    assert breaker.state is State.OPEN
    breaker.failed(0.0)
    assert (breaker.state, breaker.ready(1e308)) == (State.SPENT, False)


# ---- the mender, step by step -------------------------------------------------------------------------


def test_a_scar_is_mended_between_two_steps() -> None:
    with Ward(star) as ward:
        ward.wound(30)
        assert ward.step() == []
        (done,) = ward.answered()
        assert isinstance(done, Edited)
        assert ward.mind.text()[20:36] == "jump* overthe la"
        assert done.edit.reason == "repair"
        assert (done.edit.splices[0].start, done.edit.splices[0].new.token_id.tolist()) == (24, [STAR])
        assert ward.step() == []
        stats = ward.mender.stats
        assert (stats.scars, stats.waiting, stats.windows, stats.dropped) == (1, 0, 1, 0)
        assert (stats.proposals, stats.applied, stats.stale, stats.gain) == (1, 1, 0, 1.5)
        assert (stats.state, stats.failures) == ("closed", 0)
        assert_whole(ward.mind)
        ledger: Any = ward.mind.journal
        assert_journal_tells_all(ward.mind, ledger.records)


@pytest.mark.parametrize("new", [[], [STAR], [STAR, STAR, STAR]], ids=["deleted", "shrunk", "substituted"])
def test_what_repair_does_leaves_no_scar_and_can_be_undone_for_good(new: list[int]) -> None:
    def change(windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        (w,) = windows
        return (Proposal(w.uid[w.heat > 0][:3], np.array(new, np.int32), 1.0),)

    with Ward(change) as ward:
        ward.wound(30)
        before = ward.mind.text()
        ward.step()
        assert len(repaired(ward.answered())) == 1
        assert len(ward.mind.text()) == len(before) - 3 + len(new)
        assert ward.step() == []
        ward.mind.undo()
        assert ward.mind.text() == before
        assert ward.step() == []
        assert len(ward.repairer.asked) == 1
        assert (ward.mender.stats.scars, ward.mender.stats.waiting) == (1, 0)
        assert_whole(ward.mind)


def test_the_newest_scars_come_first_in_small_batches() -> None:
    how = Mending(cutoff=0.01, pace=1.0, window=12, reach=2, batch=2)
    with Ward(nothing, how=how) as ward:
        ward.wound(10)
        ward.step()
        assert ward.woken.wait(SOON)
        ward.wound(25)
        ward.wound(40, 55)
        for _ in range(3):
            ward.answered()
        first, second, third = ([int(w.uid[len(w) // 2]) for w in batch] for batch in ward.repairer.asked)
        assert first == [11]
        assert [uid > 40 for uid in second] == [True, True]
        assert third == [27]
        assert ward.mender.stats.scars == 4


def test_decoding_is_slowed_only_so_much() -> None:
    def working(windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        ward.clock.now += 2.0
        return ()

    how = Mending(cutoff=0.01, pace=0.25, window=12, reach=2, batch=1)
    with Ward(working, how=how) as ward:
        ward.wound(10, 60)
        assert ward.mender.due() is None
        ward.step()
        assert ward.answered() == []
        assert ward.mender.due() == 6.0
        ward.clock.now += 5.9
        assert ward.step() == []
        assert len(ward.repairer.asked) == 1
        ward.clock.now += 0.1
        assert ward.mender.due() == pytest.approx(0.0, abs=1e-6)
        ward.clock.now += 0.01
        ward.step()
        ward.answered()
        assert len(ward.repairer.asked) == 2
        assert ward.mender.due() is None
        stats = ward.mender.stats
        assert (stats.seconds, stats.p50, stats.p99) == (4.0, 2.0, 2.0)


def test_scars_that_are_too_many_are_dropped_and_told_without_a_flood() -> None:
    stuck = Stuck(nothing)
    how = Mending(cutoff=0.01, window=12, reach=2, batch=1, queue=2)
    with Ward(stuck, how=how) as ward:
        ward.wound(6)
        ward.step()
        notes = []
        for _ in range(9):
            ward.wound(6, 9)
            notes += told(ward.step())
        lost = ward.mender.stats.overflowed
        assert lost == ward.mender.stats.dropped > 4
        assert 2 <= len(notes) < lost
        assert notes[0].startswith("repair does not keep up: ")
        stuck.out.set()
        ward.answered()


def test_a_proposal_whose_tokens_died_meanwhile_is_stale() -> None:
    stuck = Stuck(
        lambda windows: tuple(
            Proposal(windows[0].uid[n : n + 1], np.array([STAR], np.int32), 1.0)
            for n in np.flatnonzero(windows[0].heat > 0)[:2]
        )
    )
    with Ward(stuck) as ward:
        ward.wound(30)
        ward.step()
        uid = int(ward.mind.view.tokens.uid[24])
        assert stuck.inside.wait(SOON)
        for _ in ward.mind.weave(ward.mind.rows):  # nothing to do, and no act of the person's
            pass
        ward.mind.commit(delete(ward.mind.view, [uid]))
        stuck.out.set()
        done = repaired(ward.answered())
        assert [s.old.uid.tolist() for e in done for s in e.edit.splices] == [[uid + 1]]
        assert (ward.mender.stats.applied, ward.mender.stats.stale) == (1, 1)


def test_of_overlapping_proposals_the_better_counts_as_applied() -> None:
    def two(windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        at = int(np.flatnonzero(windows[0].heat > 0)[0])
        return (
            Proposal(windows[0].uid[at : at + 2], np.array([STAR], np.int32), 1.0),
            Proposal(windows[0].uid[at : at + 1], np.array([STAR], np.int32), 2.0),
        )

    with Ward(two, nothing) as ward:
        ward.wound(30)
        ward.step()
        (done,) = repaired(ward.answered())
        assert done.edit.growth == 0
        stats = ward.mender.stats
        assert (stats.proposals, stats.applied, stats.stale, stats.gain) == (2, 1, 1, 2.0)


def test_after_the_persons_hands_what_was_under_way_is_asked_again() -> None:
    """It was made with the redacted text in view, and might bring it back."""
    stuck = Stuck()
    with Ward(stuck, star) as ward:
        ward.wound(30)
        ward.step()
        assert stuck.inside.wait(SOON)
        ward.mind.redact(ward.mind.view.tokens.uid[26:29].tolist())
        ward.mender.void()
        stuck.out.set()
        assert ward.answered() == []
        assert (ward.mender.stats.applied, ward.mender.stats.stale) == (0, 1)
        assert len(repaired(ward.answered())) == 1
        assert ward.mender.stats.applied == 1
        assert not set(range(26, 29)) & {int(u) for w in ward.repairer.asked[1] for u in w.uid}


# ---- failure ------------------------------------------------------------------------------------------


def garbage(make: Callable[[RepairWindow], Any]) -> Answer:
    return lambda windows: make(windows[0])


def _one(w: RepairWindow, **changes: Any) -> tuple[Any, ...]:
    """One proposal that would do, but for what is changed."""
    at = np.flatnonzero(w.heat > 0)[:1]
    made = Proposal(w.uid[at], np.array([STAR], np.int32), 1.0)
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    return (made,)


GARBAGE = {
    "nothing": lambda w: None,
    "no tuple": lambda w: iter(()),
    "text": lambda w: "proposals",
    "no proposals": lambda w: [(1, 2)],
    "gain nan": lambda w: _one(w, gain=float("nan")),
    "gain infinite": lambda w: _one(w, gain=float("inf")),
    "gain text": lambda w: _one(w, gain="much"),
    "foreign uid": lambda w: _one(w, uid=np.array([123456])),
    "no uid": lambda w: _one(w, uid=np.empty(0, np.int64), new_ids=np.empty(0, np.int32)),
    "locked": lambda w: _one(w, uid=w.uid[np.flatnonzero(w.heat == 0)[:1]]),
    "no run": lambda w: _one(w, uid=w.uid[np.flatnonzero(w.heat > 0)[[2, 0]]]),
    "longer": lambda w: _one(w, new_ids=np.array([STAR, STAR], np.int32)),
    "negative id": lambda w: _one(w, new_ids=np.array([-1], np.int32)),
    "list of ids": lambda w: _one(w, new_ids=[STAR]),
    "fractions": lambda w: _one(w, new_ids=np.array([1.5])),
    "two rows": lambda w: _one(w, new_ids=np.array([[STAR]], np.int32)),
    "no change": lambda w: _one(w, new_ids=w.token_id[np.flatnonzero(w.heat > 0)[:1]]),
    "beyond the vocabulary": lambda w: _one(w, new_ids=np.array([260], np.int32)),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_counts_as_failure_and_changes_nothing(what: str) -> None:
    with Ward(garbage(GARBAGE[what]), star) as ward:
        ward.wound(30)
        before = ward.mind.text()
        ward.step()
        (note,) = told(ward.answered())
        assert note.startswith("repair failed: ")
        assert note.endswith("the next try is in 1 s")
        assert ward.mind.text() == before
        assert (ward.mender.stats.failures, ward.mender.stats.state) == (1, "open")
        assert ward.mender.stats.applied == 0
        assert_whole(ward.mind)


def test_the_template_of_garbage_would_do_as_it_is() -> None:
    with Ward(garbage(_one)) as ward:
        ward.wound(30)
        ward.step()
        assert len(repaired(ward.answered())) == 1


def test_a_control_token_is_not_brought_in() -> None:
    with Ward(garbage(lambda w: _one(w, new_ids=np.array([257], np.int32)))) as ward:
        ward.wound(30)
        ward.step()
        assert ward.answered() == []
        assert (ward.mender.stats.applied, ward.mender.stats.stale) == (0, 1)


def test_back_off_doubles_one_success_closes_and_all_of_it_is_told() -> None:
    with Ward(boom, boom, star) as ward:
        ward.wound(10)
        ward.step()
        assert told(ward.answered()) == [
            "repair failed: ZeroDivisionError: by nothing at all; the next try is in 1 s"
        ]
        assert ward.mender.due() == 1.0
        ward.clock.now += 0.5
        assert ward.step() == []
        ward.wound(50)
        ward.clock.now += 0.5
        ward.step()
        assert "the next try is in 2 s" in told(ward.answered())[0]
        assert len(ward.repairer.asked) == 2
        assert ward.mender.stats.dropped == 1  # both scars were in the second batch; one had failed before
        ward.clock.now += 2.0
        ward.step()
        events = ward.answered()
        assert told(events) == ["repair works again"]
        assert len(repaired(events)) == 1
        assert (ward.mender.stats.failures, ward.mender.stats.state) == (2, "closed")


def test_after_so_many_failures_in_a_row_repair_stops_for_good() -> None:
    how = Mending(cutoff=0.01, pace=1.0, give_up=3)
    with Ward(boom, how=how) as ward:
        for n, at in enumerate((10, 30, 50)):
            ward.wound(at)
            ward.clock.now += 100.0
            ward.step()
            (note,) = told(ward.answered())
            assert ("stops for good" in note) == (n == 2)
        ward.wound(20)
        ward.clock.now += 1e6
        assert ward.step() == []
        assert ward.mender.due() is None
        assert len(ward.repairer.asked) == 3
        stats = ward.mender.stats
        assert (stats.state, stats.failures, stats.waiting) == ("spent", 3, 0)
        assert stats.dropped == stats.scars == 3


def test_a_repairer_that_hangs_is_left_and_its_late_answer_thrown_away() -> None:
    stuck = Stuck()
    with Ward(stuck, star) as ward:
        ward.wound(30)
        ward.step()
        assert stuck.inside.wait(SOON)
        assert ward.mender.due() == 30.0
        ward.clock.now += 30.0
        assert told(ward.step()) == ["repair failed: no answer within 30 s; the next try is in 1 s"]
        ward.clock.now += 1.0
        (note,) = told(ward.step())
        assert note == "repair failed: still no answer to an earlier batch; the next try is in 2 s"
        assert len(ward.repairer.asked) == 1  # nobody enters it twice
        before = ward.mind.text()
        stuck.out.set()
        assert ward.answered() == []
        assert ward.mind.text() == before
        assert ward.mender.stats.stale == 1
        ward.clock.now += 2.0
        ward.step()
        events = ward.answered()
        assert told(events) == ["repair works again"]
        assert len(repaired(events)) == 1


def test_a_repairer_that_hangs_for_ever_ends_repair_and_keeps_nobody() -> None:
    stuck = Stuck()
    how = Mending(cutoff=0.01, pace=1.0, give_up=3, grace=0.01)
    ward = Ward(stuck, how=how)
    ward.wound(30)
    ward.step()
    notes = []
    for _ in range(9):
        ward.clock.now += 1000.0
        notes += told(ward.step())
    assert len(notes) == 3
    assert "stops for good" in notes[-1]
    began = time.monotonic()
    ward.mender.stop()
    assert time.monotonic() - began < SOON
    stuck.out.set()


def test_an_answer_that_is_late_but_there_counts() -> None:
    """The owner of the mind was busy with a long pass: the repairer is not to blame."""
    with Ward(star) as ward:
        ward.wound(30)
        ward.step()
        assert ward.woken.wait(SOON)
        ward.clock.now += 1000.0
        assert len(repaired(ward.answered())) == 1
        assert ward.mender.stats.failures == 0


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError])
def test_whatever_a_repairer_raises_is_its_failure(error: type[BaseException]) -> None:
    def leave(windows: Sequence[RepairWindow]) -> Any:
        raise error

    with Ward(leave, star) as ward:
        ward.wound(30)
        ward.step()
        assert told(ward.answered()) == [f"repair failed: {error.__name__}; the next try is in 1 s"]
        ward.clock.now += 1.0
        ward.step()
        assert len(repaired(ward.answered())) == 1


def test_an_engine_that_fails_at_a_repair_is_told_and_the_mind_stays_whole() -> None:
    engine = FakeEngine(max_rows=256)
    with Ward(star, mind=fake_mind(chat=False, engine=engine, journal=Ledger())) as ward:
        ward.wound(30)
        before = ward.mind.text()
        ward.step()
        assert ward.woken.wait(SOON)
        engine.fail = "apply"
        (note,) = told(ward.answered())
        assert "what it proposed could not be applied: EngineFault" in note
        assert ward.mind.text() == before
        assert_whole(ward.mind)
        ward.clock.now += 1.0
        ward.step()
        assert len(repaired(ward.answered())) == 1
        ledger: Any = ward.mind.journal
        assert_journal_tells_all(ward.mind, ledger.records)


def test_a_mistake_in_the_mender_itself_is_told_and_ends_only_repair() -> None:
    with Ward(star) as ward:
        ward.mender._laws = None  # type: ignore[assignment]
        ward.wound(30)
        (note,) = told(ward.step())
        assert note.startswith("repair stopped for good: AttributeError")
        assert ward.step() == []


# ---- a mind that waits --------------------------------------------------------------------------------

WAITS = Mending(cutoff=0.01, wait=True, window=24, reach=4, batch=2)


def test_a_mind_that_waits_has_its_scars_mended_in_the_same_step() -> None:
    with Ward(star, how=WAITS) as ward:
        ward.wound(10, 30, 50, 70)
        assert len(repaired(ward.step())) == 2
        assert ward.mender.stats.waiting == 0
        assert ward.mender.due() is None


def test_who_is_in_a_hurry_does_not_wait() -> None:
    stuck = Stuck()
    with Ward(stuck, how=WAITS) as ward:
        ward.wound(30)
        assert list(ward.mender.step(ward.mind, lambda: True)) == []
        stuck.out.set()
        assert len(repaired(ward.answered())) == 1


def test_waiting_ends_when_it_is_released() -> None:
    stuck = Stuck()
    with Ward(stuck, how=WAITS) as ward:
        ward.wound(30)
        seen: list[Event] = []
        waiter = threading.Thread(target=lambda: seen.extend(ward.step()))
        waiter.start()
        assert stuck.inside.wait(SOON)
        ward.mender.release()
        waiter.join(SOON)
        assert not waiter.is_alive()
        assert seen == []
        stuck.out.set()
        assert len(repaired(ward.answered())) == 1


def test_waiting_ends_when_the_time_is_up() -> None:
    stuck = Stuck()
    how = Mending(cutoff=0.01, wait=True, timeout=0.02)
    with Ward(stuck, star, how=how) as ward:
        ward.wound(30)
        (note,) = told(ward.step())
        assert "no answer within 0.02 s" in note
        stuck.out.set()


def test_a_failure_keeps_a_waiting_mind_no_longer() -> None:
    with Ward(boom, star, how=WAITS) as ward:
        ward.wound(30)
        assert len(told(ward.step())) == 1
        assert ward.step() == []
        ward.clock.now += 1.0
        events = ward.step()
        assert told(events) == ["repair works again"]
        assert len(repaired(events)) == 1


# ---- the mind, between two events of what it is doing -----------------------------------------------


def test_a_reply_goes_on_from_what_a_repair_made_of_its_last_token() -> None:
    mind = fake_mind(tail=0, says=None)
    for _ in mind.listen("the quick brown fox"):
        pass
    reply = mind.reply(Sampling(temperature=0, repetition_penalty=1.0), limit=9)
    said = [next(e for e in reply if isinstance(e, Spoke)) for _ in range(3)]
    engine: Any = mind.engine
    would_say = int(engine._logits(engine.rows).argmax())
    last = mind.view.tokens.uid[-1:]
    assert said[-1].token_id == mind.view.tokens.token_id[-1]
    assert mind.accept([Proposal(last, np.array([STAR], np.int32), 1.0)]) is not None
    must_say = int(engine._logits(engine.rows).argmax())
    assert must_say != would_say
    assert next(e for e in reply if isinstance(e, Spoke)).token_id == must_say
    assert_whole(mind)


@settings(max_examples=8)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60))
def test_repairs_between_any_two_events_break_nothing(places: list[int]) -> None:
    """Weaves, turns and repairs interleaved; what is planned at one event applies at a later one, or not."""
    mind = fake_mind(budget=128, tail=8, says=None, journal=Ledger())
    how = Sampling(temperature=0)
    works = [mind.listen("many words " * 9), mind.reply(how, 40), mind.listen("and a log\n" * 9, Source.LOG)]
    waiting: list[Proposal] = []
    for n, _ in enumerate(e for work in works for e in work):
        uid = mind.view.tokens.uid
        at = places[n % len(places)] % len(uid)
        run = uid[at : at + 1 + n % 3]
        waiting.append(Proposal(run, np.full(n % 2, STAR, np.int32), float(n % 5)))
        if n % 4 == 3:
            mind.accept(waiting)
            waiting = []
            assert_whole(mind)
            assert_well_formed(mind)
    ledger: Any = mind.journal
    assert_journal_tells_all(mind, ledger.records)
