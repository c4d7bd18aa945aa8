# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Pictures of measurements, as PNG; without pyplot: no state of the process is touched, no window opens.

    cost          seconds over T, both axes logarithmic: a straight line whose slope is the exponent
    learning      held-out nats against tokens read and against seconds
    trust         share that is right against confidence
    trade         what is won against what it costs, with doubt

Knows matplotlib and numbers. Must not know how anything was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from haloweave.diffusion.disk import replacing
from haloweave.errors import InvalidInput

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
"""Told apart by the colour-blind too (Okabe & Ito)."""
_MARKERS = "osD^vPX*"
_ASIDE = 0.02
"""Share by which each further group is moved."""
Curve = tuple[Sequence[float], Sequence[float]]
"""x and y."""


@dataclass(frozen=True)
class Point:
    """What one setting wins and costs, and the ends of the cost's interval."""

    name: str
    gain: float
    cost: float
    low: float
    high: float


def wanted() -> None:
    """Raise InvalidInput where nothing can be drawn; to be asked before hours of measuring."""
    if find_spec("matplotlib") is None:
        raise InvalidInput("a report has pictures: pip install 'haloweave[train]', which brings matplotlib")


def cost(
    path: Path, title: str, seconds: Mapping[str, Mapping[int, float]], slopes: Mapping[str, float]
) -> None:
    """Seconds at each T, by name, with the exponents in the legend."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for look, (name, at) in zip(looks(), seconds.items(), strict=False):
            axes.plot(list(at), list(at.values()), label=f"{name}: $T^{{{slopes[name]:.2f}}}$", **look)
        lengths = sorted({n for at in seconds.values() for n in at})
        _logarithmic(axes, lengths)
        axes.set(title=title, xlabel="T, tokens of a row", ylabel="seconds")
        axes.legend()

    drawn(path, (6.4, 4.4), draw)


def learning(path: Path, runs: Mapping[str, tuple[Curve, Curve]]) -> None:
    """Held-out nats of each run, against tokens and against seconds."""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for look, (name, (by_tokens, by_seconds)) in zip(looks(), runs.items(), strict=False):
            left.plot([x / 1e6 for x in by_tokens[0]], by_tokens[1], label=name, **look)
            right.plot([x / 60 for x in by_seconds[0]], by_seconds[1], label=name, **look)
        left.set(xlabel="million tokens read", ylabel="held-out NELBO, nats per token")
        right.set(xlabel="minutes, evaluation included")
        left.legend(fontsize="small")
        for axes in (left, right):
            axes.grid(alpha=0.3)

    drawn(path, (9.0, 4.2), draw)


def trust(path: Path, bins: Mapping[str, tuple[Sequence[float], Sequence[float], float]]) -> None:
    """Confidence and accuracy of each bin, by name, and the expected calibration error."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="as sure as right")
        for look, (name, (sure, right, error)) in zip(looks(), bins.items(), strict=False):
            axes.plot(sure, right, label=f"{name}: ECE {error:.3f}", **look)
        most = max([0.1, *(x for sure, right, _ in bins.values() for x in (*sure, *right))])
        end = min(1.0, math.ceil(10 * most) / 10)  # a weak denoiser is never sure, and would fill a corner
        axes.set(xlim=(0, end), ylim=(0, end), aspect="equal")
        axes.set(xlabel="confidence, partly revealed text", ylabel="share that is right")
        axes.legend(fontsize="small", loc="upper left")
        axes.grid(alpha=0.3)

    drawn(path, (5.2, 5.0), draw)


def trade(
    path: Path,
    labels: tuple[str, str],
    groups: Mapping[str, Sequence[Point]],
    *,
    levels: Mapping[str, float] | None = None,
    at_least: tuple[str, float] | None = None,
    logarithmic: bool = False,
) -> None:
    """Points by group, gain to the right, cost upwards; `levels` are costs that are drawn across by name,
    `at_least` a gain that is to be reached."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for i, (look, (name, points)) in enumerate(zip(looks(), groups.items(), strict=False)):
            doubt = [[p.cost - p.low for p in points], [p.high - p.cost for p in points]]
            aside = 1 + _ASIDE * i if logarithmic else 1.0  # what falls on one place can be seen all the same
            gains, costs = [p.gain * aside for p in points], [p.cost for p in points]
            plain = {**look, "linestyle": "none" if len(points) < 3 else look["linestyle"]}
            axes.errorbar(gains, costs, doubt, label=name, capsize=2, elinewidth=0.8, **plain)
        for style, (name, level) in zip(("--", ":", "-."), (levels or {}).items(), strict=False):
            axes.axhline(level, color="0.4", linewidth=1, linestyle=style, label=name)
        if at_least is not None:
            axes.axvline(at_least[1], color="0.7", linewidth=1, label=at_least[0])
        if logarithmic:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)

    drawn(path, (7.0, 4.6), draw)


def looks() -> Iterator[dict[str, Any]]:
    """One after another without end; from the ninth on a colour comes with another marker."""
    for n in count():
        colour, marker = _COLOURS[n % len(_COLOURS)], _MARKERS[(n + n // len(_COLOURS)) % len(_MARKERS)]
        yield {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.4, "linestyle": "-"}


def _logarithmic(axes: Any, lengths: Sequence[int]) -> None:
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if f"{y:.0e}"[0] in "25" else "")
    axes.grid(alpha=0.3, which="both")


def drawn(path: Path, size: tuple[float, float], draw: Callable[[Any], None]) -> None:
    """Raises CannotWrite."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    draw(figure)
    with replacing(path) as aside:
        canvas.print_png(str(aside))
