# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What tests of the archive share: an embedder without a model, and an archive's tables to compare.

Knows logs and archives. Must not know any test.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from journalled import Life

from haloweave.journal.archive import Archive
from haloweave.journal.log import Log

MEANINGS = {"bees": "insects", "apiarist": "insects", "hives": "insects", "sister": "kin", "sibling": "kin"}
"""Words that this embedder takes for the same."""


class Hashing:
    """Bags of words, hashed: texts are alike as far as they say the same words, or words that mean it."""

    def __init__(self, name: str = "hashing", dim: int = 64) -> None:
        self.name, self.dim = name, dim
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        out = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(out, texts, strict=True):
            for word in re.findall(r"[a-z]+", text.lower()):
                row[zlib.crc32(MEANINGS.get(word, word).encode()) % self.dim] += 1
            row /= np.linalg.norm(row) or 1
        return out


TABLES = ("passages", "runs", "recalls", "vectors", "unembedded", "words_docsize")


def tables(log: Log) -> dict[str, Any]:
    """Everything the archive keeps, and what its words say (the order of FTS5's pages apart)."""
    held: dict[str, Any] = {t: sorted(log.db.execute(f"SELECT * FROM {t}"), key=repr) for t in TABLES}
    log.db.execute("CREATE VIRTUAL TABLE IF NOT EXISTS temp.places USING fts5vocab (main, words, instance)")
    held["words"] = log.db.execute("SELECT * FROM temp.places ORDER BY term, doc, offset").fetchall()
    return held


def texts(log: Log) -> list[str]:
    """Of all passages, living or archived."""
    return [text for (text,) in log.db.execute("SELECT text FROM passages ORDER BY id")]


def uids_of(log: Log, text: str) -> list[int]:
    """Of the one place where the journal says it."""
    (place,) = log.occurrences(text)
    return list(place)


def said(life: Life, archive: Archive, text: str, *more: str) -> list[int]:
    """Say something in turns of its own, cull it at once; its uids."""
    uids = [u for t in (text, *more) for u in life.feed(t)]
    life.cull(uids)
    return uids
