# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a denoiser says of worn text, asked in two ways.

    soft    as a repairer asks: everything is shown, with its heat
    hard    the usual way, with the same trunk: what is hot is masked, and what the mask becomes decides

Knows denoisers. Must not know noise, scores or tables. Axes: R rows, T tokens of a row, N places asked
about, D width, V vocabulary; 3 decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.denoisers.editor import DELETE, KEEP, SUBSTITUTE, Editor, decisions
from haloweave.repair.verdicts import edits, finite, others

_BATCH = 16
_PLACES = 256
"""That go through the head at once."""


@dataclass(frozen=True, eq=False)
class Said:
    """Of every place asked about, what would be right and what a denoiser says."""

    row: Int[np.ndarray, " N"]
    visible: Bool[np.ndarray, " N"]
    """Whether a token is shown there, and no mask."""
    right: Int[np.ndarray, " N"]
    log_p: Float[np.ndarray, "N 3"]
    hit: Bool[np.ndarray, " N"]
    """Whether the token it would put there is the one that stood there ..."""
    sure: Float[np.ndarray, " N"]
    """... and how sure it is of that token, given that something is substituted."""

    def tempered(self, temperature: float) -> Said:
        scaled = self.log_p / temperature
        return replace(self, log_p=scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))

    def decided(self, margin: float = 0.0) -> Int[np.ndarray, " N"]:
        """The likeliest decision; a visible token is kept unless another wins more than `margin` nats."""
        best = self.log_p.argmax(1)
        won = self.log_p.max(1) - self.log_p[:, KEEP]
        return np.where(self.visible & (won <= margin), KEEP, best)


@dataclass(frozen=True, eq=False)
class Asking:
    """A denoiser that hears heat and knows a pad, and what it may not put anywhere: the pad is among that."""

    denoiser: Denoiser
    barred: Int[Tensor, " K"]

    @torch.inference_mode()
    def soft(self, noisy: Corrupted) -> Said:
        """Raises EngineFault for numbers that are not finite."""
        parts = [self._asked(part, row) for part, row in _batches(noisy)]
        return Said(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _asked(self, noisy: Corrupted, first: int) -> tuple[np.ndarray, ...]:
        config = self.denoiser.config
        asked = noisy.weight > 0
        states = self.denoiser.hidden(noisy.xt, noisy.rate).tokens[asked]
        shown, target = noisy.xt[asked], noisy.x0[asked]
        parts = [self._some(*some) for some in _split(states, shown)]
        log_p, best, sure = (torch.cat(column) for column in zip(*parts, strict=True))
        row = first + torch.nonzero(asked)[:, 0]
        right = decisions(shown, target, config.pad_id)
        told = (row, shown != config.mask_id, right, log_p.double(), best == target, sure)
        return tuple(t.numpy() for t in told)

    def _some(self, states: Float[Tensor, "N D"], shown: Int[Tensor, " N"]) -> tuple[Tensor, Tensor, Tensor]:
        """Log p of the decisions, the token to put there, and how sure that is."""
        logits = self.denoiser.logits(states).float()
        if isinstance(self.denoiser, Editor):
            log_p = edits(self.denoiser, states, shown)
        else:
            log_p = finite(_of_tokens(logits, shown, self.denoiser), self.denoiser)
        sure, best = others(logits, shown, self.barred).softmax(-1).max(-1)
        return log_p, best, sure

    @torch.inference_mode()
    def hard(self, noisy: Corrupted, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
        """Decisions by masking all that is hotter than `cutoff`, and the right ones. A deletion is what the
        trunk says of a mask: an editor by its decision, another denoiser by the pad."""
        config, found = self.denoiser.config, []
        for part, _ in _batches(noisy):
            asked = part.weight > 0
            hot = asked & (part.rate > cutoff)
            xt = part.xt.masked_fill(hot, config.mask_id)
            states = self.denoiser.hidden(xt, torch.where(hot, 1.0, part.rate)).tokens[asked]
            shown, masked = part.xt[asked], hot[asked]
            filled = torch.cat([self._filled(*some) for some in _split(states, shown)])
            found.append((torch.where(masked, filled, KEEP), decisions(shown, part.x0[asked], config.pad_id)))
        said, wanted = (torch.cat(column) for column in zip(*found, strict=True))
        return said.numpy(), wanted.numpy()

    def _filled(self, states: Float[Tensor, "N D"], old: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        config = self.denoiser.config
        best = self.denoiser.logits(states).float().argmax(-1)
        if isinstance(self.denoiser, Editor):
            gone = edits(self.denoiser, states, torch.full_like(old, config.mask_id)).argmax(-1) == DELETE
        else:
            gone = best == (config.pad_id or 0)
        return torch.where(gone, DELETE, torch.where(best == old, KEEP, SUBSTITUTE))


def _of_tokens(
    logits: Float[Tensor, "N V"], shown: Int[Tensor, " N"], denoiser: Denoiser
) -> Float[Tensor, "N 3"]:
    """A denoiser without decisions of its own: what stands there is kept, the pad deletes, all else
    substitutes. A repairer hears the likeliest other token alone, which wins no more than all of them."""
    p = logits.softmax(-1)
    kept = torch.where(shown == denoiser.config.mask_id, 0.0, p.gather(1, shown[:, None])[:, 0])
    gone = p[:, denoiser.config.pad_id or 0]
    return torch.stack([kept, (1 - kept - gone).clamp(min=0), gone], 1).clamp(min=1e-30).log()


def _batches(noisy: Corrupted) -> Iterator[tuple[Corrupted, int]]:
    for at in range(0, len(noisy.xt), _BATCH):
        yield noisy.rows(slice(at, at + _BATCH)), at


def _split(
    states: Float[Tensor, "N D"], shown: Int[Tensor, " N"]
) -> Iterator[tuple[Float[Tensor, "n D"], Int[Tensor, " n"]]]:
    return zip(torch.split(states, _PLACES), torch.split(shown, _PLACES), strict=True)
