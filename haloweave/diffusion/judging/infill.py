# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Infilling judged: the same seeded holes for every denoiser, filled, and compared with what stood there.

Exact match counts a hole only if every token of it is right. Word overlap (F1 of the words, as in SQuAD,
1606.05250) also honours a hole that is nearly right. Knows unmasking and held-out rows. Must not know
denoisers. Axes: T sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from haloweave.diffusion.judging.held import Decode, Held
from haloweave.diffusion.judging.intervals import Interval, ratio
from haloweave.diffusion.judging.timing import Latency, latency
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.reader import Predict, device_of
from haloweave.diffusion.unmask import Unmasked, Unmasking, unmask

LENGTHS = (1, 3, 8)
SEVERAL = "several"
_MOST, _LONGEST = 4, 8
"""Holes of a puzzle of several, and the longest of them."""

Span = tuple[int, int]
"""First place, length."""


@dataclass(frozen=True)
class Puzzle:
    """One row of held-out text with holes in it."""

    kind: str
    """The length of its one hole, or `several`."""
    row: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, eq=False)
class Filled:
    """How one puzzle went."""

    puzzle: Puzzle
    exact: tuple[bool, ...]
    """Of each span."""
    overlap: tuple[float, ...]
    tokens: int
    calls: int
    seconds: float


@dataclass(frozen=True)
class InfillScore:
    """Over all puzzles of a kind; intervals are over the texts that they were cut from."""

    exact: Interval
    overlap: Interval
    holes: int
    latency: Latency


def puzzles(held: Held, count: int, *, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Puzzle]:
    """`count` puzzles of each length and as many of several holes, from rows long enough to leave something
    visible; fewer where the text has no such row. The same seed and text give the same puzzles. Holes are in
    text: the end of a document is no answer, so nobody is asked for it."""
    rng = np.random.default_rng(seed)
    made = [
        Puzzle(str(n), row, ((_start(held, row, n, rng), n),))
        for n in lengths
        for row in _rows(held, n + 1, count, rng)
    ]
    for row in _rows(held, 2 * _MOST, count, rng):
        made.append(Puzzle(SEVERAL, row, _several(int(held.text[row]), rng)))
    return made


def _rows(held: Held, least: int, count: int, rng: np.random.Generator) -> list[int]:
    """Rows of at least so many tokens, in random order, each as often as any other."""
    fit = np.flatnonzero(held.text >= least)
    rounds = -(-count // len(fit)) if len(fit) else 0
    return [int(r) for _ in range(rounds) for r in rng.permutation(fit)][:count]


def _start(held: Held, row: int, length: int, rng: np.random.Generator) -> int:
    return int(rng.integers(0, held.text[row] - length + 1))


def _several(tokens: int, rng: np.random.Generator) -> tuple[Span, ...]:
    """One hole in each quarter of the row, somewhere, none touching the next."""
    quarter = tokens // _MOST
    spans = []
    for i in range(_MOST):
        length = int(rng.integers(1, min(_LONGEST, quarter - 1) + 1))
        spans.append((i * quarter + int(rng.integers(0, quarter - length)), length))
    return tuple(spans)


def filled_in(
    predict: Predict,
    held: Held,
    wanted: Iterable[Puzzle],
    decode: Decode,
    *,
    mask_id: int,
    plan: Unmasking,
    nothing: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Filled]:
    """Fill every puzzle by itself, so that its time and its calls are those that a person would wait for.
    `nothing`: the pad may be written, for a denoiser that learnt to leave places empty."""
    tasks, found = list(wanted), []
    never = held.never(mask_id, nothing=nothing)
    for number, puzzle in enumerate(tasks):
        x0 = held.rows[puzzle.row]
        done = refilled(
            predict, x0, puzzle.spans, mask_id=mask_id, plan=plan, never=never, seed=seed + number
        )
        found.append(_judge(puzzle, x0, done, decode))
        progress("filling holes", number + 1, len(tasks))
    return found


def refilled(
    predict: Predict,
    x0: Int[Tensor, " T"],
    spans: Iterable[Span],
    *,
    mask_id: int,
    plan: Unmasking,
    never: Sequence[int],
    seed: int,
) -> Unmasked:
    """One row by itself, some spans of it taken out and written anew."""
    xt = x0[None].to(device_of(predict), copy=True)
    for start, length in spans:
        xt[0, start : start + length] = mask_id
    generator = torch.Generator().manual_seed(seed)
    return unmask(predict, xt, mask_id=mask_id, generator=generator, plan=plan, never=never)


def _judge(puzzle: Puzzle, x0: Int[Tensor, " T"], done: Unmasked, decode: Decode) -> Filled:
    pairs = [(x0[s : s + n].tolist(), done.tokens[0, s : s + n].tolist()) for s, n in puzzle.spans]
    exact = tuple(true == got for true, got in pairs)
    overlap = tuple(word_overlap(decode(true), decode(got)) for true, got in pairs)
    return Filled(puzzle, exact, overlap, sum(n for _, n in puzzle.spans), done.calls, done.seconds)


def word_overlap(true: str, got: str) -> float:
    """F1 of the words of two texts, as often as each has them; two texts without words agree."""
    a, b = Counter(true.split()), Counter(got.split())
    if not a and not b:
        return 1.0
    return 2 * (a & b).total() / (a.total() + b.total())


def infill_scores(filled: Sequence[Filled], held: Held) -> Mapping[str, InfillScore]:
    """The scores of each kind of puzzle."""
    kinds = list(dict.fromkeys(f.puzzle.kind for f in filled))
    return {kind: _score([f for f in filled if f.puzzle.kind == kind], held) for kind in kinds}


def _score(filled: Sequence[Filled], held: Held) -> InfillScore:
    where = held.units(np.array([f.puzzle.row for f in filled]))
    holes = [len(f.exact) for f in filled]
    exact = ratio([sum(f.exact) for f in filled], holes, where)
    overlap = ratio([sum(f.overlap) for f in filled], holes, where)
    times = latency([f.seconds for f in filled], [f.calls for f in filled], [f.tokens for f in filled])
    return InfillScore(exact, overlap, sum(holes), times)
