# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What culling costs when the text is read again, and how much of that repair wins back, at equal length.

A case is 1,024 tokens of real text culled to half by the brightness that the host's own attention gave them,
and the 256 tokens that follow. The culled text is read afresh (as after a crash, or on an engine that can
only recompute), as it is or repaired, and the loss of what follows is measured. All arms hold the same rows.

    full   nothing culled                    drop   culled live: rows leave, survivors keep what they learned
    none   read again as it is               arms   read again repaired

The hole gap is none - drop: what reading again costs beyond the culling itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from haloweave import build
from haloweave.corpus import documents
from haloweave.memory.cull import DimmestFirst
from haloweave.memory.laws import Laws
from haloweave.memory.plan import delete
from haloweave.memory.tokens import Source
from haloweave.repair.base import Scorer
from haloweave.settings import Settings

CONTEXT, NEXT = 1024, 256
KEPT = 512
_SINKS = 4


@dataclass(frozen=True, eq=False)
class Case:
    """One culled text. Axes: S tokens of context, Q that follow."""

    name: str
    ids: np.ndarray = field(repr=False)
    following: np.ndarray = field(repr=False)
    brightness: np.ndarray = field(repr=False)
    dead: np.ndarray = field(repr=False)
    full: float
    """Nats a token of what follows, nothing culled."""
    drop: float
    """The same after the live cull."""

    @property
    def kept(self) -> np.ndarray:
        """The culled text."""
        ids: np.ndarray = self.ids[~self.dead]
        return ids


def texts(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Name and text of each file."""
    return [(p.stem, "\n\n".join(d.text for d in documents([p]))) for p in paths]


def stretches(
    encode: Callable[[str], Sequence[int]], given: Sequence[tuple[str, str]], count: int
) -> Iterator[tuple[str, np.ndarray]]:
    """`count` stretches of CONTEXT + NEXT tokens, spread evenly over the texts."""
    for i in range(count):
        name, text = given[i % len(given)]
        rounds, turn = -(-count // len(given)), i // len(given)
        start = (len(text) * (turn + 1)) // (rounds + 1)
        ids = np.array(encode(text[start : start + 8 * (CONTEXT + NEXT)])[: CONTEXT + NEXT], np.int64)
        if len(ids) == CONTEXT + NEXT:
            yield name, ids


def cases(
    loaded: Any, s: Settings, scorer: Scorer, name: str, ids: np.ndarray, smooths: Sequence[int]
) -> Iterator[Case]:
    """One stretch, culled with each smoothing over neighbours (1: token by token)."""
    context, following = ids[:CONTEXT], ids[CONTEXT:]
    full = -float(scorer.read(context).extend(following).mean())
    for smooth in smooths:
        mind = _read(loaded, s, scorer.opening, context)
        laws = Laws(sinks=1 + _SINKS, tail=0, lock=float("inf"))
        surplus = mind.rows - 1 - KEPT
        choice = DimmestFirst(laws=laws, smooth=smooth).choose(mind.view, surplus)
        dead = np.isin(mind.view.tokens.uid, choice.uids)[1:]
        brightness = mind.view.tokens.brightness[1:].copy()
        mind.commit(delete(mind.view, choice.uids.tolist()))
        yield Case(name, context, following, brightness, dead, full, _loss(mind.engine, following))


def _read(loaded: Any, s: Settings, opening: int, context: np.ndarray) -> Any:
    """A mind that has read a text, an opening token before it as the scorer reads it."""
    mind = build.mind_of(s.model_copy(update={"budget": CONTEXT + NEXT + 1, "system": ""}), loaded)
    mind.feed_ids([opening], Source.TEXT)
    for at in range(0, len(context), s.chunk):
        mind.feed_ids(context[at : at + s.chunk], Source.TEXT)
    return mind


def _loss(engine: Any, following: np.ndarray) -> float:
    """Nats a token of what follows the engine's rows."""
    before = engine.reread().logits.astype(np.float64)
    first = before[following[0]] - np.logaddexp.reduce(before)
    rest = engine.feed(following, score=True).logprobs
    return -float(first + rest.sum(dtype=np.float64)) / len(following)


@dataclass(frozen=True)
class Reading:
    """What one arm gives on one case."""

    text: float
    """Nats a token of the text itself."""
    following: float
    """Nats a token of what follows."""
    rows: int
    changed: int
    """Tokens that differ from the culled text's, by the longest common subsequence."""


def read(scorer: Scorer, case: Case, ids: np.ndarray) -> Reading:
    """Read a repaired text afresh, and what follows it."""
    reading = scorer.read([])
    text = -float(reading.extend(ids).mean())
    return Reading(text, -float(reading.extend(case.following).mean()), len(ids), changed(case.kept, ids))


def changed(before: np.ndarray, after: np.ndarray) -> int:
    """Tokens of `after` that are not a common subsequence's."""
    common = np.zeros(len(after) + 1, np.int64)
    for token in before:
        diagonal = np.concatenate([[0], common[:-1] + (after == token)])
        common = np.maximum.accumulate(np.maximum(common, diagonal))
    return int(len(after) - common[-1])


@dataclass(frozen=True)
class Share:
    """A ratio of means over cases, with a 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def json(self) -> list[float]:
        return [round(self.value, 4), round(self.low, 4), round(self.high, 4)]


def closed(none: np.ndarray, arm: np.ndarray, drop: np.ndarray, draws: int = 4000, seed: int = 0) -> Share:
    """Share of the hole gap that an arm closes: 0 as no repair, 1 as the live cull."""
    pick = np.random.default_rng(seed).integers(0, len(none), (draws, len(none)))
    gap = (none - drop)[pick].mean(axis=1)
    shares = (none - arm)[pick].mean(axis=1) / np.where(np.abs(gap) < 1e-9, np.nan, gap)
    low, high = np.nanpercentile(shares, [2.5, 97.5])
    return Share(float((none - arm).mean() / (none - drop).mean()), float(low), float(high))
