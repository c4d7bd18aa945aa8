# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Texts from nothing but masks, timed one at a time, and judged beside real text of the same length.

Knows unmasking, held-out rows and a judge. Must not know denoisers. Axes: T sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from haloweave.diffusion.judging.held import Decode, Held
from haloweave.diffusion.judging.judge import Judge, Judged, Variety, believable, judged, variety
from haloweave.diffusion.judging.mixing import Words, words
from haloweave.diffusion.judging.timing import Latency, latency
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.blockwise import unmask_long
from haloweave.diffusion.sampling.reader import Predict, at_rest, device_of
from haloweave.diffusion.unmask import Unmasked, Unmasking

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Generation:
    """Generated texts beside as many real ones. A text ends where its denoiser ended the document. Variety is
    that of beginnings of equal length, pair by pair: longer texts are more varied by themselves."""

    length: int
    latency: Latency
    made: Judged
    real: Judged
    made_words: Words
    real_words: Words
    ended: int
    """Texts that came to an end before `length`."""
    tokens: float
    """Of a text, on average, up to its end."""

    @property
    def believable(self) -> bool:
        """Whether a judge's perplexity says anything: it does not where texts lack variety."""
        return believable(self.made.variety, self.real.variety)


def generation(
    predict: Predict,
    held: Held,
    decode: Decode,
    *,
    mask_id: int,
    plan: Unmasking,
    count: int,
    length: int,
    block: int | None = None,
    seed: int = 0,
    max_len: int | None = None,
    judge: Judge | None = None,
    progress: Progress = silent,
) -> Generation:
    """Make `count` texts of `length` tokens, block by block where that is more than `max_len`; judge them."""
    made = samples(
        predict,
        length,
        count,
        mask_id=mask_id,
        never=held.never(mask_id, ending=True),
        block=block,
        plan=plan,
        seed=seed,
        max_len=max_len,
        progress=progress,
    )
    rows = [until(m.tokens[0].tolist(), held.eos_id) for m in made]
    real = real_rows(held, length, count, seed)
    texts, true = [decode(r) for r in rows], [decode(r) for r in real]
    progress("judging the samples", 0, None)
    one, other = map(_variety, alike(rows, real))
    return Generation(
        length=length,
        latency=pace(made),
        made=judged(texts, one, judge),
        real=judged(true, other, judge),
        made_words=words(texts),
        real_words=words(true),
        ended=sum(len(r) < length for r in rows),
        tokens=float(np.mean([len(r) for r in rows])),
    )


def until(ids: list[int], eos_id: int | None) -> list[int]:
    """Up to the end of the document: what follows is another."""
    return ids[: ids.index(eos_id)] if eos_id is not None and eos_id in ids else ids


def alike(made: Rows, real: Rows) -> tuple[Rows, Rows]:
    """Both, the longest with the longest, each pair cut to the shorter of the two."""
    pairs = zip(*(sorted(rows, key=len, reverse=True) for rows in (made, real)), strict=False)
    cut = [(a[: len(b)], b[: len(a)]) for a, b in pairs]
    return [a for a, _ in cut], [b for _, b in cut]


def _variety(rows: Rows) -> Variety:
    """Of texts that all ended before they began, none."""
    return variety(rows) if any(map(len, rows)) else Variety(0.0, (0.0, 0.0, 0.0))


def samples(
    predict: Predict,
    length: int,
    count: int,
    *,
    mask_id: int,
    plan: Unmasking,
    pad_id: int | None = None,
    never: Sequence[int] = (),
    block: int | None = None,
    seed: int = 0,
    max_len: int | None = None,
    progress: Progress = silent,
) -> list[Unmasked]:
    """`count` texts of `length` tokens, each from a seed of its own, after one call that warms everything.
    Neither mask nor pad is ever written, nor what is in `never`."""
    blank: Int[Tensor, "1 T"] = torch.full((1, length), mask_id, device=device_of(predict))
    never = (*never, mask_id) if pad_id is None else (*never, mask_id, pad_id)
    window = length if max_len is None else min(length, max_len)
    with at_rest(predict):
        predict(blank[:, :window], None)
    made = []
    for i in range(count):
        generator = torch.Generator().manual_seed(seed + i)
        made.append(
            unmask_long(
                predict,
                blank,
                max_len=window,
                block=None if block is None else min(block, window),
                mask_id=mask_id,
                generator=generator,
                plan=plan,
                never=never,
            )
        )
        progress("generating", i + 1, count)
    return made


def pace(made: Sequence[Unmasked]) -> Latency:
    """How long samples took, each all of its tokens. Raises BadInput for none."""
    return latency([m.seconds for m in made], [m.calls for m in made], [m.tokens.numel() for m in made])


def real_rows(held: Held, length: int, count: int, seed: int = 0) -> Sequence[list[int]]:
    """Beginnings of held-out texts, `length` tokens or, where none has as many, the longest there are."""
    order = np.random.default_rng(seed).permutation(len(held.rows))
    longest_first = order[np.argsort(-np.minimum(held.text[order], length), kind="stable")]
    return [held.rows[r, : min(length, int(held.text[r]))].tolist() for r in longest_first[:count].tolist()]
