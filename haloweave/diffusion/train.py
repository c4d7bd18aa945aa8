# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Training: a denoiser, a corpus and a recipe go in; a folder with a model in it comes out.

Reads top to bottom: run, steps, one step, evaluation. Knows the order of things. Must not know screens.
Whatever decides a step (rows, noise, dropout, learning rate) follows from (seed, step), so that a run that
was stopped or killed goes on from its last checkpoint with the very losses it would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from haloweave.diffusion.data import batch_rows
from haloweave.diffusion.disk import alone
from haloweave.diffusion.errors import BadInput, CannotWrite, Stopped
from haloweave.diffusion.soft_targets import SoftTargets
from haloweave.diffusion.training.checkpoints import CHECKPOINT, Checkpoints, Standing
from haloweave.diffusion.training.curves import Curves
from haloweave.diffusion.training.hardware import Machine
from haloweave.diffusion.training.material import Material
from haloweave.diffusion.training.noise import Noise, number_of
from haloweave.diffusion.training.objective import Objective, Say
from haloweave.diffusion.training.optim import Average, adamw
from haloweave.diffusion.training.processes import align, exchange
from haloweave.diffusion.training.recipe import Recipe
from haloweave.diffusion.training.state import State
from haloweave.diffusion.training.teacher import taught
from haloweave.diffusion.training.validation import Valid, Validation

__all__ = ["CHECKPOINT", "Material", "Report", "Tell", "Trained", "Trainer"]


@dataclass(frozen=True)
class Report:
    """One step, told by the first process."""

    step: int
    """Steps taken so far, this one included."""
    steps: int
    loss: float
    """Of this step's global batch."""
    parts: Mapping[str, float]
    lr: float
    gradient: float
    """Length of the gradient before clipping."""
    tokens_per_second: float
    seconds_left: float
    valid: Valid | None = None
    cpu_seconds: float = 0.0
    """Of this process, all threads, for this step alone: neither evaluation nor checkpoints."""


@dataclass(frozen=True)
class Trained:
    """What came of a run."""

    folder: Path
    steps: int
    seconds: float
    """Spent training, resumed parts included, and a teacher's CPU time."""
    valid: Valid | None
    """None where nothing was held out."""


Tell = Callable[[Report], None]


class Trainer:
    """One run into `folder`. Raises BadInput or BadCheckpoint for material that does not fit together."""

    def __init__(
        self,
        material: Material,
        recipe: Recipe,
        noise: Noise,
        folder: Path,
        *,
        machine: Machine | None = None,
        say: Say = lambda text: None,
    ) -> None:
        self._machine = machine or Machine()
        self._processes = self._machine.processes
        _check_teacher(material, recipe, recipe.rows(self._processes.count))
        self._material, self._recipe, self._noise, self._folder = material, recipe, noise, folder
        self._denoiser = material.denoiser.to(self._machine.place)
        align(self._denoiser, self._processes)
        self._weights = [p for p in self._denoiser.parameters() if p.requires_grad]
        self._optimizer, self._average = adamw(self._denoiser, recipe), Average(self._denoiser, recipe.ema)
        self._objective = Objective(self._denoiser, recipe, noise, self._machine, say)
        self._validation = self._held_out()
        self._batch_tokens = material.corpus.train.seq_len * recipe.rows(self._processes.count)
        self._at = Standing(seconds=0.0 if material.answers is None else material.answers.seconds)
        state = State(self._denoiser, self._average, self._optimizer)
        self._checkpoints = Checkpoints(folder, material, recipe, state, self._machine, self._at)
        self._say, self._drawn = say, True

    @property
    def step(self) -> int:
        """Steps taken."""
        return self._at.step

    def resume(self) -> None:
        """Go on from the checkpoint in the folder, if there is one; `run` does so by itself. Raises
        BadCheckpoint for one that is damaged, of another run, or older than the model there."""
        self._checkpoints.resume()

    def run(self, tell: Tell, stop: Callable[[], bool] = lambda: False) -> Trained:
        """Train to the end, going on from a checkpoint that is there.

        `tell` hears of every step; `stop` is asked at each, and in one process is enough to end them all.
        Raises Stopped, with a checkpoint at the step it names; Diverged, with the last good one kept.
        """
        with alone(self._folder) if self._machine.leads else nullcontext():
            self.resume()
            self._checkpoints.begin()
            curves = Curves(self._folder, self._at.step) if self._machine.leads else None
            for report in self._steps(stop):
                if curves is not None:
                    _note(curves, report, self._at.step * self._batch_tokens, self._at.seconds)
                    if report.valid is not None:
                        self._draw(curves)
                    tell(report)
            self._end()
            if curves is not None and self._validation is None:
                self._draw(curves)
            self._processes.wait()
        return Trained(self._folder, self._at.step, self._at.seconds, self._at.valid)

    def _steps(self, stop: Callable[[], bool]) -> Iterator[Report]:
        recipe, at, started = self._recipe, self._at, time.perf_counter()
        first, spent = at.step, at.seconds
        self._denoiser.train()
        while at.step < recipe.max_steps:
            clock = time.process_time()
            losses, gradient, asked = self._one_step(stop())
            cpu = time.process_time() - clock
            at.seconds = spent + time.perf_counter() - started
            each = (at.seconds - spent) / (at.step - first)
            yield Report(
                step=at.step,
                steps=recipe.max_steps,
                loss=losses.pop("loss"),
                parts=losses,
                lr=recipe.learning_rate(at.step - 1),
                gradient=gradient,
                tokens_per_second=self._batch_tokens / each,
                seconds_left=(recipe.max_steps - at.step) * each,
                valid=self._kept_and_judged(),
                cpu_seconds=cpu,
            )
            if asked and at.step < recipe.max_steps:
                self._checkpoints.keep()
                raise Stopped(f"stopped after step {at.step:,} of {recipe.max_steps:,}")

    def _one_step(self, asked: bool) -> tuple[dict[str, float], float, bool]:
        """Losses of the global batch, the gradient's length, and whether any process is asked to stop."""
        step = self._at.step
        x0, soft = self._batch(step)
        parts = self._objective.backward(self._noise.draw(x0, self._recipe.seed, step), step, soft)
        told = torch.stack([*parts.values(), torch.tensor(float(asked), device=self._machine.place)])
        *losses, stops = exchange(self._weights, told, self._processes).tolist()
        gradient = torch.nn.utils.clip_grad_norm_(self._weights, self._recipe.clip)
        self._check(losses[0], float(gradient))
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._average.update(step)
        self._at.step += 1
        return dict(zip(parts, losses, strict=True)), float(gradient), stops > 0

    def _batch(self, step: int) -> tuple[Int64[Tensor, "B T"], SoftTargets | None]:
        """The global batch of a step, and what a teacher says of it."""
        train, recipe, answers = self._material.corpus.train, self._recipe, self._material.answers
        rows = batch_rows(recipe.seed, step, recipe.rows(self._processes.count), len(train))
        if answers is None:
            return train.rows(rows), None
        rows = answers.read(rows, number_of(recipe.seed, "teacher"), step, recipe.distil_rows)
        return train.rows(rows), answers.soft(rows, recipe.distil)

    def _check(self, loss: float, gradient: float) -> None:
        if math.isfinite(loss) and math.isfinite(gradient):
            return
        found = f"the loss is {loss}, the gradient's length {gradient}"
        raise self._checkpoints.diverged(self._at.step + 1, found)

    # ---- evaluation ----------------------------------------------------------------------------------

    def _held_out(self) -> Validation | None:
        valid, recipe = self._material.corpus.valid, self._recipe
        if not len(valid):
            return None
        count = min(recipe.evaluate_rows, len(valid))
        spread = [i * len(valid) // count for i in range(count)]
        bytes_of = self._material.tokenizer.bytes_per_token
        return Validation(valid.rows(spread), bytes_of, recipe.evaluate_draws)

    def _kept_and_judged(self) -> Valid | None:
        """Checkpoint and evaluation, where they are due. In this order: an evaluation that finds no memory,
        or is killed, costs no step, and the run can go on after it."""
        recipe, step = self._recipe, self._at.step
        last = step == recipe.max_steps
        judged = self._validation is not None and (last or step % recipe.evaluate_every == 0)
        if judged or last or step % recipe.checkpoint_every == 0:
            self._checkpoints.keep()
        if not judged:
            return None
        valid = self._evaluate()
        self._checkpoints.keep()  # what was found is kept beside the weights
        return valid

    def _evaluate(self) -> Valid | None:
        """The averaged weights on held-out text; the first process does it for all."""
        if self._validation is None or not self._machine.leads:
            return None
        try:
            with self._average.in_place():
                self._at.valid = self._validation.judge(self._denoiser)
        except BadInput as error:  # it judged such text before, so the weights are to blame
            found = f"held-out text cannot be judged ({error})"
            raise self._checkpoints.diverged(self._at.step, found) from error
        self._at.judged = self._at.step
        return self._at.valid

    def _end(self) -> None:
        """The last checkpoint, with the last evaluation: caught up on, where a run ended in the midst."""
        if self._validation is not None and self._at.judged < self._at.step:
            self._evaluate()
        self._checkpoints.keep()

    def _draw(self, curves: Curves) -> None:
        """The picture is a comfort: where it cannot be drawn the run goes on, and says so once."""
        try:
            curves.draw()
        except (CannotWrite, OSError) as error:
            if self._drawn:
                self._say(f"the curves cannot be drawn, going on without ({error})")
            self._drawn = False


def _check_teacher(material: Material, recipe: Recipe, rows: int) -> None:
    if (material.answers is None) != (recipe.distil == 0):
        got = "none" if material.answers is None else "some"
        raise BadInput(
            f"training: a teacher's answers and distil belong together, got {got} and distil {recipe.distil}"
        )
    if recipe.distil and not taught(recipe.distil_rows, rows):
        raise BadInput(
            f"training: distil_rows {recipe.distil_rows} of {rows} rows a step is none, and nothing would be "
            f"learnt of the teacher; set a larger distil_rows or batch_size"
        )


def _note(curves: Curves, report: Report, tokens: int, seconds: float) -> None:
    """A line of the curves."""
    told: dict[str, float | None] = {"step": report.step, "tokens": tokens, "seconds": seconds}
    told |= {"loss": report.loss, "lr": report.lr, "gradient": report.gradient}
    if report.valid is not None:
        told |= {"valid_nats": report.valid.nats, "valid_bits_per_byte": report.valid.bits_per_byte}
    curves.add(told, report.parts)
