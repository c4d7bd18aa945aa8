# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Texts longer than a denoiser can read: block by block from the left, each seen through a window.

A block is written as a whole, with as much around it as fits: what follows it, where there is anything, up to
half of the context; the rest of the window shows what went before. So an empty text is generated from left to
right, each block behind all that the window holds (BD3LM's order, 2503.09573), and a hole in a long text is
filled with both its sides in view. Knows unmasking. Must not know denoisers. Axes: B batch, T sequence,
R rows with something left to do, W window.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.sampling.joins import Edges, Joins
from haloweave.diffusion.sampling.plan import Holes, Step, Unmasked, Unmasking, Watch
from haloweave.diffusion.sampling.reader import Predict
from haloweave.diffusion.sampling.uniforms import Uniforms
from haloweave.diffusion.unmask import fill


def unmask_long(
    predict: Predict,
    xt: Int[Tensor, "B T"],
    *,
    max_len: int,
    mask_id: int,
    generator: torch.Generator,
    plan: Unmasking,
    block: int | None = None,
    editable: Bool[Tensor, "B T"] | None = None,
    never: Sequence[int] = (),
    progress: Watch | None = None,
) -> Unmasked:
    """Fill the masks of a text of any length; arguments and errors beyond these as for `unmask`.

    `max_len`: the most tokens that the denoiser is shown, its `config.max_len`. `block`: the most places from
    the first hole to the last of one block; by default half of `max_len`, or the whole text where it fits.
    The plan is gone through for each block, so `steps` is per block; blocks of 1 are exact left-to-right
    sampling. `predict` sees windows: no wrapper that marks places of the whole text fits it.
    Raises BadInput for a block that is not in 1..max_len.
    """
    size = block if block is not None else max_len if xt.shape[-1] <= max_len else max(1, max_len // 2)
    if not 1 <= size <= max_len:
        raise BadInput(f"block: expected 1..{max_len} tokens (max_len), got {size}")
    holes = Holes.of(xt, mask_id, editable, never)
    uniforms = Uniforms.drawn(len(xt), generator, xt.device)
    run = _Long(predict, holes, plan, uniforms, min(max_len, xt.shape[1]), size, progress)
    return run.through()


class _Long:
    """One batch of long texts on its way."""

    def __init__(
        self,
        predict: Predict,
        holes: Holes,
        plan: Unmasking,
        uniforms: Uniforms,
        window: int,
        block: int,
        progress: Watch | None,
    ) -> None:
        self._predict, self._holes, self._plan, self._uniforms = predict, holes, plan, uniforms
        self._window, self._block, self._progress = window, min(block, window), progress
        self._tokens = holes.xt.clone()
        self._confidence = torch.ones(holes.xt.shape, dtype=torch.float64, device=holes.xt.device)
        self._filled = torch.zeros_like(holes.editable)
        # Without remasking, visible tokens have nothing to wait for.
        self._todo = holes.open if plan.remask is None else holes.editable.clone()
        self._calls = self._row_calls = self._steps = 0
        self._joins = None
        if plan.joining is not None:
            self._joins = Joins(plan.joining, holes.xt, holes.mask_id, holes.never)

    def through(self) -> Unmasked:
        started, number = time.perf_counter(), 0
        while bool(self._todo.any()):
            self._one_block(number)
            number += 1
        return Unmasked(
            tokens=self._tokens,
            confidence=self._confidence,
            filled=self._filled,
            calls=self._calls,
            row_calls=self._row_calls,
            steps=self._steps,
            seconds=time.perf_counter() - started,
        )

    def _one_block(self, number: int) -> None:
        """The next block of every row that has one, all rows at once."""
        rows = self._todo.any(1).nonzero()[:, 0]
        span = _spans(self._todo[rows], self._block)
        frame = self._frame(rows, span)
        part = Holes(
            frame.of(self._tokens),
            frame.of(self._todo) & frame.within(span),
            self._holes.mask_id,
            self._holes.never,
        )
        uniforms = self._uniforms.of_rows(rows).fork(number)
        watch = None if self._progress is None else lambda step: self._tell(step, number, frame)
        edges = self._edges(frame)
        self._take(fill(self._predict, part, self._plan, uniforms, watch, edges), frame)
        columns = torch.arange(self._todo.shape[1], device=rows.device)
        self._todo[rows] &= columns >= span[:, 1:]

    def _edges(self, frame: _Frame) -> Edges | None:
        """How the text beside the windows ends and goes on, so that it joins across their edges too."""
        if self._joins is None:
            return None
        self._joins.follow(self._tokens)
        return self._joins.edges(frame.rows, frame.columns[:, 0], frame.columns[:, -1] + 1)

    def _frame(self, rows: Int[Tensor, " R"], span: Int[Tensor, "R 2"]) -> _Frame:
        start = _starts(self._tokens[rows] != self._holes.mask_id, span, self._window)
        return _Frame(rows, start[:, None] + torch.arange(self._window, device=rows.device))

    def _take(self, done: Unmasked, frame: _Frame) -> None:
        frame.put(self._tokens, done.tokens)
        # Places beside the block are 1 in its report, whatever an earlier block said of them.
        before = frame.of(self._filled)
        frame.put(self._confidence, torch.where(before, frame.of(self._confidence), done.confidence))
        frame.put(self._filled, before | done.filled)
        self._calls, self._row_calls = self._calls + done.calls, self._row_calls + done.row_calls
        self._steps += done.steps

    def _tell(self, step: Step, number: int, frame: _Frame) -> None:
        assert self._progress is not None
        tokens, none = self._tokens.clone(), torch.zeros_like(self._filled)
        frame.put(tokens, step.tokens)
        revealed = frame.put(none.clone(), step.revealed)
        remasked = frame.put(none, step.remasked)
        left = int((self._holes.editable & (tokens == self._holes.mask_id)).sum())
        calls = self._calls + step.calls
        self._progress(Step(step.number, step.steps, number, tokens, revealed, remasked, calls, left))


@dataclass(frozen=True, eq=False)
class _Frame:
    """Where the windows lie in the text."""

    rows: Int[Tensor, " R"]
    columns: Int[Tensor, "R W"]

    def of(self, whole: Tensor) -> Tensor:
        return whole[self.rows[:, None], self.columns]

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        whole[self.rows[:, None], self.columns] = part
        return whole

    def within(self, span: Int[Tensor, "R 2"]) -> Bool[Tensor, "R W"]:
        return (self.columns >= span[:, :1]) & (self.columns < span[:, 1:])


def _spans(todo: Bool[Tensor, "R T"], block: int) -> Int[Tensor, "R 2"]:
    """First place of each row's next block, and the place behind its last."""
    first = todo.int().argmax(1)
    return torch.stack([first, (first + block).clamp(max=todo.shape[1])], dim=1)


def _starts(visible: Bool[Tensor, "R T"], span: Int[Tensor, "R 2"], window: int) -> Int[Tensor, " R"]:
    """Where each window begins: as far left as the block allows, once what follows has had its part.

    What follows gets up to half of the context, and no more than reaches to its last visible token: behind
    that there are only masks, which tell nothing. What it leaves goes to what went before, and the reverse at
    the beginning of a text.
    """
    first, behind = span[:, 0], span[:, 1]
    columns = torch.arange(visible.shape[1], device=visible.device)
    half = (window - (behind - first)) // 2
    seen = visible & (columns >= behind[:, None]) & (columns < (behind + half)[:, None])
    last = (seen * (columns + 1)).amax(1)  # 0 where nothing follows
    return (torch.maximum(last, behind) - window).clamp(min=0, max=visible.shape[1] - window)
