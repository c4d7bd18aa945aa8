# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a text looks like from outside: does it repeat itself, how many different things does it say?

Knows token ids. Must not know minds, or who judges.
"""

from __future__ import annotations

from collections.abc import Sequence

DISTINCT = (1, 2, 3)
REPEATS = 4
"""Lengths of the n-grams that are counted."""


def grams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """All runs of n tokens, in their order."""
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def distinct(ids: Sequence[int], n: int) -> float:
    """Share of n-grams that differ (distinct-n, Li et al. 2016, arXiv 1510.03055; of all n-grams, not of all
    tokens). 1 for a text without any."""
    found = grams(ids, n)
    return len(set(found)) / len(found) if found else 1.0


def repeats(ids: Sequence[int], n: int = REPEATS) -> float:
    """Share of n-grams that were said before in the same text; 0 for a text without any."""
    seen: set[tuple[int, ...]] = set()
    again = 0
    for gram in grams(ids, n):
        again += gram in seen
        seen.add(gram)
    return again / max(len(ids) - n + 1, 1)


def alike(a: Sequence[object], b: Sequence[object]) -> int:
    """How many, tokens or characters, come before the first that differs: its index; the shorter length if
    none does."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
