# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The repair benchmark keeps its own rules: equal rows in every arm, shares that add up."""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_scorer import FakeScorer
from fakes import ByteCodec
from hypothesis import given
from hypothesis import strategies as st
from repairers import Scripted, nothing, star
from tiny_mlm import masked_lm

from haloweave.bench.arms import Tools, arms, heat
from haloweave.bench.beside import scarred
from haloweave.bench.clean import restraint
from haloweave.bench.holes import CONTEXT, NEXT, Case, changed, closed, read, stretches, texts
from haloweave.bench.repair import lines
from haloweave.diffusion import build as denoisers
from haloweave.repair.denoise import DenoiserRepairer

WORDS = "the cat sat on a mat and ran to the old rug by the fire while it was not cold at all there "


def case(seed: int = 0, size: int = 300) -> Case:
    rng = np.random.default_rng(seed)
    ids = np.frombuffer((WORDS * 9).encode()[:size], np.uint8).astype(np.int64)
    light = rng.uniform(0, 255, size).astype(np.float32)
    dead = np.zeros(size, np.bool_)
    dead[4 + np.argsort(light[4:])[: size // 2]] = True
    return Case("words", ids, ids[:20], light, dead, 1.0, 2.0)


@pytest.fixture(scope="module")
def tools() -> Tools:
    counts = np.bincount(case().ids, minlength=260)
    scorer, codec = FakeScorer(260, seed=1), ByteCodec(chat=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        shape = {"vocab_size": 262, "mask_id": 260, "pad_id": 261, "max_len": 64, "time_conditioning": True}
        small = {"arch": "editor", "d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32}
        editor = denoisers.denoiser(denoisers.config_of({**shape, **small}))
    by = DenoiserRepairer(editor, 260, codec.control_ids, cutoff=1e-6)
    return Tools(scorer, codec, masked_lm("bert"), counts, places=12, stumble=2.0, denoiser=by)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_arm_keeps_the_rows_and_repeats_itself(tools: Tools, seed: int) -> None:
    one = case(seed)
    table = arms(tools)
    for name, arm in table.items():
        text = arm(one)
        assert len(text) == len(one.kept), name
        assert np.array_equal(text, arm(one)), name
        assert not tools.codec.control_ids.intersection(text.tolist()), name
    assert np.array_equal(table["none"](one), one.kept)
    for busy in ("random", "unigram", "free", "insert", "rejoin"):
        assert changed(one.kept, table[busy](one)) > 0, busy


def test_the_sinks_are_locked_and_the_dimmest_hottest() -> None:
    light = np.array([0, 0, 0, 0, 9, 11, 15, 17, 19, 21, 23, 25], np.float32)
    got = heat(light)
    assert (got[:4] == 0).all()
    assert got[4] > got[5] > 0
    assert (got[6:] == 0).all()


@given(st.lists(st.integers(0, 3), max_size=14), st.lists(st.integers(0, 3), max_size=14))
def test_changed_is_what_no_common_subsequence_holds(a: list[int], b: list[int]) -> None:
    longest = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            longest[i + 1][j + 1] = longest[i][j] + 1 if x == y else max(longest[i][j + 1], longest[i + 1][j])
    got = changed(np.array(a, np.int64), np.array(b, np.int64))
    assert got == len(b) - longest[-1][-1]
    matched = sum(m.size for m in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks())
    assert got <= len(b) - matched


def test_shares_of_the_gap() -> None:
    none, drop = np.array([3.0, 3.2, 3.1]), np.array([2.0, 2.2, 2.1])
    assert closed(none, none, drop).value == 0
    assert closed(none, drop, drop).value == pytest.approx(1)
    half = closed(none, (none + drop) / 2, drop)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))


def test_reading_tells_losses_by_hand(tools: Tools) -> None:
    one = case()
    got = read(tools.scorer, one, one.kept)
    scorer = tools.scorer
    assert isinstance(scorer, FakeScorer)
    told = scorer.logprobs([*one.kept.tolist(), *one.following.tolist()])
    assert got.text == pytest.approx(-told[: len(one.kept)].mean(), rel=1e-5)
    assert got.following == pytest.approx(-told[len(one.kept) :].mean(), rel=1e-5)
    assert (got.rows, got.changed) == (len(one.kept), 0)


def test_stretches_are_whole_and_spread(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 40_000)
    (tmp_path / "b.txt").write_text("b" * 30_000)
    (tmp_path / "c.txt").write_text("c" * 500)
    given_texts = texts(sorted(tmp_path.glob("*.txt")))
    found = list(stretches(lambda t: list(t.encode()), given_texts, 6))
    assert [name for name, _ in found] == ["a", "b", "a", "b"]
    assert all(len(ids) == CONTEXT + NEXT for _, ids in found)


def test_scarred_windows_are_hot_in_the_middle_alone() -> None:
    for window in scarred(np.arange(2000), 5, size=40, hot=8):
        assert len(window) == 40
        assert np.flatnonzero(window.heat).tolist() == list(range(16, 24))


def test_restraint_counts_changes() -> None:
    clean = [np.arange(50, 90, dtype=np.int32), np.arange(60, 80, dtype=np.int32)]
    assert restraint("quiet", Scripted(nothing), clean).share == 0
    busy = restraint("busy", Scripted(star), clean)
    assert (busy.changes, busy.tokens) == (2, 60)


def test_lines_are_json_and_name_every_arm(tools: Tools) -> None:
    one = case()
    names = ["none", "rejoin"]
    table = arms(tools)
    seen = [(one, {n: read(tools.scorer, one, table[n](one)) for n in names})] * 3
    found = list(lines(1, names, seen))
    assert [line.arm for line in found] == ["full", "drop", *names]
    for line in found:
        json.dumps(line.json(), allow_nan=False)
        assert len(line.cells()) == 8
