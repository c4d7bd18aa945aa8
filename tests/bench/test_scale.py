# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Extrapolation: laws are found again, doubt covers the truth and widens, thresholds are where they should
be; and everything that is measured can be, small."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from haloweave.bench.decode import Bookkeeping
from haloweave.bench.memory.record import Record, read
from haloweave.bench.scale import breaks, crowd, history, measure, paper, tables
from haloweave.bench.scale.commands import register
from haloweave.bench.scale.extrapolate import Threshold, crossing, fit
from haloweave.bench.stats import Interval
from haloweave.engine.hf.engine import HFEngine
from haloweave.engine.hf.tiny import tiny_llama
from haloweave.errors import HaloError, InvalidInput
from haloweave.journal import snapshot
from haloweave.memory.tokens import Source, Tokens
from haloweave.settings import settings

SIZES = (1e4, 3.16e4, 1e5, 3.16e5, 1e6)
TINY = measure.Plan(
    sizes=history.Sizes((1000, 2000, 4000), queries=6, repeats=1),
    spoken=(60, 120, 240),
    rows=(128, 192, 256),
    slots=(1024, 1536, 2048),
    minds=(1, 3),
    kept=1,
    kept_rows=(128, 192, 256),
    ticks=8,
    rounds=2,
)


def noisy(law: list[float], seed: int, share: float = 0.03) -> list[float]:
    factors = 1 + share * np.random.default_rng(seed).standard_normal(len(law))
    return [cost * factor for cost, factor in zip(law, factors.tolist(), strict=True)]


# ---- laws ------------------------------------------------------------------------------------------------


def test_the_cost_of_a_token_is_found_again_and_its_interval_covers_it() -> None:
    true = 4e-5
    found = [fit(SIZES, noisy([5 + true * x for x in SIZES], seed)) for seed in range(300)]
    covered = [f.per_unit.low <= true <= f.per_unit.high for f in found]
    assert 0.90 <= np.mean(covered) <= 0.99
    assert np.median([f.per_unit.mean for f in found]) == pytest.approx(true, rel=0.01)
    assert np.median([f.constant for f in found]) == pytest.approx(5, rel=0.02)


def test_an_exponent_is_found_again_and_its_interval_covers_it() -> None:
    found = [fit(SIZES, noisy([1e-3 * x**1.3 for x in SIZES], seed)) for seed in range(300)]
    assert 0.90 <= np.mean([f.exponent.low <= 1.3 <= f.exponent.high for f in found]) <= 0.99
    assert np.median([f.exponent.mean for f in found]) == pytest.approx(1.3, abs=0.01)


def test_what_a_law_says_far_out_covers_what_comes() -> None:
    law = [5 + 4e-5 * x for x in SIZES]
    said = [fit(SIZES, noisy(law, seed)).at(1e8) for seed in range(200)]
    assert np.mean([i.low <= 5 + 4e-5 * 1e8 <= i.high for i in said]) >= 0.9


@pytest.mark.parametrize(
    ("costs", "growth", "law"),
    [
        ([7.0] * 5, "flat", "affine"),
        ([7.0, 7.2, 6.9, 7.1, 7.0], "flat", "affine"),
        ([3 + 1e-4 * x for x in SIZES], "linear", "affine"),
        ([1e-6 * x**1.6 for x in SIZES], "worse than linear", "power"),
        ([0.1 * x**0.4 for x in SIZES], "less than linear", "power"),
    ],
)
def test_growth_is_named(costs: list[float], growth: str, law: str) -> None:
    found = fit(SIZES, costs)
    assert (found.growth, found.law) == (growth, law)


def test_without_noise_the_largest_size_is_hit_from_the_smaller_ones() -> None:
    assert fit(SIZES, [3 + 1e-4 * x for x in SIZES]).missed < 1e-9
    assert fit(SIZES, [1e-6 * x**1.6 for x in SIZES]).missed < 1e-9


def test_doubt_widens_with_the_distance() -> None:
    found = fit(SIZES, noisy([1e-4 * x**1.5 for x in SIZES], 1))
    shares = [(i.high - i.low) / i.mean for i in map(found.at, (1e5, 1e7, 1e9))]
    assert shares[0] < shares[1] < shares[2]
    assert [found.beyond(x) for x in (1e5, 1e6, 1e9)] == pytest.approx([0, 0, 3])


def test_several_at_one_size_count_once() -> None:
    once = fit(SIZES, [2 * x for x in SIZES])
    thrice = fit([x for x in SIZES for _ in range(3)], [2 * x * f for x in SIZES for f in (0.5, 1, 9)])
    assert thrice.x == once.x
    assert thrice.y == pytest.approx(once.y)


@pytest.mark.parametrize("x", [[1e4, 1e5], [1e4, 1e4, 1e5, 1e5], []])
def test_two_sizes_are_no_law(x: list[float]) -> None:
    with pytest.raises(InvalidInput, match="at least 3 sizes"):
        fit(x, [1.0 + n for n in range(len(x))])


@pytest.mark.parametrize("y", [[1.0, 2.0, 0.0], [1.0, -2.0, 3.0], [1.0, 2.0, math.inf], [1.0, 2.0]])
def test_a_cost_that_is_none_is_refused(y: list[float]) -> None:
    with pytest.raises(InvalidInput, match="above 0"):
        fit([1.0, 2.0, 3.0], y)


# ---- thresholds ------------------------------------------------------------------------------------------


def test_a_threshold_is_crossed_where_the_law_says() -> None:
    found = fit(SIZES, [5 + 4e-5 * x for x in SIZES])
    far = crossing(found, Threshold("m", 1000.0, "", ""))
    assert far.size == pytest.approx((1000 - 5) / 4e-5, rel=1e-6)
    assert far.beyond == pytest.approx(math.log10(far.size / 1e6))
    seen = crossing(found, Threshold("m", 25.0, "", ""))
    assert seen.size == pytest.approx(5e5, rel=1e-6)
    assert seen.beyond == 0


def test_doubt_of_a_crossing_lies_around_it() -> None:
    found = fit(SIZES, noisy([5 + 4e-5 * x for x in SIZES], 2))
    c = crossing(found, Threshold("m", 1000.0, "", ""))
    assert c.low < c.size < c.high
    assert found.at(c.low).high == pytest.approx(1000, rel=1e-6)


def test_what_does_not_grow_never_breaks_and_what_is_broken_breaks_at_once() -> None:
    found = fit(SIZES, [7.0] * 5)
    assert crossing(found, Threshold("m", 8.0, "", "")).size == math.inf
    assert crossing(found, Threshold("m", 6.0, "", "")).size == 1.0


def test_what_breaks_first_comes_first() -> None:
    laws = {
        "bytes": fit(SIZES, [40 * x for x in SIZES]),
        "open_ms": fit(SIZES, [1 + 1e-2 * x for x in SIZES]),
    }
    crossed = breaks.breaks(laws)
    assert [c.size for c in crossed] == sorted(c.size for c in crossed)
    assert {c.threshold.metric for c in crossed} == {"bytes", "open_ms"}
    by = {(c.threshold.metric, c.threshold.level): c.size for c in crossed}
    assert by["bytes", 10e9] == pytest.approx(2.5e8, rel=1e-6)
    assert by["open_ms", 2e3] == pytest.approx(1999 / 1e-2, rel=1e-6)


def test_every_threshold_is_of_something_that_is_measured_and_gets_a_law() -> None:
    for threshold in breaks.THRESHOLDS:
        metric = measure.METRICS[threshold.metric]
        assert metric.per == "tokens"
        assert metric.arm not in breaks._NO_LAW


# ---- on paper --------------------------------------------------------------------------------------------


def test_counters_end_where_their_columns_do() -> None:
    found = {
        n.name.split()[0]: n
        for n in paper.limits(line=25.0, page=4096, pages=2**32 - 2, bytes_per_token=40.0)
    }
    unit = found["unit"]
    made = Tokens.make([1], first_uid=0, source=Source.LOG, unit=int(unit.most))
    assert made.unit[0] == unit.most == 2**31 - 1
    with pytest.raises((OverflowError, HaloError)):
        Tokens.make([1], first_uid=0, source=Source.LOG, unit=int(unit.most) + 1)
    assert unit.tokens == pytest.approx(25 * (2**31 - 1))
    assert unit.years(20.0) == pytest.approx(unit.tokens / 20 / (365.25 * 86_400))
    assert found["pages"].tokens == pytest.approx(4096 * (2**32 - 2) / 40)
    assert found["token_id"].tokens == math.inf


def test_limits_come_in_the_order_in_which_they_end() -> None:
    found = paper.limits(line=25.0, page=4096, pages=2**32 - 2, bytes_per_token=40.0)
    ends = [limit.tokens for limit in found]
    assert ends == sorted(ends)
    assert paper.pages()[0] >= 512


def test_a_snapshot_has_a_name_up_to_the_number_that_paper_says() -> None:
    most = 10**paper._NAME_DIGITS
    assert snapshot._PLACE.fullmatch(str(most - 1))
    assert not snapshot._PLACE.fullmatch(str(most))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_takes_what_its_shape_says(dtype: torch.dtype) -> None:
    model = tiny_llama(64).to(dtype)
    shape = paper.of_config(model.config, 1e5, dtype.itemsize)
    engine = HFEngine(model, capacity=64)
    engine.feed(np.arange(10, 42, dtype=np.int32))
    tensors = []
    for layer in engine._arena.layers:
        masters = [] if layer.master is layer.keys else [layer.master]
        tensors += [layer.keys, layer.values, layer.norms, *masters]
    assert sum(t.numel() * t.element_size() for t in tensors) == 64 * shape.row()
    one_number = 8
    assert sum(part.nbytes for part in engine.dump().values()) == 32 * shape.kept_row() + one_number


def test_a_tick_on_paper_reads_weights_and_rows_once() -> None:
    shape = paper.Shape("m", 2, 3, 8, 1000, 4096, 4, "")
    assert shape.tick(10, 1e3) == pytest.approx((4000 + 10 * 2 * 3 * 8 * 2 * 4) / 1e3)
    assert paper.mirror_row() == 30


# ---- measuring, small ------------------------------------------------------------------------------------


def test_made_up_text_is_the_same_again_and_as_uneven_as_words_are() -> None:
    first, again = (list(islice(history.made_up(3), 200)) for _ in range(2))
    assert first == again != list(islice(history.made_up(4), 200))
    words = " ".join(p.text for p in first).replace(".", " ").split()
    counts = sorted((words.count(w) for w in set(words)), reverse=True)
    assert counts[0] > 20 * np.median(counts)
    assert {p.source for p in first} == {Source.USER, Source.LOG}


def test_queries_are_as_many_as_were_asked_for() -> None:
    _, asked = history.texts([], 30)
    assert len(asked) == 30 == len(set(asked))


@pytest.mark.parametrize("sizes", [(), (5000, 2000), (10, 2000), (2000, 2000)])
def test_sizes_that_are_none_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="ascending"):
        history.Sizes(sizes)


def test_too_many_pieces_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "VOCABULARY", 3)
    codec = history.Quarters()
    assert codec.encode(["abcdefgh"]) == [[0, 1]]
    assert codec.piece(1) == b"efgh"
    assert codec.piece(2) == b""
    with pytest.raises(InvalidInput, match="measure smaller sizes"):
        codec.encode(["ijklmnopqrst"])


def test_minds_in_turn_are_compared_within_a_round() -> None:
    s = settings(system="", budget=128, embedder="")
    found = crowd.turns(crowd.over_tiny(128), s, (1, 3), ticks=6, rounds=3)
    told = list(crowd.ratios(found))
    assert [n for n, _ in told] == [1] * 3 + [3] * 3
    assert [r for n, r in told if n == 1] == [1.0] * 3
    one, three = found
    assert [r for n, r in told if n == 3] == [b / a for a, b in zip(one.ticks, three.ticks, strict=True)]


def test_the_whole_of_it_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "QUICK", TINY)
    monkeypatch.setattr(history, "VOCABULARY", 1 << 16)
    # Its brightness is an int, which the axis checks of tests refuse, and no run does.
    monkeypatch.setattr(crowd, "bookkeeping", lambda s, slots, ticks: Bookkeeping(slots, slots / 1e5, 1.0))
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    out, page = tmp_path / "scale.jsonl", tmp_path / "page"
    run = CliRunner().invoke(app, ["scale", "--quick", "--out", str(out), "--page", str(page), "--json"])
    assert run.exit_code == 0, run.output
    records, facts = read([out])
    assert facts[0]["data"] == "made-up words"
    measured = [r for r in records if r.document not in ("fit", "extrapolated")]
    assert {r.metric for r in measured} == set(measure.METRICS)
    assert all(r.task == "scale" and math.isfinite(r.value) for r in measured)
    sizes = [r.x for r in measured if r.metric == "bytes"]
    assert sizes[0] < sizes[1] < sizes[2]  # type: ignore[operator]
    ahead = [r for r in records if r.document == "extrapolated" and r.metric == "bytes"]
    assert [r.x for r in ahead] == list(breaks.DECADES)
    assert ahead[0].value < ahead[-1].value
    text = (page / "README.md").read_text()
    for heading in ("What breaks first", "A past on paper", "Counters", "Many minds", "Laws"):
        assert f"## {heading}" in text
    assert json.loads((page / "results.json").read_text())["laws"]["bytes"]["x"] == sizes
    for name in ("scale-times.png", "scale-bytes.png"):
        assert (page / name).read_bytes().startswith(b"\x89PNG")


# ---- tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (1234.0, "ms", "1.23 s"),
        (0.5, "ms", "0.5 ms"),
        (90.0, "s", "1.5 min"),
        (2.5e9, "bytes", "2.5 GB"),
        (4300.0, "MB", "4.3 GB"),
        (12.0, "", "12"),
    ],
)
def test_quantities_are_told_in_the_unit_in_which_they_are_short(value: float, unit: str, told: str) -> None:
    assert tables.quantity(value, unit) == told


def test_numbers_and_intervals_for_people() -> None:
    assert [tables.count(n) for n in (31_600, 2.5e7, math.inf)] == ["31,600", "2.5e7", "never"]
    assert tables.between(Interval(2.0, 1.0, 90.0), "s") == "2 s [1 s, 1.5 min]"


def test_without_a_past_there_is_no_page() -> None:
    with pytest.raises(InvalidInput, match="no past was measured"):
        tables.limits([Record("scale", "minds", 1, "c", "d", "turn_ms", 1.0, x=1.0)])
