# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Masks to tokens: the reverse process, in as few denoiser calls as may be.

Infilling of arbitrary holes is the first use; a text of nothing but masks is the case of one hole. Visible
tokens never change unless `editable` says that they may. Each round: choose what to take back and what to
reveal, ask the denoiser about the rows in question, draw, write (MaskGIT, 2202.04200).

    rounds by plan       so many by the schedule, the best by the order; more where the model is sure
    rounds by chance     the reverse process itself (ancestral)
    the fallback         whatever is still masked: once more by the model, else by lot

With `plan.joining` a token is written only where it fits beside its neighbours; of those chosen in one round
that do not fit together, those on the right stay masked for another round, and are drawn again in the last.

Same generator state, same text, same result. A row's randomness is its own: it depends on the generator and
on the row's number in the batch, never on the other rows (a denoiser may still differ in the last bit between
batches of different size). Knows a Predict and policies. Must not know denoisers, texts or files.
Axes: B batch, T sequence, R rows asked for, N places.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.guidance import seeing_itself
from haloweave.diffusion.sampling.draw import InverseCdf
from haloweave.diffusion.sampling.joins import Edges, Joins
from haloweave.diffusion.sampling.orders import Prospect
from haloweave.diffusion.sampling.plan import Holes, Step, Unmasked, Unmasking, Watch
from haloweave.diffusion.sampling.reader import Predict, Reader, at_rest
from haloweave.diffusion.sampling.remask import most_taken_back
from haloweave.diffusion.sampling.uniforms import Purpose, Uniforms

__all__ = ["Predict", "Step", "Unmasked", "Unmasking", "fill", "unmask"]

_REDRAWN = 1 << 16
"""Numbers of attempts from here on are none of those in which a nucleus is found."""


def unmask(
    predict: Predict,
    xt: Int[Tensor, "B T"],
    *,
    mask_id: int,
    generator: torch.Generator,
    plan: Unmasking,
    editable: Bool[Tensor, "B T"] | None = None,
    never: Sequence[int] = (),
    progress: Watch | None = None,
) -> Unmasked:
    """Fill the masks of a text.

    `editable`: where tokens may be written, by default the masks. Masks elsewhere stay; visible tokens in it
    are what `plan.remask` may take back too, and stay without it. `never`: ids that are not written; the mask
    is one of them anyway. Where no other token has any probability, even when all else is filled, one of the
    allowed tokens is drawn, each as likely as the other.

    Raises BadInput for what cannot be read (see Holes), a `never` that leaves nothing, logits with NaN or of
    another shape than [B T V], and a Strategic order without a strategy. `xt` is left as it is.
    """
    holes = Holes.of(xt, mask_id, editable, never)
    return fill(predict, holes, plan, Uniforms.drawn(len(xt), generator, xt.device), progress)


def fill(
    predict: Predict,
    holes: Holes,
    plan: Unmasking,
    uniforms: Uniforms,
    progress: Watch | None = None,
    edges: Edges | None = None,
) -> Unmasked:
    """The same for checked input, with random numbers of one's own; `edges`: of a part of a text, what stands
    beside it."""
    started = time.perf_counter()
    run = _Run(seeing_itself(predict), holes, plan, uniforms, progress, edges)
    with at_rest(predict):
        steps = run.through()
    return Unmasked(
        tokens=run.tokens,
        confidence=run.confidence,
        filled=run.written & (run.tokens != holes.mask_id),
        calls=run.reader.calls,
        row_calls=run.reader.row_calls,
        steps=steps,
        seconds=time.perf_counter() - started,
    )


class _Run:
    """One batch on its way. `open`: masks to be filled. `kept`: tokens that remasking may take back."""

    def __init__(
        self,
        predict: Predict,
        holes: Holes,
        plan: Unmasking,
        uniforms: Uniforms,
        progress: Watch | None,
        edges: Edges | None,
    ) -> None:
        self._plan, self._uniforms, self._progress = plan, uniforms, progress
        self._mask_id, self._drawing = holes.mask_id, plan.drawing
        self.tokens, self.open = holes.xt.clone(), holes.open
        visible = holes.editable & ~self.open
        self.kept = visible if plan.remask else torch.zeros_like(visible)
        self.written = torch.zeros_like(visible)
        self.confidence = torch.ones(holes.xt.shape, dtype=torch.float64, device=holes.xt.device)
        self._closed = torch.zeros(len(visible), dtype=torch.bool, device=visible.device)
        self._size = (self.open | self.kept).sum(1)
        never = {*holes.never, holes.mask_id}
        shape = (holes.xt.shape[0], holes.xt.shape[1])
        self.reader = Reader(predict, shape, never)
        self._joins = None
        if plan.joining is not None:
            self._joins = Joins(plan.joining, holes.xt, holes.mask_id, holes.never, edges)

    def through(self) -> int:
        """All rounds; how many there were."""
        rates = self._plan.rates()
        self._score_given()
        for number in range(1, self._plan.steps + 1):
            if not bool(self._alive().any()):
                return number - 1
            self._round(number, rates[number - 1], rates[number])
        if bool(self.open.any()):
            self._fall_back(self._plan.steps + 1)
            return self._plan.steps + 1
        return self._plan.steps

    # ---- one round -----------------------------------------------------------------------------------

    def _round(self, number: int, rate: float, rate_next: float) -> None:
        if not self._plan.cache:
            self.reader.read(self.tokens, _numbers(self._alive()), again=True)
        taken = self._taken_back(number, rate, rate_next)
        if self._plan.ancestral:
            chosen = self._by_chance(number, rate, rate_next)
        else:
            chosen = self._by_plan(number, rate_next, taken)
        revealed = self._write(chosen)
        if self._joins is not None:
            ending = self._closed | (rate_next == 0)
            revealed |= self._finish(number, ending, self._joins)
        self.kept &= ~self._closed[:, None]
        taken &= self.kept
        self._take_back(taken)
        self._tell(number, revealed, taken)

    def _by_plan(self, number: int, rate_next: float, taken: Bool[Tensor, "B T"]) -> Prospect:
        """The best places of each row, as many as the plan and the threshold say."""
        count = self._due(rate_next, taken)
        at = self._prospect(number, self.open & (count > 0)[:, None])
        if not len(at.row):
            return at
        scores = torch.full(self.tokens.shape, -torch.inf, dtype=torch.float64, device=self.tokens.device)
        scores[at.row, at.column] = self._plan.order.scores(at).double()
        rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)[at.row, at.column]
        chosen = (rank < count[at.row]) | self._sure(at)
        return at.only(chosen)

    def _due(self, rate_next: float, taken: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
        """How many places of each row are to be revealed now."""
        still = (self._size.double() * rate_next - 1e-9).ceil().long()  # 3 * (1/3) is 1, not a bit more
        masked = self.open.sum(1)
        count = torch.minimum((masked + taken.sum(1) - still).clamp(min=0), masked)
        return count if self._plan.threshold is None else count.maximum(masked.clamp(max=1))

    def _sure(self, at: Prospect) -> Bool[Tensor, " N"]:
        """Beyond the plan: what the model is sure of, and rows that it is sure of as a whole."""
        sure = torch.zeros(len(at.row), dtype=torch.bool, device=at.row.device)
        if self._plan.threshold is not None:
            sure |= at.confidence.exp() > self._plan.threshold
        if self._plan.confidence_stop is not None:
            total = torch.zeros(len(self.tokens), dtype=torch.float64, device=at.row.device)
            total.index_add_(0, at.row, at.confidence.exp().double())
            mean = total / self.open.sum(1).clamp(min=1)
            stopped = mean > self._plan.confidence_stop
            self._closed |= stopped
            sure |= stopped[at.row]
        return sure

    def _by_chance(self, number: int, rate: float, rate_next: float) -> Prospect:
        """Each mask by itself. With remasking more are revealed, so that as many stay masked."""
        remask = self._plan.remask
        level = remask.level(most_taken_back(1 - rate, 1 - rate_next)) if remask else 0.0
        chance = ((1 - rate_next) - (1 - level) * (1 - rate)) / max(rate, 1e-12)
        row, column = self.open.nonzero(as_tuple=True)
        lot = self._uniforms.at(number, row, column).one(Purpose.REVEAL)
        chosen = torch.zeros_like(self.open)
        chosen[row, column] = (lot < chance) | (rate_next == 0)
        return self._prospect(number, chosen)

    def _taken_back(self, number: int, rate: float, rate_next: float) -> Bool[Tensor, "B T"]:
        taken = torch.zeros_like(self.kept)
        if self._plan.remask is None or rate_next == 0:
            return taken
        rates = self._plan.remask.rates(most_taken_back(1 - rate, 1 - rate_next), self.confidence, self.kept)
        row, column = self.kept.nonzero(as_tuple=True)
        lot = self._uniforms.at(number, row, column).one(Purpose.REMASK)
        taken[row, column] = lot < rates[row, column]
        return taken

    # ---- what changes the text -----------------------------------------------------------------------

    def _write(self, chosen: Prospect) -> Bool[Tensor, "B T"]:
        """Write the candidates of these places; those without any probability stay masked."""
        revealed = torch.zeros_like(self.open)
        if not len(chosen.row):
            return revealed
        chosen = chosen.only(chosen.certainty > -torch.inf)
        if self._joins is not None:
            chosen = chosen.only(self._joins.admitted(chosen.row, chosen.column, chosen.tokens))
        self._put(chosen.row, chosen.column, chosen.tokens, chosen.confidence.exp())
        revealed[chosen.row, chosen.column] = True
        return revealed

    def _fall_back(self, number: int) -> None:
        """All that is still masked: by the model, which may see more now than before, or else by lot."""
        at = self._prospect(number, self.open)
        revealed = self.open.clone()
        if self._joins is None:
            allowed = self.reader.allowed(at.log_probs.shape[1])
            any_ = allowed[(at.lots.one(Purpose.TOKEN) * len(allowed)).long()]
            tokens = torch.where(at.certainty == -torch.inf, any_, at.tokens)
            self._put(at.row, at.column, tokens, at.confidence.exp())
        else:
            self._fall_back_joined(at, number, self._joins)
        self._tell(number, revealed, torch.zeros_like(revealed))

    def _finish(self, number: int, rows: Bool[Tensor, " B"], joins: Joins) -> Bool[Tensor, "B T"]:
        """Rows that are to be written to the end now: what did not fit is drawn again from what the model has
        said, beside what did. What it gives no probability is left for the fallback."""
        before = self.open & rows[:, None]
        for attempt in itertools.count():
            if not bool((left := self.open & rows[:, None]).any()):
                break
            at = self._again(number, attempt, left)
            at = at.only(at.certainty > -torch.inf)
            if not len(at.row):
                break
            self._put_joined(at, at.tokens, joins)
        return before & ~self.open

    def _fall_back_joined(self, at: Prospect, number: int, joins: Joins) -> None:
        """The same for all that is left, or by lot among what fits."""
        for attempt in itertools.count():
            size = at.log_probs.shape[1]
            fitting = joins.possible(at.row, at.column, size).double()
            fitting[:, [i for i in self.reader.never if i < size]] = 0
            any_ = InverseCdf().pick(fitting, at.lots)
            self._put_joined(at, torch.where(at.certainty == -torch.inf, any_, at.tokens), joins)
            if not bool(self.open.any()):
                return
            at = self._again(number, attempt, self.open)

    def _put_joined(self, at: Prospect, tokens: Int[Tensor, " N"], joins: Joins) -> None:
        """Of these tokens those that fit together: in every row the first at least."""
        fit = joins.admitted(at.row, at.column, tokens)
        self._put(at.row[fit], at.column[fit], tokens[fit], at.confidence.exp()[fit])

    def _again(self, number: int, attempt: int, places: Bool[Tensor, "B T"]) -> Prospect:
        """Some places as the denoiser last saw them, with other random numbers."""
        row, column = places.nonzero(as_tuple=True)
        lots = self._uniforms.at(number, row, column)
        lots = lots.again(_REDRAWN + attempt, torch.arange(len(row), device=row.device))
        return Prospect(row, column, lots, 0.0, self.reader, self._drawing, self._joins)

    def _put(
        self,
        row: Int[Tensor, " N"],
        column: Int[Tensor, " N"],
        tokens: Int[Tensor, " N"],
        confidence: Float[Tensor, " N"],
    ) -> None:
        self.tokens[row, column] = tokens.to(self.tokens.dtype)
        self.confidence[row, column] = confidence.to(self.confidence.dtype)
        self.open[row, column] = False
        self.written[row, column] = True
        if self._plan.remask is not None:
            self.kept[row, column] = True

    def _take_back(self, taken: Bool[Tensor, "B T"]) -> None:
        self.tokens[taken] = self._mask_id
        self.kept &= ~taken
        self.open |= taken

    # ---- asking and telling --------------------------------------------------------------------------

    def _alive(self) -> Bool[Tensor, " B"]:
        return (self.open | self.kept).any(1)

    def _prospect(self, number: int, places: Bool[Tensor, "B T"]) -> Prospect:
        """Some places, once the denoiser has seen their rows as they are."""
        row, column = places.nonzero(as_tuple=True)
        self.reader.read(self.tokens, _numbers(places.any(1)))
        lots = self._uniforms.at(number, row, column)
        left = max(0.0, 1 - number / self._plan.steps)
        if self._joins is not None:
            self._joins.follow(self.tokens)
        return Prospect(row, column, lots, left, self.reader, self._drawing, self._joins)

    def _score_given(self) -> None:
        """Given tokens that may be taken back: what the model thinks of them."""
        at = replace(self._prospect(0, self.kept), joins=None)
        if len(at.row):
            given = self.tokens[at.row, at.column].long()
            score = at.log_probs.gather(1, given[:, None])[:, 0].exp()
            self.confidence[at.row, at.column] = score.to(self.confidence.dtype)

    def _tell(self, number: int, revealed: Bool[Tensor, "B T"], remasked: Bool[Tensor, "B T"]) -> None:
        if self._progress is not None:
            left, calls = int(self.open.sum()), self.reader.calls
            tokens = self.tokens.clone()
            self._progress(Step(number, self._plan.steps, 0, tokens, revealed, remasked, calls, left))


def _numbers(rows: Bool[Tensor, " B"]) -> Int[Tensor, " R"]:
    return rows.nonzero()[:, 0]
