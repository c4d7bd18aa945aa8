# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Corruption: rates are kept, pads and protected tokens are never touched, and noise is a pure function."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from haloweave.diffusion.corrupt import (
    Absorb,
    Corrupted,
    Corruption,
    FrequencyAware,
    Hybrid,
    absorb,
    frequency_rates,
    hybrid,
    information,
)
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.script_noise import WholeUnits
from haloweave.diffusion.spans import CullSpans

V, MASK, PAD, SPECIAL = 12, 10, 11, 9
COUNTS = torch.tensor([1000, 500, 200, 100, 50, 20, 10, 5, 2, 1, 0, 0])
ALL: list[Corruption] = [
    Absorb(MASK, PAD),
    Hybrid(MASK, V, PAD, uniform=0.2, specials=(SPECIAL,)),
    FrequencyAware(MASK, information(COUNTS), PAD),
    CullSpans(MASK, PAD, protected=(SPECIAL,)),
    WholeUnits(
        MASK,
        PAD,
        unit="word",
        latin_rate=0.5,
        starts=torch.arange(V) % 3 == 0,
        continues=torch.arange(V) == 4,
        unfinished=torch.arange(V) == 6,
        scripts=torch.arange(V) % 3,
        untouched=(SPECIAL,),
    ),
]
EACH = pytest.mark.parametrize("corruption", ALL, ids=lambda c: type(c).__name__)
RATES = st.floats(0, 1, width=32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, SPECIAL + 1, (rows, length), generator=seeded(seed))


def within(count: int, n: int, p: float) -> bool:
    """Five deviations of a binomial: once in two million by chance, and the seeds are fixed."""
    return abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1e-9


@st.composite
def padded(draw: st.DrawFn) -> Tensor:
    rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    ids = st.lists(st.integers(0, SPECIAL), min_size=length, max_size=length)
    x0 = torch.tensor([draw(ids) for _ in range(rows)])
    for row in x0:
        row[draw(st.integers(0, length)) :] = PAD
    return x0


# ---- what holds for every corruption ---------------------------------------------------------------------


@EACH
@given(x0=padded(), rate=RATES, seed=st.integers(0, 2**32))
def test_a_prediction_is_asked_only_where_it_can_be_given(
    corruption: Corruption, x0: Tensor, rate: float, seed: int
) -> None:
    before = x0.clone()
    noisy = corruption(x0, torch.full((len(x0),), rate), seeded(seed))
    assert torch.equal(x0, before)
    for tensor in (noisy.xt, noisy.x0, noisy.rate, noisy.weight):
        assert tensor.shape == x0.shape
    assert noisy.xt.dtype == x0.dtype
    counts = noisy.weight > 0
    assert bool((counts >= (noisy.xt != noisy.x0)).all()), "a wrong position asks for nothing"
    assert bool((noisy.x0 != MASK).all())
    assert bool((noisy.xt[~counts] == noisy.x0[~counts]).all())
    assert bool((noisy.xt[(noisy.x0 == PAD) & ~counts] == PAD).all()), "a pad was corrupted"


@EACH
def test_the_same_seed_is_the_same_noise_and_another_is_other_noise(corruption: Corruption) -> None:
    x0, rate = texts(8, 64), torch.full((8,), 0.5)
    one, two, other = (corruption(x0, rate, seeded(s)) for s in (3, 3, 4))
    assert torch.equal(one.xt, two.xt)
    assert torch.equal(one.weight, two.weight)
    assert not torch.equal(one.xt, other.xt)


@EACH
def test_noise_drawn_for_all_rows_can_be_shared_out(corruption: Corruption) -> None:
    whole = corruption(texts(6, 32), torch.linspace(0, 1, 6), seeded())
    parts = [whole.rows(slice(0, 2)), whole.rows(torch.tensor([2, 3, 4, 5])).to("cpu")]
    for name in ("xt", "x0", "rate", "weight"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(whole, name))


@EACH
def test_how_much_noise_is_drawn_does_not_depend_on_what_is_found(corruption: Corruption) -> None:
    left = []
    for x0, rate in ((texts(4, 16), 0.3), (torch.full((4, 16), PAD), 1.0)):
        generator = seeded()
        corruption(x0, torch.full((4,), rate), generator)
        left.append(torch.rand(1, generator=generator))
    assert torch.equal(*left)


@EACH
@pytest.mark.parametrize(
    ("x0", "rate"),
    [
        (torch.zeros(2, 3), torch.zeros(2)),
        (torch.zeros(3, dtype=torch.int64), torch.zeros(3)),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3)),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 1)),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0.5, math.nan])),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0.5, 1.5])),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0.5, -0.5])),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1])),
    ],
)
def test_bad_input_is_refused(corruption: Corruption, x0: Tensor, rate: Tensor) -> None:
    with pytest.raises(BadInput, match="expected"):
        corruption(x0, rate, seeded())


@EACH
@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0, 0)])
def test_nothing_stays_nothing(corruption: Corruption, shape: tuple[int, int]) -> None:
    noisy = corruption(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape[0]), seeded())
    assert noisy.xt.shape == shape


@EACH
def test_rows_of_pads_and_rows_of_masks_ask_for_nothing(corruption: Corruption) -> None:
    for x0 in (torch.full((2, 5), PAD), torch.full((2, 5), MASK)):
        noisy = corruption(x0, torch.ones(2), seeded())
        assert torch.equal(noisy.xt, x0)
        assert float(noisy.weight.sum()) == 0


# ---- masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_absorb_keeps_the_rate(rate: float, seed: int) -> None:
    x0 = texts(40, 500, seed)
    noisy = absorb(x0, torch.full((40,), rate), mask_id=MASK, generator=seeded(seed))
    assert within(int((noisy.xt == MASK).sum()), x0.numel(), rate)
    assert torch.equal(noisy.weight > 0, noisy.xt == MASK)


@given(data=st.data(), x0=padded(), least=st.integers(0, 3))
def test_a_rate_of_0_never_corrupts_and_a_rate_of_1_always(
    data: st.DataObject, x0: Tensor, least: int
) -> None:
    rate = torch.tensor(
        data.draw(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=x0.numel(), max_size=x0.numel()))
    ).reshape(x0.shape)
    noisy = absorb(x0, rate, mask_id=MASK, generator=seeded(), pad_id=PAD, at_least=least)
    there = x0 != PAD
    assert bool((noisy.xt[rate == 0] == x0[rate == 0]).all())
    assert bool((noisy.xt[(rate == 1) & there] == MASK).all())
    maskable = ((rate > 0) & there).sum(-1)
    assert bool(((noisy.xt == MASK).sum(-1) >= torch.minimum(maskable, torch.tensor(least))).all())


def test_one_function_serves_rows_and_tokens_and_each_token_has_its_own_rate() -> None:
    heat = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).repeat(4000, 1)
    x0 = texts(4000, 5)
    by_token = absorb(x0, heat, mask_id=MASK, generator=seeded())
    for column, rate in enumerate(heat[0].tolist()):
        assert within(int((by_token.xt[:, column] == MASK).sum()), 4000, rate)
    by_row = absorb(x0, heat[:, 2].contiguous(), mask_id=MASK, generator=seeded())
    assert torch.equal(
        by_row.xt, absorb(x0, heat[:, [2]].expand(4000, 5), mask_id=MASK, generator=seeded()).xt
    )


def test_at_least_takes_those_nearest_to_being_masked() -> None:
    x0 = texts(500, 8)
    rate = torch.full((500,), 0.02)
    few = absorb(x0, rate, mask_id=MASK, generator=seeded())
    some = absorb(x0, rate, mask_id=MASK, generator=seeded(), at_least=2)
    assert bool(((few.xt == MASK) <= (some.xt == MASK)).all())
    assert int((some.xt == MASK).sum(-1).min()) == 2
    assert torch.equal(few.xt, absorb(x0, rate, mask_id=MASK, generator=seeded(), at_least=-3).xt)


def test_what_is_a_mask_already_stays_one_and_asks_for_nothing() -> None:
    x0 = torch.tensor([[1, MASK, 3, MASK]])
    noisy = absorb(x0, torch.ones(1), mask_id=MASK, generator=seeded())
    assert noisy.xt.tolist() == [[MASK] * 4]
    assert noisy.weight.tolist() == [[1, 0, 1, 0]]


# ---- wrong tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("uniform", [0.0, 0.1, 0.25])
def test_hybrid_keeps_the_rate_and_the_share_of_wrong_tokens(rate: float, uniform: float) -> None:
    x0 = torch.randint(0, SPECIAL, (50, 400), generator=seeded(1))  # no special among them
    noisy = hybrid(
        x0,
        torch.full((50,), rate),
        mask_id=MASK,
        vocab_size=V,
        generator=seeded(),
        pad_id=PAD,
        uniform=uniform,
        specials=(SPECIAL,),
    )
    wrong = (noisy.xt != x0) & (noisy.xt != MASK)
    assert within(int((noisy.xt != x0).sum()), x0.numel(), rate)
    assert within(int(wrong.sum()), x0.numel(), 4 * uniform * rate * (1 - rate))
    assert not bool(torch.isin(noisy.xt[wrong], torch.tensor([SPECIAL, PAD])).any())
    if wrong.sum() > 1000:  # every ordinary token but the right one is as likely
        steps = (noisy.xt - x0)[wrong] % SPECIAL
        counts = torch.bincount(steps, minlength=SPECIAL).tolist()
        assert counts[0] == 0
        assert all(within(c, int(wrong.sum()), 1 / (SPECIAL - 1)) for c in counts[1:])


@given(x0=padded(), rate=RATES, seed=st.integers(0, 1000))
def test_hybrid_never_replaces_a_special_token_and_never_draws_one(
    x0: Tensor, rate: float, seed: int
) -> None:
    corruption = Hybrid(MASK, V, PAD, uniform=0.25, visible_weight=0.3, specials=(SPECIAL,))
    noisy = corruption(x0, torch.full((len(x0),), rate), seeded(seed))
    special = x0 == SPECIAL
    assert bool(torch.isin(noisy.xt[special], torch.tensor([SPECIAL, MASK])).all())
    assert bool((x0[noisy.xt == SPECIAL] == SPECIAL).all())
    visible = (noisy.xt != MASK) & (x0 != PAD)
    assert bool((noisy.weight[visible] == torch.tensor(0.3)).all())
    assert bool((noisy.weight[noisy.xt == MASK] == 1).all())


def test_special_tokens_are_masked_at_the_rate_and_nothing_else() -> None:
    x0 = torch.full((50, 200), SPECIAL)
    corruption = Hybrid(MASK, V, PAD, uniform=0.25, specials=(SPECIAL,))
    noisy = corruption(x0, torch.full((50,), 0.5), seeded())
    assert set(noisy.xt.unique().tolist()) == {SPECIAL, MASK}
    assert within(int((noisy.xt == MASK).sum()), x0.numel(), 0.5)


@pytest.mark.parametrize(
    "made",
    [
        lambda: Hybrid(MASK, V, uniform=0.26),
        lambda: Hybrid(MASK, V, uniform=math.nan),
        lambda: Hybrid(MASK, V, visible_weight=-1.0),
        lambda: Hybrid(1, 2),
        lambda: Hybrid(MASK, V, specials=tuple(range(10))),
        lambda: Hybrid(MASK, V, specials=(99,)),
    ],
)
def test_noise_that_cannot_be_is_refused(made: Callable[[], Hybrid]) -> None:
    with pytest.raises(BadInput, match="hybrid"):
        made()


# ---- frequencies ------------------------------------------------------------------------------------------


@given(
    nats=st.lists(st.lists(st.floats(0, 20, width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    rate=RATES,
    strength=st.floats(0, 3),
    pads=st.integers(0, 4),
)
def test_the_mean_rate_stays_and_rare_tokens_go_first(
    nats: list[list[float]], rate: float, strength: float, pads: int
) -> None:
    told, counted = torch.tensor(nats), torch.ones(len(nats), 4, dtype=torch.bool)
    counted[:, 4 - pads :] = pads == 0
    rates = frequency_rates(torch.full((len(nats),), rate), told, strength, counted)
    assert bool(((rates >= 0) & (rates <= 1)).all())
    for row, mine, there in zip(rates, told, counted, strict=True):
        row, mine = row[there], mine[there]
        if not len(row):
            continue
        assert float(row.mean()) == pytest.approx(rate, abs=1e-5)
        in_order = row[mine.argsort(stable=True)]
        assert bool((torch.diff(in_order) >= -1e-6).all())


def test_strength_spreads_the_rates_and_0_leaves_them() -> None:
    told = information(COUNTS)[torch.arange(10)][None]
    half = torch.tensor([0.5])
    spreads = [float(torch.diff(frequency_rates(half, told, s)[0, [0, 9]])) for s in (0.0, 0.1, 0.3, 0.5)]
    assert spreads[0] == 0
    assert spreads == sorted(spreads)
    assert spreads[2] > 0.3


def test_the_masks_follow_and_the_denoiser_is_not_told_whose_rate_it_is() -> None:
    x0 = torch.tensor([[0, 9]]).repeat(5000, 1)
    rate = torch.full((5000,), 0.5)
    corruption = FrequencyAware(MASK, information(COUNTS), PAD, at_least=0)
    noisy = corruption(x0, rate, seeded())
    own = frequency_rates(rate, corruption.information[x0], 0.3)
    assert float(own[0, 1] - own[0, 0]) > 0.3
    for column in (0, 1):
        assert within(int((noisy.xt[:, column] == MASK).sum()), 5000, float(own[0, column]))
    assert bool((noisy.rate == 0.5).all())


def test_information_is_in_nats_and_smoothed() -> None:
    told = information(torch.tensor([7, 0, 0]), smoothing=1.0)
    assert told.tolist() == pytest.approx([-math.log(0.8), -math.log(0.1), -math.log(0.1)])
    for bad in (
        torch.tensor([-1, 2]),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(2, 2, dtype=torch.int64),
    ):
        with pytest.raises(BadInput, match="counts"):
            information(bad)
    with pytest.raises(BadInput, match="smoothing"):
        information(torch.tensor([1]), smoothing=0.0)


def test_frequencies_that_cannot_be_are_refused() -> None:
    half = torch.tensor([0.5])
    for strength in (-1.0, math.nan):
        with pytest.raises(BadInput, match="strength"):
            frequency_rates(half, torch.ones(1, 3), strength)
    for told in (torch.tensor([[math.nan, 1]]), torch.tensor([[-1.0, 1]]), torch.ones(3)):
        with pytest.raises(BadInput, match="expected"):
            frequency_rates(half, told, 0.3)
    with pytest.raises(BadInput, match="tokenizer"):
        FrequencyAware(MASK, torch.ones(4))(torch.tensor([[5]]), half, seeded())


def test_a_corruption_of_ones_own_is_one() -> None:
    def last(x0: Tensor, rate: Tensor, generator: torch.Generator) -> Corrupted:
        level = torch.zeros(x0.shape)
        level[:, -1] = 1
        return absorb(x0, level, mask_id=MASK, generator=generator)

    own: Corruption = last
    assert own(torch.tensor([[1, 2]]), torch.zeros(1), seeded()).xt.tolist() == [[1, MASK]]
