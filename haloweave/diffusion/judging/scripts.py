# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Whether a denoiser keeps to the script that it was given, by three numbers.

    words        share of the words that mix Devanagari and Latin letters              (judging.mixing)
    edits        share of the words written anew that are in another script than what stood there
    off the mix  share of the texts written on in other scripts than their prompt's

The mix of a text are the shares of Devanagari, Latin and all other letters; two mixes are as far apart as
half the sum of their differences (total variation, 0 to 1). More than FAR from its prompt's, or without a
letter, a text is off. Knows texts. Must not know who wrote them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex

from haloweave.diffusion.judging.intervals import Interval, ratio
from haloweave.diffusion.judging.languages import share_of_scripts, word_script

FAR = 0.3
"""Distance above which a text is off its prompt's mix. Of 6,781 real passages of 400 characters, cut
in half, 2 are; of 1,476 of 2,000 characters none."""
_LETTER = regex.compile(r"\p{L}")


@dataclass(frozen=True)
class Edits:
    """Words written anew. `other_script`: of those with a letter, the share in another script than what stood
    there; None where none has one. `wordless`: those without, of which who writes commas alone has many."""

    count: int
    exact: Interval | None
    other_script: Interval | None
    wordless: int


def script_of(word: str) -> str | None:
    """devanagari, latin, mixed or other; None without a letter."""
    return word_script(word) or "other" if _LETTER.search(word) else None


def edited(true: Sequence[str], made: Sequence[str], groups: Sequence[int] | np.ndarray) -> Edits:
    """Count them; intervals are over `groups`, the text of each word."""
    wordless = [script_of(word) is None for word in made]
    odd = [not w and script_of(a) != script_of(b) for a, b, w in zip(true, made, wordless, strict=True)]
    same = [a == b for a, b in zip(true, made, strict=True)]
    if not made:
        return Edits(0, None, None, 0)
    lettered = len(made) - sum(wordless)
    other = ratio(odd, [not w for w in wordless], groups) if lettered else None
    return Edits(len(made), ratio(same, np.ones(len(made)), groups), other, sum(wordless))


def mix(text: str) -> tuple[float, float, float] | None:
    """Shares of Devanagari, Latin and other letters; None without a letter."""
    if not _LETTER.search(text):
        return None
    hindi, latin = share_of_scripts(text)
    return hindi, latin, max(0.0, 1.0 - hindi - latin)


def distance(one: str, other: str) -> float | None:
    """Between the mixes of two texts, 0 to 1; 1 where only the first has letters; None where it has none."""
    a, b = mix(one), mix(other)
    if a is None:
        return None
    return 1.0 if b is None else sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2


def off_mix(
    prompts: Sequence[str], texts: Sequence[str], groups: Sequence[int] | np.ndarray
) -> Interval | None:
    """The share of texts off their prompt's mix; prompts without letters are passed over."""
    found = [(distance(p, t), g) for p, t, g in zip(prompts, texts, groups, strict=True)]
    known = [(d > FAR, g) for d, g in found if d is not None]
    if not known:
        return None
    return ratio([far for far, _ in known], np.ones(len(known)), [g for _, g in known])
