# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The surgery contract: random edits on an engine, checked row by row against the slow reference.

Knows how to invent edits, apply them to both sides and compare. Must not know how either side works.
Run by `halo test-kv` on a model of the person's choice, and by the tests on tiny models.

A sequence feeds some tokens in random chunks, then makes a few random changes: deletions (DROP), deletions
with substitutions and insertions (PATCH), changes with everything after them computed again
(RECOMPUTE), and further tokens at the tail. After each change the keys and values of every layer are
compared, and the logits for one more token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from haloweave.engine.base import Engine
from haloweave.engine.reference import SlowReference
from haloweave.errors import ModelUnsupported
from haloweave.memory.edit import BORN, Edit, Splice, Surgery
from haloweave.memory.mirror import Mirror
from haloweave.memory.tokens import Source, Tokens, View

CHECKED = (Surgery.DROP, Surgery.PATCH, Surgery.RECOMPUTE)


class OpenEngine(Engine, Protocol):
    """An engine that lets its rows be looked at."""

    def layer_rows(self) -> Sequence[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, [H, S, D]."""
        ...


@dataclass(frozen=True)
class Verdict:
    """Largest differences seen for one surgery, over all sequences."""

    surgery: Surgery
    edits: int
    logits: float
    """Absolute, as in the law: at most 1e-4 in fp32."""
    keys: float
    """Relative to the largest number of the layer."""
    values: float
    supported: bool = True

    def ok(self, bound: float = 1e-4) -> bool:
        return not self.supported or max(self.logits, self.keys, self.values) <= bound


def examine(
    engine: OpenEngine,
    model: Any,
    *,
    sequences: int,
    seed: int = 0,
    rows: int = 40,
    text: Sequence[int] | np.ndarray | None = None,
) -> list[Verdict]:
    """Run the contract; `model` is the stock model whose weights the engine uses.

    Contexts and births are passages of `text` (token ids, far more than `rows`), or random ids without it.
    A trained model wants text: on random ids it is so ill-conditioned that two stock kernels differ by
    more than the bound.
    """
    seen = examining(engine, model, sequences=sequences, seed=seed, rows=rows, text=text)
    return list(verdicts(engine, list(seen)))


class Words:
    """Where token ids come from: random passages of a text, or random ids."""

    def __init__(
        self, vocabulary: int, text: Sequence[int] | np.ndarray | None, rng: np.random.Generator
    ) -> None:
        self._vocabulary, self._rng = vocabulary, rng
        self._text = None if text is None else np.asarray(text, np.int64)

    def take(self, count: int) -> np.ndarray:
        """`count` ids."""
        if self._text is None:
            return self._rng.integers(0, self._vocabulary, count)
        start = int(self._rng.integers(0, len(self._text) - count))
        return self._text[start : start + count]


@dataclass(frozen=True)
class Difference:
    """What one edit left between the engine and the reference."""

    surgery: Surgery
    logits: float
    keys: float
    values: float


def examining(
    engine: OpenEngine,
    model: Any,
    *,
    sequences: int,
    seed: int = 0,
    rows: int = 40,
    text: Sequence[int] | np.ndarray | None = None,
) -> Iterator[Difference]:
    """The same, edit by edit, for callers that show progress."""
    surgeries = [s for s in CHECKED if s in engine.capabilities.surgeries]
    try:
        reference = SlowReference(model)
    except ModelUnsupported:
        reference = None
    for number in range(sequences):
        rng = np.random.default_rng([seed, number])
        words = Words(engine.capabilities.vocabulary, text, rng)
        mirror = Mirror()
        engine.kv.rebuild([])
        if reference:
            reference.recompute([])
        _feed(engine, reference, mirror, words.take(rows), rng)
        for _ in range(int(rng.integers(2, 5))):
            surgery = surgeries[int(rng.integers(len(surgeries)))]
            edit = invent(mirror.view, surgery, rng, words)
            engine.kv.apply(edit)
            index = edit.gather(mirror.rows)
            mirror.apply(edit)
            yield _compare(engine, reference, model, mirror, index, surgery, words)
            _feed(engine, reference, mirror, words.take(3), rng)


def invent(view: View, surgery: Surgery, rng: np.random.Generator, words: Words) -> Edit:
    """A random edit of a few splices: deletions, and for other surgeries than DROP also births."""
    tokens = view.tokens
    cuts = np.sort(rng.choice(np.arange(len(tokens) + 1), size=2 * int(rng.integers(1, 4)), replace=False))
    splices, uid = [], view.next_uid
    for a, b in cuts.reshape(-1, 2).tolist():
        b = min(b, a + 4)
        born = 0 if surgery is Surgery.DROP else int(rng.integers(0, 4))
        if surgery is not Surgery.DROP and rng.random() < 0.2:
            b = a
        ids = words.take(born)
        splices.append(Splice(a, tokens[a:b], Tokens.make(ids, first_uid=uid, source=Source.MODEL)))
        uid += born
    return Edit(view.revision, view.tick, "contract", surgery, tuple(splices))


def _feed(
    engine: OpenEngine,
    reference: SlowReference | None,
    mirror: Mirror,
    ids: np.ndarray,
    rng: np.random.Generator,
) -> None:
    bounds = np.unique([0, *rng.integers(0, len(ids), 2), len(ids)])
    for a, b in pairwise(bounds.tolist()):
        engine.feed(ids[a:b])
        if reference:
            reference.feed(ids[a:b].tolist())
        mirror.append(Tokens.make(ids[a:b], first_uid=mirror.view.next_uid, source=Source.USER))


def _compare(
    engine: OpenEngine,
    reference: SlowReference | None,
    model: Any,
    mirror: Mirror,
    index: np.ndarray,
    surgery: Surgery,
    words: Words,
) -> Difference:
    ids = mirror.view.tokens.token_id.tolist()
    probe = int(words.take(1)[0])
    if reference is None:
        expected_rows = _fresh_rows(model, ids)
        expected = SlowReference.fresh(model, [*ids, probe])
    else:
        if surgery is Surgery.RECOMPUTE:
            reference.recompute(ids)
        else:
            source = [None if i == BORN else int(i) for i in index]
            reference.edit(list(zip(source, ids, strict=True)))
        expected_rows, expected = reference.rows(), reference.peek([probe])
    keys, values = _row_gaps(engine.layer_rows(), expected_rows)
    got = engine.feed([probe]).logits
    logits = float(np.abs(got - expected.float().cpu().numpy()).max())
    uid = mirror.view.next_uid
    mirror.append(Tokens.make([probe], first_uid=uid, source=Source.USER))
    if reference:
        reference.feed([probe])
    return Difference(surgery, logits, keys, values)


@torch.inference_mode()
def _fresh_rows(model: Any, ids: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values that stock code computes for these ids, for models the slow reference cannot move."""
    cache = model(torch.tensor([ids]), use_cache=True).past_key_values
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def _row_gaps(
    got: Sequence[tuple[Tensor, Tensor]], expected: Sequence[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Largest difference of keys and of values at any layer, relative to the layer's largest number."""
    worst = [0.0, 0.0]
    for ours, theirs in zip(got, expected, strict=bool(expected)):
        for kind in (0, 1):
            want = theirs[kind].double()
            if ours[kind].shape != want.shape:
                return float("inf"), float("inf")
            gap = (ours[kind].to(want.device, torch.float64) - want).abs().max() / want.abs().max().clamp_min(
                1.0
            )
            worst[kind] = max(worst[kind], float(gap))
    return worst[0], worst[1]


def verdicts(engine: Engine, seen: Sequence[Difference]) -> Iterator[Verdict]:
    """The worst difference of each surgery."""
    for surgery in CHECKED:
        these = [d for d in seen if d.surgery is surgery]
        yield Verdict(
            surgery,
            len(these),
            max((d.logits for d in these), default=0.0),
            max((d.keys for d in these), default=0.0),
            max((d.values for d in these), default=0.0),
            supported=surgery in engine.capabilities.surgeries,
        )
