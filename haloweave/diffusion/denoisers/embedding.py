# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Ids to states and states to logits: what the three denoisers share on both sides of their blocks.

Knows tokens, positions, noise levels and the tied head. Must not know blocks. Axes: B batch, T sequence,
V vocabulary, D width, E a host's width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from haloweave.diffusion.denoisers.base import DenoiserConfig
from haloweave.diffusion.denoisers.borrowed import INIT, BorrowedTable, OwnTable, SettledTable
from haloweave.diffusion.errors import BadInput

_WAVES = 32
"""Frequencies a noise level is read at."""


class Level(nn.Module):
    """A noise level in 0..1 as a vector: sines and cosines of it, then a small network (DDPM, 2006.11239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * _WAVES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, level: Float[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        # Angles go up to 314, where 16 bits tell no two of them apart: in 32, whatever the weights are in.
        # From half a period over 0..1 up to 100: smooth as a whole, and apart for 1000 levels.
        frequencies = math.pi * torch.logspace(0, 2, _WAVES, device=level.device)
        angle = level[..., None].float() * frequencies
        waves = torch.cat([angle.sin(), angle.cos()], dim=-1)
        out: Tensor = self.net(waves.to(next(self.net.parameters()).dtype))
        return out


class Embedding(nn.Module):
    """Token + learned position, + noise level and previous prediction where the config asks for them.

    `borrowed`: the host's table [V, config.borrowed_dim], kept frozen, out of the state dict; its sha256 is
    `borrowed_digest` (None with vectors of one's own). Raises BadInput where table and config disagree.
    """

    def __init__(self, config: DenoiserConfig, borrowed: Float[Tensor, "V E"] | None = None) -> None:
        super().__init__()
        width = config.d_model
        self.mask_id, self.pad_id = config.mask_id, config.pad_id
        self.token: OwnTable | BorrowedTable | SettledTable = _table(config, borrowed)
        self.position = nn.Parameter(torch.randn(config.max_len, width) * INIT)
        self.level = Level(width) if config.time_conditioning else None
        self.previous = nn.Linear(width, width, bias=False) if config.self_conditioning else None
        # Vectors begin small, for the head's sake; the blocks get them at unit scale.
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(config.dropout)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    @property
    def borrowed_digest(self) -> str | None:
        return None if isinstance(self.token, OwnTable) else self.token.digest

    @torch.no_grad()
    def begin_at(self, counts: Int[Tensor, " V"]) -> None:
        """Begin the head's bias at the logarithm of how often each token was counted (one more than that), up
        to a constant. From zeros it takes Adam thousands of steps to say that "the" is frequent."""
        share = (counts.double() + 1).log()
        self.bias.copy_(share - share.mean())

    def settle(self) -> None:
        """Project a borrowed table once and for all; it can be used as before, but not trained or saved."""
        if isinstance(self.token, BorrowedTable):
            self.token = self.token.settled()

    def forward(
        self,
        xt: Int[Tensor, "B T"],
        t: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
        previous: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Raises BadInput for a `t` that is neither [B] nor [B T], or a `previous` that is not [B T D]."""
        states = self.token.look_up(xt) + self.position[: xt.shape[1]]
        if self.level is not None:
            states = states + self._leveled(xt, t)
        if self.previous is not None and previous is not None:
            states = states + self.previous(_fitting(previous, states))
        out: Tensor = self.dropout(self.norm(states))
        return out

    def present(self, xt: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"] | None:
        """Where there is a token; None where no pad is to be minded, so that blocks can take the fast path.

        A row of nothing but pads counts as present: it must not become NaN, and there is nobody to disturb.
        """
        if self.pad_id is None:
            return None
        here = xt != self.pad_id
        here = here | ~here.any(dim=1, keepdim=True)
        return None if bool(here.all()) else here

    def logits(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The tied head. The mask's -inf comes in by the bias: no further pass over [N V]."""
        return self.token.scores(states, self.bias.index_fill(0, self._mask, -math.inf))

    @torch.no_grad()
    def expected(self, logits: Float[Tensor, "B T V"]) -> Float[Tensor, "B T D"]:
        """The mean token vector under a prediction, detached: the next call's `previous`."""
        return self.token.mean(logits.softmax(dim=-1))

    @property
    def _mask(self) -> Int[Tensor, " 1"]:
        return torch.tensor([self.mask_id], device=self.bias.device)

    def _leveled(
        self, xt: Int[Tensor, "B T"], t: Float[Tensor, " B"] | Float[Tensor, "B T"] | None
    ) -> Float[Tensor, "B ... D"]:
        assert self.level is not None
        if t is None:
            t = masked_share(xt, self.mask_id, self.pad_id)
        if t.shape not in (xt.shape[:1], xt.shape):
            raise BadInput(
                f"noise level: expected [{xt.shape[0]}] (of each row) or {list(xt.shape)} (of each token), "
                f"got {list(t.shape)}"
            )
        vectors: Tensor = self.level(t)
        return vectors[:, None] if t.ndim == 1 else vectors


def masked_share(xt: Int[Tensor, "B T"], mask_id: int, pad_id: int | None) -> Float[Tensor, " B"]:
    """Share of masks among each row's tokens: the noise level of a text that nobody gave a level."""
    tokens = torch.ones_like(xt) if pad_id is None else xt != pad_id
    return (xt == mask_id).sum(1) / tokens.sum(1).clamp(min=1)


def _table(config: DenoiserConfig, borrowed: Float[Tensor, "V E"] | None) -> OwnTable | BorrowedTable:
    if (borrowed is None) != (config.borrowed_dim is None):
        raise BadInput(
            f"borrowed embeddings: borrowed_dim is {config.borrowed_dim}, but "
            + ("no table was given; pass borrowed=" if borrowed is None else "a table was given; set it")
        )
    if borrowed is None and (config.projection_rank is not None or config.reads_fully):
        raise BadInput(
            f"projection_rank and reads_fully are for borrowed embeddings, and there are none; got "
            f"{config.projection_rank} and {config.reads_fully}"
        )
    return (
        OwnTable(config.vocab_size, config.d_model) if borrowed is None else BorrowedTable(config, borrowed)
    )


def _fitting(previous: Float[Tensor, "B T D"], states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    if previous.shape != states.shape:
        raise BadInput(
            f"previous prediction: expected {list(states.shape)}, as embed_prediction gives, got "
            f"{list(previous.shape)}"
        )
    return previous
