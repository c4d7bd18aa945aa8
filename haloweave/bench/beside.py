# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Repair beside decoding: what a repairer proposes a second meanwhile, and what that costs the decoding.

Runs alternate between decoding alone and decoding with a worker that repairs without end, at the share of
time it would have in a living mind; so a machine whose speed drifts slows both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from haloweave import build
from haloweave.bench.decode import fill, spoken
from haloweave.repair.base import Repairer, RepairWindow
from haloweave.settings import Settings


@dataclass(frozen=True)
class Beside:
    """Tokens a second; lists hold one figure a run. Latencies are seconds a window, under decoding."""

    repairer: str
    alone: list[float]
    together: list[float]
    proposed: list[float]
    """Tokens proposed a second, while decoding."""
    latencies: list[float] = field(repr=False)

    @property
    def slowdown(self) -> float:
        """Share of decoding speed lost: median of the pairwise ratios."""
        return 1.0 - float(np.median(np.array(self.together) / np.array(self.alone)))

    @property
    def keeps_up(self) -> float:
        """Tokens proposed for each one decoded meanwhile."""
        return float(np.median(np.array(self.proposed) / np.array(self.together)))

    def latency(self, share: float) -> float:
        """A quantile of the latencies, seconds a window."""
        return float(np.quantile(self.latencies, share)) if self.latencies else float("nan")


def scarred(
    ids: np.ndarray, count: int, *, size: int = 64, hot: int = 24, seed: int = 0
) -> list[RepairWindow]:
    """Windows as a mind has them after a cull: every third token of a text is gone, and `hot` of the others,
    in the middle, are dim."""
    rng = np.random.default_rng(seed)
    windows = []
    for i in range(count):
        start = (i * 2 * size) % max(len(ids) - 2 * size, 1)
        text = np.delete(ids[start : start + 2 * size], np.s_[::3])[:size]
        heat = np.zeros(len(text), np.float32)
        middle = slice((len(text) - hot) // 2, (len(text) + hot) // 2)
        heat[middle] = rng.uniform(0.5, 1.0, len(heat[middle]))
        windows.append(RepairWindow.of(text, heat))
    return windows


class _Busy:
    """A thread that repairs without end, at a pace."""

    def __init__(self, repairer: Repairer, windows: Sequence[RepairWindow], batch: int, pace: float) -> None:
        self._repairer, self._windows, self._batch, self._pace = repairer, windows, batch, pace
        self._over = threading.Event()
        self.proposed = 0
        self.latencies: list[float] = []
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Busy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        if self.failed is not None:
            raise self.failed

    def _run(self) -> None:
        at = 0
        try:
            while not self._over.is_set():
                some = [self._windows[(at + i) % len(self._windows)] for i in range(self._batch)]
                at += self._batch
                began = time.perf_counter()
                found = self._repairer.propose(some)
                took = time.perf_counter() - began
                self.proposed += sum(len(p.uid) for p in found)
                self.latencies.append(took / len(some))
                self._over.wait(took * (1 / self._pace - 1))
        except BaseException as err:  # noqa: BLE001  (raised again where it is waited for)
            self.failed = err


def beside(
    loaded: Any,
    s: Settings,
    repairer: Repairer,
    windows: Sequence[RepairWindow],
    *,
    name: str,
    rows: int = 512,
    tokens: int = 48,
    runs: int = 5,
    batch: int = 4,
) -> Beside:
    """Decode `tokens` tokens at `rows` rows, alone and beside the repairer, `runs` times each."""
    room = rows + 2 * tokens * (runs + 1) + 1
    mind = build.mind_of(s.model_copy(update={"budget": room, "tail": 0.0}), loaded)
    vocabulary = mind.engine.capabilities.vocabulary
    fill(mind, np.random.default_rng(0).integers(100, vocabulary - 100, rows))
    found = Beside(name, [], [], [], [])
    for run in range(runs + 1):
        alone = spoken(mind, tokens)
        with _Busy(repairer, windows, batch, s.repair_pace) as busy:
            began = time.perf_counter()
            together = spoken(mind, tokens)
            rate = busy.proposed / (time.perf_counter() - began)
        if run:
            found.alone.append(alone)
            found.together.append(together)
            found.proposed.append(rate)
            found.latencies.extend(busy.latencies)
    return found
