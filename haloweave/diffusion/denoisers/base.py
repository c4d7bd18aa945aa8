# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a denoiser is: noisy tokens in, logits over the vocabulary out. All three share this and their tests.

    denoiser(xt, t) -> logits                    the whole signature
    denoiser.hidden(xt, t)  then  .logits(...)   the same in two steps: training asks for the logits of masked
                                                 positions alone, which saves most of a large head

Knows torch. Must not know schedules, corruption, sampling or text. Axes: B batch, T sequence, V vocabulary,
D width, N chosen positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from haloweave.diffusion.errors import BadInput, TooLong

Predict = Callable[[Int[Tensor, "B T"], Float[Tensor, " B"] | None], Float[Tensor, "B T V"]]
"""All that sampling and evaluation need: tokens and noise level to logits. Without a level (None) a denoiser
counts the masks itself. A Denoiser is one, and so is what wraps one."""

UNTOLD: Mapping[str, bool] = {"untold": True}
"""Metadata of a config's field that came after models had been saved: at its default it is no part of what
tells one model from another, so that the folders and checkpoints of before still are the same model's."""


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """What every denoiser is made of; each has its own fields beside these.

    Raises BadInput for sizes that cannot be.
    """

    arch: ClassVar[str]

    vocab_size: int
    """V, the mask and every other special token included."""
    mask_id: int
    pad_id: int | None = None
    """Stands where there is no token: nothing attends to it. As a prediction: nothing belongs here."""
    max_len: int = 512
    """Longest sequence; longer ones raise TooLong (unmask generates them block by block)."""
    d_model: int = 256
    n_layers: int = 6
    n_heads: int = 4
    d_ff: int = 1024
    dropout: float = 0.0
    time_conditioning: bool = False
    """Add an embedding of the noise level; of each token's own, where t is [B T]."""
    self_conditioning: bool = False
    """Take the previous prediction as a further input (Analog Bits, 2208.04202)."""
    borrowed_dim: int | None = None
    """Width of a frozen embedding table [V, borrowed_dim] lent by a host LM; None: one's own vectors."""
    projection_rank: int | None = None
    """Rank of the factorised projection borrowed_dim -> rank -> d_model; None: one full matrix."""
    reads_fully: bool = field(default=False, metadata=UNTOLD)
    """Read borrowed vectors through a full matrix of its own, the factorised one being the head's alone: to
    read costs nothing once the table is settled, while a rank of the head costs V multiplications a place."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "max_len", "d_model", "n_layers", "n_heads", "d_ff"):
            if not 1 <= getattr(self, name) < 2**31:
                raise BadInput(f"denoiser: {name} should be in 1..2^31-1, got {getattr(self, name)}")
        if self.d_model % self.n_heads:
            raise BadInput(
                f"denoiser: d_model should be a width that its heads divide, got d_model {self.d_model} and "
                f"n_heads {self.n_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise BadInput(f"denoiser: dropout should be in [0, 1), got {self.dropout}")
        for name, value in (("mask_id", self.mask_id), ("pad_id", self.pad_id)):
            if value is not None and not 0 <= value < self.vocab_size:
                raise BadInput(f"denoiser: {name} should be in 0..{self.vocab_size - 1}, got {value}")
        if self.mask_id == self.pad_id:
            raise BadInput(f"denoiser: mask and pad should be two tokens, got {self.mask_id} for both")
        for name, width in (("borrowed_dim", self.borrowed_dim), ("projection_rank", self.projection_rank)):
            if width is not None and width < 1:
                raise BadInput(f"denoiser: {name} should be >= 1 or None, got {width}")


@dataclass(frozen=True, eq=False)
class Hidden:
    """What a denoiser thought, before the head."""

    tokens: Float[Tensor, "B T D"]
    strategy: Float[Tensor, "B D"] | None = None
    """z_H of the hierarchical denoiser, which may say what to reveal next."""
    passes: Float[Tensor, " B"] | None = None
    """Block passes each row took, where that depends on the row."""
    trail: tuple[Tensor, ...] = field(default=(), repr=False)
    """What `auxiliary` needs of the way here; private to the denoiser."""


class Denoiser(nn.Module, ABC):
    """A bidirectional network. `logits` of the mask token are -inf: a mask is never a prediction (SUBS,
    2406.07524). Tokens that are visible are *not* copied here; loss and sampling decide what to ask for."""

    config: DenoiserConfig
    batchwise: bool = False
    """Whether an `auxiliary` loss depends on which rows are read together: a batch in other parts is then
    another loss."""

    @abstractmethod
    def hidden(
        self,
        xt: Int[Tensor, "B T"],
        t: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
        previous: Float[Tensor, "B T D"] | None = None,
    ) -> Hidden:
        """Noisy tokens to states.

        `t`: noise level in 0..1, of each row or of each token; read only under time_conditioning, where None
        stands for the share of masked tokens (per row). `previous`: the states of an earlier call's
        `embed_prediction`; read only under self_conditioning. Raises TooLong; BadInput for ids not in 0..V-1.
        """

    @abstractmethod
    def logits(self, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """The head: states to logits, tied to the embedding; -inf at the mask token."""

    @abstractmethod
    def embed_prediction(self, logits: Float[Tensor, "B T V"]) -> Float[Tensor, "B T D"]:
        """A prediction as an input for the next call: the expected embedding, detached."""

    @abstractmethod
    def auxiliary(
        self, hidden: Hidden, x0: Int[Tensor, "B T"], weight: Float[Tensor, "B T"]
    ) -> Mapping[str, Tensor]:
        """Further losses by name, weighted; empty for most. `weight` marks what is to be predicted."""

    def head_weight(
        self, xt: Int[Tensor, "B T"], x0: Int[Tensor, "B T"], weight: Float[Tensor, "B T"]
    ) -> Float[Tensor, "B T"]:
        """Where training asks the head, and how much that counts: wherever a prediction is asked for. A
        denoiser that answers some places by other means asks less of its head; `auxiliary` trains those."""
        return weight

    def forward(
        self,
        xt: Int[Tensor, "B T"],
        t: Float[Tensor, " B"] | Float[Tensor, "B T"] | None = None,
        previous: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        return self.logits(self.hidden(xt, t, previous).tokens)

    def check(self, xt: Int[Tensor, "B T"]) -> None:
        """Raise TooLong or BadInput for what cannot be read."""
        if xt.ndim != 2 or xt.dtype not in (torch.int32, torch.int64):
            raise BadInput(f"tokens: expected integers [B T], got {xt.dtype} {tuple(xt.shape)}")
        if xt.shape[1] > self.config.max_len:
            raise TooLong(
                f"tokens: expected at most {self.config.max_len}, got {xt.shape[1]}; cut the text, or "
                f"generate block by block"
            )
        if xt.numel() and not 0 <= int(xt.min()) <= int(xt.max()) < self.config.vocab_size:
            raise BadInput(
                f"tokens: expected ids in 0..{self.config.vocab_size - 1}, got "
                f"{int(xt.min())}..{int(xt.max())}: another tokenizer's?"
            )

    def begin_at(self, counts: Int[Tensor, " V"]) -> None:
        """Before training: let the head start from how often each token was counted, and not from nothing.
        Raises BadInput if it cannot."""
        raise BadInput(f"prior: {self.config.arch} has no bias that could begin at frequencies; leave it out")

    def settled(self, dtype: torch.dtype = torch.float32) -> Self:
        """Itself, ready for use and no longer for training or saving: in evaluation mode, its weights in
        `dtype`, a borrowed table projected once and for all."""
        return self.eval().to(dtype).requires_grad_(False)

    @property
    def parameters_trained(self) -> int:
        """Numbers that training changes; a borrowed table is not among them."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
