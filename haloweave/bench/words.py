# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Whole words masked in held-out rows: how many of them a denoiser finds at its first guess.

Knows tokens, words and denoisers. Must not know files or training. Axes: N rows, T sequence, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.errors import TooLittleText
from haloweave.diffusion.judging.held import Held
from haloweave.diffusion.tokenizer import Tokenizer

SHARE = 0.15
"""Of the words (BERT's share of tokens, 1810.04805)."""
_ROWS = 4


@dataclass(frozen=True, eq=False)
class Exam:
    """Rows with holes. A word is a space and a letter, and all that follows up to the next beginning."""

    x0: Int[Tensor, "N T"] = field(repr=False)
    word: Int[Tensor, "N T"] = field(repr=False)
    """Number of the word that a hole belongs to, within its row; -1 where there is no hole."""
    mask_id: int
    words: Int[np.ndarray, " N"] = field(repr=False)
    """Masked words of each row."""

    @classmethod
    def of(cls, held: Held, tokenizer: Tokenizer, share: float = SHARE, seed: int = 0) -> Exam:
        """What a row begins or ends in the midst of is left alone. Raises TooLittleText where no word is left
        to mask."""
        number = tokenizer.starts_word[held.rows].long().cumsum(1)
        count = int(number.max()) + 1
        first, special = _first(held.rows, tokenizer), torch.isin(held.rows, torch.tensor(held.specials))
        at = torch.arange(len(held.rows))[:, None].expand_as(number)
        usable = torch.zeros(len(held.rows), count, dtype=torch.bool)
        usable[at[first], number[first]] = True
        usable[at[special], number[special]] = False
        usable.scatter_(1, number.max(1, keepdim=True).values, False)
        generator = torch.Generator().manual_seed(seed)
        chosen = usable & (torch.rand(usable.shape, generator=generator) < share)
        if not bool(chosen.any()):
            raise TooLittleText("words: expected some to mask in the held-out text, got none; give more text")
        hole = chosen.gather(1, number)
        return cls(held.rows, number.masked_fill(~hole, -1), tokenizer.mask_id, chosen.sum(1).numpy())

    @torch.no_grad()
    def right(self, denoiser: Denoiser) -> Float[np.ndarray, " N"]:
        """Words of each row of which every token is the likeliest one at its place, all asked in one call."""
        found = []
        for at in range(0, len(self.x0), _ROWS):
            x0, word = self.x0[at : at + _ROWS], self.word[at : at + _ROWS]
            xt = torch.where(word >= 0, self.mask_id, x0)
            guess = x0.clone()
            guess[word >= 0] = denoiser.logits(denoiser.hidden(xt).tokens[word >= 0]).argmax(-1)
            wrong = torch.zeros(len(x0), int(self.word.max()) + 2, dtype=torch.bool)
            rows = torch.arange(len(x0))[:, None].expand_as(word)
            wrong[rows[guess != x0], word[guess != x0]] = True
            found.append(self.words[at : at + _ROWS] - wrong.sum(1).numpy())
        right: Float[np.ndarray, " N"] = np.concatenate(found).astype(np.float64)
        return right


def _first(rows: Int[Tensor, "N T"], tokenizer: Tokenizer) -> Bool[Tensor, "N T"]:
    """Where a word begins: at a space and a letter, in one token or in two."""
    spelt = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
    both = torch.tensor([text[:1] == " " and text[1:2].isalpha() for text in spelt])
    space, letter = (torch.tensor([test(text) for text in spelt]) for test in (_is_space, _is_letter))
    after = torch.cat([letter[rows[:, 1:]], torch.zeros(len(rows), 1, dtype=torch.bool)], dim=1)
    return both[rows] | (space[rows] & after)


def _is_space(text: str) -> bool:
    return text == " "


def _is_letter(text: str) -> bool:
    return text[:1].isalpha()
