# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench reveal`: what few calls cost, and that no plan reaches the mark without deserving it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_denoiser
from terminal import Screens

from haloweave.bench import markdown, reveal_report
from haloweave.bench.reveal import ONE_BY_ONE, Grid, Mark, Revealed, perplexity_ratio, real, reveal
from haloweave.diffusion.errors import BadInput, TooLittleText
from haloweave.diffusion.judging.held import Held, held_out
from haloweave.diffusion.judging.intervals import Interval
from haloweave.diffusion.judging.judge import Variety, Verdict
from haloweave.diffusion.judging.timing import latency
from haloweave.diffusion.sampling.orders import Confidence
from haloweave.diffusion.tokenizer import Tokenizer

MARK = Mark()


def made(
    name: str = "a",
    calls: int = 4,
    nats: float = 60.0,
    entropy: float = 3.0,
    count: int = 20,
    noise: float = 0.0,
) -> Revealed:
    """A plan with these numbers; `noise` scatters the judge's."""
    scatter = noise * np.random.default_rng(calls).normal(size=count)
    said = Verdict(nats + scatter, np.full(count, 20), np.full(count, 80))
    pace = latency([0.1] * count, [calls] * count, [64] * count)
    varied = Variety(entropy, (0.5, 0.8, 0.9))
    return Revealed(name, calls, pace, varied, np.full(count, entropy), said, ("a text",) * count)


BASE = made(ONE_BY_ONE, calls=64)


# ---- the mark --------------------------------------------------------------------------------------------


def test_a_plan_reaches_the_mark_with_all_three() -> None:
    assert made(calls=16).reaches(BASE, MARK)
    assert made(calls=16).surely(BASE, MARK)
    assert made(calls=16).fewer(BASE) == 4
    assert made(nats=50).surely(BASE, MARK)


@pytest.mark.parametrize(
    "lacking",
    [
        made(calls=17),
        made(nats=61.5),
        made(nats=60.5),
        made(entropy=2.94),
        made(entropy=3.06),
    ],
)
def test_each_lack_alone_fails_it(lacking: Revealed) -> None:
    assert lacking.reaches(BASE, MARK) is False
    assert not lacking.surely(BASE, MARK)


def test_with_doubt_the_mark_is_reached_but_not_surely() -> None:
    doubtful = made(nats=60.2, noise=3.0)
    assert doubtful.reaches(BASE, MARK)
    assert not doubtful.surely(BASE, MARK)
    assert reveal_report.line(doubtful, BASE, MARK)[1][-1] == "yes"
    assert reveal_report.line(made(), BASE, MARK)[1][-1] == "yes, surely"


def test_without_a_judge_nothing_is_said() -> None:
    silent = replace(made(), said=None)
    assert silent.reaches(BASE, MARK) is None
    assert made().reaches(replace(BASE, said=None), MARK) is None
    assert (silent.perplexity, silent.worse(BASE)) == (None, None)
    record, cells = reveal_report.line(silent, BASE, MARK)
    assert (record["reaches"], cells[-1]) == (None, "not judged")
    assert "Nobody judged" in reveal_report.verdict([silent, silent], MARK)


def test_perplexity_ratio_is_that_of_sums_and_its_interval_pairs_texts() -> None:
    rng = np.random.default_rng(0)
    a, tokens = rng.uniform(30, 90, 40), rng.integers(10, 30, 40)
    one = Verdict(a + tokens * math.log(1.1), tokens, tokens)
    found = perplexity_ratio(one, Verdict(a, tokens, tokens))
    assert (found.value, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))
    apart = perplexity_ratio(one, Verdict(rng.permutation(a), tokens, tokens))
    assert apart.low < 1.1 < apart.high
    assert apart.value == pytest.approx(1.1)


def test_verdicts_that_make_no_pairs() -> None:
    two, none = Verdict(np.ones(2), np.ones(2, int), np.ones(2, int)), np.zeros(2, int)
    with pytest.raises(BadInput, match="in pairs"):
        perplexity_ratio(two, made().said or two)
    with pytest.raises(BadInput, match="in pairs"):
        perplexity_ratio(two, Verdict(np.zeros(2), none, none))


def test_what_reaches_the_mark_is_named() -> None:
    good, slow = made("good", 16), made("slow", 32)
    assert "These reach the mark" in reveal_report.verdict([BASE, good, slow], MARK)
    assert reveal_report.verdict([BASE, good, slow], MARK).endswith(": good (surely).")
    assert "No plan reaches the mark" in reveal_report.verdict([BASE, slow], MARK)


def test_stops_that_never_stop_anything_are_named() -> None:
    found = [BASE, made("8 steps"), made("8 steps, stop at 0.9"), made("surer than 0.9")]
    assert reveal_report.unused(found) == ["8 steps, stop at 0.9", "surer than 0.9"]
    found[2] = replace(found[2], texts=("another",))
    assert reveal_report.unused(found) == ["surer than 0.9"]


def test_a_baseline_alone_is_a_report_too(tmp_path: Path) -> None:
    true = Variety(3.0, (0.5, 0.8, 0.9)), Interval(20.0, 18.0, 22.0)
    reveal_report.write(tmp_path, "model", [BASE], true, MARK, {"command": "halo bench reveal"})
    assert (tmp_path / markdown.README).read_text(encoding="utf-8").count("**") == 2


# ---- plans -----------------------------------------------------------------------------------------------


def test_the_grid_is_crossed_and_the_baseline_comes_first() -> None:
    plans = Grid(steps=(8, 12), stops=(0.9,), thresholds=(0.5,), order=Confidence()).plans(40)
    names = [ONE_BY_ONE, "8 steps", "12 steps", "8 steps, stop at 0.9", "12 steps, stop at 0.9"]
    assert list(plans) == [*names, "surer than 0.5"]
    assert plans[ONE_BY_ONE].steps == plans["surer than 0.5"].steps == 40
    assert plans["8 steps, stop at 0.9"].confidence_stop == 0.9
    assert {p.order for p in plans.values()} == {Confidence()}
    assert {p.temperature for p in plans.values()} == {1.0}
    assert list(Grid((2,), (), ()).plans(8)) == [ONE_BY_ONE, "2 steps"]
    with pytest.raises(BadInput, match="threshold"):
        Grid(thresholds=(1.5,)).plans(8)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return tiny_denoiser.tokenizer()


@pytest.fixture(scope="module")
def held(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Held:
    valid = tiny_denoiser.corpus(tmp_path_factory.mktemp("held"), words).valid
    size = words.bytes_per_token.numpy()
    rows = valid.rows(range(len(valid)))
    return held_out(rows, size, words.decode, pad_id=words.pad_id, eos_id=words.eos_id)


class Letters:
    """A judge to whom each letter costs as much."""

    name = "letters"

    def nats(self, texts: list[str]) -> Verdict:
        count = np.array([max(len(t), 1) for t in texts])
        return Verdict(2.0 * count, count, count)


def test_plans_are_carried_out_on_the_same_seeds(words: Tokenizer, held: Held) -> None:
    denoiser = tiny_denoiser.denoiser(words).eval()
    grid = Grid(steps=(3,), stops=(1e-9,), thresholds=(0.999,))
    found = list(reveal(denoiser, held, words.decode, grid, length=10, count=3, judge=Letters()))
    one, three, stopped, sure = found
    assert one.latency.calls_per_sample == 10
    assert three.latency.calls_per_sample <= 3
    assert stopped.latency.calls_per_sample == 1
    assert (sure.latency.calls_per_sample, sure.texts) == (10, one.texts)
    assert one.perplexity == Interval(*[pytest.approx(math.exp(2))] * 3)
    assert one.entropies.shape == (3,)
    assert one.variety.entropy == pytest.approx(one.entropies.mean())
    assert one.entropy_gap(one) == Interval(0, 0, 0)
    again = list(reveal(denoiser, held, words.decode, grid, length=10, count=3))
    assert [f.texts for f in again] == [f.texts for f in found]


def test_real_text_is_as_long_as_what_is_made(words: Tokenizer, held: Held) -> None:
    varied, said = real(held, 10, 4, words.decode, Letters())
    assert 0 < varied.entropy <= math.log(10)
    assert said.value == pytest.approx(math.exp(2))
    assert math.isnan(real(held, 10, 4, words.decode, None)[1].value)
    with pytest.raises(TooLittleText, match="500 tokens"):
        real(held, 500, 4, words.decode, None)


# ---- the command -----------------------------------------------------------------------------------------


def test_the_command_reports(
    words: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tiny_denoiser.corpus(tmp_path / "tiny" / "data", words)
    material = tiny_denoiser.Material(
        tiny_denoiser.denoiser(words), words, corpus, {"cache": None, "valid_share": 0.1, "split_seed": 0}
    )
    tiny_denoiser.losses(tiny_denoiser.trainer(material, tmp_path / "tiny"))
    few = (
        "--steps",
        "2",
        "--stop",
        "0.9",
        "--threshold",
        "0.9",
        "--samples",
        2,
        "--length",
        8,
        "--judge",
        "none",
    )
    screens, grids = Screens(width=160), list[Grid]()

    def spied(denoiser: Any, held: Held, decode: Any, grid: Grid, **more: Any) -> Iterator[Revealed]:
        grids.append(grid)
        return reveal(denoiser, held, decode, grid, **more)

    monkeypatch.setattr("haloweave.bench.reveal.reveal", spied)
    asked = ("bench", "reveal", tmp_path / "tiny", *few, "--json", "--report", tmp_path / "report")
    assert screens.halo(*asked) == 0, screens.err
    assert words.joining.needed
    assert all(plan.joining is not None for plan in grids[0].plans(8).values()), "as halo sample writes texts"
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    plans = [line for line in lines if line.get("bench") == "reveal"]
    assert [line["plan"] for line in plans] == [
        ONE_BY_ONE,
        "2 steps",
        "2 steps, stop at 0.9",
        "surer than 0.9",
    ]
    assert [line["calls"] for line in plans][:2] == [8, 2]
    assert all(line["reaches"] is None for line in plans)
    assert "Nobody judged" in screens.err
    report = tmp_path / "report"
    assert {p.name for p in report.iterdir()} == {
        markdown.README,
        markdown.RESULTS,
        reveal_report.PICTURE,
        reveal_report.ENTROPY,
    }
    found = json.loads((report / markdown.RESULTS).read_text(encoding="utf-8"))
    assert [p["plan"] for p in found["plans"]] == [line["plan"] for line in plans]
    assert found["real"]["entropy"] > 0
    assert "real text" in (report / markdown.README).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--threshold", "2", "threshold"),
        ("--steps", "8,x", "commas"),
        ("--steps", "0", "steps"),
        ("--stop", "0.9;0.8", "commas"),
    ],
)
def test_the_command_refuses_plans_that_cannot_be_before_it_loads(
    tmp_path: Path, option: str, value: str, told: str
) -> None:
    screens = Screens()
    assert screens.halo("bench", "reveal", tmp_path / "none", option, value) == 2
    assert told in screens.err
