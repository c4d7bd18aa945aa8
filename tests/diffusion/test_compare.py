# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Comparing denoisers: only what is comparable, in alternation, and decided by rules that each can fail."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from denoisers import EACH, MAX_LEN, V, texts, tiny
from torch.nn.modules.module import register_module_forward_hook

from haloweave.diffusion.compare import Comparison, Contestant, Facts, compare, mismatches, stability
from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.denoisers.eco_hybrid import EcoHybrid, EcoHybridConfig
from haloweave.diffusion.denoisers.transformer import Transformer, TransformerConfig
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.evaluate import Measures
from haloweave.diffusion.judging import timing
from haloweave.diffusion.judging.held import Held
from haloweave.diffusion.judging.intervals import Interval
from haloweave.diffusion.judging.race import Race, _reaching
from haloweave.diffusion.judging.rules import Measured, Rules, ScriptGap, Stability, Verdict, decide
from haloweave.diffusion.unmask import Unmasking

SIZES: Mapping[str, Any] = {
    "vocab_size": 20,
    "mask_id": 19,
    "pad_id": 18,
    "max_len": 32,
    "n_heads": 2,
    "d_ff": 32,
}
FACTS = Facts(parameters=1000, tokens=4096, corpus="c0ffee", tokenizer="beef", seq_len=32, seed=0)
STEADY = Stability(finite=True, spread=0.1)
SHORT = Measures(draws=1, infills=2, samples=1, length=16, sampling=Unmasking(steps=2))
QUICK = Race(rounds=3, rows=2, lengths=(16, 32, 64), repeats=1)


def transformer(layers: int = 1, width: int = 16, **more: int) -> Transformer:
    torch.manual_seed(0)
    return Transformer(TransformerConfig(**{**SIZES, **more}, n_layers=layers, d_model=width)).eval()


def eco(layers: int = 1, **more: int) -> EcoHybrid:
    torch.manual_seed(0)
    return EcoHybrid(EcoHybridConfig(**{**SIZES, **more}, n_layers=layers, d_model=16, memory_slots=4)).eval()


def contestant(name: str, denoiser: Denoiser, **changes: Any) -> Contestant:
    return Contestant(name, denoiser, replace(FACTS, **changes), STEADY)


def held(rows: int = 16) -> Held:
    g = torch.Generator().manual_seed(2)
    x0 = torch.randint(0, 18, (rows, 32), generator=g)
    scripts = tuple("devanagari" if i % 2 else "latin" for i in range(rows))
    return Held(x0, np.full(rows, 64), scripts, np.arange(rows), 18)


def compared(*contestants: Contestant, **more: Any) -> Comparison:
    return compare(contestants, held(), str, SHORT, run=QUICK, **more)


# ---- rules ----------------------------------------------------------------------------------------------

GOOD = Measured(
    throughput=Interval(1.6, 1.3, 1.9),
    nelbo=Interval(0.01, -0.01, 0.02),
    scripts={
        "devanagari": ScriptGap(Interval(0.02, 0.0, 0.04), 40),
        "latin": ScriptGap(Interval(0, 0, 0), 40),
    },
    candidate=STEADY,
    baseline=STEADY,
    call_memory=0.9,
    step_memory=1.0,
)
BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "too slow": ("sampling throughput", {"throughput": Interval(1.49, 1.3, 1.9)}),
    "perhaps too slow": ("sampling throughput", {"throughput": Interval(1.6, 1.2, 1.9)}),
    "worse": ("likelihood bound", {"nelbo": Interval(0.04, 0.031, 0.05)}),
    "perhaps worse": ("likelihood bound", {"nelbo": Interval(0.0, -0.02, 0.031)}),
    "nobody knows": ("likelihood bound", {"nelbo": Interval(0.0, math.nan, math.nan)}),
    "Hindi lost": (
        "bits per byte, devanagari",
        {"scripts": {**GOOD.scripts, "devanagari": ScriptGap(Interval(0.051, 0.0, 0.1), 40)}},
    ),
    "diverged": ("stability", {"candidate": Stability(False, math.nan)}),
    "restless": ("stability", {"candidate": Stability(True, 0.21)}),
    "larger in use": ("peak memory", {"call_memory": 1.01}),
    "larger in training": ("peak memory", {"step_memory": 1.01}),
}


def test_a_candidate_that_keeps_every_rule_is_kept() -> None:
    found = decide(GOOD)
    assert found.keep
    assert [o.rule for o in found.outcomes] == [
        "sampling throughput",
        "likelihood bound",
        "bits per byte, devanagari",
        "bits per byte, latin",
        "stability",
        "peak memory",
    ]


@pytest.mark.parametrize("name", BAD)
def test_each_rule_alone_turns_the_decision(name: str) -> None:
    rule, change = BAD[name]
    found = decide(replace(GOOD, **change))
    assert not found.keep
    assert [o.rule for o in found.outcomes if o.verdict is Verdict.FAILS] == [rule]


def test_on_the_edge_a_rule_holds_and_rules_can_be_others() -> None:
    edge = replace(
        GOOD,
        throughput=Interval(1.5, 1.21, 2.0),
        nelbo=Interval(0.02, 0.01, 0.03),
        scripts={"latin": ScriptGap(Interval(0.05, 0, 0.1), 40)},
        candidate=Stability(True, 0.2),
        call_memory=1.0,
    )
    assert decide(edge).keep
    assert not decide(edge, Rules(nelbo=0.02)).keep
    assert decide(replace(GOOD, step_memory=1.4), Rules(memory=1.5)).keep


def test_a_script_with_few_blocks_is_told_and_not_judged() -> None:
    rare = replace(GOOD, scripts={"mixed": ScriptGap(Interval(0.5, 0.1, 0.9), 3)})
    found = decide(rare)
    assert found.keep
    told = next(o for o in found.outcomes if "mixed" in o.rule)
    assert (told.verdict, told.holds) == (Verdict.NOT_JUDGED, False)
    assert "too few" in told.got
    judged = decide(replace(rare, scripts={"mixed": ScriptGap(Interval(0.5, 0.1, 0.9), 8)}))
    assert not judged.keep


@pytest.mark.parametrize("which", ["call_memory", "step_memory"])
def test_a_memory_that_is_no_number_fails(which: str) -> None:
    assert decide(replace(GOOD, call_memory=1.0, step_memory=1.0)).keep
    assert not decide(replace(GOOD, **{which: math.nan})).keep  # type: ignore[arg-type]


def test_stability_is_finite_to_the_end_and_calm_there() -> None:
    calm = stability([9.0] * 80 + [2.0, 2.2] * 10)
    assert calm == Stability(True, pytest.approx(0.1 / 2.1))
    assert not stability([3.0, math.nan, 2.0]).finite
    assert not stability([3.0, math.inf]).finite
    assert not stability([]).finite
    assert not stability([3.0, 2.0, 1.0], finished=False).finite


# ---- what may be compared --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"parameters": 1051}, "1,051 parameters"),
        ({"parameters": 949}, "949 parameters"),
        ({"tokens": 4097}, "tokens 4097"),
        ({"corpus": "other"}, "corpus other"),
        ({"tokenizer": "other"}, "tokenizer other"),
        ({"seq_len": 64}, "seq_len 64"),
        ({"seed": 1}, "seed 1"),
        ({"corpus": None}, "corpus not known"),
    ],
)
def test_every_mismatch_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    pair = contestant("a", transformer()), contestant("b", transformer(), **change)
    with pytest.raises(BadInput, match=rf"not comparable: b: {told}"):
        compared(*pair)


def test_matched_is_matched_and_all_mismatches_are_listed() -> None:
    a = contestant("a", transformer())
    assert mismatches([a, contestant("b", eco(), parameters=1050)]) == ()
    assert len(mismatches([a, contestant("b", eco(), seed=1, tokens=2), contestant("c", eco(), seed=3)])) == 3


def test_what_both_sides_do_not_know_is_a_mismatch_too() -> None:
    pair = [contestant(n, transformer(), corpus=None) for n in "ab"]
    assert len(mismatches(pair)) == 1


@pytest.mark.parametrize("names", ["a", "aa"])
def test_two_names_are_needed(names: str) -> None:
    with pytest.raises(BadInput, match="two denoisers"):
        compared(*(contestant(n, transformer()) for n in names))


# ---- the whole -------------------------------------------------------------------------------------------


def test_a_denoiser_beside_itself_is_no_better_and_no_worse() -> None:
    found = compared(contestant("a", transformer()), contestant("b", transformer()))
    assert found.gaps["b"].bits_per_byte == Interval(0, 0, 0)
    assert {i.value for i in found.gaps["b"].exact.values()} == {0}
    assert found.mismatches == ()
    held_rules = {o.rule: o.holds for o in found.decisions["b"].outcomes}
    assert held_rules["likelihood bound"]
    assert held_rules["peak memory"]
    assert held_rules["bits per byte, latin"]
    assert held_rules["bits per byte, devanagari"]
    assert found.decisions["b"].keep == all(held_rules.values())
    assert found.primary == ("b" if found.decisions["b"].keep else "a")


@pytest.fixture
def work_is_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock that ticks once for every module that runs: speed is what a denoiser does, whatever else the
    machine is doing."""
    ran = itertools.count()
    now = [0]

    def tick(*_: object) -> None:
        now[0] = next(ran)

    timed = functools.partial(timing.side_by_side, clock=lambda: float(now[0]))
    monkeypatch.setattr("haloweave.diffusion.judging.race.side_by_side", timed)
    hook = register_module_forward_hook(tick)
    yield
    hook.remove()


@pytest.mark.usefixtures("work_is_time")
def test_a_slow_one_does_not_replace_the_baseline_and_a_quick_one_does() -> None:
    slow, quick = contestant("slow", transformer(24)), contestant("quick", transformer(1))
    lenient = Rules(nelbo=9, script=9, spread=9, memory=9)
    one = compared(slow, quick, rules=lenient)
    assert one.primary == "quick"
    assert one.gaps["quick"].training.value > 1.5
    assert compared(quick, slow, rules=lenient).primary == "quick"
    strict = compared(slow, quick, rules=replace(lenient, nelbo=-0.99))
    assert strict.primary == "slow"


def test_unmatched_is_compared_when_it_is_asked_for_and_says_so() -> None:
    found = compared(contestant("a", transformer()), contestant("b", eco(), seed=9), unmatched=True)
    assert found.mismatches == ("b: seed 9, a has 0",)
    slots = found.results["b"].slot_entropy
    assert slots is not None
    assert all(0 <= s <= math.log(4) + 1e-6 for s in slots)
    assert found.results["a"].slot_entropy is None


def test_another_vocabulary_is_refused_even_unmatched() -> None:
    larger = transformer(vocab_size=SIZES["vocab_size"] + 9)
    for one, other in ((larger, transformer()), (transformer(), larger)):
        pair = contestant("a", one), contestant("b", other, tokenizer="other")
        with pytest.raises(BadInput, match="b: expected a's tokenizer"):
            compared(*pair, unmatched=True)


@pytest.mark.parametrize("borrows", [{}, {"projection_rank": 4}, {"projection_rank": 4, "reads_fully": True}])
@EACH
def test_a_copy_that_reads_longer_texts_borrows_what_the_denoiser_borrows(
    arch: str, borrows: dict[str, Any]
) -> None:
    """Else a step would train a table of V x D that the denoiser does not have."""
    model, noise = tiny(arch, torch.randn(V, 8), **borrows), torch.random.get_rng_state()
    longer = _reaching(model, MAX_LEN + 40)
    assert longer.parameters_trained - model.parameters_trained == 40 * model.config.d_model
    with torch.inference_mode():
        assert longer.hidden(texts(1, MAX_LEN + 40)).tokens.shape[1] == MAX_LEN + 40
    assert _reaching(model, MAX_LEN) is model
    assert torch.equal(noise, torch.random.get_rng_state())


def test_lengths_beyond_the_denoiser_are_measured_on_a_copy_that_reads_them() -> None:
    model, other = transformer(), eco()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    noise = torch.random.get_rng_state()
    found = compared(contestant("a", model), contestant("b", other))
    speed = found.results["a"].speed
    assert list(speed.seconds_by_length) == [16, 32, 64]
    assert math.isfinite(speed.exponent)
    assert speed.training > 0
    assert speed.step_bytes > found.results["a"].evaluation.call_bytes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(noise, torch.random.get_rng_state())
    assert not model.training


def test_three_go_against_the_first() -> None:
    found = compared(*(contestant(n, transformer()) for n in "abc"))
    assert list(found.decisions) == ["b", "c"]
    assert list(found.results) == ["a", "b", "c"]
