# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Records of `halo bench scale` as tables: what was measured, the laws through it, a past of 10^9 tokens, and
what breaks first.

Knows records, laws and paper. Must not measure anything. What lies beyond the largest size measured says by
how many orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from haloweave.bench.markdown import table
from haloweave.bench.memory.record import Record
from haloweave.bench.scale import paper
from haloweave.bench.scale.breaks import DECADES, Curve
from haloweave.bench.scale.extrapolate import FEWEST, Crossing, Fit, Line
from haloweave.bench.scale.measure import METRICS
from haloweave.bench.stats import Interval
from haloweave.errors import InvalidInput

_DAY = 86_400.0
_MEMORY = ("kept_memory", "kept_rows_memory")
_PASTS = (1e5, 1e6, 1e7)
"""Tokens of history of each of many minds."""
_GB = 1e9

# ---- tables --------------------------------------------------------------------------------------------


def measured(found: Mapping[str, Curve], metrics: Sequence[str]) -> str:
    """What was seen, a row a metric, a column a size."""
    wanted = [m for m in metrics if m in found]
    sizes = sorted({x for m in wanted for x in found[m].x})
    rows = []
    for metric in wanted:
        at = {x: [] for x in sizes}  # type: dict[float, list[float]]
        for x, y in zip(found[metric].x, found[metric].y, strict=True):
            at[x].append(y)
        cells = [quantity(float(np.median(ys)), METRICS[metric].unit) if ys else "" for ys in at.values()]
        rows.append([METRICS[metric].what, *cells])
    return table([METRICS[wanted[0]].per if wanted else "", *map(count, sizes)], rows)


def laws(found: Mapping[str, Fit]) -> str:
    """How each grows."""
    rows = []
    for metric, law in found.items():
        m, slope = METRICS[metric], law.per_unit
        scale = 1e6 if m.per == "tokens" else 1e3
        per = [quantity(max(v, 0.0) * scale, m.unit) for v in (slope.mean, slope.low, slope.high)]
        exponent = f"{law.exponent.mean:.2f} [{law.exponent.low:.2f}, {law.exponent.high:.2f}]"
        grows = f"{per[0]} [{per[1]}, {per[2]}]"
        rows.append([m.what, exponent, grows, law.growth, law.law, f"{law.missed:.0%}"])
    columns = [
        "",
        "exponent [95 %]",
        "per million tokens (thousand rows) [95 %]",
        "grows",
        "law",
        "missed by",
    ]
    return table(columns, rows)


def ahead(found: Mapping[str, Fit], metrics: Sequence[str], rate: float = paper.RATE) -> str:
    """A past at each decade: computed, with intervals that widen."""
    wanted = [m for m in metrics if m in found]
    reach = max((found[m].largest for m in wanted), default=1.0)
    head = ["", *(f"{count(n)} tokens" for n in DECADES)]
    rows: list[list[str]] = [["orders of magnitude beyond the data"]]
    rows[0] += [f"{max(math.log10(n / reach), 0):.1f}" for n in DECADES]
    rows.append([f"days without pause at {rate:g} tokens/s", *(f"{n / rate / _DAY:,.1f}" for n in DECADES)])
    for metric in wanted:
        cells = [between(found[metric].at(n), METRICS[metric].unit) for n in DECADES]
        rows.append([METRICS[metric].what, *cells])
    return table(head, rows)


def first(crossed: Sequence[Crossing], rate: float = paper.RATE) -> str:
    """What breaks first."""
    rows = []
    for c in crossed:
        size = count(c.size) if math.isfinite(c.size) else "never (here)"
        doubt = f"[{count(c.low)}, {count(c.high) if math.isfinite(c.high) else 'never'}]"
        days = f"{c.size / rate / _DAY:,.1f}" if math.isfinite(c.size) else ""
        beyond = "seen" if c.beyond == 0 else f"{c.beyond:.1f}" if math.isfinite(c.beyond) else ""
        rows.append([c.threshold.said, f"{size} {doubt}", days, beyond, c.threshold.remedy])
    columns = [
        "what",
        "tokens of history [95 %]",
        f"days at {rate:g}/s",
        "orders beyond data",
        "what would be done",
    ]
    return table(columns, rows)


def limits(records: Sequence[Record]) -> list[paper.Limit]:
    """Counters and formats, for a past like the one measured."""
    last = _largest(records)
    page, pages = paper.pages()
    return paper.limits(
        line=last["tokens_per_unit"], page=page, pages=pages, bytes_per_token=last["bytes_per_token"]
    )


def ends(found: Sequence[paper.Limit]) -> str:
    """Where numbers end."""
    rows = []
    for limit in found:
        taken = math.isfinite(limit.tokens)
        years = f"{limit.years():,.0f}" if taken else ""
        rows.append(
            [limit.name, f"{limit.most:.3g}", count(limit.tokens) if taken else "never", years, limit.then]
        )
    return table(["", "ends at", "tokens of history", f"years at {paper.RATE:g}/s", "then"], rows)


def models(bandwidth: float, rows: Sequence[int] = (512, 4096, 32_768)) -> str:
    """Larger models, on paper."""
    lines = []
    for shape in paper.SHAPES:
        fits_in = [n for n in rows if n <= shape.positions]
        ticks = [f"{1e3 * shape.tick(n, bandwidth):,.0f} ms" if n in fits_in else "" for n in rows]
        sizes = [quantity(shape.row() * n, "bytes") if n in fits_in else "" for n in rows]
        each = [f"{shape.layers} x {shape.kv_heads} x {shape.head}", quantity(shape.row(), "bytes")]
        lines.append([shape.name, quantity(shape.weights(), "bytes"), *each, *sizes, *ticks])
    arena = [f"arena, {n:,} rows" for n in rows]
    told = [f"tick, {n:,}" for n in rows]
    return table(["model", "weights", "layers x key heads x width", "a row", *arena, *told], lines)


def minds(records: Sequence[Record]) -> str:
    """Taking turns: time of a tick over that of one mind, with a bootstrap interval over rounds."""
    rows = []
    for case in dict.fromkeys(r.case for r in records if r.metric == "turn_ratio"):
        for n in sorted({r.x for r in records if r.metric == "turn_ratio" and r.case == case and r.x}):
            ratio = [r.value for r in records if (r.metric, r.case, r.x) == ("turn_ratio", case, n)]
            ms = [r.value for r in records if (r.metric, r.case, r.x) == ("turn_ms", case, n)]
            i = _median(ratio)
            rows.append(
                [case, f"{n:.0f}", f"{np.median(ms):.2f} ms", f"{i.mean:.2f} [{i.low:.2f}, {i.high:.2f}]"]
            )
    return table(["minds over", "in turn", "a tick", "over that of one [95 %]"], rows)


def each(records: Sequence[Record]) -> str:
    """What one more mind takes."""
    wanted = ("kept_memory", "kept_rows_memory", "kept_disk", "kept_files", "kept_threads")
    rows = []
    for r in records:
        if r.metric in wanted:
            m = METRICS[r.metric]
            more = f"{_GB / r.value:,.0f}" if m.unit == "bytes" and r.value > 0 else ""
            rows.append([r.case, f"{r.rows:,}", m.what, quantity(r.value, m.unit), more])
    return table(["minds over", "rows", "", "each", "fit in 1 GB"], rows)


def crowds(records: Sequence[Record], laws: Mapping[str, Fit], gigabytes: float = 24.0) -> str:
    """On paper: minds beside one set of weights, by rows of each, and by how long the past is that each of
    them searches (its vectors are in memory from the first search on)."""
    beside = _beside(records)
    past = laws.get("search_peak_mb")
    rows = []
    for shape in paper.SHAPES:
        for n in (512, 4096):
            own = n * shape.row() + beside.at + n * beside.slope
            room = gigabytes * _GB - shape.weights()
            pasts = [past.at(x).mean * 1e6 if past else 0.0 for x in _PASTS]
            cells = [f"{max(room, 0.0) / (own + p):,.0f}" for p in (0.0, *pasts)]
            rows.append([shape.name, f"{n:,}", quantity(own, "bytes"), *cells])
    searched = [f"after a search, {count(x)} tokens each" for x in _PASTS]
    return table(["model", "rows", "a mind", f"minds in {gigabytes:g} GB", *searched], rows)


def _beside(records: Sequence[Record]) -> Line:
    """Memory of a mind beside its K/V rows, against rows: mirror, journal, archive and all that Python holds.
    Raises InvalidInput if it was not measured."""
    memory, rows = ({r.rows: r.value for r in records if (r.case, r.metric) == ("tiny", m)} for m in _MEMORY)
    if len(memory) < FEWEST:
        raise InvalidInput("memory of minds: expected records of at least 3 budgets: --part minds")
    x = np.array(sorted(memory), np.float64)
    return Line.of(x, np.array([memory[n] - rows[n] for n in sorted(memory)]), np.ones(len(x)))


def disk_days(records: Sequence[Record], gigabytes: Sequence[float] = (10.0, 100.0, 1000.0)) -> str:
    """Days of talk until a disk is full, however many minds share the time."""
    last = _largest(records)
    rows = []
    for what, metric in (("only read", "bytes_per_token"), ("only spoken", "spoken_bytes_per_token")):
        if metric in last:
            days = [f"{g * _GB / (last[metric] * paper.RATE * _DAY):,.0f}" for g in gigabytes]
            rows.append([what, f"{last[metric]:.1f}", *days])
    return table([f"at {paper.RATE:g} tokens/s", "bytes a token", *(f"{g:,.0f} GB" for g in gigabytes)], rows)


# ---- numbers for people --------------------------------------------------------------------------------


def count(n: float) -> str:
    """Three digits: 31,600; 2.5e7."""
    if not math.isfinite(n):
        return "never"
    return f"{n:,.0f}" if n < 1e6 else f"{n:.1e}".replace("e+0", "e").replace("e+", "e")


def quantity(value: float, unit: str) -> str:
    """In the unit in which it is short."""
    for size, larger in _UNITS.get(unit, ()):
        if abs(value) >= size:
            return quantity(value / size, larger)
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


_UNITS: dict[str, tuple[tuple[float, str], ...]] = {
    "bytes": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
    "MB": ((1e6, "TB"), (1e3, "GB")),
    "ms": ((3.6e6, "h"), (6e4, "min"), (1e3, "s")),
    "s": ((3.6e3, "h"), (60.0, "min")),
}


def between(i: Interval, unit: str) -> str:
    """A number and its interval."""
    return f"{quantity(i.mean, unit)} [{quantity(i.low, unit)}, {quantity(i.high, unit)}]"


def _median(values: Sequence[float], draws: int = 2000, seed: int = 0) -> Interval:
    at = np.array(values)
    pick = np.random.default_rng(seed).integers(0, len(at), (draws, len(at)))
    low, high = np.percentile(np.median(at[pick], axis=1), [2.5, 97.5])
    return Interval(float(np.median(at)), float(low), float(high))


def _largest(records: Sequence[Record]) -> dict[str, float]:
    """The number of each metric at its largest size. Raises InvalidInput if there is no past among them."""
    last = {r.metric: r.value for r in sorted(records, key=lambda r: r.x or 0.0) if r.x is not None}
    if "bytes_per_token" not in last:
        raise InvalidInput("no past was measured: expected records of `halo bench scale`")
    return last
