# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Masks on whole written units, words or clusters, at rates that may differ from script to script.

Masks drawn token by token cut an akshara in two, and a denoiser learns to finish one half from the other; a
denoiser that fills whole units never sees that (whole-word masking, 1906.08101, for diffusion's rates). Knows
token ids, what is told of them, and the generator it is handed. Must not know text, denoisers or losses. It
draws the same amount of noise whatever it finds. Axes: B batch, T sequence, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.schedule import unit as in_unit

Unit = Literal["cluster", "word"]


@dataclass(frozen=True, eq=False)
class WholeUnits:
    """All tokens of a unit are masked, or none. A Corruption.

    A token's probability is the row's rate times the factor of its unit's script, divided by the mean factor
    of the row's tokens, so that the row's mean stays the rate; where that would leave 0..1, the whole row is
    spread less, as in `frequency_rates`. The denoiser is told the row's rate: a unit's own would tell it the
    script of what is hidden. `at_least` masks that many tokens of a row that has them, in whole units: those
    nearest to being masked anyway.

    Neighbours are masked together, and which of them belong together is not visible: so there is no bound of
    a likelihood, and objective `elbo` is refused. Judge it with Absorb's.
    """

    bounded: ClassVar[bool] = False

    mask_id: int
    pad_id: int | None = None
    unit: Unit = "cluster"
    """What is masked as a whole. Bytes that spell clusters side by side are one cluster here: which of them
    begin another is not known from the token alone."""
    devanagari_rate: float = 1.0
    """Factor on the row's rate for units of this script; units of several take the mean of their tokens'."""
    latin_rate: float = 1.0
    other_rate: float = 1.0
    """Of units without a letter of either."""
    at_least: int = 1
    starts: Bool[Tensor, " V"] | None = field(default=None, repr=False)
    """Which tokens begin a word; None: each token may."""
    continues: Bool[Tensor, " V"] | None = field(default=None, repr=False)
    """Which tokens go on with the cluster before them; None: none."""
    unfinished: Bool[Tensor, " V"] | None = field(default=None, repr=False)
    """Which tokens end in what joins the letter behind them; None: none."""
    scripts: Int[Tensor, " V"] | None = field(default=None, repr=False)
    """Of each token: 0 other, 1 Latin, 2 Devanagari; None: all 0."""
    untouched: tuple[int, ...] = ()
    """Ids that are never masked: control tokens. Pads are not either, and masks ask for nothing."""

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise BadInput(f"units: expected unit {' or '.join(get_args(Unit))}, got {self.unit!r}")
        rates = (self.other_rate, self.latin_rate, self.devanagari_rate)
        if not all(0 <= rate < math.inf for rate in rates) or not any(rates):
            raise BadInput(f"units: expected finite rates >= 0, not all of them 0, got {list(rates)}")
        for name, table, kind in (
            ("starts", self.starts, torch.bool),
            ("continues", self.continues, torch.bool),
            ("unfinished", self.unfinished, torch.bool),
            ("scripts", self.scripts, torch.int64),
        ):
            if table is not None and (table.dtype != kind or table.ndim != 1):
                raise BadInput(f"units: expected {name} of {kind} [V], got {table.dtype} {list(table.shape)}")
        if self.scripts is not None and bool(((self.scripts < 0) | (self.scripts > 2)).any()):
            raise BadInput("units: expected scripts in 0..2: 0 other, 1 Latin, 2 Devanagari")

    def __call__(
        self, x0: Int[Tensor, "B T"], rate: Float[Tensor, " B"], generator: torch.Generator
    ) -> Corrupted:
        self._check(x0, rate)
        rate = in_unit("rate", rate).to(x0.device)
        lots = torch.rand(x0.shape, generator=generator, device=generator.device).to(x0.device)
        fixed = torch.isin(x0, torch.tensor(self._fixed).to(x0))
        unit = self._units(x0, fixed)
        level = self._levels(x0, rate, unit, fixed)
        first = _first(unit)
        closeness = torch.where((level > 0) & ~fixed, lots.gather(1, first) / level, torch.inf)
        masked = closeness < 1
        if self.at_least > 0 and x0.shape[1]:
            nearest = closeness.kthvalue(min(self.at_least, x0.shape[1]), dim=1, keepdim=True).values
            masked |= (closeness <= nearest) & closeness.isfinite()
        told = rate[:, None].expand(x0.shape)
        return Corrupted(x0.masked_fill(masked, self.mask_id), x0, told, masked.to(told.dtype))

    # ---- units ---------------------------------------------------------------------------------------

    def _units(self, x0: Int[Tensor, "B T"], fixed: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """The number of each token's unit. What is fixed is one by itself; behind it, another begins."""
        awaited = _said(self.unfinished, x0.roll(1, 1), False) & ~_said(self.starts, x0, False)
        joined = _said(self.continues, x0, False) | awaited
        begins = ~joined if self.unit == "cluster" else _said(self.starts, x0, True) & ~joined
        begins = begins | fixed | fixed.roll(1, 1)
        begins[:, :1] = True
        return begins.cumsum(1) - 1

    def _levels(
        self,
        x0: Int[Tensor, "B T"],
        rate: Float[Tensor, " B"],
        unit: Int[Tensor, "B T"],
        fixed: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Each token's probability: the same within a unit, the row's rate on average."""
        r = rate[:, None].expand(x0.shape)
        if self.scripts is None or not x0.numel():
            return r
        factor = self._factors(x0, unit).to(rate.dtype)
        mean = (factor * ~fixed).sum(1, keepdim=True) / (~fixed).sum(1, keepdim=True).clamp(min=1)
        h = torch.where(~fixed & (mean > 0), factor / mean.clamp(min=1e-12) - 1, 0.0)
        up = h.amax(1, keepdim=True).clamp(min=1e-12)
        return (r + torch.minimum(r, (1 - r) / up) * h).clamp(0, 1)

    def _factors(self, x0: Int[Tensor, "B T"], unit: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The mean factor of a unit's tokens that have a script, or of all where none has."""
        assert self.scripts is not None
        script = self.scripts.to(x0.device)[x0]
        rates = torch.tensor(
            [self.other_rate, self.latin_rate, self.devanagari_rate], dtype=torch.float64, device=x0.device
        )
        lettered = (script > 0).double()
        total = torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)
        count = total.clone().scatter_add_(1, unit, lettered)
        total = total.scatter_add_(1, unit, rates[script] * lettered)
        return torch.where(count > 0, total / count.clamp(min=1), rates[0]).gather(1, unit)

    @cached_property
    def _fixed(self) -> tuple[int, ...]:
        ids = {self.mask_id, self.pad_id, *self.untouched}
        return tuple(sorted(i for i in ids if i is not None))

    def _check(self, x0: Tensor, rate: Tensor) -> None:
        if x0.ndim != 2 or x0.dtype not in (torch.int32, torch.int64):
            raise BadInput(f"tokens: expected integers [B T], got {x0.dtype} {list(x0.shape)}")
        if rate.shape != x0.shape[:1]:
            raise BadInput(f"rate: expected one per row [{len(x0)}], got {list(rate.shape)}")
        tables = (self.starts, self.continues, self.unfinished, self.scripts)
        size = min((len(table) for table in tables if table is not None), default=None)
        if size is not None and x0.numel() and not 0 <= int(x0.min()) <= int(x0.max()) < size:
            raise BadInput(f"tokens: expected ids in 0..{size - 1}: another tokenizer's?")


def _said(table: Tensor | None, x0: Int[Tensor, "B T"], otherwise: bool) -> Bool[Tensor, "B T"]:
    if table is None:
        return torch.full_like(x0, otherwise, dtype=torch.bool)
    found: Tensor = table.to(x0.device)[x0]
    return found


def _first(unit: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The place of the first token of each token's unit."""
    places = torch.arange(unit.shape[1], device=unit.device).expand(unit.shape)
    begins = torch.ones_like(unit, dtype=torch.bool)
    begins[:, 1:] = unit[:, 1:] != unit[:, :-1]
    return places.masked_fill(~begins, 0).cummax(1).values if unit.numel() else places
