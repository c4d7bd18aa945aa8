# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""From costs at a few sizes to the law they follow, its doubt, and the size at which it crosses a threshold.

Knows numpy. Must not know what was measured. Two laws are tried. Fixed cost and cost a token is how all of
this is made, so `affine` it is, unless the other, fitted without the largest size, comes much nearer to it:
a held-out test of the very thing that is asked of a law. (A power law through a fixed cost bends too low.)

    affine   y = a + b x        a constant and a linear part; weighted by 1/y, since errors are relative
    power    y = c x^p          a straight line in logarithms

Intervals are 95 % prediction intervals (Student's t, two parameters), so they widen with the distance from
the data; and they take in what the other law says where that is farther off, since the choice is a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from haloweave.bench.stats import Interval
from haloweave.errors import InvalidInput

FEWEST = 3
"""Sizes from which a law can be doubted: two always lie on a line."""
FARTHEST = 1e18
"""Where looking for a crossing ends; no counter here goes further."""
_MISSED, _NEARER = 0.1, 2.0
"""The affine law gives way if it misses by more than this, and so many times as much as the other."""
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t, 97.5 %, of 1 to 10 degrees of freedom; from then on the last is used, which is too wide."""
_STEPS = 200
_SMALL = 1e-12
_FLAT = 0.1
"""What grows by less than this share of the whole, from nothing to the largest size, is called flat."""

Law = Literal["affine", "power"]
Growth = Literal["flat", "less than linear", "linear", "worse than linear"]


@dataclass(frozen=True)
class Line:
    """Ordinary least squares of v on u, weighted: v = at + slope u. Axes: N sizes."""

    at: float
    slope: float
    covariance: Float64[np.ndarray, "2 2"]
    spread: float
    """Standard deviation of a weighted residual."""
    t: float

    @classmethod
    def of(
        cls, u: Float64[np.ndarray, " N"], v: Float64[np.ndarray, " N"], weight: Float64[np.ndarray, " N"]
    ) -> Line:
        """The line, of three points or more."""
        design = np.stack([np.ones_like(u), u], axis=1) * weight[:, None]
        scale = np.abs(design).max(axis=0)  # tokens go up to 1e6, costs down to 1e-6
        inverse = np.linalg.inv((design / scale).T @ (design / scale)) / np.outer(scale, scale)
        at, slope = inverse @ design.T @ (v * weight)
        freedom = max(len(u) - 2, 1)
        left = (v - at - slope * u) * weight
        spread = math.sqrt(float(left @ left) / freedom)
        t = _T[min(freedom, len(_T)) - 1]
        return cls(float(at), float(slope), inverse * spread**2, spread, t)

    def value(self, u: float) -> float:
        return self.at + self.slope * u

    def doubt(self, u: float, weight: float) -> float:
        """Half of the 95 % prediction interval of one more measurement."""
        there = np.array([1.0, u])
        return self.t * math.sqrt(float(there @ self.covariance @ there) + (self.spread / weight) ** 2)

    @property
    def slopes(self) -> Interval:
        half = self.t * math.sqrt(max(float(self.covariance[1, 1]), 0.0))
        return Interval(self.slope, self.slope - half, self.slope + half)


@dataclass(frozen=True)
class Fit:
    """Costs of one quantity at several sizes, and both laws through them."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    """The median at each size."""
    affine: Line
    power: Line
    law: Law
    missed: float
    """By what share the law, fitted without the largest size, missed the cost there."""

    @property
    def largest(self) -> float:
        return self.x[-1]

    @property
    def exponent(self) -> Interval:
        """Slope of the line in logarithms, whichever law is taken."""
        return self.power.slopes

    @property
    def per_unit(self) -> Interval:
        """Slope of the affine law: cost of one more unit of size."""
        return self.affine.slopes

    @property
    def constant(self) -> float:
        return self.affine.at

    def at(self, x: float) -> Interval:
        """The cost at a size: below 0 nothing can be."""
        affine, power = self._affine(x), self._power(x)
        first, other = (affine, power) if self.law == "affine" else (power, affine)
        low, high = min(first.low, other.mean), max(first.high, other.mean)
        return Interval(max(first.mean, 0.0), max(low, 0.0), max(high, 0.0))

    def beyond(self, x: float) -> float:
        """Orders of magnitude from the largest size measured to this one; 0 within the data."""
        return max(math.log10(x / self.largest), 0.0)

    @property
    def growth(self) -> Growth:
        """In one word: how it goes on far out, where a constant counts for nothing."""
        slope, exponent = self.per_unit, self.exponent
        share = self.affine.slope * self.largest / max(self.affine.value(self.largest), _SMALL)
        if self.law == "affine":
            return "flat" if slope.low <= 0 <= slope.high or abs(share) < _FLAT else "linear"
        if exponent.low <= 0 <= exponent.high:
            return "flat"
        if exponent.low <= 1 <= exponent.high:
            return "linear"
        return "less than linear" if exponent.mean < 1 else "worse than linear"

    def _affine(self, x: float) -> Interval:
        mean = self.affine.value(x)
        half = self.affine.doubt(x, 1 / max(abs(mean), _SMALL))
        return Interval(mean, mean - half, mean + half)

    def _power(self, x: float) -> Interval:
        u = math.log(x)
        mean, half = self.power.value(u), self.power.doubt(u, 1.0)
        return Interval(*(math.exp(min(v, 700.0)) for v in (mean, mean - half, mean + half)))


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Both laws through costs `y` at sizes `x`; several of one size count as their median.

    Raises InvalidInput for fewer than three sizes, or for sizes or costs that are not above 0.
    """
    if len(x) != len(y) or not all(math.isfinite(v) and v > 0 for v in (*x, *y)):
        raise InvalidInput(f"a law: expected sizes and costs above 0, one of each, got {x!r} and {y!r}")
    sizes = sorted(set(x))
    if len(sizes) < FEWEST:
        raise InvalidInput(f"a law: expected at least {FEWEST} sizes, got {len(sizes)}: measure at another")
    costs = [float(np.median([b for a, b in zip(x, y, strict=True) if a == size])) for size in sizes]
    affine, power = _lines(sizes, costs)
    misses = _misses(sizes, costs)
    bends = misses["affine"] > max(_MISSED, _NEARER * misses["power"])
    law: Law = "power" if bends else "affine"
    return Fit(tuple(sizes), tuple(costs), affine, power, law, misses[law])


def _lines(x: Sequence[float], y: Sequence[float]) -> tuple[Line, Line]:
    u, v = np.array(x, np.float64), np.array(y, np.float64)
    return Line.of(u, v, 1 / v), Line.of(np.log(u), np.log(v), np.ones_like(v))


def _misses(x: Sequence[float], y: Sequence[float]) -> dict[Law, float]:
    """Share by which each law misses the largest size, told only the smaller ones."""
    affine, power = _lines(x[:-1], y[:-1])
    said = {"affine": affine.value(x[-1]), "power": math.exp(min(power.value(math.log(x[-1])), 700.0))}
    return {"affine": abs(said["affine"] / y[-1] - 1), "power": abs(said["power"] / y[-1] - 1)}


# ---- thresholds ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Threshold:
    """A cost that should not be exceeded, and what would be done about it."""

    metric: str
    level: float
    said: str
    """What breaks, for people."""
    remedy: str


@dataclass(frozen=True)
class Crossing:
    """The size at which a threshold is crossed; infinite where it never is."""

    threshold: Threshold
    size: float
    low: float
    """Where the upper end of the interval crosses: no earlier than that."""
    high: float
    beyond: float
    """Orders of magnitude from the largest size measured; 0 if it was seen."""


def crossing(found: Fit, threshold: Threshold) -> Crossing:
    """Where a law crosses a threshold."""
    size, low, high = (
        _solved(found, threshold.level, end) for end in (lambda i: i.mean, lambda i: i.high, lambda i: i.low)
    )
    beyond = found.beyond(size) if math.isfinite(size) else math.inf
    return Crossing(threshold, size, low, high, beyond)


def _solved(found: Fit, level: float, end: Callable[[Interval], float]) -> float:
    """The smallest size, from 1 on, from which a curve that rises is at or above `level`."""
    low, high = 0.0, math.log10(FARTHEST)
    if end(found.at(FARTHEST)) < level:
        return math.inf
    if end(found.at(1.0)) >= level:
        return 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if end(found.at(10.0**middle)) >= level else (middle, high)
    return float(10.0**high)
