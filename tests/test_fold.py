# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The fold: wherever it begins, it ends where the mirror did; what cannot have happened is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_strategies import edits, same_bits

from haloweave.errors import JournalCorrupt
from haloweave.journal.base import Aborted, Born, Checkpoint, Committed, Rebuilt, Record, Reread, Totals, Turn
from haloweave.journal.fold import fold
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import delete
from haloweave.memory.tokens import Source, Tokens, View


def empty() -> Checkpoint:
    return Checkpoint(View(Tokens.empty(), 0, 0, 0), Turn(), Totals())


def born(view: View, count: int, **more: object) -> Born:
    tokens = Tokens.make(
        range(count), first_uid=view.next_uid, source=Source.USER, brightness=9.0, tick=view.tick
    )
    return Born(tokens, **more)  # type: ignore[arg-type]


@st.composite
def journals(draw: st.DrawFn) -> tuple[list[Record], list[Checkpoint]]:
    """Records of a random life, and after each the checkpoint that a mirror beside it would write."""
    mirror, turn, totals = Mirror(), Turn(), Totals()
    records: list[Record] = []
    states: list[Checkpoint] = []
    for _ in range(draw(st.integers(0, 9))):
        what = draw(st.sampled_from(["born", "born", "edit", "failed", "shine", "reread", "rebuilt"]))
        if what == "born":
            next_turn = draw(st.none() | st.builds(Turn, role=st.just("user"), next_unit=st.integers(0, 9)))
            record = born(mirror.view, draw(st.integers(1, 4)), turn=next_turn, sampled=draw(st.booleans()))
            mirror.append(record.tokens)
            turn, totals = next_turn or turn, totals.after_birth(record)
            records.append(record)
        elif what == "edit":
            edit = draw(edits(mirror.view))
            mirror.apply(edit)
            totals = totals.after_edit(edit)
            records.append(Committed(edit))
        elif what == "failed":
            failed = (
                born(mirror.view, 2, turn=Turn("system"))
                if draw(st.booleans())
                else Committed(draw(edits(mirror.view)))
            )
            records += [failed, *draw(st.sampled_from([[], [Rebuilt()]])), Aborted("no")]
        elif what == "shine":
            mirror.shine(np.linspace(0, 200, mirror.rows).astype(np.float32))
            turn = replace(turn, next_unit=turn.next_unit + 1)
            records.append(Checkpoint(mirror.view, turn, totals))
        else:
            records.append(Reread() if what == "reread" else Rebuilt())
        states += [Checkpoint(mirror.view, turn, totals)] * (len(records) - len(states))
    return records, states


@given(journals(), st.data())
def test_from_any_beginning_it_comes_to_the_same_end(
    life: tuple[list[Record], list[Checkpoint]], data: st.DataObject
) -> None:
    records, states = life
    end = fold(None, records)
    expected = states[-1] if states else empty()
    assert replace(end, view=expected.view) == expected
    assert same_bits(end.view.tokens, expected.view.tokens)
    assert replace(end.view, tokens=expected.view.tokens) == expected.view
    if records:
        at = data.draw(st.integers(0, len(records) - 1))
        rest = records[at + 1 :]
        undecided = next((r for r in rest if not isinstance(r, Reread | Rebuilt)), None)
        if not isinstance(undecided, Aborted):
            assert same_bits(fold(states[at], rest).view.tokens, expected.view.tokens)


def test_of_nothing() -> None:
    assert fold(None, []) == empty()
    start = replace(empty(), turn=Turn("user", 3))
    assert fold(start, [Reread(), Rebuilt()]) == start


def test_counters() -> None:
    first, second = born(empty().view, 3), None
    mirror = Mirror()
    mirror.append(first.tokens)
    second = born(mirror.view, 1, sampled=True)
    assert fold(None, [first, second]).totals == Totals(fed=4, spoken=1)


def test_a_checkpoint_brings_its_brightness_frame_and_counters() -> None:
    first = born(empty().view, 2)
    told = fold(None, [first])
    light = np.array([3.5, 4.5], np.float32)
    view = replace(told.view, tokens=told.view.tokens.replace(brightness=light))
    brighter = Checkpoint(view, Turn("user", 7), Totals(9, 9, 9, 9))
    assert fold(None, [first, brighter]) == brighter


def _checkpoint_that_lies(change: str) -> list[Record]:
    first = born(empty().view, 2)
    told = fold(None, [first])
    tokens = told.view.tokens
    lies = {
        "token_id": replace(told.view, tokens=tokens.replace(token_id=tokens.token_id + np.int32(1))),
        "uid": replace(told.view, tokens=tokens.replace(uid=tokens.uid + 1)),
        "pinned": replace(told.view, tokens=tokens.replace(pinned=~tokens.pinned)),
        "revision": replace(told.view, revision=5),
        "tick": replace(told.view, tick=5),
        "next_uid": replace(told.view, next_uid=5),
    }
    return [first, replace(told, view=lies[change])]


@pytest.mark.parametrize("change", ["token_id", "uid", "pinned", "revision", "tick", "next_uid"])
def test_a_checkpoint_that_contradicts_is_refused(change: str) -> None:
    with pytest.raises(JournalCorrupt, match=change):
        fold(None, _checkpoint_that_lies(change))


def test_what_cannot_have_happened_is_refused() -> None:
    first = born(empty().view, 2)
    told = fold(None, [first])
    jump = Born(Tokens.make([1], first_uid=9, source=Source.USER))
    culled = Committed(delete(told.view, told.view.tokens.uid.tolist()))
    for records in (
        [first, first],
        [jump],
        [culled],
        [first, culled, culled],
        [Aborted("of what?")],
        [first, Aborted("a"), Aborted("b")],
        [first, told, Aborted("too late")],
    ):
        with pytest.raises(JournalCorrupt):
            fold(None, records)
