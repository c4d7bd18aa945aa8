# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a denoiser says about places of a text: the token it would rather see, and by how much.

    ByToken    any denoiser: log p over the whole vocabulary at every place in question
    ByEdit     an editor: keep, substitute or delete first; the vocabulary only where it substitutes

Knows denoisers. Must not know windows, heat or what comes of a verdict. Axes: N places, D width,
V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.denoisers.editor import DELETE, KEEP, SUBSTITUTE, Editor
from haloweave.errors import EngineFault

_ROWS = 256
"""Places that go through the head at once: 256 rows over 50,000 tokens are 51 MB."""
_BLOCK = 256


@dataclass(frozen=True, eq=False)
class Verdict:
    """About N places; the pad as an answer says that nothing belongs there."""

    best: Int[Tensor, " N"]
    nats: Float[Tensor, " N"]
    """Log probability of that answer, and ..."""
    before: Float[Tensor, " N"]
    """... of leaving things as they are: the shown token; at a mask, nothing at all."""


class Judgement(Protocol):
    """States and what is shown there to a verdict. Raises EngineFault for numbers that are not finite."""

    def __call__(self, states: Float[Tensor, "N D"], shown: Int[Tensor, " N"]) -> Verdict: ...


def judgement(denoiser: Denoiser, allowed: Bool[Tensor, " V"], temperature: float = 1.0) -> Judgement:
    """How this denoiser is best asked. `allowed`: tokens that it may answer, the pad left out."""
    if isinstance(denoiser, Editor):
        return ByEdit(denoiser, allowed, temperature)
    return ByToken(denoiser, allowed)


@dataclass(frozen=True, eq=False)
class ByToken:
    """The likeliest token that may stand there, or the pad. What may not be answered counts as impossible."""

    denoiser: Denoiser
    allowed: Bool[Tensor, " V"]

    def __call__(self, states: Float[Tensor, "N D"], shown: Int[Tensor, " N"]) -> Verdict:
        config = self.denoiser.config
        old = shown.masked_fill(shown == config.mask_id, config.pad_id or 0)
        parts = [
            self._some(s, o) for s, o in zip(torch.split(states, _ROWS), torch.split(old, _ROWS), strict=True)
        ]
        return Verdict(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _some(self, states: Float[Tensor, "N D"], old: Int[Tensor, " N"]) -> tuple[Tensor, Tensor, Tensor]:
        allowed = self.allowed.clone()
        allowed[self.denoiser.config.pad_id] = True
        logits = self.denoiser.logits(states).float()
        _refuse_rubbish(torch.isfinite(logits) | ~allowed, self.denoiser)
        log_p = logits.masked_fill(~allowed, -math.inf).log_softmax(-1)
        nats, best = log_p.max(-1)
        return best, nats, log_p.gather(-1, old[:, None])[:, 0]


@dataclass(frozen=True, eq=False)
class ByEdit:
    """The likeliest decision; where that is to substitute, the likeliest other token.

    The nats are the decision's: how sure it is that something else belongs there. Which token that is may be
    far less sure, and whoever knows the text better than a small denoiser (a gate) is to judge it.
    """

    denoiser: Editor
    allowed: Bool[Tensor, " V"]
    temperature: float = 1.0
    """By which the decisions' log probabilities are divided: above 1 is less sure."""

    def __call__(self, states: Float[Tensor, "N D"], shown: Int[Tensor, " N"]) -> Verdict:
        config = self.denoiser.config
        told = edits(self.denoiser, states, shown, self.temperature)
        nats, decision = told.max(-1)
        best = torch.where(decision == DELETE, config.pad_id or 0, shown)
        others = torch.nonzero(decision == SUBSTITUTE)[:, 0]
        for some in torch.split(others, _ROWS):
            best[some] = self._other(states[some], shown[some])
        before = torch.where(shown == config.mask_id, told[:, DELETE], told[:, KEEP])
        return Verdict(best, nats, before)

    def _other(self, states: Float[Tensor, "N D"], shown: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        logits = self.denoiser.logits(states).float()  # in 16 bits torch's maxima take three times as long
        return _argmax(others(logits, shown, self.barred))

    @cached_property
    def barred(self) -> Int[Tensor, " K"]:
        return torch.nonzero(~self.allowed)[:, 0]


def edits(
    denoiser: Editor, states: Float[Tensor, "N D"], shown: Int[Tensor, " N"], temperature: float = 1.0
) -> Float[Tensor, "N 3"]:
    """Log p of an editor's decisions, divided by `temperature`. Raises EngineFault for what is not finite."""
    return finite((denoiser.edits(states, shown) / temperature).log_softmax(-1), denoiser)


def finite(log_p: Float[Tensor, "N 3"], denoiser: Denoiser) -> Float[Tensor, "N 3"]:
    """Log p of decisions as it is; a mask is never kept, so the first may be -inf. Raises EngineFault."""
    _refuse_rubbish(torch.isfinite(log_p[:, 1:]), denoiser)
    return log_p


def others(
    logits: Float[Tensor, "N V"], shown: Int[Tensor, " N"], barred: Int[Tensor, " K"]
) -> Float[Tensor, "N V"]:
    """The same logits, changed in place: neither what is barred nor what is shown can be put there."""
    return logits.index_fill_(1, barred, -math.inf).scatter_(1, shown[:, None], -math.inf)


def _argmax(logits: Float[Tensor, "N V"]) -> Int[Tensor, " N"]:
    """`logits.argmax(-1)`: on a CPU that is one comparison at a time (0.70 ms for 26 rows of 49,155); amax is
    many at once (0.06 ms). So first the best of blocks, then the best within it: 0.10 ms."""
    whole = logits.shape[1] // _BLOCK * _BLOCK
    if not whole:
        return logits.argmax(-1)
    blocks = logits[:, :whole].reshape(len(logits), whole // _BLOCK, _BLOCK)
    row = torch.arange(len(logits), device=logits.device)
    block = blocks.amax(-1).argmax(-1)
    best: Int[Tensor, " N"] = block * _BLOCK + blocks[row, block].argmax(-1)
    if whole == logits.shape[1]:
        return best
    rest = whole + logits[:, whole:].argmax(-1)
    return torch.where(logits[row, rest] > logits[row, best], rest, best)


def _refuse_rubbish(fine: Bool[Tensor, "..."], denoiser: Denoiser) -> None:
    if not bool(fine.all()):
        raise EngineFault(f"{denoiser.config.arch} denoiser returned logits that are not finite")
