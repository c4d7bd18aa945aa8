# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What is measured of a peer: a context that reads, forgets in its own way, and goes on.

Knows torch. Must not know a peer or a model. Axes: Q tokens fed, V vocabulary, S rows held, K tokens kept.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class Context(ABC):
    """Rows of one model, in the middle of a text."""

    @abstractmethod
    def feed(self, ids: list[int]) -> Float[Tensor, "Q V"]:
        """Log-probabilities of what follows each token; one forward pass."""

    @abstractmethod
    def fork(self) -> Context:
        """A copy that goes its own way."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be fed."""

    @abstractmethod
    def alive(self, spans: list[list[int]]) -> float:
        """Share of some of the tokens read (half-open ranges) that are still held."""

    @abstractmethod
    def bytes(self) -> int:
        """Of keys and values held now."""

    @abstractmethod
    def seconds(self, last: Float[Tensor, " V"], count: int) -> list[float]:
        """Of each of so many tokens decoded greedily."""


class Arm(ABC):
    """Makes contexts of one kind, at one budget."""

    name: str
    rows: int

    @abstractmethod
    def start(self) -> Context:
        """One that has read nothing, and will read without end."""

    @abstractmethod
    def read(self, ids: list[int], before: Context | None, known: int, room: int) -> Context:
        """One that has read `ids`, of which `before` has read the first `known`; at most `room`
        more will follow."""


def fed(context: Context, ids: list[int], chunk: int) -> Float[Tensor, " V"]:
    """Read in passes of `chunk`; log-probabilities of what follows."""
    for at in range(0, len(ids), chunk):
        last = context.feed(ids[at : at + chunk])[-1]
    return last


def timed(context: Context, last: Float[Tensor, " V"], count: int) -> list[float]:
    """`Context.seconds`, one pass a token."""
    took = []
    for _ in range(count):
        start = time.perf_counter()
        last = context.feed([int(last.argmax())])[-1]
        took.append(time.perf_counter() - start)
    return took


def share(held: Int[Tensor, "*H K"], spans: list[list[int]]) -> float:
    """Of the tokens in `spans`, those among `held`; a mean over heads where each keeps its own."""
    wanted = torch.tensor([i for first, last in spans for i in range(first, last)])
    heads = held.reshape(-1, held.shape[-1])
    return float(torch.stack([torch.isin(wanted, kept).float().mean() for kept in heads]).mean())
