# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What unmasking is asked to do, and what came of it: values only. Axes: B batch, T sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.sampling.draw import Draw, Drawing, InverseCdf
from haloweave.diffusion.sampling.orders import Confidence, Order
from haloweave.diffusion.sampling.remask import Remask
from haloweave.diffusion.sampling.state_sets import Joining
from haloweave.diffusion.schedule import Cosine, Schedule


@dataclass(frozen=True)
class Unmasking:
    """How masks become tokens. Raises BadInput for values that cannot be.

    The plan is conservative: after step i of n no more is revealed than the schedule says, so that of each
    row's holes ceil(holes x r(1 - i/n)) are still masked; the last step reveals the rest. `Linear()` with as
    many steps as there are holes is one token a step.
    """

    steps: int = 12
    """Most rounds, and so most calls; one more where the model has nothing to say (see `unmask`)."""
    order: Order = field(default_factory=Confidence)
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    schedule: Schedule = field(default_factory=Cosine)
    threshold: float | None = None
    """Each round, write every token whose candidate has more than this probability, and at least one
    (Fast-dLLM, 2505.22618); and no fewer than the plan asks for, so `steps` stays the bound. With as many
    steps as holes the threshold alone decides."""
    confidence_stop: float | None = None
    """Write all that is left of a row, and leave it alone from then on, once its candidates' mean probability
    is above this."""
    remask: Remask | None = None
    """Take some generated tokens back in each round (ReMDM), and reveal as many more; chance may take more
    than can be made up for in the same round, never so in the last."""
    cache: bool = True
    """Feed a row only if it changed and something is to be read from it. False feeds every unfinished row in
    every round: same tokens, for comparison. (Not quite under self-conditioning with `remask` and
    `ancestral` at once: a text that nothing is read from is then a text the denoiser has seen itself say.)"""
    ancestral: bool = False
    """The reverse process itself: each mask is revealed by chance, (r_t - r_s) / r_t a step, whatever the
    order. Steps in which nothing happens cost no call, so many steps cost no more than there are holes."""
    draw: Draw = field(default_factory=InverseCdf)
    joining: Joining | None = field(default=None, repr=False)
    """Write only tokens with which the text can still become whole: no incomplete characters, no mark that
    nothing carries (see Joins). The vocabulary's own table, `tokenizer.joining`; None leaves it to the
    denoiser. Probabilities stay the denoiser's own; sampling is then no longer exact under any order."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadInput(f"steps: expected at least 1, got {self.steps}")
        for name, value in (("threshold", self.threshold), ("confidence_stop", self.confidence_stop)):
            if value is not None and not 0 < value <= 1:
                raise BadInput(f"{name}: expected a probability in (0, 1], or None for without, got {value}")
        if self.ancestral and (self.threshold is not None or self.confidence_stop is not None):
            raise BadInput(
                "ancestral: what is revealed is left to chance; leave threshold and confidence_stop out, or "
                "ancestral"
            )
        _ = self.drawing  # it checks temperature and top_p

    @property
    def drawing(self) -> Drawing:
        return Drawing(self.temperature, self.top_p, self.draw)

    def rates(self) -> list[float]:
        """Share of the holes that is masked before each step and after the last: from 1 to 0."""
        inner = self.schedule.rate(torch.linspace(1, 0, self.steps + 1, dtype=torch.float64))[1:-1]
        return [1.0, *inner.tolist(), 0.0]


@dataclass(frozen=True, eq=False)
class Unmasked:
    """What came of it."""

    tokens: Int[Tensor, "B T"]
    confidence: Float[Tensor, "B T"]
    """The model's probability of each filled token when it was written; 1 where nothing was to be written; 0
    where the model had nothing to offer. Of given tokens that might have been remasked, but were not: the
    probability that the first call gave them."""
    filled: Bool[Tensor, "B T"]
    """Where tokens were written."""
    calls: int
    """Denoiser calls (NFE), of whatever size."""
    row_calls: int
    """Rows fed to the network, over all calls: what a call costs grows with them. Guidance feeds each row
    twice, once without its prompt, and that counts as two."""
    steps: int
    """Rounds gone through until nothing was left to do."""
    seconds: float


@dataclass(frozen=True, eq=False)
class Step:
    """What one round did; told to whoever wants to watch. The tensors are copies."""

    number: int
    """From 1. A last one, with nothing revealed by plan, is the fallback."""
    steps: int
    block: int
    """Which block of a long text; 0 where there is one only."""
    tokens: Int[Tensor, "B T"]
    revealed: Bool[Tensor, "B T"]
    remasked: Bool[Tensor, "B T"]
    calls: int
    left: int
    """Holes still open."""


Watch = Callable[[Step], None]
"""May raise, and unmasking ends there."""


@dataclass(frozen=True, eq=False)
class Holes:
    """Checked input: a text, where it may change, and what may not be written.

    Raises BadInput for tokens that are no integers [B T], an `editable` of another shape or kind, and
    negative ids."""

    xt: Int[Tensor, "B T"]
    editable: Bool[Tensor, "B T"]
    mask_id: int
    never: tuple[int, ...]

    @classmethod
    def of(
        cls, xt: Int[Tensor, "B T"], mask_id: int, editable: Bool[Tensor, "B T"] | None, never: Sequence[int]
    ) -> Holes:
        if xt.ndim != 2 or xt.dtype not in (torch.int32, torch.int64):
            raise BadInput(f"tokens: expected integers [B T], got {xt.dtype} {list(xt.shape)}")
        if mask_id < 0 or min(never, default=0) < 0:
            raise BadInput(f"mask and never: expected ids >= 0, got {mask_id} and {list(never)}")
        editable = xt == mask_id if editable is None else editable
        if editable.shape != xt.shape or editable.dtype != torch.bool:
            raise BadInput(
                f"editable: expected booleans {list(xt.shape)}, got {editable.dtype} {list(editable.shape)}"
            )
        return cls(xt, editable, mask_id, tuple(never))

    @property
    def open(self) -> Bool[Tensor, "B T"]:
        """Masks that are to be filled."""
        return self.editable & (self.xt == self.mask_id)
