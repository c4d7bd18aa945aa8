# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How far what one side expects next lies from what the other expects.

Knows numpy. Must not know minds. Axes: V vocabulary, N tokens said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64


@dataclass(frozen=True)
class Drift:
    """Along one text, token by token, before each of them is heard."""

    kl: Float64[np.ndarray, " N"]
    """KL(full || arm), nats."""
    top1: Bool[np.ndarray, " N"]
    """Whether both think the same token likeliest."""


def kl(full: Float64[np.ndarray, " V"], arm: Float64[np.ndarray, " V"]) -> float:
    """KL(full || arm) in nats, of two rows of log-probabilities: what it costs to expect `arm`'s next token
    where `full`'s comes (Kullback & Leibler 1951). What `full` never says (p = 0) costs nothing."""
    p = np.exp(full)
    possible = p > 0
    return max(0.0, float((p[possible] * (full[possible] - arm[possible])).sum()))
