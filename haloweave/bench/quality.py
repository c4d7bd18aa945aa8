# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Streaming perplexity: how well the model predicts a long text while it may hold only so many rows.

Every arm reads the same tokens in the same chunks with the same budget and weave schedule; only the
brightness policy differs. The loss of every token counts, including the first chunks, which are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from haloweave import build
from haloweave.bench.stats import Interval, paired
from haloweave.errors import InvalidInput
from haloweave.events import Fed
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.settings import Settings


@dataclass(frozen=True)
class Losses:
    """One arm's reading of one text, chunk by chunk."""

    arm: str
    nats: np.ndarray = field(repr=False)
    tokens: np.ndarray = field(repr=False)
    peak_rows: int = 0

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.nats.sum() / self.tokens.sum()))


def read_scored(mind: Mind, text: str, limit: int, arm: str = "") -> Losses:
    """Read `limit` tokens of a text; the loss of each chunk."""
    ids = mind.codec.encode([text])[0][:limit]
    exact = b"".join(mind.codec.piece(i) for i in ids).decode("utf-8", "ignore")
    fed = [e for e in mind.listen(exact, Source.TEXT, score=True) if isinstance(e, Fed)]
    nats = np.array([-(e.logprob or 0.0) for e in fed])
    return Losses(arm, nats, np.array([e.tokens for e in fed]), max(e.rows for e in fed))


def bare(settings: Settings, loaded: Any) -> Mind:
    """A mind without chat frame or system turn: raw text and nothing else."""
    mind = build.mind_of(settings, loaded)
    if mind.codec.frame is not None:
        raise InvalidInput("expected a tokenizer without chat template: strip it first")
    return mind


def compare(
    loaded: Any, base: Settings, policies: Sequence[str], text: str, limit: int
) -> Iterator[tuple[Losses, Interval | None]]:
    """Each policy's losses on one text, and how much worse than the first it is (nats a token, paired)."""
    first: Losses | None = None
    for policy in policies:
        mind = bare(base.model_copy(update={"policy": policy}), loaded)
        losses = read_scored(mind, text, limit, policy)
        if first is None:
            first = losses
            yield losses, None
        else:
            worse = paired(losses.nats / losses.tokens, first.nats / first.tokens, losses.tokens)
            yield losses, worse
