# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Brightness: attention feeds a token, time dims it.

Knows tokens and what attention saw of them. Must not know the model, the clock, or who dies. A
policy is a frozen dataclass whose fields are its whole configuration; `update` is a pure function,
so all that a policy remembers of a token must be readable from its brightness and its age
(`next_uid - uid`, in tokens: the uid is a counter).

Sources: halo is a bias-corrected exponential average of value-weighted attention, the others are
baselines: StreamingLLM (arXiv 2309.17453), H2O (2306.14048), TOVA (2401.06104), SnapKV (2404.14469).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64

from haloweave.errors import InvalidInput
from haloweave.memory.smoothing import smoothed
from haloweave.memory.tokens import FULL, SINKS, AttentionSample, Source, View

TYPICAL = 3.0
"""Nats that a token of English tells a small model, roughly: one that tells as many is born as bright as its
source."""
_SURPRISE = (0.05, 5.0)
"""Fewest and most times as much as is typical that surprise counts: no misprint is worth a hundred words."""
_ALMOST_FULL = float(np.nextafter(np.float32(FULL), np.float32(0)))


class BrightnessPolicy(Protocol):
    """Attention in, brightness out."""

    def birth(self, source: Source) -> float:
        """Brightness of a newborn token of this source, 0..255."""
        ...

    def update(self, view: View, sample: AttentionSample) -> Float32[np.ndarray, " S"]:
        """Brightness of every slot after `sample`; `view` already holds the tokens that were fed."""
        ...


@runtime_checkable
class Curious(BrightnessPolicy, Protocol):
    """A policy that may want to know how surprising each token was when it was read."""

    @property
    def surprise(self) -> float:
        """0: it does not."""
        ...


def curious(policy: BrightnessPolicy) -> bool:
    """Whether samples for this policy need `nats`."""
    return isinstance(policy, Curious) and policy.surprise > 0


def to_brightness(score: np.ndarray) -> Float32[np.ndarray, " S"]:
    """Score 0..inf to 0..255, monotone: 1 (average attention) is half bright, 3 is 191."""
    return np.asarray(FULL * (score / (1.0 + score)), np.float32)


def to_score(brightness: np.ndarray) -> Float64[np.ndarray, " S"]:
    """Inverse of `to_brightness`; 255 itself becomes the largest finite score."""
    b = np.minimum(brightness, _ALMOST_FULL, dtype=np.float64)
    return np.asarray(b / (FULL - b))


def seen(rows: int, queries: int) -> Int64[np.ndarray, " S"]:
    """How many of the last `queries` slots' queries could look at each slot (causal mask)."""
    return np.minimum(queries, rows - np.arange(rows, dtype=np.int64))


def relative(mass: Float32[np.ndarray, " S"], queries: int) -> Float64[np.ndarray, " S"]:
    """Attention per query that could see the slot, as a multiple of the mean over non-sink slots.

    Plain attention is about 1/n and so fades as the context grows; this does not. Sinks get 0.
    """
    per_query = mass / seen(len(mass), queries)
    per_query[:SINKS] = 0.0
    mean = per_query.sum() / max(len(mass) - SINKS, 1)
    return np.asarray(per_query / mean) if mean > 0 else per_query


@dataclass(frozen=True)
class SourceRule:
    """How tokens of one source are born, fed and dimmed."""

    birth: float = 160.0
    """Brightness at birth, 0..255."""
    gain: float = 1.0
    """Factor on the attention received."""
    half_life: float = 512.0
    """Tokens after which evidence counts half."""
    prior: float = 1.0
    """Factor on the weight of the brightness at birth. What a person says is worth remembering; of a text
    that is read, what helps to foresee its next word is worth more."""
    spread: int = 1
    """Neighbours of one pass, an odd number, over which surprise is averaged: above 1, what said something
    new lives on with the words around it."""

    def __post_init__(self) -> None:
        _expect("birth", self.birth, 0 <= self.birth <= FULL)
        _expect("gain", self.gain, self.gain >= 0)
        _expect("half_life", self.half_life, self.half_life > 0)
        _expect("prior", self.prior, self.prior >= 0)
        _expect("spread", self.spread, self.spread >= 1 and self.spread % 2 == 1)


def _expect(field: str, value: int | float, fits: bool) -> None:
    """Raises InvalidInput unless `value` is a finite number that fits."""
    if not (np.isfinite(value) and fits):
        raise InvalidInput(f"{field}: {value} is out of range")


RULES: Mapping[Source, SourceRule] = {
    Source.SYSTEM: SourceRule(birth=224.0, half_life=2048.0),
    Source.USER: SourceRule(birth=192.0, half_life=1024.0, prior=16.0, spread=11),
    Source.MODEL: SourceRule(),
    Source.TOOL: SourceRule(birth=128.0, half_life=256.0),
    Source.LOG: SourceRule(birth=96.0, half_life=512.0, prior=16.0),
    Source.MEMORY: SourceRule(birth=192.0),
    Source.MARKER: SourceRule(birth=64.0, half_life=256.0),
    Source.CONTROL: SourceRule(birth=FULL),
    Source.TEXT: SourceRule(birth=192.0, half_life=1024.0),
}
"""Logs fade fast, the person's words slowly, and of both what was news stays (docs/lab-notes.md)."""


def _by_source(rules: Mapping[Source, SourceRule], name: str) -> Float64[np.ndarray, " sources"]:
    return np.array([getattr(rules.get(s, SourceRule()), name) for s in Source], np.float64)


@dataclass(frozen=True)
class Halo:
    """Exponential average of relative, value-weighted attention, with the birth brightness as a prior.

    The score of a token after n queries is a weighted mean of its birth (weight `prior * decay**n`, times
    its source's own `prior`) and of what each query paid it (weight `decay**age`), so a newborn starts at
    its source's brightness, blends evidence in, and carries no bias from having been seen by few queries.
    """

    rules: Mapping[Source, SourceRule] = field(default_factory=lambda: RULES)
    prior: float = 32.0
    """Weight of the brightness at birth, in queries."""
    value_weighted: bool = True
    surprise: float = 1.0
    """How far the brightness at birth follows from what a token tells: times (nats / TYPICAL) to this power.
    0: not at all, and nobody has to reckon it."""

    def __post_init__(self) -> None:
        _expect("prior", self.prior, self.prior >= 0)
        _expect("surprise", self.surprise, 0 <= self.surprise <= 4)

    def birth(self, source: Source) -> float:
        return self.rules.get(source, SourceRule()).birth

    @cached_property
    def _log_decay(self) -> Float64[np.ndarray, " sources"]:
        return np.asarray(-np.log(2.0) / _by_source(self.rules, "half_life"))

    @cached_property
    def _gain(self) -> Float64[np.ndarray, " sources"]:
        return _by_source(self.rules, "gain")

    @cached_property
    def _prior(self) -> Float64[np.ndarray, " sources"]:
        return np.asarray(self.prior * _by_source(self.rules, "prior"))

    def update(self, view: View, sample: AttentionSample) -> Float32[np.ndarray, " S"]:
        tokens, sample = view.tokens, sample.of(view)
        mass = sample.value_mass if self.value_weighted else sample.mass
        evidence = self._gain[tokens.source] * relative(mass, sample.queries)
        age = np.maximum(view.next_uid - tokens.uid, 1)
        q = np.minimum(sample.queries, age)
        log_decay = self._log_decay[tokens.source]
        per_query = -1.0 / np.expm1(log_decay)
        prior = self._prior[tokens.source]
        before = _weight(age - q, log_decay, per_query, prior)
        after = _weight(age, log_decay, per_query, prior)
        fresh = per_query * -np.expm1(q * log_decay)
        score = np.exp(q * log_decay) * before * self._told(view, sample) + fresh * evidence
        return to_brightness(score / after)

    def _told(self, view: View, sample: AttentionSample) -> Float64[np.ndarray, " S"]:
        """Scores so far; of the tokens just read, by their source and by how surprising they were."""
        score = to_score(view.tokens.brightness)
        if self.surprise and sample.nats is not None:
            born = slice(len(score) - len(sample.nats), None)
            score[born] *= self._news(view.tokens.source[born], sample.nats) ** self.surprise
        return score

    def _news(self, source: np.ndarray, nats: np.ndarray) -> Float64[np.ndarray, " Q"]:
        """Surprise as a multiple of what is typical, spread over neighbours of the same source."""
        share: np.ndarray = np.clip(nats.astype(np.float64) / TYPICAL, *_SURPRISE)
        for one in np.unique(source).tolist():
            width = self.rules.get(Source(one), SourceRule()).spread
            if width > 1:
                theirs = source == one
                share[theirs] = smoothed(share[theirs], width)
        return share


def _weight(n: np.ndarray, log_decay: np.ndarray, per_query: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Total weight of the birth and n queries: prior * d^n + (1 - d^n) / (1 - d)."""
    faded: np.ndarray = np.exp(n * log_decay)
    weight: np.ndarray = prior * faded + per_query * (1.0 - faded)
    return weight


@dataclass(frozen=True)
class Linear:
    """The original rule: b += gain * attention - decay, clamped to 0..255; attention is relative mass."""

    rules: Mapping[Source, SourceRule] = field(default_factory=lambda: RULES)
    gain: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        _expect("gain", self.gain, self.gain >= 0)
        _expect("decay", self.decay, self.decay >= 0)

    def birth(self, source: Source) -> float:
        return FULL

    @cached_property
    def _gain(self) -> Float64[np.ndarray, " sources"]:
        return self.gain * _by_source(self.rules, "gain")

    @cached_property
    def _decay(self) -> Float64[np.ndarray, " sources"]:
        """Sources with a short half-life lose more per tick."""
        return self.decay * 512.0 / _by_source(self.rules, "half_life")

    def update(self, view: View, sample: AttentionSample) -> Float32[np.ndarray, " S"]:
        source, sample = view.tokens.source, sample.of(view)
        step = self._gain[source] * relative(sample.mass, sample.queries) - self._decay[source]
        q = seen(len(source), sample.queries)
        return np.asarray(np.clip(view.tokens.brightness + q * step, 0.0, FULL), np.float32)


@dataclass(frozen=True)
class Window:
    """Sinks + recent: the newest token is brightest, whatever attention says (StreamingLLM)."""

    def birth(self, source: Source) -> float:
        return FULL

    def update(self, view: View, sample: AttentionSample) -> Float32[np.ndarray, " S"]:
        rows = len(sample.of(view).mass)
        return (FULL * np.arange(1, rows + 1) / rows).astype(np.float32)


@dataclass(frozen=True)
class H2O:
    """Heavy hitters: plain attention summed over a token's whole life.

    Stored logarithmically, since a sum has no ceiling: e**-20..e**20 spans 0..255.
    """

    span: float = 20.0

    def __post_init__(self) -> None:
        _expect("span", self.span, 0 < self.span <= 300)

    def birth(self, source: Source) -> float:
        return 0.0

    def update(self, view: View, sample: AttentionSample) -> Float32[np.ndarray, " S"]:
        stored = view.tokens.brightness.astype(np.float64)
        total = np.exp((stored / FULL * 2.0 - 1.0) * self.span) + sample.of(view).mass
        level = np.log(np.maximum(total, 1e-300)) / self.span
        return np.asarray(FULL * np.clip((level + 1.0) / 2.0, 0.0, 1.0), np.float32)


@dataclass(frozen=True)
class Tova:
    """Only the last query votes."""

    def birth(self, source: Source) -> float:
        return FULL

    def update(self, view: View, sample: AttentionSample) -> Float32[np.ndarray, " S"]:
        return to_brightness(relative(sample.of(view).last, 1))


@dataclass(frozen=True)
class SnapKV:
    """The last `window` queries vote, and each vote is shared with the neighbours (max over `kernel`).

    Where a pass has fewer queries than the window, their votes join an average of that horizon.
    """

    window: int = 64
    kernel: int = 7

    def __post_init__(self) -> None:
        _expect("window", self.window, self.window >= 1)
        _expect("kernel", self.kernel, self.kernel >= 1 and self.kernel % 2 == 1)

    def birth(self, source: Source) -> float:
        return 0.0

    def update(self, view: View, sample: AttentionSample) -> Float32[np.ndarray, " S"]:
        vote = relative(sample.of(view).mass, sample.queries)
        share = min(sample.queries / self.window, 1.0)
        if share == 1.0:
            return to_brightness(_max_pool(vote, self.kernel))
        return to_brightness((1.0 - share) * to_score(view.tokens.brightness) + share * vote)


def _max_pool(x: np.ndarray, kernel: int) -> np.ndarray:
    half = kernel // 2
    padded = np.pad(x, half, mode="edge")
    pooled: np.ndarray = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1).max(axis=1)
    return pooled


@dataclass(frozen=True)
class Random:
    """A fixed lot drawn for each uid: the floor that any policy has to beat."""

    seed: int = 0

    def birth(self, source: Source) -> float:
        return FULL

    def update(self, view: View, sample: AttentionSample) -> Float32[np.ndarray, " S"]:
        sample.of(view)
        return (FULL * _lot(view.tokens.uid, self.seed)).astype(np.float32)


def _lot(uid: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64 of (uid, seed), as 0..1: counter-based, so no hidden state and no order of calls."""
    x = uid.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    with np.errstate(over="ignore"):
        x = x * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x >> np.uint64(11)).astype(np.float64) / 2.0**53
