# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What each token of a vocabulary does to the state of a text: the automaton of `characters`, token by token.

Tokens that do the same in every state are of one *kind*, so that tables have a row for some hundred kinds and
not for every token. A special token ends a text and begins another; the pad does nothing. Knows bytes. Must
not know masks, sampling or files. Axes: V vocabulary, P pieces, K kinds, S states but the dead one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from haloweave.diffusion.text.characters import NOTHING, Automaton, automaton


@dataclass(frozen=True, eq=False)
class TokenTable:
    """A Joining of sampling/state_sets.py."""

    kind: Int[Tensor, " V"]
    step: Int[Tensor, "K S+1"]
    between: int

    @property
    def needed(self) -> bool:
        """Whether some tokens cannot stand everywhere."""
        return bool((self.step[:, : self.between] == self.step.shape[1] - 1).any())

    def fits(self, ids: Sequence[int]) -> bool:
        """Whether some tokens spell a text that nothing is wrong with, by plain stepping from the left."""
        state = NOTHING
        for i in ids:
            state = int(self.step[self.kind[i], state])
        return state < self.between


def joining(pieces: Sequence[bytes], pad_id: int) -> TokenTable:
    """The table of a vocabulary, from the bytes of its tokens.

    Only a piece that begins inside a character can follow half a one, so the many others are walked through
    from the few states between two characters.
    """
    found = automaton()
    inside = np.array([0x80 <= piece[0] < 0xC0 if piece else False for piece in pieces])
    going_on, of_going_on = np.unique(
        _walked(found, [*compress(pieces, inside)], found.dead + 1), axis=0, return_inverse=True
    )
    whole, kind = np.unique(_walked(found, pieces, found.between), axis=0, return_inverse=True)
    never = np.full((len(whole), found.dead + 1 - found.between), found.dead)
    nothing = np.arange(found.dead + 1)
    ending = np.where(nothing < found.between, NOTHING, found.dead)
    step = np.concatenate([np.concatenate([whole, never], 1), going_on, nothing[None], ending[None]])
    kind = kind.reshape(-1)
    kind[inside] = len(whole) + of_going_on.reshape(-1)
    kind[[not piece for piece in pieces]] = len(step) - 1
    kind[pad_id] = len(step) - 2
    return TokenTable(torch.from_numpy(kind), torch.from_numpy(step), found.between)


def _walked(found: Automaton, pieces: Sequence[bytes], states: int) -> Int[np.ndarray, "P N"]:
    """The state behind each piece, from each of the first states: all pieces at once, byte by byte."""
    behind = np.tile(np.arange(states), (len(pieces), 1))
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    starts, data = lengths.cumsum() - lengths, np.frombuffer(b"".join(pieces), np.uint8)
    for place in range(int(lengths.max(initial=0))):
        going_on = np.flatnonzero(lengths > place)
        byte = data[starts[going_on] + place]
        behind[going_on] = found.step[behind[going_on], byte[:, None]]
    return behind
