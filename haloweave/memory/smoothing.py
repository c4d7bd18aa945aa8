# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Means over neighbours. Knows numbers only."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def smoothed(x: np.ndarray, width: int) -> Float64[np.ndarray, " S"]:
    """Mean over `width` neighbours (odd); at the ends over those that exist."""
    half = width // 2
    total = np.concatenate([[0.0], np.cumsum(x, dtype=np.float64)])
    slots = np.arange(len(x))
    low, high = np.maximum(slots - half, 0), np.minimum(slots + half + 1, len(x))
    mean: np.ndarray = (total[high] - total[low]) / (high - low)
    return mean
