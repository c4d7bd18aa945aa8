# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Logits to a token, the same for every engine.

Knows numpy. Must not know models or text. Randomness is counter-based: a token depends on (seed, tick)
and the logits alone, never on how many were drawn before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64, Int32

from haloweave.errors import EngineFault, InvalidInput


@dataclass(frozen=True)
class Sampling:
    """How to choose a token. Filters apply in the order of the fields; temperature 0 takes the best."""

    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids; -inf forbids one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of recent tokens (CTRL, arXiv 1909.05858)."""
    repetition_window: int = 128
    temperature: float = 0.7
    top_k: int = 0
    """Keep the k best; 0 keeps all."""
    top_p: float = 0.95
    """Keep the fewest tokens that hold this much probability (nucleus)."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the best one."""
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end a turn; the mind watches for them."""

    def __post_init__(self) -> None:
        numbers = [self.temperature, self.top_p, self.min_p, self.repetition_penalty]
        if not np.all(np.isfinite(numbers)) or any(
            np.isnan(b) or b == np.inf for b in self.logit_bias.values()
        ):
            raise InvalidInput(f"sampling: expected finite numbers, got {self}")
        if (
            self.temperature < 0
            or self.top_k < 0
            or self.repetition_window < 0
            or self.repetition_penalty <= 0
        ):
            raise InvalidInput(f"sampling: expected temperature, top_k >= 0 and a penalty > 0, got {self}")
        if not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
            raise InvalidInput(f"sampling: expected 0 < top_p <= 1 and 0 <= min_p <= 1, got {self}")
        if any(not s for s in self.stop):
            raise InvalidInput("sampling: a stop string may not be empty")


def sample(
    logits: Float32[np.ndarray, " V"], recent: Int32[np.ndarray, " R"], how: Sampling, tick: int
) -> int:
    """One token id. `recent` are the ids before it, newest last.

    Raises EngineFault if no logit is finite, InvalidInput for a bias on an id outside the vocabulary.
    """
    scores = _biased(logits.astype(np.float64), recent, how)
    best = int(np.argmax(scores))
    if not np.isfinite(scores[best]):
        raise EngineFault("sampling: no finite logit is left to choose from")
    if how.temperature == 0:
        return best
    with np.errstate(over="ignore"):
        hot = (scores - scores[best]) / how.temperature
    ids, p = _nucleus(hot, how)
    draw = np.random.Generator(np.random.Philox(key=how.seed % 2**64, counter=[0, 0, 0, tick])).random()
    return int(ids[min(int(np.searchsorted(np.cumsum(p), draw * p.sum(), side="right")), len(ids) - 1)])


def _biased(scores: np.ndarray, recent: np.ndarray, how: Sampling) -> Float64[np.ndarray, " V"]:
    for token_id, bias in how.logit_bias.items():
        if not 0 <= token_id < len(scores):
            raise InvalidInput(f"logit_bias: token id {token_id} outside 0..{len(scores) - 1}")
        scores[token_id] += bias
    if how.repetition_penalty != 1.0 and how.repetition_window and len(recent):
        ids = np.unique(recent[-how.repetition_window :])
        if ids[0] < 0 or ids[-1] >= len(scores):
            raise InvalidInput(f"recent ids: expected 0..{len(scores) - 1}, got {ids[0]}..{ids[-1]}")
        s = scores[ids]
        scores[ids] = np.where(s > 0, s / how.repetition_penalty, s * how.repetition_penalty)
    return scores


def _nucleus(scores: np.ndarray, how: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """The ids that may be drawn, likeliest first (ties: lower id first), and their weights."""
    weights = np.exp(scores)
    ids = np.flatnonzero(weights > 0.0)
    p = weights[ids]
    if how.top_k and len(ids) > how.top_k:
        candidates = np.flatnonzero(p >= np.partition(p, -how.top_k)[-how.top_k])
        chosen = candidates[np.argsort(-p[candidates], kind="stable")[: how.top_k]]
        ids, p = ids[chosen], p[chosen]
    total = p.sum()
    if how.top_p < 1.0:
        # All tokens below this floor together weigh less than 1 - top_p, so none is in the nucleus:
        # what must be sorted shrinks from the vocabulary to a few hundred.
        possible = p >= (1.0 - how.top_p) * total / len(p)
        ids, p = ids[possible], p[possible]
    order = np.argsort(-p, kind="stable")
    ids, p = ids[order], p[order]
    if how.top_p < 1.0:
        size = max(int(np.searchsorted(np.cumsum(p) - p, how.top_p * total, side="left")), 1)
        ids, p = ids[:size], p[:size]
    likely = p >= how.min_p * p[0]
    return ids[likely], p[likely]


def log_softmax(logits: Float32[np.ndarray, " V"]) -> Float64[np.ndarray, " V"]:
    """Log-probabilities (nats) of logits, in double precision."""
    wide = logits.astype(np.float64) - float(logits.max())
    return np.asarray(wide - np.log(np.exp(wide).sum()))
