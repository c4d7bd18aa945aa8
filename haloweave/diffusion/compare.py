# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Denoisers side by side on the same text, masks, holes and seeds; the first is the baseline.

    mismatches   what makes a comparison unfair, in words; none if it is fair
    compare      measure each, time them in alternation, hold every candidate against the rules

Knows denoisers and held-out rows. Must not know files or how anything was trained. Axes: N rows, T sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.evaluate import Evaluation, Measures, evaluate
from haloweave.diffusion.judging.held import Decode, Held, per_script
from haloweave.diffusion.judging.intervals import Interval, median_ratio, ratio
from haloweave.diffusion.judging.judge import Judge
from haloweave.diffusion.judging.race import AtLength, Race, Speed, race
from haloweave.diffusion.judging.rules import Decision, Measured, Rules, ScriptGap, Stability, decide
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.reader import device_of

PARAMETERS = 0.05
"""Two denoisers are of one size if their trained parameters differ by less."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How a denoiser came about; None where nobody wrote it down, which is a mismatch too."""

    parameters: int
    tokens: int | None
    """Read in training."""
    corpus: str | None
    tokenizer: str | None
    seq_len: int | None
    seed: int | None


@dataclass(frozen=True, eq=False)
class Contestant:
    """A trained denoiser with a name."""

    name: str
    denoiser: Denoiser
    facts: Facts
    stability: Stability


@dataclass(frozen=True, eq=False)
class Result:
    """One contestant's own numbers."""

    evaluation: Evaluation
    speed: Speed
    slot_entropy: tuple[float, ...] | None
    """How evenly its memory slots are used, in nats, block by block; None where it has none."""


@dataclass(frozen=True)
class LengthGap:
    """A candidate over the baseline on one row of T tokens."""

    calling: Interval
    """Throughput of a call: above 1 the candidate is faster."""
    training: Interval
    call_memory: float
    """Peak memory: below 1 the candidate takes less."""
    step_memory: float


@dataclass(frozen=True)
class Gap:
    """A candidate minus the baseline, paired."""

    bits_per_byte: Interval
    exact: Mapping[str, Interval]
    """Exact match of the same holes, by kind."""
    training: Interval
    """Throughput of a training step, candidate over baseline."""
    nelbo: Interval
    """Relative difference of the bound; above 0 the candidate is worse."""
    by_length: Mapping[int, LengthGap]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every result, and the decision about each candidate. `primary` names who should be used."""

    results: Mapping[str, Result]
    gaps: Mapping[str, Gap]
    decisions: Mapping[str, Decision]
    primary: str
    mismatches: tuple[str, ...] = field(default=())


def mismatches(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """Whatever differs from the baseline and should not."""
    base, found = contestants[0], []
    for other in contestants[1:]:
        a, b = base.facts, other.facts
        if abs(b.parameters - a.parameters) > PARAMETERS * a.parameters:
            found.append(f"{other.name}: {b.parameters:,} parameters, {base.name} has {a.parameters:,}")
        for name in ("tokens", "corpus", "tokenizer", "seq_len", "seed"):
            one, two = getattr(a, name), getattr(b, name)
            if one is None or two is None or one != two:
                found.append(f"{other.name}: {name} {_told(two)}, {base.name} has {_told(one)}")
    return tuple(found)


def _told(value: object) -> str:
    return "not known" if value is None else str(value)[:16]


def stability(losses: Sequence[float], finished: bool = True) -> Stability:
    """How training went, by its losses: finite to the end, and how much the last fifth of them scatters."""
    late = np.asarray(losses[-max(2, len(losses) // 5) :], np.float64)
    finite = finished and len(losses) > 1 and bool(np.isfinite(losses).all())
    return Stability(finite, float(late.std() / abs(late.mean())) if finite else math.nan)


def compare(
    contestants: Sequence[Contestant],
    held: Held,
    decode: Decode,
    plan: Measures,
    *,
    run: Race | None = None,
    rules: Rules | None = None,
    judge: Judge | None = None,
    unmatched: bool = False,
    progress: Progress = silent,
) -> Comparison:
    """Measure and decide. Raises BadInput for fewer than two, for names given twice, for another tokenizer
    than the baseline's, and, unless `unmatched`, for whatever else makes a comparison unfair."""
    names = [c.name for c in contestants]
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"compare: expected two denoisers or more, each under its own name, got {names}")
    odd = mismatches(contestants)
    if odd and not unmatched:
        raise BadInput(f"not comparable: {'; '.join(odd)}. Train them alike, or compare them --unmatched")
    if foreign := [c.name for c in contestants if c.facts.tokenizer != contestants[0].facts.tokenizer]:
        raise BadInput(
            f"{', '.join(foreign)}: expected {names[0]}'s tokenizer, got another, to which the same rows are "
            f"other texts; evaluate each by itself: halo eval"
        )
    measured = [evaluate(c.denoiser, held, decode, plan, judge, progress) for c in contestants]
    speeds = race([c.denoiser for c in contestants], held, plan, run or Race(), progress)
    results = {
        c.name: Result(e, s, _slots(c.denoiser, held))
        for c, e, s in zip(contestants, measured, speeds, strict=True)
    }
    decisions = {
        c.name: decide(_measured(contestants[0], c, results, held), rules or Rules()) for c in contestants[1:]
    }
    gaps = {name: _gap(results[names[0]], results[name], held) for name in names[1:]}
    return Comparison(results, gaps, decisions, _primary(names, decisions, results), odd)


def _slots(denoiser: Denoiser, held: Held) -> tuple[float, ...] | None:
    """On clean text, a few rows."""
    offered = getattr(denoiser, "slot_entropy", None)
    rows = held.rows[:8].to(device_of(denoiser))
    return None if offered is None else tuple(float(x) for x in offered(rows))


def _measured(base: Contestant, other: Contestant, results: Mapping[str, Result], held: Held) -> Measured:
    a, b = results[base.name], results[other.name]
    nats = b.evaluation.nats, a.evaluation.nats
    return Measured(
        throughput=median_ratio(a.speed.sample_seconds, b.speed.sample_seconds),
        nelbo=relative(*nats, held.units()),
        scripts={
            name: ScriptGap(relative(nats[0][rows], nats[1][rows], held.units(rows)), len(rows))
            for name, rows in per_script(held).items()
            if name != "none"
        },
        candidate=other.stability,
        baseline=base.stability,
        call_memory=b.evaluation.call_bytes / a.evaluation.call_bytes,
        step_memory=b.speed.step_bytes / a.speed.step_bytes,
    )


def relative(candidate: np.ndarray, baseline: np.ndarray, groups: np.ndarray) -> Interval:
    """By what share the candidate's nats exceed the baseline's, over the same documents."""
    return ratio(candidate, baseline, groups).map(lambda x: x - 1)


def _gap(base: Result, other: Result, held: Held) -> Gap:
    a, b = base.evaluation, other.evaluation
    bits = ratio((b.nats - a.nats) / math.log(2), held.bytes, held.units())
    exact = {}
    for kind in a.infill:
        pairs = [(x, y) for x, y in zip(a.filled, b.filled, strict=True) if x.puzzle.kind == kind]
        gain = [sum(y.exact) - sum(x.exact) for x, y in pairs]
        where = held.units(np.array([x.puzzle.row for x, _ in pairs]))
        exact[kind] = ratio(gain, [len(x.exact) for x, _ in pairs], where)
    return Gap(
        bits_per_byte=bits,
        exact=exact,
        training=median_ratio(base.speed.step_seconds, other.speed.step_seconds),
        nelbo=relative(b.nats, a.nats, held.units()),
        by_length={n: _length_gap(at, other.speed.by_length[n]) for n, at in base.speed.by_length.items()},
    )


def _length_gap(base: AtLength, other: AtLength) -> LengthGap:
    return LengthGap(
        calling=median_ratio(base.call_seconds, other.call_seconds),
        training=median_ratio(base.step_seconds, other.step_seconds),
        call_memory=other.call_bytes / base.call_bytes,
        step_memory=other.step_bytes / base.step_bytes,
    )


def _primary(names: Sequence[str], decisions: Mapping[str, Decision], results: Mapping[str, Result]) -> str:
    """The baseline, or the quickest of those that keep every rule."""
    kept = [name for name in names[1:] if decisions[name].keep]
    return min(kept, key=lambda name: float(np.median(results[name].speed.sample_seconds)), default=names[0])
