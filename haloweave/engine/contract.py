# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The surgery contract: random edits on an engine, checked row by row against the slow reference.

Knows how to invent edits, apply them to both sides and compare. Must not know how either side works.
Run by `halo test-kv` on a model of the person's choice, and by the tests on tiny models.

A sequence feeds some tokens in random chunks, then makes a few random changes: deletions (DROP), deletions
with substitutions and insertions (PATCH), changes with everything after them computed again (RECOMPUTE),
saved rows that come back, at once or after a while and elsewhere (RESTORE), and further tokens at the tail.
After each change the keys and values of every layer are compared, and the logits for one more token.

The reference computes in float64. Beside it goes the same slow way in the model's own dtype, which says how
much of a difference is mere rounding: there are contexts (the rows that everything attends to are torn out,
one token stands twice at the start) on which stock float32 is 4e-4 from float64 (docs/lab-notes.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from haloweave.engine.base import Engine
from haloweave.engine.reference import Layout, Rows, SlowReference
from haloweave.errors import ModelUnsupported
from haloweave.memory.edit import BORN, Edit, Splice, Surgery
from haloweave.memory.mirror import Mirror
from haloweave.memory.rows import SavedRows
from haloweave.memory.tokens import Source, Tokens, View

CHECKED = (Surgery.DROP, Surgery.PATCH, Surgery.RECOMPUTE, Surgery.RESTORE)
_ROUNDING = 2.0
"""How much further from float64 than the stock model an edit may be whose difference is called rounding."""


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
    """0: nothing was checked, for want of luck, or of a reference that can move the rows of this model."""
    logits: float
    """Absolute, as in the law: at most 1e-4 in fp32."""
    keys: float
    """Relative to the largest number of the layer."""
    values: float
    supported: bool = True
    stock: float = 0.0
    """What the slow way itself has in the model's dtype, on the edit that `logits` is the difference of."""
    unexplained: float | None = None
    """`logits`, but only of edits on which the stock model is less than half as far off. None: of all."""

    def within(self, bound: float = 1e-4) -> bool:
        """Nothing differs by more than this."""
        return not self.supported or _worst((self.logits, self.keys, self.values)) <= bound

    def ok(self, bound: float = 1e-4) -> bool:
        """The same, but for logits that the stock model tells no more than twice as well in this dtype."""
        logits = self.logits if self.unexplained is None else self.unexplained
        return not self.supported or _worst((logits, self.keys, self.values)) <= bound


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
    stock: float = 0.0
    """Of the logits: what the slow way itself has in the model's dtype."""

    @property
    def explained(self) -> bool:
        """The stock model is at least half as far off: two roundings of the same numbers differ that much."""
        return math.isfinite(self.stock) and self.logits <= _ROUNDING * self.stock


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
        reference = _Judges(model)
    except ModelUnsupported:  # no formula says how its rows move: only a fresh prefill can be compared with
        reference, surgeries = None, [Surgery.RECOMPUTE]
    for number in range(sequences):
        rng = np.random.default_rng([seed, number])
        words = Words(engine.capabilities.vocabulary, text, rng)
        trial = _Trial(engine, model, reference, words, rng)
        trial.feed(rows)
        first = number % len(surgeries)  # so that none is left out, even of a few sequences
        for which in [first, *rng.integers(0, len(surgeries), int(rng.integers(1, 4)))]:
            yield trial.change(surgeries[which])
            trial.feed(3)


def invent(view: View, surgery: Surgery, rng: np.random.Generator, words: Words) -> Edit:
    """A random edit of a few splices: deletions, and for other surgeries than DROP also births."""
    splices, uid = [], view.next_uid
    for a, b in _cuts(len(view.tokens), rng):
        born = 0 if surgery is Surgery.DROP else int(rng.integers(0, 4))
        if surgery is not Surgery.DROP and rng.random() < 0.2:
            b = a
        made = Tokens.make(words.take(born), first_uid=uid, source=Source.MODEL)
        splices.append(Splice(a, view.tokens[a:b], made))
        uid += born
    return Edit(view.revision, view.tick, "contract", surgery, tuple(splices))


def returning(view: View, tokens: Tokens, rng: np.random.Generator) -> Edit:
    """A random edit in which these tokens come back, in order, here and there, and others leave."""
    cuts = _cuts(len(view.tokens), rng)
    shares = np.sort(rng.integers(0, len(tokens) + 1, len(cuts) - 1)).tolist()
    splices = [
        Splice(a, view.tokens[a:b], tokens[i:j])
        for (a, b), (i, j) in zip(cuts, pairwise([0, *shares, len(tokens)]), strict=True)
    ]
    return Edit(view.revision, view.tick, "contract", Surgery.RESTORE, tuple(splices))


def _cuts(rows: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """One to three runs of one to four slots."""
    cuts = np.sort(rng.choice(np.arange(rows + 1), size=2 * int(rng.integers(1, 4)), replace=False))
    return [(a, min(b, a + 4)) for a, b in cuts.reshape(-1, 2).tolist()]


class _Judges:
    """The slow reference in float64, and the same in the model's own dtype, edited alike."""

    def __init__(self, model: Any) -> None:
        self._all = [SlowReference(model, torch.float64)]
        if model.dtype != torch.float64:
            self._all.append(SlowReference(model))

    def feed(self, ids: Sequence[int]) -> None:
        for each in self._all:
            each.feed(ids)

    def recompute(self, ids: Sequence[int]) -> None:
        for each in self._all:
            each.recompute(ids)

    def save(self, slots: Sequence[int]) -> list[Rows]:
        return [each.save(slots) for each in self._all]

    def edit(self, layout: Layout, saved: list[Rows] | None = None) -> None:
        for number, each in enumerate(self._all):
            each.edit(layout, saved[number] if saved else None)

    def rows(self) -> list[tuple[Tensor, Tensor]]:
        return self._all[0].rows()

    def peek(self, ids: Sequence[int]) -> list[Tensor]:
        """The logits of each, the exact ones first."""
        return [each.peek(ids) for each in self._all]


@dataclass(frozen=True)
class _Saved:
    """Rows that leave, as either side keeps them."""

    ours: SavedRows
    theirs: list[Rows] | None
    values: list[Tensor]
    """What the engine showed of them in each layer, [H, N, D]: they must come back byte for byte."""


class _Trial:
    """One sequence: the same on the engine, on the reference (where there is one) and on a mirror."""

    def __init__(
        self,
        engine: OpenEngine,
        model: Any,
        reference: _Judges | None,
        words: Words,
        rng: np.random.Generator,
    ) -> None:
        self._engine, self._model, self._reference = engine, model, reference
        self._words, self._rng = words, rng
        self._mirror = Mirror()
        engine.kv.rebuild([])
        if reference:
            reference.recompute([])

    def feed(self, count: int) -> None:
        """Further tokens, in random chunks."""
        ids = self._words.take(count)
        bounds = np.unique([0, *self._rng.integers(0, count, 2), count])
        for a, b in pairwise(bounds.tolist()):
            self._engine.feed(ids[a:b])
            self._fed(ids[a:b])

    def change(self, surgery: Surgery) -> Difference:
        """A random edit on both sides, and what it leaves between them."""
        if surgery is not Surgery.RESTORE:
            self._apply(invent(self._mirror.view, surgery, self._rng, self._words))
            return self._compare(surgery)
        edit, saved = self._coming_back()
        self._apply(edit, saved)
        same = self._brought_back(edit, saved)
        seen = self._compare(surgery)
        return seen if same else replace(seen, values=float("inf"))

    def _coming_back(self) -> tuple[Edit, _Saved]:
        """Rows leave; the edit that restores all of them at once, or some of them later and elsewhere."""
        gone = invent(self._mirror.view, Surgery.DROP, self._rng, self._words)
        tokens = Tokens.concat([s.old for s in gone.splices])
        at_once = self._rng.random() < 0.3
        if not at_once:
            tokens = tokens.take(np.sort(self._rng.permutation(len(tokens))[: self._rng.integers(1, 9)]))
        saved = self._save(tokens)
        self._apply(gone)
        if at_once:
            return replace(gone.inverse(), surgery=Surgery.RESTORE), saved
        self.feed(int(self._rng.integers(1, 6)))
        return returning(self._mirror.view, tokens, self._rng), saved

    def _save(self, tokens: Tokens) -> _Saved:
        slots = self._slots(tokens.uid)
        theirs = self._reference.save(slots.tolist()) if self._reference else None
        values = [v[:, slots].clone() for _, v in self._engine.layer_rows()]
        return _Saved(self._engine.kv.save(slots), theirs, values)

    def _brought_back(self, edit: Edit, saved: _Saved) -> bool:
        slots = self._slots(edit.born_uids)
        now = [v[:, slots] for _, v in self._engine.layer_rows()]
        return all(torch.equal(a, b) for a, b in zip(now, saved.values, strict=True))

    def _slots(self, uids: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.isin(self._mirror.view.tokens.uid, uids))

    def _apply(self, edit: Edit, saved: _Saved | None = None) -> None:
        index = edit.gather(self._mirror.rows).tolist()
        self._engine.kv.apply(edit, saved.ours if saved else None)
        self._mirror.apply(edit)
        ids = self._mirror.view.tokens.token_id.tolist()
        if self._reference and edit.surgery is Surgery.RECOMPUTE:
            self._reference.recompute(ids)
        elif self._reference:
            layout = [(None if i == BORN else i, token_id) for i, token_id in zip(index, ids, strict=True)]
            self._reference.edit(layout, saved.theirs if saved else None)

    def _fed(self, ids: np.ndarray) -> None:
        """The engine was fed these: so are the others."""
        if self._reference:
            self._reference.feed(ids.tolist())
        self._mirror.append(Tokens.make(ids, first_uid=self._mirror.view.next_uid, source=Source.USER))

    def _compare(self, surgery: Surgery) -> Difference:
        """Rows as they are, and the logits for one more token, which stays."""
        ids, probe = self._mirror.view.tokens.token_id.tolist(), self._words.take(1)
        if self._reference:
            rows, told = self._reference.rows(), self._reference.peek(probe.tolist())
        else:
            whole = [*ids, *probe.tolist()]
            exact, all_rows = SlowReference.prefilled(self._model, whole, torch.float64)
            told = [exact]
            if self._model.dtype != torch.float64:
                told.append(SlowReference.prefilled(self._model, whole)[0])
            rows = [(keys[:, : len(ids)], values[:, : len(ids)]) for keys, values in all_rows]
        keys, values = _row_gaps(self._engine.layer_rows(), rows)
        got = self._engine.feed(probe).logits
        self._fed(probe)
        return Difference(
            surgery, _apart(told[0], torch.from_numpy(got)), keys, values, stock=_apart(told[0], told[-1])
        )


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


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
            worst[kind] = _worst((worst[kind], float(gap)))
    return worst[0], worst[1]


def _worst(differences: Iterable[float]) -> float:
    """The largest; NaN if one is, which `max` would pass over."""
    return float(np.max([0.0, *differences]))


def verdicts(engine: Engine, seen: Sequence[Difference]) -> Iterator[Verdict]:
    """The worst difference of each surgery."""
    for surgery in CHECKED:
        these = [d for d in seen if d.surgery is surgery]
        furthest = these[int(np.argmax([d.logits for d in these]))] if these else None
        yield Verdict(
            surgery,
            len(these),
            _worst(d.logits for d in these),
            _worst(d.keys for d in these),
            _worst(d.values for d in these),
            supported=surgery in engine.capabilities.surgeries,
            stock=furthest.stock if furthest else 0.0,
            unexplained=_worst(d.logits for d in these if not d.explained),
        )
