# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Scars: the target stays aligned whatever went, came or changed; heat is told; what is locked is right."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_denoiser
import torch
from denoisers import MAX_LEN, tiny
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from haloweave.diffusion import build
from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.denoisers.base import Hidden
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.loss import masked_mean_ce
from haloweave.diffusion.scars import Scars
from haloweave.diffusion.train import Material
from haloweave.diffusion.training import curves
from haloweave.diffusion.training.settings import settled

MASK, PAD, END, V = 100, 101, 102, 103


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scars(**options: Any) -> Scars:
    return Scars(**{"mask_id": MASK, "pad_id": PAD, "vocab_size": V, "protected": (END,), **options})


def counting(rows: int, length: int, pads: int = 0) -> Tensor:
    """Rows 0, 1, 2...: what is left tells where it was."""
    x0 = torch.arange(length).repeat(rows, 1)
    x0[:, length - pads :] = PAD
    return x0


def visible(noisy: Corrupted) -> Tensor:
    return (noisy.xt != MASK) & (noisy.xt != PAD)


def hot(noisy: Corrupted) -> Tensor:
    return visible(noisy) & (noisy.rate > 0)


def share(some: Tensor, of: Tensor) -> float:
    return float(some[of].float().mean())


# ---- laws --------------------------------------------------------------------------------------------


@given(
    rate=st.floats(0, 1, width=32),
    culled=st.floats(0, 1),
    deleted=st.floats(0, 1),
    slack=st.integers(0, 3),
    wrong=st.floats(0, 1),
    near=st.floats(0, 1),
    spurious=st.floats(0, 1),
    spared=st.floats(0, 1),
    locked=st.floats(0, 1),
    spread=st.floats(0, 5),
    pads=st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_laws(rate: float, pads: int, seed: int, **options: Any) -> None:
    x0 = counting(3, 20, pads)
    x0[:, 4:5] = END if pads < 16 else PAD
    noisy = scars(**options)(x0, torch.full((3,), rate), seeded(seed))
    assert noisy.xt.shape == noisy.x0.shape == noisy.rate.shape == noisy.weight.shape == x0.shape
    masked, locked = noisy.xt == MASK, noisy.rate == 0
    # What is locked, and what is no text, is exactly what it was, and asks for nothing.
    assert torch.equal(noisy.xt[locked], noisy.x0[locked])
    assert bool((noisy.weight[locked] == 0).all())
    assert bool(locked[(noisy.xt == PAD) | (noisy.xt == END)].all())
    assert bool((noisy.rate[masked] == 1).all())
    assert bool(((noisy.rate >= 0) & (noisy.rate <= 1)).all())
    # Everything else is asked for, right or wrong alike.
    assert bool((noisy.weight[masked] == 1).all())
    assert bool((noisy.weight[hot(noisy)] == 0.5).all())
    # The target is the text, with less of it and nothing else.
    assert not bool((noisy.x0 == MASK).any())
    for target, before in zip(noisy.x0.tolist(), x0.tolist(), strict=True):
        rest = iter(before)
        assert all(token in rest for token in target if token != PAD)
        assert target.count(END) <= before.count(END)


@given(seed=st.integers(0, 2**32), rate=st.floats(0, 1, width=32))
def test_without_wear_it_is_culled_spans(seed: int, rate: float) -> None:
    made = scars(wrong=0.0, spurious=0.0, locked=0.0, culled=1.0)
    x0, rates = counting(3, 20), torch.full((3,), rate)
    noisy, spans = made(x0, rates, seeded(seed)), made._spans(x0, rates, seeded(seed))
    assert torch.equal(noisy.xt, spans.xt)
    assert torch.equal(noisy.x0, spans.x0)


def test_the_same_generator_gives_the_same_and_rows_have_noise_of_their_own() -> None:
    x0, rate = counting(4, 60), torch.full((4,), 0.5)
    one, same, other = (scars()(x0, rate, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one.xt, same.xt)
    assert torch.equal(one.rate, same.rate)
    assert not torch.equal(one.xt, other.xt)
    assert not torch.equal(one.rate[0], one.rate[1])


def test_it_draws_as_much_noise_whatever_it_finds() -> None:
    left = []
    for x0 in (counting(4, 60), counting(4, 60, 60), torch.full((4, 60), END)):
        generator = seeded()
        scars()(x0, torch.full((4,), 0.5), generator)
        left.append(float(torch.rand((), generator=generator)))
    assert len(set(left)) == 1


def test_empty_rows_stay_empty() -> None:
    assert scars()(counting(2, 0), torch.full((2,), 0.5), seeded()).xt.shape == (2, 0)
    assert scars()(counting(0, 5), torch.zeros(0), seeded()).xt.shape == (0, 5)


# ---- shares ------------------------------------------------------------------------------------------

MANY = counting(600, 90)


def test_rows_are_worn_unlike_where_some_are_spared() -> None:
    made = scars(culled=0.0, locked=0.0, spread=0.0, spurious=0.0, wrong=0.6, spared=1.0)
    noisy = made(MANY, torch.ones(600), seeded())
    each = (noisy.xt != noisy.x0).float().mean(1)
    assert float(each.mean()) == pytest.approx(0.3, abs=0.02)
    tenths = torch.tensor([0.1, 0.5, 0.9])
    assert torch.quantile(each, tenths).tolist() == pytest.approx((0.6 * tenths).tolist(), abs=0.04)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.6, 1.0])
def test_heat_is_smooth_around_the_rows_rate_and_a_share_is_locked(rate: float) -> None:
    noisy = scars(deleted=0.0, spurious=0.0)(MANY, torch.full((600,), rate), seeded())
    assert share(noisy.xt == MASK, noisy.x0 != PAD) == pytest.approx(0.3 * rate, abs=0.02)
    if rate == 0:
        assert not bool(noisy.rate.any())
        return
    assert share(noisy.rate == 0, visible(noisy)) == pytest.approx(0.3, abs=0.02)
    heat = noisy.rate[hot(noisy)]
    assert float(heat.mean()) == pytest.approx(rate, abs=0.05)
    if rate == 1:
        assert bool((heat == 1).all())
        return
    both = hot(noisy)[:, 1:] & hot(noisy)[:, :-1]
    step = (noisy.rate[:, 1:] - noisy.rate[:, :-1]).abs()[both]
    assert float(step.mean()) < 0.5 * float(heat.std()), "neighbours are of like heat"


def test_locked_tokens_stand_in_runs_and_alone() -> None:
    noisy = scars(culled=0.0, spurious=0.0)(MANY, torch.full((600,), 0.5), seeded())
    locked = (noisy.rate == 0)[:, 1:-1]
    beside = (noisy.rate == 0)[:, 2:].int() + (noisy.rate == 0)[:, :-2].int()
    assert share(beside == 2, locked) > 0.2 > 0.3**2, "more often between locked ones than by chance"
    assert share(beside == 0, locked) > 0.2


def test_the_hotter_the_likelier_wrong() -> None:
    made = scars(culled=0.0, spurious=0.0, near=0.0, wrong=0.4)
    noisy = made(counting(4000, 90), torch.rand(4000, generator=seeded(1)), seeded())
    for low, high in ((0.0, 0.2), (0.4, 0.6), (0.8, 1.0)):
        band = (noisy.rate > low) & (noisy.rate <= high)
        expected = 0.4 * float(noisy.rate[band].mean())
        spare = 5 * math.sqrt(expected / int(band.sum()))
        assert share(noisy.xt != noisy.x0, band) == pytest.approx(expected, abs=spare)


def test_near_ones_come_from_the_row_and_others_from_anywhere() -> None:
    x0 = counting(600, 30)
    for near, least, most in ((1.0, 0.95, 1.0), (0.0, 0.25, 0.35), (0.5, 0.6, 0.7)):
        noisy = scars(culled=0.0, spurious=0.0, near=near)(x0, torch.full((600,), 0.8), seeded())
        wrong = noisy.xt != noisy.x0
        assert least <= share(noisy.xt < 30, wrong) <= most
        assert int(noisy.xt.max()) < MASK


def test_needless_tokens_follow_hot_ones_and_become_nothing() -> None:
    made = scars(culled=0.0, wrong=0.0, spurious=0.3)
    noisy = made(MANY, torch.full((600,), 1.0), seeded())
    needless = (noisy.x0 == PAD) & visible(noisy)
    assert share(needless, hot(noisy)) == pytest.approx(0.3 / 1.3, abs=0.01)
    assert not bool(needless[:, 0].any())
    assert bool((noisy.rate[needless] == noisy.rate.roll(1, 1)[needless]).all()), "as hot as what it follows"
    assert bool((noisy.xt[needless] != noisy.xt.roll(1, 1)[needless]).all()), (
        "the same twice: which one goes?"
    )
    kept = [[t for t in row if t != PAD] for row in noisy.x0.tolist()]
    assert all(row == list(range(len(row))) for row in kept)


# ---- with a denoiser, and what is refused ------------------------------------------------------------


def test_a_denoiser_is_told_each_tokens_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = tiny("transformer", time_conditioning=True)
    noisy = Scars(3, 4, 23)(torch.randint(5, 23, (2, MAX_LEN), generator=seeded()), torch.rand(2), seeded())
    told = []
    hidden = denoiser.hidden

    def listen(xt: Tensor, t: Tensor | None = None, previous: Tensor | None = None) -> Hidden:
        told.append(t)
        return hidden(xt, t, previous)

    monkeypatch.setattr(denoiser, "hidden", listen)
    masked_mean_ce(denoiser, noisy).total.backward()  # type: ignore[no-untyped-call]
    assert told[0] is noisy.rate
    level: Any = denoiser.embedding
    assert bool(level.level.net[0].weight.grad.any()), "heat is learnt from"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"culled": 1.5}, "in 0..1"),
        ({"wrong": -0.1}, "in 0..1"),
        ({"locked": math.nan}, "in 0..1"),
        ({"spread": math.inf}, "spread >= 0"),
        ({"visible_weight": -1.0}, "visible_weight"),
        ({"words": 0.5}, "words >= 1"),
        ({"pad_id": MASK}, "two ids"),
        ({"vocab_size": 101}, "special ids in 0..100"),
        ({"specials": tuple(range(99))}, "two ordinary tokens"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        scars(**options)


def test_rates_and_tokens_are_checked() -> None:
    with pytest.raises(BadInput, match="rate"):
        scars()(counting(2, 5), torch.tensor([0.5, 1.5]), seeded())
    with pytest.raises(BadInput, match="one per row"):
        scars()(counting(2, 5), torch.full((3,), 0.5), seeded())
    with pytest.raises(BadInput, match="integers"):
        scars()(counting(2, 5).float(), torch.full((2,), 0.5), seeded())


def test_training_without_heat_is_refused() -> None:
    given = {"data_dir": ("texts",), "corruption": "scars"}
    with pytest.raises(BadInput, match="set time_conditioning = true"):
        settled(given)
    with pytest.raises(BadInput, match="no likelihood bound"):
        settled({**given, "time_conditioning": True, "objective": "elbo"})
    run = settled({**given, "time_conditioning": True, "wrong": 0.2, "words": 2.0})
    assert run.recipe.corruption_options == {"wrong": 0.2, "words": 2.0}
    known = {"mask_id": MASK, "pad_id": PAD, "vocab_size": V, "specials": (END,), "information": None}
    made = build.corruption("scars", known, run.recipe.corruption_options)
    assert isinstance(made, Scars)
    assert (made.wrong, made.words, made.specials) == (0.2, 2.0, (END,))


def test_a_trainer_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_picture", lambda columns, path: None)
    words = tiny_denoiser.tokenizer()
    material = Material(
        tiny_denoiser.denoiser(words, time_conditioning=True),
        words,
        tiny_denoiser.corpus(tmp_path / "c", words),
    )
    recipe = replace(tiny_denoiser.RECIPE, max_steps=60, batch_size=8, lr=1e-2, corruption="scars")
    told = tiny_denoiser.losses(tiny_denoiser.trainer(material, tmp_path / "out", recipe))
    first, last = ([r.loss for r in part] for part in (told[:10], told[-10:]))
    assert sum(last) < 0.8 * sum(first)
