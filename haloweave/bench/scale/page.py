# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The page of `halo bench scale`: all tables under their headings, and two pictures.

Knows records, tables, and how pictures are drawn. Must not measure anything. What is dashed in a picture was
not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from haloweave.bench.markdown import picture, told, write
from haloweave.bench.memory.record import Record
from haloweave.bench.plots import drawn, looks, wanted
from haloweave.bench.scale import breaks, tables
from haloweave.bench.scale.extrapolate import Fit
from haloweave.bench.scale.measure import METRICS

TIMES, BYTES = "scale-times.png", "scale-bytes.png"
_DRAWN = {
    TIMES: ("s", ("redact_s", "backup_s", "first_search_s", "search_p95_ms", "words_p95_ms", "open_ms")),
    BYTES: ("bytes", ("bytes", "search_peak_mb", "redact_peak_mb")),
}
_BASE = {"ms": ("s", 1e-3), "MB": ("bytes", 1e6), "s": ("s", 1.0), "bytes": ("bytes", 1.0)}
_HISTORY = [m for m, metric in METRICS.items() if metric.arm in ("disk", "shares", "write", "wake")]
_HISTORY.remove("spoken_bytes_per_token")
_HISTORY += [m for m, metric in METRICS.items() if metric.arm in ("search", "copies", "redact", "clock")]
_SPOKEN = [m for m in METRICS if m.startswith("spoken_")]
_ROWS = [m for m, metric in METRICS.items() if metric.arm == "rows"]
_AHEAD: tuple[str, ...] = (
    "bytes",
    "open_ms",
    "thin_ms",
    "first_search_s",
    "search_peak_mb",
    "search_p95_ms",
    "words_p95_ms",
)
_AHEAD += ("backup_s", "redact_s", "redact_peak_mb")


def parts(records: Sequence[Record], facts: Mapping[str, Any]) -> list[str]:
    """The page, a piece of Markdown a paragraph. Raises InvalidInput where no past was measured."""
    curves = breaks.curves(records)
    laws = breaks.fits(curves)
    speed = next((r.value for r in records if r.metric == "bandwidth"), None)
    found = [told(facts)]
    found += ["## What breaks first", tables.first(breaks.breaks(laws))]
    found += ["## A past on paper", tables.ahead(laws, _AHEAD)]
    found += ["## Measured", tables.measured(curves, _HISTORY), tables.measured(curves, _SPOKEN)]
    found += ["## Laws", tables.laws(laws)]
    found += ["## Counters", tables.ends(tables.limits(records))]
    found += ["## Many minds", tables.disk_days(records)]
    if any(r.metric == "kept_memory" for r in records):
        found += [tables.minds(records), tables.each(records), tables.crowds(records, laws)]
    found += ["## Rows of one mind", tables.measured(curves, _ROWS)]
    if speed:
        found += [f"Reading memory, one thread: {speed / 1e9:.1f} GB/s.", tables.models(speed)]
    return found


def save(folder: Path, records: Sequence[Record], facts: Mapping[str, Any]) -> None:
    """README.md, results.json and the pictures. Raises InvalidInput without matplotlib, CannotWrite."""
    wanted()
    laws = breaks.fits(breaks.curves(records))
    folder.mkdir(parents=True, exist_ok=True)
    for name in _DRAWN:
        draw(folder / name, laws, name)
    shown = [picture(name, "costs against tokens of history; dashed: computed") for name in _DRAWN]
    results = {"facts": dict(facts), "laws": {m: _plain(law) for m, law in laws.items()}}
    write(folder, ["# Scale", *parts(records, facts), *shown], results)


def _plain(law: Fit) -> dict[str, Any]:
    told: dict[str, Any] = {"law": law.law, "missed": law.missed, "growth": law.growth}
    told |= {"constant": law.constant, "slope": list(vars(law.per_unit).values())}
    return told | {"exponent": law.exponent.json(), "x": list(law.x), "y": list(law.y)}


def draw(path: Path, laws: Mapping[str, Fit], name: str, farthest: float = 1e9) -> None:
    """Costs and their laws, both axes logarithmic: points and a line where it was measured, then dashed, with
    the 95 % interval as a shade."""
    unit, metrics = _DRAWN[name]
    shown = {m: laws[m] for m in metrics if m in laws}

    def on(figure: Any) -> None:
        axes = figure.subplots()
        for (metric, law), look in zip(shown.items(), islice(looks(), len(shown)), strict=True):
            _curve(axes, law, METRICS[metric].what, _BASE[METRICS[metric].unit][1], look, farthest)
        axes.set(xscale="log", yscale="log", xlabel="tokens of history", ylabel=unit)
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)

    drawn(path, (8.0, 5.0), on)


def _curve(axes: Any, law: Fit, name: str, scale: float, look: Mapping[str, Any], farthest: float) -> None:
    axes.plot(law.x, [scale * y for y in law.y], label=name, **look)
    ahead = np.geomspace(law.largest, farthest, 40).tolist()
    said = [law.at(x) for x in ahead]
    plain = {"color": look["color"], "linewidth": look["linewidth"], "linestyle": "--"}
    axes.plot(ahead, [scale * i.mean for i in said], **plain)
    low = [max(scale * i.low, 1e-6) for i in said]
    axes.fill_between(
        ahead, low, [scale * i.high for i in said], color=look["color"], alpha=0.08, linewidth=0
    )
