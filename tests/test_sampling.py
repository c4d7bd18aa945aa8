# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Sampling: the same token for the same (seed, tick), and exactly the tokens the filters leave."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from haloweave.engine.sampling import Sampling, _nucleus, sample
from haloweave.errors import EngineFault, HaloError, InvalidInput

NONE = np.zeros(0, np.int32)
PLAIN = Sampling(temperature=1.0, top_p=1.0)


def f32(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def recent(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


logits_lists = st.lists(
    st.one_of(st.sampled_from([-math.inf, -3.0, 0.0, 0.0, 1.0, 1.0, 2.5]), st.floats(-8, 8, width=32)),
    min_size=1,
    max_size=14,
).filter(lambda x: max(x) > -math.inf)


# ---- the filters, slowly -----------------------------------------------------------------------------


def naive_kept(logits: list[float], how: Sampling) -> tuple[list[int], bool]:
    """Ids that may be drawn, likeliest first, filter after filter in the order of the fields; and whether a
    sum or quotient came too close to its threshold to tell."""
    scaled = [x / how.temperature for x in logits]
    best = max(scaled)
    weight = {i: math.exp(x - best) for i, x in enumerate(scaled) if x > -math.inf}
    kept = sorted((i for i, w in weight.items() if w > 0), key=lambda i: (-weight[i], i))
    close = False
    if how.top_k:
        kept = kept[: how.top_k]
    if how.top_p < 1.0:
        total = math.fsum(weight[i] for i in kept)
        for size in range(1, len(kept) + 1):
            share = math.fsum(weight[i] for i in kept[:size]) / total
            close |= abs(share - how.top_p) < 1e-9
            if share >= how.top_p:
                kept = kept[:size]
                break
    if how.min_p:
        close |= any(abs(w - how.min_p) < 1e-9 for w in weight.values() if w != 1.0)
        kept = [i for i in kept if weight[i] >= how.min_p]
    return kept, close


def kept_by(logits: list[float], how: Sampling) -> list[int]:
    ids, weights = _nucleus(np.array(logits, np.float64) / how.temperature, how)
    assert len(ids) == len(weights)
    assert np.all(np.diff(weights) <= 0)
    return ids.tolist()


temperatures = st.sampled_from([0.3, 0.7, 1.0, 2.0])


@given(logits_lists, temperatures, st.integers(0, 16), st.floats(0.01, 1.0))
def test_top_k_then_top_p_keep_exactly_the_nucleus(
    logits: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    how = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    expected, close = naive_kept(logits, how)
    assert close or kept_by(logits, how) == expected


@given(logits_lists, temperatures, st.integers(0, 16), st.floats(0.0, 1.0))
def test_min_p_keeps_exactly_what_is_likely_enough(
    logits: list[float], temperature: float, top_k: int, min_p: float
) -> None:
    how = Sampling(temperature=temperature, top_k=top_k, top_p=1.0, min_p=min_p)
    expected, close = naive_kept(logits, how)
    assert close or kept_by(logits, how) == expected


@given(logits_lists, st.integers(0, 16), st.floats(0.01, 1.0), st.floats(0.0, 1.0))
@example([math.log(p) for p in (0.5, 0.3, 0.15, 0.05)], 0, 0.6, 0.35)
@example([math.log(p) for p in (0.5, 0.3, 0.15, 0.05)], 3, 0.85, 0.2)
def test_filters_apply_in_the_order_of_the_fields(
    logits: list[float], top_k: int, top_p: float, min_p: float
) -> None:
    """top_p looks at what top_k left, min_p at what top_p left."""
    how = Sampling(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)
    expected, close = naive_kept(logits, how)
    assert close or kept_by(logits, how) == expected


def test_ties_fall_to_the_lower_id() -> None:
    flat = [0.0] * 8
    assert kept_by(flat, Sampling(temperature=1.0, top_k=3, top_p=1.0)) == [0, 1, 2]
    assert kept_by(flat, Sampling(temperature=1.0, top_p=0.5)) == [0, 1, 2, 3]
    assert kept_by([0, 1, 0, 1, 1], Sampling(temperature=1.0, top_k=2, top_p=1.0)) == [1, 3]


def test_the_best_always_stays() -> None:
    for how in (Sampling(top_p=1e-9), Sampling(min_p=1.0, top_p=1.0), Sampling(top_k=1, top_p=1.0)):
        assert kept_by([0.0, 3.0, 1.0], how) == [1]
        assert sample(f32([0.0, 3.0, 1.0]), NONE, how, 5) == 1


@given(logits_lists, st.integers(0, 10**6), st.integers(0, 5), st.floats(0.01, 1.0))
def test_what_is_drawn_is_among_what_is_kept(
    logits: list[float], tick: int, top_k: int, top_p: float
) -> None:
    how = Sampling(temperature=0.8, top_k=top_k, top_p=top_p, seed=tick)
    expected, close = naive_kept(logits, how)
    assert close or sample(f32(logits), NONE, how, tick) in expected


# ---- randomness is counter-based ---------------------------------------------------------------------

SPREAD = f32([0.0, 0.5, 1.0, 1.5, 2.0, -1.0])


def test_a_token_depends_on_seed_and_tick_alone() -> None:
    how = Sampling(temperature=1.5, top_p=1.0, seed=11)
    forwards = [sample(SPREAD, NONE, how, t) for t in range(200)]
    backwards = [sample(SPREAD, NONE, how, t) for t in reversed(range(200))][::-1]
    assert forwards == backwards
    np.random.seed(1)
    assert sample(SPREAD, NONE, how, 7) == forwards[7]
    assert len(set(forwards)) == len(SPREAD)


def test_seeds_and_ticks_are_streams_of_their_own() -> None:
    def draws(seed: int, start: int = 0) -> list[int]:
        how = Sampling(temperature=5.0, top_p=1.0, seed=seed)
        return [sample(SPREAD, NONE, how, t) for t in range(start, start + 64)]

    runs = [draws(0), draws(1), draws(-1), draws(2**63), draws(0, start=1)]
    assert len({tuple(r) for r in runs}) == len(runs)
    assert draws(3) == draws(3 + 2**64)
    # Philox under key `seed` at counter `tick`: neighbouring seeds and ticks must not be the same draw.
    assert [draws(0, start=s)[0] for s in range(1, 65)] != draws(1)


def test_logits_and_recent_are_left_alone() -> None:
    logits, ids = SPREAD.copy(), recent(1, 2)
    sample(logits, ids, Sampling(repetition_penalty=2.0, logit_bias={0: -1.0}), 3)
    assert logits.tolist() == SPREAD.tolist()
    assert ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    "how",
    [
        PLAIN,
        Sampling(temperature=0.6, top_p=1.0, seed=5),
        Sampling(temperature=1.0, top_k=4, top_p=1.0),
        Sampling(temperature=1.3, top_p=0.9, seed=2),
    ],
)
def test_draws_follow_the_distribution(how: Sampling) -> None:
    n = 6000
    kept, close = naive_kept(SPREAD.tolist(), how)
    assert not close
    weights = {i: math.exp(float(SPREAD[i]) / how.temperature) for i in kept}
    total = sum(weights.values())
    counts = Counter(sample(SPREAD, NONE, how, t) for t in range(n))
    assert set(counts) == set(kept)
    chi = sum((counts[i] - n * w / total) ** 2 / (n * w / total) for i, w in weights.items())
    assert chi < 36  # 5 degrees of freedom: p of about 1e-6; the draws are fixed, so it never flickers


# ---- bias, penalty, temperature ----------------------------------------------------------------------


@given(logits_lists, st.integers(0, 99))
def test_temperature_zero_takes_the_best_and_the_first_of_equals(logits: list[float], tick: int) -> None:
    expected = logits.index(max(logits))
    assert sample(f32(logits), NONE, Sampling(temperature=0.0, top_k=3, min_p=0.5), tick) == expected


@pytest.mark.parametrize("temperature", [1e-6, 1e-300, 1e-308, 5e-324])
def test_a_tiny_temperature_is_the_limit_of_zero(temperature: float) -> None:
    how = Sampling(temperature=temperature)
    assert sample(f32([10.0, 30.0, -20.0]), NONE, how, 0) == 1


def test_a_huge_temperature_is_uniform() -> None:
    how = Sampling(temperature=1e300, top_p=1.0)
    counts = Counter(sample(f32([-30.0, 0.0, 30.0]), NONE, how, t) for t in range(900))
    assert min(counts[i] for i in range(3)) > 230


@given(logits_lists.filter(lambda x: len(x) > 1), st.data())
def test_bias_forbids_and_favours(logits: list[float], data: st.DataObject) -> None:
    banned = data.draw(st.sets(st.integers(0, len(logits) - 1), min_size=1))
    how = Sampling(temperature=1.0, logit_bias=dict.fromkeys(banned, -math.inf))
    left = [i for i, x in enumerate(logits) if i not in banned and x > -math.inf]
    for tick in range(5):
        if left:
            assert sample(f32(logits), NONE, how, tick) in left
        else:
            with pytest.raises(EngineFault):
                sample(f32(logits), NONE, how, tick)
    finite = next(i for i, x in enumerate(logits) if x > -math.inf)
    how = Sampling(temperature=1.0, logit_bias={finite: 1000.0})
    assert sample(f32(logits), NONE, how, 1) == finite


@pytest.mark.parametrize("token_id", [-1, 3, 10**9])
def test_a_bias_outside_the_vocabulary_is_refused(token_id: int) -> None:
    with pytest.raises(InvalidInput, match="logit_bias"):
        sample(f32([1, 2, 3]), NONE, Sampling(logit_bias={token_id: 1.0}), 0)


def test_the_penalty_divides_what_is_positive_and_multiplies_what_is_negative() -> None:
    greedy = Sampling(temperature=0.0, repetition_penalty=2.0)
    assert sample(f32([3.0, 2.0]), recent(0), greedy, 0) == 1  # 1.5 < 2
    assert sample(f32([3.0, 1.0]), recent(0), greedy, 0) == 0  # 1.5 > 1
    assert sample(f32([-1.0, -1.5]), recent(0), greedy, 0) == 1  # -2 < -1.5
    assert sample(f32([-1.0, -2.5]), recent(0, 0, 0), greedy, 0) == 0  # once, however often it came
    assert sample(f32([3.0, 2.0]), recent(0), Sampling(temperature=0.0, repetition_penalty=0.5), 0) == 0


def test_the_penalty_looks_no_further_back_than_its_window() -> None:
    def greedy(window: int) -> Sampling:
        return Sampling(temperature=0.0, repetition_penalty=2.0, repetition_window=window)

    assert sample(f32([3.0, 2.0, 0.0]), recent(0, 2, 2), greedy(2), 0) == 0
    assert sample(f32([3.0, 2.0, 0.0]), recent(0, 2, 2), greedy(3), 0) == 1
    assert sample(f32([3.0, 2.0, 0.0]), recent(0), greedy(0), 0) == 0


def test_the_bias_comes_before_the_penalty() -> None:
    how = Sampling(temperature=0.0, repetition_penalty=2.0, logit_bias={0: 3.0})
    assert sample(f32([1.0, 3.0]), recent(0), how, 0) == 1  # (1 + 3) / 2 < 3; the other way round 3.5 > 3


@pytest.mark.parametrize("token_id", [-1, 3])
def test_a_recent_id_outside_the_vocabulary_is_a_typed_error(token_id: int) -> None:
    with pytest.raises(HaloError):
        sample(f32([1, 2, 3]), recent(token_id), Sampling(repetition_penalty=1.1), 0)


# ---- what cannot be sampled from ---------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(
    "logits", [[-math.inf] * 3, [0.0, math.nan, 1.0], [math.nan] * 2, [0.0, math.inf, 1.0]]
)
def test_logits_that_are_no_distribution_are_a_fault(logits: list[float], temperature: float) -> None:
    with pytest.raises(EngineFault):
        sample(f32(logits), NONE, Sampling(temperature=temperature), 0)


@pytest.mark.parametrize(
    "fields",
    [
        *[{"temperature": x} for x in (-0.1, math.nan, math.inf)],
        {"top_k": -1},
        *[{"top_p": x} for x in (0.0, -0.1, 1.1, math.nan, math.inf)],
        *[{"min_p": x} for x in (-0.1, 1.1, math.nan)],
        *[{"repetition_penalty": x} for x in (0.0, -1.0, math.nan, math.inf)],
        {"repetition_window": -1},
        *[{"logit_bias": {1: x}} for x in (math.nan, math.inf)],
        {"stop": ("",)},
        {"stop": ("ok", "")},
    ],
    ids=str,
)
def test_senseless_settings_are_refused(fields: dict) -> None:
    with pytest.raises(InvalidInput):
        Sampling(**fields)
