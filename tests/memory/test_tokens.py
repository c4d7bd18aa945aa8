# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Tokens: columns that agree, read-only, and looked up by uid."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_strategies import any_views, rows_of, same_bits, text, tokens_of

from haloweave.errors import InvalidInput
from haloweave.memory.tokens import COLUMNS, FULL, NO_UNIT, AttentionSample, Source, Tokens, View


@given(any_views())
def test_columns_are_read_only(view: View) -> None:
    t = view.tokens
    made = [t, t[1:3], t.take(np.zeros(0, np.int64)), t.replace(), Tokens.concat([t, t]), Tokens.empty()]
    for tokens in made:
        assert not any(getattr(tokens, name).flags.writeable for name in COLUMNS)


@given(any_views(), st.data())
def test_slots_of_equals_a_look_through_the_list(view: View, data: st.DataObject) -> None:
    uids = [r.uid for r in rows_of(view.tokens)]
    wanted = data.draw(st.lists(st.sampled_from(uids))) if uids else []
    assert view.tokens.slots_of(wanted).tolist() == sorted({uids.index(u) for u in wanted})
    with pytest.raises(InvalidInput, match="100"):
        view.tokens.slots_of([*wanted, 100])


@given(any_views(), any_views())
def test_concat_slice_and_take_are_those_of_lists(a: View, b: View) -> None:
    joined = Tokens.concat([a.tokens, b.tokens])
    rows = rows_of(a.tokens) + rows_of(b.tokens)
    assert rows_of(joined) == rows
    assert rows_of(joined[2:5]) == rows[2:5]
    assert rows_of(joined.take(np.arange(len(rows))[::-1])) == rows[::-1]
    assert rows_of(joined.take(joined.pinned)) == [r for r in rows if r.pinned]
    assert same_bits(tokens_of(rows), joined)


@given(any_views(min_rows=1), st.sampled_from(sorted(COLUMNS)), st.data())
def test_equality_sees_every_column(view: View, name: str, data: st.DataObject) -> None:
    t = view.tokens
    column = getattr(t, name).copy()
    slot = data.draw(st.integers(0, len(t) - 1))
    column[slot] = not column[slot] if name == "pinned" else (17 if column[slot] != 17 else 18)
    assert t == t.replace()
    assert t != t.replace(**{name: column})
    assert t != t[1:]
    assert t != "tokens"


def test_make_counts_uids_and_fills_the_rest() -> None:
    made = Tokens.make([7, 8], first_uid=3, source=Source.USER, brightness=9.0, tick=2, unit=4, pinned=True)
    assert [tuple(r) for r in rows_of(made)] == [(3, 7, 9.0, 1, 4, True, 2), (4, 8, 9.0, 1, 4, True, 2)]
    assert Tokens.make([7], first_uid=0, source=Source.USER).unit.tolist() == [NO_UNIT]


@pytest.mark.parametrize("unit", [2**31, -2])
def test_a_unit_that_no_column_holds_is_refused(unit: int) -> None:
    with pytest.raises(InvalidInput, match="unit"):
        Tokens.make([7], first_uid=0, source=Source.USER, unit=unit)


@pytest.mark.parametrize("brightness", [float("nan"), float("inf"), -0.5, FULL + 0.5])
def test_make_refuses_an_impossible_brightness(brightness: float) -> None:
    with pytest.raises(InvalidInput, match="brightness"):
        Tokens.make([1], first_uid=0, source=Source.USER, brightness=brightness)


@pytest.mark.parametrize("token_id", [2**31, 2**70, -(2**31) - 1])
def test_make_refuses_an_id_that_no_column_can_hold(token_id: int) -> None:
    with pytest.raises(InvalidInput):
        Tokens.make([token_id], first_uid=0, source=Source.USER)


def test_make_does_not_freeze_or_share_the_callers_array() -> None:
    ids = np.array([1, 2], np.int32)
    made = Tokens.make(ids, first_uid=0, source=Source.USER)
    ids[0] = 9
    assert made.token_id.tolist() == [1, 2]


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_columns_of_another_length_or_type_are_refused(name: str) -> None:
    good = tokens_of(text(3))
    column = getattr(good, name)
    # The jaxtyping hook of the tests sees them first; without it the constructor raises InvalidInput.
    with pytest.raises((InvalidInput, jaxtyping.TypeCheckError)):
        good.replace(**{name: column[:2]})
    with pytest.raises((InvalidInput, jaxtyping.TypeCheckError)):
        good.replace(**{name: column.astype(np.complex128)})


@pytest.mark.parametrize("queries", [-1, 0, 4])
def test_a_sample_has_between_one_query_and_as_many_as_rows(queries: int) -> None:
    x = np.ones(3, np.float32)
    with pytest.raises(InvalidInput, match="queries"):
        AttentionSample(x, x, x, queries)


def test_axis_annotations_are_checked_in_tests() -> None:
    t = tokens_of(text(3))
    with pytest.raises(jaxtyping.TypeCheckError):
        AttentionSample(np.ones(3, np.float32), np.ones(2, np.float32), np.ones(3, np.float32), 1)
    with pytest.raises(jaxtyping.TypeCheckError):
        View(t, "revision", 0, 3)  # type: ignore[arg-type]
