# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One side speaks with a seed, the others hear the same tokens; what each expected is there at every step.

Knows sides and the sampler. Must not know which side is which, or what is made of it. The draws depend on
(seed, tick) alone, and the tick is counted from the passes that reading took: the same for every side, as a
weave is no pass. So at the same step both minds are dealt the same random number, however often one of them
has woven. The repetition penalty looks at the end of the text itself, not at the rows a side still holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int32

from haloweave.bench.compact.side import Side
from haloweave.engine.sampling import Sampling, sample
from haloweave.text import Codec


@dataclass(frozen=True)
class Step:
    """One token, and what was expected in its place."""

    token_id: int
    logits: tuple[Float32[np.ndarray, " V"], ...]
    """Of the side that speaks, then of each that hears."""


def speech(how: Sampling, codec: Codec, seed: int) -> Sampling:
    """`how`, with this seed, and without the tokens that end or frame a turn: everybody says as much."""
    silent = dict.fromkeys(sorted(codec.control_ids | codec.end_ids), float("-inf"))
    return replace(how, seed=seed, logit_bias={**how.logit_bias, **silent})


def spoken(
    speaker: Side, hearers: Sequence[Side], how: Sampling, count: int, *, after: Sequence[int], tick: int
) -> Iterator[Step]:
    """`count` tokens, one at a time; every side begins where reading `after` left it, `tick` passes on."""
    sides = (speaker, *hearers)
    for side in sides:
        side.back()
    said: list[int] = []
    for n in range(count):
        logits = tuple(side.logits() for side in sides)
        token_id = sample(
            logits[0], _recent(after, said, how.repetition_window), _within(how, logits[0]), tick + n
        )
        yield Step(token_id, logits)
        said.append(token_id)
        if n + 1 < count:
            for side in sides:
                side.hear(token_id)


def _recent(after: Sequence[int], said: Sequence[int], window: int) -> Int32[np.ndarray, " R"]:
    return np.array([*after[-window:], *said], np.int32)


def _within(how: Sampling, logits: Float32[np.ndarray, " V"]) -> Sampling:
    """A tokenizer may have more control tokens than the model has embeddings."""
    if all(i < len(logits) for i in how.logit_bias):
        return how
    return replace(how, logit_bias={i: b for i, b in how.logit_bias.items() if i < len(logits)})
