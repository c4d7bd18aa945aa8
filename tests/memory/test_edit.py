# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Edits against plain list splicing: apply, undo, gather, map over a later edit, bytes and back."""

from __future__ import annotations

import importlib.util
import itertools
import json
import struct
import sys
import zlib
from types import ModuleType

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from memory_strategies import (
    Row,
    any_views,
    brightnesses,
    columns,
    edits,
    rows_of,
    same_bits,
    text,
    tokens_of,
    view_of,
)

import haloweave.memory.edit
from haloweave.errors import EditConflict, InvalidEdit
from haloweave.memory.edit import BORN, Edit, Splice, Surgery, deletion
from haloweave.memory.tokens import Tokens, View

NOTHING = Tokens.empty()


def naive_apply(live: list[Row], edit: Edit) -> list[Row]:
    """Splicing of a list; a kept token takes only the columns in which the edit's old and new differ."""
    after = list(live)
    for s in reversed(edit.splices):
        assert [r.uid for r in live[s.start : s.stop]] == s.old.uid.tolist()
        old = {r.uid: r for r in rows_of(s.old)}
        there = {r.uid: r for r in live[s.start : s.stop]}
        new = [_merged(there[r.uid], old[r.uid], r) if r.uid in old else r for r in rows_of(s.new)]
        after[s.start : s.stop] = new
    return after


def _merged(live: Row, old: Row, new: Row) -> Row:
    return Row(*(n if n != o else now for now, o, n in zip(live, old, new, strict=True)))


@st.composite
def edited(draw: st.DrawFn) -> tuple[View, Edit]:
    view = draw(any_views())
    return view, draw(edits(view))


# ---- apply, inverse, gather --------------------------------------------------------------------------


@given(edited())
def test_apply_is_list_splicing(case: tuple[View, Edit]) -> None:
    view, edit = case
    assert rows_of(edit.apply(view.tokens)) == naive_apply(rows_of(view.tokens), edit)


@given(edited(), st.data())
def test_apply_keeps_live_columns_that_the_edit_does_not_change(
    case: tuple[View, Edit], data: st.DataObject
) -> None:
    view, edit = case
    light = [data.draw(brightnesses) for _ in range(len(view.tokens))]
    live = view.tokens.replace(brightness=np.array(light, np.float32))
    assert rows_of(edit.apply(live)) == naive_apply(rows_of(live), edit)


@given(edited())
def test_inverse_restores_every_bit(case: tuple[View, Edit]) -> None:
    view, edit = case
    undo = edit.inverse()
    assert undo.base == edit.base + 1
    assert same_bits(undo.apply(edit.apply(view.tokens)), view.tokens)
    redo = undo.inverse()
    assert same_bits(redo.apply(view.tokens), edit.apply(view.tokens))


def test_what_left_comes_back_computed_and_what_was_restored_leaves() -> None:
    """An inverse holds no rows: births of it need a surgery that computes them."""
    gone, back = Splice(2, TEN[2:4], NOTHING), Splice(2, NOTHING, tokens_of(text(2, first_uid=50)))
    marker = Splice(2, TEN[2:3], tokens_of(text(2, first_uid=50)))
    assert _edit(gone, surgery=Surgery.DROP).inverse().surgery is Surgery.PATCH
    assert _edit(back, surgery=Surgery.RESTORE).inverse().surgery is Surgery.DROP
    assert _edit(marker, surgery=Surgery.RESTORE).inverse().surgery is Surgery.PATCH
    for surgery in (Surgery.PATCH, Surgery.RECOMPUTE):
        assert _edit(back, surgery=surgery).inverse().surgery is surgery


@given(edited())
def test_gather_follows_the_uid(case: tuple[View, Edit]) -> None:
    view, edit = case
    before = view.tokens.uid.tolist()
    after = edit.apply(view.tokens).uid.tolist()
    expected = [before.index(u) if u in before else BORN for u in after]
    assert edit.gather(len(before)).tolist() == expected
    assert sorted(edit.born_uids.tolist()) == sorted(set(after) - set(before))
    assert edit.growth == len(after) - len(before)


@given(edited())
def test_ids_agree_with_apply(case: tuple[View, Edit]) -> None:
    view, edit = case
    assert edit.ids(view.tokens.token_id).tolist() == edit.apply(view.tokens).token_id.tolist()


@given(edited())
def test_first_is_the_first_slot_whose_row_changes(case: tuple[View, Edit]) -> None:
    view, edit = case
    before, after = view.tokens.uid.tolist(), edit.apply(view.tokens).uid.tolist()
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    assert edit.first == (None if before == after else same)


@given(edited())
def test_what_an_edit_leaves_is_read_only_and_its_input_untouched(case: tuple[View, Edit]) -> None:
    view, edit = case
    before = rows_of(view.tokens)
    after = edit.apply(view.tokens)
    assert not after.uid.flags.writeable
    assert not after.brightness.flags.writeable
    assert rows_of(view.tokens) == before


def test_a_brightness_that_changed_since_survives_a_pin() -> None:
    view = view_of(text(6, brightness=10.0))
    pinned = view.tokens[2:4].replace(pinned=np.ones(2, np.bool_))
    edit = Edit(view.revision, view.tick, "pin", Surgery.DROP, (Splice(2, view.tokens[2:4], pinned),))
    live = view.tokens.replace(brightness=np.arange(6, dtype=np.float32))
    after = edit.apply(live)
    assert after.brightness.tolist() == [0, 1, 2, 3, 4, 5]
    assert after.pinned.tolist() == [False, False, True, True, False, False]
    assert edit.first is None
    assert edit.gather(6).tolist() == list(range(6))


@given(any_views(), st.data())
def test_deletion_is_one_splice_for_each_dead_run(view: View, data: st.DataObject) -> None:
    dead = np.array([data.draw(st.booleans()) for _ in range(len(view.tokens))], np.bool_)
    splices = deletion(view.tokens, dead)
    assert all(a.stop < b.start for a, b in itertools.pairwise(splices))
    after = Edit(0, 0, "", Surgery.DROP, splices).apply(view.tokens)
    assert rows_of(after) == [r for r, d in zip(rows_of(view.tokens), dead, strict=True) if not d]


# ---- edits that may not be ---------------------------------------------------------------------------


def _edit(*splices: Splice, surgery: Surgery = Surgery.PATCH) -> Edit:
    return Edit(0, 0, "test", surgery, splices)


TEN = tokens_of(text(10))


@pytest.mark.parametrize(
    "splices",
    [
        pytest.param([Splice(4, TEN[4:6], NOTHING), Splice(5, TEN[5:7], NOTHING)], id="overlap"),
        pytest.param([Splice(5, TEN[5:6], NOTHING), Splice(2, TEN[2:3], NOTHING)], id="unsorted"),
        pytest.param([Splice(-1, NOTHING, tokens_of(text(1, first_uid=50)))], id="negative"),
        pytest.param([Splice(2, TEN[2:4], TEN[2:4].take(np.array([1, 0])))], id="order"),
        pytest.param(
            [Splice(2, TEN[2:3], TEN[2:3].replace(token_id=np.array([99], np.int32)))], id="kept id changed"
        ),
        pytest.param([Splice(2, NOTHING, tokens_of([*text(1, first_uid=50)] * 2))], id="born twice"),
        pytest.param(
            [Splice(i, NOTHING, tokens_of(text(1, first_uid=50))) for i in (2, 4)], id="born in two splices"
        ),
        pytest.param([Splice(2, TEN[2:3], tokens_of([*text(1, first_uid=2)] * 2))], id="kept twice"),
    ],
)
def test_impossible_edits_cannot_be_made(splices: list[Splice]) -> None:
    with pytest.raises(InvalidEdit):
        _edit(*splices)


def test_a_birth_needs_a_surgery_that_computes_rows() -> None:
    with pytest.raises(InvalidEdit, match="PATCH"):
        _edit(Splice(2, NOTHING, tokens_of(text(1, first_uid=50))), surgery=Surgery.DROP)


@given(edited(), st.data())
def test_apply_refuses_another_context(case: tuple[View, Edit], data: st.DataObject) -> None:
    view, edit = case
    touched = [slot for s in edit.splices for slot in range(s.start, s.stop)]
    assume(touched)
    slot = data.draw(st.sampled_from(touched))
    for name in ("uid", "token_id"):
        column = getattr(view.tokens, name).copy()
        column[slot] += 1000
        with pytest.raises(InvalidEdit, match=str(slot)):
            edit.apply(view.tokens.replace(**{name: column}))
    with pytest.raises(InvalidEdit):
        edit.apply(view.tokens[: touched[-1]])


@given(any_views(min_rows=1), st.data())
def test_a_born_uid_may_not_be_alive(view: View, data: st.DataObject) -> None:
    alive = data.draw(st.sampled_from(view.tokens.uid.tolist()))
    slot = data.draw(st.integers(0, len(view.tokens)))
    edit = _edit(Splice(slot, NOTHING, tokens_of([data.draw(columns(alive))])))
    with pytest.raises(InvalidEdit, match="alive"):
        edit.apply(view.tokens)


def test_an_insertion_past_the_end_is_refused() -> None:
    edit = _edit(Splice(11, NOTHING, tokens_of(text(1, first_uid=50))))
    for act in (edit.apply, lambda t: edit.gather(len(t))):
        with pytest.raises(InvalidEdit, match="11"):
            act(TEN)


# ---- over: an edit after another one -----------------------------------------------------------------


def naive_over(before: list[Row], edit: Edit, later: Edit) -> list[Row] | None:
    """What `edit` leaves when `later` came first, found by uid; None where `later` was in its way."""
    live = naive_apply(before, later)
    where = {r.uid: slot for slot, r in enumerate(live)}
    uids = [r.uid for r in before]
    starts: list[int] = []
    for s in edit.splices:
        slots = [where.get(u) for u in uids[s.start : s.stop]]
        left = where.get(uids[s.start - 1]) if s.start else -1
        right = where.get(uids[s.start]) if s.start < len(uids) else len(live)
        if slots:
            if None in slots or slots != list(range(slots[0], slots[0] + len(slots))):
                return None
            starts.append(slots[0])
        elif left is not None:
            starts.append(left + 1)
        elif right is not None:
            starts.append(right)
        else:
            return None
    moved = tuple(Splice(at, s.old, s.new) for at, s in zip(starts, edit.splices, strict=True))
    return naive_apply(live, Edit(0, 0, "naive", edit.surgery, moved))


@given(st.data())
def test_over_equals_the_naive_result_or_conflicts(data: st.DataObject) -> None:
    view = data.draw(any_views(min_rows=3))
    edit = data.draw(edits(view, most=data.draw(st.integers(1, 2))))
    later = data.draw(edits(view, first_born=500, most=data.draw(st.integers(1, 2))))
    expected = naive_over(rows_of(view.tokens), edit, later)
    if expected is None:
        with pytest.raises(EditConflict):
            edit.over(later, len(view.tokens))
        return
    moved = edit.over(later, len(view.tokens))
    assert moved.base == edit.base + 1
    assert rows_of(moved.apply(later.apply(view.tokens))) == expected


def test_an_edit_that_stands_elsewhere_moves() -> None:
    later = _edit(Splice(1, TEN[1:3], NOTHING))
    edit = _edit(Splice(6, TEN[6:8], NOTHING))
    assert edit.over(later, 10).splices[0].start == 4
    assert later.over(edit, 10).splices[0].start == 1
    with pytest.raises(EditConflict):
        edit.over(_edit(Splice(7, TEN[7:8], NOTHING)), 10)
    with pytest.raises(EditConflict):
        edit.over(_edit(Splice(7, NOTHING, tokens_of(text(1, first_uid=50)))), 10)


def test_an_insertion_holds_on_to_its_left_neighbour_then_to_its_right_one() -> None:
    new = tokens_of([Row(60, 99, 1.0, 2, -1, False, 0)])
    before_5 = _edit(Splice(5, NOTHING, new))

    def where(later: Edit, edit: Edit = before_5) -> int:
        return edit.over(later, 10).apply(later.apply(TEN)).uid.tolist().index(60)

    more = tokens_of(text(2, first_uid=50))
    assert where(_edit(Splice(5, NOTHING, more))) == 5  # between 4 and what came there meanwhile
    assert where(_edit(Splice(5, TEN[5:6], NOTHING))) == 5
    assert where(_edit(Splice(4, TEN[4:5], NOTHING))) == 4
    assert where(_edit(Splice(4, TEN[4:5], more))) == 6
    with pytest.raises(EditConflict, match="5"):
        where(_edit(Splice(4, TEN[4:6], NOTHING)))
    at_start, at_end = _edit(Splice(0, NOTHING, new)), _edit(Splice(10, NOTHING, new))
    assert where(_edit(Splice(0, TEN[:3], NOTHING)), at_start) == 0
    assert where(_edit(Splice(8, TEN[8:], NOTHING)), at_end) == 8


def test_rebasing_never_gives_one_uid_to_two_tokens() -> None:
    """Two edits made for one view mint the same uid; if the first one's token dies, the second's must not
    take its name (`uid`: never given to another token)."""
    a = _edit(Splice(3, NOTHING, tokens_of([Row(10, 70, 1.0, 2, -1, False, 0)])))
    b = _edit(Splice(7, NOTHING, tokens_of([Row(10, 80, 1.0, 2, -1, False, 0)])))
    after_a = a.apply(TEN)
    kill = Edit(1, 0, "kill", Surgery.DROP, (Splice(3, after_a[3:4], NOTHING),))
    with pytest.raises(InvalidEdit):
        b.over(a, 10).over(kill, 11).apply(kill.apply(after_a))


def test_over_refuses_an_edit_of_another_revision() -> None:
    later = Edit(4, 0, "later", Surgery.DROP, (Splice(1, TEN[1:3], NOTHING),))
    with pytest.raises(InvalidEdit):
        _edit(Splice(6, TEN[6:8], NOTHING)).over(later, 10)


@given(edited(), st.data())
def test_an_undo_still_fits_after_tokens_were_appended(case: tuple[View, Edit], data: st.DataObject) -> None:
    view, edit = case
    tail = [data.draw(columns(700 + i)) for i in range(2)]
    after = Tokens.concat([edit.apply(view.tokens), tokens_of(tail)])
    undo = edit.inverse().shifted(edit.base + 2)
    assert undo.base == edit.base + 2
    assert same_bits(undo.apply(after), Tokens.concat([view.tokens, tokens_of(tail)]))


# ---- bytes and back ----------------------------------------------------------------------------------


@given(edited())
def test_bytes_round_trip(case: tuple[View, Edit]) -> None:
    _, edit = case
    back = Edit.from_bytes(edit.to_bytes())
    assert back.to_bytes() == edit.to_bytes()
    assert (back.base, back.tick, back.reason, back.surgery) == (
        edit.base,
        edit.tick,
        edit.reason,
        edit.surgery,
    )
    for a, b in zip(back.splices, edit.splices, strict=True):
        assert a.start == b.start
        assert same_bits(a.old, b.old)
        assert same_bits(a.new, b.new)


@given(st.text())
def test_any_reason_survives(reason: str) -> None:
    edit = Edit(0, 0, reason, Surgery.DROP, ())
    assert Edit.from_bytes(edit.to_bytes()).reason == reason


def test_a_lone_surrogate_in_the_reason_survives() -> None:
    edit = Edit(0, 0, "\ud83d", Surgery.DROP, ())
    assert Edit.from_bytes(edit.to_bytes()) == edit


@given(edited(), st.data())
def test_damaged_bytes_are_refused(case: tuple[View, Edit], data: st.DataObject) -> None:
    good = case[1].to_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "extend", "drop", "swap", "double"]))
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = bytearray(good)
    if kind == "flip":
        damaged[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del damaged[at:]
    elif kind == "extend":
        damaged += data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "drop":
        del damaged[at : at + data.draw(st.integers(1, 9))]
    elif kind == "swap":
        other = data.draw(st.integers(0, len(good) - 1))
        damaged[at], damaged[other] = damaged[other], damaged[at]
    else:
        damaged += good
    assume(bytes(damaged) != good)
    with pytest.raises(InvalidEdit):
        Edit.from_bytes(bytes(damaged))


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, b"HWE1" + noise):
        with pytest.raises(InvalidEdit):
            Edit.from_bytes(data)


def seal(head: bytes, columns: bytes = b"", head_len: int | None = None) -> bytes:
    """A record whose checksum is right, whatever it says."""
    body = b"HWE1" + struct.pack("<I", len(head) if head_len is None else head_len) + head + columns
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.fixture(scope="module")
def unchecked() -> ModuleType:
    """`edit.py` without the type-checking hook of the tests: what runs in production."""
    spec = importlib.util.spec_from_file_location("unchecked_edit", haloweave.memory.edit.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["unchecked_edit"] = module
    spec.loader.exec_module(module)
    return module


def head(**changes: object) -> bytes:
    good = {"base": 1, "tick": 2, "reason": "r", "surgery": "drop", "splices": []}
    return json.dumps({**good, **changes}).encode()


def test_a_resealed_good_record_is_read(unchecked: ModuleType) -> None:
    assert unchecked.Edit.from_bytes(seal(head())).base == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(seal(b""), id="no head"),
        pytest.param(seal(b"[]"), id="list"),
        pytest.param(seal(b"7"), id="number"),
        pytest.param(seal(b"null"), id="null"),
        pytest.param(seal(b'"base"'), id="string"),
        pytest.param(seal(b"{}"), id="nothing in it"),
        pytest.param(seal(b"\xff\xfe{"), id="not utf-8"),
        pytest.param(seal(b"[" * 200_000), id="nested too deep"),
        pytest.param(seal(head(), head_len=0xFFFFFFF0), id="absurd length"),
        pytest.param(seal(head(), b"\0"), id="a byte of columns too many"),
        pytest.param(seal(head(splices=[[0, 1, 0]])), id="columns missing"),
        pytest.param(seal(head(splices=[[0, 10**30, 0]])), id="huge count"),
        pytest.param(seal(head(splices=[[0, -1, 1]])), id="negative count"),
        pytest.param(seal(head(splices=[[0, 0]])), id="two of three"),
        pytest.param(seal(head(splices=7)), id="splices a number"),
        pytest.param(seal(head(splices=[[-1, 0, 0]])), id="negative start"),
        pytest.param(seal(head(splices=[["a", 0, 0]])), id="start a string"),
        pytest.param(seal(head(splices=[[1.5, 0, 0]])), id="start a fraction"),
        pytest.param(seal(head(splices=[[float("nan"), 0, 0]])), id="start nan"),
        pytest.param(seal(head(splices=[[True, 0, 0]])), id="start a bool"),
        pytest.param(seal(head(surgery="bogus")), id="unknown surgery"),
        pytest.param(seal(head(surgery=[])), id="surgery a list"),
        pytest.param(seal(head(base="one")), id="base a string"),
        pytest.param(seal(head(base=None)), id="base missing"),
        pytest.param(seal(head(base=1.5)), id="base a fraction"),
        pytest.param(seal(head(tick="one")), id="tick a string"),
        pytest.param(seal(head(reason=7)), id="reason a number"),
    ],
)
def test_a_record_that_lies_under_a_right_checksum_is_refused(data: bytes, unchecked: ModuleType) -> None:
    with pytest.raises(InvalidEdit):
        unchecked.Edit.from_bytes(data)


@given(edited(), st.data())
def test_a_resealed_mutation_is_an_edit_or_refused(case: tuple[View, Edit], data: st.DataObject) -> None:
    body = bytearray(case[1].to_bytes()[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(4, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = Edit.from_bytes(bytes(body) + struct.pack("<I", zlib.crc32(body)))
    except InvalidEdit:
        return
    assert isinstance(back, Edit)
