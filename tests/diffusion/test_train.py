# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Training: it learns, goes on bit for bit where it was stopped, and stops before it writes rubbish."""

from __future__ import annotations

import ctypes
import math
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_denoiser as tiny
import torch
from tiny_denoiser import RECIPE, losses, trainer
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from haloweave.diffusion import build
from haloweave.diffusion.checkpoint import MODEL, from_pretrained
from haloweave.diffusion.corrupt import Absorb
from haloweave.diffusion.disk import alone
from haloweave.diffusion.errors import BadCheckpoint, BadInput, CannotWrite, Diverged, Stopped, TooLittleText
from haloweave.diffusion.parcel import Parcel, note, read
from haloweave.diffusion.schedule import Cosine, levels
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.train import CHECKPOINT, Material, Report, Trained
from haloweave.diffusion.training import curves, hardware, objective, optim
from haloweave.diffusion.training.hardware import Machine
from haloweave.diffusion.training.noise import Noise, generator_of, noise_of
from haloweave.diffusion.training.recipe import Recipe
from haloweave.diffusion.training.validation import Validation


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def corpus(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.corpus(tmp_path_factory.mktemp("corpus"), words)


@pytest.fixture(autouse=True)
def _no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes a third of a second: only tests of pictures draw them."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(curves, "_picture", lambda columns, path: None)


Make = Callable[..., Material]


@pytest.fixture
def make(words: Tokenizer, corpus: Any) -> Make:
    """The same denoiser over the same corpus, anew."""

    def made(arch: str = "transformer", **more: Any) -> Material:
        return Material(tiny.denoiser(words, arch, **more), words, corpus)

    return made


def state(folder: Path) -> Parcel:
    found = read(folder / CHECKPOINT)
    assert found is not None
    return found


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stopping(step: int) -> tuple[Callable[[Report], None], Callable[[], bool], list[Report]]:
    """`tell` and `stop` for a run that ends after a step."""
    told: list[Report] = []
    return told.append, lambda: len(told) + 1 >= step, told


# ---- learning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_it_learns(make: Make, tmp_path: Path, arch: str) -> None:
    recipe = replace(RECIPE, max_steps=60, batch_size=8, lr=1e-2, evaluate_every=20, ema=0.9)
    told = losses(trainer(make(arch), tmp_path, recipe))
    bounds = [r.valid.nats for r in told if r.valid is not None]
    assert [r.step for r in told if r.valid is not None] == [20, 40, 60]
    uniform = math.log(make().tokenizer.vocab_size)
    assert bounds[-1] < bounds[0] < uniform
    assert bounds[-1] < 0.7 * uniform
    assert all(r.steps == 60 and r.tokens_per_second > 0 and r.gradient > 0 for r in told)
    assert told[-1].seconds_left == 0
    assert all(sum(r.parts.values()) == pytest.approx(r.loss, rel=1e-5) for r in told)


@pytest.mark.parametrize(
    "given",
    [
        {"corruption": "hybrid", "corruption_options": {"uniform": 0.2}},
        {"corruption": "frequency"},
        {"corruption": "spans"},
        {"schedule": "linear", "timesteps": 4},
        {"schedule": "log_linear", "objective": "elbo"},
        {"objective": "elbo", "timesteps": 8},
        {"decay": 0.0, "ema": 0.0},
    ],
    ids=str,
)
def test_every_way_to_train(make: Make, tmp_path: Path, given: dict[str, Any]) -> None:
    recipe = replace(RECIPE, max_steps=40, lr=1e-2, evaluate_every=20, **given)
    told = losses(trainer(make(), tmp_path, recipe))
    found = [r.valid.nats for r in told if r.valid is not None]
    assert found[1] < found[0]


def test_a_batch_in_parts_is_the_same_batch(make: Make, tmp_path: Path) -> None:
    whole = losses(trainer(make(), tmp_path / "a", replace(RECIPE, batch_size=8)))
    parts = losses(trainer(make(), tmp_path / "b", replace(RECIPE, batch_size=2, grad_accum=4)))
    for one, other in zip(whole, parts, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-5)
        assert one.gradient == pytest.approx(other.gradient, rel=1e-4)


def test_the_bound_is_in_bytes_too(make: Make, tmp_path: Path) -> None:
    material = make()
    (valid,) = [r.valid for r in losses(trainer(material, tmp_path, replace(RECIPE, evaluate_every=99)))][-1:]
    assert valid is not None
    count = min(RECIPE.evaluate_rows, len(material.corpus.valid))
    rows = material.corpus.valid.rows([i * len(material.corpus.valid) // count for i in range(count)])
    size = int(material.tokenizer.bytes_per_token[rows].sum())
    tokens = int((rows != material.tokenizer.pad_id).sum())
    assert valid.tokens == tokens
    assert valid.bits_per_byte == pytest.approx(valid.nats * tokens / math.log(2) / size)


def test_watching_changes_nothing(make: Make, tmp_path: Path) -> None:
    """Evaluation, checkpoints and curves draw no random number and touch no weight."""
    before = torch.random.get_rng_state()
    seldom = losses(trainer(make(), tmp_path / "a", replace(RECIPE, evaluate_every=99, checkpoint_every=99)))
    often = losses(trainer(make(), tmp_path / "b", replace(RECIPE, evaluate_every=1, checkpoint_every=1)))
    assert [r.loss for r in seldom] == [r.loss for r in often]
    assert same(state(tmp_path / "a").tensors, state(tmp_path / "b").tensors)
    assert torch.equal(before, torch.random.get_rng_state())


def test_bfloat16_multiplies_and_keeps_float32_weights(make: Make, tmp_path: Path) -> None:
    plain = losses(trainer(make(), tmp_path / "a"))
    short = losses(trainer(make(), tmp_path / "b", machine=Machine(bf16=True)))
    assert [r.loss for r in plain] != [r.loss for r in short]
    assert short[-1].loss == pytest.approx(plain[-1].loss, rel=0.05)
    assert {v.dtype for v in state(tmp_path / "b").tensors.values()} == {torch.float32}


def test_without_held_out_text_nothing_is_measured(make: Make, words: Tokenizer, tmp_path: Path) -> None:
    text = tiny.texts(1)
    corpus = tiny.corpus(tmp_path / "data", words, text, valid_share=0.0)
    material = Material(tiny.denoiser(words), words, corpus)
    done = trainer(material, tmp_path / "out").run(lambda report: None)
    assert done == Trained(tmp_path / "out", 12, done.seconds, None)
    assert curves.read(tmp_path / "out" / curves.CSV)["valid_nats"] == pytest.approx(
        [math.nan] * 12, nan_ok=True
    )


def test_the_bound_on_the_way_is_the_same_however_many_rows_are_read_at_once(
    make: Make, tmp_path: Path
) -> None:
    one, other = (
        [r.valid for r in losses(trainer(make(), tmp_path / str(size), replace(RECIPE, **split)))]
        for size, split in ((4, {}), (2, {"batch_size": 2, "grad_accum": 2}))
    )
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or a.nats == pytest.approx(b.nats, abs=1e-4)


def test_a_block_is_judged_under_masks_of_its_own(make: Make) -> None:
    material = make()
    blocks = material.corpus.valid.rows([0, 1, 2])

    def nats(which: list[int]) -> float:
        found = Validation(blocks[which], None, 2).judge(material.denoiser)
        return found.nats * found.tokens

    assert nats([2, 0]) == pytest.approx(nats([0]) + nats([2]), rel=1e-9)
    assert material.denoiser.training


# ---- noise -------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_seed_and_step() -> None:
    x0 = torch.arange(3, 3 + 8 * 32).reshape(8, 32)
    noise = Noise(Cosine(), Absorb(0, 1))
    one, other = noise.draw(x0, 5, 7), noise.draw(x0, 5, 7)
    assert torch.equal(one.batch.xt, other.batch.xt)
    assert not torch.equal(one.batch.xt, noise.draw(x0, 5, 8).batch.xt)
    assert not torch.equal(one.batch.xt, noise.draw(x0, 6, 7).batch.xt)
    assert {noise.draw(x0, 0, step).self_condition for step in range(20)} == {True, False}


def test_times_are_uniform_and_stratified() -> None:
    """Kolmogorov-Smirnov against the uniform, and one time in every stratum of each batch."""
    noise = Noise(Cosine(), Absorb(0, 1))
    x0 = torch.full((8, 4), 5)
    rates = torch.stack([noise.draw(x0, 0, step).batch.rate[:, 0] for step in range(500)])
    times = Cosine().time(rates.double())
    strata = (times * 8 + 1e-4).floor().clamp(max=7).sort(1).values
    assert (strata.diff(dim=1) >= 0).all()
    assert ((times.sort(1).values.diff(dim=1) - 1 / 8).abs() < 1e-3).all()
    for column in (times[:, 0], times[:, 3]):
        spread = (column.sort().values - torch.arange(500) / 500).abs().max()
        assert spread < 1.63 / math.sqrt(500), "p < 0.01 otherwise"


@pytest.mark.parametrize(("rows", "parts"), [(128, 8), (128, 2), (64, 4), (48, 3)])
def test_microbatches_and_processes_have_as_much_to_do(rows: int, parts: int) -> None:
    """The mean rate of rows side by side; in the order of their strata they are 0.02 to 0.98."""
    noise, x0 = Noise(Cosine(), Absorb(0, 1)), torch.full((rows, 4), 5)
    rates = torch.stack([noise.draw(x0, 0, step).batch.rate[:, 0] for step in range(50)])
    means = rates.view(50, parts, -1).mean(2)
    assert (means - rates.mean(1, keepdim=True)).abs().max() < 0.06
    assert len({tuple(r.argsort().tolist()) for r in rates}) > 20, "nearly every step has its own order"


def test_discrete_times_are_the_levels_of_the_chain() -> None:
    noise = Noise(Cosine(), Absorb(0, 1), timesteps=5)
    x0 = torch.full((10, 4), 5)
    rates = torch.cat([noise.draw(x0, 0, step).batch.rate[:, 0] for step in range(50)])
    expected = levels(Cosine(), 5).float()
    assert torch.equal(rates.unique(), expected)
    counts = torch.tensor([(rates == level).sum() for level in expected])
    assert counts.tolist() == [100] * 5


def test_generators_for_different_purposes_differ() -> None:
    seeds = {
        generator_of(*which).initial_seed() for which in [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1)]
    }
    assert len(seeds) == 4


def test_an_option_that_a_corruption_does_not_have(make: Make) -> None:
    recipe = replace(RECIPE, corruption_options={"strength": 1.0})
    with pytest.raises(BadInput, match="strength"):
        noise_of(recipe, make().tokenizer, make().corpus)


# ---- the optimiser -----------------------------------------------------------------------------------


def test_decay_is_for_matrices(make: Make) -> None:
    model = make().denoiser
    groups = optim.adamw(model, replace(RECIPE, decay=0.1)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim <= 1 for p in groups[1]["params"])
    assert sum(len(g["params"]) for g in groups) == len([*model.parameters()])


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_average_of_the_weights(decay: float) -> None:
    model = torch.nn.Linear(2, 2)
    average = optim.Average(model, decay)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(20):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(step)
        average.update(step)
        d = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        for name, p in model.named_parameters():
            expected[name] = d * expected[name] + (1 - d) * p.detach()
    for name, value in average.weights.items():
        torch.testing.assert_close(value, expected[name])
    live = model.weight.detach().clone()
    seen: list[torch.Tensor] = []
    with suppress(ZeroDivisionError), average.in_place():
        seen.append(model.weight.detach().clone())
        raise ZeroDivisionError
    assert torch.equal(seen[0], average.weights["weight"])
    assert torch.equal(model.weight, live), "put back bit for bit, whatever happened"


def test_the_model_that_is_kept_is_the_average(make: Make, tmp_path: Path) -> None:
    losses(trainer(make(), tmp_path))
    loaded = from_pretrained(tmp_path)
    kept = state(tmp_path).tensors
    for name, p in loaded.denoiser.named_parameters():
        assert torch.equal(p, kept[f"average/{name}"])
        assert not torch.equal(p, kept[f"model/{name}"])
    assert loaded.told["step"] == 12
    assert loaded.told["sample_steps"] == RECIPE.sample_steps
    assert loaded.told["arch"] == "transformer"


# ---- going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", tiny.ARCHS)
@pytest.mark.parametrize("step", [1, 4, 5, 11])
def test_stopped_it_goes_on_bit_for_bit(make: Make, tmp_path: Path, arch: str, step: int) -> None:
    more = {"dropout": 0.1, "self_conditioning": True, "time_conditioning": True}
    whole = losses(trainer(make(arch, **more), tmp_path / "whole"))
    tell, stop, told = stopping(step)
    with pytest.raises(Stopped, match=f"after step {step} of 12"):
        trainer(make(arch, **more), tmp_path / "parts").run(tell, stop)
    assert state(tmp_path / "parts").told["step"] == step
    told += losses(trainer(make(arch, seed=9, **more), tmp_path / "parts"))
    for one, other in zip(whole, told, strict=True):
        assert (one.step, one.loss, one.parts, one.lr, one.gradient, one.valid) == (
            *(other.step, other.loss, other.parts, other.lr, other.gradient, other.valid),
        )
    assert same(state(tmp_path / "whole").tensors, state(tmp_path / "parts").tensors)
    assert (tmp_path / "whole" / MODEL).read_bytes() == (tmp_path / "parts" / MODEL).read_bytes()


def test_stopped_at_every_step_it_goes_on_bit_for_bit(make: Make, tmp_path: Path) -> None:
    recipe = replace(RECIPE, grad_accum=2, batch_size=2)
    whole = losses(trainer(make(), tmp_path / "whole", recipe))
    told: list[Report] = []
    for step in range(1, 13):
        run = trainer(make(), tmp_path / "parts", recipe)
        if step == 12:
            told += losses(run)
            continue
        with pytest.raises(Stopped):
            run.run(told.append, lambda: True)
        assert len(told) == step
    assert [r.loss for r in told] == [r.loss for r in whole]
    table = [curves.read(tmp_path / name / curves.CSV) for name in ("whole", "parts")]
    assert table[0]["step"] == table[1]["step"] == [*range(1, 13)]
    assert table[0]["loss"] == table[1]["loss"]


@pytest.mark.parametrize("step", [3, 8])
def test_killed_it_goes_on_from_its_last_checkpoint(make: Make, tmp_path: Path, step: int) -> None:
    """A kill is an exception that nobody handles; curves past the checkpoint are told again, not twice."""
    whole = losses(trainer(make(), tmp_path / "whole"))

    def kill(report: Report) -> None:
        if report.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(make(), tmp_path / "parts").run(kill)
    table = tmp_path / "parts" / curves.CSV
    assert curves.read(table)["step"] == [*range(1, step + 1)]
    table.write_text(table.read_text() + "9,torn")
    told = losses(trainer(make(), tmp_path / "parts"))
    assert told[0].step == (1 if step < 5 else 7)
    assert [r.loss for r in told] == [r.loss for r in whole[told[0].step - 1 :]]
    columns = [curves.read(tmp_path / name / curves.CSV) for name in ("whole", "parts")]
    for name in ("step", "loss", "lr", "gradient"):
        assert columns[0][name] == columns[1][name]
    assert same(state(tmp_path / "whole").tensors, state(tmp_path / "parts").tensors)


def test_a_run_that_is_over_is_not_run_again(make: Make, tmp_path: Path) -> None:
    first = trainer(make(), tmp_path).run(lambda report: None)
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / CHECKPOINT, tmp_path / MODEL)}
    told: list[Report] = []
    again = trainer(make(), tmp_path).run(told.append)
    assert (told, again) == ([], first)
    assert written == {p: p.stat().st_mtime_ns for p in written}


def test_a_request_at_the_last_step_changes_nothing(make: Make, tmp_path: Path) -> None:
    tell, stop, told = stopping(12)
    done = trainer(make(), tmp_path).run(tell, stop)
    assert (done.steps, len(told)) == (12, 12)


def test_other_rows_at_once_are_the_same_run(make: Make, tmp_path: Path) -> None:
    tell, stop, _ = stopping(6)
    with pytest.raises(Stopped):
        trainer(make(), tmp_path).run(tell, stop)
    told = losses(trainer(make(), tmp_path, replace(RECIPE, batch_size=2, grad_accum=2, evaluate_every=3)))
    assert told[0].step == 7


@pytest.mark.parametrize("given", [{"arch": "hierarchical"}, {"dropout": 0.1}], ids=str)
def test_where_rows_are_read_together_another_split_is_refused(
    make: Make, tmp_path: Path, given: dict[str, Any]
) -> None:
    tell, stop, _ = stopping(6)
    with pytest.raises(Stopped):
        trainer(make(**given), tmp_path).run(tell, stop)
    with pytest.raises(
        BadCheckpoint, match=r"batch_size 4 there, 2 here; .* go on with batch_size 4: with dropout"
    ):
        losses(trainer(make(**given), tmp_path, replace(RECIPE, batch_size=2, grad_accum=2)))
    assert losses(trainer(make(**given), tmp_path))[0].step == 7


def _other_arch(make: Make, words: Tokenizer, corpus: Any, folder: Path) -> tuple[Material, Recipe]:
    return make("eco_hybrid"), RECIPE


def _other_vocabulary(make: Make, words: Tokenizer, corpus: Any, folder: Path) -> tuple[Material, Recipe]:
    other = tiny.tokenizer(360)
    return Material(tiny.denoiser(other), other, tiny.corpus(folder, other)), RECIPE


def _other_text(make: Make, words: Tokenizer, corpus: Any, folder: Path) -> tuple[Material, Recipe]:
    return Material(tiny.denoiser(words), words, tiny.corpus(folder, words, tiny.texts(40, seed=1))), RECIPE


def _other_rate(make: Make, words: Tokenizer, corpus: Any, folder: Path) -> tuple[Material, Recipe]:
    return make(), replace(RECIPE, lr=1e-4)


def _other_shape(make: Make, words: Tokenizer, corpus: Any, folder: Path) -> tuple[Material, Recipe]:
    return make(d_ff=48), RECIPE


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_other_arch, "config.arch transformer there, eco_hybrid here"),
        (_other_vocabulary, "config.vocab_size 3.. there, 3.. here"),
        (_other_text, "corpus .*there, .*here"),
        (_other_rate, "recipe.lr 0.003 there, 0.0001 here"),
        (_other_shape, "config.d_ff 32 there, 48 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    make: Make, words: Tokenizer, corpus: Any, tmp_path: Path, change: Any, told: str
) -> None:
    losses(trainer(make(), tmp_path / "out"))
    kept = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    material, recipe = change(make, words, corpus, tmp_path / "data")
    with pytest.raises(BadCheckpoint, match=told):
        losses(trainer(material, tmp_path / "out", recipe))
    assert kept == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_a_folder_with_another_model_is_not_written_over(make: Make, tmp_path: Path) -> None:
    losses(trainer(make(), tmp_path))
    (tmp_path / CHECKPOINT).unlink()
    kept = (tmp_path / MODEL).read_bytes()
    with pytest.raises(BadCheckpoint, match=r"transformer there, hierarchical here \.\.\.; remove it, or"):
        losses(trainer(make("hierarchical"), tmp_path))
    assert (tmp_path / MODEL).read_bytes() == kept


def test_two_runs_in_one_folder(make: Make, tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(BadInput, match="another run is at work"):
        losses(trainer(make(), tmp_path))
    losses(trainer(make(), tmp_path))


# ---- what goes wrong ---------------------------------------------------------------------------------


def spoil(denoiser: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        next(denoiser.parameters())[0] = value


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 7])
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    make: Make, tmp_path: Path, value: float, at: int
) -> None:
    material = make()
    kept: list[bytes] = []

    def tell(report: Report) -> None:
        if report.step == at:
            kept.extend((tmp_path / CHECKPOINT).read_bytes() for _ in range(at > 5))
            spoil(material.denoiser, value)

    told = (
        "the last good checkpoint, of step 6, is kept in .*state" if at > 5 else "there is no checkpoint yet"
    )
    with pytest.raises(Diverged, match=f"step {at + 1}: the loss is .*{told}.*smaller lr than 0.003"):
        trainer(material, tmp_path).run(tell)
    assert [(tmp_path / CHECKPOINT).read_bytes()] == kept if kept else not (tmp_path / CHECKPOINT).exists()
    assert losses(trainer(make(), tmp_path))[0].step == (7 if at > 5 else 1), "and a run goes on from it"


def test_a_gradient_that_is_not_finite(make: Make, tmp_path: Path) -> None:
    material = make()
    weight = next(material.denoiser.parameters())
    weight.register_hook(lambda grad: grad * math.inf)
    before = weight.detach().clone()
    with pytest.raises(Diverged, match=r"step 1: the loss is [\d.]+, the gradient's length (inf|nan)"):
        trainer(material, tmp_path).run(lambda report: None)
    assert torch.equal(weight, before)


def test_a_weight_that_is_not_finite_is_never_written(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spoiled between the last finite step and its checkpoint."""
    material, update = make(), optim.Average.update

    def spoilt(self: optim.Average, step: int) -> None:
        update(self, step)
        if step + 1 == 10:
            spoil(material.denoiser, math.nan)

    monkeypatch.setattr(optim.Average, "update", spoilt)
    with pytest.raises(Diverged, match=r"step 10: a weight is not finite; the last good .* step 6"):
        losses(trainer(material, tmp_path))
    assert state(tmp_path).told["step"] == 6
    assert (note(tmp_path / MODEL) or {})["step"] == 6


def test_a_rate_that_is_far_too_high_ends_as_diverged(make: Make, tmp_path: Path) -> None:
    recipe = replace(RECIPE, max_steps=400, lr=1e30, warmup=0.0, evaluate_every=400, checkpoint_every=400)
    with pytest.raises(Diverged):
        trainer(make(), tmp_path, recipe).run(lambda report: None)


def test_held_out_text_that_cannot_be_judged_is_divergence(make: Make, tmp_path: Path) -> None:
    recipe = replace(RECIPE, lr=1e30, warmup=0.0, evaluate_every=1)
    with pytest.raises(Diverged, match="no checkpoint yet"):
        trainer(make(), tmp_path, recipe).run(lambda report: None)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), KeyboardInterrupt()], ids=repr)
def test_an_evaluation_that_fails_costs_no_step(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    whole = losses(trainer(make(), tmp_path / "whole"))

    def fail(*arguments: Any, **more: Any) -> Any:
        raise error

    told: list[Report] = []
    with monkeypatch.context() as patch:
        patch.setattr("haloweave.diffusion.training.validation.nelbo_estimate", fail)
        for step in (6, 12, 12):
            with pytest.raises(type(error)):
                trainer(make(), tmp_path / "parts").run(told.append)
            assert state(tmp_path / "parts").told["step"] == step
    assert [r.step for r in told] == [*range(1, 6), *range(7, 12)]
    assert [r.loss for r in told] == [r.loss for r in whole if r.step % 6]
    done = trainer(make(), tmp_path / "parts").run(told.append)
    assert done.valid == whole[-1].valid, "caught up on"
    assert same(state(tmp_path / "whole").tensors, state(tmp_path / "parts").tensors)
    told_of = note(tmp_path / "parts" / MODEL) or {}
    assert told_of["valid"]["nats"] == done.valid.nats if done.valid else False


def test_weights_that_answer_nothing_are_never_written(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are finite, each of them, and their products are not."""
    material, update = make(), optim.Average.update

    def spoilt(self: optim.Average, step: int) -> None:
        update(self, step)
        if step + 1 == 10:
            with torch.no_grad():
                for p in material.denoiser.parameters():
                    p.fill_(3e38)

    monkeypatch.setattr(optim.Average, "update", spoilt)
    with pytest.raises(Diverged, match=r"step 10: a text gets no finite answer; .* checkpoint, of step 6"):
        losses(trainer(material, tmp_path))
    assert state(tmp_path).told["step"] == 6


def test_curves_that_cannot_be_drawn_stop_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(columns: Any, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(curves, "_picture", full)
    said: list[str] = []
    told = losses(trainer(make(), tmp_path, replace(RECIPE, evaluate_every=3), say=said.append))
    assert len(told) == 12
    assert len(said) == 1
    assert "cannot be drawn, going on without" in said[0]


def test_denoiser_and_tokenizer_have_to_match(make: Make, words: Tokenizer, corpus: Any) -> None:
    other = tiny.tokenizer(360)
    with pytest.raises(BadInput, match=f"vocab_size {other.vocab_size}, the tokenizer {words.vocab_size}"):
        Material(tiny.denoiser(other), words, corpus)


def test_too_little_text(make: Make, words: Tokenizer) -> None:
    @dataclass
    class Empty:
        train = ()
        valid = ()

    with pytest.raises(TooLittleText, match="at least one block"):
        Material(tiny.denoiser(words), words, Empty())  # type: ignore[arg-type]


def test_memory_is_kept_where_the_c_library_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.keep_memory() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not hardware.keep_memory()


def test_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.machine("cpu", "bfloat16").dtype == "bfloat16"
    assert hardware.machine("cpu", "float32").place == torch.device("cpu")
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        assert hardware.machine("cpu", "auto").bf16 == native
    with pytest.raises(BadInput, match="expected one of auto, cpu"):
        hardware.machine("tpu")
    with pytest.raises(BadInput, match="expected one of auto, float32"):
        hardware.machine("cpu", "float16")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware.device("auto") == torch.device("cpu"), "an Apple GPU has no float64"
    for name in ("mps", "mps:0"):
        with pytest.raises(BadInput, match="no float64, in which likelihoods are counted; take cpu"):
            hardware.device(name)
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="auto takes what is there"):
            hardware.machine("cuda")


# ---- compiling ---------------------------------------------------------------------------------------


def test_what_cannot_be_compiled_goes_on_uncompiled(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = losses(trainer(make(), tmp_path / "a"))

    def compile(function: Any) -> Any:
        def fail(*arguments: Any) -> Any:
            raise InvalidCxxCompiler

        return fail

    monkeypatch.setattr(objective.torch, "compile", compile)
    said: list[str] = []
    told = losses(trainer(make(), tmp_path / "b", replace(RECIPE, compile=True), say=said.append))
    assert len(said) == 1
    assert said[0].startswith("torch.compile does not work here, going on without (No working C++ compiler")
    assert [r.loss for r in told] == [r.loss for r in plain]


def _wrapped() -> Exception:
    error = InductorError(torch.OutOfMemoryError("out of memory"), None)  # type: ignore[arg-type]
    error.__cause__ = torch.OutOfMemoryError("out of memory")
    return error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out of memory"), RuntimeError("of its own"), _wrapped()], ids=repr
)
def test_what_is_no_matter_of_compiling_is_raised(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def compile(function: Any) -> Any:
        def fail(*arguments: Any) -> Any:
            raise error

        return fail

    monkeypatch.setattr(objective.torch, "compile", compile)
    said: list[str] = []
    of_memory = "memory" in str(error)
    with pytest.raises(
        BadInput if of_memory else type(error), match="rows of" if of_memory else "of its own"
    ):
        losses(trainer(make(), tmp_path, replace(RECIPE, compile=True), say=said.append))
    assert said == []


def test_what_fails_uncompiled_too_is_an_error(make: Make, tmp_path: Path) -> None:
    material = make()

    def fail(*arguments: Any) -> Any:
        raise RuntimeError("out of memory")

    material.denoiser.hidden = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer(material, tmp_path).run(lambda report: None)


def test_a_compiled_denoiser_is_itself_again_afterwards(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = losses(trainer(make(), tmp_path / "a"))
    calls: list[int] = []

    def compile(function: Any) -> Any:
        return lambda *arguments: calls.append(1) or function(*arguments)

    monkeypatch.setattr(objective.torch, "compile", compile)
    material = make()
    told = losses(trainer(material, tmp_path / "b", replace(RECIPE, compile=True)))
    assert len(calls) == RECIPE.max_steps
    assert not {"hidden", "check"} & {*vars(material.denoiser)}
    assert [r.loss for r in told] == [r.loss for r in plain]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_really_compiled(make: Make, tmp_path: Path, arch: str) -> None:
    said: list[str] = []
    plain = losses(trainer(make(arch), tmp_path / "a"))
    told = losses(trainer(make(arch), tmp_path / "b", replace(RECIPE, compile=True), say=said.append))
    assert said == []
    assert told[-1].loss == pytest.approx(plain[-1].loss, rel=1e-3)


# ---- curves ------------------------------------------------------------------------------------------


def test_curves_grow_line_by_line(make: Make, tmp_path: Path) -> None:
    lengths: list[int] = []

    def tell(report: Report) -> None:
        lengths.append(len((tmp_path / curves.CSV).read_text().splitlines()))

    trainer(make("hierarchical"), tmp_path).run(tell)
    assert lengths == [*range(2, 14)]
    header = (tmp_path / curves.CSV).read_text().splitlines()[0].split(",")
    assert {"step", "loss", "loss_ce", "lr", "valid_nats", "valid_bits_per_byte"} <= {*header}
    table = curves.read(tmp_path / curves.CSV)
    assert [math.isfinite(v) for v in table["valid_nats"]] == [step in (6, 12) for step in range(1, 13)]
    tokens = RECIPE.rows(1) * tiny.SEQ_LEN
    assert table["tokens"] == [step * tokens for step in range(1, 13)]


def test_the_picture(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    had = "matplotlib.pyplot" in sys.modules
    losses(trainer(make(), tmp_path))
    assert (tmp_path / curves.PNG).read_bytes().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == had, "no state of the process"


def test_without_matplotlib_there_is_no_picture(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    losses(trainer(make(), tmp_path))
    assert not (tmp_path / curves.PNG).exists()
    assert len(curves.read(tmp_path / curves.CSV)["step"]) == 12


def test_smoothing_has_no_bias_at_its_start() -> None:
    assert curves.smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert curves.smoothed([1.0, 0.0], keep=0.5) == pytest.approx([1.0, 1 / 3])


def test_the_running_mean_follows_a_short_run() -> None:
    assert curves.smoothed([5.0, 4.0, 3.0]) == [5.0, 4.0, 3.0]
    falling = [5 * 0.95**i for i in range(100)]
    assert curves.smoothed(falling)[-1] < 1.2 * falling[-1] < curves.smoothed(falling, keep=0.98)[-1]


def test_curves_that_are_a_folder(make: Make, tmp_path: Path) -> None:
    (tmp_path / curves.CSV).mkdir()
    with pytest.raises(CannotWrite, match=r"curves\.csv: cannot be replaced"):
        losses(trainer(make(), tmp_path))


def test_a_run_cannot_be_lengthened(make: Make, tmp_path: Path) -> None:
    losses(trainer(make(), tmp_path))
    with pytest.raises(BadCheckpoint, match="a run of 12 steps cannot be made one of 24: its learning rate"):
        losses(trainer(make(), tmp_path, replace(RECIPE, max_steps=24)))


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryError("no")]
)
def test_no_memory_for_a_batch_is_told_with_its_size(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*arguments: Any, **more: Any) -> Any:
        raise error

    monkeypatch.setattr(objective, "masked_mean_ce", full)
    with pytest.raises(BadInput, match=r"4 rows of 24 tokens at once .*smaller batch_size"):
        losses(trainer(make(), tmp_path))


def test_every_name_a_recipe_may_have_is_in_the_tables() -> None:
    assert Recipe().schedule in build.SCHEDULES
    assert Recipe().corruption in build.CORRUPTIONS
