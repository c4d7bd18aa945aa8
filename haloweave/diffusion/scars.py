# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Noise for repairers: a culled memory whose survivors may be wrong, and a heat that says which may change.

    heat 1      a mask: a hole that culling left (CullSpans), or one mask too many, whose target is the pad
    between     a visible token that may stay, become another, or go; the hotter, the likelier it is wrong
    heat 0      locked: exactly what it was, and nothing is asked

Knows token ids and the generator it is handed. Must not know text, denoisers or losses. It draws the same
amount of noise whatever it finds. Axes: B batch, T sequence, V vocabulary, N ordinary tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.schedule import unit
from haloweave.diffusion.spans import CullSpans

_REACH = 4
"""Tokens to either side over which heat is averaged: what nobody looks at lies together."""


@dataclass(frozen=True, eq=False)
class Scars:
    """Holes, deletions, wrong and needless tokens, and each token's heat as its told rate. A Corruption.

    Only a denoiser with `time_conditioning` can use it: heat reaches it as the noise level of each token, and
    without heat it could not tell a token that may change from one that must not.

    Visible tokens that may change count `visible_weight` each, the right ones like the wrong and the
    needless. A mean that left out the right ones, or counted them less, would teach that whatever is asked
    about is wrong: at equal weights the prediction is the posterior, by which most of it stays.
    """

    told_per_token: ClassVar[bool] = True
    """The rate is each token's own, and says something only to a time-conditioned denoiser."""

    mask_id: int
    pad_id: int
    vocab_size: int
    culled: float = 0.3
    """A word is culled with this probability times the row's rate: most of what a repairer sees is there."""
    words: float = 3.0
    deleted: float = 0.2
    slack: int = 2
    wrong: float = 0.3
    """Probability, at heat 1, that a visible token is another one; it grows in proportion to heat."""
    near: float = 0.5
    """Share of wrong and needless tokens that are taken from elsewhere in the row. They are as frequent as
    right ones, so a denoiser must read what is around them."""
    spurious: float = 0.05
    """Probability, at heat 1, that a needless token follows a visible one; its target is the pad: delete."""
    spared: float = 0.0
    """How unlike rows are: each multiplies both probabilities by a number that it draws in 1 - spared .. 1.
    At 1 some rows have hardly a fault, and a denoiser learns to tell by the rest of a text how much of it to
    doubt."""
    locked: float = 0.3
    """Share of visible tokens at heat 0, as many of them in runs as alone."""
    spread: float = 1.5
    """How far heat strays within a row, in logits (standard deviation); each row draws its own, up to it."""
    visible_weight: float = 0.5
    starts: Bool[Tensor, " V"] | None = field(default=None, repr=False)
    protected: tuple[int, ...] = ()
    specials: tuple[int, ...] = ()
    """Ids that text has not; like the protected ones they are locked, and never drawn."""

    def __post_init__(self) -> None:
        names = ("culled", "wrong", "near", "spurious", "spared", "locked")
        shares = [getattr(self, name) for name in names]
        if not all(0 <= share <= 1 for share in shares):
            raise BadInput(f"scars: expected {', '.join(names)} in 0..1, got {shares}")
        if not (0 <= self.visible_weight < math.inf and 0 <= self.spread < math.inf):
            raise BadInput(
                f"scars: expected visible_weight and spread >= 0, got {self.visible_weight} and {self.spread}"
            )
        if max(self._fixed) >= self.vocab_size or min(self._fixed) < 0 or len(self._ordinary) < 2:
            raise BadInput(
                f"scars: expected special ids in 0..{self.vocab_size - 1} and two ordinary tokens or more "
                f"beside them, got {list(self._fixed)}"
            )
        _ = self._spans  # what it refuses is refused now

    def __call__(
        self, x0: Int[Tensor, "B T"], rate: Float[Tensor, " B"], generator: torch.Generator
    ) -> Corrupted:
        cut = self._spans(x0, unit("rate", rate) * self.culled, generator)
        lots = torch.rand((7, *x0.shape), generator=generator, device=generator.device).to(x0.device)
        fields = self._fields(x0, generator)
        lot = torch.rand((len(x0), 1), generator=generator, device=generator.device).to(x0.device)
        wear = 1 - self.spared * lot
        masked = cut.xt == self.mask_id
        able = ~torch.isin(cut.xt, torch.tensor(self._fixed).to(x0))
        heat = self._heat(rate.to(x0.device), fields[0], self._unlocked(fields[1], lots[0]) & able)
        changed = (lots[1] < self.wrong * wear * heat) & able
        xt = torch.where(changed, self._other(x0, cut.x0, lots[2], lots[3]), cut.xt)
        weight = torch.where(masked, cut.weight, self.visible_weight * (heat > 0))
        worn = Corrupted(xt, cut.x0, torch.where(masked, 1.0, heat), weight)
        needless = self._other(x0, xt, lots[5], lots[6])
        return self._swollen(worn, (lots[4] < self.spurious * wear * heat) & able, needless)

    # ---- heat ----------------------------------------------------------------------------------------

    def _fields(self, x0: Int[Tensor, "B T"], generator: torch.Generator) -> Float[Tensor, "2 B T"]:
        """Two smooth standard normal fields: moving averages of white noise. The first row's strength of its
        own is drawn here too."""
        rows, length = x0.shape
        width = 2 * _REACH + 1
        white = torch.randn((2, rows, length + width - 1), generator=generator, device=generator.device)
        smooth = white.unfold(2, width, 1).mean(-1) * math.sqrt(width) if length else white[..., :0]
        own: Tensor = torch.rand((rows, 1), generator=generator, device=generator.device)
        return torch.stack([smooth[0] * own * self.spread, smooth[1]]).to(x0.device)

    def _heat(
        self, rate: Float[Tensor, " B"], stray: Float[Tensor, "B T"], hot: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """Around the row's rate, on the logit scale, so that 0 and 1 stay what they are."""
        around = torch.sigmoid(torch.logit(rate)[:, None] + stray)
        return torch.where(hot, around.clamp(0, 1), 0.0).to(rate.dtype)

    def _unlocked(self, smooth: Float[Tensor, "B T"], lot: Float[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Locked are runs (where the field is low) and lone tokens, alike often; together the share asked
        for."""
        each = 1 - math.sqrt(1 - self.locked)
        runs: Tensor = torch.special.ndtr(smooth) >= each
        return runs & (lot >= each)

    # ---- wrong and needless tokens -------------------------------------------------------------------

    def _other(
        self,
        text: Int[Tensor, "B T"],
        taken: Int[Tensor, "B T"],
        whence: Float[Tensor, "B T"],
        lot: Float[Tensor, "B T"],
    ) -> Int[Tensor, "B T"]:
        """For each place an ordinary token that is not `taken`: of this row's text, or any."""
        ordinary = self._ordinary.to(text)
        n, length = len(ordinary), text.shape[1]
        at = (lot.double() * n).long().clamp(max=n - 1)
        any_ = ordinary[at]
        any_ = torch.where(any_ == taken, ordinary[(at + 1) % n], any_)
        of_row = text.gather(1, (lot.double() * length).long().clamp(max=max(length - 1, 0)))
        fits = (whence < self.near) & (of_row != taken) & torch.isin(of_row, ordinary)
        return torch.where(fits, of_row, any_)

    def _swollen(
        self, worn: Corrupted, followed: Bool[Tensor, "B T"], needless: Int[Tensor, "B T"]
    ) -> Corrupted:
        """Needless tokens put in behind others, as hot as these; what no longer fits is cut off."""
        rows, length = worn.xt.shape
        width = 1 + followed.long()
        place = (width.cumsum(1) - width).clamp(max=length)  # the last column takes what is nowhere
        behind = (place + 1).masked_fill(~followed, length).clamp(max=length)

        def laid(own: Tensor, put_in: Tensor) -> Tensor:
            out = own.new_zeros(rows, length + 1)
            return out.scatter_(1, place, own).scatter_(1, behind, put_in)[:, :length].contiguous()

        weight = torch.full_like(worn.weight, self.visible_weight)
        return Corrupted(
            laid(worn.xt, needless),
            laid(worn.x0, torch.full_like(worn.x0, self.pad_id)),
            laid(worn.rate, worn.rate),
            laid(worn.weight, weight),
        )

    # ---- tokens --------------------------------------------------------------------------------------

    @cached_property
    def _spans(self) -> CullSpans:
        return CullSpans(
            self.mask_id,
            self.pad_id,
            words=self.words,
            deleted=self.deleted,
            slack=self.slack,
            starts=self.starts,
            protected=tuple(i for i in self._fixed if i not in (self.mask_id, self.pad_id)),
        )

    @cached_property
    def _fixed(self) -> tuple[int, ...]:
        """Ids that are locked wherever they stand, and never drawn."""
        return tuple(sorted({self.mask_id, self.pad_id, *self.protected, *self.specials}))

    @cached_property
    def _ordinary(self) -> Int[Tensor, " N"]:
        """Ids that noise may draw, ascending."""
        fixed = torch.tensor(self._fixed)
        every = torch.arange(self.vocab_size)
        return every[~torch.isin(every, fixed)]
