# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The noise of one training step: how much, where, and the same whoever draws it.

Knows schedules and corruptions by their protocols. Must not know denoisers or how many processes there are:
the noise of the whole global batch is drawn from one generator seeded by (seed, step), and each process takes
its own rows of it. Axes: B rows of the global batch, T sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from haloweave.diffusion import build
from haloweave.diffusion.corrupt import Corrupted, Corruption, information
from haloweave.diffusion.data import Corpus
from haloweave.diffusion.schedule import Schedule, levels
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.training.recipe import Recipe

_GOLDEN = (5**0.5 - 1) / 2
_COUNTED = 8192
"""Blocks in which tokens are counted, for corruptions that ask how rare they are."""


@dataclass(frozen=True)
class Drawn:
    """A corrupted global batch, and whether the denoiser is to be shown its own first guess."""

    batch: Corrupted
    self_condition: bool


@dataclass(frozen=True)
class Noise:
    """`timesteps` n > 0: the level is r((i+1)/n), i uniform in 0..n-1; 0: r(t), t uniform in 0..1."""

    schedule: Schedule
    corruption: Corruption
    timesteps: int = 0

    def draw(self, x0: Int[Tensor, "B T"], seed: int, step: int) -> Drawn:
        """Corrupt a global batch; a pure function of (x0, seed, step)."""
        generator = generator_of(seed, "noise", step)
        shown = bool(torch.rand((), generator=generator) < 0.5)
        return Drawn(self.corruption(x0, self._rates(len(x0), generator), generator), shown)

    def _rates(self, rows: int, generator: torch.Generator) -> Float[Tensor, " B"]:
        """Stratified times: one in each B-th of the interval, each of them uniform on its own. The loss
        differs less from step to step than with independent times (VDM, 2107.00630, appendix I.1)."""
        first = torch.rand((), generator=generator, dtype=torch.float64)
        t = (first + _dealt(rows, generator).double() / rows) % 1
        if not self.timesteps:
            return self.schedule.rate(t).float()
        index = (t * self.timesteps).long().clamp(max=self.timesteps - 1)
        return levels(self.schedule, self.timesteps)[index].float()


def _dealt(rows: int, generator: torch.Generator) -> Int[Tensor, " B"]:
    """The strata in an order in which any rows side by side have nearly all kinds: the ranks of steps of the
    golden section round a circle. In their natural order one microbatch would ask for nearly every token and
    another for few, and so would one process and another; shuffled, they would still differ by chance."""
    start = torch.rand((), generator=generator, dtype=torch.float64)
    lots = (start + torch.arange(rows, dtype=torch.float64) * _GOLDEN) % 1
    return lots.argsort().argsort()


def noise_of(recipe: Recipe, tokenizer: Tokenizer, corpus: Corpus) -> Noise:
    """The noise a recipe names, over these tokens. Raises BadInput for options it does not have."""
    kind: Any = build.named("corruption", recipe.corruption, build.CORRUPTIONS)
    names = {f.name for f in fields(kind)}
    made = {name: make() for name, make in _ingredients(tokenizer, corpus).items() if name in names}
    if recipe.objective == "elbo" and "at_least" in names:
        made["at_least"] = 0  # a row that must have a mask has another rate than r(t), and no bound
    corruption = build.corruption(recipe.corruption, made, recipe.corruption_options)
    return Noise(build.schedule(recipe.schedule), corruption, recipe.timesteps)


def _ingredients(tokenizer: Tokenizer, corpus: Corpus) -> dict[str, Callable[[], Any]]:
    """What corruptions need to know of tokens, by the names of their fields; made only where it is needed."""
    mask, pad = tokenizer.mask_id, tokenizer.pad_id
    special = tokenizer.special_ids
    return {
        "mask_id": lambda: mask,
        "pad_id": lambda: pad,
        "vocab_size": lambda: tokenizer.vocab_size,
        "specials": lambda: special,
        "protected": lambda: tuple(i for i in special if i not in (mask, pad)),
        "untouched": lambda: tuple(i for i in special if i not in (mask, pad, tokenizer.eos_id)),
        "starts": lambda: tokenizer.starts_word,
        "continues": lambda: tokenizer.continues_cluster,
        "unfinished": lambda: tokenizer.unfinished_cluster,
        "scripts": lambda: tokenizer.scripts,
        "information": lambda: information(counts(corpus, tokenizer.vocab_size)),
    }


def counts(corpus: Corpus, vocab_size: int, blocks: int = _COUNTED) -> Int[Tensor, " V"]:
    """How often each token stands in the corpus; of a large one, in so many blocks spread over it."""
    train = corpus.train
    count = min(len(train), blocks)
    chosen = [i * len(train) // count for i in range(count)]
    found = torch.zeros(vocab_size, dtype=torch.int64)
    for at in range(0, count, 256):
        found += torch.bincount(train.rows(chosen[at : at + 256]).reshape(-1), minlength=vocab_size)
    return found


def generator_of(seed: int, *names: object) -> torch.Generator:
    """A CPU generator of its own for each purpose: no two of them share a stream."""
    return torch.Generator().manual_seed(number_of(seed, *names))


def number_of(seed: int, *names: object) -> int:
    """A number of 63 bits for each purpose."""
    digest = hashlib.sha256(":".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
