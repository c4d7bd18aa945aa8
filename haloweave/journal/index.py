# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What is archived, ready to be found: words in FTS5, vectors on disk and in memory.

Knows the log's database, passages and an embedder by its protocol. Must not know records or edits. Vectors
are made later, by whoever has time: until then a passage is found by its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apsw
import numpy as np
from jaxtyping import Float32

from haloweave.errors import HaloError, InvalidInput, JournalFailed
from haloweave.journal.connection import explained
from haloweave.journal.log import Log
from haloweave.journal.passages import Passage
from haloweave.journal.search import Embedder, Question, Vectors, Words, packed, unpacked
from haloweave.memory.tokens import Source

_NAME = "embedder"
"""Key under which the log keeps which vector space the vectors are of."""


@dataclass(frozen=True)
class Candidate:
    """A passage that may be meant."""

    id: int
    cosine: float | None
    bm25: float | None


class Index:
    """Of one log's archive. Without an embedder, vectors that are there stay, and are not used."""

    def __init__(self, log: Log, embedder: Embedder | None) -> None:
        self.embedder = embedder
        self.fault = ""
        """Why the last search did without vectors; empty if it did not."""
        self._log = log
        self._words = Words(log.db)
        self._vectors: Vectors | None = None
        """None until something is searched."""
        self._handed: set[int] = set()
        """Passages whose text went out to be embedded, and has not changed since."""
        self._count: int | None = None
        if embedder is not None and log.get(_NAME) != _space(embedder):
            self._begin_anew(_space(embedder))

    def _begin_anew(self, space: str) -> None:
        """Vectors of another space mean nothing here: all are to be made again."""
        with self._log.transaction() as db:
            db.execute("INSERT OR IGNORE INTO unembedded SELECT id FROM vectors; DELETE FROM vectors")
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_NAME, space))

    # ---- coming and going, within a transaction of the log ------------------------------------------

    def enter(self, passage: Passage) -> None:
        """A passage is archived; one that says nothing is not."""
        if passage.blank:
            return
        self._words.enter(passage.id, passage.text)
        self._log.db.execute("INSERT INTO unembedded VALUES (?)", (passage.id,))
        self._count = None if self._count is None else self._count + 1

    def leave(self, passage: Passage) -> None:
        """It is not archived after all."""
        if passage.blank:
            return
        self._words.leave(passage.id, passage.text)
        self.outdated(passage.id, again=False)
        self._count = None

    def outdated(self, number: int, *, again: bool) -> None:
        """The vector of a passage is of a text that it has no more; `again`: it needs another."""
        db = self._log.db
        db.execute("DELETE FROM vectors WHERE id = ?1; DELETE FROM unembedded WHERE id = ?1", (number,) * 2)
        if again:
            db.execute("INSERT INTO unembedded VALUES (?)", (number,))
        self._handed.discard(number)
        if self._vectors is not None:
            self._vectors.drop(number)

    def reword(self, passages: Iterable[Passage]) -> None:
        """All words anew, from all that is archived.

        A redaction needs this: what FTS5 deletes, with `secure-delete` or without, may leave the beginning of
        a word behind, as a separator between two pages of its index.
        """
        self._words.clear()
        for passage in passages:
            if not passage.blank:
                self._words.enter(passage.id, passage.text)
        self._count = None

    def clear(self) -> dict[int, tuple[str, bytes]]:
        """Everything leaves. The vectors there were, and of what text, for `bring_back`."""
        db = self._log.db
        vectors: list[tuple[Any, ...]] = db.execute(
            "SELECT id, text, vector FROM vectors JOIN passages USING (id)"
        ).fetchall()
        db.execute("DELETE FROM vectors; DELETE FROM unembedded")
        self._words.clear()
        self._vectors, self._count = None, None
        self._handed.clear()
        return {number: (text, vector) for number, text, vector in vectors}

    def bring_back(self, vectors: Mapping[int, tuple[str, bytes]]) -> None:
        """Vectors of passages that are archived again, with the same text."""
        db = self._log.db
        for number, (text, vector) in vectors.items():
            db.execute(
                "DELETE FROM unembedded WHERE id = (SELECT id FROM passages WHERE id = ? AND text = ?)",
                (number, text),
            )
            if db.changes():
                db.execute("INSERT INTO vectors VALUES (?, ?)", (number, vector))

    # ---- vectors -----------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether there are passages to embed, and somebody to do it."""
        if self.embedder is None:
            return False
        with reading(self._log) as db:
            return db.execute("SELECT 1 FROM unembedded LIMIT 1").fetchone() is not None

    def pending(self, limit: int) -> list[tuple[int, str]]:
        """Passages without a vector, and their texts, oldest first."""
        if limit < 1:
            raise InvalidInput(f"limit: expected at least 1 passage, got {limit}")
        with reading(self._log) as db:
            found: list[tuple[Any, ...]] = db.execute(
                "SELECT id, text FROM unembedded JOIN passages USING (id) ORDER BY id LIMIT ?", (limit,)
            ).fetchall()
        self._handed.update(number for number, _ in found)
        return [(number, text) for number, text in found]

    def store(self, vectors: Mapping[int, Float32[np.ndarray, " D"]]) -> int:
        """Vectors of texts that `pending` told; how many were kept. A text that has changed or gone since
        keeps none."""
        if self.embedder is None:
            raise InvalidInput("vectors: this archive was opened without an embedder")
        for number, vector in vectors.items():
            _check(number, vector, self.embedder.dim)
        wanted = {n: packed(v) for n, v in vectors.items() if n in self._handed}
        if wanted:
            with self._log.transaction() as db:
                db.executemany("DELETE FROM unembedded WHERE id = ?", [(n,) for n in wanted])
                db.executemany("INSERT INTO vectors VALUES (?, ?)", wanted.items())
            self._handed -= wanted.keys()
            if self._vectors is not None:
                self._remember(self._vectors, "WHERE id IN (SELECT value FROM json_each(?))", str([*wanted]))
        return len(wanted)

    def _loaded(self, embedder: Embedder) -> Vectors:
        if self._vectors is None:
            vectors = Vectors(embedder.dim)
            self._remember(vectors, "WHERE true OR ?", "")
            self._vectors = vectors
        return self._vectors

    def _remember(self, vectors: Vectors, where: str, value: str) -> None:
        with reading(self._log) as db:
            rows = db.execute(
                f"SELECT id, source, vector FROM vectors JOIN passages USING (id) {where}", (value,)
            ).fetchall()
        if rows:
            ids, sources, blobs = zip(*rows, strict=True)
            vectors.add(ids, sources, unpacked(blobs, vectors.dim))

    # ---- finding -----------------------------------------------------------------------------------

    def find(self, query: str, sources: Sequence[Source] | None) -> tuple[Question, list[Candidate]]:
        """The passages that words and vectors propose, in no order; none for a query without a word."""
        with reading(self._log):
            question = self._words.question(query, self.count)
            by_words = self._words.best(question, sources)
        if not question.words:
            return question, []
        if self.embedder is None or not len(vectors := self._loaded(self.embedder)):
            return question, [Candidate(n, None, bm25) for n, bm25 in by_words.items()]
        try:
            asked = np.asarray(self.embedder.embed([query])[0], np.float32)
        except HaloError as err:
            self.fault = str(err)
            return question, [Candidate(n, None, bm25) for n, bm25 in by_words.items()]
        cosines = vectors.cosines(asked)
        numbers = by_words.keys() | (vectors.best(cosines, sources) if cosines.any() else {}).keys()
        return question, [Candidate(n, vectors.cosine(cosines, n), by_words.get(n)) for n in numbers]

    def evidence(self, question: Question, text: str) -> tuple[float, tuple[str, ...]]:
        """How much of a query a text says, 0..1, and which words."""
        return question.evidence(self._words.terms(text))

    @property
    def count(self) -> int:
        """Passages that can be found."""
        if self._count is None:
            with reading(self._log) as db:
                found: Any = db.execute("SELECT count(*) FROM words_docsize").get
                self._count = int(found)
        return self._count


@contextmanager
def reading(log: Log) -> Iterator[apsw.Connection]:
    """The log's database, to look something up in. Raises JournalFailed or JournalCorrupt."""
    if log.failed:
        raise JournalFailed(f"{log.path}: a write failed; open the mind again")
    try:
        yield log.db
    except (apsw.Error, OSError) as err:
        raise explained(log.path, err) from err


def _space(embedder: Embedder) -> str:
    return f"{embedder.name} {embedder.dim}"


def _check(number: int, vector: np.ndarray, dim: int) -> None:
    if vector.shape != (dim,) or not np.isfinite(vector).all():
        raise InvalidInput(f"vector of passage {number}: expected {dim} finite numbers, got {vector.shape}")
