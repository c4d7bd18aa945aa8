# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Texts taken up in the middle and written on, and words taken out and written anew: what they are, beside
what really stood there.

A row is cut before a word, about its middle; its beginning is the prompt, the rest is masks. Texts are read
up to their last whole word, and half characters at the ends of a row are left out, so that no cut is taken
for a mistake. Knows unmasking and held-out rows. Must
not know denoisers, nor what is asked of the texts. Axes: T sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import regex

from haloweave.diffusion.judging.held import Decode, Held
from haloweave.diffusion.judging.infill import Span, refilled
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.reader import Predict
from haloweave.diffusion.unmask import Unmasking

LEAST = 16
"""Tokens of text of a row that is to be written on."""
_LONGEST_WORD = 8
_SEVERAL = 4
"""Holes of a row, one in each quarter."""
_WORD = regex.compile(r"\s?[\p{L}\p{M}\u200c\u200d]+")
_CUT_OFF = regex.compile(r"\A[\p{M}\u200c\u200d\ufffd]+")
"""What a row that begins in the middle of a cluster begins with."""
_HALF = "\ufffd"
_CONTINUES = regex.compile(r"[\p{L}\p{M}\u200c\u200d\ufffd]")


@dataclass(frozen=True)
class Continuation:
    """One row written on. `made` and `true` begin where the prompt ends; `joint` is the prompt's last word,
    to which `made` may have joined something."""

    row: int
    prompt: str
    joint: str
    made: str
    true: str


@dataclass(frozen=True)
class Edit:
    """One word taken out, and what was written for it."""

    row: int
    true: str
    made: str


def continuations(
    predict: Predict,
    held: Held,
    rows: np.ndarray,
    decode: Decode,
    *,
    mask_id: int,
    plan: Unmasking,
    length: int,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Continuation]:
    """Write on each of some rows of at least LEAST tokens, cut to `length`; the others are passed over."""
    made, never = [], held.never(mask_id)
    fit = [int(r) for r in rows if held.text[r] >= LEAST]
    for number, row in enumerate(fit):
        x0 = held.rows[row, : min(int(held.text[row]), length)]
        ids = x0.tolist()
        cut = _cut(ids, decode)
        rest = [(cut, len(ids) - cut)]
        done = refilled(predict, x0, rest, mask_id=mask_id, plan=plan, never=never, seed=seed + row)
        prompt = decode(ids[:cut]).rstrip(_HALF)  # the other half follows
        wrote, stood = (decode(x)[len(prompt) :] for x in (done.tokens[0].tolist(), ids))
        words = _CUT_OFF.sub("", prompt).split()
        joint = words[-1] if words and not prompt[-1:].isspace() else ""
        made.append(Continuation(row, prompt, joint, whole_words(wrote), whole_words(stood)))
        progress("writing on", number + 1, len(fit))
    return made


def _cut(ids: list[int], decode: Decode) -> int:
    """The last place up to the middle at which a word begins; the middle if there is none."""
    half = len(ids) // 2
    return next((i for i in range(half, 0, -1) if decode([ids[i]])[:1].isspace()), half)


def whole_words(text: str) -> str:
    """A text without its last word, which may go on; one of a single word stays, but for half a character."""
    kept = regex.sub(r"\S+\z", "", text)
    return kept if kept.strip() else text.rstrip(_HALF)


def edits(
    predict: Predict,
    held: Held,
    rows: np.ndarray,
    decode: Decode,
    *,
    mask_id: int,
    plan: Unmasking,
    nothing: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Edit]:
    """Take a word out of each quarter of some rows, where there is one, and have them written anew by as many
    tokens, each row by itself. `nothing`: as for infilling."""
    made, never = [], held.never(mask_id, nothing=nothing)
    for number, row in enumerate(map(int, rows)):
        x0 = held.rows[row, : int(held.text[row])]
        ids, rng = x0.tolist(), np.random.default_rng((seed, row))
        spans = list(_one_a_quarter(ids, decode, rng))
        if spans:
            done = refilled(predict, x0, spans, mask_id=mask_id, plan=plan, never=never, seed=seed + row)
            both = ids, done.tokens[0].tolist()
            made += [Edit(row, *(decode(x[at : at + n]).strip() for x in both)) for at, n in spans]
        progress("writing words anew", number + 1, len(rows))
    return made


def _one_a_quarter(ids: list[int], decode: Decode, rng: np.random.Generator) -> Iterator[Span]:
    """None touches the next quarter's."""
    found = words_at(ids, decode)
    for part in range(_SEVERAL):
        low, high = part * len(ids) // _SEVERAL, (part + 1) * len(ids) // _SEVERAL
        here = [(first, end) for first, end in found if low <= first and end < high]
        if here:
            first, end = here[int(rng.integers(len(here)))]
            yield first, end - first


def words_at(ids: list[int], decode: Decode) -> list[tuple[int, int]]:
    """First place and end of each word of whole tokens, of eight at most, that begins behind a space. One
    that ends with the row may go on, and is none."""
    starts = [i for i in range(1, len(ids)) if decode([ids[i]])[:1].isspace()]
    found = []
    for start in starts:
        for end in range(start + 1, min(start + _LONGEST_WORD, len(ids) - 1) + 1):
            whole = _WORD.fullmatch(decode(ids[start:end]))
            if whole and not _CONTINUES.match(decode([ids[end]])):
                found.append((start, end))
                break
    return found
