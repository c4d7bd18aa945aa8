# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Whether a word can stand where another stood, and in which casing. Knows characters alone."""

from __future__ import annotations

import re
import unicodedata

_OPENING = "\"'([{“‘«"
_CLOSING = "\"')]}”’»"
_ENDS = ".!?…:\n"


def fits(new: str, old: str, after: str) -> bool:
    """Spaces are the original's, so a word may replace a word, and a mark a like mark; and a word may end
    anything that a space follows. `after`: the next character, empty at the end of the text."""
    if kind(new[0]) != kind(old[0]):
        return False
    return kind(new[-1]) == kind(old[-1]) or (kind(new[-1]) == "word" and (not after or after.isspace()))


def kind(character: str) -> str:
    """Letters, digits and what combines with them are of one kind; marks by their Unicode category."""
    category = unicodedata.category(character)
    return "word" if category[0] in "LNM" else category


def cased(word: str, like: str, text: str, at: int) -> str:
    """A lower-case word in the casing of another, which stands at `at` in a text. A word that the text itself
    writes with a capital inside sentences, and never without, keeps it."""
    letters = [c for c in like if c.isalpha()]
    if len(letters) > 1 and all(c.isupper() for c in letters):
        return word.upper()
    # One capital letter says nothing by itself ("I", "A"): there it is a sentence's beginning that counts.
    if letters and letters[0].isupper() and (len(letters) > 1 or opens_sentence(text, at)):
        return _capitalised(word)
    return _capitalised(word) if _is_name(word, text) else word


def opens_sentence(text: str, at: int) -> bool:
    """True if a sentence or a quotation begins at `at`."""
    before = text[max(0, at - 16) : at]
    if before[-1:] in _OPENING:
        return True
    bare = before.rstrip(" \t").rstrip(_CLOSING)
    return not bare or bare[-1] in _ENDS


def _is_name(word: str, text: str) -> bool:
    if not word.isalpha() or re.search(rf"\b{re.escape(word)}\b", text):
        return False
    if word == "i":  # English: the one word that is never small
        return True
    capital = re.finditer(rf"\b{re.escape(_capitalised(word))}\b", text)
    return any(not opens_sentence(text, found.start()) for found in capital)


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]
