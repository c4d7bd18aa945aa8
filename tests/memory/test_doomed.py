# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Proposals for what is dying: a run that a plan culls whole may become fewer tokens instead of vanishing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_strategies import Row, contexts, renumbered, rows_of, text, view_of

from haloweave.memory.cull import CullChoice, DimmestFirst
from haloweave.memory.edit import Surgery
from haloweave.memory.laws import Laws
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import Marker, Proposal, plan
from haloweave.memory.tokens import NO_UNIT, Source, View

FREE = Laws(sinks=0, tail=0, lock=300.0)
DOTS = Marker((91, 92), 64.0)

all_laws = st.builds(
    Laws, sinks=st.integers(0, 4), tail=st.integers(0, 6), lock=st.sampled_from([200.0, 250.0, 256.0])
)


def chosen(uids: Sequence[int]) -> CullChoice:
    return CullChoice(np.array(uids, np.int64), "test")


def proposal(uids: Sequence[int], new_ids: Sequence[int], gain: float = 1.0) -> Proposal:
    return Proposal(np.array(uids, np.int64), np.array(new_ids, np.int32), gain)


def ids_after(
    view: View, proposals: Sequence[Proposal], dead: Sequence[int], *, marker: Marker = DOTS
) -> list[int]:
    edit = plan(view, chosen(dead), proposals, laws=FREE, marker=marker, control_ids=frozenset({7777}))
    return edit.apply(view.tokens).token_id.tolist()


@pytest.mark.parametrize(
    ("uids", "new_ids", "then"),
    [
        pytest.param([2, 3, 4], [98, 99], [0, 1, 98, 99, 5, 8, 9], id="shorter"),
        pytest.param([2, 3, 4], [99], [0, 1, 99, 5, 8, 9], id="much shorter"),
        pytest.param([3, 4], [99], [0, 1, 99, 5, 8, 9], id="the end of what dies"),
        pytest.param([2, 3], [99], [0, 1, 99, 5, 8, 9], id="the beginning of it"),
        pytest.param([2, 3, 4], [97, 98, 99], [0, 1, 5, 8, 9], id="as long"),
        pytest.param([2, 3, 4], [1, 2, 3, 4], [0, 1, 5, 8, 9], id="longer"),
        pytest.param([2], [99], [0, 1, 5, 8, 9], id="one for one"),
        pytest.param([2, 3, 4], [], [0, 1, 5, 8, 9], id="nothing, as without it"),
        pytest.param([1, 2, 3], [99], [0, 1, 5, 8, 9], id="one of them lives"),
        pytest.param([4, 5], [99], [0, 1, 5, 8, 9], id="the last of them lives"),
        pytest.param([4, 6], [99], [0, 1, 5, 8, 9], id="no one run"),
        pytest.param([2, 3, 4], [7777], [0, 1, 5, 8, 9], id="a control token"),
    ],
)
def test_a_dying_run_may_become_fewer_tokens(uids: list[int], new_ids: list[int], then: list[int]) -> None:
    view = view_of(text(10))
    assert ids_after(view, [proposal(uids, new_ids)], [2, 3, 4, 6, 7]) == then


def test_what_it_becomes_is_born_there_and_takes_its_light_and_source() -> None:
    view = view_of(text(8, brightness=[0, 0, 10, 20, 30, 0, 0, 0], source=Source.USER))
    edit = plan(view, chosen([2, 3, 4]), [proposal([2, 3, 4], [98, 99])], laws=FREE, marker=DOTS)
    edit = edit.stamped(view.next_uid)
    after = Mirror(view)
    after.apply(edit)
    born = rows_of(after.view.tokens)[2:4]
    assert [(r.uid, r.token_id, r.brightness, r.source) for r in born] == [(8, 98, 20.0, 1), (9, 99, 20.0, 1)]
    assert edit.surgery is Surgery.PATCH
    assert edit.growth == -1
    after.apply(edit.inverse().shifted(after.view.revision))
    assert after.view.tokens == view.tokens


def test_beside_a_dead_unit_there_is_one_marker_on_each_side_of_what_lives() -> None:
    """The tokens that stand for the dead run are text: they part two gaps."""
    unit = text(3, source=Source.LOG, unit=1)
    rows = renumbered(text(2), unit, text(3), [r._replace(unit=2) for r in unit], text(2))
    view = view_of(rows)
    dead = list(range(2, 11))
    assert ids_after(view, [], dead) == [0, 1, 91, 92, 11, 12]
    assert ids_after(view, [proposal([5, 6, 7], [99])], dead) == [0, 1, 91, 92, 99, 91, 92, 11, 12]
    assert ids_after(view, [proposal([6, 7], [99])], dead) == [0, 1, 91, 92, 99, 91, 92, 11, 12]


@pytest.mark.parametrize("source", [Source.LOG, Source.TOOL, Source.MEMORY])
def test_a_dying_unit_is_never_rewritten(source: Source) -> None:
    view = view_of(renumbered(text(2), text(4, source=source, unit=3), text(2)))
    told = ids_after(view, [proposal([2, 3], [99]), proposal([2, 3, 4, 5], [99])], [2, 3, 4, 5])
    assert 99 not in told


@given(contexts, all_laws, st.sampled_from([Marker(), DOTS]), st.integers(0, 12), st.data())
def test_against_a_slow_planner(view: View, laws: Laws, marker: Marker, n: int, data: st.DataObject) -> None:
    """Token by token: the survivors, and where the first token of an accepted run stood, what it becomes."""
    choice = DimmestFirst(laws).choose(view, n)
    dying = set(choice.uids.tolist())
    rows = rows_of(view.tokens)
    proposals = _some_proposals([r.uid for r in rows], dying, data)
    edit = plan(view, choice, proposals, laws=laws, marker=marker)
    got = [r for r in rows_of(edit.apply(view.tokens)) if r.source != Source.MARKER]
    wanted = _planned(rows, dying, proposals, laws.untouchable(view.tokens).tolist())
    assert [r.uid if r.uid >= 0 else ("born", r.token_id) for r in got] == wanted
    assert all(r.unit == NO_UNIT for r in got if r.uid < 0)


def _some_proposals(uids: list[int], dying: set[int], data: st.DataObject) -> list[Proposal]:
    """Runs of any kind, mostly of what dies."""
    starts = [i for i, uid in enumerate(uids) if uid in dying] or list(range(len(uids)))
    found = []
    for _ in range(data.draw(st.integers(0, 5)) if starts else 0):
        at = data.draw(st.sampled_from(starts))
        run = uids[at : at + data.draw(st.integers(1, 3))]
        new = data.draw(st.lists(st.integers(40, 44), max_size=3))
        found.append(proposal(run, new, data.draw(st.sampled_from([0.5, 1.0, 2.0, float("nan")]))))
    return found


def _planned(
    rows: list[Row], dying: set[int], proposals: list[Proposal], fixed: list[bool]
) -> list[int | tuple[str, int]]:
    taken: set[int] = set()
    becomes: dict[int, list[int]] = {}
    gone = set(dying)
    for p in sorted((p for p in proposals if p.gain == p.gain), key=lambda p: -p.gain):
        slots = [s for u in p.uid.tolist() for s, r in enumerate(rows) if r.uid == u]
        new = p.new_ids.tolist()
        kinds = {rows[s].uid in dying for s in slots}
        free = all(
            not fixed[s]
            and s not in taken
            and rows[s].unit == NO_UNIT
            and rows[s].source in (Source.SYSTEM, Source.USER, Source.MODEL, Source.MEMORY)
            for s in slots
        )
        if not free or len(kinds) != 1:
            continue
        if kinds == {True} and not 0 < len(new) < len(slots):
            continue
        if kinds == {False} and (len(new) > len(slots) or new == [rows[s].token_id for s in slots]):
            continue
        taken.update(slots)
        gone.update(rows[s].uid for s in slots)
        becomes[slots[0]] = new
    told: list[int | tuple[str, int]] = []
    for slot, row in enumerate(rows):
        told += [("born", i) for i in becomes.get(slot, [])]
        if row.uid not in gone and row.source != Source.MARKER:
            told.append(row.uid)
    return told
