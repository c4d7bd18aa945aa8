# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Words that are guarded: numbers, names and negations; and the words shaped like code or addresses.

Knows one text's words, their neighbours and the lists. Must not know paragraphs, quotations, codecs or
windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from unicodedata import normalize

from haloweave.repair.guarded.kinds import Kind
from haloweave.repair.guarded.lists import ANYBODY, FUNCTION, NEGATIONS, NUMBERS, UNITS, WITHIN


@dataclass(slots=True)
class _Word:
    """A run without white space at begin..end; its core, without punctuation around it, at start..stop."""

    begin: int
    end: int
    start: int
    stop: int
    low: str
    """The core as the lists spell it."""
    kind: Kind | None
    leads: bool = False
    """A function word with a capital: a name, unless it begins a sentence."""

    @property
    def loose(self) -> bool:
        """Punctuation parts it from what follows."""
        return self.stop < self.end


def words(text: str) -> Iterator[tuple[int, int, Kind]]:
    """Guarded words, with what belongs to them."""
    found = [_word(m.group(), m.start()) for m in _BLOB.finditer(text)]
    last, at = ".", 0
    for word in found:
        if word.leads and word.start == word.begin:
            begins = last in _ENDS or text.count("\n", at, word.begin) > 1
            word.kind = None if begins else Kind.NAME
        last, at = text[word.end - 1], word.end
    for left, right in pairwise(found):
        _join(left, right)
    _connect(found)
    return ((w.start, w.stop, w.kind) for w in found if w.kind is not None)


def _word(blob: str, at: int) -> _Word:
    start, stop = len(blob) - len(blob.lstrip(_EDGES)), len(blob.rstrip(_EDGES))
    if start >= stop:
        return _Word(at, at + len(blob), at, at + len(blob), blob, None)
    if start and (blob[start - 1] == "." or (blob[start - 1] in "'’" and blob[start].isnumeric())):
        start -= 1
    core = blob[start:stop]
    low = _plain(core)
    kind = _kind(core, low)
    if kind in (Kind.CODE, Kind.ADDRESS):
        start, stop = 0, len(blob.rstrip(".,;:!?"))
    leads = kind is Kind.NAME and core[1:] == core[1:].lower() and low.partition("'")[0] in FUNCTION
    return _Word(at, at + len(blob), at + start, at + stop, low, kind, leads)


def _kind(core: str, low: str) -> Kind | None:
    """What a word is guarded for, by itself."""
    if (known := _known(low)) is not None:
        return known
    numeric = bool(_DIGIT.search(core)) or (not core.isascii() and any(c.isnumeric() for c in core))
    if _ADDRESS.search(core):
        return Kind.ADDRESS
    if _AMOUNT.search(core) or (numeric and not _LETTER.search(core)):
        return Kind.NUMBER
    if _CODE.search(core):
        return Kind.CODE
    parts = {_known(_plain(part)) for part in _PART.findall(core)}
    if Kind.NEGATION in parts:
        return Kind.NEGATION
    if numeric or Kind.NUMBER in parts:
        return Kind.NUMBER
    return Kind.NAME if core != core.lower() else None


def _known(word: str) -> Kind | None:
    if word in NEGATIONS or word.endswith("n't"):
        return Kind.NEGATION
    return Kind.NUMBER if word in NUMBERS or _ROMAN.fullmatch(word) else None


def _plain(word: str) -> str:
    """As the lists spell it; nothing for what is longer than their words (normalising is not linear)."""
    if len(word) > 40:
        return ""
    if not word.isascii():
        word = normalize("NFKC", word).translate(_SPELLING)
    return word.casefold().strip("'").removesuffix("'s")


def _join(left: _Word, right: _Word) -> None:
    """What makes a word part of its neighbour: a unit after a number, a sign before it, `koi nahi`."""
    if left.kind is Kind.NUMBER and right.kind is None and not left.loose and right.low in UNITS:
        right.kind = Kind.NUMBER
    elif right.kind is Kind.NUMBER and left.low in ("-", "–"):
        left.kind = Kind.NUMBER
    elif right.kind is Kind.NEGATION and left.kind is None and left.low in ANYBODY:
        left.kind = Kind.NEGATION


def _connect(found: Sequence[_Word]) -> None:
    """Small words within a name: The Hague, Bank of America, Lord of the Rings."""
    name = -1
    for n, word in enumerate(found):
        if word.kind is Kind.NAME:
            leads = n > 0 and found[n - 1].leads and found[n - 1].low == "the"
            for within in found[n - 1 if leads else n if name < 0 else max(name, n - 3) : n]:
                within.kind = within.kind or Kind.NAME
            name = -1 if word.loose else n
        elif word.kind or word.low not in WITHIN or word.loose or word.start > word.begin:
            name = -1


_BLOB = re.compile(r"\S+")
_PART = re.compile(
    "[^\\s!-&(-/:-@\\[-^`{-©«-±´¶-¸»¿\u2010-\u2018\u201a-\u206f\u0964\u0965\u060c\u061b\u061f"
    "\u3000-\u3004\u3008-\u3020\uff01-\uff0f\uff1a-\uff20]+"
)
_LETTER = re.compile(r"[^\W\d_]")
_DIGIT = re.compile(r"\d")
_ADDRESS = re.compile(r"://|^www\.|^mailto:|[^@]@[^@]")
_AMOUNT = re.compile("[$€£¥₹₽₩]\\d|[%‰°€£¥₹₽₩+−±×÷=<>≤≥≈^]$|^[$€£¥₹₽₩+−±×÷=<>≤≥≈^]+$")
_CODE = re.compile(
    r"[\\/_=<>{}\[\]()|&^~@#*`+$]|[^\s.:][.:][^\s.:]|[a-z][A-Z]|^--?[^\W\d]|^\.\w|^[0-9a-f]{7,}$"
)
_ROMAN = re.compile("(?=[ivx]{2})x{0,3}(?:ix|iv|v?i{0,3})")
_EDGES = "()[]{}\"'“”‘’„‚«»‹›「」『』¡¿!?.,;:…—–`।॥。，、！？"
_ENDS = ".!?…।॥。！？"
_SPELLING = str.maketrans({"’": "'", "\u200c": None, "\u200d": None})
