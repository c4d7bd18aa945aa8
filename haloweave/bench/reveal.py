# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What plans of few calls cost and are worth on a trained denoiser of text, against one token a step.

Texts of a fixed length from nothing but masks, at temperature 1, one at a time, from the same seeds under
every plan. A plan *reaches* the mark if it makes four times fewer calls, a language model finds its texts no
more perplexing (5 % more at most, and an interval that allows for none more), and their entropy is within
0.05 nats of the baseline's. All three at once: repeating oneself makes texts less perplexing, not better. It
reaches the mark *surely* if 5 % is the upper end of the interval: few texts leave room for doubt.

Knows plans, samples and a judge that is handed in. Must not know training, files or screens.
Axes: R samples, T tokens of a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.errors import BadInput, TooLittleText
from haloweave.diffusion.judging.generation import pace, real_rows, samples
from haloweave.diffusion.judging.held import Decode, Held
from haloweave.diffusion.judging.intervals import DRAWS, Interval, ratio
from haloweave.diffusion.judging.judge import Judge, Variety, Verdict, variety
from haloweave.diffusion.judging.timing import Latency
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.orders import Certainty, Order
from haloweave.diffusion.schedule import Linear
from haloweave.diffusion.unmask import Unmasking

ONE_BY_ONE = "one token a step"


@dataclass(frozen=True)
class Grid:
    """Which plans. Raises BadInput for values that no plan can have."""

    steps: tuple[int, ...] = (8, 12, 16)
    stops: tuple[float, ...] = (0.95, 0.98, 0.99)
    """Confidence stops, each at every number of steps."""
    thresholds: tuple[float, ...] = (0.5, 0.7, 0.9)
    order: Order = field(default_factory=Certainty)
    base: Unmasking = field(default_factory=Unmasking)
    """What all plans have in common beside these."""

    def plans(self, length: int) -> Mapping[str, Unmasking]:
        """By name, the baseline first: it reveals one token a step in the same order."""
        some = replace(self.base, order=self.order)
        one = replace(some, steps=length, schedule=Linear())
        by_plan = {f"{n} steps": replace(some, steps=n) for n in self.steps}
        stopped = {
            f"{n} steps, stop at {p:g}": replace(some, steps=n, confidence_stop=p)
            for n in self.steps
            for p in self.stops
        }
        sure = {f"surer than {p:g}": replace(one, threshold=p) for p in self.thresholds}
        return {ONE_BY_ONE: one, **by_plan, **stopped, **sure}


@dataclass(frozen=True)
class Mark:
    """What is to be reached, beside one token a step."""

    fewer: float = 4.0
    worse: float = 0.05
    """Share by which the judge's perplexity may be higher."""
    entropy: float = 0.05
    """Nats by which the entropy may differ, either way."""


@dataclass(frozen=True, eq=False)
class Revealed:
    """What one plan made."""

    plan: str
    steps: float
    """Rounds a text, on average."""
    latency: Latency
    variety: Variety
    entropies: Float[np.ndarray, " R"] = field(repr=False)
    said: Verdict | None = field(repr=False)
    """Of the judge; None where nobody judged."""
    texts: tuple[str, ...] = field(repr=False)

    @property
    def perplexity(self) -> Interval | None:
        """Per token of the judge."""
        if self.said is None:
            return None
        return _perplexity(self.said)

    def fewer(self, baseline: Revealed) -> float:
        """The baseline's calls for each one of this plan's."""
        return baseline.latency.calls_per_sample / self.latency.calls_per_sample

    def entropy_gap(self, baseline: Revealed) -> Interval:
        """Nats above the baseline's, texts paired by their seeds."""
        return ratio(self.entropies - baseline.entropies, np.ones(len(self.entropies)))

    def worse(self, baseline: Revealed) -> Interval | None:
        """Perplexity over the baseline's, texts paired by their seeds; above 1 it is more perplexing."""
        if self.said is None or baseline.said is None:
            return None
        return perplexity_ratio(self.said, baseline.said)

    def reaches(self, baseline: Revealed, mark: Mark) -> bool | None:
        """Whether all of the mark is reached; None where nobody judged."""
        worse = self.worse(baseline)
        if worse is None:
            return None
        equal = worse.value <= 1 + mark.worse and worse.low <= 1
        as_varied = abs(self.entropy_gap(baseline).value) <= mark.entropy
        return equal and as_varied and self.fewer(baseline) >= mark.fewer

    def surely(self, baseline: Revealed, mark: Mark) -> bool:
        """Whether it reaches the mark with the upper end of the perplexity's interval too."""
        worse = self.worse(baseline)
        return worse is not None and bool(self.reaches(baseline, mark)) and worse.high <= 1 + mark.worse


def perplexity_ratio(one: Verdict, other: Verdict, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """exp of the difference of nats per token, with a percentile interval over texts, drawn in pairs.

    Raises BadInput for verdicts on different numbers of texts, or on none that the judge can read.
    """
    sums = [np.asarray(x, np.float64) for v in (one, other) for x in (v.nats, v.tokens)]
    if len({len(x) for x in sums}) > 1 or not (sums[1].sum() and sums[3].sum()):
        raise BadInput(f"perplexities: expected texts in pairs, got {[len(x) for x in sums]}")
    pick = np.random.default_rng(seed).integers(0, len(sums[0]), (draws, len(sums[0])))
    drawn = [x[pick].sum(axis=1) for x in sums]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.exp(drawn[0] / drawn[1] - drawn[2] / drawn[3])
    low, high = np.nanpercentile(found, [2.5, 97.5]) if len(sums[0]) > 1 else (math.nan, math.nan)
    value = math.exp(sums[0].sum() / sums[1].sum() - sums[2].sum() / sums[3].sum())
    return Interval(value, float(low), float(high))


def reveal(
    denoiser: Denoiser,
    held: Held,
    decode: Decode,
    grid: Grid,
    *,
    length: int = 64,
    count: int = 32,
    judge: Judge | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[Revealed]:
    """Each plan's texts, the baseline's first. No text ends before its length: what ended early would have
    another entropy. Raises TooLong for more tokens than the denoiser reads."""
    never = held.never(denoiser.config.mask_id)
    for name, plan in grid.plans(length).items():
        made = samples(
            denoiser,
            length,
            count,
            mask_id=denoiser.config.mask_id,
            never=never,
            plan=plan,
            seed=seed,
            progress=_named(progress, name),
        )
        rows = [m.tokens[0].tolist() for m in made]
        texts = tuple(decode(row) for row in rows)
        steps = float(np.mean([m.steps for m in made]))
        said = None if judge is None else judge.nats(texts)
        yield Revealed(name, steps, pace(made), variety(rows), _entropies(rows), said, texts)


def _named(progress: Progress, name: str) -> Progress:
    return lambda _, done, of: progress(f"sampling: {name}", done, of)


def real(
    held: Held, length: int, count: int, decode: Decode, judge: Judge | None
) -> tuple[Variety, Interval]:
    """Variety of real texts of exactly this length, and what the judge makes of them (nan without one).

    Raises TooLittleText where no held-out row is as long.
    """
    rows = [row for row in real_rows(held, length, count) if len(row) == length]
    if not rows:
        raise TooLittleText(f"real text: expected a held-out row of {length} tokens, got none; ask for less")
    if judge is None:
        return variety(rows), Interval(math.nan, math.nan, math.nan)
    said = judge.nats([decode(row) for row in rows])
    return variety(rows), _perplexity(said)


def _perplexity(said: Verdict) -> Interval:
    return ratio(said.nats, said.tokens).map(lambda x: float(np.exp(min(x, 700.0))))


def _entropies(rows: Sequence[Sequence[int]]) -> Float[np.ndarray, " R"]:
    return np.array([variety([row]).entropy for row in rows])
