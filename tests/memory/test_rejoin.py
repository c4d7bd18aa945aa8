# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Equal length, fewer gaps, and nothing fixed changes its fate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_strategies import contexts

from haloweave.errors import InvalidInput
from haloweave.memory.cull import DimmestFirst, runs
from haloweave.memory.laws import Laws
from haloweave.memory.plan import Marker, plan
from haloweave.memory.rejoin import Rejoined, rejoined
from haloweave.memory.tokens import View

NOBODY = np.zeros(0, np.bool_)


def mask(drawn: str) -> np.ndarray:
    """`x` is dead."""
    return np.array([c == "x" for c in drawn])


def drawn(dead: np.ndarray) -> str:
    return "".join("x" if d else "o" for d in dead)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("oooxoooxxxxoxxxxooo", "oooooooxxxxxxxxxooo"),  # one speck pays for one gap
        ("oooxxxxxooo", "oooxxxxxooo"),  # nothing to pay with
        ("ooooooo", "ooooooo"),
        ("xxxxxxx", "xxxxxxx"),
        ("oooxxooxxxxoxxxxooo", "oooxxooxxxxxxxxxooo"),  # too poor for the gap of two ...
    ],
)
def test_specks_pay_for_the_smallest_gaps(before: str, after: str) -> None:
    dead = mask(before)
    light = np.where(dead, 1.0, 9.0)
    got = rejoined(dead, light, np.zeros(len(dead), np.bool_), speck=1)
    if before == "oooxxooxxxxoxxxxooo":
        assert drawn(got) in {"ooooxooxxxxxxxxxooo", "oooxoooxxxxxxxxxooo"}  # ... so its edge is spared
    else:
        assert drawn(got) == after


def test_the_dimmest_speck_and_the_brightest_gap() -> None:
    dead = mask("ooxooxooxxxoxxxoo")
    light = np.where(dead, 1.0, 9.0)
    light[5] = 3.0
    got = rejoined(dead, light, np.zeros(len(dead), np.bool_), speck=1)
    assert drawn(got) == "ooxooooo" + "xxxxxxx" + "oo"


@given(st.data())
def test_equal_length_fewer_gaps_and_the_fixed_keep_their_fate(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 60))
    bits = st.lists(st.booleans(), min_size=size, max_size=size)
    dead, fixed = np.array(data.draw(bits), np.bool_), np.array(data.draw(bits), np.bool_)
    light = np.array(data.draw(st.lists(st.floats(0, 255, width=32), min_size=size, max_size=size)))
    speck = data.draw(st.integers(0, 4))
    before = dead.copy()
    got = rejoined(dead, light, fixed, speck=speck)
    assert got.sum() == dead.sum()
    assert np.array_equal(got[fixed], dead[fixed])
    assert np.array_equal(dead, before)
    assert np.array_equal(got, rejoined(dead, light, fixed, speck=speck))
    if not fixed.any():
        assert len(runs(got)) <= len(runs(dead))


@given(contexts, st.integers(0, 40))
def test_a_rejoined_choice_is_lawful_and_as_large(view: View, n: int) -> None:
    laws = Laws(sinks=2, tail=3)
    plain = DimmestFirst(laws)
    wrapped = Rejoined(plain, laws)
    choice, again = plain.choose(view, n), wrapped.choose(view, n)
    assert len(choice) == len(again)
    plan(view, again, laws=laws, marker=Marker())  # raises Protected if a law is broken


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput, match="columns of one length"):
        rejoined(np.zeros(3, np.bool_), np.zeros(2), np.zeros(3, np.bool_))
    with pytest.raises(InvalidInput, match="speck"):
        rejoined(NOBODY, np.zeros(0), NOBODY, speck=-1)
