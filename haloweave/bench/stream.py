# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A long stream: do rows, memory and time per token stay flat?

On a real model a text is repeated until enough tokens are read. For a million tokens there is a tiny random
Llama, whose own cost is so small that any growth in the bookkeeping would show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from haloweave.bench.stats import resident_mb
from haloweave.errors import EngineFault
from haloweave.memory.tokens import Source
from haloweave.mind import Mind

_WARM = 0.05
"""Share of the stream that counts as warm-up for memory."""


@dataclass
class Stream:
    """What was seen along one stream."""

    tokens: int = 0
    rows_peak: int = 0
    seconds: list[float] = field(default_factory=list, repr=False)
    """Per chunk."""
    memory_mb: list[float] = field(default_factory=list)
    """Resident, at twenty points."""

    @property
    def growth(self) -> float:
        """Resident memory at the end over that after warm-up."""
        return self.memory_mb[-1] / self.memory_mb[0]

    @property
    def slowing(self) -> float:
        """Median time of a chunk in the last 5 % of the stream over that in the first 5 % at full rows."""
        share = max(len(self.seconds) // 20, 1)
        return float(np.median(self.seconds[-share:]) / np.median(self.seconds[:share]))


def _silent(done: int) -> None:
    """Nobody wants to know."""


def stream(
    mind: Mind,
    ids: Callable[[int], np.ndarray],
    tokens: int,
    chunk: int = 64,
    tell: Callable[[int], None] = _silent,
) -> Stream:
    """Feed `tokens` tokens in chunks of `chunk`; `ids(n)` gives the n-th chunk. Checks every layer's rows."""
    seen = Stream()
    full = False
    chunks = tokens // chunk
    marks = {int(chunks * (_WARM + (1 - _WARM) * k / 20)) for k in range(20)} | {chunks - 1}
    for n in range(chunks):
        start = time.perf_counter()
        mind.feed_ids(ids(n)[:chunk], Source.TEXT)
        took = time.perf_counter() - start
        seen.tokens += chunk
        seen.rows_peak = max(seen.rows_peak, mind.rows)
        if mind.engine.kv.rows != mind.rows or mind.rows > mind.budget:
            raise EngineFault(f"rows: mirror {mind.rows}, KV {mind.engine.kv.rows}, budget {mind.budget}")
        full = full or mind.rows + chunk > mind.budget
        if full:
            seen.seconds.append(took)
        if n in marks:
            seen.memory_mb.append(resident_mb())
        tell(seen.tokens)
    return seen


def cycled(ids: np.ndarray, chunk: int) -> Callable[[int], np.ndarray]:
    """Chunk n of an endless repetition of `ids`."""
    count = max(len(ids) // chunk, 1)
    return lambda n: ids[(n % count) * chunk : (n % count + 1) * chunk]


@dataclass(frozen=True)
class NumberCodec:
    """Text is numbers: for a model that has no language."""

    vocabulary: int
    frame: None = None
    control_ids: frozenset[int] = frozenset()
    end_ids: frozenset[int] = frozenset()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Each byte is its own id."""
        return [[b % self.vocabulary for b in t.encode()] for t in texts]

    def piece(self, token_id: int) -> bytes:
        """The number, in words of digits."""
        return f"{token_id} ".encode()
