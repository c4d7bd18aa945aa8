# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Masks on whole units: all of a unit or none, at the rate that was told, whatever the scripts' factors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_denoiser
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from haloweave.diffusion import build
from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.script_noise import WholeUnits
from haloweave.diffusion.text.clusters import clusters
from haloweave.diffusion.tokenizer import Tokenizer, _script
from haloweave.diffusion.training.noise import noise_of
from haloweave.diffusion.training.recipe import Recipe
from haloweave.diffusion.training.settings import settled

V, MASK, PAD, CONTROL = 12, 10, 11, 9
STARTS = torch.tensor([True, True, False, False, False, True, False, True, True, True, True, True])
CONTINUES = torch.tensor([i in (3, 4) for i in range(V)])
UNFINISHED = torch.tensor([i in (2, 8) for i in range(V)])
SCRIPTS = torch.tensor([1, 2, 2, 2, 1, 1, 1, 0, 0, 0, 0, 0])
RATES = st.floats(0, 1, width=32)
FACTORS = st.sampled_from([0.0, 0.5, 1.0, 3.0])


def noise(**options: Any) -> WholeUnits:
    told = {"starts": STARTS, "continues": CONTINUES, "unfinished": UNFINISHED, "scripts": SCRIPTS}
    return WholeUnits(**{"mask_id": MASK, "pad_id": PAD, "untouched": (CONTROL,), **told, **options})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def padded(draw: st.DrawFn) -> Tensor:
    rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 14))
    ids = st.lists(st.integers(0, CONTROL), min_size=length, max_size=length)
    x0 = torch.tensor([draw(ids) for _ in range(rows)])
    for row in x0:
        row[draw(st.integers(0, length)) :] = PAD
    return x0


def units(row: list[int], unit: str) -> list[list[int]]:
    """Places by unit, token by token: what the corruption works out all at once."""
    found: list[list[int]] = []
    for i, token in enumerate(row):
        before = row[i - 1] if i else PAD
        joined = bool(CONTINUES[token] or (UNFINISHED[before] and not STARTS[token]))
        begins = not joined if unit == "cluster" else bool(STARTS[token]) and not joined
        fixed = {MASK, PAD, CONTROL}
        if i and not begins and token not in fixed and before not in fixed:
            found[-1].append(i)
        else:
            found.append([i])
    return found


UNIT = pytest.mark.parametrize("unit", ["word", "cluster"])


@UNIT
@given(x0=padded(), rate=RATES, latin=FACTORS, hindi=FACTORS, seed=st.integers(0, 2**32))
def test_a_unit_is_masked_as_a_whole(
    unit: str, x0: Tensor, rate: float, latin: float, hindi: float, seed: int
) -> None:
    corruption = noise(unit=unit, latin_rate=latin, devanagari_rate=hindi)
    noisy = corruption(x0, torch.full((len(x0),), rate), seeded(seed))
    for xt, row in zip(noisy.xt.tolist(), x0.tolist(), strict=True):
        for places in units(row, unit):
            assert len({xt[i] == MASK for i in places}) == 1
    assert bool((noisy.rate == torch.tensor(rate)).all()), "a unit's own rate would tell what is hidden"
    assert torch.equal(noisy.weight > 0, noisy.xt == MASK)
    assert torch.equal(noisy.x0, x0)


@UNIT
@given(x0=padded(), rate=RATES, latin=FACTORS, hindi=FACTORS)
def test_the_mean_rate_of_a_row_is_what_was_told(
    unit: str, x0: Tensor, rate: float, latin: float, hindi: float
) -> None:
    """By the probabilities themselves, not by counting: the levels of the tokens that may be masked."""
    corruption = noise(unit=unit, latin_rate=latin, devanagari_rate=hindi)
    fixed = torch.isin(x0, torch.tensor([MASK, PAD, CONTROL]))
    row_rate = torch.full((len(x0),), rate)
    levels = corruption._levels(x0, row_rate, corruption._units(x0, fixed), fixed)
    assert bool(((levels >= 0) & (levels <= 1)).all())
    for level, there in zip(levels, ~fixed, strict=True):
        if bool(there.any()):
            assert float(level[there].double().mean()) == pytest.approx(rate, abs=1e-5)


def within(count: float, n: int, p: float) -> bool:
    return abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1e-9


@UNIT
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_each_token_is_masked_at_the_rate_whatever_its_unit(unit: str, rate: float) -> None:
    row = torch.tensor([1, 2, 3, 0, 4, 6, 5, 8, 2, 2, 7])
    noisy = noise(unit=unit, at_least=0)(row.repeat(8000, 1), torch.full((8000,), rate), seeded())
    for column in range(len(row)):
        assert within(int((noisy.xt[:, column] == MASK).sum()), 8000, rate)


def test_factors_tell_scripts_apart_and_the_mean_stays() -> None:
    row = torch.tensor([0, 1, 5, 1, 7, 7])  # words of one token: Latin, Hindi, Latin, Hindi, other, other
    corruption = noise(unit="word", devanagari_rate=2.0, latin_rate=1.0, other_rate=0.0, at_least=0)
    noisy = corruption(row.repeat(8000, 1), torch.full((8000,), 0.3), seeded())
    share = (noisy.xt == MASK).sum(0).tolist()
    for column, expected in enumerate([0.3, 0.6, 0.3, 0.6, 0.0, 0.0]):
        assert within(share[column], 8000, expected)


def test_where_a_factor_would_leave_0_to_1_the_row_is_spread_less() -> None:
    x0 = torch.tensor([[0, 1, 5, 1]]).repeat(2, 1)
    corruption = noise(unit="word", devanagari_rate=3.0, latin_rate=1.0)
    fixed = torch.zeros_like(x0, dtype=torch.bool)
    levels = corruption._levels(x0, torch.tensor([0.8, 1.0]), corruption._units(x0, fixed), fixed)
    assert levels[0].tolist() == pytest.approx([0.6, 1.0, 0.6, 1.0])
    assert levels[1].tolist() == [1.0] * 4


@UNIT
@given(x0=padded(), least=st.integers(0, 5), seed=st.integers(0, 99))
def test_at_least_is_kept_in_whole_units_and_controls_and_pads_stay(
    unit: str, x0: Tensor, least: int, seed: int
) -> None:
    noisy = noise(unit=unit, at_least=least)(x0, torch.full((len(x0),), 0.05), seeded(seed))
    kept = torch.isin(x0, torch.tensor([PAD, CONTROL]))
    assert torch.equal(noisy.xt[kept], x0[kept])
    assert bool(((noisy.xt == MASK).sum(1) >= (~kept).sum(1).clamp(max=least)).all())
    few = noise(unit=unit, at_least=0)(x0, torch.full((len(x0),), 0.05), seeded(seed))
    assert bool(((few.xt == MASK) <= (noisy.xt == MASK)).all())


def test_the_same_seed_is_the_same_noise_and_as_much_is_drawn_whatever_is_found() -> None:
    x0 = torch.randint(0, CONTROL, (4, 16), generator=seeded(1))
    rate, left = torch.full((4,), 0.5), []
    one, two, other = (noise()(x0, rate, seeded(s)) for s in (3, 3, 4))
    assert torch.equal(one.xt, two.xt)
    assert not torch.equal(one.xt, other.xt)
    for text in (x0, torch.full((4, 16), PAD), torch.full((4, 16), MASK)):
        generator = seeded()
        noisy = noise()(text, rate, generator)
        left.append(torch.rand(1, generator=generator))
        if text is not x0:
            assert torch.equal(noisy.xt, text)
            assert float(noisy.weight.sum()) == 0
    assert torch.equal(left[0], left[1])
    assert torch.equal(left[0], left[2])


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0, 0)])
def test_nothing_stays_nothing(shape: tuple[int, int]) -> None:
    assert noise()(torch.zeros(shape).long(), torch.zeros(shape[0]), seeded()).xt.shape == shape


def test_without_what_a_tokenizer_knows_each_token_is_a_unit() -> None:
    noisy = WholeUnits(MASK, at_least=0)(torch.zeros(50, 400).long(), torch.full((50,), 0.4), seeded())
    assert isinstance(noisy, Corrupted)
    assert within(int((noisy.xt == MASK).sum()), 20000, 0.4)
    assert int(((noisy.xt[:, 1:] == MASK) != (noisy.xt[:, :-1] == MASK)).sum()) > 8000


@pytest.mark.parametrize(
    "options",
    [
        {"latin_rate": -1.0},
        {"latin_rate": math.nan},
        {"other_rate": math.inf},
        {"latin_rate": 0.0, "devanagari_rate": 0.0, "other_rate": 0.0},
        {"starts": torch.zeros(V)},
        {"continues": torch.zeros(V, 1, dtype=torch.bool)},
        {"scripts": torch.full((V,), 3)},
        {"scripts": torch.zeros(V, dtype=torch.int32)},
        {"unit": "words"},
    ],
)
def test_noise_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="expected"):
        noise(**options)


@pytest.mark.parametrize(
    ("x0", "rate"),
    [
        (torch.zeros(2, 3), torch.zeros(2)),
        (torch.zeros(3).long(), torch.zeros(3)),
        (torch.zeros(2, 3).long(), torch.zeros(3)),
        (torch.zeros(2, 3).long(), torch.zeros(2, 3)),
        (torch.zeros(2, 3).long(), torch.tensor([0.5, math.nan])),
        (torch.zeros(2, 3).long(), torch.tensor([0.5, 1.5])),
        (torch.full((2, 3), V), torch.zeros(2)),
        (torch.full((2, 3), -1), torch.zeros(2)),
    ],
)
def test_bad_input_is_refused(x0: Tensor, rate: Tensor) -> None:
    with pytest.raises(BadInput, match="expected"):
        noise()(x0, rate, seeded())


# ---- over a real tokenizer -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return tiny_denoiser.tokenizer(900)


LETTERS = "कमनस्ि्ा्रत्षे ab c1\u200dक्ष,नी"


def told_by(words: Tokenizer) -> dict[str, Any]:
    return {
        "mask_id": words.mask_id,
        "pad_id": words.pad_id,
        "starts": words.starts_word,
        "continues": words.continues_cluster,
        "unfinished": words.unfinished_cluster,
        "scripts": words.scripts,
    }


@UNIT
@given(text=st.text(st.sampled_from(LETTERS), min_size=4, max_size=40), seed=st.integers(0, 999))
def test_no_cluster_of_a_text_is_half_masked(words: Tokenizer, unit: str, text: str, seed: int) -> None:
    ids = words.encode(text)
    text = words.decode(ids)
    made: WholeUnits = build.corruption("clusters", told_by(words), {"unit": unit})  # type: ignore[assignment]
    noisy = made(torch.tensor([ids]), torch.tensor([0.5]), seeded(seed))
    masked = [
        bool(hidden)
        for hidden, size in zip(
            noisy.xt[0] == words.mask_id, words.bytes_per_token[ids].tolist(), strict=True
        )
        for _ in range(size)
    ]
    at = 0
    for cluster in clusters(text):
        size = len(cluster.encode())
        if cluster[0].isalpha():
            assert len(set(masked[at : at + size])) == 1, cluster
        at += size


def test_what_a_tokenizer_tells(words: Tokenizer) -> None:
    assert len(words.scripts) == len(words.continues_cluster) == len(words.unfinished_cluster)
    by_piece = {words.decode([i]): i for i in range(words.vocab_size)}
    assert int(words.scripts[by_piece["a"]]) == 1
    hindi = next(i for piece, i in by_piece.items() if piece.strip().startswith("न"))
    assert int(words.scripts[hindi]) == 2
    assert int(words.scripts[by_piece[" "]]) == 0
    assert not bool(words.continues_cluster[[by_piece["a"], by_piece[" "], hindi]].any())
    spelt = words.encode("\u0bb8\u0bcd\u0ba4")  # a cluster without a token: bytes
    assert bool(words.continues_cluster[spelt].all())


@pytest.mark.parametrize(
    ("piece", "script"),
    [
        (b" \xe0\xa4", 2),  # the commonest token of Hindi in bytes: a letter of which the rest is to come
        (b"\xa8\xe0\xa4", 2),
        (b"\xe0\xa5", 2),
        (b"\xe0", 0),
        (b"\xa4\x95", 0),
        (b" the \xe0\xa4", 1),
        ("नa".encode(), 2),
        (b"1.", 0),
        (b"", 0),
    ],
)
def test_the_script_of_bytes(piece: bytes, script: int) -> None:
    assert _script(piece) == script


def test_training_takes_it_by_name_and_no_bound_is_claimed(words: Tokenizer, tmp_path: Any) -> None:
    given_ = {"data_dir": (tmp_path,), "corruption": "clusters", "unit": "word", "latin_rate": 0.5}
    recipe = settled(given_).recipe
    assert dict(recipe.corruption_options) == {"unit": "word", "latin_rate": 0.5}
    corpus = tiny_denoiser.corpus(tmp_path, words)
    made = noise_of(recipe, words, corpus).corruption
    assert isinstance(made, WholeUnits)
    assert made.starts is words.starts_word
    assert words.eos_id not in made.untouched, "how a text ends is learned too"
    with pytest.raises(BadInput):
        settled({**given_, "objective": "elbo"})
    with pytest.raises(BadInput):
        Recipe(corruption="clusters", objective="elbo")
