# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How many rows a mind may hold and when it weaves, and whether that can be lived with.

Knows numbers, the laws and the size of a turn's frame. Must not know engines, journals or tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from haloweave.errors import InvalidInput
from haloweave.memory.laws import Laws
from haloweave.text import Codec

_SPARE = 16
"""Rows that must be left for policies to work on, beside sinks, tail, a chunk and a turn's frame."""


@dataclass(frozen=True)
class Weave:
    """When and how the context is brought back under its budget."""

    budget: int = 512
    """Rows that the KV cache may hold at any time."""
    low_water: int = 448
    """A weave stops at this many rows."""
    chunk: int = 64
    """Tokens of incoming text fed in one pass."""
    kills_per_round: int = 0
    """Tokens killed between two looks at the context; 1 is canonical, 0 kills all at once."""

    def __post_init__(self) -> None:
        if not 0 < self.low_water <= self.budget or self.chunk < 1 or self.kills_per_round < 0:
            raise InvalidInput(
                f"expected 0 < low_water <= budget, chunk >= 1, kills_per_round >= 0, got {self}"
            )


def spare_rows(weave: Weave, laws: Laws, codec: Codec) -> int:
    """Rows that policies can work on at the worst of times. Raises InvalidInput if they are too few."""
    spare = weave.budget - laws.sinks - laws.tail - weave.chunk - _largest_frame(codec)
    if spare < _SPARE:
        raise InvalidInput(
            f"budget {weave.budget} is too small: sinks {laws.sinks} + tail {laws.tail} + "
            f"chunk {weave.chunk} must leave {_SPARE} rows to cull; raise the budget or lower the others"
        )
    return spare


def _largest_frame(codec: Codec) -> int:
    """Control tokens of the largest turn frame."""
    if codec.frame is None:
        return 0
    return max(len(codec.frame.headers[r]) + len(codec.frame.footers[r]) for r in codec.frame.headers)
