# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A context over a DynamicCache of transformers 5 that keeps all, or the last tokens only, prefilled again.

Knows transformers 5. Must not know a peer. Axes: Q tokens fed, V vocabulary.
"""

from __future__ import annotations

import copy
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.generation import StoppingCriteriaList

from .context import Arm, Context, fed, share, timed

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

SLACK = 4
"""Where text is cut, a quarter of the rows goes at once: to prefill all again for every pass would only cost
time."""


def cache_bytes(cache: Any) -> int:
    """Of the keys and values in a DynamicCache."""
    held = [t for layer in cache.layers if layer.keys is not None for t in (layer.keys, layer.values)]
    return sum(t.numel() * t.element_size() for t in held)


class Whole(Context):
    """Everything that was read; `generate` goes on from it."""

    def __init__(self, model: Any, ids: list[int] | None = None, cache: Any = None) -> None:
        self._model, self._ids = model, ids or []
        self.cache = cache if cache is not None else DynamicCache(config=model.config)

    def feed(self, ids: list[int]) -> Float[Tensor, "Q V"]:
        told = self._model(input_ids=torch.tensor([ids]), past_key_values=self.cache, use_cache=True)
        self._ids = self._ids + ids
        logits: Tensor = told.logits[0]
        return logits.float().log_softmax(-1)

    def fork(self) -> Whole:
        return Whole(self._model, self._ids, copy.deepcopy(self.cache))

    def close(self) -> None:
        pass

    def alive(self, spans: list[list[int]]) -> float:
        return share(torch.arange(len(self._ids)), spans)

    def bytes(self) -> int:
        return cache_bytes(self.cache)

    def seconds(self, last: Float[Tensor, " V"], count: int) -> list[float]:
        """`generate` tells the time after each token; the first of them ends its setting up."""
        marks: list[float] = []

        def mark(ids: Tensor, scores: Any, **more: Any) -> Tensor:
            marks.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        ids = torch.tensor([[*self._ids, int(last.argmax())]])
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=self.cache,
            max_new_tokens=count + 1,
            min_new_tokens=count + 1,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([mark]),
        )
        return [b - a for a, b in pairwise(marks)]


class Last(Context):
    """The last rows. What no longer fits goes, oldest first; the rest is prefilled again from position 0."""

    def __init__(self, model: Any, rows: int, chunk: int, ids: list[int], first: int, cache: Any) -> None:
        self._model, self._rows, self._chunk = model, rows, chunk
        self._ids, self._first, self._cache = ids, first, cache

    def feed(self, ids: list[int]) -> Float[Tensor, "Q V"]:
        if len(self._ids) + len(ids) > self._rows:
            self._cut(max(self._rows // SLACK, len(ids)))
        whole = Whole(self._model, self._ids, self._cache)
        log_p = whole.feed(ids)
        self._ids = self._ids + ids
        return log_p

    def _cut(self, room: int) -> None:
        keep = max(self._rows - room, 0)
        kept = self._ids[len(self._ids) - keep :] if keep else []
        whole = Whole(self._model)
        if kept:
            fed(whole, kept, self._chunk)
        self._first += len(self._ids) - len(kept)
        self._ids, self._cache = kept, whole.cache

    def fork(self) -> Last:
        return Last(self._model, self._rows, self._chunk, self._ids, self._first, copy.deepcopy(self._cache))

    def close(self) -> None:
        pass

    def alive(self, spans: list[list[int]]) -> float:
        return share(torch.arange(self._first, self._first + len(self._ids)), spans)

    def bytes(self) -> int:
        return cache_bytes(self._cache)

    def seconds(self, last: Float[Tensor, " V"], count: int) -> list[float]:
        return timed(self, last, count)


class Everything(Arm):
    """Full context."""

    rows = 0

    def __init__(self, model: Any, name: str, chunk: int) -> None:
        self._model, self.name, self._chunk = model, name, chunk

    def start(self) -> Whole:
        return Whole(self._model)

    def read(self, ids: list[int], before: Context | None, known: int, room: int) -> Context:
        context = before or self.start()
        if len(ids) > known:
            fed(context, ids[known:], self._chunk)
        return context


class Truncated(Arm):
    """The last rows; before a question exactly as many go as the longest one needs."""

    def __init__(self, model: Any, name: str, rows: int, chunk: int) -> None:
        self._model, self.name, self.rows, self._chunk = model, name, rows, chunk

    def start(self) -> Last:
        return Last(self._model, self.rows, self._chunk, [], 0, DynamicCache(config=self._model.config))

    def read(self, ids: list[int], before: Context | None, known: int, room: int) -> Context:
        if before is not None and known == len(ids):
            return before
        keep = min(max(self.rows - room, 1), len(ids))
        whole = Whole(self._model)
        fed(whole, ids[len(ids) - keep :], self._chunk)
        first = len(ids) - keep
        return Last(self._model, self.rows, self._chunk, ids[first:], first, whole.cache)
