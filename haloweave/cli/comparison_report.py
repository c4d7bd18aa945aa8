# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A comparison as a folder: README.md with every table, pictures, results.json.

Knows results, curves and Markdown. Must not know how anything was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloweave.bench import markdown, plots
from haloweave.cli.figures import comparison_plain, comparison_tables, plain
from haloweave.diffusion.judging.intervals import Interval

if TYPE_CHECKING:
    from haloweave.diffusion.compare import Comparison, LengthGap, Result

COST, TRAINING, CURVES, TRUST = "cost-of-a-call.png", "cost-of-training.png", "curves.png", "calibration.png"
Columns = Mapping[str, list[float]]
"""Curves of a run, by name (see `haloweave.diffusion.training.curves`)."""


@dataclass(frozen=True, eq=False)
class Report:
    """What was found, how each denoiser learnt, and what has to be known to repeat it."""

    found: Comparison
    curves: Mapping[str, Columns]
    provenance: Mapping[str, Any]


def write(folder: Path, report: Report) -> None:
    """Tables, pictures and numbers. Raises CannotWrite, InvalidInput without matplotlib."""
    plots.wanted()
    _pictures(folder, report)
    results = {**comparison_plain(report.found), "by_length": _by_length_plain(report.found)}
    learnt = {name: _learnt_plain(columns) for name, columns in report.curves.items()}
    told = {"provenance": dict(report.provenance), "training": learnt, **results}
    markdown.write(folder, _parts(report), told)


def _parts(report: Report) -> Iterator[str]:
    found = report.found
    yield f"# {', '.join(found.results)}: side by side"
    yield (
        f"The baseline is `{next(iter(found.results))}`. All met the same held-out rows, masks, holes and "
        f"seeds; intervals are 95 %. Times are medians of rounds in alternation: on a machine that others "
        f"use as well, ratios hold better than seconds."
    )
    yield markdown.told(report.provenance)
    for part in comparison_tables(found):
        yield part.strip() if isinstance(part, str) else markdown.of_rich(part)
    yield "## By script\n\nBits per byte, at most, on the held-out rows of each script."
    yield _scripts(found)
    yield "## Infilling"
    yield _infilling(found)
    yield from _speeds(found)
    yield "## Calibration\n\nOn partly revealed rows: expected calibration error; how sure, and how right."
    yield _calibration(found)
    yield markdown.picture(TRUST, "share that is right against confidence")
    yield "## Training"
    yield _training(report.curves)
    yield markdown.picture(CURVES, "held-out NELBO against tokens and against minutes")


# ---- tables ----------------------------------------------------------------------------------------------


def _scripts(found: Comparison) -> str:
    names = dict.fromkeys(s for r in found.results.values() for s in r.evaluation.bound.scripts)
    rows = [
        [script, *(_doubt(r.evaluation.bound.scripts[script], 3) for r in found.results.values())]
        for script in names
    ]
    return markdown.table(["", *found.results], rows)


def _infilling(found: Comparison) -> str:
    kinds = next(iter(found.results.values())).evaluation.infill
    rows = []
    for kind, score in kinds.items():
        each = [r.evaluation.infill[kind] for r in found.results.values()]
        rows.append([f"{kind} ({score.holes} holes), exact", *(_doubt(e.exact, 3) for e in each)])
        rows.append([f"{kind}, word overlap", *(_doubt(e.overlap, 3) for e in each)])
    return markdown.table(["", *found.results], rows)


def _speeds(found: Comparison) -> Iterator[str]:
    """Throughput and memory at each T, of everyone and beside the baseline."""
    yield "## Speed and memory by T\n\nOne row of T tokens; training with the head, a call without."
    yield _throughput(found)
    yield "Beside the baseline: above 1 is faster, and below 1 takes less memory."
    headings = ["", "T", "training", "call", "peak, training step", "peak, call"]
    rows = [[name, *_gap(n, at)] for name, gap in found.gaps.items() for n, at in gap.by_length.items()]
    yield markdown.table(headings, rows)
    yield markdown.picture(TRAINING, "seconds of a training step against T")
    yield markdown.picture(COST, "seconds of a call against T")


def _throughput(found: Comparison) -> str:
    headings = ["", "T", "training, tok/s", "call, tok/s", "peak MB, training step", "peak MB, call"]
    rows: list[list[str]] = []
    for name, r in found.results.items():
        for n, at in r.speed.by_length.items():
            speeds = (n / float(np.median(seconds)) for seconds in (at.step_seconds, at.call_seconds))
            sizes = (f"{size / 1e6:.0f}" for size in (at.step_bytes, at.call_bytes))
            rows.append([name, f"{n:,}", *(f"{speed:,.0f}" for speed in speeds), *sizes])
        grow = (f"T^{slope:.2f}" for slope in (r.speed.training_exponent, r.speed.exponent))
        rows.append([f"{name}, seconds grow as", "", *grow, "", ""])
    return markdown.table(headings, rows)


def _gap(length: int, at: LengthGap) -> list[str]:
    times = (f"{_doubt(ratio, 2)} x" for ratio in (at.training, at.calling))
    return [f"{length:,}", *times, f"{at.step_memory:.2f} x", f"{at.call_memory:.2f} x"]


def _calibration(found: Comparison) -> str:
    rows = []
    for name, r in found.results.items():
        c = r.evaluation.calibration
        rows.append([name, f"{c.error:.4f}", f"{c.confidence:.2%}", f"{c.accuracy:.2%}", f"{c.count:,}"])
    return markdown.table(["", "ECE", "sure", "right", "predictions"], rows)


def _training(curves: Mapping[str, Columns]) -> str:
    headings = ["", "steps", "tokens", "minutes", "last loss, mean of 5 %", "held out, nats per token"]
    return markdown.table(headings, [[name, *_learnt(columns)] for name, columns in curves.items()])


def _learnt(columns: Columns) -> list[str]:
    at = _learnt_plain(columns)
    if not at["steps"]:
        return ["not known", "", "", "", ""]
    valid = at["held_out"][-1]["nats"] if at["held_out"] else math.nan
    minutes = f"{at['seconds'] / 60:.1f}"
    return [f"{at['steps']:,}", f"{at['tokens']:,}", minutes, f"{at['loss']:.3f}", f"{valid:.3f}"]


def _learnt_plain(columns: Columns) -> dict[str, Any]:
    """A run's end, and its held-out course."""
    if not columns.get("step"):
        return {"steps": 0, "held_out": []}
    late = columns["loss"][-max(1, len(columns["loss"]) // 20) :]
    ends = {name: int(columns[name][-1]) for name in ("tokens", "seconds")}
    course = [{"tokens": int(t), "seconds": s, "nats": v} for t, s, v in _judged(columns)]
    return {"steps": int(columns["step"][-1]), **ends, "loss": float(np.mean(late)), "held_out": course}


def _judged(columns: Columns) -> list[tuple[float, float, float]]:
    """Tokens, seconds and held-out nats, wherever these were measured."""
    each = zip(columns["tokens"], columns["seconds"], columns["valid_nats"], strict=True)
    return [(tokens, seconds, nats) for tokens, seconds, nats in each if math.isfinite(nats)]


def _by_length_plain(found: Comparison) -> dict[str, Any]:
    return {name: _lengths_plain(r) for name, r in found.results.items()}


def _lengths_plain(r: Result) -> dict[str, Any]:
    exponents = {"training_exponent": r.speed.training_exponent, "call_exponent": r.speed.exponent}
    each = {
        str(n): {
            "step_seconds": at.step_seconds.tolist(),
            "call_seconds": at.call_seconds.tolist(),
            "step_bytes": at.step_bytes,
            "call_bytes": at.call_bytes,
        }
        for n, at in r.speed.by_length.items()
    }
    return {**{name: plain(value) for name, value in exponents.items()}, "lengths": each}


def _doubt(x: Interval, digits: int) -> str:
    if not math.isfinite(x.low):
        return f"{x.value:.{digits}f}"
    return f"{x.value:.{digits}f} ({x.low:.{digits}f} .. {x.high:.{digits}f})"


# ---- pictures --------------------------------------------------------------------------------------------


def _pictures(folder: Path, report: Report) -> None:
    results = report.found.results
    steps = {name: r.speed.step_seconds_by_length for name, r in results.items()}
    calls = {name: r.speed.seconds_by_length for name, r in results.items()}
    slopes = {name: r.speed.training_exponent for name, r in results.items()}
    plots.cost(folder / TRAINING, "A training step on one row", steps, slopes)
    slopes = {name: r.speed.exponent for name, r in results.items()}
    plots.cost(folder / COST, "A call on one row, without the head", calls, slopes)
    plots.learning(folder / CURVES, {name: _course(columns) for name, columns in report.curves.items()})
    plots.trust(folder / TRUST, {name: _bins(r) for name, r in results.items()})


def _course(columns: Columns) -> tuple[plots.Curve, plots.Curve]:
    judged = _judged(columns) if columns.get("step") else []
    nats = [n for _, _, n in judged]
    return ([t for t, _, _ in judged], nats), ([s for _, s, _ in judged], nats)


def _bins(r: Result) -> tuple[list[float], list[float], float]:
    c = r.evaluation.calibration
    return [b.confidence for b in c.bins], [b.accuracy for b in c.bins], c.error
