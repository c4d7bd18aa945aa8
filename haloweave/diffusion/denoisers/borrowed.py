# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Token vectors: a table of one's own, or a host LM's, frozen, behind a small trained projection.

Knows tables and products with them. Must not know positions, noise or blocks. Axes: N any leading axes,
V vocabulary, D width, E the host's width, F the same with a column for each special token, R rank of the
projection.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from haloweave.diffusion.denoisers.base import DenoiserConfig
from haloweave.diffusion.errors import BadInput

INIT = 0.02
"""Standard deviation of token vectors at the start (BERT, 1810.04805)."""


class OwnTable(nn.Module):
    """V trained vectors, the same for reading and for the head (tied; Press & Wolf, 1608.05859)."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab_size, width) * INIT)

    def look_up(self, ids: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        return F.embedding(ids, self.weight)

    def scores(self, states: Float[Tensor, "*N D"], bias: Float[Tensor, " V"]) -> Float[Tensor, "*N V"]:
        return F.linear(states, self.weight, bias)

    def mean(self, weights: Float[Tensor, "*N V"]) -> Float[Tensor, "*N D"]:
        """Weighted sums of the vectors."""
        return weights @ self.weight


class BorrowedTable(nn.Module):
    """A host's V vectors, frozen, seen through a projection E -> D, or E -> R -> D, used both ways (or, by
    `config.reads_fully`, for the head alone).

    The host never learned a mask, nor a pad that means "nothing belongs here": in place of its rows each gets
    a column of its own, so the projection learns their vectors, for reading and for the head alike. The table
    is kept in 32 bits, as a copy, outside of the state dict.
    """

    table: Float[Tensor, "V F"]

    def __init__(self, config: DenoiserConfig, borrowed: Float[Tensor, "V E"]) -> None:
        super().__init__()
        _check(config, borrowed)
        self.digest = digest(borrowed)
        table, scale = _with_specials(config, borrowed.detach().float())
        self.register_buffer("table", table, persistent=False)
        rank, width = config.projection_rank, config.d_model
        # Projected vectors begin at the scale that vectors of one's own begin at, whatever the host's.
        self.narrow = nn.Parameter(torch.randn(rank or width, table.shape[1]) * (1 if rank else INIT) / scale)
        self.widen = nn.Parameter(torch.randn(width, rank) * INIT / rank**0.5) if rank else None
        whole = config.reads_fully
        self.read = nn.Parameter(torch.randn(width, table.shape[1]) * INIT / scale) if whole else None

    def settled(self) -> SettledTable:
        """The same, projected once and for all: for use, not for training."""
        read = None if self.read is None else F.linear(self.table, self.read).detach()
        return SettledTable(F.linear(self.table, self.narrow).detach(), self.widen, read, self.digest)

    def look_up(self, ids: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        return self._seen(F.embedding(ids, self.table))

    def scores(self, states: Float[Tensor, "*N D"], bias: Float[Tensor, " V"]) -> Float[Tensor, "*N V"]:
        thin = states if self.widen is None else states @ self.widen
        if self._few(thin):
            return F.linear(thin @ self.narrow, self.table, bias)
        return F.linear(thin, F.linear(self.table, self.narrow), bias)

    def mean(self, weights: Float[Tensor, "*N V"]) -> Float[Tensor, "*N D"]:
        """Weighted sums of the vectors."""
        return self._seen(weights @ self.table)

    def _seen(self, vectors: Float[Tensor, "*N F"]) -> Float[Tensor, "*N D"]:
        if self.read is not None:
            return F.linear(vectors, self.read)
        thin = F.linear(vectors, self.narrow)
        return thin if self.widen is None else F.linear(thin, self.widen)

    def _few(self, thin: Float[Tensor, "*N R"]) -> bool:
        """Whether it is cheaper to project the states to the host's width than the table to ours: N E V
        multiplications against R E V + N R V."""
        n, (r, e) = thin.numel() // thin.shape[-1], self.narrow.shape
        return n * e <= r * (e + n)


class SettledTable(nn.Module):
    """A borrowed table as one uses it: what the head asks [V R] and what is read [V D], projected once.

    Of 49,155 x 576 numbers 49,155 x 64 are left where both are the same: in 16 bits 6 MB instead of 113.
    """

    thin: Float[Tensor, "V R"]
    widen: Float[Tensor, "D R"] | None
    read: Float[Tensor, "V D"] | None

    def __init__(
        self,
        thin: Float[Tensor, "V R"],
        widen: Float[Tensor, "D R"] | None,
        read: Float[Tensor, "V D"] | None,
        digest: str,
    ) -> None:
        super().__init__()
        self.digest = digest
        self.register_buffer("thin", thin, persistent=False)
        self.register_buffer("widen", None if widen is None else widen.detach().clone(), persistent=False)
        self.register_buffer("read", read, persistent=False)

    def look_up(self, ids: Int[Tensor, "*N"]) -> Float[Tensor, "*N D"]:
        if self.read is not None:
            return F.embedding(ids, self.read)
        return self._widened(F.embedding(ids, self.thin))

    def scores(self, states: Float[Tensor, "*N D"], bias: Float[Tensor, " V"]) -> Float[Tensor, "*N V"]:
        return F.linear(states if self.widen is None else states @ self.widen, self.thin, bias)

    def mean(self, weights: Float[Tensor, "*N V"]) -> Float[Tensor, "*N D"]:
        """Weighted sums of the vectors."""
        return weights @ self.read if self.read is not None else self._widened(weights @ self.thin)

    def _widened(self, thin: Float[Tensor, "*N R"]) -> Float[Tensor, "*N D"]:
        return thin if self.widen is None else F.linear(thin, self.widen)


def digest(borrowed: Float[Tensor, "V E"]) -> str:
    """sha256 of a table: its shape and its numbers in 32 bits."""
    told = hashlib.sha256(repr(tuple(borrowed.shape)).encode())
    told.update(borrowed.detach().float().cpu().contiguous().numpy().data)
    return told.hexdigest()


def _check(config: DenoiserConfig, borrowed: Float[Tensor, "V E"]) -> None:
    expected = (config.vocab_size, config.borrowed_dim)
    if tuple(borrowed.shape) != expected or not borrowed.dtype.is_floating_point:
        raise BadInput(
            f"borrowed embeddings: expected floats of shape {expected}, got {borrowed.dtype} "
            f"{tuple(borrowed.shape)}; a host's table needs rows for added tokens, of any content"
        )
    if not bool(torch.isfinite(borrowed).all()):
        raise BadInput("borrowed embeddings: expected finite numbers, got NaN or infinity: a damaged host?")


def _with_specials(
    config: DenoiserConfig, borrowed: Float[Tensor, "V E"]
) -> tuple[Float[Tensor, "V F"], float]:
    """The table with a column for each special token, and the typical length of its vectors."""
    specials = [i for i in (config.mask_id, config.pad_id) if i is not None]
    table = torch.cat([borrowed, borrowed.new_zeros(len(borrowed), len(specials))], dim=1)
    table[specials] = 0
    length = float(table.norm() / max(1, len(table) - len(specials)) ** 0.5) or 1.0
    for column, token in enumerate(specials, start=borrowed.shape[1]):
        table[token, column] = length
    return table, length
