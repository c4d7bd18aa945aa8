# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Options of `halo sample` and `halo eval` to a plan: orders have settings, text is kept whole by default."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny_denoiser

from haloweave.cli.unmasking import Asked, plan_of
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.sampling.orders import Confidence, Order, Strategic
from haloweave.errors import InvalidInput


@pytest.fixture(scope="module")
def loaded() -> Any:
    words = tiny_denoiser.tokenizer()
    return SimpleNamespace(tokenizer=words, denoiser=tiny_denoiser.denoiser(words), told={})


@pytest.mark.parametrize(
    ("order", "sets", "made"),
    [
        ("confidence", (), Confidence()),
        ("confidence", ("order_noise=4.5",), Confidence(4.5)),
        ("strategic", (), Strategic()),
        ("strategic", ("order_weight=0.25",), Strategic(0.25)),
    ],
)
def test_settings_of_an_order_have_names(loaded: Any, order: str, sets: tuple[str, ...], made: Order) -> None:
    assert plan_of(loaded, Asked(order=order, sets=sets)).unmasking.order == made


@pytest.mark.parametrize(
    ("order", "one", "error", "said"),
    [
        ("random", "order_noise=1", InvalidInput, "confidence has"),
        ("confidence", "order_weight=1", InvalidInput, "strategic has"),
        ("confidence", "order_noise=much", InvalidInput, "expected a number"),
        ("confidence", "order_noise=nan", BadInput, "noise >= 0"),
        ("strategic", "order_weight=2", BadInput, "weight in 0..1"),
        ("random", "joins=no", InvalidInput, "joins=no: expected true or false"),
        ("random", "cache=1", InvalidInput, "cache=1: expected true or false"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    loaded: Any, order: str, one: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        plan_of(loaded, Asked(order=order, sets=(one,)))


def test_text_is_kept_whole_unless_somebody_says_otherwise(loaded: Any) -> None:
    assert plan_of(loaded, Asked()).unmasking.joining is loaded.tokenizer.joining
    assert plan_of(loaded, Asked(sets=("joins=true",))).unmasking.joining is loaded.tokenizer.joining
    assert plan_of(loaded, Asked(sets=("joins=false",))).unmasking.joining is None


def test_where_every_token_can_stand_everywhere_nothing_is_watched(loaded: Any) -> None:
    plain = SimpleNamespace(needed=False)
    other: Any = SimpleNamespace(**{**vars(loaded), "tokenizer": SimpleNamespace(joining=plain)})
    assert plan_of(other, Asked()).unmasking.joining is None
