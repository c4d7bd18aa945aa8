# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Asking the denoiser, no oftener than there is something new to ask.

A denoiser that is told no noise level answers from the text alone, so what it said of a row holds until that
row changes: rows are fed when they changed and their answer is needed, finished rows never. That is MDLM's
cache (2406.07524), exact and per row. A denoiser whose states and head can be had apart gives logits only at
the places in question, and its strategy.

Knows how to call. Must not know orders, draws or plans. Axes: B batch, T sequence, R rows fed, N chosen
places, V vocabulary, D width, F forbidden and A allowed tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from haloweave.diffusion.denoisers.base import Hidden, Predict
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.sampling.draw import normalised

__all__ = ["Predict", "Reader", "RowWise", "Thinker", "Wrapper", "at_rest", "device_of", "of_rows"]


@runtime_checkable
class Thinker(Protocol):
    """A predict whose states and head can be had apart, as every Denoiser's can. `Hidden.strategy` [B D], if
    it has one, lives in the same space as `Hidden.tokens` [B T D]."""

    def hidden(self, xt: Int[Tensor, "B T"], t: Float[Tensor, " B"] | None = None) -> Hidden: ...

    def logits(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]: ...


@runtime_checkable
class RowWise(Protocol):
    """A predict that keeps something of each row of the batch (a prompt, a previous prediction)."""

    def of_rows(self, rows: Int[Tensor, " R"]) -> Predict:
        """The same for these rows alone; what it learns of them is remembered."""


@runtime_checkable
class Wrapper(Protocol):
    """A predict around another one. Whoever wraps shows what it wraps, so that the network inside can be
    brought to rest and found; `copies`, if it has that: rows that it feeds for each row it is asked about."""

    @property
    def predict(self) -> Predict: ...


class Reader:
    """The answers to one batch."""

    def __init__(self, predict: Predict, shape: tuple[int, int], forbidden: Iterable[int]) -> None:
        self._predict, self._shape = predict, shape
        self._copies = _copies(predict)
        self._never = sorted(set(forbidden))
        self._forbidden: Int[Tensor, " F"] | None = None
        self._seen: Int[Tensor, "B T"] | None = None
        self._states = _Kept(shape[0])
        self._strategy = _Kept(shape[0])
        self._head: Callable[[Tensor], Tensor] | None = None
        self.calls = self.row_calls = 0

    def read(self, tokens: Int[Tensor, "B T"], rows: Int[Tensor, " R"], *, again: bool = False) -> None:
        """See to it that the answers to these rows are those to `tokens`; `again` asks even where nothing
        changed. Raises BadInput for an answer that is no [R T V]."""
        if self._seen is None:
            self._seen = torch.full_like(tokens, -1)
        if not again:
            rows = rows[(self._seen[rows] != tokens[rows]).any(-1)]
        if not len(rows):
            return
        self.calls, self.row_calls = self.calls + 1, self.row_calls + self._copies * len(rows)
        self._keep(rows, *self._ask(tokens[rows], rows))
        self._seen[rows] = tokens[rows]

    def log_probs(self, row: Int[Tensor, " N"], column: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """Of the rows as last read, at these places, over what is allowed. Raises BadInput for NaN."""
        states = self._states.values[row, column]
        logits = states if self._head is None else self._head(states)
        if logits.ndim != 2 or not logits.is_floating_point():
            raise BadInput(f"logits: expected floats [N V], got {logits.dtype} {list(logits.shape)}")
        return normalised(logits, self._forbidden_of(logits))

    def affinity(self, row: Int[Tensor, " N"], column: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Cosine of each place's state and its row's strategy. Raises BadInput where there is no strategy."""
        if self._strategy.empty:
            raise BadInput(
                "strategic order: expected a denoiser with a strategy (the hierarchical one, not wrapped); "
                "this one has none, take another order"
            )
        return torch.cosine_similarity(self._states.values[row, column], self._strategy.values[row], dim=-1)

    def _forbidden_of(self, logits: Float[Tensor, "N V"]) -> Int[Tensor, " F"]:
        """The forbidden ids. The mask may lie just behind the vocabulary: a table needs no column for it."""
        if self._forbidden is None:
            size = logits.shape[1]
            if self._never[0] < 0 or self._never[-1] > size:
                raise BadInput(
                    f"never: expected ids in 0..{size - 1}, got {self._never}: another tokenizer's?"
                )
            inside = [i for i in self._never if i < size]
            if len(inside) == size:
                raise BadInput(f"never: all {size} tokens are forbidden; allow at least one")
            self._forbidden = torch.tensor(inside, dtype=torch.int64, device=logits.device)
        return self._forbidden

    @property
    def never(self) -> Sequence[int]:
        """Ids that are not written, ascending."""
        return self._never

    def allowed(self, size: int) -> Int[Tensor, " A"]:
        """The ids that may be written, of a vocabulary of this size."""
        free = torch.ones(size, dtype=torch.bool)
        free[[i for i in self._never if i < size]] = False
        return free.nonzero()[:, 0].to(self._states.values.device)

    def _ask(self, xt: Int[Tensor, "R T"], rows: Int[Tensor, " R"]) -> tuple[Tensor, Tensor | None]:
        asked = of_rows(self._predict, rows)
        if (thinker := _thinker(asked)) is None:
            return asked(xt, None), None
        hidden, self._head = thinker.hidden(xt, None), thinker.logits
        return hidden.tokens, hidden.strategy

    def _keep(self, rows: Int[Tensor, " R"], states: Tensor, strategy: Tensor | None) -> None:
        if states.ndim != 3 or states.shape[:2] != (len(rows), self._shape[1]):
            size = f"{len(rows)} {self._shape[1]}"
            raise BadInput(f"predict: expected [{size} V] for [{size}] tokens, got {list(states.shape)}")
        self._states.put(rows, states)
        if strategy is not None:
            self._strategy.put(rows, strategy)


def of_rows(predict: Predict, rows: Int[Tensor, " R"]) -> Predict:
    """A predict for some rows of the batch alone."""
    return predict.of_rows(rows) if isinstance(predict, RowWise) else predict


def device_of(predict: Predict) -> torch.device:
    """Where the network inside lives: tokens go there to be read. The CPU for what has no weights."""
    network = _layers(predict)[-1]
    tensors = () if not isinstance(network, nn.Module) else (*network.parameters(), *network.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _layers(predict: object) -> list[object]:
    """A predict, what it wraps, and so on; a network comes last, whatever it holds itself."""
    if isinstance(predict, nn.Module) or not isinstance(predict, Wrapper):
        return [predict]
    return [predict, *_layers(predict.predict)]


def _copies(predict: Predict) -> int:
    """Rows that reach the network for each row that is asked about."""
    return math.prod(int(getattr(layer, "copies", 1)) for layer in _layers(predict))


def _thinker(predict: object) -> Thinker | None:
    return predict if isinstance(predict, Thinker) else None


class _Kept:
    """One tensor with a part for each row of the batch."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._values: Tensor | None = None
        self._own = False

    @property
    def empty(self) -> bool:
        return self._values is None

    @property
    def values(self) -> Tensor:
        if self._values is None:
            raise BadInput("answers: nothing was read yet; read the rows first")
        return self._values

    def put(self, rows: Int[Tensor, " R"], new: Tensor) -> None:
        """Replace some rows. Where all are, nothing is copied, and nothing of it will be written to."""
        old = new if self._values is None else self._values
        if old.shape[1:] != new.shape[1:] or old.dtype != new.dtype:
            before, now = (f"{x.dtype} {list(x.shape[1:])}" for x in (old, new))
            raise BadInput(f"predict: expected rows of {before}, as before, got {now}")
        if len(rows) == self._rows:
            self._values, self._own = new, False
            return
        if self._values is None:
            self._values, self._own = new.new_zeros(self._rows, *new.shape[1:]), True
        if not self._own:
            self._values, self._own = self._values.clone(), True
        self._values[rows] = new


@contextmanager
def at_rest(predict: Predict) -> Iterator[None]:
    """No gradients, no dropout in the network inside; afterwards as before."""
    network = _layers(predict)[-1]
    modules = network.modules() if isinstance(network, nn.Module) else ()
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
