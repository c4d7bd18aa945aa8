# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Grapheme clusters that nobody writes on purpose: the traces of tokens that were joined without regard for
what a script allows.

A cluster is broken if it

    holds U+FFFD, or begins with what hangs: a mark or a joiner with nothing before it
    has a mark of an Indic script or of Arabic behind no letter of that script
    has Devanagari, and is not one orthographic syllable (Unicode Standard, 12.1, R1 to R16):
        (consonant nukta? virama)* consonant nukta? (one matra, or a virama)? nasal? visarga? accents
        vowel, avagraha or om, nukta? nasal? visarga? accents

so two matras, a matra or another virama behind a virama, a nukta behind a matra, a matra behind an anusvara
are all broken. A ZWJ or ZWNJ may stand anywhere but first; a virama with ZWJ asks for a half form and dangles
where no consonant follows. A dotted circle or a no-break space may carry any mark, to show it. Of 3.7
million clusters of Hindi from books, news and manuals 235 are broken: slips of the pen and of old fonts.

Text is taken to be in NFC. Knows Unicode. Must not know tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import regex

from haloweave.diffusion.judging.intervals import Interval, ratio
from haloweave.diffusion.text.clusters import HANGING, clusters

_C, _J = "[\u0915-\u0939\u0958-\u095f\u0978-\u097f]", "[\u200c\u200d]*"
_V = "[\u0904-\u0914\u0960\u0961\u0972-\u0977\u093d\u0950]"
_MATRA = "[\u093a\u093b\u093e-\u094c\u094e\u094f\u0955-\u0957\u0962\u0963]"
_SIGNS = f"[\u0900-\u0902]?\u0903?[\u0951-\u0954]*{_J}"
_SYLLABLE = regex.compile(
    rf"(?:{_C}\u093c?{_J}\u094d{_J})*+{_C}\u093c?{_J}(?:{_MATRA}{_J}|\u094d\u200c*)?{_SIGNS}"
    rf"|(?:{_C}\u093c?{_J}\u094d{_J})*{_C}\u093c?{_J}\u094d\u200c*"
    rf"|{_V}\u093c?{_J}{_SIGNS}"
    r"|[\u25cc\u00a0][\p{M}\u200c\u200d]+"
)
_DEVANAGARI = regex.compile(r"[\p{Devanagari}&&[\p{L}\p{M}]]", regex.V1)
_INDIC = ["Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala"]
_OTHERS = [*_INDIC, "Arabic"]
_BASELESS = regex.compile(
    "|".join(
        rf"(?<![\p{{{s}}}\p{{Inherited}}\u25cc\u00a0][\u200c\u200d]*)[\p{{{s}}}&&\p{{M}}]" for s in _OTHERS
    ),
    regex.V1,
)


@dataclass(frozen=True)
class Breakage:
    """How many clusters some texts have, and how many of them are broken."""

    clusters: int
    broken: int
    per_thousand: Interval | None
    """Broken ones, over the texts; None where there are no clusters."""


def is_broken(cluster: str) -> bool:
    """Whether a cluster, as `text.clusters` cuts them, is one that no text has but by mistake."""
    if cluster.isascii():
        return False
    if "\ufffd" in cluster or HANGING.match(cluster) or _BASELESS.search(cluster):
        return True
    return bool(_DEVANAGARI.search(cluster)) and not _SYLLABLE.fullmatch(cluster)


def broken(text: str) -> list[str]:
    """The broken clusters of a text, in order."""
    return [] if text.isascii() else [cluster for cluster in clusters(text) if is_broken(cluster)]


def breakage(texts: Sequence[str]) -> Breakage:
    """Count them over some texts."""
    counts = [sum(1 for _ in clusters(text)) for text in texts]
    found = [len(broken(text)) for text in texts]
    share = ratio([1000 * n for n in found], counts) if sum(counts) else None
    return Breakage(sum(counts), sum(found), share)
