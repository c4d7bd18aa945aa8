# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One step's gradient: a noisy global batch in, the gradient of this process's share of it on the weights.

Knows a denoiser, its losses, autocast and torch.compile. Must not know optimisers, data or files. Rows are
dealt out in microbatches by number, so that one process with twice the accumulation and two processes see
the same microbatches, and dropout draws the same numbers for each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.loss import Loss, elbo_weighted_ce, masked_mean_ce
from haloweave.diffusion.room import FEWER
from haloweave.diffusion.soft_targets import SoftTargets
from haloweave.diffusion.training.hardware import Machine
from haloweave.diffusion.training.noise import Drawn, Noise, number_of
from haloweave.diffusion.training.recipe import Recipe

Say = Callable[[str], None]


class Objective:
    """What training minimises, for one denoiser and recipe. `say` is told if compiling fails."""

    def __init__(self, denoiser: Denoiser, recipe: Recipe, noise: Noise, machine: Machine, say: Say) -> None:
        self._denoiser, self._recipe, self._noise, self._machine = denoiser, recipe, noise, machine
        self._say = say
        self._compiled = torch.compile(denoiser.hidden) if recipe.compile else None

    def backward(
        self, drawn: Drawn, step: int, soft: SoftTargets | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Add this process's part of the gradient to the weights; its part of each loss, by name.

        Parts of all processes add up to the mean over the global batch. `soft`: a teacher's answers to it.
        """
        try:
            return self._accumulate(drawn, step, soft)
        except (RuntimeError, MemoryError) as error:
            if _of_memory(error):
                rows, length = self._recipe.batch_size, drawn.batch.xt.shape[1]
                raise BadInput(
                    f"memory: not enough to read {rows:,} rows of {length:,} tokens at once "
                    f"({_first_line(error)}); {FEWER}"
                ) from error
            if self._compiled is None or not _of_compiling(error):
                raise
            self._compiled = None
            self._say(f"torch.compile does not work here, going on without ({_first_line(error)})")
            self._denoiser.zero_grad(set_to_none=True)
            return self._accumulate(drawn, step, soft)

    def _accumulate(self, drawn: Drawn, step: int, soft: SoftTargets | None) -> dict[str, Float[Tensor, ""]]:
        processes, size = self._machine.processes, self._recipe.batch_size
        total: dict[str, Tensor] = {}
        for micro in range(self._recipe.grad_accum):
            number = micro * processes.count + processes.index
            these = slice(number * size, (number + 1) * size)
            rows = Drawn(drawn.batch.rows(these), drawn.self_condition)
            taught = None if soft is None else soft.rows(these).to(self._machine.place)
            with _seeded(number_of(self._recipe.seed, "dropout", step, number), self._machine.place):
                loss = self._loss(rows, taught)
                loss.total.backward()  # type: ignore[no-untyped-call]
            for name, part in {"loss": loss.total.detach(), **loss.parts}.items():
                total[name] = total.get(name, 0) + part.float()
        return total

    def _loss(self, drawn: Drawn, soft: SoftTargets | None) -> Loss:
        denoiser, place = self._denoiser, self._machine.place
        batch, divisor = drawn.batch.to(place), self._recipe.rows(self._machine.processes.count)
        shown = drawn.self_condition and denoiser.config.self_conditioning
        denoiser.check(batch.xt)  # here, for a compiled denoiser leaves it out
        with self._compiling(), torch.autocast(place.type, torch.bfloat16, enabled=self._machine.bf16):
            if self._recipe.objective == "elbo":
                schedule, n = self._noise.schedule, self._noise.timesteps
                return elbo_weighted_ce(
                    denoiser, batch, schedule, timesteps=n, self_condition=shown, divisor=divisor
                )
            return masked_mean_ce(denoiser, batch, self_condition=shown, divisor=divisor, soft=soft)

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        """The denoiser's `hidden` is the compiled one meanwhile: no state of it changes.

        What looks at values (`check`, pads) breaks a compiled graph in two, which torch warns of at length;
        the check is left out, the other is known.
        """
        if self._compiled is None:
            yield
            return
        log = logging.getLogger("torch._dynamo")
        level = log.level
        self._denoiser.hidden = self._compiled  # type: ignore[method-assign]
        self._denoiser.check = _unchecked  # type: ignore[method-assign]
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
            del self._denoiser.hidden, self._denoiser.check


def _of_compiling(error: BaseException) -> bool:
    """Whether torch.compile raised it."""
    kinds = [kind.__module__ for kind in type(error).__mro__]
    return any(kind.startswith(("torch._dynamo", "torch._inductor")) for kind in kinds)


def _of_memory(error: BaseException) -> bool:
    """Whether it comes of a lack of memory; on a CPU torch has no type for that, but words."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(chain):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _unchecked(xt: Tensor) -> None:
    """In place of a denoiser's check."""


@contextmanager
def _seeded(seed: int, place: torch.device) -> Iterator[None]:
    """Dropout draws from torch's own generator; it is seeded here, and put back as it was."""
    devices = [place.index or 0] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
