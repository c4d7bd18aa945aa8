# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One query over two banks of rows: the same numbers as over one, and only where it pays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, VOCAB

from haloweave.engine.contract import examine
from haloweave.engine.hf import banks
from haloweave.engine.hf.engine import HFEngine
from haloweave.errors import EngineFault
from haloweave.memory.edit import Edit, Splice, Surgery
from haloweave.memory.mirror import Mirror
from haloweave.memory.tokens import Source, Tokens


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_two_banks_give_what_one_product_gives(
    heads: int, groups: int, half: int, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(half + 1, 2 * half))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    q, key, value = (torch.randn(heads, n, 8, dtype=torch.float64) for n in (groups, 2 * half, 2 * half))
    weights = torch.rand(heads, groups, rows, dtype=torch.float64)
    want = q @ key[:, :rows].transpose(1, 2)
    assert torch.allclose(banks.scores(q, key, rows), want, rtol=0, atol=1e-12)
    assert torch.allclose(banks.mixed(weights, value), weights @ value[:, :rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("heads", "rows", "capacity", "threads", "expected"),
    [
        (3, 4096, 4096, 2, True),  # 3 halves each, where one thread had two wholes
        (5, 4096, 4096, 2, True),
        (3, 3200, 4096, 2, True),
        (3, 3000, 4096, 2, False),  # more of it is empty than is won
        (9, 3000, 4096, 2, False),
        (4, 4096, 4096, 2, False),  # shared evenly as it is
        (8, 4096, 4096, 5, False),
        (3, 4096, 4096, 1, False),
        (1, 4096, 4096, 2, False),  # a single product is divided by the library
        (3, 1000, 1000, 2, False),  # too short to matter
        (8, 4096, 4096, 3, False),  # 6 halves against 3 wholes
    ],
)
def test_it_is_done_only_where_the_busiest_thread_reads_less(
    heads: int, rows: int, capacity: int, threads: int, expected: bool
) -> None:
    assert banks.pays(heads, rows, capacity, threads) is expected


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three threads, on which four heads are shared unevenly, and no row too few. Notes each use of banks."""
    if not torch.backends.mkl.is_available():
        pytest.skip("two banks are for MKL")
    noted: list[int] = []
    mixed = banks.mixed

    def counted(*given: torch.Tensor) -> torch.Tensor:
        noted.append(1)
        return mixed(*given)

    monkeypatch.setattr(banks, "_LONG", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(banks, "mixed", counted)
    return noted


@pytest.mark.parametrize("name", ["phi", "gpt_neox"])
def test_the_contract_holds_over_two_banks(name: str, used: list[int]) -> None:
    verdicts = examine(HFEngine(ARCHITECTURES[name](0), capacity=61), ARCHITECTURES[name](0), sequences=12)
    assert all(v.within(1e-4) for v in verdicts)
    assert used


def test_a_single_token_is_read_over_two_banks_and_nothing_else_is(used: list[int]) -> None:
    engine = HFEngine(ARCHITECTURES["phi"](0), capacity=64)
    ids = np.random.default_rng(0).integers(0, VOCAB, 64)
    engine.feed(ids[:48])
    engine.feed(ids[:1])
    assert used  # 49 of 64
    used.clear()
    engine.feed(ids[:2])
    assert not used
    half = HFEngine(ARCHITECTURES["phi"](0), capacity=128)
    half.feed(ids[:48])
    half.feed(ids[:1])
    assert not used
    low = HFEngine(ARCHITECTURES["phi"](0).to(torch.bfloat16), capacity=64)
    low.feed(ids[:48])
    low.feed(ids[:1])
    assert not used


# ---- nothing may stay behind the rows that count ---------------------------------------------------------


@contextmanager
def broken(model: Any) -> Iterator[None]:
    """The values of the last layer come out as NaN."""
    weight = model.model.layers[-1].self_attn.v_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def after(engine: HFEngine, ids: np.ndarray) -> np.ndarray:
    return engine.feed(ids).logits


def test_a_failed_feed_leaves_nothing(used: list[int]) -> None:
    """A second bank reads rows that are not filled: NaN would come through, whatever its weight."""
    model = ARCHITECTURES["phi"](0)
    engine, other = HFEngine(model, capacity=64), HFEngine(ARCHITECTURES["phi"](0), capacity=64)
    ids = np.random.default_rng(0).integers(0, VOCAB, 48)
    after(engine, ids)
    after(other, ids)
    with broken(model), pytest.raises(EngineFault):
        engine.feed(ids[:9])
    assert engine.rows == 48
    assert np.array_equal(after(engine, ids[:1]), after(other, ids[:1]))
    assert used


def test_a_failed_patch_leaves_nothing_once_the_rows_are_rebuilt(used: list[int]) -> None:
    model = ARCHITECTURES["phi"](0)
    engine = HFEngine(model, capacity=64)
    ids = np.random.default_rng(0).integers(0, VOCAB, 50)
    mirror = Mirror()
    engine.feed(ids)
    mirror.append(Tokens.make(ids, first_uid=mirror.view.next_uid, source=Source.USER))
    born = Tokens.make(ids[:8], first_uid=mirror.view.next_uid, source=Source.MODEL)
    patch = Edit(
        mirror.view.revision,
        mirror.view.tick,
        "test",
        Surgery.PATCH,
        (Splice(50, mirror.view.tokens[50:50], born),),
    )
    with broken(model), pytest.raises(EngineFault):
        engine.kv.apply(patch)
    engine.kv.rebuild(ids)
    assert np.isfinite(after(engine, ids[:1])).all()
    assert used


def test_a_bad_image_leaves_nothing_once_a_good_one_is_loaded(used: list[int]) -> None:
    engine = HFEngine(ARCHITECTURES["phi"](0), capacity=64)
    ids = np.random.default_rng(0).integers(0, VOCAB, 56)
    engine.feed(ids[:50])
    good = engine.kv.dump()
    want = after(engine, ids[:1])
    engine.feed(ids[:5])
    bad = dict(engine.kv.dump())
    name = next(n for n in bad if n.startswith("values."))
    bad[name] = bad[name].copy()
    bad[name][:, -1] = np.nan
    engine.kv.load(bad)
    with pytest.raises(EngineFault):
        engine.feed(ids[:1])
    engine.kv.load(good)
    assert np.array_equal(after(engine, ids[:1]), want)
    assert used
