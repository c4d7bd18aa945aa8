# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What training minimises: a denoiser and a noisy batch to one number, and what it is made of.

    masked_mean_ce    the mean CE of what is asked: sum m CE / sum m of each row; the default. With soft
                      targets of a teacher: of (1 - a) CE(true token) + a CE(teacher) at masked places
    elbo_weighted_ce  weighted so that its expectation is the exact bound, in nats a token

Knows denoisers and noisy batches. Must not know optimizers, data or how noise came about. Logits are computed
only where a prediction counts. Axes: B batch, T sequence, N counted positions, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.denoisers.base import Denoiser, Hidden
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.schedule import Schedule, levels
from haloweave.diffusion.soft_targets import SoftTargets


@dataclass(frozen=True, eq=False)
class Loss:
    """One step's loss; over all microbatches and processes with the same divisor, losses add up."""

    total: Float[Tensor, ""]
    """To backpropagate."""
    parts: Mapping[str, Float[Tensor, ""]]
    """Detached: "ce", "teacher" where there are soft targets, and the denoiser's auxiliary losses; their sum
    is `total`."""


def masked_mean_ce(
    denoiser: Denoiser,
    batch: Corrupted,
    *,
    self_condition: bool = False,
    divisor: int | None = None,
    soft: SoftTargets | None = None,
) -> Loss:
    """The mean over rows of sum(weight * CE) / sum(weight); a row that asks for nothing counts 0.

    `divisor`: rows of the global batch, where this is a part of one; None: the rows of this batch.
    `self_condition`: feed a first prediction, made without gradients, as a further input (2208.04202); the
    caller tosses the coin. Raises BadInput if the denoiser cannot take one. `soft`: a teacher's answers,
    which count at masked places alone: what is visible and right needs no opinion.
    """
    weight = denoiser.head_weight(batch.xt, batch.x0, batch.weight)
    logits, hidden = _asked(denoiser, batch, weight > 0, self_condition)
    ce = _cross_entropies(logits, batch, weight > 0)
    weight = weight.to(ce.dtype)
    asked = weight.sum(-1, keepdim=True)
    terms = {"ce": ce * weight / torch.where(asked > 0, asked, 1)}
    if soft is not None:
        taught = ce.new_zeros(ce.shape).masked_scatter(weight > 0, soft.cross_entropies(logits, weight > 0))
        part = soft.share * (soft.answered & (batch.xt == denoiser.config.mask_id)).to(ce.dtype)
        terms = {
            "ce": terms["ce"] * (1 - part),
            "teacher": taught * part * weight / torch.where(asked > 0, asked, 1),
        }
    return _loss(denoiser, batch, hidden, terms, divisor)


def elbo_weighted_ce(
    denoiser: Denoiser,
    batch: Corrupted,
    schedule: Schedule,
    *,
    timesteps: int = 0,
    self_condition: bool = False,
    divisor: int | None = None,
) -> Loss:
    """The mean over rows of sum(weight * CE * r'/r) / tokens: its expectation is the bound, in nats a token.

    For t uniform in 0..1 under `schedule` and masks drawn by `absorb` without `at_least` (MDLM, 2406.07524,
    eq. 11). With `timesteps` = n levels the factor is n (r_i - r_i-1) / r_i, and the bound that of n steps.
    Arguments otherwise as `masked_mean_ce`.
    """
    logits, hidden = _asked(denoiser, batch, batch.weight > 0, self_condition)
    ce = _cross_entropies(logits, batch, batch.weight > 0)
    pad = denoiser.config.pad_id
    there = torch.ones_like(batch.x0) if pad is None else (batch.x0 != pad)
    share = (
        batch.weight
        * _elbo_factor(batch.rate, schedule, timesteps)
        / there.sum(-1, keepdim=True).clamp(min=1)
    )
    return _loss(denoiser, batch, hidden, {"ce": ce * share.to(ce.dtype)}, divisor)


def _elbo_factor(rate: Tensor, schedule: Schedule, timesteps: int) -> Float[Tensor, "B T"]:
    """r'/r, or its finite difference; at rate 0 nothing is masked, and 0 stands for the factor."""
    time = schedule.time(rate.double())
    if timesteps:
        chain = levels(schedule, timesteps).to(rate.device)
        factor = timesteps * torch.diff(chain, prepend=chain.new_zeros(1)) / chain
        found = factor[((time * timesteps).round().long() - 1).clamp(min=0)]
    else:
        found = schedule.slope(time) / rate.double().clamp(min=1e-12)
    return torch.where(rate > 0, found, 0.0)


def _asked(
    denoiser: Denoiser, batch: Corrupted, counts: Bool[Tensor, "B T"], self_condition: bool
) -> tuple[Float[Tensor, "N V"], Hidden]:
    """Logits of the places that count, in fp32 or finer."""
    previous = _first_prediction(denoiser, batch) if self_condition else None
    hidden = denoiser.hidden(batch.xt, batch.rate, previous)
    logits = denoiser.logits(hidden.tokens[counts])
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, hidden


def _cross_entropies(
    logits: Float[Tensor, "N V"], batch: Corrupted, counts: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """CE at every place that counts, 0 elsewhere."""
    ce = cross_entropy(logits, batch.x0[counts].long(), reduction="none")
    return ce.new_zeros(counts.shape).masked_scatter(counts, ce)


@torch.no_grad()
def _first_prediction(denoiser: Denoiser, batch: Corrupted) -> Float[Tensor, "B T D"]:
    if not denoiser.config.self_conditioning:
        raise BadInput("self-conditioning: this denoiser takes no prediction; make it with self_conditioning")
    return denoiser.embed_prediction(denoiser(batch.xt, batch.rate))


def _loss(
    denoiser: Denoiser,
    batch: Corrupted,
    hidden: Hidden,
    terms: Mapping[str, Float[Tensor, "B T"]],
    divisor: int | None,
) -> Loss:
    rows = len(batch.xt)
    if not rows or (divisor is not None and divisor < rows):
        raise BadInput(f"loss: expected rows, and a divisor of as many or more, got {rows} and {divisor}")
    share = 1 / (divisor or rows)
    losses = {name: part.sum() * share for name, part in terms.items()}
    for name, loss in denoiser.auxiliary(hidden, batch.x0, batch.weight).items():
        losses[name] = loss * (rows * share)  # a mean over these rows
    total = torch.stack([loss.to(terms["ce"].dtype) for loss in losses.values()]).sum()
    return Loss(total, {name: loss.detach() for name, loss in losses.items()})
