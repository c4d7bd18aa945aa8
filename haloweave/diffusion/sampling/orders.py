# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Which masked places are revealed first. A higher score comes sooner.

    by place     Random, LeftToRight       whatever the denoiser says
    by model     Certainty, Margin,        the denoiser's distribution at the place, before a token is drawn;
                 Entropy, Strategic        Strategic also asks the hierarchical denoiser's z_H
    by draw      Confidence                the probability of the token that was drawn (MaskGIT, 2202.04200)

With one token a step, temperature 1 and no nucleus, the first two kinds are exact: where to write depends on
what is visible alone, so the chain rule holds and texts come out as often as the denoiser says. The third is
biased, since a likely draw gets in before an unlikely one: it trades variety for likelihood, on purpose.
Several tokens a step are an approximation under any order: they are drawn independently of one another.

Knows what may be seen of a place. Must not know how many are revealed. Axes: N open places, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.sampling.draw import Drawing, gumbel, pieces
from haloweave.diffusion.sampling.joins import Joins
from haloweave.diffusion.sampling.reader import Reader
from haloweave.diffusion.sampling.uniforms import Lots, Purpose

_FAINT = -32.0
"""Log-probabilities below this are not brought back by exp as they are: fp32 knows no weight below e^-104."""


@dataclass(frozen=True, eq=False)
class Prospect:
    """N masked places that could be revealed now, and what can be known of them. It is worked out when
    somebody asks: an order that asks for no distribution costs none."""

    row: Int[Tensor, " N"]
    column: Int[Tensor, " N"]
    lots: Lots
    left: float
    """Share of the steps still to go after this one."""
    reader: Reader
    drawing: Drawing
    joins: Joins | None = None

    @cached_property
    def log_probs(self) -> Float[Tensor, "N V"]:
        """What the denoiser believes; temperature and nucleus act on the draw alone. With `joins`, what does
        not fit beside its neighbours is -inf, and the rest sums to less than 1."""
        believed = self.reader.log_probs(self.row, self.column)
        return believed if self.joins is None else self.joins.barred(believed, self.row, self.column)

    @cached_property
    def certainty(self) -> Float[Tensor, " N"]:
        """Log-probability of the likeliest token; -inf where no token has any."""
        return self.log_probs.amax(-1)

    @cached_property
    def tokens(self) -> Int[Tensor, " N"]:
        """The candidates."""
        return self.drawing.tokens(self._shares, self.lots)

    @property
    def _shares(self) -> Float[Tensor, "N V"]:
        """The same as `log_probs`, but where all that fits is unlikely, relative to the likeliest: exp would
        make weights of 0 of it (in fp32, below -104), and what does not fit could be drawn."""
        if self.joins is None:
            return self.log_probs
        faint = (self.certainty < _FAINT) & self.certainty.isfinite()
        if not bool(faint.any()):
            return self.log_probs
        return self.log_probs - self.certainty.masked_fill(~faint, 0)[:, None]

    @cached_property
    def confidence(self) -> Float[Tensor, " N"]:
        """Log-probability of the candidates."""
        return self.log_probs.gather(1, self.tokens[:, None])[:, 0]

    @cached_property
    def affinity(self) -> Float[Tensor, " N"]:
        """Cosine in -1..1 of the place's state and its row's z_H."""
        return self.reader.affinity(self.row, self.column)

    def only(self, chosen: Bool[Tensor, " N"]) -> Prospect:
        """Some of the places. What is known already is kept, and drawing later gives the same tokens."""
        if bool(chosen.all()):
            return self
        lots = Lots(self.lots.seeds[chosen])
        part = Prospect(
            self.row[chosen], self.column[chosen], lots, self.left, self.reader, self.drawing, self.joins
        )
        if "tokens" in self.__dict__:  # the distributions have served
            known = {"tokens": self.tokens, "confidence": self.confidence, "certainty": self.certainty}
        else:
            known = {
                name: self.__dict__[name] for name in ("log_probs", "certainty") if name in self.__dict__
            }
        part.__dict__.update({name: value[chosen] for name, value in known.items()})
        return part


class Order(Protocol):
    """One score for each place. Only their order within a row matters; ties: the left one first."""

    def scores(self, at: Prospect) -> Float[Tensor, " N"]: ...


@dataclass(frozen=True)
class Random:
    """Any place, as in the reverse process itself. Exact."""

    def scores(self, at: Prospect) -> Float[Tensor, " N"]:
        return at.lots.one(Purpose.ORDER)


@dataclass(frozen=True)
class LeftToRight:
    """As an autoregressive model writes. Exact."""

    def scores(self, at: Prospect) -> Float[Tensor, " N"]:
        return -at.column.double()


@dataclass(frozen=True)
class Confidence:
    """The drawn token's log-probability, plus `noise` x the share of steps left x Gumbel: MaskGIT's order and
    its annealed choice temperature (4.5 there; 0: none). Biased. With temperature 0 the same as Certainty."""

    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf"):
            raise BadInput(f"confidence order: expected a finite noise >= 0, got {self.noise}")

    def scores(self, at: Prospect) -> Float[Tensor, " N"]:
        if self.noise == 0:
            return at.confidence
        return at.confidence.double() + self.noise * at.left * gumbel(at.lots.one(Purpose.ORDER))


@dataclass(frozen=True)
class Certainty:
    """The likeliest token's probability. Exact."""

    def scores(self, at: Prospect) -> Float[Tensor, " N"]:
        return at.certainty


@dataclass(frozen=True)
class Margin:
    """How far the likeliest token's probability is ahead of the second's (2502.06768). Exact."""

    def scores(self, at: Prospect) -> Float[Tensor, " N"]:
        best = at.log_probs.topk(min(2, at.log_probs.shape[1])).values.exp()
        return best[:, 0] - (best[:, 1] if best.shape[1] > 1 else 0)


@dataclass(frozen=True)
class Entropy:
    """Least entropy first. Exact. Where some tokens do not fit: the mean surprise of those that do."""

    def scores(self, at: Prospect) -> Float[Tensor, " N"]:
        entropy = torch.cat([torch.special.entr(part.exp()).sum(-1) for part in pieces(at.log_probs)])
        if at.joins is not None:
            total = at.log_probs.logsumexp(-1)
            entropy = torch.where(total < _FAINT, -at.certainty, entropy / total.exp())
        return _possible(-entropy, at)


@dataclass(frozen=True)
class Strategic:
    """The likeliest token's probability, and how much the strategy z_H is about the place: the cosine of the
    place's state with z_H, brought to 0..1. The two states are added to one another in the hierarchical
    denoiser, so they share a space. `weight` 0 is Certainty, 1 follows the strategy alone. Exact.

    Needs a denoiser whose `hidden` tells a strategy; with any other, unmasking raises BadInput."""

    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise BadInput(f"strategic order: expected a weight in 0..1, got {self.weight}")

    def scores(self, at: Prospect) -> Float[Tensor, " N"]:
        score = torch.lerp(at.certainty.exp(), (at.affinity.to(at.certainty.dtype) + 1) / 2, self.weight)
        return _possible(score, at)


def _possible(scores: Float[Tensor, " N"], at: Prospect) -> Float[Tensor, " N"]:
    """Places where no token has any probability come last."""
    return scores.masked_fill(at.certainty == -torch.inf, -torch.inf)
