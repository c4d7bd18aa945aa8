# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How fast denoisers train and generate, measured in alternation; how their cost grows with the length.

Knows denoisers, losses and unmasking. Must not know quality. Axes: N rows, T sequence.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from haloweave.diffusion import build
from haloweave.diffusion.corrupt import absorb
from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.evaluate import Measures
from haloweave.diffusion.judging.footprint import peak_bytes
from haloweave.diffusion.judging.held import Held
from haloweave.diffusion.judging.timing import exponent, side_by_side
from haloweave.diffusion.loss import masked_mean_ce
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.blockwise import unmask_long
from haloweave.diffusion.sampling.reader import at_rest, device_of

Work = Callable[[], object]


@dataclass(frozen=True)
class Race:
    """How long to take over speeds."""

    rounds: int = 7
    rows: int = 4
    """Of a training step."""
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Where the cost of a call and of a training step on one row is measured; its exponent is the slope over
    them."""
    repeats: int = 3
    """Rounds at each of these lengths."""
    bf16: bool = False
    """Train in bfloat16; calls are in float32 anyway, as sampling and evaluation make them."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.rows, self.repeats, *self.lengths) < 1:
            raise BadInput(f"race: expected rounds, rows, repeats and lengths >= 1, got {self}")


@dataclass(frozen=True, eq=False)
class AtLength:
    """What one row of T tokens takes, in the same rounds as the others."""

    call_seconds: Float[np.ndarray, " R"]
    """One call, without the head."""
    step_seconds: Float[np.ndarray, " R"]
    """A training step, with the head where a prediction counts."""
    call_bytes: int
    """Peak of live tensors; so of a step, beside the weights and the optimizer's state."""
    step_bytes: int


@dataclass(frozen=True, eq=False)
class Speed:
    """One denoiser's times, in the same rounds as the others'."""

    step_seconds: Float[np.ndarray, " R"]
    """A training step: forward, backward, AdamW."""
    step_tokens: int
    step_bytes: int
    """Peak of live tensors in a training step, beside the weights and the optimizer's state."""
    sample_seconds: Float[np.ndarray, " R"]
    sample_tokens: int
    by_length: Mapping[int, AtLength] = field(repr=False)

    @property
    def training(self) -> float:
        """Tokens a second, by the median."""
        return self.step_tokens / float(np.median(self.step_seconds))

    @property
    def sampling(self) -> float:
        return self.sample_tokens / float(np.median(self.sample_seconds))

    @property
    def seconds_by_length(self) -> dict[int, float]:
        """Median of one call on one row, without the head."""
        return {n: float(np.median(at.call_seconds)) for n, at in self.by_length.items()}

    @property
    def step_seconds_by_length(self) -> dict[int, float]:
        """Median of a training step on one row."""
        return {n: float(np.median(at.step_seconds)) for n, at in self.by_length.items()}

    @property
    def exponent(self) -> float:
        """Of the cost of a call in T: 1 is linear, 2 quadratic."""
        return exponent(self.seconds_by_length)

    @property
    def training_exponent(self) -> float:
        """Of the cost of a training step in T."""
        return exponent(self.step_seconds_by_length)


def race(
    denoisers: Sequence[Denoiser], held: Held, plan: Measures, run: Race, progress: Progress = silent
) -> list[Speed]:
    """Time them all; weights stay as they are."""
    rows = held.rows[: run.rows]
    progress("timing training steps", 0, None)
    steps = [_training_step(d, rows, held.pad_id, plan.seed, run.bf16) for d in denoisers]
    step_seconds = side_by_side([waiting(w, d) for w, d in zip(steps, denoisers, strict=True)], run.rounds)
    step_bytes = [peak_bytes(step) for step in steps]
    del steps
    progress("timing samples", 0, None)
    length = plan.length or min(held.rows.shape[1], *(d.config.max_len for d in denoisers))
    works = [waiting(_sampling(d, length, held, plan), d) for d in denoisers]
    sample_seconds = side_by_side(works, run.rounds)
    by_length = _lengths(denoisers, held, run, plan.seed, progress)
    return [
        Speed(step_seconds[:, i], rows.numel(), step_bytes[i], sample_seconds[:, i], length, by_length[i])
        for i in range(len(denoisers))
    ]


def _training_step(
    denoiser: Denoiser, rows: Int[Tensor, "N T"], pad_id: int | None, seed: int, bf16: bool
) -> Work:
    """A step of a copy, on the same noise for each."""
    double = copy.deepcopy(denoiser).train()
    optimizer = torch.optim.AdamW([p for p in double.parameters() if p.requires_grad], lr=1e-5)
    generator = torch.Generator().manual_seed(seed)
    rate = torch.rand(len(rows), generator=generator)
    noisy = absorb(
        rows, rate, mask_id=denoiser.config.mask_id, generator=generator, pad_id=pad_id, at_least=1
    ).to(device_of(denoiser))

    def step() -> None:
        with torch.enable_grad():
            with torch.autocast(device_of(denoiser).type, torch.bfloat16, enabled=bf16):
                loss = masked_mean_ce(double, noisy).total
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def waiting(work: Work, network: nn.Module) -> Work:
    """Work that is over when it returns: a GPU is handed its work and goes on by itself."""
    device = next(network.parameters()).device
    if device.type != "cuda":
        return work

    def waited() -> None:
        work()
        torch.cuda.synchronize(device)

    return waited


def _sampling(denoiser: Denoiser, length: int, held: Held, plan: Measures) -> Work:
    """One text, the same noise every time."""
    config = denoiser.config
    blank = torch.full((1, length), config.mask_id, device=device_of(denoiser))
    never = held.never(config.mask_id, ending=True)

    def sample() -> None:
        generator = torch.Generator().manual_seed(plan.seed)
        unmask_long(
            denoiser,
            blank,
            max_len=config.max_len,
            mask_id=config.mask_id,
            generator=generator,
            plan=plan.sampling,
            block=None if plan.block is None else min(plan.block, config.max_len),
            never=never,
        )

    return sample


def _lengths(
    denoisers: Sequence[Denoiser], held: Held, run: Race, seed: int, progress: Progress
) -> list[dict[int, AtLength]]:
    """What one row takes at each length, by denoiser; in alternation too."""
    ready = [_reaching(d, max(run.lengths)) for d in denoisers]
    found: list[dict[int, AtLength]] = [{} for _ in ready]
    for done, length in enumerate(run.lengths):
        progress("timing lengths", done, len(run.lengths))
        row = _text_of(held, length)
        calls = [waiting(_call(d, row.to(device_of(d))), d) for d in ready]
        steps = [waiting(_training_step(d, row, held.pad_id, seed, run.bf16), d) for d in ready]
        called, stepped = side_by_side(calls, run.repeats), side_by_side(steps, run.repeats)
        for i, one in enumerate(found):
            memory = peak_bytes(calls[i]), peak_bytes(steps[i])
            one[length] = AtLength(called[:, i], stepped[:, i], *memory)
    return found


def _reaching(denoiser: Denoiser, length: int) -> Denoiser:
    """The denoiser, or an untrained one of its shape that reads longer texts: what it costs is the same. What
    it borrows is a table of that shape, of any content."""
    if denoiser.config.max_len >= length:
        return denoiser
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = replace(denoiser.config, max_len=length)
        width = config.borrowed_dim
        borrowed = None if width is None else torch.randn(config.vocab_size, width)
        return build.denoiser(config, borrowed).to(device_of(denoiser))


def _call(denoiser: Denoiser, row: Int[Tensor, "1 T"]) -> Work:
    def call() -> None:
        with at_rest(denoiser):
            denoiser.hidden(row)

    return call


def _text_of(held: Held, length: int) -> Int[Tensor, "1 T"]:
    """Held-out tokens, repeated until there are enough."""
    tokens = held.rows[held.real]
    return tokens.repeat(-(-length // len(tokens)))[None, :length]
