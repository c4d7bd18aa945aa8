# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Why something is guarded. Knows names for reasons. Must not know texts, nor how a reason is found."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Why something is guarded, or why a proposal was dropped."""

    NUMBER = "number"
    """Digits of any script, number words, ordinals, amounts with their units, dates and times."""
    NAME = "name"
    """Words with a capital letter, but for function words that begin a sentence."""
    NEGATION = "negation"
    CODE = "code"
    """Also paths, flags, identifiers and hashes."""
    ADDRESS = "address"
    """URLs and e-mail addresses."""
    QUOTE = "quote"
    MARKER = "marker"
    """`[...]`, and what looks like a chat template's token."""
    BREAK = "line break"
    """Paragraphs decide what is code and what a quotation."""
    CHARACTER = "character"
    """Parts of a character, and characters that do not show."""
    CONTRACT = "contract"
    """Never in a text: the proposal itself breaks what `Repairer` promises."""
