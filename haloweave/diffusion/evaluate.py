# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How good a denoiser is: likelihood bound, infilling, calibration, generation, memory, with their doubt.

Reads top to bottom: `evaluate`, then its parts. Knows a denoiser, held-out rows and a judge that is handed
in. Must not know files, corpora or who the judge is. Axes: N rows, T sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.judging.calibration import Calibration, calibration, confidences
from haloweave.diffusion.judging.footprint import peak_bytes
from haloweave.diffusion.judging.generation import Generation, generation
from haloweave.diffusion.judging.held import Decode, Held, per_script
from haloweave.diffusion.judging.infill import Filled, InfillScore, filled_in, infill_scores, puzzles
from haloweave.diffusion.judging.intervals import Interval, ratio
from haloweave.diffusion.judging.judge import Judge
from haloweave.diffusion.likelihood import nelbo_estimate
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.reader import at_rest, device_of
from haloweave.diffusion.unmask import Unmasking


@dataclass(frozen=True)
class Measures:
    """What to measure, and how long to take over it. The same seed gives the same masks, holes and noise."""

    draws: int = 4
    """Masks per row for the bound; more make it less noisy, never tighter or looser."""
    infills: int = 32
    """Puzzles of each kind; 0 for none."""
    samples: int = 16
    """Texts generated; 0 for none."""
    length: int | None = None
    """Tokens of a generated text; None: as long as a row of the held-out text."""
    filling: Unmasking = field(default_factory=lambda: Unmasking(temperature=0.0))
    sampling: Unmasking = field(default_factory=Unmasking)
    block: int | None = None
    """Places of a block of a text longer than the denoiser reads (see `unmask_long`)."""
    nothing: bool = False
    """Whether a hole may be left empty: a denoiser trained on spans learnt to say so with the pad."""
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        least = (self.draws, self.batch, *(n for n in (self.length, self.block) if n is not None))
        if min(least) < 1 or min(self.infills, self.samples, self.seed) < 0:
            raise BadInput(f"evaluation: expected draws, batch and length >= 1, no count below 0, got {self}")


@dataclass(frozen=True)
class Bound:
    """The exact NELBO: an upper bound of -log p, so perplexity and bits per byte are upper bounds too."""

    nats: Interval
    """Per token."""
    perplexity: Interval
    bits_per_byte: Interval
    scripts: Mapping[str, Interval]
    """Bits per byte of the rows of each script."""
    blocks: int
    unit: str
    """What the intervals are over: documents or blocks."""
    units: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was measured of one denoiser."""

    parameters: int
    bound: Bound
    calibration: Calibration
    infill: Mapping[str, InfillScore]
    generation: Generation | None
    call_bytes: int
    """Peak of live tensors in one call on one row, beside the weights."""
    weight_bytes: int
    nats: Float[np.ndarray, " N"] = field(repr=False)
    """The bound of each row, for paired comparisons; so are the puzzles."""
    filled: tuple[Filled, ...] = field(repr=False)


def evaluate(
    denoiser: Denoiser,
    held: Held,
    decode: Decode,
    plan: Measures,
    judge: Judge | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure it all. Raises TooLong if a row is longer than the denoiser was made for."""
    config = denoiser.config
    with at_rest(denoiser):
        nats = row_nats(denoiser, held, plan, progress)
        sure, right = confidences(denoiser, held, mask_id=config.mask_id, seed=plan.seed)
        tasks = puzzles(held, plan.infills, seed=plan.seed)
        filled = filled_in(
            denoiser,
            held,
            tasks,
            decode,
            mask_id=config.mask_id,
            plan=plan.filling,
            nothing=plan.nothing,
            seed=plan.seed,
            progress=progress,
        )
        made = _generation(denoiser, held, decode, plan, judge, progress) if plan.samples else None
        return Evaluation(
            parameters=denoiser.parameters_trained,
            bound=bound(nats, held),
            calibration=calibration(sure, right),
            infill=infill_scores(filled, held),
            generation=made,
            call_bytes=call_bytes(denoiser, held),
            weight_bytes=weight_bytes(denoiser),
            nats=nats,
            filled=tuple(filled),
        )


def _generation(
    denoiser: Denoiser, held: Held, decode: Decode, plan: Measures, judge: Judge | None, progress: Progress
) -> Generation:
    return generation(
        denoiser,
        held,
        decode,
        mask_id=denoiser.config.mask_id,
        plan=plan.sampling,
        count=plan.samples,
        block=plan.block,
        length=plan.length or min(held.rows.shape[1], denoiser.config.max_len),
        seed=plan.seed,
        max_len=denoiser.config.max_len,
        judge=judge,
        progress=progress,
    )


def row_nats(
    denoiser: Denoiser, held: Held, plan: Measures, progress: Progress = silent
) -> Float[np.ndarray, " N"]:
    """The NELBO of each row in nats, the mean of `plan.draws` unbiased draws; the masks depend on the seed
    and the shapes alone, so two denoisers meet the same ones."""
    generator = torch.Generator().manual_seed(plan.seed)
    mask_id, device, found = denoiser.config.mask_id, device_of(denoiser), []
    for at in range(0, len(held.rows), plan.batch):
        x0 = held.rows[at : at + plan.batch].to(device)
        drawn = nelbo_estimate(denoiser, x0, generator, draws=plan.draws, mask_id=mask_id, pad_id=held.pad_id)
        found.append(drawn.mean(0).cpu())
        progress("bounding the likelihood", min(at + plan.batch, len(held.rows)), len(held.rows))
    return torch.cat(found).numpy()


def bound(nats: Float[np.ndarray, " N"], held: Held) -> Bound:
    """The bound over all rows, and over those of each script."""
    groups = held.units()
    per_token = ratio(nats, held.tokens, groups)
    bits = nats / math.log(2)
    scripts = {
        name: ratio(bits[rows], held.bytes[rows], held.units(rows))
        for name, rows in per_script(held).items()
        if held.bytes[rows].sum()
    }
    return Bound(
        nats=per_token,
        perplexity=per_token.map(lambda x: float(np.exp(np.minimum(x, 700.0)))),
        bits_per_byte=ratio(bits, held.bytes, groups),
        scripts=scripts,
        blocks=len(held.rows),
        unit=held.unit,
        units=len(np.unique(groups)),
    )


def call_bytes(denoiser: Denoiser, held: Held) -> int:
    """Peak of live tensors while one row is denoised."""
    row = held.rows[:1].to(device_of(denoiser))
    return peak_bytes(lambda: denoiser(row))


def weight_bytes(denoiser: Denoiser) -> int:
    """Weights and buffers, a borrowed table among them."""
    tensors = [*denoiser.parameters(), *denoiser.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)
