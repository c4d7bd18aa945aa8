# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One query over two banks of rows: the same numbers as over one, and only where it pays."""

from __future__ import annotations

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
        (3, 3200, 4096, 2, True),
        (3, 3000, 4096, 2, False),  # more of it is empty than is won
        (4, 4096, 4096, 2, False),  # shared evenly as it is
        (3, 4096, 4096, 1, False),
        (1, 4096, 4096, 2, True),
        (3, 1000, 1000, 2, False),  # too short to matter
        (8, 4096, 4096, 3, False),  # 3 wholes against 6 halves
        (8, 4096, 4096, 5, False),
        (5, 4096, 4096, 2, True),
    ],
)
def test_it_is_done_only_where_the_busiest_thread_reads_less(
    heads: int, rows: int, capacity: int, threads: int, expected: bool
) -> None:
    assert banks.pays(heads, rows, capacity, threads) is expected


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_the_contract_holds_over_two_banks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    mixed = banks.mixed
    monkeypatch.setattr(banks, "pays", lambda heads, rows, capacity, threads: 2 * rows > capacity)
    monkeypatch.setattr(banks, "mixed", lambda *given: used.append(1) or mixed(*given))
    verdicts = examine(HFEngine(ARCHITECTURES[name](0), capacity=73), ARCHITECTURES[name](0), sequences=12)
    assert all(v.within(1e-4) for v in verdicts)
    assert used


def test_what_a_failed_pass_left_behind_the_rows_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second bank reads rows that are not filled: NaN would come through, whatever its weight."""
    monkeypatch.setattr(banks, "pays", lambda heads, rows, capacity, threads: 2 * rows > capacity)
    model = ARCHITECTURES["llama"](0)
    engine, other = HFEngine(model, capacity=64), HFEngine(ARCHITECTURES["llama"](0), capacity=64)
    ids = np.random.default_rng(0).integers(0, VOCAB, 48)
    engine.feed(ids)
    other.feed(ids)
    weight = model.model.layers[0].self_attn.v_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(EngineFault):
        engine.feed(ids[:9])
    with torch.no_grad():
        weight.copy_(kept)
    assert engine.rows == 48
    assert np.array_equal(engine.feed(ids[:1]).logits, other.feed(ids[:1]).logits)
