# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A language model one can add up by hand: the next token depends on the two before it, by a table.

Knows the protocol `Scorer`. It counts passes and tokens, so that tests can tell what was asked of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OPENING = 0


class FakeScorer:
    """Second-order table over `vocabulary` tokens; the same seed is the same language."""

    def __init__(self, vocabulary: int = 12, seed: int = 0, limit: int = 4096) -> None:
        table = 3.0 * np.random.default_rng(seed).standard_normal((vocabulary, vocabulary, vocabulary))
        self.table = table - np.log(np.exp(table).sum(axis=-1, keepdims=True))
        self.vocabulary, self.opening, self.limit = vocabulary, OPENING, limit
        self.batches: list[int] = []
        """Continuations of each batched pass."""
        self.read_tokens = 0

    def read(self, ids: Sequence[int] | np.ndarray) -> FakeReading:
        reading = FakeReading(self)
        reading.extend(ids)
        return reading

    def logprobs(self, ids: Sequence[int], before: Sequence[int] = ()) -> np.ndarray:
        """Log p of each id after `before` (after the opening)."""
        text = [OPENING, OPENING, *before, *ids]
        start = len(text) - len(ids)
        told = [self.table[text[i - 2], text[i - 1], text[i]] for i in range(start, len(text))]
        return np.array(told, np.float32)


class FakeReading:
    """What was read."""

    def __init__(self, scorer: FakeScorer) -> None:
        self._scorer = scorer
        self.ids: list[int] = []

    @property
    def logits(self) -> np.ndarray:
        a, b = ([OPENING, OPENING, *self.ids])[-2:]
        return self._scorer.table[a, b].astype(np.float32)

    def extend(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        told = self._scorer.logprobs([int(i) for i in ids], self.ids)
        self.ids += [int(i) for i in ids]
        self._scorer.read_tokens += len(ids)
        return told

    def score(self, continuations: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._scorer.batches.append(len(continuations))
        return [self._scorer.logprobs([int(i) for i in c], self.ids) for c in continuations]
