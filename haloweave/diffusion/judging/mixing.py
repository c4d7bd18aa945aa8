# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Whether words keep to one script: Hinglish mixes Devanagari and Latin between words, hardly within one.

A denoiser that writes several tokens at once may join halves of two scripts to a word; no perplexity says so.
Knows letters. Must not know who wrote the texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from haloweave.diffusion.judging.intervals import Interval, ratio
from haloweave.diffusion.judging.languages import WORD, word_script


@dataclass(frozen=True)
class Words:
    """The words of some texts, by the scripts of their letters. Of no words, `mixing` is None."""

    count: int
    devanagari: int
    latin: int
    mixed: int
    """With letters of both in one word."""
    mixing: Interval | None
    """Share of the words that are mixed, over the texts."""


def words(texts: Sequence[str]) -> Words:
    """Count them; what is of neither script is in `count` alone."""
    found = [Counter(map(word_script, WORD.findall(text))) for text in texts]
    total: Counter[str | None] = sum(found, Counter())
    share = ratio([f["mixed"] for f in found], [f.total() for f in found]) if total else None
    return Words(total.total(), total["devanagari"], total["latin"], total["mixed"], share)
