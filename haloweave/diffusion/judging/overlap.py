# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Whether texts share passages: runs of n words, hashed (as GPT-3 looked for its test sets, 2005.14165).

Words are compared in small letters, without punctuation, joiners or line breaks: a passage that was reflowed
or quoted otherwise is the same passage. Hashes are of 64 bits and the same on every machine. Knows words and
numpy. Must not know files, nor which text is training's. Axes: K words, G runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from unicodedata import normalize

import numpy as np
import regex
from jaxtyping import Bool, UInt64

RUN = 8
"""Words of a passage. Measured on 37 MB of books, news and manuals in English, Hindi and Hinglish, 8 % of the
documents kept apart: beside runs of 13 words, runs of 5 cost 26 % of the training text, of 6 7 %, of 8 1 %;
dialogues filled into templates are met at 8 as surely as at 6."""
SEEN = 0.05
"""Share of a document's words in shared passages above which it counts as seen. Of 2,560 documents beside
texts of others (a novel and twelve more, manuals, stories, dialogues) none has more than 0.027."""
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_UNSEEN = regex.compile("[\u00ad\u200c\u200d]")
"""Soft hyphens and joiners: one text has them in a word where another has none."""
_ODD = np.uint64(0x9E3779B97F4A7C15)


def spoken(text: str) -> list[str]:
    """The words of a text as they are compared."""
    found: list[str] = _WORD.findall(_UNSEEN.sub("", normalize("NFC", text).casefold()))
    return found


@dataclass(frozen=True)
class Overlap:
    """How many of some documents training has seen, and the largest share that it has seen of one."""

    documents: int
    seen: int
    most: float


def overlap(evaluation: Sequence[str], training: Iterable[str], run: int = RUN) -> Overlap:
    """Which documents have more than SEEN of their words in passages that training text has too."""
    shared = Passages(evaluation, run).met(training)
    found = [shared.shared(spoken(text)) for text in evaluation]
    shares = [float(covered.mean()) if len(covered) else 0.0 for covered in found]
    return Overlap(len(shares), sum(share > SEEN for share in shares), max(shares, default=0.0))


class Passages:
    """All runs of `run` words in some texts."""

    def __init__(self, texts: Iterable[str], run: int = RUN) -> None:
        self.run = run
        self._words: dict[str, int] = {}
        found = [self._hashes(spoken(text)) for text in texts]
        self._known = np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))

    def __len__(self) -> int:
        return len(self._known)

    def shared(self, words: list[str]) -> Bool[np.ndarray, " K"]:
        """Of each word, whether it stands in a run that is known."""
        hashes, covered = self._hashes(words), np.zeros(len(words), np.bool_)
        if len(self._known) and len(hashes):
            at = np.searchsorted(self._known, hashes).clip(max=len(self._known) - 1)
            starts = np.flatnonzero(self._known[at] == hashes)
            covered[(starts[:, None] + np.arange(self.run)).ravel()] = True
        return covered

    def met(self, texts: Iterable[str]) -> Passages:
        """Those of the runs that some texts have too."""
        found = np.zeros(len(self._known), np.bool_)
        for text in texts:
            hashes = self._hashes(spoken(text))
            if len(self._known) and len(hashes):
                at = np.searchsorted(self._known, hashes).clip(max=len(self._known) - 1)
                found[at[self._known[at] == hashes]] = True
        both = Passages((), self.run)
        both._known = self._known[found]
        return both

    def _hashes(self, words: list[str]) -> UInt64[np.ndarray, " G"]:
        """One hash a run, in order."""
        codes = np.array([self._code(word) for word in words], np.uint64)
        runs = max(0, len(codes) - self.run + 1)
        found = np.zeros(runs, np.uint64)
        for i in range(self.run):  # wraps around, as it should
            found = found * _ODD + codes[i : i + runs]
        return found

    def _code(self, word: str) -> int:
        code = self._words.get(word)
        if code is None:
            code = int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")
            self._words[word] = code
        return code
