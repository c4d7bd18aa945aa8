# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The archive: everything culled, searchable (long-term memory, retrieval).

Knows passages, how they are cut (cutter.py) and found (index.py, search.py). Must not know engines, minds or
how vectors are computed. It lives in the log's database and follows each record within its transaction: what
leaves the context is archived before it has left. Called by the one thread that owns the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
import numpy as np
from jaxtyping import Float32

from haloweave.errors import InvalidInput
from haloweave.journal.base import Committed, Record
from haloweave.journal.cutter import COLUMNS, Cutter, from_row
from haloweave.journal.index import Index, reading
from haloweave.journal.log import Log
from haloweave.journal.passages import Passage
from haloweave.journal.runs import Run, unpacked_runs
from haloweave.journal.search import Embedder, score
from haloweave.memory.tokens import Source

__all__ = ["Archive", "Counts", "Cull", "Embedder", "Found", "Passage", "Provenance", "Recall", "Run"]


@dataclass(frozen=True)
class Found:
    """A passage that a search brought up."""

    passage: Passage
    score: float
    """0..1, comparable from query to query (see search.py)."""
    cosine: float | None
    """None if passage or query has no vector."""
    bm25: float | None
    """None if its words did not bring it up."""
    matched: tuple[str, ...]
    """Words of the query that it has, the weightiest first."""


@dataclass(frozen=True)
class Cull:
    """Some tokens of a passage left the context."""

    seq: int
    """Number of the edit's record."""
    tick: int
    reason: str
    run: Run


@dataclass(frozen=True)
class Recall:
    """A passage was brought back into the context, as a memory."""

    seq: int
    """Number of the birth's record."""
    tick: int
    first_uid: int
    """Of the memory's tokens."""
    last_uid: int


@dataclass(frozen=True)
class Provenance:
    """Where a passage comes from, and what became of it."""

    passage: Passage
    source: Source
    ticks: tuple[int, int]
    """Of the birth of its first and its last token."""
    culls: tuple[Cull, ...]
    """In order; a token may have left, come back and left again."""
    before: str
    """What was said right before, and right after."""
    after: str
    recalls: tuple[Recall, ...]


@dataclass(frozen=True)
class Counts:
    """How much there is."""

    passages: int
    """Closed, living or not."""
    archived: int
    """Of which some token has left, and which can be found."""
    embedded: int
    waiting: int
    """Archived, and without a vector."""
    recalls: int


class Archive:
    """A follower of `log` from its making on."""

    def __init__(self, log: Log, embedder: Embedder | None = None) -> None:
        self._log = log
        self._index = Index(log, embedder)
        self._cutter = Cutter(log, self._index)
        log.followers.append(self)

    @property
    def embedder(self) -> Embedder | None:
        return self._index.embedder

    # ---- Follower ----------------------------------------------------------------------------------

    def follow(self, db: apsw.Connection, seq: int, record: Record) -> None:
        """See `Follower.follow`."""
        self._cutter.follow(db, seq, record)

    def scrubbed(self, db: apsw.Connection, uids: set[int]) -> None:
        """See `Follower.scrubbed`."""
        self._cutter.scrubbed(db, uids)

    def cut(self, db: apsw.Connection, seq: int) -> None:
        """See `Follower.cut`."""
        self._cutter.cut(db, seq)

    # ---- searching ---------------------------------------------------------------------------------

    def search(
        self, query: str, limit: int = 8, *, sources: Sequence[Source] | None = None
    ) -> tuple[Found, ...]:
        """The passages that say most of what is asked, best first; of equals the newest first.

        Any text is a query; one without a letter or digit finds nothing, and of a very long one the 64 rarest
        words count. Raises InvalidInput for a limit below 1.
        """
        if limit < 1:
            raise InvalidInput(f"limit: expected at least 1 passage, got {limit}")
        question, candidates = self._index.find(query, sources)
        passages = self._passages([c.id for c in candidates])
        found = []
        for c in candidates:
            evidence, matched = self._index.evidence(question, passages[c.id].text)
            found.append(Found(passages[c.id], score(c.cosine, evidence), c.cosine, c.bm25, matched))
        found.sort(key=lambda f: (-f.score, -f.passage.id))
        return tuple(found[:limit])

    def complaint(self) -> str:
        """What kept searches from using vectors since this was last asked; empty if nothing."""
        told, self._index.fault = self._index.fault, ""
        return told

    # ---- vectors -----------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether `embed_pending` has anything to do."""
        return self._index.waiting

    def pending(self, limit: int) -> list[tuple[int, str]]:
        """Numbers and texts of passages that want a vector; embed them on any thread, then `store`."""
        return self._index.pending(limit)

    def store(self, vectors: Mapping[int, Float32[np.ndarray, " D"]]) -> None:
        """Keep the vectors of what `pending` told, unless its text has changed or gone since. Raises
        InvalidInput for what is no vector of the embedder's, JournalFailed."""
        self._index.store(vectors)

    def embed_pending(self, limit: int) -> int:
        """Both in one, here and now: how many vectors were made."""
        if self.embedder is None or not (waiting := self.pending(limit)):
            return 0
        vectors = self.embedder.embed([text for _, text in waiting])
        return self._index.store({n: v for (n, _), v in zip(waiting, vectors, strict=True)})

    # ---- looking up --------------------------------------------------------------------------------

    def passage(self, number: int) -> Passage:
        """By its id. Raises InvalidInput if there is none, or nothing is left of it."""
        found = self._passages([number]).get(number)
        if found is None or found.blank:
            raise InvalidInput(f"no passage {number}: it never was, or was redacted; search for one")
        return found

    def of_uid(self, uid: int) -> Passage | None:
        """The passage that a token is part of; None while it is still open, or if it is in none."""
        found = self._select("id <= ? ORDER BY id DESC LIMIT 1", uid + 1)
        return found[0] if found and found[0].holds(uid) else None

    def neighbours(self, passage: Passage, n: int = 1) -> tuple[Passage, ...]:
        """The `n` passages before and the `n` after it, in order of birth."""
        if n < 0:
            raise InvalidInput(f"neighbours: expected a number of at least 0, got {n}")
        before = self._select("id < ? ORDER BY id DESC LIMIT ?", passage.id, n)
        return (*reversed(before), *self._select("id > ? ORDER BY id LIMIT ?", passage.id, n))

    def why(self, passage: Passage) -> Provenance:
        """Everything the journal tells of a passage."""
        around = self.neighbours(passage)
        return Provenance(
            passage=passage,
            source=passage.source,
            ticks=(passage.first_tick, passage.last_tick),
            culls=self._culls(passage),
            before="".join(p.text for p in around if p.id < passage.id),
            after="".join(p.text for p in around if p.id > passage.id),
            recalls=self.recalls(passage),
        )

    def recalls(self, passage: Passage) -> tuple[Recall, ...]:
        """When a passage was brought back, oldest first."""
        sql = """
            SELECT seq, tick, recalls.first_uid, last_uid FROM recalls JOIN records USING (seq)
            WHERE passage = ? ORDER BY seq
        """
        with reading(self._log) as db:
            rows: list[tuple[Any, ...]] = db.execute(sql, (passage.id,)).fetchall()
        return tuple(Recall(*row) for row in rows)

    def recalled_by(self, uid: int) -> Passage | None:
        """The passage that a memory's token brings back; None if it brings back none."""
        with reading(self._log) as db:
            sql = "SELECT passage FROM recalls WHERE ? BETWEEN first_uid AND last_uid"
            found = db.execute(sql, (uid,)).fetchone()
        return None if found is None else self._passages([found[0]]).get(found[0])

    def counts(self) -> Counts:
        """How much there is of everything."""
        return _counts(self._log)

    @staticmethod
    def peek(log: Log) -> dict[str, int]:
        """What there is in the archive of a log that is only read, for a person's eyes."""
        found = _counts(log)
        told = {"passages": found.archived, "vectors": found.embedded, "recalls": found.recalls}
        return told if found.archived else {}

    def rebuild(self) -> None:
        """Make everything anew from the records, where it is damaged. Raises JournalFailed."""
        with self._log.transaction() as db:
            self._cutter.rebuild(db)

    # ---- inside ------------------------------------------------------------------------------------

    def _select(self, where: str, *values: int) -> list[Passage]:
        with reading(self._log) as db:
            rows = db.execute(f"SELECT {COLUMNS} FROM passages WHERE {where}", values).fetchall()
        return [from_row(row) for row in rows]

    def _passages(self, numbers: Sequence[int]) -> dict[int, Passage]:
        with reading(self._log) as db:
            sql = f"SELECT {COLUMNS} FROM passages WHERE id IN (SELECT value FROM json_each(?))"
            return {row[0]: from_row(row) for row in db.execute(sql, (str([*numbers]),))}

    def _culls(self, passage: Passage) -> tuple[Cull, ...]:
        sql = "SELECT seq, runs FROM runs WHERE id = ? ORDER BY seq"
        with reading(self._log) as db:
            rows: list[tuple[Any, ...]] = db.execute(sql, (passage.id,)).fetchall()
        told = ((seq, next(self._log.records(seq - 1, seq))[1], runs) for seq, runs in rows)
        return tuple(
            Cull(seq, record.edit.tick, record.edit.reason, run)
            for seq, record, runs in told
            if isinstance(record, Committed)
            for run in unpacked_runs(runs, passage.first_uid)
        )


def _counts(log: Log) -> Counts:
    tables = ("passages", "vectors", "unembedded", "recalls")
    with reading(log) as db:
        found = (db.execute(f"SELECT count(*) FROM {table}").get for table in tables)
        passages, vectors, waiting, recalls = (int(n or 0) for n in found)
    return Counts(passages, vectors + waiting, vectors, waiting, recalls)
