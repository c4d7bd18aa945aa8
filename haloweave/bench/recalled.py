# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What the recall benchmark measured, as lines of a table: shares with Wilson's intervals, answers with
bootstrap intervals over the questions. Measures nothing itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from haloweave.bench.facts import FACTS
from haloweave.bench.holes import Share, closed
from haloweave.bench.recall import FULL, NONE, RECALL, TUNED, Recollection
from haloweave.bench.stats import Interval, paired


@dataclass(frozen=True)
class Chance:
    """How many of how many."""

    what: str
    right: int
    of: int

    def cells(self) -> list[str]:
        low, high = wilson(self.right, self.of)
        return [
            self.what,
            f"{self.right} of {self.of}",
            f"{self.right / max(self.of, 1):.0%} [{low:.0%}, {high:.0%}]",
        ]

    def json(self) -> dict[str, object]:
        low, high = wilson(self.right, self.of)
        return {
            "what": self.what,
            "right": self.right,
            "of": self.of,
            "interval": [round(low, 4), round(high, 4)],
        }


@dataclass(frozen=True)
class Line:
    """One arm's answers."""

    arm: str
    there: int
    of: int
    mean: float
    """Nats an answer."""
    median: float
    better: Interval | None
    """Nats by which recall is better, paired."""
    share: Share | None
    """Of what full context gains over none."""

    def cells(self) -> list[str]:
        better, share = self.better, self.share
        return [
            self.arm,
            f"{self.there} of {self.of}",
            f"{self.mean:.2f}",
            f"{self.median:.2f}",
            "" if better is None else f"{better.mean:+.2f} [{better.low:+.2f}, {better.high:+.2f}]",
            "" if share is None else f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]",
        ]

    def json(self) -> dict[str, object]:
        numbers = {"there": self.there, "of": self.of, "mean": self.mean, "median": self.median}
        better = self.better.json() if self.better else None
        return {
            "arm": self.arm,
            **numbers,
            "better": better,
            "share": self.share.json() if self.share else None,
        }


def chances(found: Recollection) -> Iterator[Chance]:
    """What came back, of the facts and of others."""
    asked = found.of(RECALL)
    groups = {
        "planted sentence in the context": range(len(FACTS)),
        "... of the facts that judge": range(TUNED, len(FACTS)),
        "... said amid other talk": [n for n in range(len(FACTS)) if n not in found.alone],
        "... asked without a common word": [n for n, fact in enumerate(FACTS) if fact.apart],
        "... culled before it was asked for": [a.fact for a in asked if not a.before],
    }
    for what, facts in groups.items():
        told = [a for a in asked if a.fact in facts]
        yield Chance(what, sum(a.there for a in told), len(told))
    yield Chance("questions that (also) brought something else", sum(a.wrong > 0 for a in asked), len(asked))
    yield Chance(
        "passages brought that were something else",
        sum(a.wrong for a in asked),
        sum(a.brought for a in asked),
    )
    yield Chance("first found was the planted one", sum(h.rank == 1 for h in found.hits), len(found.hits))
    for what, marked in (("statements", False), ("questions", True)):
        others = [a for a in found.alarms if ("?" in a.text) == marked]
        yield Chance(f"other {what} that brought something", sum(a.brought > 0 for a in others), len(others))
    yield Chance("... a planted fact", sum(a.planted > 0 for a in found.alarms), len(found.alarms))


def lines(found: Recollection) -> Iterator[Line]:
    """Every arm, the best first."""
    arms = dict.fromkeys(a.arm for a in found.answers)
    ours, nothing = found.logprobs(RECALL), found.logprobs(NONE)
    whole = found.logprobs(FULL) if FULL in arms else None
    for arm in sorted(arms, key=lambda arm: -found.logprobs(arm).mean()):
        nats = found.logprobs(arm)
        better = None if arm == RECALL else paired(ours, nats, np.ones(len(nats)))
        gained = whole is not None and arm not in (NONE, FULL)
        share = closed(-nothing, -nats, -whole) if gained and whole is not None else None
        there = sum(a.there for a in found.of(arm))
        yield Line(arm, there, len(nats), float(nats.mean()), float(np.median(nats)), better, share)


def latency(found: Recollection) -> tuple[float, float]:
    """Seconds of a search, its query embedded: median, and 95th percentile."""
    p50, p95 = np.percentile([h.seconds for h in found.hits], [50, 95])
    return float(p50), float(p95)


def wilson(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score interval)."""
    if not of:
        return 0.0, 1.0
    share, n = right / of, float(of)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, middle - half), min(1.0, middle + half)
