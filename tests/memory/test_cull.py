# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Who dies, against sorted Python objects; and who never may."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_strategies import Row, chats, contexts, renumbered, rows_of, streams, text, view_of

from haloweave.errors import InvalidInput
from haloweave.memory.cull import DimmestFirst, dark_run, local_entropy
from haloweave.memory.laws import Laws, hollow_turns, spread
from haloweave.memory.smoothing import smoothed
from haloweave.memory.tokens import FULL, NO_UNIT, Source, Tokens, View

FREE = Laws(sinks=0, tail=0, lock=300.0)
CONTROL = int(Source.CONTROL)
MARKER = int(Source.MARKER)

laws = st.builds(
    Laws, sinks=st.integers(0, 4), tail=st.integers(0, 6), lock=st.sampled_from([0.0, 250.0, 256.0])
)


# ---- the laws, slowly --------------------------------------------------------------------------------


def with_units(rows: list[Row], slots: set[int]) -> set[int]:
    units = {rows[s].unit for s in slots} - {NO_UNIT}
    return slots | {s for s, r in enumerate(rows) if r.unit in units}


def naive_untouchable(rows: list[Row], laws: Laws) -> set[int]:
    n = len(rows)
    alone = {
        s
        for s, r in enumerate(rows)
        if s < laws.sinks
        or s >= n - laws.tail
        or r.pinned
        or (r.source != CONTROL and r.brightness >= laws.lock)
    }
    return with_units(rows, alone)


def hollow(tokens: Tokens) -> np.ndarray:
    """Control tokens of hollow turns."""
    return (hollow_turns(tokens) != NO_UNIT) & (tokens.source == CONTROL)


def naive_hollow(rows: list[Row]) -> set[int]:
    return {s for s in naive_turns(rows) if rows[s].source == CONTROL}


def naive_turns(rows: list[Row]) -> dict[int, int]:
    """Slots of hollow turns, markers included, with the turn's unit. The last turn is never hollow."""
    frames = [r.unit for r in rows if r.source == CONTROL and r.unit != NO_UNIT]
    turns: dict[int, int] = {}
    for unit in sorted(set(frames) - set(frames[-1:])):
        frame = [s for s, r in enumerate(rows) if r.source == CONTROL and r.unit == unit]
        if all(r.source in (CONTROL, MARKER) for r in rows[frame[0] : frame[-1] + 1]):
            turns |= dict.fromkeys(frame, unit)
            span = range(frame[0], frame[-1] + 1)
            turns |= {s: unit for s in span if rows[s].source == MARKER}
    return turns


def naive_eligible(rows: list[Row], laws: Laws) -> set[int]:
    out, turns = naive_untouchable(rows, laws), naive_turns(rows)
    barred = {turns[s] for s in out if s in turns}
    loose = {s for s, unit in turns.items() if unit not in barred}
    return {
        s for s, r in enumerate(rows) if s not in out and (r.source not in (CONTROL, MARKER) or s in loose)
    }


@given(contexts, laws)
def test_untouchable_equals_a_loop(view: View, laws: Laws) -> None:
    rows = rows_of(view.tokens)
    assert set(np.flatnonzero(laws.untouchable(view.tokens)).tolist()) == naive_untouchable(rows, laws)


@given(contexts)
def test_hollow_equals_a_loop(view: View) -> None:
    assert set(np.flatnonzero(hollow(view.tokens)).tolist()) == naive_hollow(rows_of(view.tokens))


@given(contexts, st.data())
def test_spread_marks_whole_units(view: View, data: st.DataObject) -> None:
    marked = np.array([data.draw(st.booleans()) for _ in range(len(view.tokens))], np.bool_)
    got = set(np.flatnonzero(spread(view.tokens, marked)).tolist())
    assert got == with_units(rows_of(view.tokens), set(np.flatnonzero(marked).tolist()))


@pytest.mark.parametrize("fields", [{"sinks": -1}, {"tail": -1}, {"lock": -1.0}, {"lock": float("nan")}])
def test_senseless_laws_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        Laws(**fields)


def turn(text_rows: list[Row], unit: int, *, closed: bool = True) -> list[Row]:
    frame = text(1, brightness=FULL, source=Source.CONTROL, unit=unit)
    return [*frame, *frame, *text_rows, *(frame if closed else [])]


def test_an_open_turn_is_not_hollow() -> None:
    """The turn being written has no closing control token yet, but says something."""
    rows = renumbered(turn(text(3), 0), turn(text(200), 1, closed=False))
    assert not hollow(view_of(rows).tokens).any()
    choice = DimmestFirst(Laws(sinks=2, tail=16)).choose(view_of(rows), 8)
    sources = [rows[u].source for u in choice.uids.tolist()]
    assert CONTROL not in sources


def test_a_hollow_turn_is_found_between_turns_that_speak() -> None:
    empty = turn(text(2, source=Source.MARKER, unit=9), 1)
    rows = renumbered(turn(text(3), 0), empty, turn(text(1), 2))
    assert np.flatnonzero(hollow(view_of(rows).tokens)).tolist() == [6, 7, 10]


# ---- choose ------------------------------------------------------------------------------------------


def naive_priority(view: View, policy: DimmestFirst) -> list[float]:
    """The docstring of DimmestFirst; control tokens only die hollow, and count for nothing in a mean."""
    rows = rows_of(view.tokens)
    n, half = len(rows), policy.smooth // 2
    out: list[float] = []
    for s, r in enumerate(rows):
        near = [rows[i] for i in range(max(s - half, 0), min(s + half + 1, n))]
        said = [q.brightness for q in near if q.source != CONTROL]
        score = math.fsum(said) / max(len(said), 1)
        score -= policy.run * math.log1p(naive_run([q.brightness < policy.dark for q in rows], s))
        score += policy.entropy * naive_entropy([q.token_id for q in rows], s, policy.entropy_window)
        score -= policy.age * math.log1p(view.next_uid - r.uid)
        out.append(-math.inf if r.source == CONTROL else score)
    return out


def naive_run(dark: list[bool], slot: int) -> int:
    if not dark[slot]:
        return 0
    a = b = slot
    while a > 0 and dark[a - 1]:
        a -= 1
    while b + 1 < len(dark) and dark[b + 1]:
        b += 1
    return b - a + 1


def naive_entropy(ids: list[int], slot: int, window: int) -> float:
    half = window // 2
    near = ids[max(slot - half, 0) : slot - half + window]
    shares = [count / len(near) for count in Counter(near).values()]
    return -math.fsum(p * math.log(p) for p in shares)


def naive_items(
    rows: list[Row], slots: set[int], score: list[float], units: str = "mean"
) -> list[tuple[float, int, list[int]]]:
    """What dies together, dimmest first, ties to the older: (score, first slot, slots)."""
    groups: dict[object, list[int]] = {}
    turns = naive_turns(rows)
    for s in sorted(slots):
        unit = turns.get(s, rows[s].unit)
        groups.setdefault(("alone", s) if unit == NO_UNIT else unit, []).append(s)
    return sorted((naive_light([score[s] for s in g], units), g[0], g) for g in groups.values())


def naive_light(scores: list[float], units: str) -> float:
    """Of a unit, from those of its tokens; control tokens have none."""
    finite = [s for s in scores if math.isfinite(s)]
    if not finite:
        return -math.inf
    return max(finite) if units == "max" else sum(finite) / len(finite)


@given(contexts, laws, st.integers(0, 40))
def test_choose_equals_sorted_objects(view: View, laws: Laws, n: int) -> None:
    rows = rows_of(view.tokens)
    score = [-math.inf if r.source == CONTROL else r.brightness for r in rows]
    expected: list[int] = []
    for _, _, slots in naive_items(rows, naive_eligible(rows, laws), score):
        if len(expected) >= n:
            break
        expected += slots
    choice = DimmestFirst(laws).choose(view, n)
    assert choice.uids.tolist() == [rows[s].uid for s in sorted(expected)]
    assert len(choice) == len(expected)


policies = st.builds(
    DimmestFirst,
    laws=laws,
    smooth=st.sampled_from([1, 3, 15]),
    run=st.sampled_from([0.0, 20.0, -20.0]),
    entropy=st.sampled_from([0.0, 30.0, -30.0]),
    entropy_window=st.sampled_from([1, 4, 9]),
    age=st.sampled_from([0.0, 15.0, -15.0]),
    units=st.sampled_from(["mean", "max"]),
)


@given(streams(), policies, st.integers(1, 20))
def test_choose_takes_the_lowest_priorities_and_no_more_than_needed(
    view: View, policy: DimmestFirst, n: int
) -> None:
    rows = rows_of(view.tokens)
    items = naive_items(rows, naive_eligible(rows, policy.laws), naive_priority(view, policy), policy.units)
    dead = set(policy.choose(view, n).uids.tolist())
    taken = [i for i in items if rows[i[1]].uid in dead]
    left = [i for i in items if rows[i[1]].uid not in dead]
    assert dead == {rows[s].uid for i in taken for s in i[2]}
    if taken and left:
        assert max(i[0] for i in taken) <= min(i[0] for i in left) + 1e-6
    if taken:
        last = max(taken)
        brink = [i for i in taken if i[0] >= last[0] - 1e-6]
        assert len(dead) - max(len(i[2]) for i in brink) < n


@given(st.one_of(streams(), chats()), policies, st.integers(0, 40))
def test_choose_keeps_the_laws(view: View, policy: DimmestFirst, n: int) -> None:
    rows = rows_of(view.tokens)
    free = naive_eligible(rows, policy.laws)
    choice = policy.choose(view, n)
    slots = {s for s, r in enumerate(rows) if r.uid in set(choice.uids.tolist())}
    assert slots <= free
    assert len(slots) == len(choice)
    assert len(slots) >= min(n, len(free))
    assert with_units(rows, slots) == slots
    assert policy.choose(view, n).uids.tolist() == choice.uids.tolist()


@given(chats(), policies, st.integers(1, 20))
def test_hollow_turns_go_first(view: View, policy: DimmestFirst, n: int) -> None:
    rows = rows_of(view.tokens)
    turns, free = naive_turns(rows), naive_eligible(rows, policy.laws)
    marked = {turns[s] for s in turns if rows[s].source == MARKER}
    empty = {rows[s].uid for s in free if rows[s].source == CONTROL and turns[s] not in marked}
    dead = set(policy.choose(view, n).uids.tolist())
    assert empty <= dead or dead <= empty


@pytest.mark.parametrize("policy", [DimmestFirst(FREE), DimmestFirst(FREE, smooth=3, age=9.0)])
def test_a_hollow_turn_goes_before_the_darkest_text(policy: DimmestFirst) -> None:
    rows = renumbered(text(4, brightness=0.0), turn([], 1), turn(text(2, brightness=0.0), 2))
    assert policy.choose(view_of(rows), 1).uids.tolist() == [4, 5, 6]


@pytest.mark.parametrize("n", [-1, -(10**9)])
def test_a_negative_count_is_refused(n: int) -> None:
    with pytest.raises(InvalidInput, match=str(n)):
        DimmestFirst().choose(view_of(text(9)), n)


def test_nothing_to_choose_from() -> None:
    everything_pinned = view_of(text(9, pinned=True))
    for view in (view_of([]), everything_pinned, view_of(text(3))):
        assert len(DimmestFirst(Laws(sinks=4, tail=0)).choose(view, 5)) == 0
    assert len(DimmestFirst(FREE).choose(view_of(text(9)), 0)) == 0
    assert len(DimmestFirst(FREE).choose(view_of(text(9)), 10**12)) == 9


@pytest.mark.parametrize("policy", [DimmestFirst(smooth=3), DimmestFirst(run=1.0), DimmestFirst(entropy=1.0)])
def test_an_empty_context_has_an_empty_priority(policy: DimmestFirst) -> None:
    assert policy.priority(view_of([])).shape == (0,)


@pytest.mark.parametrize(
    "fields",
    [
        {"smooth": 0},
        {"smooth": 2},
        {"smooth": -1},
        {"entropy_window": 0},
        *[{name: bad} for name in ("run", "entropy", "age", "dark") for bad in (math.nan, math.inf)],
    ],
)
def test_senseless_fields_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        DimmestFirst(**fields)


# ---- what the biases do ------------------------------------------------------------------------------


def dies_first(policy: DimmestFirst, rows: list[Row]) -> int:
    return int(policy.choose(view_of(rows), 1).uids[0])


def test_ties_fall_to_the_older() -> None:
    for smooth in (1, 3, 15):
        policy = DimmestFirst(FREE, smooth=smooth)
        assert policy.choose(view_of(text(30, brightness=0.1)), 7).uids.tolist() == list(range(7))


def test_a_unit_stands_as_bright_as_its_tokens_on_average_or_at_most() -> None:
    rows = renumbered(
        text(3, brightness=[0.0, 0.0, 90.0], unit=1, source=Source.LOG), text(3, brightness=50.0)
    )
    assert dies_first(DimmestFirst(FREE), rows) == 0
    assert dies_first(DimmestFirst(FREE, units="max"), rows) == 3
    for policy in (DimmestFirst(FREE), DimmestFirst(FREE, units="max")):
        assert policy.choose(view_of(rows), 4).uids.tolist() == (
            [0, 1, 2, 3] if policy.units == "mean" else [0, 1, 2, 3, 4, 5]
        )


def test_run_prefers_long_dark_runs() -> None:
    light = [10.0, 200, 200, 11, 11, 11, 11, 200]
    rows = text(8, brightness=light)
    assert dies_first(DimmestFirst(FREE), rows) == 0
    assert dies_first(DimmestFirst(FREE, run=5.0), rows) == 3
    assert dies_first(DimmestFirst(FREE, run=-5.0), rows) == 0


def test_entropy_has_both_signs() -> None:
    ids = [7] * 10 + list(range(20, 30))
    rows = [r._replace(token_id=i) for r, i in zip(text(20), ids, strict=True)]
    assert dies_first(DimmestFirst(FREE, entropy=5.0), rows) < 9  # order dies first
    assert dies_first(DimmestFirst(FREE, entropy=-5.0), rows) >= 10  # disorder dies first


def test_age_makes_the_old_die() -> None:
    rows = text(8, brightness=[60.0] * 4 + [59.0] * 4)
    assert dies_first(DimmestFirst(FREE), rows) == 4
    assert dies_first(DimmestFirst(FREE, age=5.0), rows) == 0
    assert dies_first(DimmestFirst(FREE, age=-50.0), rows) == 7


def test_smoothing_lets_dark_areas_die_together() -> None:
    rows = text(9, brightness=[200.0, 5, 200, 200, 20, 20, 20, 200, 200])
    assert dies_first(DimmestFirst(FREE), rows) == 1
    assert dies_first(DimmestFirst(FREE, smooth=3), rows) == 5


def test_smoothing_does_not_make_the_neighbours_of_a_frame_die() -> None:
    """Control tokens of a turn that speaks are no darkness: bright words beside them outlive dim ones."""
    said = [200.0] * 3 + [10.0] * 7 + [200.0] * 3
    rows = renumbered(turn(text(13, brightness=said), 0))
    assert dies_first(DimmestFirst(FREE, smooth=3), rows) in range(5, 12)


# ---- the vectorised parts ----------------------------------------------------------------------------


@given(st.lists(st.floats(0, 255, width=32), max_size=40), st.sampled_from([1, 3, 5, 15]))
def test_smoothed_equals_a_loop(x: list[float], width: int) -> None:
    half = width // 2
    naive = [
        math.fsum(x[max(i - half, 0) : i + half + 1]) / len(x[max(i - half, 0) : i + half + 1])
        for i in range(len(x))
    ]
    assert smoothed(np.array(x, np.float64), width).tolist() == pytest.approx(naive, abs=1e-9)


@given(st.lists(st.booleans(), max_size=40))
def test_dark_run_equals_a_loop(dark: list[bool]) -> None:
    got = dark_run(np.array(dark, np.bool_)).tolist()
    assert got == [naive_run(dark, i) for i in range(len(dark))]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 12))
def test_local_entropy_equals_a_loop(ids: list[int], window: int) -> None:
    got = local_entropy(np.array(ids, np.int32), window).tolist()
    assert got == pytest.approx([naive_entropy(ids, i, window) for i in range(len(ids))], abs=1e-9)
