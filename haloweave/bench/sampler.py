# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What sampling plans cost and what they are worth, on a denoiser that has learnt the grammar.

Every sample starts from nothing but masks, at temperature 1, and is parsed: the share of valid ones is the
quality that a plan with fewer calls has to keep; the entropy beside it tells whether variety was the price.
Knows plans, the grammar's parser and clocks. Must not know training. Axes: R samples, T sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from haloweave.bench.stats import Interval, paired
from haloweave.diffusion.grammar import Grammar
from haloweave.diffusion.judging.generation import pace, samples
from haloweave.diffusion.judging.judge import Variety, variety
from haloweave.diffusion.judging.timing import Latency
from haloweave.diffusion.sampling.orders import Certainty, Confidence, Random
from haloweave.diffusion.sampling.reader import Predict
from haloweave.diffusion.schedule import Linear
from haloweave.diffusion.unmask import Unmasking

ONE_BY_ONE = "one token a step"
THRESHOLD = "sure tokens at once"


def plans(length: int, threshold: float = 0.9) -> Mapping[str, Unmasking]:
    """What is compared, the baseline first. All draw at temperature 1.

    One token a step in any order is exact: samples come out as often as the denoiser says. The surest first
    is exact only as far as the denoiser agrees with itself; the order by drawn tokens (MaskGIT) never is. The
    reverse process takes four times as many steps as there are tokens: most change nothing, and the cache
    skips those. Where no token is sure, one is written all the same, in the plan's order.
    """
    one = Unmasking(steps=length, schedule=Linear(), order=Random(), cache=False)
    some = replace(one, threshold=threshold, cache=True)
    chance = Unmasking(steps=4 * length, schedule=Linear(), ancestral=True)
    return {
        ONE_BY_ONE: one,
        THRESHOLD: some,
        "one token a step, surest first": replace(one, order=Certainty()),
        "sure tokens at once, surest first": replace(some, order=Certainty()),
        "one token a step, surest draw first": replace(one, order=Confidence()),
        "sure tokens at once, surest draw first": replace(some, order=Confidence()),
        "12 steps, surest draw first": Unmasking(steps=12),
        "reverse process": replace(chance, cache=False),
        "reverse process, cached": chance,
    }


@dataclass(frozen=True, eq=False)
class Sampled:
    """What one plan made."""

    plan: str
    steps: float
    """Rounds a sample, on average; and of those, calls: `latency.calls_per_sample`."""
    latency: Latency
    rows: Int[np.ndarray, "R T"] = field(repr=False)
    valid: Bool[np.ndarray, " R"] = field(repr=False)
    variety: Variety
    broken: Mapping[str, int]
    """How often each rule was the first that did not hold."""

    @property
    def validity(self) -> float:
        return float(self.valid.mean())

    def worse(self, baseline: Sampled) -> Interval:
        """By how much the baseline's share of valid samples is larger; samples are paired by their seeds."""
        a, b = baseline.valid.astype(float), self.valid.astype(float)
        return paired(a, b, np.ones(len(a)))

    def fewer(self, baseline: Sampled) -> float:
        """The baseline's calls for each one of this plan's."""
        return baseline.latency.calls_per_sample / self.latency.calls_per_sample


def sample(
    predict: Predict,
    grammar: Grammar,
    name: str,
    plan: Unmasking,
    *,
    count: int = 200,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Sampled:
    """`count` samples, one at a time, each from a seed of its own: the same ones under every plan."""
    made = samples(
        predict,
        grammar.length,
        count,
        mask_id=grammar.mask_id,
        pad_id=grammar.pad_id,
        plan=plan,
        seed=seed,
        progress=lambda what, done, of: progress(done),
    )
    rows = torch.cat([m.tokens for m in made]).numpy()
    faults = [grammar.broken(row) for row in rows]
    return Sampled(
        plan=name,
        steps=float(np.mean([m.steps for m in made])),
        latency=pace(made),
        rows=rows,
        valid=np.array([fault is None for fault in faults]),
        variety=variety(rows.tolist()),
        broken={fault: faults.count(fault) for fault in sorted({f for f in faults if f})},
    )


def lines(found: Sequence[Sampled]) -> list[tuple[dict[str, Any], list[Any]]]:
    """A record and the cells of a table for each, compared with the first."""
    return [_line(one, found[0]) for one in found]


def _line(one: Sampled, baseline: Sampled) -> tuple[dict[str, Any], list[Any]]:
    pace, worse, fewer = one.latency, one.worse(baseline), one.fewer(baseline)
    record: dict[str, Any] = {"plan": one.plan, "steps": one.steps, "calls": pace.calls_per_sample}
    record |= {"fewer_calls": fewer, "p50_ms": pace.p50, "p99_ms": pace.p99}
    record |= {"tokens_per_s": pace.tokens_per_second, "valid": one.validity, "worse": worse.json()}
    record |= {"entropy": one.variety.entropy, "distinct": list(one.variety.distinct), "broken": one.broken}
    cells = [one.plan, f"{one.steps:.1f}", f"{pace.calls_per_sample:.1f}", f"{fewer:.1f}x"]
    cells += [f"{pace.p50:.0f} ms", f"{pace.p99:.0f} ms", f"{one.validity:.1%}"]
    cells += [f"{-100 * worse.mean:+.1f} [{-100 * worse.high:+.1f}, {-100 * worse.low:+.1f}]"]
    return record, [*cells, f"{one.variety.entropy:.2f}", f"{one.variety.distinct[1]:.2f}"]
