# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What came of a bench of warm starts: numbers with their doubt, a verdict in words, and a picture.

Knows results and, where it is installed, matplotlib. Must not know how they came about.
Axes: N held-out rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haloweave.bench.warm import Found
from haloweave.bench.warm_plan import Common, by_frequency
from haloweave.diffusion.disk import replacing, write_text
from haloweave.diffusion.judging.intervals import Interval, ratio

FIGURES, PICTURE = "figures.json", "curves.png"


@dataclass(frozen=True)
class Line:
    """One start, and what it is worth beside the first."""

    found: Found
    bits: Interval
    """The bound, per byte."""
    gain: Interval | None
    """Bits per byte less than the baseline's, on the same rows; None for itself."""
    words: Interval
    """Share of the masked words that it finds."""
    more: Interval | None
    """How much larger a share than the baseline's."""
    catches_up: float | None
    """CPU minutes after which its curve is where the baseline's ends; None if it never is."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        found = self.found
        named = {"start": found.name, "parameters": found.parameters, "steps": found.steps}
        named |= {"minutes": found.minutes, "before": found.before, "teacher": found.teacher}
        named |= {"curve": found.curve, "catches_up": self.catches_up}
        doubt = {"bits_per_byte": self.bits, "gain": self.gain, "words": self.words, "words_gain": self.more}
        return named | {name: None if x is None else x.plain() for name, x in doubt.items()}

    def cells(self) -> list[str]:
        """For a table."""
        found = self.found
        told = [found.name, f"{found.parameters / 1e6:.1f}M", f"{found.steps:,}", f"{found.minutes:.2f}"]
        told += [f"{found.before:.2f}", _doubt(self.bits, ".3f"), _doubt(self.gain, "+.3f")]
        told += [_doubt(self.words, ".1%"), _doubt(self.more, "+.1%")]
        return [*told, "-" if self.catches_up is None else f"{self.catches_up:.1f}"]


COLUMNS = (
    "start",
    "parameters",
    "steps",
    "CPU min",
    "before step 1",
    "bits per byte [95 %]",
    "gain",
    "words found",
    "gain",
    "baseline's end at, CPU min",
)


def lines(results: Sequence[Found], here: Common) -> list[Line]:
    """Each start beside the first of them."""
    base, units = results[0], here.held.units()
    size, words = here.held.bytes, here.exam.words

    def line(found: Found) -> Line:
        bits, other = found.nats / math.log(2), base.nats / math.log(2)
        mine = found is base
        return Line(
            found,
            ratio(bits, size, units),
            None if mine else ratio(other - bits, size, units),
            ratio(found.right, words, units),
            None if mine else ratio(found.right - base.right, words, units),
            reached(found.curve, base.curve[-1][1]),
        )

    return [line(found) for found in results]


def reached(curve: Sequence[tuple[float, float]], nats: float) -> float | None:
    """CPU minutes after which a curve is as low as that, between points in a straight line; None if never."""
    before: tuple[float, float] | None = None
    for seconds, value in curve:
        if value <= nats:
            if before is None or before[1] <= value:
                return seconds / 60
            gone = (before[1] - nats) / (before[1] - value)
            return (before[0] + gone * (seconds - before[0])) / 60
        before = seconds, value
    return None


def verdict(results: Sequence[Found], here: Common) -> str:
    """Which start buys most, and whether chance could have put it before the second."""
    ranked = sorted(results, key=lambda found: float(found.nats.sum()))
    first, second = ranked[:2]
    gap = ratio((second.nats - first.nats) / math.log(2), here.held.bytes, here.held.units())
    sure = "" if gap.low > 0 else ", which chance could explain"
    return (
        f"most per minute: {first.name}; after {first.minutes:.1f} CPU minutes it needs "
        f"{gap.value:.3f} ({gap.low:.3f} .. {gap.high:.3f}) bits per byte less than {second.name}{sure}"
    )


def plateau(here: Common) -> Interval:
    """Bits per byte of whoever knows the tokens' frequencies alone."""
    return ratio(by_frequency(here) / math.log(2), here.held.bytes, here.held.units())


def write(folder: Path, told: Sequence[Line], verdict: str, facts: Mapping[str, Any]) -> None:
    """The figures, and the picture where matplotlib is installed. Raises CannotWrite."""
    plain = {"starts": [line.plain() for line in told], "verdict": verdict, "facts": dict(facts)}
    write_text(folder / FIGURES, json.dumps(plain, indent=1) + "\n")
    try:
        _picture([line.found for line in told], folder / PICTURE)
    except ImportError:
        return


def _picture(results: Sequence[Found], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    for number, found in enumerate(results):
        seconds, nats = np.array(found.curve).T
        style: dict[str, Any] = {"color": f"C{number}", "label": found.name, "marker": "o", "markersize": 4}
        axes.plot(seconds, nats, **style)
    axes.set(xlabel="CPU seconds, one thread, all costs of the start included")
    axes.set(ylabel="held-out NELBO, nats per token")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as aside:
        canvas.print_png(str(aside))


def _doubt(found: Interval | None, form: str) -> str:
    if found is None:
        return ""
    return f"{found.value:{form}} [{found.low:{form}} .. {found.high:{form}}]"
