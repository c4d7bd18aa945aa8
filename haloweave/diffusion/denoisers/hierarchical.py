# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A denoiser that thinks in passes, and no longer than it must.

    x = embedding
    for i in 0..passes-1:
        every `period` passes:  z_H <- High(z_H, z_L)     strategy, with the memory cells it picks
        z_L <- Low(z_L + z_H + x)                         the same blocks in every pass
        prediction at rest?  then this row is done        (halting; never while training)

High comes before the passes it is to steer, the first as well: else the first ones would be without a
strategy, and the last strategy would steer nothing (HRM, 2506.21734, has the same row, one step on). A row
that halts is frozen, and leaves the batch: its result is what it would be alone.

Training makes all passes, and each has to predict (deep supervision, as in TRM, 2510.04871): a row that
halts early is read at a state that has learned to be read. z_H starts anew in each call; a signature that
carried it from one denoising step to the next would begin `_Rows` with it.

Knows passes. Must not know schedules, corruption or sampling. Axes: B batch, T sequence, V vocabulary,
D width, K passes, N memory cells, P positions looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.denoisers.base import DenoiserConfig, Hidden
from haloweave.diffusion.denoisers.cells import Cells, balance, z_loss
from haloweave.diffusion.denoisers.embedded import Embedded
from haloweave.diffusion.denoisers.halting import (
    Contribution,
    Divergence,
    Opinion,
    Reading,
    Rule,
    alignment,
    pooled,
    spread,
)
from haloweave.diffusion.denoisers.high_low import High, Low
from haloweave.diffusion.errors import BadInput

Halting = Literal["contribution", "divergence", "never"]


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig(DenoiserConfig):
    """`n_layers` are the blocks of one pass; a call makes up to `passes * n_layers` block passes."""

    arch: ClassVar[str] = "hierarchical"

    n_layers: int = 2
    passes: int = 4
    """Most passes of the Low module; all of them while training."""
    period: int = 2
    """Passes between updates of the High module."""
    cells: int = 16
    cell_size: int = 4
    """Content vectors of a cell."""
    top_k: int = 4
    """Cells read at an update."""
    halting: Halting = "divergence"
    halt_threshold: float = 1e-2
    """Of "divergence": nats a position between two passes. 0: never."""
    epsilon: float = 1e-3
    """Of "contribution": the least that a change is divided by."""
    probes: int = 16
    """Most positions of a row that halting, and the losses of early passes, look at between passes."""
    lambda_memory: float = 1e-2
    """Weight of the balance loss (Switch's alpha)."""
    lambda_z: float = 1e-3
    """Weight of the router's z-loss."""
    lambda_halting: float = 0.1
    """Weight of the alignment of o; its gradient ends in o, and never changes a prediction."""
    lambda_early: float = 0.5
    """Weight of the mean cross-entropy of the passes before the last: what makes an early end affordable."""
    full_backprop: bool = True
    """Through all passes; else through the last High update and the passes after it. One step alone lost
    badly in TRM (2510.04871: 56.5 against 87.4), and is not offered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.period, self.cells, self.cell_size, self.probes) < 1:
            raise BadInput(f"hierarchical: expected period, cells, cell_size and probes >= 1, got {self}")
        if self.passes < 2:
            raise BadInput(
                f"hierarchical: expected at least 2 passes, got {self.passes}; one pass is a transformer's"
            )
        if not min(2, self.cells) <= self.top_k <= self.cells:
            raise BadInput(
                f"hierarchical: top_k should be in {min(2, self.cells)}..{self.cells}, got {self.top_k}; the "
                f"softmax of one choice is constant, and teaches the router nothing"
            )
        if self.halting not in get_args(Halting):
            raise BadInput(
                f"hierarchical: halting should be one of {get_args(Halting)}, got {self.halting!r}"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        weights = (self.lambda_memory, self.lambda_z, self.lambda_halting, self.lambda_early)
        finite = all(0 <= w < math.inf for w in weights) and self.epsilon < math.inf
        if not (finite and self.epsilon > 0 and self.halt_threshold >= 0):
            raise BadInput(
                f"hierarchical: expected epsilon > 0, a threshold >= 0 and weights of losses >= 0, got {self}"
            )

    @property
    def rule(self) -> Rule | None:
        """How a row halts; None if it does not."""
        rules: dict[str, Rule] = {
            "contribution": Contribution(self.epsilon),
            "divergence": Divergence(self.halt_threshold),
        }
        return rules.get(self.halting)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows that still think: where they belong, what was asked, and how far they are."""

    index: Int[Tensor, " B"]
    x: Float[Tensor, "B T D"]
    present: Bool[Tensor, "B T"] | None
    z_low: Float[Tensor, "B T D"]
    z_high: Float[Tensor, "B D"]

    def only(self, going: Bool[Tensor, " B"]) -> _Rows:
        present = None if self.present is None else self.present[going]
        return _Rows(self.index[going], self.x[going], present, self.z_low[going], self.z_high[going])


class Hierarchical(Embedded):
    """Low and High module, memory cells and halting. `borrowed`: a host's embeddings, as for all denoisers.

    `Hidden.strategy` is z_H, `Hidden.passes` the block passes of each row (`n_layers` for each pass).
    """

    config: HierarchicalConfig

    def __init__(self, config: HierarchicalConfig, borrowed: Float[Tensor, "V E"] | None = None) -> None:
        super().__init__(config, borrowed)
        width, heads, inner = config.d_model, config.n_heads, config.d_ff
        self.low = Low(config.n_layers, width, heads, inner, config.dropout)
        self.high = High(
            width, heads, inner, Cells(config.cells, config.cell_size, config.top_k, width, heads)
        )
        self.opinion = Opinion(width)
        self.batchwise = config.lambda_memory > 0  # Switch's balance is of the batch at hand
        self._rule = config.rule

    def hidden(
        self,
        xt: Int[Tensor, "B T"],
        t: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
        previous: Float[Tensor, "B T D"] | None = None,
    ) -> Hidden:
        self.check(xt)
        x = self.embedding(xt, t, previous)
        rows = _Rows(
            index=torch.arange(len(xt), device=xt.device),
            x=x,
            present=self.embedding.present(xt),
            z_low=x,
            z_high=x.new_zeros(len(x), self.config.d_model),
        )
        if self.training or self._rule is None:
            return self._think(rows)
        return self._think_until_rest(rows, self._rule, self._asked(xt, rows.present))

    def auxiliary(
        self, hidden: Hidden, x0: Int[Tensor, "B T"], weight: Float[Tensor, "B T"]
    ) -> Mapping[str, Tensor]:
        """Losses of the router ("balance", "router_z"), of o ("halting") and of passes before the last
        ("early"), weighted. All are means over rows, so that parts of a batch add up to the whole; but for
        "balance", which is of the batch at hand, as in Switch. Empty for states of a model that was not in
        training mode: its rows stop when they want to."""
        if not hidden.trail:
            return {}
        routes, opinions, *states = hidden.trail
        losses, counted = self._losses(states, x0, weight)
        config, used = self.config, routes.flatten(0, 1)
        return {
            "balance": config.lambda_memory * balance(used, config.top_k),
            "router_z": config.lambda_z * z_loss(used),
            "halting": config.lambda_halting * alignment(losses, opinions, counted),
            "early": config.lambda_early * losses[:-1].mean(),
        }

    def _think(self, rows: _Rows) -> Hidden:
        """All passes, with the trail that training needs."""
        routes, states = [], []
        for i in range(self.config.passes):
            with torch.set_grad_enabled(torch.is_grad_enabled() and i >= self._first_trained):
                rows, scores = self._advance(rows, i)
            routes += scores
            states.append(rows.z_low)
        passes = rows.x.new_full((len(rows.x),), self.config.passes * self.config.n_layers)
        if not self.training:
            return Hidden(rows.z_low, rows.z_high, passes)
        # o learns from the states, not they from o: what is left to gain is not made smaller on its account.
        opinions = torch.stack([self.opinion(z.detach(), rows.present) for z in states[:-1]])
        return Hidden(rows.z_low, rows.z_high, passes, (torch.stack(routes), opinions, *states))

    def _think_until_rest(self, rows: _Rows, rule: Rule, asked: Bool[Tensor, "B T"]) -> Hidden:
        """Passes until each row halts. Rows that halted are out of the batch, and cost nothing."""
        tokens, strategy = rows.z_low.clone(), rows.z_high.clone()
        passes, total = rows.x.new_zeros(len(rows.x)), rows.x.new_zeros(len(rows.x))
        where, seen = spread(asked, self.config.probes)
        before = None
        for i in range(self.config.passes):
            rows, _ = self._advance(rows, i)
            tokens[rows.index], strategy[rows.index] = rows.z_low.to(tokens), rows.z_high.to(strategy)
            passes[rows.index] = float(i + 1)
            if i + 1 == self.config.passes:
                break
            now = self._reading(rows, where[rows.index], seen[rows.index])
            if before is not None:
                total = rule.after(total, before, now)
                going = ~rule.halts(total, now)
                rows, now, total = rows.only(going), now.only(going), total[going]
            if not len(rows.index):
                break
            before = now
        return Hidden(tokens, strategy, passes * self.config.n_layers)

    def _advance(self, rows: _Rows, i: int) -> tuple[_Rows, list[Float[Tensor, "B N"]]]:
        """Pass `i`; and the router's scores, if the strategy was due."""
        scores = []
        if i % self.config.period == 0:
            z_high, found = self.high(rows.z_high, rows.z_low, rows.present)
            rows, scores = replace(rows, z_high=z_high), [found]
        return replace(rows, z_low=self.low(rows.z_low, rows.z_high, rows.x, rows.present)), scores

    @property
    def _first_trained(self) -> int:
        """The first pass that gradients reach."""
        if self.config.full_backprop:
            return 0
        return (self.config.passes - 1) // self.config.period * self.config.period

    def _asked(self, xt: Int[Tensor, "B T"], present: Bool[Tensor, "B T"] | None) -> Bool[Tensor, "B T"]:
        """The masks; in a row without any, all tokens: some may be wrong."""
        masked = xt == self.config.mask_id
        return torch.where(
            masked.any(dim=1, keepdim=True), masked, torch.ones_like(masked) if present is None else present
        )

    def _reading(self, rows: _Rows, where: Int[Tensor, "B P"], seen: Bool[Tensor, "B P"]) -> Reading:
        return Reading(
            logits=self.logits(_at(rows.z_low, where)).float(),
            seen=seen,
            summary=pooled(rows.z_low, rows.present).float(),
            opinion=self.opinion(rows.z_low, rows.present).sigmoid().float(),
        )

    def _losses(
        self, states: list[Float[Tensor, "B T D"]], x0: Int[Tensor, "B T"], weight: Float[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "K B"], Bool[Tensor, " B"]]:
        """Mean cross-entropy of each row after each pass, at its probes; and which rows have any (else 0)."""
        where, seen = spread(weight > 0, self.config.probes)
        log_p = self.logits(torch.stack([_at(z, where) for z in states])).float().log_softmax(dim=-1)
        target = x0.gather(1, where).expand(len(states), -1, -1)
        share = torch.where(seen, weight.gather(1, where), 0).float()
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1e-9)
        each = -log_p.gather(-1, target[..., None])[..., 0]
        return torch.where(seen, share * each, 0).sum(dim=-1), seen.any(dim=1)


def _at(states: Float[Tensor, "B T D"], where: Int[Tensor, "B P"]) -> Float[Tensor, "B P D"]:
    return states.gather(1, where[..., None].expand(-1, -1, states.shape[2]))
