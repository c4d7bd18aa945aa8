# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Names to classes: every name builds, every wrong one is told the right ones."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any, ClassVar

import pytest
import torch
from denoisers import EACH, MASK, PAD, V, config_for, texts

from haloweave.diffusion import build
from haloweave.diffusion.corrupt import Absorb, Corrupted, Hybrid
from haloweave.diffusion.denoisers.base import DenoiserConfig
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.sampling.orders import Margin
from haloweave.diffusion.schedule import Cosine

KNOWN: dict[str, Any] = {
    "mask_id": MASK,
    "pad_id": PAD,
    "vocab_size": V,
    "specials": (0, 1, 2),
    "protected": (0, 1, 2),
    "information": torch.linspace(1, 9, V),
    "starts": torch.arange(V) % 3 == 0,
}
BASE = {"vocab_size": V, "mask_id": MASK, "pad_id": PAD}


@EACH
def test_a_config_survives_json(arch: str) -> None:
    config = config_for(arch, dropout=0.25, time_conditioning=True, borrowed_dim=9, projection_rank=2)
    told = json.loads(json.dumps({"arch": arch, **asdict(config)}))
    again = build.config_of(told)
    assert again == config
    assert type(again) is type(config)
    with pytest.raises(AttributeError):
        again.d_model = 7  # type: ignore[misc]


@EACH
def test_every_name_is_that_of_its_class_and_builds_it(arch: str) -> None:
    config_class, denoiser_class = build.ARCHITECTURES[arch]
    assert config_class.arch == arch
    built = build.denoiser(config_for(arch))
    assert type(built) is denoiser_class
    assert built.config == config_for(arch)


@EACH
def test_weights_come_from_the_callers_seed(arch: str) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(build.denoiser(config_for(arch))(texts())[..., PAD])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@EACH
def test_defaults_make_a_whole_denoiser(arch: str) -> None:
    config = build.config_of({"arch": arch, **BASE})
    assert config == build.ARCHITECTURES[arch][0](**BASE)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({**BASE}, "arch = one of transformer, eco_hybrid, hierarchical"),
        ({**BASE, "arch": "lstm"}, "one of transformer, eco_hybrid, hierarchical"),
        ({**BASE, "arch": ["transformer"]}, "one of transformer"),
        ({**BASE, "arch": "transformer", "conv_kernel": 7}, "got conv_kernel"),
        ({"arch": "transformer", "mask_id": MASK}, "expected vocab_size"),
        ({**BASE, "arch": "transformer", "d_model": "256"}, "d_model should be int, got '256'"),
        ({**BASE, "arch": "transformer", "d_model": 256.0}, "d_model should be int"),
        ({**BASE, "arch": "transformer", "n_layers": True}, "n_layers should be int"),
        ({**BASE, "arch": "transformer", "dropout": None}, "dropout should be float"),
        ({**BASE, "arch": "transformer", "time_conditioning": 1}, "time_conditioning should be bool"),
        ({**BASE, "arch": "transformer", "pad_id": "x"}, "pad_id should be int | None"),
        ({**BASE, "arch": "eco_hybrid", "order": "both"}, "order should be"),
        ({**BASE, "arch": "transformer", "mask_id": V}, "mask_id should be in"),
        ({**BASE, "arch": "transformer", "pad_id": MASK}, "two tokens"),
        ({**BASE, "arch": "transformer", "d_model": 30}, "heads divide"),
        ({**BASE, "arch": "transformer", "dropout": float("nan")}, "dropout"),
    ],
)
def test_what_makes_no_config_is_told_why(told: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        build.config_of(told)
    assert said in str(caught.value)


def test_whole_numbers_are_numbers() -> None:
    assert build.config_of({"arch": "transformer", **BASE, "dropout": 0}).dropout == 0


def test_a_config_of_nobody_builds_nothing() -> None:
    class Foreign(DenoiserConfig):
        arch: ClassVar[str] = "transformer"

    for config in (DenoiserConfig(**BASE), Foreign(**BASE)):
        with pytest.raises(BadInput, match="expected the config of transformer, eco_hybrid, hierarchical"):
            build.denoiser(config)


@pytest.mark.parametrize("name", list(build.SCHEDULES))
def test_every_schedule_is_one(name: str) -> None:
    rates = build.schedule(name).rate(torch.tensor([0.0, 0.5, 1.0]))
    assert rates[0] == 0
    assert rates[1] < rates[2] <= 1


@pytest.mark.parametrize("name", list(build.ORDERS))
def test_every_order_is_one(name: str) -> None:
    assert callable(build.order(name).scores)


@pytest.mark.parametrize("name", list(build.CORRUPTIONS))
def test_every_corruption_takes_what_it_needs_from_what_is_known(name: str) -> None:
    corruption, x0 = build.corruption(name, KNOWN), texts(4, 20, masked=0)
    noisy = corruption(x0, torch.full((4,), 0.5), torch.Generator().manual_seed(0))
    assert isinstance(noisy, Corrupted)
    assert (noisy.xt == MASK).any()
    for field in fields(build.CORRUPTIONS[name]):  # type: ignore[arg-type]
        if field.name in KNOWN:
            assert getattr(corruption, field.name) is KNOWN[field.name]


def test_names_are_those_of_the_specification() -> None:
    assert isinstance(build.schedule("cosine"), Cosine)
    assert isinstance(build.order("margin"), Margin)
    assert isinstance(build.corruption("absorb", KNOWN), Absorb)


def test_options_are_fields_and_win_over_what_is_known() -> None:
    made = build.corruption("hybrid", KNOWN, {"uniform": 0.2, "specials": (5,)})
    assert isinstance(made, Hybrid)
    assert (made.uniform, made.specials, made.mask_id) == (0.2, (5,), MASK)


@pytest.mark.parametrize(
    ("name", "known", "options", "said"),
    [
        ("blur", KNOWN, {}, "expected one of absorb, hybrid, frequency, spans, scars, clusters, got 'blur'"),
        ("absorb", KNOWN, {"uniform": 0.1}, "got uniform"),
        ("hybrid", KNOWN, {"uniform": "much"}, "uniform should be float, got 'much'"),
        ("frequency", {"mask_id": MASK}, {}, "expected information"),
        ("spans", {}, {}, "expected mask_id, pad_id"),
        ("spans", KNOWN, {"words": 0.5}, "words >= 1"),
    ],
)
def test_what_makes_no_corruption_is_told_why(
    name: str, known: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        build.corruption(name, known, options)
    assert said in str(caught.value)


def test_unknown_schedules_and_orders_are_told_the_known_ones() -> None:
    with pytest.raises(BadInput, match="schedule: expected one of cosine, linear, log_linear, got 'sine'"):
        build.schedule("sine")
    with pytest.raises(BadInput, match=r"order: expected one of random, .*strategic, got 'first'"):
        build.order("first")
