# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Numbers with their doubt: paired bootstrap intervals, and the facts of the machine they were made on.

Knows numpy. Must not know minds or models.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import psutil


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def json(self) -> list[float]:
        return [round(self.mean, 5), round(self.low, 5), round(self.high, 5)]


def paired(a: np.ndarray, b: np.ndarray, weights: np.ndarray, draws: int = 2000, seed: int = 0) -> Interval:
    """Weighted mean of a - b over pairs, with a percentile bootstrap interval over the pairs."""
    rng = np.random.default_rng(seed)
    pick = rng.integers(0, len(a), (draws, len(a)))
    gap = (a - b) * weights
    means = gap[pick].sum(axis=1) / weights[pick].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(gap.sum() / weights.sum()), float(low), float(high))


def resident_mb() -> float:
    """Resident memory of this process, MB."""
    return float(psutil.Process().memory_info().rss / 1e6)


def facts() -> dict[str, Any]:
    """What has to be known to read a number."""
    import torch

    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "transformers": version("transformers"),
        "haloweave": version("haloweave"),
    }
