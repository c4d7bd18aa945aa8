# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Sets of states of an automaton over tokens, numbered as they are met, and where tokens lead them.

The subset construction, as far as it is needed: some hundred sets for a vocabulary, worked out once and kept.
Which numbers sets get depends on what was met first, and nothing depends on the numbers. Knows an automaton.
Must not know texts or places. Axes: V vocabulary, K kinds of tokens, S states and one behind them that
nothing leads out of, M sets, N pairs, U different ones, J kinds at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from threading import RLock
from typing import Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

EMPTY, FULL = 0, 1
"""Numbers of the empty set and of the set of all states."""


class Joining(Hashable, Protocol):
    """What each token of a vocabulary does to the state of a text. A text begins in state 0."""

    @property
    def kind(self) -> Int[Tensor, " V"]:
        """Tokens of one kind do the same."""

    @property
    def step(self) -> Int[Tensor, "K S+1"]:
        """The state behind a token of a kind; S if it cannot stand there, and behind S."""

    @property
    def between(self) -> int:
        """A text may end in the states below this."""


@dataclass(frozen=True, eq=False)
class StateSets:
    """All sets of one automaton that were met, where any token of some kinds may be written into a hole. The
    kind K, one more than there are, stands for a hole."""

    ahead: Sets
    """Led from left to right: the states that tokens lead to."""
    back: Sets
    """From right to left: the states that they lead from."""
    fits: Fits
    beginning: int
    """In `ahead`: where a text begins."""
    loose: Int[Tensor, " K+1"]
    """In `ahead`: the set behind a token that nothing before it admits. Wherever it leads to at all; a hole,
    or a token that is broken in itself, as if the text began there."""


@lru_cache(maxsize=4)
def state_sets(joining: Joining, written: tuple[bool, ...]) -> StateSets:
    """Those of one vocabulary; `written`: the kinds that holes are filled with. Sampling again meets the same
    sets again: what was worked out is kept. Threads may share it."""
    moves, states, kinds = (
        _Moves(joining.step.cpu(), torch.tensor(written)),
        joining.step.shape[1] - 1,
        len(written),
    )
    ahead, back = Sets(states, kinds + 1, moves.image), Sets(states, kinds + 1, moves.source)
    beginning = ahead.number(torch.arange(states) == 0)
    came = torch.tensor([*[FULL] * kinds, beginning])
    led = ahead.led(came, torch.arange(kinds + 1))
    loose = torch.where(led == EMPTY, beginning, led)
    return StateSets(ahead, back, Fits(ahead, back, moves), beginning, loose)


class Sets:
    """Sets of states, numbered as they are met, and where each is led by a token of each kind."""

    def __init__(
        self, size: int, kinds: int, lead: Callable[[Bool[Tensor, " S"], int], Bool[Tensor, " S"]]
    ) -> None:
        self._lead, self._lock = lead, RLock()
        self._numbers: dict[bytes, int] = {}
        self._rows = torch.zeros(64, size, dtype=torch.bool)
        self._led = torch.full((64, kinds), -1)
        self.number(torch.zeros(size, dtype=torch.bool))
        self.number(torch.ones(size, dtype=torch.bool))

    @property
    def states(self) -> Bool[Tensor, "M S"]:
        return self._rows

    def number(self, states: Bool[Tensor, " S"]) -> int:
        """The number of a set."""
        key = bytes(states.tolist())
        with self._lock:
            if (found := self._numbers.get(key)) is not None:
                return found
            number = len(self._numbers)
            if number == len(self._rows):
                self._rows = torch.cat([self._rows, torch.zeros_like(self._rows)])
                self._led = torch.cat([self._led, torch.full_like(self._led, -1)])
            self._rows[number] = states
            self._numbers[key] = number
            return number

    def led(self, sets: Int[Tensor, " N"], kinds: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        """Where these sets are led by these tokens."""
        found = self._led[sets, kinds]
        if len(unknown := (found < 0).nonzero()[:, 0]):
            for one, kind in {*zip(sets[unknown].tolist(), kinds[unknown].tolist(), strict=True)}:
                self._learn(one, kind)
            found = self._led[sets, kinds]
        return found

    def _learn(self, one: int, kind: int) -> None:
        with self._lock:
            number = self.number(self._lead(self._rows[one], kind))
            self._led[one, kind] = number


class Fits:
    """Which kinds of tokens lead from one set to another, worked out once for each two sets."""

    def __init__(self, ahead: Sets, back: Sets, moves: _Moves) -> None:
        self._ahead, self._back, self._moves = ahead, back, moves
        self._known: dict[int, Bool[Tensor, " K"]] = {}

    def of(
        self, before: Int[Tensor, " N"], behind: Int[Tensor, " N"]
    ) -> tuple[Int[Tensor, " N"], Bool[Tensor, "U K"]]:
        """For each two, which row of the second result is theirs."""
        pairs, which = torch.unique((before << 32) + behind, return_inverse=True)
        found = [self._one(pair) for pair in pairs.tolist()]
        return which, torch.stack(found) if found else self._one(0)[None]

    def _one(self, pair: int) -> Bool[Tensor, " K"]:
        if (found := self._known.get(pair)) is None:
            before, behind = self._ahead.states[pair >> 32], self._back.states[pair & 0xFFFFFFFF]
            found = self._known[pair] = self._moves.fitting(before, behind)
        return found


class _Moves:
    """Where tokens of a kind lead a set of states; the kind K is any token that may be written."""

    def __init__(self, step: Int[Tensor, "K S+1"], allowed: Bool[Tensor, " K"]) -> None:
        self._step, self._allowed, self._free = step, allowed, step[allowed]

    def _of(self, kind: int) -> Int[Tensor, "J S+1"]:
        return self._free if kind == len(self._step) else self._step[kind : kind + 1]

    def image(self, states: Bool[Tensor, " S"], kind: int) -> Bool[Tensor, " S"]:
        """The states that some of these are led to."""
        reached = self._of(kind)[:, states.nonzero()[:, 0]].flatten()
        return _with_dead(torch.zeros_like(states)).index_fill_(0, reached, True)[:-1]

    def source(self, states: Bool[Tensor, " S"], kind: int) -> Bool[Tensor, " S"]:
        """The states that are led to some of these."""
        return _with_dead(states)[self._of(kind)[:, :-1]].any(0)

    def fitting(self, before: Bool[Tensor, " S"], behind: Bool[Tensor, " S"]) -> Bool[Tensor, " K"]:
        """The kinds that lead from the one set to the other. Where none that may be written does, because
        none could begin a text, all are let in."""
        found = _with_dead(behind)[self._step[:, before.nonzero()[:, 0]]].any(1)
        return found if bool((found & self._allowed).any()) else torch.ones_like(found)


def _with_dead(states: Bool[Tensor, " S"]) -> Bool[Tensor, " S+1"]:
    """The state that nothing leads out of is in no set."""
    return torch.cat([states, states.new_zeros(1)])
