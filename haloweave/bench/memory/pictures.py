# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Pictures of the memory benchmark, as PNG. An arm looks the same in all of them.

    curves    panels of curves with intervals: recall against distance, loss against rows, pace, drift
    forest    panels of differences with intervals, a line a comparison, zero drawn

Knows matplotlib, numbers and the names of arms. Must not know how anything was measured.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from haloweave.bench.memory.curves import Curve
from haloweave.bench.memory.glossary import is_peer
from haloweave.bench.plots import drawn, looks
from haloweave.diffusion.judging.intervals import Interval

_FIRST = (
    "halo", "halo+recall", "truncate", "window", "h2o", "tova", "snapkv", "random",
    "halo+repair", "halo+both", "full", "none", "redact", "summary", "cull", "halo+random",
)  # fmt: skip
"""In the order of colours: what is compared most gets colours of its own."""
_SPREAD = 0.004
"""Part of the axis by which arms stand beside each other, so that intervals can be told apart."""
_LONG, _NARROW = 48, 40
"""Characters of a name, and of a line along an axis."""
_ROOM = 1.2
"""Factor that is left free at both ends of an axis."""
Looks = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """Curves in one frame."""

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    level: tuple[str, float] | None = None
    """Drawn across."""
    shares: bool = False
    """From 0 to 1."""
    grows: bool = False
    """From 0 upwards."""


@dataclass(frozen=True)
class Differences:
    """Comparisons in one frame; by series, the interval of each."""

    title: str
    x: str
    names: Sequence[str]
    series: Mapping[str, Mapping[str, Interval]]


def arms_looks(arms: Iterable[str]) -> Looks:
    """Of known arms always the same, whoever else is there; peers follow by name."""
    names = [*_FIRST, *sorted(set(arms) - set(_FIRST))]
    return {name: look | _line(name) for name, look in zip(names, islice(looks(), len(names)), strict=True)}


def _line(name: str) -> dict[str, Any]:
    if is_peer(name):
        return {"linestyle": ":", "linewidth": 1.2}
    if name in ("full", "none"):
        return {"linestyle": "--", "linewidth": 1.2}
    ours = name.startswith(("halo", "cull"))
    return {"linestyle": "-", "linewidth": 2.2 if ours else 1.1, "zorder": 3 if ours else 2}


def curves(path: Path, panels: Sequence[Sequence[Panel]], style: Looks) -> None:
    """A row of panels each; one legend for all. Raises CannotWrite."""

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(panels), max(map(len, panels)), squeeze=False)
        for frames, row in zip(grid, panels, strict=True):
            for axes, panel in zip(frames, row, strict=False):
                _panel(axes, panel, style)
            for axes in frames[len(row) :]:
                axes.set_axis_off()
        _legend(figure, grid)

    drawn(path, (2.4 + 3.9 * max(map(len, panels)), 0.4 + 3.2 * len(panels)), draw)


def _panel(axes: Any, panel: Panel, style: Looks) -> None:
    axes.set_xscale("log", base=2)
    octaves = _octaves(panel.curves)
    for place, curve in enumerate(panel.curves):
        aside = 2 ** (octaves * _SPREAD * (place - (len(panel.curves) - 1) / 2))
        values = [spot.value.value for spot in curve.spots]
        doubt = _doubt([spot.value for spot in curve.spots])
        at = [spot.x * aside for spot in curve.spots]
        look = {**style[curve.arm], "label": _drawable(curve.arm), "elinewidth": 0.8}
        for bar in axes.errorbar(at, values, doubt, **look)[2]:
            bar.set_alpha(0.45)  # many intervals on one place: the means have to be seen through them
    if panel.level is not None:
        axes.axhline(panel.level[1], color="0.5", linewidth=0.9, linestyle="-.", label=panel.level[0])
    if panel.shares:
        axes.set_ylim(-0.04, 1.04)
    if panel.grows:
        axes.set_ylim(bottom=0)
    places = [spot.x for curve in panel.curves for spot in curve.spots]
    if places:  # of one place alone, an axis would show nothing but how far arms stand aside
        axes.set_xlim(min(places) / _ROOM, max(places) * _ROOM)
    axes.xaxis.set_major_formatter(lambda x, _: _round(x))
    axes.set_title(_drawable(panel.title), fontsize="medium")
    axes.set(xlabel=_drawable(panel.x), ylabel=_wrapped(panel.y))
    axes.grid(alpha=0.3)


def _octaves(told: Sequence[Curve]) -> float:
    """How far the x axis reaches."""
    places = [spot.x for curve in told for spot in curve.spots]
    return max(1.0, math.log2(max(places) / min(places))) if places else 1.0


def forest(path: Path, panels: Sequence[Differences], across: int = 3) -> None:
    """Raises CannotWrite."""
    wide = min(across, len(panels))
    deep = -(-len(panels) // wide)
    names = dict.fromkeys(name for panel in panels for name in panel.series)
    style = dict(zip(names, looks(), strict=False))

    def draw(figure: Any) -> None:
        grid = figure.subplots(deep, wide, squeeze=False)
        frames = [axes for row in grid for axes in row]
        for axes, panel in zip(frames, panels, strict=False):
            _differences(axes, panel, style)
        for row in range(deep):
            _share_names(grid[row], panels[row * wide : (row + 1) * wide])
        for axes in frames[len(panels) :]:
            axes.set_axis_off()
        _legend(figure, grid, below=True)

    lines = max(len(panel.names) for panel in panels)
    drawn(path, (1.2 + 3.7 * wide, 0.7 + (1.0 + 0.32 * lines) * deep), draw)


def _differences(axes: Any, panel: Differences, style: Looks) -> None:
    axes.axvline(0, color="0.5", linewidth=0.9)
    apart = 0.5 / max(len(panel.series), 1)
    for number, (name, told) in enumerate(panel.series.items()):
        middle = apart * (number - (len(panel.series) - 1) / 2)
        places = [panel.names.index(other) + middle for other in told]
        doubt = _doubt(list(told.values()))
        plain = style[name] | {"linestyle": "none", "markersize": 5}
        values = [one.value for one in told.values()]
        axes.errorbar(values, places, xerr=doubt, label=_drawable(name), capsize=2.5, elinewidth=1.2, **plain)
    axes.set_yticks(range(len(panel.names)), [_drawable(name) for name in panel.names], fontsize="small")
    axes.set_ylim(len(panel.names) - 0.4, -0.6)
    axes.set_title(_drawable(panel.title), fontsize="medium")
    axes.set_xlabel(_wrapped(panel.x), fontsize="small")
    axes.tick_params(axis="x", labelsize="small")
    axes.grid(alpha=0.3)


def _share_names(frames: Sequence[Any], panels: Sequence[Differences]) -> None:
    """Beside each other the same names are written once."""
    for axes, panel in list(zip(frames, panels, strict=False))[1:]:
        if panel.names == panels[0].names:
            axes.tick_params(axis="y", labelleft=False)


def _doubt(values: Sequence[Interval]) -> list[list[float]]:
    """Below and above; nothing where there are no ends."""
    low = [0.0 if math.isnan(one.low) else max(one.value - one.low, 0.0) for one in values]
    high = [0.0 if math.isnan(one.high) else max(one.high - one.value, 0.0) for one in values]
    return [low, high]


def _legend(figure: Any, grid: Any, below: bool = False) -> None:
    """Every name once."""
    told: dict[str, Any] = {}
    for axes in (axes for row in grid for axes in row):
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            told.setdefault(name, handle)
    where = "outside lower center" if below else "outside right upper"
    columns = max(1, min(len(told), 4)) if below else 1
    figure.legend(told.values(), told.keys(), loc=where, fontsize="small", ncols=columns)


def _drawable(name: str) -> str:
    """What the font has; a dollar sign begins a formula, an underscore in front hides a name from legends."""
    told = name.encode("ascii", "replace").decode().replace("\\", "/").replace("$", r"\$")
    shown = told if len(told) <= _LONG else f"{told[: _LONG - 3]}..."
    return f" {shown}" if shown.startswith("_") else shown


def _wrapped(label: str) -> str:
    return "\n".join(_drawable(line) for line in textwrap.wrap(label, _NARROW))


def _round(x: float) -> str:
    return f"{x:,.0f}" if x >= 10 else f"{x:g}"
