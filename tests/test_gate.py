# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The gate lets through what the host finds better, by sums a person can check; and what the host proposes
of itself wins what it says it wins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fake_scorer import FakeScorer
from hypothesis import given
from hypothesis import strategies as st

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, RepairWindow, Scorer, replaced
from haloweave.repair.batch import CulledToken, diffs
from haloweave.repair.contract import examine
from haloweave.repair.diff import applied, repair
from haloweave.repair.gate import Gated, GateStats, gain
from haloweave.repair.selfscore import SelfRepairer

V = 12
SCORER = FakeScorer(V)


def proposal(window: RepairWindow, start: int, stop: int, new: Sequence[int], gain: float = 0.0) -> Proposal:
    return Proposal(window.uid[start:stop], np.array(new, np.int32), gain)


class Offering:
    """A repairer that always offers the same."""

    def __init__(self, *offered: Proposal) -> None:
        self.offered = offered

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        return self.offered


def total(ids: Sequence[int] | np.ndarray) -> float:
    return float(SCORER.logprobs([int(i) for i in ids]).sum())


def improves(
    window: RepairWindow, offered: Proposal, margin: float = 0.0, right: int = 50
) -> Proposal | None:
    passed = Gated(Offering(offered), SCORER, stumble=0.0, sight=0, margin=margin, right=right).propose(
        [window]
    )
    return passed[0] if passed else None


ids = st.lists(st.integers(0, V - 1), min_size=3, max_size=14)


@given(ids, st.data())
def test_a_substitution_passes_if_the_whole_text_becomes_likelier(
    text: list[int], data: st.DataObject
) -> None:
    window = RepairWindow.of(text, np.ones(len(text)))
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.integers(0, V - 1))
    won = total(replaced(window, slice(at, at + 1), np.array([new]))) - total(text)
    passed = improves(window, proposal(window, at, at + 1, [new]))
    if abs(won) > 1e-3:
        assert (passed is not None) == (won > 0)
    if passed is not None:
        assert passed.gain == pytest.approx(won, abs=1e-3)


@given(ids, st.data())
def test_a_deletion_passes_only_if_it_helps_what_follows(text: list[int], data: st.DataObject) -> None:
    window = RepairWindow.of(text, np.ones(len(text)))
    at = data.draw(st.integers(0, len(text) - 1))
    after = text[at + 1 :]
    won = float(SCORER.logprobs(after, text[:at]).sum() - SCORER.logprobs(after, text[: at + 1]).sum())
    passed = improves(window, proposal(window, at, at + 1, []))
    if abs(won) > 1e-3:
        assert (passed is not None) == (won > 0)


def test_being_short_wins_nothing() -> None:
    old = np.log(np.array([0.5, 0.5, 0.5, 0.9]))
    one = np.log(np.array([0.5, 0.9]))
    assert gain(old, one, right=1) == pytest.approx(0.0)  # a third as long, as likely token by token


def test_an_insertion_pays_for_itself() -> None:
    assert gain(np.log([0.5]), np.log([0.4, 0.9]), right=1) == pytest.approx(np.log(0.4 * 0.9 / 0.5))


def test_margin_is_what_must_be_won() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8]
    window = RepairWindow.of(text, np.ones(8))
    best = max(range(V), key=lambda n: total([*text[:3], n, *text[4:]]))
    offered = proposal(window, 3, 4, [best])
    passed = improves(window, offered)
    assert passed is not None
    assert improves(window, offered, margin=passed.gain - 0.01) is not None
    assert improves(window, offered, margin=passed.gain + 0.01) is None


def test_only_the_right_context_that_was_asked_for_counts() -> None:
    text = [3, 1, 4, 1, 5, 9, 2, 6]
    window = RepairWindow.of(text, np.ones(8))
    offered = proposal(window, 2, 3, [7])
    near = float(SCORER.logprobs([7, 1], [3, 1]).sum() - SCORER.logprobs([4, 1], [3, 1]).sum())
    gate = Gated(Offering(offered), SCORER, stumble=0.0, sight=0, margin=0.0, right=1)
    assert (len(gate.propose([window])) == 1) == (near > 0)


@given(st.data())
def test_of_overlapping_ones_the_best_passes_and_gains_add_up(data: st.DataObject) -> None:
    text = data.draw(st.lists(st.integers(0, V - 1), min_size=4, max_size=12))
    window = RepairWindow.of(text, np.ones(len(text)))
    offered = [
        proposal(window, at, at + 1, [data.draw(st.integers(0, V - 1))], gain=data.draw(st.floats(-1, 1)))
        for at in data.draw(st.lists(st.integers(0, len(text) - 1), max_size=8))
    ]
    gate = Gated(Offering(*offered), SCORER, stumble=0.0, sight=0, margin=0.0, right=50)
    passed = gate.propose([window])
    assert len({int(p.uid[0]) for p in passed}) == len(passed)
    after = np.array(text)
    for p in passed:
        after[int(p.uid[0])] = p.new_ids[0]
    assert total(after) - total(text) == pytest.approx(sum(p.gain for p in passed), abs=1e-3)
    assert gate.stats.judged == len(offered)
    assert gate.stats.accepted == len(passed)
    assert gate.stats.gain == pytest.approx(sum(p.gain for p in passed))


def test_the_doomed_are_not_read() -> None:
    text, doomed = [1, 2, 3, 4, 5], np.array([False, True, True, False, False])
    window = RepairWindow.of(text, np.ones(5), doomed=doomed)
    passed = improves(window, proposal(window, 1, 3, [7]))
    won = total([1, 7, 4, 5]) - total([1, 4, 5])
    assert (passed is not None) == (won > 0)


def test_proposals_of_another_window_are_left_out() -> None:
    window = RepairWindow.of([1, 2, 3], np.ones(3))
    stranger = Proposal(np.array([77]), np.array([1], np.int32), 9.0)
    assert Gated(Offering(stranger), SCORER).propose([window]) == ()


def test_edges_are_not_judged() -> None:
    text = np.random.default_rng(5).integers(0, V, 30).tolist()
    window = RepairWindow.of(text, np.ones(30))
    offered = [proposal(window, at, at + 1, [n]) for at in range(30) for n in range(V) if n != text[at]]
    gate = Gated(Offering(*offered), SCORER, margin=0.0, stumble=0.0, sight=7)
    own = SelfRepairer(SCORER, margin=0.0, stumble=0.0, sight=7, delete=False)
    for found in (gate.propose([window]), own.propose([window])):
        assert found
        assert all(7 <= int(p.uid[0]) < 23 for p in found)


def test_stats_add_up() -> None:
    both = GateStats(4, 1, 2.0, 0.5) + GateStats(4, 3, 1.0, 0.5)
    assert both == GateStats(8, 4, 3.0, 1.0)
    assert both.acceptance == 0.5
    assert GateStats().acceptance == 0.0


@given(ids, st.data())
def test_what_does_not_surprise_stays(text: list[int], data: st.DataObject) -> None:
    window = RepairWindow.of(text, np.ones(len(text)))
    at = data.draw(st.integers(0, len(text) - 1))
    bar = data.draw(st.floats(0.5, 12))
    there = -float(SCORER.logprobs(text[at : at + 1], text[:at])[0])
    offered = [proposal(window, at, at + 1, [n]) for n in range(V) if n != text[at]]
    passed = Gated(Offering(*offered), SCORER, margin=0.0, stumble=bar, sight=0).propose([window])
    own = SelfRepairer(SCORER, margin=0.0, stumble=bar, sight=0, candidates=V, delete=False)
    locked = window.locking(np.arange(len(text)) != at)
    if abs(there - bar) > 1e-3 and there < bar:
        assert passed == own.propose([locked]) == ()
    elif there > bar:
        free = Gated(Offering(*offered), SCORER, margin=0.0, stumble=0.0, sight=0).propose([window])
        assert [p.gain for p in passed] == [p.gain for p in free]


@pytest.mark.parametrize(
    "wrong", [{"margin": -1.0}, {"margin": float("nan")}, {"stumble": -1.0}, {"right": 0}, {"left": 0}]
)
def test_a_gate_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="gate"):
        Gated(Offering(), SCORER, **wrong)  # type: ignore[arg-type]


# ---- the host as its own repairer ----------------------------------------------------------------------


@given(ids, st.data())
def test_what_the_host_changes_makes_the_text_likelier_by_what_it_says(
    text: list[int], data: st.DataObject
) -> None:
    heat = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.6, 1.0]), min_size=len(text), max_size=len(text)))
    )
    repairer = SelfRepairer(SCORER, frozenset({11}), delete=False, margin=0.1, stumble=0.0, sight=0, right=50)
    window = RepairWindow.of(text, heat)
    found = repairer.propose([window])
    after = np.array(text)
    for p in found:
        after[int(p.uid[0])] = p.new_ids[0]
    assert total(after) - total(text) == pytest.approx(sum(p.gain for p in found), abs=1e-2)
    assert all(p.gain > 0.1 / heat[int(p.uid[0])] for p in found)
    assert examine(repairer, [window], vocabulary=V, control_ids=frozenset({11})) == []


@given(ids, st.data())
def test_of_a_doomed_run_one_token_may_stay(text: list[int], data: st.DataObject) -> None:
    bits = st.lists(st.booleans(), min_size=len(text), max_size=len(text))
    doomed = np.array(data.draw(bits))
    window = RepairWindow.of(text, doomed.astype(float), doomed=doomed)
    repairer = SelfRepairer(SCORER, margin=0.0, stumble=0.0, sight=0, right=50)
    for p in repairer.propose([window]):
        assert len(p.new_ids) == 1
        assert len(p.uid) > 1 or p.new_ids[0] != window.token_id[p.uid[0]]
        assert p.gain > 0
    assert examine(repairer, [window], vocabulary=V) == []


def test_culled_tokens_get_the_token_that_makes_the_rest_likeliest() -> None:
    own = SelfRepairer(SCORER, margin=0.0, stumble=0.0, candidates=V, right=50)
    helped = 0
    for seed in range(20):
        text = np.random.default_rng(seed).integers(0, V, 20).tolist()
        left, old, right = text[:9], text[9], text[10:]
        won = {n: total([*left, n, *right]) - total([*left, *right]) for n in range(V) if n != old}
        best = max(won, key=lambda n: won[n])
        entry = CulledToken(1009, text, [1] * 20, [255.0] * 20, 9, old)
        assert diffs([entry], own) == ([(1009, old, best)] if won[best] > 0 else [])
        helped += won[best] > 0
    assert helped


def test_the_worst_places_come_first() -> None:
    text = np.random.default_rng(1).integers(0, V, 60)
    window = RepairWindow.of(text, np.ones(60))
    surprise = -SCORER.logprobs(text.tolist())
    few = SelfRepairer(
        SCORER, places=5, delete=False, margin=0.0, stumble=0.0, sight=0, candidates=V
    ).propose([window])
    assert {int(p.uid[0]) for p in few} <= set(np.argsort(-surprise, kind="stable")[:5].tolist())
    assert few


def test_long_texts_are_read_in_bounded_pieces() -> None:
    scorer = FakeScorer(V)
    text = np.random.default_rng(2).integers(0, V, 400)
    SelfRepairer(scorer, left=32, right=4, delete=False, stumble=0.0, sight=0).propose(
        [RepairWindow.of(text, np.ones(400))]
    )
    assert scorer.read_tokens < 5 * 400
    assert len(scorer.batches) == 400


def test_nothing_hot_asks_nothing() -> None:
    scorer = FakeScorer(V)
    repairer = SelfRepairer(scorer)
    assert repairer.propose([RepairWindow.of([1, 2, 3], np.zeros(3)), RepairWindow.of([], [])]) == ()
    assert scorer.batches == []
    assert scorer.read_tokens == 0


def test_repair_of_a_long_text_is_gated_and_repeatable() -> None:
    text = np.random.default_rng(3).integers(0, V, 300)
    gated = Gated(
        SelfRepairer(SCORER, margin=0.0, stumble=0.0, sight=0), SCORER, margin=1.0, stumble=0.0, sight=0
    )
    changes = repair(text, np.ones(300), gated, lock=1.0, window=64)
    assert changes == repair(text, np.ones(300), gated, lock=1.0, window=64)
    assert changes
    assert total(applied(text, changes)) > total(text)


@pytest.mark.parametrize(
    "wrong", [{"cutoff": 0.0}, {"candidates": 0}, {"right": 0}, {"left": 0}, {"stumble": -1.0}]
)
def test_a_self_repairer_without_sense_is_refused(wrong: dict[str, float]) -> None:
    scorer: Scorer = SCORER
    with pytest.raises(InvalidInput, match="self repairer"):
        SelfRepairer(scorer, **wrong)  # type: ignore[arg-type]
