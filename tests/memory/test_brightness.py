# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Brightness: one matrix of promises over all policies, then each against its own docstring, slowly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_strategies import Row, any_views, rows_of, text, view_of

from haloweave.errors import HaloError, InvalidInput
from haloweave.memory.brightness import (
    H2O,
    RULES,
    SINKS,
    TYPICAL,
    BrightnessPolicy,
    Halo,
    Linear,
    Random,
    SnapKV,
    SourceRule,
    Tova,
    Window,
    curious,
    relative,
    seen,
    to_brightness,
    to_score,
)
from haloweave.memory.mirror import Mirror
from haloweave.memory.tokens import FULL, NO_UNIT, AttentionSample, Source, Tokens, View

POLICIES: dict[str, BrightnessPolicy] = {
    "halo": Halo(),
    "halo-plain": Halo(value_weighted=False),
    "halo-no-prior": Halo(prior=0.0),
    "linear": Linear(),
    "window": Window(),
    "h2o": H2O(),
    "tova": Tova(),
    "snapkv": SnapKV(),
    "snapkv-small": SnapKV(window=2, kernel=3),
    "random": Random(seed=3),
}
every_policy = pytest.mark.parametrize("name", sorted(POLICIES))
# SnapKV's pooled votes are left out: to feed a slot is to starve its neighbours, whose vote it may share.
fed_by_attention = pytest.mark.parametrize("name", ["halo", "halo-plain", "linear", "h2o", "tova", "snapkv"])

masses = st.one_of(st.sampled_from([0.0, 1e-30, 0.25, 1.0, 1e6]), st.floats(0, 4, width=32))


def sample_of(mass: list[float] | np.ndarray, queries: int = 1) -> AttentionSample:
    m = np.array(mass, np.float32)
    return AttentionSample(m, m, m, queries)


@st.composite
def moments(draw: st.DrawFn) -> tuple[View, AttentionSample]:
    """A context and what one pass saw of it."""
    view = draw(any_views(min_rows=1, max_rows=12))
    rows = len(view.tokens)

    def column() -> np.ndarray:
        return np.array(draw(st.lists(masses, min_size=rows, max_size=rows)), np.float32)

    return view, AttentionSample(column(), column(), column(), draw(st.integers(1, rows)))


def check(light: np.ndarray, rows: int) -> None:
    assert light.dtype == np.float32
    assert light.shape == (rows,)
    assert np.all(np.isfinite(light))
    assert np.all((light >= 0) & (light <= FULL))


# ---- what every policy promises ----------------------------------------------------------------------


@every_policy
@given(moment=moments())
def test_output_is_a_brightness_for_every_slot(name: str, moment: tuple[View, AttentionSample]) -> None:
    view, sample = moment
    light = POLICIES[name].update(view, sample)
    check(light, len(view.tokens))
    Mirror(view).shine(light)


@every_policy
@given(moment=moments())
def test_update_is_pure(name: str, moment: tuple[View, AttentionSample]) -> None:
    view, sample = moment
    before = rows_of(view.tokens)
    seen_before = [a.copy() for a in (sample.mass, sample.value_mass, sample.last)]
    first = POLICIES[name].update(view, sample)
    again = POLICIES[name].update(view, sample)
    assert first.tobytes() == again.tobytes()
    assert rows_of(view.tokens) == before
    for was, now in zip(seen_before, (sample.mass, sample.value_mass, sample.last), strict=True):
        assert was.tobytes() == now.tobytes()


@every_policy
def test_birth_is_a_brightness(name: str) -> None:
    assert all(0 <= POLICIES[name].birth(source) <= FULL for source in Source)


@every_policy
@pytest.mark.parametrize("rows", [1, 2, SINKS, SINKS + 1])
@pytest.mark.parametrize("mass", [0.0, 1.0, 1e-38, 3e38])
def test_few_rows_and_extreme_attention(name: str, rows: int, mass: float) -> None:
    view = view_of(text(rows))
    for queries in range(1, rows + 1):
        check(POLICIES[name].update(view, sample_of([mass] * rows, queries)), rows)


@every_policy
def test_one_slot_takes_all(name: str) -> None:
    for slot in range(7):
        mass = np.zeros(7, np.float32)
        mass[slot] = 3e38
        check(POLICIES[name].update(view_of(text(7)), sample_of(mass)), 7)


@every_policy
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -1.0])
@pytest.mark.parametrize("slot", [0, 6])
def test_attention_that_is_no_number_is_refused_or_survived(name: str, bad: float, slot: int) -> None:
    mass = np.ones(9, np.float32)
    mass[slot] = bad
    mirror = Mirror(view_of(text(9)))
    before = mirror.view
    with np.errstate(all="ignore"):
        try:
            mirror.shine(POLICIES[name].update(mirror.view, sample_of(mass)))
        except HaloError:
            assert mirror.view is before
            return
    check(mirror.view.tokens.brightness, 9)


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"window", "random"}))  # these two never look
def test_a_sample_of_another_context_is_refused(name: str) -> None:
    """By the policy or by the Mirror, but never spread over slots it does not speak of."""
    mirror = Mirror(view_of(text(5)))
    before = mirror.view
    for rows in (1, 4, 6):
        with pytest.raises(HaloError):
            mirror.shine(POLICIES[name].update(mirror.view, sample_of([1.0] * rows)))
        assert mirror.view is before


@fed_by_attention
@given(moment=moments(), data=st.data())
def test_more_attention_never_dims(
    name: str, moment: tuple[View, AttentionSample], data: st.DataObject
) -> None:
    view, sample = moment
    slot = data.draw(st.integers(0, len(view.tokens) - 1))
    more = data.draw(st.sampled_from([1e-3, 0.5, 3.0, 1e4]))

    def fed(mass: np.ndarray) -> np.ndarray:
        out = mass.copy()
        out[slot] += np.float32(more)
        return out

    richer = AttentionSample(fed(sample.mass), fed(sample.value_mass), fed(sample.last), sample.queries)
    poor, rich = POLICIES[name].update(view, sample), POLICIES[name].update(view, richer)
    assert rich[slot] >= poor[slot] - 1e-4


@fed_by_attention
def test_attention_makes_a_difference(name: str) -> None:
    """Two slots alike in all but attention: the fed one is strictly brighter."""
    mass = np.ones(12, np.float32)
    mass[8] = 4.0
    light = POLICIES[name].update(view_of(text(12)), sample_of(mass))
    assert light[8] > light[7]


@pytest.mark.parametrize(
    ("make", "field", "values"),
    [
        (SourceRule, "birth", [math.nan, math.inf, -1.0, 256.0]),
        (SourceRule, "gain", [math.nan, math.inf]),
        (SourceRule, "half_life", [math.nan, 0.0, -1.0]),
        (Halo, "prior", [math.nan, math.inf, -1.0]),
        (Linear, "gain", [math.nan, math.inf]),
        (Linear, "decay", [math.nan, math.inf]),
        (H2O, "span", [math.nan, 0.0, -1.0]),
        (SnapKV, "window", [0, -1]),
        (SnapKV, "kernel", [-3]),
    ],
)
def test_senseless_fields_are_refused(make: Callable[..., object], field: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(InvalidInput):
            make(**{field: value})


def born(ids: list[int], *, source: Source, policy: Any, view: View, unit: int) -> Tokens:
    """Newborn tokens for the tail of `view`, as bright as their source's children are."""
    return Tokens.make(
        ids,
        first_uid=view.next_uid,
        source=source,
        brightness=policy.birth(source),
        tick=view.tick,
        unit=unit,
    )


# ---- scales ------------------------------------------------------------------------------------------


def test_score_to_brightness_is_as_written() -> None:
    assert to_brightness(np.array([0.0, 1.0, 3.0])).tolist() == [0.0, 127.5, 191.25]
    assert to_score(np.array([0.0, 127.5, 191.25], np.float32)).tolist() == [0.0, 1.0, 3.0]
    assert np.isfinite(to_score(np.array([FULL], np.float32))).all()


@given(st.floats(0, FULL, width=32))
def test_score_is_the_inverse_of_brightness(b: float) -> None:
    assert to_brightness(to_score(np.array([b], np.float32)))[0] == pytest.approx(b, abs=1e-4)


@given(st.lists(st.floats(0, 1e30), min_size=2, max_size=2))
def test_brightness_is_monotone_in_score(scores: list[float]) -> None:
    low, high = to_brightness(np.array(sorted(scores)))
    assert low <= high


@given(st.integers(1, 12), st.data())
def test_seen_counts_causal_looks(rows: int, data: st.DataObject) -> None:
    queries = data.draw(st.integers(1, rows))
    naive = [sum(slot <= q for q in range(rows - queries, rows)) for slot in range(rows)]
    assert seen(rows, queries).tolist() == naive


def naive_relative(mass: list[float], queries: int) -> list[float]:
    rows = len(mass)
    looks = [sum(slot <= q for q in range(rows - queries, rows)) for slot in range(rows)]
    each = [0.0 if slot < SINKS else m / k for slot, (m, k) in enumerate(zip(mass, looks, strict=True))]
    mean = math.fsum(each) / max(rows - SINKS, 1)
    return [e / mean if mean > 0 else 0.0 for e in each]


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=14), st.data())
def test_relative_equals_a_loop(mass: list[float], data: st.DataObject) -> None:
    queries = data.draw(st.integers(1, len(mass)))
    got = relative(np.array(mass, np.float32), queries)
    assert got == pytest.approx(naive_relative(mass, queries), rel=1e-9)


@given(st.integers(SINKS + 1, 40))
def test_average_attention_is_one_whatever_the_size(rows: int) -> None:
    mass = np.full(rows, 1 / rows, np.float32)
    mass[:SINKS] = 0.9
    assert relative(mass, 1)[SINKS:] == pytest.approx(1.0)


# ---- halo --------------------------------------------------------------------------------------------


class SlowHalo:
    """The docstring of Halo, token by token and query by query: a weighted mean of the prior (weight
    prior * decay**n) and of what each query paid (weight decay**age)."""

    def __init__(self, policy: Halo) -> None:
        self.policy = policy
        self.born: dict[int, int] = {}
        self.paid: dict[int, list[float]] = {}

    def see(self, rows: list[Row], mass: list[float], queries: int) -> None:
        share = naive_relative(mass, queries)
        for slot, row in enumerate(rows):
            self.born.setdefault(row.uid, row.source)
            looks = min(queries, len(rows) - slot)
            gain = self.policy.rules[Source(row.source)].gain
            self.paid.setdefault(row.uid, []).extend([gain * share[slot]] * looks)

    def brightness(self, uid: int) -> float:
        rule = self.policy.rules[Source(self.born[uid])]
        decay = 0.5 ** (1 / rule.half_life)
        paid = self.paid[uid]
        birth = min(rule.birth, float(np.nextafter(np.float32(255), np.float32(0))))
        prior = self.policy.prior * rule.prior * decay ** len(paid)
        weights = [decay**age for age in range(len(paid))]
        total = prior * birth / (FULL - birth) + math.fsum(
            w * p for w, p in zip(weights, reversed(paid), strict=True)
        )
        score = total / (prior + math.fsum(weights))
        return FULL * score / (1 + score)


STEEP = {
    Source.USER: SourceRule(birth=200.0, half_life=20.0),
    Source.MODEL: SourceRule(birth=30.0, half_life=3.0, gain=2.0, prior=5.0),
    Source.LOG: SourceRule(birth=0.0, half_life=0.5, gain=0.5),
}


@settings(max_examples=40)
@given(st.data())
def test_halo_equals_a_slow_reference(data: st.DataObject) -> None:
    policy = Halo(rules=STEEP, prior=data.draw(st.sampled_from([0.5, 16.0])))
    slow = SlowHalo(policy)
    mirror = Mirror()
    for _ in range(data.draw(st.integers(1, 6))):
        fed = data.draw(st.integers(1, 5))
        source = data.draw(st.sampled_from(sorted(STEEP)))
        mirror.append(born([0] * fed, source=source, policy=policy, view=mirror.view, unit=NO_UNIT))
        mass = data.draw(
            st.lists(st.sampled_from([0.0, 0.1, 0.5, 2.0]), min_size=mirror.rows, max_size=mirror.rows)
        )
        slow.see(rows_of(mirror.view.tokens), np.array(mass, np.float32).tolist(), fed)
        mirror.shine(policy.update(mirror.view, sample_of(mass, fed)))
    for row in rows_of(mirror.view.tokens):
        assert row.brightness == pytest.approx(slow.brightness(row.uid), abs=2e-3)


def grown(
    policy: BrightnessPolicy, chunks: list[int], attend: Callable[[int, int], np.ndarray]
) -> list[float]:
    """Brightness after feeding MODEL tokens in these chunks; `attend(rows, queries)` gives the mass."""
    mirror = Mirror()
    for fed in chunks:
        mirror.append(born([0] * fed, source=Source.MODEL, policy=policy, view=mirror.view, unit=NO_UNIT))
        mirror.shine(policy.update(mirror.view, sample_of(attend(mirror.rows, fed), fed)))
    return mirror.view.tokens.brightness.tolist()


def nothing(rows: int, queries: int) -> np.ndarray:
    return np.zeros(rows)


def the_same_from_every_query(rows: int, queries: int) -> np.ndarray:
    return 0.125 * seen(rows, queries)


def uniform(rows: int, queries: int) -> np.ndarray:
    """What softmax gives when all scores are equal: 1 / (number of visible slots)."""
    mass = np.zeros(rows)
    for q in range(rows - queries, rows):
        mass[: q + 1] += 1 / (q + 1)
    return mass


@pytest.mark.parametrize("attend", [nothing, the_same_from_every_query])
@pytest.mark.parametrize("name", ["halo", "halo-no-prior", "linear"])
def test_a_chunk_equals_its_queries_one_by_one(name: str, attend: Callable[[int, int], np.ndarray]) -> None:
    """Exact (to float32) where each query pays a slot the same: so decay is per token, not per call."""
    one_by_one = grown(POLICIES[name], [SINKS + 20] + [1] * 32, attend)
    for chunks in ([32], [16, 16], [5, 1, 20, 6]):
        assert grown(POLICIES[name], [SINKS + 20, *chunks], attend) == pytest.approx(one_by_one, abs=1e-3)


def test_a_chunk_of_uniform_attention_nearly_equals_its_queries() -> None:
    """Not exact: later queries see more slots, so the chunk's own slots get a little less than the mean.
    One by one every slot gets exactly the mean. Of order queries/rows; here 32 on 256."""
    one_by_one = grown(POLICIES["halo"], [256] + [1] * 32, uniform)
    chunk = grown(POLICIES["halo"], [256, 32], uniform)
    assert chunk[SINKS:] == pytest.approx(one_by_one[SINKS:], abs=127.5 * 32 / 256 / 2)


def fed_the_mean(policy: Halo, row: Row, queries: int, calls: int) -> float:
    """Brightness of one token that received exactly the mean for `calls` x `queries` queries."""
    for _ in range(calls):
        row = row._replace(uid=row.uid - queries)  # its age grows, `next_uid` stays
        rows = [*text(SINKS + 3, first_uid=-10000), row]
        view = view_of(rows + text(queries, first_uid=100), next_uid=100 + queries)
        light = policy.update(view, sample_of(seen(len(view.tokens), queries), queries))
        row = row._replace(brightness=float(light[len(rows) - 1]))
    return row.brightness


@pytest.mark.parametrize("source", list(Source))
def test_average_attention_ends_at_half_from_any_birth(source: Source) -> None:
    start = Row(99, 0, Halo().birth(source), int(source), NO_UNIT, False, 0)
    assert fed_the_mean(Halo(), start, 256, 300) == pytest.approx(127.5, abs=0.05)


@pytest.mark.parametrize("age", [1, 5, 1000, 100_000])
@pytest.mark.parametrize("queries", [1, 8])
def test_average_attention_stays_at_half_at_any_age(age: int, queries: int) -> None:
    start = Row(100 - age, 0, 127.5, int(Source.MODEL), NO_UNIT, False, 0)
    assert fed_the_mean(Halo(), start, queries, 20) == pytest.approx(127.5, abs=1e-3)


def test_without_a_prior_the_first_evidence_is_all() -> None:
    """No bias from having been seen by one query only (Adam's correction)."""
    start = Row(99, 0, 10.0, int(Source.MODEL), NO_UNIT, False, 0)
    view = view_of([*text(SINKS + 2, first_uid=0), start], next_uid=100)
    light = Halo(prior=0.0).update(view, sample_of([1.0] * len(view.tokens)))
    assert light[-1] == pytest.approx(127.5, abs=1e-4)


def test_a_newborn_begins_at_its_sources_brightness_and_blends() -> None:
    for source in Source:
        newborn = born([1], source=source, policy=Halo(), view=view_of(text(9)), unit=3)
        assert newborn.brightness.tolist() == [RULES[source].birth]
        assert (newborn.uid.tolist(), newborn.born.tolist(), newborn.unit.tolist()) == ([9], [9], [3])
    rows = [*text(9), Row(9, 0, 240.0, int(Source.MODEL), NO_UNIT, False, 0)]
    light = Halo().update(view_of(rows), sample_of([0.0] * 10))
    assert 200.0 < light[9] < 240.0


def test_logs_fade_faster_than_the_persons_words() -> None:
    rows = text(SINKS) + text(1, source=Source.LOG, first_uid=4) + text(1, source=Source.USER, first_uid=5)
    light = Halo().update(view_of(rows, next_uid=4000), sample_of([0.0] * 6))
    assert light[4] < light[5] < 100.0


def test_value_weighting_chooses_the_column() -> None:
    plain, value = np.zeros(9, np.float32), np.zeros(9, np.float32)
    plain[6], value[7] = 1, 1
    sample = AttentionSample(plain, value, plain, 1)
    view = view_of(text(9))
    assert np.argmax(Halo().update(view, sample)) == 7
    assert np.argmax(Halo(value_weighted=False).update(view, sample)) == 6


# ---- the others --------------------------------------------------------------------------------------


@given(moments())
def test_linear_equals_a_loop(moment: tuple[View, AttentionSample]) -> None:
    view, sample = moment
    rows = rows_of(view.tokens)
    share = naive_relative(sample.mass.tolist(), sample.queries)
    light = Linear(gain=2.0, decay=0.5).update(view, sample)
    for slot, row in enumerate(rows):
        rule = RULES[Source(row.source)]
        looks = min(sample.queries, len(rows) - slot)
        step = 2.0 * rule.gain * share[slot] - 0.5 * 512 / rule.half_life
        assert light[slot] == pytest.approx(min(max(row.brightness + looks * step, 0.0), FULL), abs=1e-3)


def test_window_is_recency() -> None:
    light = Window().update(view_of(text(9)), sample_of([9, 8, 7, 6, 5, 4, 3, 2, 1]))
    assert np.all(np.diff(light) > 0)
    assert light[-1] == FULL


@given(st.lists(st.lists(st.floats(2**-10, 2, width=32), min_size=5, max_size=5), min_size=1, max_size=8))
def test_h2o_is_a_sum_over_life(passes: list[list[float]]) -> None:
    mirror = Mirror(view_of(text(5, brightness=0.0)))
    for mass in passes:
        mirror.shine(H2O().update(mirror.view, sample_of(mass)))
    total = np.exp((mirror.view.tokens.brightness / FULL * 2.0 - 1.0) * 20.0)
    expected = [math.fsum(column) for column in zip(*passes, strict=True)]
    assert total.tolist() == pytest.approx(expected, rel=1e-3)


@given(moments())
def test_tova_hears_only_the_last_query(moment: tuple[View, AttentionSample]) -> None:
    view, sample = moment
    noise = np.full_like(sample.mass, 3.0)
    other = AttentionSample(noise, noise, sample.last, sample.queries)
    light = Tova().update(view, sample)
    assert light.tobytes() == Tova().update(view, other).tobytes()
    expected = [FULL * s / (1 + s) for s in naive_relative(sample.last.tolist(), 1)]
    assert light.tolist() == pytest.approx(expected, abs=1e-3)


@given(moments())
def test_snapkv_pools_the_votes_of_a_full_window(moment: tuple[View, AttentionSample]) -> None:
    view, sample = moment
    light = SnapKV(window=sample.queries, kernel=3).update(view, sample)
    votes = naive_relative(sample.mass.tolist(), sample.queries)
    for slot in range(len(votes)):
        best = max(votes[max(slot - 1, 0) : slot + 2])
        assert light[slot] == pytest.approx(FULL * best / (1 + best), abs=1e-3)


@given(moments())
def test_snapkv_averages_over_the_window_when_decoding(moment: tuple[View, AttentionSample]) -> None:
    view, sample = moment
    share = sample.queries / 64
    light = SnapKV(window=64).update(view, sample)
    votes = naive_relative(sample.mass.tolist(), sample.queries)
    for row, vote, got in zip(rows_of(view.tokens), votes, light.tolist(), strict=True):
        if row.brightness < 254:
            score = (1 - share) * row.brightness / (FULL - row.brightness) + share * vote
            assert got == pytest.approx(FULL * score / (1 + score), abs=1e-3)


@given(moments(), st.integers(-5, 2**65))
def test_random_is_a_lot_for_each_uid(moment: tuple[View, AttentionSample], seed: int) -> None:
    view, sample = moment
    policy = Random(seed=seed)
    light = dict(zip(view.tokens.uid.tolist(), policy.update(view, sample).tolist(), strict=True))
    turned = view.tokens.take(np.arange(len(view.tokens))[::-1])
    other = policy.update(View(turned, 77, 88, view.next_uid), sample_of([1.0] * len(turned)))
    assert dict(zip(turned.uid.tolist(), other.tolist(), strict=True)) == light


def test_random_is_spread_evenly_and_by_seed() -> None:
    view = view_of(text(4000))
    sample = sample_of([1.0] * 4000)
    a, b = Random(seed=0).update(view, sample), Random(seed=1).update(view, sample)
    for light in (a, b):
        counts, _ = np.histogram(light, bins=8, range=(0, FULL))
        assert ((counts - 500) ** 2 / 500).sum() < 35  # chi-square, 7 degrees: p of about 1e-5
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06


# ---- surprise ----------------------------------------------------------------------------------------


def _newborn(nats: list[float], surprise: float, prior: float = 32.0) -> np.ndarray:
    """Brightness after the pass in which tokens were read that told so many nats; all are paid alike."""
    policy = Halo(surprise=surprise, prior=prior)
    count = len(nats) + 4
    tokens = Tokens.make(
        list(range(count)), first_uid=0, source=Source.TEXT, brightness=policy.birth(Source.TEXT)
    )
    even = np.ones(count, np.float32)
    told = np.array([TYPICAL] * 4 + nats, np.float32)
    return policy.update(
        View(tokens, revision=0, tick=0, next_uid=len(tokens)), AttentionSample(even, even, even, count, told)
    )


@given(st.lists(st.floats(0, 40, width=32), min_size=2, max_size=12), st.floats(0.1, 4))
def test_the_more_it_told_the_brighter_it_is_born(nats: list[float], surprise: float) -> None:
    bright, plain = _newborn(nats, surprise)[4:], _newborn(nats, 0.0)[4:]
    order = np.argsort(nats, kind="stable")
    gained = (bright - plain)[order]
    typical = np.array(nats)[order]
    assert np.all(gained[typical > TYPICAL + 0.01] > 0)
    assert np.all(gained[typical < TYPICAL - 0.01] < 0)
    assert np.all((bright >= 0) & (bright < FULL))


def test_by_hand_what_surprise_makes_of_a_birth() -> None:
    """The prior weighs p queries, each a little faded, and says birth times surprise; evidence weighs one."""
    birth, d, p = 192.0 / (FULL - 192.0), 2.0 ** (-1 / 1024), 32.0
    bright = _newborn([2 * TYPICAL], 1.0)
    told = float(bright[-1] / (FULL - bright[-1]))
    evidence = _evidence_of_the_last(5)
    assert told == pytest.approx((p * d * 2 * birth + evidence) / (p * d + 1.0), rel=1e-4)


def _evidence_of_the_last(count: int) -> float:
    """Relative mass of the newest of `count` tokens that all got 1, the first four of them sinks."""
    return float(relative(np.ones(count, np.float32), count)[-1])


def test_surprise_spreads_over_neighbours_of_the_same_source() -> None:
    """By hand: a token that told five times what is typical, among silent ones of two sources."""
    rules = {Source.USER: SourceRule(birth=100.0, spread=3), Source.LOG: SourceRule(birth=100.0)}
    policy = Halo(rules=rules, surprise=1.0)
    source = [Source.USER] * 6 + [Source.LOG] + [Source.USER] + [Source.LOG] * 2
    mirror = Mirror()
    for one in source:
        mirror.append(Tokens.make([0], first_uid=mirror.view.next_uid, source=one, brightness=100.0))
    nats = np.zeros(10, np.float32)
    nats[[5, 8]] = 5 * TYPICAL
    even = np.ones(10, np.float32)
    light = policy.update(mirror.view, AttentionSample(even, even, even, 10, nats))
    plain = policy.update(mirror.view, AttentionSample(even, even, even, 10, np.zeros(10, np.float32)))
    assert np.flatnonzero(light != plain).tolist() == [4, 5, 7, 8]  # 7 is the next that the person said
    assert light[4] == pytest.approx(float(_told_like(policy, mirror.view, 4, (5 + 2 * 0.05) / 3)), rel=1e-4)
    assert light[8] == pytest.approx(float(_told_like(policy, mirror.view, 8, 5.0)), rel=1e-4)


def _told_like(policy: Halo, view: View, slot: int, share: float) -> np.float32:
    """Brightness of a slot as if every token of its source had told so many times what is typical."""
    rules = {source: replace(rule, spread=1) for source, rule in policy.rules.items()}
    even = np.ones(len(view.tokens), np.float32)
    nats = np.full(len(view.tokens), share * TYPICAL, np.float32)
    sample = AttentionSample(even, even, even, len(even), nats)
    return np.float32(replace(policy, rules=rules).update(view, sample)[slot])


def test_a_sources_prior_is_a_factor_on_the_policys() -> None:
    heavy = {Source.USER: SourceRule(birth=240.0, prior=4.0)}
    once = {Source.USER: SourceRule(birth=240.0)}
    view = view_of(text(12, source=Source.USER))
    sample = sample_of([0.1 * n for n in range(12)], 3)
    assert np.array_equal(
        Halo(rules=heavy, prior=8.0).update(view, sample), Halo(rules=once, prior=32.0).update(view, sample)
    )
    assert not np.array_equal(
        Halo(rules=heavy, prior=8.0).update(view, sample), Halo(rules=once, prior=8.0).update(view, sample)
    )


@pytest.mark.parametrize(
    "wrong", [{"prior": -1.0}, {"prior": float("nan")}, {"spread": 0}, {"spread": 4}, {"half_life": 0.0}]
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        SourceRule(**wrong)  # type: ignore[arg-type]


def test_without_nats_nothing_is_surprising() -> None:
    policy = Halo(surprise=1.0)
    tokens = Tokens.make(list(range(8)), first_uid=0, source=Source.USER, brightness=100.0)
    even = np.ones(8, np.float32)
    sample = AttentionSample(even, even, even, 8)
    view = View(tokens, revision=0, tick=0, next_uid=len(tokens))
    assert np.array_equal(policy.update(view, sample), Halo(surprise=0.0).update(view, sample))
    assert curious(policy)
    assert not curious(Halo(surprise=0.0))
    assert not curious(Window())


def test_as_many_nats_as_queries() -> None:
    even = np.ones(8, np.float32)
    with pytest.raises(InvalidInput, match="nats"):
        AttentionSample(even, even, even, 4, np.ones(3, np.float32))
