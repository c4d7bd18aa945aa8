# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Who dies. Brightness says how dim a token is; a cull policy turns that into a choice.

Knows tokens and the laws. Must not know attention, edits or text. Deterministic: ties fall to the
older slot, never to a random number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Bool, Float64, Int64

from haloweave.errors import InvalidInput
from haloweave.memory.laws import Laws, hollow_turns
from haloweave.memory.smoothing import smoothed
from haloweave.memory.tokens import NO_UNIT, Source, Tokens, View


@dataclass(frozen=True)
class CullChoice:
    """Tokens that shall die, whole units only."""

    uids: Int64[np.ndarray, " N"]
    reason: str

    def __len__(self) -> int:
        return len(self.uids)


class CullPolicy(Protocol):
    """A view in, the dead out."""

    def choose(self, view: View, n: int) -> CullChoice:
        """At least `n` tokens to cull where the laws allow it (more if a unit is larger), else fewer."""
        ...


@dataclass(frozen=True)
class DimmestFirst:
    """The dimmest die first; the biases shape where the darkness spreads.

    Priority = brightness, smoothed over `smooth` neighbours, minus `run` x log(1 + length of the dark run
    it stands in), plus `entropy` x local entropy of the token ids (negative: disorder dies first),
    minus `age` x log(1 + age in tokens). A unit stands as bright as its tokens do on average; a hollow
    turn as bright as the markers in it, or, if there are none, it goes before all others.
    """

    laws: Laws = field(default_factory=Laws)
    smooth: int = 1
    """Odd number of neighbours averaged. 1 while rows are dropped live; 15 where text will be re-read."""
    run: float = 0.0
    dark: float = 48.0
    """Brightness below which a token belongs to a dark run."""
    entropy: float = 0.0
    entropy_window: int = 9
    age: float = 0.0
    units: Literal["mean", "max"] = "mean"
    """Whether a unit stands as bright as its tokens on average, or as the brightest of them."""

    def __post_init__(self) -> None:
        if self.smooth < 1 or self.smooth % 2 == 0 or self.entropy_window < 1:
            raise InvalidInput(f"smooth: expected an odd count >= 1, entropy_window >= 1, got {self}")
        if not np.all(np.isfinite([self.run, self.entropy, self.age, self.dark])):
            raise InvalidInput(f"biases: expected finite numbers, got {self}")

    def choose(self, view: View, n: int) -> CullChoice:
        if n < 0:
            raise InvalidInput(f"n: expected a count >= 0, got {n}")
        tokens = view.tokens
        rows = np.flatnonzero(self.eligible(tokens))
        if not n or not len(rows):
            return CullChoice(np.empty(0, np.int64), "nothing to cull")
        turn = hollow_turns(tokens)
        together = np.where(turn != NO_UNIT, turn, tokens.unit)
        member, light = _items(together[rows], self.priority(view)[rows], mean=self.units == "mean")
        size = np.bincount(member)
        order = np.argsort(light, kind="stable")
        taken = order[: int(np.searchsorted(np.cumsum(size[order]), n)) + 1]
        dead = np.zeros(len(size), np.bool_)
        dead[taken] = True
        return CullChoice(tokens.uid[rows[dead[member]]], "dimmest")

    def eligible(self, tokens: Tokens) -> Bool[np.ndarray, " S"]:
        """Slots that may die at all: markers and control tokens only with their whole, hollow turn."""
        fixed = self.laws.untouchable(tokens)
        turn = hollow_turns(tokens)
        stays = np.isin(turn, turn[fixed & (turn != NO_UNIT)]) | (turn == NO_UNIT)
        scaffold = (tokens.source == Source.CONTROL) | (tokens.source == Source.MARKER)
        return np.asarray(~fixed & ~(scaffold & stays))

    def priority(self, view: View) -> Float64[np.ndarray, " S"]:
        """Lowest dies first."""
        tokens = view.tokens
        score = tokens.brightness.astype(np.float64)
        control = tokens.source == Source.CONTROL
        if self.smooth > 1:
            said = (~control).astype(np.float64)
            score = smoothed(score * said, self.smooth) / np.maximum(smoothed(said, self.smooth), 1e-9)
        if self.run:
            score -= self.run * np.log1p(dark_run(tokens.brightness < self.dark))
        if self.entropy:
            score += self.entropy * local_entropy(tokens.token_id, self.entropy_window)
        if self.age:
            score -= self.age * np.log1p(np.maximum(view.next_uid - tokens.uid, 0))
        score[control] = -np.inf
        return score


def _items(unit: np.ndarray, score: np.ndarray, *, mean: bool) -> tuple[np.ndarray, np.ndarray]:
    """Group rows into what dies together: for each row its item, for each item the mean of its finite scores
    or the highest (-inf: it has none).

    Items are numbered by their first row, so that a stable sort breaks ties by age.
    """
    key = np.where(unit == NO_UNIT, -1 - np.arange(len(unit), dtype=np.int64), unit.astype(np.int64))
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    member = rank[index]
    light = np.full(len(first), -np.inf)
    if mean:
        lit = np.isfinite(score)
        count = np.bincount(member[lit], minlength=len(first))
        total = np.bincount(member[lit], score[lit], minlength=len(first))
        np.divide(total, count, out=light, where=count > 0)
    else:
        np.maximum.at(light, member, score)
    return member, light


def runs(mask: Bool[np.ndarray, " S"]) -> list[tuple[int, int]]:
    """Start and stop of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def dark_run(dark: Bool[np.ndarray, " S"]) -> Int64[np.ndarray, " S"]:
    """For each slot the length of the dark run it stands in; 0 where it is not dark."""
    lengths = np.zeros(len(dark), np.int64)
    for start, stop in runs(dark):
        lengths[start:stop] = stop - start
    return lengths


def local_entropy(token_id: np.ndarray, window: int) -> Float64[np.ndarray, " S"]:
    """Shannon entropy (nats) of the token ids in the `window` slots around each slot."""
    if not len(token_id):
        return np.empty(0, np.float64)
    half = window // 2
    padded = np.concatenate([np.full(half, -1), token_id.astype(np.int64), np.full(window - half - 1, -1)])
    around = np.lib.stride_tricks.sliding_window_view(padded, window)
    real = around >= 0
    same = ((around[:, :, None] == around[:, None, :]) & real[:, None, :]).sum(axis=2)
    share = same / real.sum(axis=1, keepdims=True)
    entropy: np.ndarray = -np.where(real, np.log(np.where(real, share, 1.0)), 0.0).sum(axis=1)
    return np.asarray(entropy / real.sum(axis=1))
