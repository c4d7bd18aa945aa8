# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench denoisers` and `sampler`: that they measure what they say, at sizes that take seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from haloweave.bench import denoisers as bench
from haloweave.bench import denoisers_commands, sampler
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.grammar import Grammar

SHAPE = bench.Shape(vocab_size=64, d_model=16, n_layers=4, n_heads=2, d_ff=32)
SIZES = "--rounds=2 --tokens=64 --d-model=16 --n-layers=4 --n-heads=2 --d-ff=32 --vocab=64"


def run(*words: str) -> list[dict]:
    app = typer.Typer()
    denoisers_commands.register(app)
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


# ---- denoisers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["transformer", "eco_hybrid", "hierarchical"])
def test_all_sides_have_one_shape(arch: str) -> None:
    ours, bert = SHAPE.denoiser(arch, 32), SHAPE.bert(32)
    assert (ours.config.vocab_size, ours.config.d_model, ours.config.d_ff) == (64, 16, 32)
    assert (bert.config.vocab_size, bert.config.hidden_size, bert.config.intermediate_size) == (64, 16, 32)
    assert ours.config.max_len == bert.config.max_position_embeddings == 32
    passes = getattr(ours.config, "passes", 1) * ours.config.n_layers
    assert passes == bert.config.num_hidden_layers == 4


def test_the_transformer_has_about_as_many_parameters_as_the_baseline() -> None:
    shape = bench.Shape()
    ours, bert = shape.denoiser("transformer", 128), shape.bert(128)
    assert 0.97 < ours.parameters_trained / sum(p.numel() for p in bert.parameters()) < 1.03


def test_noise_is_the_same_for_all_and_asks_somewhere_in_each_row() -> None:
    one, two = bench.noisy(64, 8, 32, 0), bench.noisy(64, 8, 32, 0)
    assert torch.equal(one.xt, two.xt)
    assert (one.weight.sum(1) >= 1).all()
    assert 0.5 < one.weight.mean() < 0.8
    assert ((one.xt == 1) == (one.weight > 0)).all()


def test_a_step_of_either_side_changes_its_weights_alone() -> None:
    before = torch.get_rng_state()
    paces = bench.measure(SHAPE, ["transformer"], 32, tokens=64, rounds=2)
    assert torch.equal(before, torch.get_rng_state())
    assert [p.arm for p in paces] == [bench.BERT, "transformer"]
    for pace in paces:
        assert (pace.rows, pace.length) == (2, 32)
        assert pace.training.shape == pace.reading.shape == (2,)
        assert (pace.training > 0).all()
        assert pace.training_bytes > pace.reading_bytes > 0


def test_ratios_are_of_the_baselines_seconds_to_ours() -> None:
    slow = bench.Pace(bench.BERT, 8, 2, 1, np.full(5, 4.0), np.full(5, 2.0), 1, 1)
    fast = bench.Pace("a", 8, 2, 1, np.full(5, 1.0), np.full(5, 1.0), 1, 1)
    training, reading = fast.faster(slow)
    assert (training.value, training.low, training.high) == (4, 4, 4)
    assert reading.value == 2
    assert fast.per_second(fast.training) == 16


def test_exponents_are_of_a_row() -> None:
    paces = [bench.Pace("a", t, 1024 // t, 1, np.full(3, 1.0 * t), np.full(3, 1.0), 1, 1) for t in (64, 256)]
    assert bench.exponent(paces, "a") == (pytest.approx(2), pytest.approx(1))


def test_denoisers_prints_every_arm_at_every_length() -> None:
    lines = run("denoisers", "--length", "16", "--length", "32", *SIZES.split())
    speeds = [line for line in lines if line.get("part") == "speed"]
    arms = [bench.BERT, "transformer", "eco_hybrid", "hierarchical"]
    assert [(line["length"], line["arm"]) for line in speeds] == [(n, a) for n in (16, 32) for a in arms]
    assert all(line["training"] > 0 and line["parameters"] > 1000 for line in speeds)
    assert [line["training_ratio"][0] == 1 for line in speeds] == [True, False, False, False] * 2
    assert [line["arm"] for line in lines if line.get("part") == "exponent"] == arms
    assert all("facts" in line for line in lines if "bench" not in line)


def test_denoisers_in_bfloat16() -> None:
    lines = run("denoisers", "--length", "16", "--bf16", "--arms", "transformer", *SIZES.split())
    bert, ours = lines[:2]
    assert bert["dtype"] == ours["dtype"] == "bfloat16"


def test_denoisers_on_a_device_by_name() -> None:
    asked = ("denoisers", "--length", "16", "--arms", "transformer", *SIZES.split())
    assert [line["device"] for line in run(*asked, "--device", "cpu")[:2]] == ["cpu", "cpu"]
    with pytest.raises(BadInput, match="float64"):
        run(*asked, "--device", "mps")


def test_a_shape_that_cannot_be_matched_is_refused() -> None:
    with pytest.raises(BadInput, match="even"):
        bench.Shape(n_layers=5)
    with pytest.raises(BadInput, match="nobody"):
        bench.measure(SHAPE, ["nobody"], 16, tokens=16, rounds=1)


# ---- sampler ---------------------------------------------------------------------------------------------


def oracle(grammar: Grammar, sure: float):
    """A predict that knows one valid row, and says each of its tokens with this probability."""
    row = torch.from_numpy(grammar.rows(1, 0))
    logits = torch.full((1, grammar.length, grammar.vocab_size), (1 - sure) / (grammar.vocab_size - 1)).log()
    logits.scatter_(2, row[..., None], float(np.log(sure)))
    return lambda xt, t: logits.expand(len(xt), -1, -1)


def test_sampled_counts_calls_and_validity() -> None:
    grammar = Grammar(length=20, keys=1)
    plans = sampler.plans(20)
    knows = oracle(grammar, 1 - 1e-9)
    sure = {name: sampler.sample(knows, grammar, name, plan, count=5) for name, plan in plans.items()}
    assert [s.validity for s in sure.values()] == [1.0] * 9
    calls = {name: s.latency.calls_per_sample for name, s in sure.items()}
    assert calls[sampler.ONE_BY_ONE] == 20
    assert calls[sampler.THRESHOLD] == 1
    assert calls["reverse process"] > 3 * calls["reverse process, cached"]
    assert calls["reverse process, cached"] <= 20
    assert sure[sampler.THRESHOLD].fewer(sure[sampler.ONE_BY_ONE]) == 20
    name = sampler.ONE_BY_ONE
    unsure = sampler.sample(oracle(grammar, 0.5), grammar, name, plans[name], count=5)
    assert unsure.validity == 0
    assert sum(unsure.broken.values()) == 5
    worse = unsure.worse(sure[sampler.ONE_BY_ONE])
    assert (worse.mean, worse.low, worse.high) == (1, 1, 1)


def test_sampler_learns_a_little_and_prints_every_plan() -> None:
    lines = run("sampler", "--steps", "3", "--samples", "2", "--length", "20")
    plans = [line for line in lines if line.get("part") == "plans"]
    assert [line["plan"] for line in plans] == list(sampler.plans(20))
    assert all(line["p99_ms"] >= line["p50_ms"] > 0 and line["calls"] > 0 for line in plans)
    assert {line["by"] for line in lines if line.get("part") == "holes"} == {
        "transformer",
        "two neighbours a side",
    }
