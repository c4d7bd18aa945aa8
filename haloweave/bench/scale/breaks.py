# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What breaks first, as a past grows: thresholds, the laws of what was measured, and where they cross.

Knows records and laws. Must not know tables or pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from haloweave.bench.memory.record import Record
from haloweave.bench.scale.extrapolate import FEWEST, Crossing, Fit, Threshold, crossing, fit
from haloweave.bench.scale.measure import METRICS, TASK

DECADES = (1e6, 1e7, 1e8, 1e9)
"""Tokens of history that are spelt out."""
_GB = 1e9

_NO_LAW = ("shares", "clock", "minds", "machine")
"""Arms whose numbers are means, are disturbed by other work, or do not depend on a size."""

_INDEX = "ask so that the index of rare records serves (measured: milliseconds)"
_BYTES = "vectors in 8 bits in memory, as they are on disk: a quarter"
_NEAR = "an approximate index over the vectors (IVF, HNSW), 16 to 64 times less to compare"
_MAPPED = "vectors mapped from a file, and an index that is kept"
_SEGMENTS = "an archive cut by time: old segments never change, are copied, shared and redacted one by one"

THRESHOLDS: Sequence[Threshold] = (
    Threshold("search_p95_ms", 50.0, "a search takes 50 ms (p95)", _BYTES),
    Threshold("search_p95_ms", 1e3, "a search takes 1 s (p95)", _NEAR),
    Threshold("words_p95_ms", 1e3, "a search by words alone takes 1 s (p95)", _SEGMENTS),
    Threshold("first_search_s", 2.0, "the first search after waking takes 2 s", _BYTES),
    Threshold("first_search_s", 60.0, "the first search after waking takes 1 minute", _MAPPED),
    Threshold("search_peak_mb", 1e3, "the first search takes 1 GB of memory", _BYTES),
    Threshold("search_peak_mb", 8e3, "the first search takes 8 GB of memory", _MAPPED),
    Threshold("open_ms", 2e3, "opening a journal that was read takes 2 s", _INDEX),
    Threshold("spoken_open_ms", 2e3, "opening a journal that was spoken takes 2 s", _INDEX),
    Threshold("thin_ms", 100.0, "a snapshot of a mind that reads stops decoding for 100 ms", _INDEX),
    Threshold("spoken_thin_ms", 100.0, "a snapshot of a mind that speaks stops decoding for 100 ms", _INDEX),
    Threshold("backup_s", 60.0, "a backup takes 1 minute", _SEGMENTS),
    Threshold("fork_s", 60.0, "a fork takes 1 minute", _SEGMENTS),
    Threshold("redact_s", 60.0, "a redaction takes 1 minute", _SEGMENTS),
    Threshold("redact_s", 3600.0, "a redaction takes 1 hour", _SEGMENTS),
    Threshold(
        "redact_peak_mb", 8e3, "a redaction takes 8 GB of memory (VACUUM)", "VACUUM INTO a file, or segments"
    ),
    Threshold("bytes", 10 * _GB, "the database takes 10 GB", _SEGMENTS),
    Threshold("bytes", 100 * _GB, "the database takes 100 GB", "cold segments on another disk, packed"),
)
"""What should not be exceeded, and what would be done then."""


@dataclass(frozen=True)
class Curve:
    """Costs of one metric at their sizes, of one case."""

    metric: str
    x: tuple[float, ...]
    y: tuple[float, ...]

    @property
    def fit(self) -> Fit:
        """Raises InvalidInput for fewer than three sizes."""
        return fit(self.x, self.y)


def curves(
    records: Iterable[Record], cases: Sequence[str] = ("history", "spoken", "tiny")
) -> dict[str, Curve]:
    """Those with an x, by metric, in the order of METRICS."""
    points: dict[str, list[tuple[float, float]]] = {}
    for r in records:
        if r.x is not None and r.case in cases:
            points.setdefault(r.metric, []).append((r.x, r.value))
    found = {m: sorted(points[m]) for m in METRICS if m in points}
    return {m: Curve(m, tuple(x for x, _ in at), tuple(y for _, y in at)) for m, at in found.items()}


def fits(found: Mapping[str, Curve]) -> dict[str, Fit]:
    """Laws of all that grow with history or rows, and were measured at three sizes or more."""
    told = {}
    for metric, curve in found.items():
        if METRICS[metric].arm not in _NO_LAW and len(set(curve.x)) >= FEWEST:
            told[metric] = curve.fit
    return told


def breaks(found: Mapping[str, Fit], thresholds: Sequence[Threshold] = THRESHOLDS) -> list[Crossing]:
    """What is crossed, the first first; what has no law is left out."""
    crossed = [crossing(found[t.metric], t) for t in thresholds if t.metric in found]
    return sorted(crossed, key=lambda c: (c.size, c.low))


def numbered(found: Mapping[str, Fit]) -> Iterator[Record]:
    """Slopes, exponents and decades as records, for other programs."""
    for metric, law in found.items():
        arm = METRICS[metric].arm
        yield Record(TASK, arm, 0, law.growth, "fit", f"{metric}.exponent", law.exponent.mean)
        yield Record(TASK, arm, 0, law.growth, "fit", f"{metric}.slope", law.per_unit.mean)
        if METRICS[metric].per == "tokens":
            for n in DECADES:
                yield Record(TASK, arm, 0, law.law, "extrapolated", metric, law.at(n).mean, x=n)
