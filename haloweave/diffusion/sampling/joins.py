# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Constrained decoding in any order: only tokens with which a text can still become one that is not broken.

Of every place two sets of states of an automaton are known: `before`, where a text that ends there may be,
and `behind`, from where what follows can be gone through to the end. A mask stands for any token that may be
written. A token fits if it leads from a state of the one to a state of the other: then the holes beside it
can be filled. So wherever a text can be whole at the start, something fits at every place, to the last.

Given text may be broken already. At a token that no state admits the automaton starts afresh, and nothing is
asked of what stands before it. What is written never makes such a place, so none is added.

Where a token leads a set is looked up (see StateSets). A change goes on to the right, or the left, until a
set stays as it was: a few places, as a whole character hides what was before it. All of it is bookkeeping on
the CPU.

Knows places and sets. Must not know text, denoisers, orders or draws. Axes: B batch, T sequence, N places,
V vocabulary, K kinds of tokens, S states.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.sampling.state_sets import EMPTY, FULL, Joining, state_sets

Places = tuple[Int[Tensor, " N"], Int[Tensor, " N"]]
"""Rows and columns."""


@dataclass(frozen=True, eq=False)
class Edges:
    """What stands to either side of a part of a text: where it may begin, and where it may end."""

    start: Bool[Tensor, "B S"]
    end: Bool[Tensor, "B S"]

    @classmethod
    def whole(cls, joining: Joining, rows: int) -> Edges:
        """Of texts that are no parts."""
        states = torch.arange(joining.step.shape[1] - 1)
        return cls((states == 0).expand(rows, -1), (states < joining.between).expand(rows, -1))


class Joins:
    """What fits into the holes of a batch. Follows the text as it changes."""

    def __init__(
        self,
        joining: Joining,
        tokens: Int[Tensor, "B T"],
        mask_id: int,
        never: Iterable[int] = (),
        edges: Edges | None = None,
    ) -> None:
        """`never`: ids that holes are not filled with. Raises BadInput for ids that the table has not."""
        self._kind, self._mask_id, self._any = joining.kind.cpu(), mask_id, len(joining.step)
        sets = state_sets(joining, self._written(never))
        self._ahead, self._back, self._fits = sets.ahead, sets.back, sets.fits
        self._beginning, self._loose = sets.beginning, sets.loose
        rows, length = tokens.shape
        edges = Edges.whole(joining, rows) if edges is None else edges
        self._end = edges.end
        self._symbols = torch.full((rows, length), -1)
        self._before, self._cut = torch.zeros(rows, length).long(), torch.zeros(rows, length).bool()
        self._after, self._behind = (torch.zeros(rows, length + 1).long() for _ in range(2))
        self._after[:, 0] = torch.tensor([self._ahead.number(one) for one in edges.start])
        self.follow(tokens)

    def _written(self, never: Iterable[int]) -> tuple[bool, ...]:
        """Of each kind, whether it has tokens that holes may be filled with."""
        allowed = torch.ones(len(self._kind), dtype=torch.bool)
        allowed[[i for i in {*never, self._mask_id} if i < len(allowed)]] = False
        return tuple(torch.zeros(self._any).bool().index_fill_(0, self._kind[allowed], True).tolist())

    # ---- what sampling asks --------------------------------------------------------------------------

    def follow(self, tokens: Int[Tensor, "B T"]) -> None:
        """Take note of what was written or taken back."""
        ids = tokens.cpu().long()
        masked = ids == self._mask_id
        known = ids.masked_fill(masked, 0)
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < len(self._kind):
            raise BadInput(
                f"joining: expected ids in 0..{len(self._kind) - 1}, got {int(known.min())}.."
                f"{int(known.max())}: another tokenizer's table?"
            )
        symbols = torch.where(masked, self._any, self._kind[known])
        row, column = (symbols != self._symbols).nonzero(as_tuple=True)
        self._symbols = symbols
        self._turn([(row, column), *self._forward(row, column, None)])

    def barred(
        self, log_probs: Float[Tensor, "N V"], row: Int[Tensor, " N"], column: Int[Tensor, " N"]
    ) -> Float[Tensor, "N V"]:
        """-inf where a token does not fit, in place. Nothing is renormalised: a place whose likeliest token
        does not fit is one of which the denoiser is not sure."""
        which, fitting = self._fitting(row, column, log_probs.shape[1])
        for number, fits in enumerate(fitting):  # a few, and few of their tokens are barred: no [N V] is made
            places = (which == number).nonzero().to(log_probs.device)
            log_probs[places, (~fits).nonzero()[:, 0].to(log_probs.device)] = -torch.inf
        return log_probs

    def possible(self, row: Int[Tensor, " N"], column: Int[Tensor, " N"], width: int) -> Bool[Tensor, "N V"]:
        """Which tokens fit at some holes. Of those that may be written there is always one, unless none of
        them could begin a text."""
        which, fitting = self._fitting(row, column, width)
        return fitting[which].to(row.device)

    def _fitting(
        self, row: Int[Tensor, " N"], column: Int[Tensor, " N"], width: int
    ) -> tuple[Int[Tensor, " N"], Bool[Tensor, "U V"]]:
        """What fits at different places, and which of that at each."""
        if width not in (len(self._kind), self._mask_id):
            raise BadInput(
                f"joining: expected logits of {len(self._kind)} tokens, got {width}: another tokenizer's "
                f"table?"
            )
        at, place = row.cpu(), column.cpu()
        which, found = self._fits.of(self._before[at, place], self._behind[at, place + 1])
        return which, found[:, self._kind[:width]]

    def admitted(
        self, row: Int[Tensor, " N"], column: Int[Tensor, " N"], tokens: Int[Tensor, " N"]
    ) -> Bool[Tensor, " N"]:
        """Which of these tokens can be written at once: each if it fits beside those on its left that can.

        They count as written. The first of each row always can if it fits by itself.
        """
        at, place = row.cpu(), column.cpu()
        wanted = torch.full_like(self._symbols, -1)
        wanted[at, place] = self._kind[tokens.cpu().long()]
        turned = self._forward(at, place, wanted)
        taken = self._taken(at, place, wanted)
        at, place = at[taken], place[taken]
        self._symbols[at, place] = wanted[at, place]
        self._turn([(at, place), *turned])
        return taken.to(row.device)

    def edges(self, rows: Int[Tensor, " R"], start: Int[Tensor, " R"], stop: Int[Tensor, " R"]) -> Edges:
        """Those of a part of each of these rows."""
        at = rows.cpu()
        ahead, behind = self._after[at, start.cpu()], self._behind[at, stop.cpu()]
        return Edges(self._ahead.states[ahead], self._back.states[behind])

    # ---- sets along the text -------------------------------------------------------------------------

    def _forward(
        self, row: Int[Tensor, " N"], column: Int[Tensor, " N"], wanted: Int[Tensor, "B T"] | None
    ) -> list[Places]:
        """Work out `before`, from these places to the right; where something is wanted and fits, as if it
        were written. A set depends on those to its left alone, so when none changes any more all are right.

        Returns the places where the automaton now starts afresh, or no longer does.
        """
        turned = list[Places]()
        while len(row):
            came, symbol = self._after[row, column], self._symbols[row, column]
            stuck = (symbol == self._any) & (self._ahead.led(came, symbol) == EMPTY)
            before = torch.where(stuck, self._beginning, came)
            self._before[row, column] = before
            if wanted is not None:
                symbol = torch.where(self._taken(row, column, wanted), wanted[row, column], symbol)
            led = self._ahead.led(before, symbol)
            cut = stuck | (led == EMPTY)
            led = torch.where(led == EMPTY, self._loose[symbol], led)
            other = cut != self._cut[row, column]
            turned.append((row[other], column[other]))
            self._cut[row, column] = cut
            going_on = (led != self._after[row, column + 1]) & (column + 1 < self._symbols.shape[1])
            self._after[row, column + 1] = led
            row, column = row[going_on], column[going_on] + 1
        return turned

    def _taken(
        self, row: Int[Tensor, " N"], column: Int[Tensor, " N"], wanted: Int[Tensor, "B T"]
    ) -> Bool[Tensor, " N"]:
        kind = wanted[row, column]
        which, found = self._fits.of(self._before[row, column], self._behind[row, column + 1])
        return (kind >= 0) & found[which, kind.clamp(min=0)]

    def _turn(self, places: list[Places]) -> None:
        """Work out `behind`, from these places, and from the ends, to the left."""
        row, column = (torch.cat(part) for part in zip(*places, self._ends(), strict=True))
        while len(row):
            led = self._back.led(self._behind[row, column + 1], self._symbols[row, column])
            led = led.masked_fill(self._cut[row, column], FULL)
            going_on = (led != self._behind[row, column]) & (column > 0)
            self._behind[row, column] = led
            row, column = row[going_on], column[going_on] - 1

    def _ends(self) -> Places:
        """Rows that may end otherwise than before: wherever a text may, or anyhow if it cannot."""
        whole = (self._ahead.states[self._after[:, -1]] & self._end).any(1).tolist()
        rows = zip(self._end, whole, strict=True)
        ends = torch.tensor([self._back.number(end) if can else FULL for end, can in rows]).long()
        row = (self._behind[:, -1] != ends).nonzero()[:, 0]
        self._behind[:, -1] = ends
        length = self._symbols.shape[1]
        return (row, torch.full_like(row, length - 1)) if length else (row[:0], row[:0])
