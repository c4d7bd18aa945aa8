# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Every rule by which a denoiser may replace the baseline, written down with its number.

The rules exist before the measurement. Knows numbers. Must not know how they were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from haloweave.diffusion.judging.intervals import Interval


@dataclass(frozen=True)
class Rules:
    """A candidate becomes the primary denoiser only if no rule fails; else the baseline stays."""

    throughput: float = 1.5
    """Tokens sampled per second over the baseline's: a margin that a person notices ..."""
    throughput_low: float = 1.2
    """... and the lower end of its interval above this, so that it is no accident."""
    nelbo: float = 0.03
    """By so much the bound may be worse at most: the upper end of the interval of the relative difference."""
    script: float = 0.05
    """By so much the bits per byte of one script may be worse at most."""
    script_blocks: int = 8
    """A script with fewer blocks is told and not judged: it speaks neither for the candidate nor against."""
    spread: float = 2.0
    """The spread of the late training losses over the baseline's, at most."""
    memory: float = 1.0
    """Peak memory over the baseline's, of a training step and of a call, at most."""


@dataclass(frozen=True)
class ScriptGap:
    """Relative difference of bits per byte on the blocks of one script; above 0 the candidate is worse."""

    gap: Interval
    blocks: int


@dataclass(frozen=True)
class Stability:
    """How training went at its end."""

    finite: bool
    """Every loss was a number, and the run came to its end."""
    spread: float
    """Standard deviation over mean of the last fifth of the losses."""


@dataclass(frozen=True)
class Measured:
    """A candidate beside the baseline."""

    throughput: Interval
    nelbo: Interval
    """Relative difference; above 0 the candidate is worse."""
    scripts: Mapping[str, ScriptGap]
    candidate: Stability
    baseline: Stability
    call_memory: float
    """Candidate over baseline."""
    step_memory: float


class Verdict(StrEnum):
    """What became of one rule."""

    HOLDS = "holds"
    FAILS = "fails"
    NOT_JUDGED = "not judged"
    """Too little was measured to say either."""


@dataclass(frozen=True)
class Outcome:
    """One rule, its number, and what became of it."""

    rule: str
    wanted: str
    got: str
    verdict: Verdict

    @property
    def holds(self) -> bool:
        """A rule that was not judged does not hold; it does not fail either."""
        return self.verdict is Verdict.HOLDS


@dataclass(frozen=True)
class Decision:
    """Whether to keep the candidate as primary denoiser, and why."""

    keep: bool
    outcomes: tuple[Outcome, ...]


def decide(m: Measured, rules: Rules = Rules()) -> Decision:
    """Every rule's outcome; none may fail. A number that isn't one fails its rule."""
    outcomes = (
        _throughput(m.throughput, rules),
        _nelbo(m.nelbo, rules),
        *(_script(name, found, rules) for name, found in m.scripts.items()),
        _stable(m.candidate, m.baseline, rules),
        _memory(m, rules),
    )
    return Decision(all(o.verdict is not Verdict.FAILS for o in outcomes), outcomes)


def _throughput(found: Interval, rules: Rules) -> Outcome:
    holds = found.value >= rules.throughput and found.low > rules.throughput_low
    wanted = f">= {rules.throughput:g}x, lower end > {rules.throughput_low:g}x"
    return Outcome("sampling throughput", wanted, _times(found), _verdict(holds))


def _nelbo(found: Interval, rules: Rules) -> Outcome:
    wanted, holds = f"upper end <= {rules.nelbo:+.1%}", found.high <= rules.nelbo
    return Outcome("likelihood bound", wanted, _percent(found), _verdict(holds))


def _script(name: str, found: ScriptGap, rules: Rules) -> Outcome:
    wanted, got = f"<= {rules.script:+.1%}", f"{_percent(found.gap)} over {found.blocks} blocks"
    if found.blocks < rules.script_blocks:
        return Outcome(f"bits per byte, {name}", wanted, f"{got}: too few", Verdict.NOT_JUDGED)
    return Outcome(f"bits per byte, {name}", wanted, got, _verdict(found.gap.value <= rules.script))


def _stable(candidate: Stability, baseline: Stability, rules: Rules) -> Outcome:
    wanted = f"finite losses, spread <= {rules.spread:g}x the baseline's"
    if not candidate.finite:
        return Outcome("stability", wanted, "a loss is not finite, or training diverged", Verdict.FAILS)
    got = f"finite, spread {candidate.spread:.3f} to {baseline.spread:.3f}"
    return Outcome("stability", wanted, got, _verdict(candidate.spread <= rules.spread * baseline.spread))


def _memory(m: Measured, rules: Rules) -> Outcome:
    got = f"call {m.call_memory:.2f}x, training step {m.step_memory:.2f}x"
    holds = m.call_memory <= rules.memory and m.step_memory <= rules.memory
    return Outcome("peak memory", f"<= {rules.memory:g}x", got, _verdict(holds))


def _verdict(holds: bool) -> Verdict:
    return Verdict.HOLDS if holds else Verdict.FAILS


def _times(x: Interval) -> str:
    return f"{x.value:.2f}x ({x.low:.2f} .. {x.high:.2f})"


def _percent(x: Interval) -> str:
    doubt = f"{x.low:+.2%} .. {x.high:+.2%}" if math.isfinite(x.low) else "no interval: one group alone"
    return f"{x.value:+.2%} ({doubt})"
