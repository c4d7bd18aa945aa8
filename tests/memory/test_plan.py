# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""From wishes to one lawful edit: whole units, one marker for each gap, proposals, acts of the person."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memory_strategies import Row, chats, contexts, renumbered, rows_of, streams, text, view_of

from haloweave.errors import InvalidEdit, InvalidInput, Protected
from haloweave.memory.cull import CullChoice, DimmestFirst
from haloweave.memory.edit import PROVISIONAL, Edit, Surgery
from haloweave.memory.laws import Laws
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import (
    Marker,
    Proposal,
    boost,
    check_act,
    delete,
    insert,
    pin,
    plan,
    propose,
    substitute,
)
from haloweave.memory.tokens import FULL, NO_UNIT, Source, Tokens, View

FREE = Laws(sinks=0, tail=0, lock=300.0)
DOTS = Marker((91, 92), 64.0)
WHOLE = (int(Source.LOG), int(Source.TOOL))
CONTROL = int(Source.CONTROL)
MARKER = int(Source.MARKER)

all_laws = st.builds(
    Laws, sinks=st.integers(0, 4), tail=st.integers(0, 6), lock=st.sampled_from([200.0, 250.0, 256.0])
)
all_markers = st.sampled_from([Marker(), Marker((91,)), DOTS, Marker((91, 92, 93), 10.0)])


def chosen(uids: Sequence[int]) -> CullChoice:
    return CullChoice(np.array(uids, np.int64), "test")


def proposal(uids: Sequence[int], new_ids: Sequence[int], gain: float = 1.0) -> Proposal:
    return Proposal(np.array(uids, np.int64), np.array(new_ids, np.int32), gain)


def log(n: int, unit: int, source: Source = Source.LOG, **fields: float) -> list[Row]:
    return text(n, source=source, unit=unit, **fields)


def mark(n: int, unit: int, **fields: bool) -> list[Row]:
    return text(n, source=Source.MARKER, unit=unit, brightness=64.0, **fields)


def frame(n: int, unit: int) -> list[Row]:
    return text(n, source=Source.CONTROL, unit=unit, brightness=FULL)


def spelled(tokens: Tokens) -> str:
    """One letter for each token's source, for reading a context at a glance."""
    return "".join("sumtlyMc"[s] for s in tokens.source.tolist())


# ---- culling: whole units, one marker a gap ----------------------------------------------------------


def check_units_whole(before: list[Row], after: list[Row]) -> None:
    """No log or tool unit is torn, reordered, spread apart or rewritten."""
    for unit in {r.unit for r in before if r.source in WHOLE and r.unit != NO_UNIT}:
        was = [r.token_id for r in before if r.unit == unit and r.source in WHOLE]
        slots = [s for s, r in enumerate(after) if r.unit == unit and r.source in WHOLE]
        if slots:
            assert [after[s].token_id for s in slots] == was
            assert slots == list(range(slots[0], slots[0] + len(slots)))


def check_no_twin_markers(view: View, laws: Laws) -> None:
    rows = rows_of(view.tokens)
    fixed = laws.untouchable(view.tokens)
    for s in range(1, len(rows)):
        a, b = rows[s - 1], rows[s]
        if a.source == b.source == MARKER and a.unit != b.unit:
            assert fixed[s - 1] or fixed[s], f"two markers side by side at slot {s}: {spelled(view.tokens)}"


def gaps(before: list[Row], after: list[Row]) -> list[tuple[list[Row], list[Row]]]:
    """What stood and what stands between two neighbouring survivors that are no markers."""
    kept = {r.uid for r in after if r.source != MARKER}
    assert kept <= {r.uid for r in before}

    def split(rows: list[Row]) -> list[list[Row]]:
        parts: list[list[Row]] = [[]]
        for r in rows:
            if r.uid in kept:
                parts.append([])
            else:
                parts[-1].append(r)
        return parts

    return list(zip(split(before), split(after), strict=True))


@given(contexts, all_laws, all_markers, st.integers(0, 12))
def test_a_gap_that_lost_a_unit_holds_one_marker(view: View, laws: Laws, marker: Marker, n: int) -> None:
    choice = DimmestFirst(laws).choose(view, n)
    edit = plan(view, choice, laws=laws, marker=marker)
    after = edit.apply(view.tokens)
    before_rows, after_rows = rows_of(view.tokens), rows_of(after)
    fixed = set(view.tokens.uid[laws.untouchable(view.tokens)].tolist())
    check_units_whole(before_rows, after_rows)
    if not marker.ids:
        assert {r.uid for r in before_rows} - set(choice.uids.tolist()) == {r.uid for r in after_rows}
        return
    for was, now in gaps(before_rows, after_rows):
        lost = any(r.source in WHOLE for r in was) and len(was) > len(marker.ids)
        had = any(r.source == MARKER and r.uid not in set(choice.uids.tolist()) for r in was)
        loose = [r for r in now if r.uid not in fixed]
        assert all(r.source == MARKER for r in now)
        assert len({r.unit for r in loose}) <= 1
        assert bool(now) == (lost or had)
        fresh = [r for r in now if r.uid < 0]
        assert [r.token_id for r in fresh] == (list(marker.ids) if lost and not had else [])
    check_no_twin_markers(View(after, 0, 0, view.next_uid + 99), laws)


@given(contexts, all_laws, all_markers, st.integers(0, 12))
def test_only_the_chosen_and_surplus_markers_die(view: View, laws: Laws, marker: Marker, n: int) -> None:
    choice = DimmestFirst(laws).choose(view, n)
    edit = plan(view, choice, laws=laws, marker=marker)
    left = set(edit.apply(view.tokens).uid.tolist())
    untouchable = laws.untouchable(view.tokens)
    for slot, row in enumerate(rows_of(view.tokens)):
        if row.uid in choice.uids.tolist():
            assert row.uid not in left
        elif row.uid not in left:
            assert row.source == MARKER
            assert not untouchable[slot]
    assert (edit.base, edit.tick) == (view.revision, view.tick)
    assert edit.surgery is (Surgery.PATCH if len(edit.born_uids) else Surgery.DROP)


def test_markers_are_born_where_the_unit_died() -> None:
    rows = renumbered(text(2), log(3, 5), text(2))
    edit = plan(view_of(rows), chosen([2, 3, 4]), laws=FREE, marker=DOTS)
    after = rows_of(edit.apply(view_of(rows).tokens))
    assert [r.token_id for r in after] == [0, 1, 91, 92, 5, 6]
    born = after[2:4]
    assert [(r.uid, r.source, r.brightness, r.pinned, r.born) for r in born] == [
        (PROVISIONAL, MARKER, 64.0, False, 9),
        (PROVISIONAL + 1, MARKER, 64.0, False, 9),
    ]
    assert born[0].unit == born[1].unit != NO_UNIT


def test_two_units_that_die_side_by_side_leave_one_marker() -> None:
    rows = renumbered(text(2), log(3, 5), log(2, 6), text(1), log(3, 7), text(2))
    view = view_of(rows)
    edit = plan(view, chosen([2, 3, 4, 5, 6, 8, 9, 10]), laws=FREE, marker=DOTS)
    assert spelled(edit.apply(view.tokens)) == "mmMMmMMmm"
    edit = plan(view, chosen([2, 3, 4, 5, 6, 7, 8, 9, 10]), laws=FREE, marker=DOTS)
    assert spelled(edit.apply(view.tokens)) == "mmMMmm"


def test_a_unit_no_longer_than_its_marker_leaves_none() -> None:
    """Else a weave could free nothing, or even grow."""
    view = view_of(renumbered(text(2), log(2, 5), text(2)))
    assert spelled(plan(view, chosen([2, 3]), laws=FREE, marker=DOTS).apply(view.tokens)) == "mmmm"


def test_lone_text_leaves_no_marker() -> None:
    view = view_of(text(6))
    assert spelled(plan(view, chosen([2, 3]), laws=FREE, marker=DOTS).apply(view.tokens)) == "mmmm"


def test_markers_that_come_to_touch_merge_but_protected_ones_stay() -> None:
    rows = renumbered(mark(2, 1), text(1), mark(2, 2))
    view = view_of(rows)
    merged = plan(view, chosen([2]), laws=FREE, marker=DOTS).apply(view.tokens)
    assert merged.unit.tolist() == [1, 1]
    pinned = view_of(renumbered(mark(2, 1), text(1), mark(2, 2, pinned=True)))
    kept = plan(pinned, chosen([2]), laws=FREE, marker=DOTS).apply(pinned.tokens)
    assert kept.uid.tolist()[-2:] == [3, 4]


def test_a_plan_of_nothing_changes_nothing() -> None:
    view = view_of(renumbered(text(3), log(2, 1), mark(1, 2)))
    edit = plan(view, chosen([]), laws=FREE, marker=DOTS)
    assert edit.splices == ()
    assert plan(view_of([]), chosen([]), laws=FREE, marker=DOTS).splices == ()


def test_carrying_out_a_choice_shrinks_the_context() -> None:
    """A one-token unit is shorter than its marker: a weave that trades it in would never reach its target."""
    rows = renumbered(*[part for unit in range(6) for part in (text(1), log(1, unit, brightness=1.0))])
    view = view_of(rows)
    for n in (1, 2, 4):
        choice = DimmestFirst(FREE).choose(view, n)
        assert plan(view, choice, laws=FREE, marker=DOTS).growth < 0


@pytest.mark.parametrize(
    ("rows", "laws", "uids"),
    [
        pytest.param(text(6, pinned=True), FREE, [3], id="pinned"),
        pytest.param(text(6, brightness=251.0), Laws(0, 0, 250.0), [3], id="locked"),
        pytest.param(text(6), Laws(4, 0, 300.0), [3], id="sink"),
        pytest.param(text(6), Laws(0, 3, 300.0), [3], id="tail"),
        pytest.param(renumbered(text(1), log(3, 5), text(1)), FREE, [1, 2], id="torn log"),
        pytest.param(renumbered(text(1), log(3, 5, Source.TOOL), text(1)), FREE, [3], id="torn tool"),
        pytest.param(renumbered(mark(2, 1), text(1)), FREE, [0], id="torn marker"),
        pytest.param(renumbered(frame(1, 0), text(2), frame(1, 0)), FREE, [0, 3], id="frame"),
        pytest.param(renumbered(frame(2, 0), frame(1, 0)), FREE, [0], id="torn frame"),
        pytest.param(
            renumbered(text(3), log(3, 5)), Laws(0, 1, 300.0), [3, 4, 5], id="unit reaches into tail"
        ),
        pytest.param(renumbered(log(5, 5), text(3)), Laws(4, 0, 300.0), [0, 1, 2, 3, 4], id="unit of sinks"),
    ],
)
def test_an_unlawful_choice_raises(rows: list[Row], laws: Laws, uids: list[int]) -> None:
    with pytest.raises(Protected):
        plan(view_of(rows), chosen(uids), laws=laws, marker=DOTS)


def test_a_choice_of_the_dead_raises() -> None:
    with pytest.raises(InvalidInput, match="77"):
        plan(view_of(text(6)), chosen([1, 77]), laws=FREE, marker=DOTS)


def test_a_hollow_turn_may_die_whole() -> None:
    view = view_of(renumbered(frame(2, 0), mark(1, 3), frame(1, 0), frame(1, 4), text(2)))
    after = plan(view, chosen([0, 1, 2, 3]), laws=FREE, marker=DOTS).apply(view.tokens)
    assert spelled(after) == "cmm"


# ---- proposals ---------------------------------------------------------------------------------------


def ids_after(
    view: View, proposals: list[Proposal], laws: Laws = FREE, dead: Sequence[int] = ()
) -> list[int]:
    edit = plan(view, chosen(dead), proposals, laws=laws, marker=DOTS)
    return edit.apply(view.tokens).token_id.tolist()


@pytest.mark.parametrize(
    ("uids", "new_ids"),
    [
        pytest.param([5, 77], [1], id="dead"),
        pytest.param([], [], id="of nothing"),
        pytest.param([5, 7], [1], id="apart"),
        pytest.param([6, 5], [1], id="backwards"),
        pytest.param([5, 5], [1], id="twice the same"),
        pytest.param([5], [1, 2], id="longer"),
        pytest.param([5, 6], [5, 6], id="no change"),
    ],
)
def test_a_proposal_that_does_not_apply_is_dropped(uids: list[int], new_ids: list[int]) -> None:
    view = view_of(text(12))
    assert ids_after(view, [proposal(uids, new_ids)]) == list(range(12))
    assert propose(view, [proposal(uids, new_ids)], laws=FREE).splices == ()


@pytest.mark.parametrize(
    ("rows", "laws"),
    [
        pytest.param(text(12, pinned=True), FREE, id="pinned"),
        pytest.param(text(12, brightness=251.0), Laws(0, 0, 250.0), id="locked"),
        pytest.param(text(12), Laws(6, 0, 300.0), id="sink"),
        pytest.param(text(12), Laws(0, 7, 300.0), id="tail"),
        pytest.param(log(12, 3), FREE, id="log unit"),
        pytest.param(log(12, NO_UNIT), FREE, id="log without unit"),
        pytest.param(log(12, 3, Source.TOOL), FREE, id="tool"),
        pytest.param(log(12, 3, Source.MEMORY), FREE, id="any unit"),
        pytest.param(mark(12, NO_UNIT), FREE, id="marker"),
        pytest.param(frame(12, NO_UNIT), FREE, id="control"),
    ],
)
def test_a_proposal_for_what_is_not_free_is_dropped(rows: list[Row], laws: Laws) -> None:
    assert ids_after(view_of(rows), [proposal([5], [99])], laws) == list(range(12))


def test_proposals_substitute_shrink_and_delete() -> None:
    view = view_of(text(12, brightness=[float(i) for i in range(12)], source=Source.USER))
    assert ids_after(view, [proposal([5, 6], [98, 99])])[5:7] == [98, 99]
    assert ids_after(view, [proposal([5, 6], [99])]) == [0, 1, 2, 3, 4, 99, 7, 8, 9, 10, 11]
    assert ids_after(view, [proposal([5, 6], [])]) == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    edit = plan(view, chosen([]), [proposal([5, 6], [99])], laws=FREE, marker=DOTS)
    born = rows_of(edit.apply(view.tokens))[5]
    assert born == Row(PROVISIONAL, 99, 5.5, int(Source.USER), NO_UNIT, False, 9)


def test_a_proposal_for_the_culled_is_dropped() -> None:
    assert ids_after(view_of(text(6)), [proposal([2, 3], [98, 99])], dead=[3]) == [0, 1, 2, 4, 5]


def test_the_greater_gain_wins_an_overlap() -> None:
    view = view_of(text(9))
    low, high = proposal([3, 4], [50, 51], 1.0), proposal([4, 5], [60, 61], 2.0)
    for order in ([low, high], [high, low]):
        assert ids_after(view, order)[3:6] == [3, 60, 61]
    # Equal gains: the first that was proposed.
    assert ids_after(view, [low, proposal([4, 5], [60, 61], 1.0)])[3:6] == [50, 51, 5]


@pytest.mark.parametrize("gain", [math.nan, -math.inf, -1.0])
def test_a_gain_that_is_none_wins_no_overlap(gain: float) -> None:
    view = view_of(text(9))
    bad, good = proposal([3, 4], [50, 51], gain), proposal([4, 5], [60, 61], 2.0)
    for order in ([bad, good], [good, bad]):
        assert ids_after(view, order)[3:6] == [3, 60, 61]


def test_a_proposal_that_cannot_say_what_it_wins_is_dropped() -> None:
    assert ids_after(view_of(text(9)), [proposal([3, 4], [50, 51], math.nan)]) == list(range(9))


def test_a_proposal_may_touch_a_gap_on_either_side() -> None:
    rows = renumbered(text(2), log(3, 1), text(2), log(3, 2), text(2))
    view = view_of(rows)
    dead = [2, 3, 4, 7, 8, 9]
    assert ids_after(view, [proposal([5, 6], [99])], dead=dead) == [0, 1, 91, 92, 99, 91, 92, 10, 11]


def test_markers_merge_across_a_run_that_a_proposal_deletes() -> None:
    rows = renumbered(text(2), log(2, 1), text(2), log(2, 2), text(2))
    view = view_of(rows)
    edit = plan(view, chosen([2, 3, 6, 7]), [proposal([4, 5], [])], laws=FREE, marker=DOTS)
    check_no_twin_markers(View(edit.apply(view.tokens), 0, 0, 99), FREE)


@given(contexts, all_laws, all_markers, st.integers(0, 8), st.data())
def test_any_proposals_leave_the_laws_whole(
    view: View, laws: Laws, marker: Marker, n: int, data: st.DataObject
) -> None:
    rows = rows_of(view.tokens)
    uids = [r.uid for r in rows] + [10_000]
    proposals: list[Proposal] = []
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(uids) - 1))
        run = uids[at : at + data.draw(st.integers(1, 3))]
        new = data.draw(st.lists(st.integers(40, 44), min_size=1, max_size=3))
        proposals.append(proposal(run, new, data.draw(st.sampled_from([0.5, 1.0, 2.0]))))
    choice = DimmestFirst(laws).choose(view, n)
    edit = plan(view, choice, proposals, laws=laws, marker=marker)
    after = rows_of(edit.apply(view.tokens))
    check_units_whole(rows, after)
    left = {r.uid for r in after}
    fixed = laws.untouchable(view.tokens)
    proposed = {u for p in proposals for u in p.uid.tolist()}
    for slot, row in enumerate(rows):
        if fixed[slot]:
            assert row.uid in left
        if row.uid not in left | set(choice.uids.tolist()) and row.source != MARKER:
            assert row.uid in proposed
            assert row.unit == NO_UNIT
            assert row.source not in (*WHOLE, CONTROL)
    # Each born run that is no marker is one of the proposals, in full; and the best one is never dropped.
    for s in edit.splices:
        ids = s.new.token_id.tolist()
        if ids and s.new.source[0] != MARKER:
            assert any(ids == p.new_ids.tolist() for p in proposals)
    best = max(proposals, key=lambda p: p.gain, default=None)
    if best is not None and _applies(best, view, laws, choice):
        assert all(p.gain == best.gain for p in proposals if p is not best) or any(
            s.new.token_id.tolist() == best.new_ids.tolist() for s in edit.splices
        )


def _applies(p: Proposal, view: View, laws: Laws, choice: CullChoice) -> bool:
    rows = rows_of(view.tokens)
    slots = [s for u in p.uid.tolist() for s, r in enumerate(rows) if r.uid == u]
    fixed = laws.untouchable(view.tokens)
    return (
        len(slots) == len(p.uid)
        and slots == list(range(slots[0], slots[0] + len(slots)))
        and len(p.new_ids) <= len(slots)
        and [rows[s].token_id for s in slots] != p.new_ids.tolist()
        and all(
            rows[s].unit == NO_UNIT
            and rows[s].source not in (*WHOLE, CONTROL, MARKER)
            and rows[s].uid not in choice.uids.tolist()
            and not fixed[s]
            for s in slots
        )
    )


# ---- many rounds -------------------------------------------------------------------------------------


class WeaveMachine(RuleBasedStateMachine):
    """A mind's context without a model: turns arrive, light changes, the dim die; until little is left."""

    laws = Laws(sinks=2, tail=5, lock=250.0)
    policy = DimmestFirst(laws)

    def __init__(self) -> None:
        super().__init__()
        self.mirror = Mirror()
        self.units: dict[int, list[int]] = {}
        self.frames: list[list[int]] = []
        self.next_unit = 0

    def feed(self, n: int, source: Source, unit: int = NO_UNIT) -> list[int]:
        v = self.mirror.view
        ids = [(v.next_uid * 7 + i) % 50 for i in range(n)]
        light = FULL if source is Source.CONTROL else 100.0
        fed = Tokens.make(ids, first_uid=v.next_uid, source=source, brightness=light, unit=unit, tick=v.tick)
        self.mirror.append(fed)
        return fed.uid.tolist()

    @rule(parts=st.lists(st.tuples(st.sampled_from("uml"), st.integers(1, 4)), min_size=1, max_size=4))
    def turn(self, parts: list[tuple[str, int]]) -> None:
        frame_unit = self.next_unit
        self.next_unit += 1
        frame = self.feed(2, Source.CONTROL, frame_unit)
        for kind, n in parts:
            if kind == "l":
                self.units[self.next_unit] = self.feed(n, Source.LOG, self.next_unit)
                self.next_unit += 1
            else:
                self.feed(n, {"u": Source.USER, "m": Source.MODEL}[kind])
        frame += self.feed(1, Source.CONTROL, frame_unit)
        self.frames.append(frame)

    @rule(seed=st.integers(0, 2**32 - 1))
    def dim(self, seed: int) -> None:
        light = np.random.default_rng(seed).uniform(0, 255, self.mirror.rows).astype(np.float32)
        self.mirror.shine(light)

    @rule(n=st.integers(1, 12), with_repair=st.booleans(), data=st.data())
    def weave(self, n: int, with_repair: bool, data: st.DataObject) -> None:
        view = self.mirror.view
        proposals = []
        if with_repair and self.mirror.rows:
            at = data.draw(st.integers(0, self.mirror.rows - 1))
            run = view.tokens.uid[at : at + 2].tolist()
            proposals = [proposal(run, [60])]
        choice = self.policy.choose(view, n)
        self.mirror.apply(plan(view, choice, proposals, laws=self.laws, marker=DOTS))

    @precondition(lambda self: self.mirror.rows > 20)
    @rule(n=st.integers(1, 9))
    def weave_down(self, n: int) -> None:
        """Rounds of culling end: each kills something for good, or a unit becomes a marker once."""
        bound = 2 * self.mirror.rows + 2
        for _ in range(bound):
            view = self.mirror.view
            choice = self.policy.choose(view, n)
            if not len(choice):
                break
            self.mirror.apply(plan(view, choice, laws=self.laws, marker=DOTS))
            self.units_are_whole()
            self.markers_stand_alone()
        assert not len(self.policy.choose(self.mirror.view, n))

    @invariant()
    def units_are_whole(self) -> None:
        uids = self.mirror.view.tokens.uid.tolist()
        where = {u: s for s, u in enumerate(uids)}
        for unit in self.units.values():
            alive = [where[u] for u in unit if u in where]
            assert not alive or alive == list(range(alive[0], alive[0] + len(unit)))

    @invariant()
    def markers_stand_alone(self) -> None:
        check_no_twin_markers(self.mirror.view, self.laws)

    @invariant()
    def speaking_turns_keep_their_frame(self) -> None:
        alive = set(self.mirror.view.tokens.uid.tolist())
        for frame in self.frames:
            if any(uid in alive for uid in range(frame[0], frame[-1] + 1) if uid not in frame):
                assert set(frame) <= alive

    @invariant()
    def dead_stay_dead(self) -> None:
        v = self.mirror.view
        assert len(set(v.tokens.uid.tolist())) == len(v.tokens)
        assert v.next_uid > max(v.tokens.uid.tolist(), default=-1)


TestWeave = WeaveMachine.TestCase


# ---- acts of the person ------------------------------------------------------------------------------

NO_CONTROL: frozenset[int] = frozenset()


def applied(view: View, edit: Edit) -> list[Row]:
    assert (edit.base, edit.tick) == (view.revision, view.tick)
    mirror = Mirror(view)
    mirror.apply(edit)
    return rows_of(mirror.view.tokens)


@given(contexts, st.data())
def test_delete_removes_what_was_named_and_nothing_else(view: View, data: st.DataObject) -> None:
    rows = rows_of(view.tokens)
    gone = data.draw(st.sets(st.sampled_from([r.uid for r in rows]))) if rows else set()
    edit = delete(view, sorted(gone))
    assert edit.surgery is Surgery.DROP
    assert applied(view, edit) == [r for r in rows if r.uid not in gone]


def test_delete_takes_pinned_tokens_and_another_surgery() -> None:
    view = view_of(text(5, pinned=True))
    edit = delete(view, [1], surgery=Surgery.RECOMPUTE, reason="redact")
    assert (edit.surgery, edit.reason) == (Surgery.RECOMPUTE, "redact")
    assert [r.uid for r in applied(view, edit)] == [0, 2, 3, 4]


@given(streams(), st.data())
def test_substitute_is_a_list_slice(view: View, data: st.DataObject) -> None:
    rows = rows_of(view.tokens)
    if not rows:
        return
    a = data.draw(st.integers(0, len(rows) - 1))
    b = data.draw(st.integers(a + 1, len(rows)))
    new = data.draw(st.lists(st.integers(50, 60), max_size=3))
    after = applied(view, substitute(view, [r.uid for r in rows[a:b]], new))
    assert after[:a] + after[a + len(new) :] == rows[:a] + rows[b:]
    born = after[a : a + len(new)]
    assert [r.token_id for r in born] == new
    assert [r.uid for r in born] == [view.next_uid + i for i in range(len(new))]
    assert all(r.source == rows[a].source for r in born)
    assert all(r.brightness == pytest.approx(sum(q.brightness for q in rows[a:b]) / (b - a)) for r in born)


@pytest.mark.parametrize("uids", [[], [1, 3], [0, 4]])
def test_substitute_wants_one_run(uids: list[int]) -> None:
    with pytest.raises(InvalidInput, match="run"):
        substitute(view_of(text(5)), uids, [9])


@given(streams(), st.data())
def test_insert_is_a_list_insertion(view: View, data: st.DataObject) -> None:
    rows = rows_of(view.tokens)
    slot = data.draw(st.integers(0, len(rows)))
    edit = insert(view, slot, [50, 51], source=Source.MEMORY, brightness=77.0)
    after = applied(view, edit)
    assert after[:slot] + after[slot + 2 :] == rows
    assert [(r.token_id, r.source, r.brightness) for r in after[slot : slot + 2]] == [
        (50, int(Source.MEMORY), 77.0),
        (51, int(Source.MEMORY), 77.0),
    ]


@pytest.mark.parametrize("slot", [-1, 6])
def test_insert_refuses_a_slot_that_is_not_there(slot: int) -> None:
    with pytest.raises(InvalidInput, match="slot"):
        insert(view_of(text(5)), slot, [9], source=Source.USER, brightness=1.0)


@given(contexts, st.data())
def test_pin_and_boost_change_one_column_of_whole_units(view: View, data: st.DataObject) -> None:
    rows = rows_of(view.tokens)
    named = data.draw(st.sets(st.sampled_from([r.uid for r in rows]), max_size=3)) if rows else set()
    units = {r.unit for r in rows if r.uid in named} - {NO_UNIT}
    hit = {r.uid for r in rows if r.uid in named or r.unit in units}
    for flag in (True, False):
        edit = pin(view, sorted(named), flag)
        assert applied(view, edit) == [r._replace(pinned=flag) if r.uid in hit else r for r in rows]
        assert edit.growth == 0
        assert edit.first is None
    edit = boost(view, sorted(named), 12.5)
    assert applied(view, edit) == [r._replace(brightness=12.5) if r.uid in hit else r for r in rows]
    assert len(edit.born_uids) == 0


BAD = [math.nan, math.inf, -math.inf, -1.0, -1e-9, 255.5, 1e30]


@pytest.mark.parametrize("brightness", BAD)
def test_no_act_takes_an_impossible_brightness(brightness: float) -> None:
    view = view_of(renumbered(text(5), log(2, 1), text(1)))
    with pytest.raises(InvalidInput, match="brightness"):
        boost(view, [1], brightness)
    with pytest.raises(InvalidInput, match="brightness"):
        insert(view, 1, [9], source=Source.USER, brightness=brightness)
    with pytest.raises(InvalidInput, match="brightness"):
        plan(view, chosen([5, 6]), laws=FREE, marker=Marker((9,), brightness))


def test_acts_on_the_dead_are_refused() -> None:
    view = view_of(text(5))
    acts = [
        lambda: delete(view, [77]),
        lambda: substitute(view, [77], [1]),
        lambda: pin(view, [77]),
        lambda: boost(view, [77]),
    ]
    for act in acts:
        with pytest.raises(InvalidInput, match="77"):
            act()


@given(contexts, st.data())
def test_every_act_can_be_taken_back(view: View, data: st.DataObject) -> None:
    rows = rows_of(view.tokens)
    if not rows:
        return
    uid = data.draw(st.sampled_from([r.uid for r in rows]))
    acts = [
        delete(view, [uid]),
        substitute(view, [uid], [50, 51]),
        insert(view, 0, [50], source=Source.USER, brightness=1.0),
        pin(view, [uid]),
        boost(view, [uid], 3.0),
    ]
    mirror = Mirror(view)
    edit = data.draw(st.sampled_from(acts))
    edit = edit.stamped(view.next_uid)
    mirror.apply(edit)
    mirror.apply(edit.inverse())
    assert rows_of(mirror.view.tokens) == rows


# ---- check_act ---------------------------------------------------------------------------------------


def test_ordinary_acts_pass() -> None:
    view = view_of(renumbered(text(3), log(2, 1), frame(1, 2), text(2), frame(1, 2), text(2)))
    for edit in [
        delete(view, [0, 1]),
        delete(view, [3, 4]),
        delete(view, [5, 6, 7, 8]),
        substitute(view, [0, 1], [50]),
        insert(view, 3, [50], source=Source.USER, brightness=1.0),
        insert(view, 5, [50], source=Source.USER, brightness=1.0),
        pin(view, [3]),
        boost(view, [5]),
    ]:
        check_act(view, edit, frozenset({99}))


def test_nothing_may_be_left_of_no_context() -> None:
    view = view_of(text(3))
    with pytest.raises(InvalidEdit, match="no token"):
        check_act(view, delete(view, [0, 1, 2]), NO_CONTROL)
    check_act(view, delete(view, [0, 1]), NO_CONTROL)


def test_text_may_not_bring_in_a_control_token() -> None:
    view = view_of(text(3))
    for edit in (
        insert(view, 1, [50, 99], source=Source.USER, brightness=1.0),
        substitute(view, [1], [99]),
    ):
        with pytest.raises(Protected, match="99"):
            check_act(view, edit, frozenset({99}))
        check_act(view, edit, frozenset({98}))


@pytest.mark.parametrize("source", [Source.LOG, Source.TOOL])
def test_logs_may_not_be_rewritten(source: Source) -> None:
    view = view_of(renumbered(text(2), log(3, 1, source), text(2)))
    for uids in ([3], [2, 3, 4], [1, 2], [4, 5]):
        with pytest.raises(Protected, match="never rewritten"):
            check_act(view, substitute(view, uids, [50]), NO_CONTROL)


@pytest.mark.parametrize("slot", [3, 4])
def test_nothing_may_be_written_into_a_log_line(slot: int) -> None:
    view = view_of(renumbered(text(2), log(3, 1), text(2)))
    with pytest.raises(Protected):
        check_act(view, insert(view, slot, [50], source=Source.USER, brightness=1.0), NO_CONTROL)


@pytest.mark.parametrize("uids", [[0], [3], [0, 3]])
def test_a_turn_that_speaks_may_not_lose_its_frame(uids: list[int]) -> None:
    view = view_of(renumbered(frame(1, 2), text(2), frame(1, 2), text(2)))
    with pytest.raises(Protected):
        check_act(view, delete(view, uids), NO_CONTROL)


def test_a_control_token_may_not_be_substituted() -> None:
    view = view_of(renumbered(frame(1, 2), text(2), frame(1, 2), text(2)))
    with pytest.raises(Protected):
        check_act(view, substitute(view, [0], [50]), frozenset({99}))


def test_an_undo_may_bring_back_what_was_there() -> None:
    rows = renumbered(text(2), frame(1, 2), text(1), frame(1, 2), log(2, 1), text(2))
    mirror = Mirror(view_of(rows))
    edit = delete(mirror.view, [2, 3, 4, 5, 6])
    mirror.apply(edit)
    with pytest.raises(InvalidEdit, match="given to another"):
        check_act(mirror.view, edit.inverse(), frozenset({2, 4}))
    check_act(mirror.view, edit.inverse(), frozenset({2, 4}), restoring=True)
    mirror.apply(edit.inverse())
    assert rows_of(mirror.view.tokens) == rows


@given(chats(), st.data())
def test_a_refused_act_changes_nothing(view: View, data: st.DataObject) -> None:
    rows = rows_of(view.tokens)
    if not rows:
        return
    uid = data.draw(st.sampled_from([r.uid for r in rows]))
    with pytest.raises(Protected):
        check_act(view, substitute(view, [uid], [99]), frozenset({99}))
    assert rows_of(view.tokens) == rows
