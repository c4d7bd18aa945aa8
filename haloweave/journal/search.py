# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Finding archived passages: by words (FTS5, BM25), by meaning (vectors, cosine), by both at once.

Knows SQLite's FTS5, numpy and vectors that somebody else makes. Must not know torch, records or culling. What
a person asks is data: each word of it goes to FTS5 quoted, and nothing else of it does.

    evidence  = matched / all * matched / (matched + 3)   sums of the weights (idf, nats) of a query's words
    score     = 1 - (1 - cosine) * (1 - evidence / 2)     where both have vectors, else evidence

So a score says the same whatever the query, and a threshold can mean "strong": a rare word that is not there
counts against, a word that is everywhere counts for nothing. Axes: N passages, D width of a vector.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import apsw
import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64, UInt8

from haloweave.memory.tokens import Source

TOKENIZER = ("porter", "unicode61", "remove_diacritics", "2", "categories", "L* N* Co Mn Mc")
"""English stems; accents make no difference; vowel signs (Mc, Mn: Devanagari) are part of a word. The
migration that made the index says the same."""

_EVIDENCE_HALF = 3.0
"""Nats of matched weight that count half."""
_PRIOR = 200
"""Passages that are taken to exist beside those archived; every second of them has each function word. So a
small archive, too, knows that `what` tells less than `Lerwick`."""
_TERMS = 64
"""Words of a query that are looked for: the rarest."""
_COMMON = 1000, 0.1
"""A word in more passages than both this number and this share of all finds nothing by itself, if the query
has rarer ones; it counts all the same. To read where `the` stands takes longer than all the rest."""
_CANDIDATES = 64
"""Passages that words propose, and as many that vectors do."""

_LISTED = """
    a about after all also am an and any are as at be because been before but by can could d did do does for
    from get got had has have he her here him his how i if in into is it its just like ll m me more my no not
    now of on one or our out over re s she should so some t than that the their them then there these they
    this to too up us ve was we were what when where which who whom whose why will with would yes you your
    yours

    का की के को में से है हैं था थे थी हो ने पर और भी यह वह ये वे कि तो ही मैं हम तुम आप मेरा मेरी मेरे
    क्या कौन कहाँ कब कैसे क्यों नहीं एक इस उस जो कर

    ka ki ke ko mein se hai hain tha thi ho ne par aur bhi yeh woh hum tum aap mera meri mere kya kaun kahan
    kab kaise kyun nahi ek jo kar
    """
"""English; Hindi as it is written and as it is romanised."""
_FUNCTION_WORDS = frozenset(_LISTED.split())


class Embedder(Protocol):
    """Texts to vectors."""

    @property
    def name(self) -> str:
        """Of the vector space: vectors of different names are never compared."""
        ...

    @property
    def dim(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """One vector for each text: of unit length, or all zero for a text it cannot read."""
        ...


@dataclass(frozen=True)
class Question:
    """A query, as far as its words go: what FTS5 made of each, how it was written, and what it weighs."""

    words: Mapping[str, str]
    weights: Mapping[str, float]
    asked: tuple[str, ...]
    """The terms that may propose passages."""

    @cached_property
    def total(self) -> float:
        return sum(self.weights.values())

    def evidence(self, terms: Iterable[str]) -> tuple[float, tuple[str, ...]]:
        """How much a passage with these terms has of the query, 0..1; and which of its words."""
        there = frozenset(terms)
        matched = tuple(t for t in self.weights if t in there)
        weight = sum(self.weights[t] for t in matched)
        if not matched:
            return 0.0, ()
        share = weight / self.total * weight / (weight + _EVIDENCE_HALF)
        return share, tuple(self.words[t] for t in matched)


class Words:
    """The full-text index of a database: what stands in which archived passage."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        tokenizer: Any = db.fts5_tokenizer(TOKENIZER[0], list(TOKENIZER[1:]))
        self._split: Callable[[bytes, int, None], Iterable[tuple[int, int, str]]] = tokenizer

    def enter(self, number: int, text: str) -> None:
        """A passage is archived."""
        self._db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, plain(text)))

    def leave(self, number: int, text: str) -> None:
        """It is not any more; `text` is what it was entered with."""
        self._db.execute(
            "INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", (number, plain(text))
        )

    def clear(self) -> None:
        """Every passage leaves, and no term stays behind in the index's inner pages."""
        self._db.execute("INSERT INTO words (words) VALUES ('delete-all')")

    def terms(self, text: str) -> dict[str, str]:
        """What the index makes of a text: each term, and how it was first written."""
        data = plain(text).encode()
        found: dict[str, str] = {}
        for start, end, term in self._split(data, apsw.FTS5_TOKENIZE_QUERY, None):
            found.setdefault(term, data[start:end].decode("utf-8", "replace"))
        return found

    def question(self, query: str, passages: int) -> Question:
        """A query over so many archived passages."""
        words = self.terms(query)
        held = {term: self._held(term) for term in words}
        weight = {t: _weight(held[t], words[t].lower() in _FUNCTION_WORDS, passages) for t in words}
        rarest = sorted(words, key=lambda t: (-weight[t], t))[:_TERMS]
        known = [t for t in rarest if held[t]]
        common = max(_COMMON[0], _COMMON[1] * passages)
        rare = [t for t in known if held[t] <= common]
        weights = {t: weight[t] for t in rarest}
        return Question({t: words[t] for t in rarest}, weights, tuple(rare or known))

    def best(self, question: Question, sources: Sequence[Source] | None) -> dict[int, float]:
        """The passages that have most of it, and how well each fits (BM25; higher is better)."""
        if not question.asked:
            return {}
        quoted = " OR ".join(_quoted(question.words[t]) for t in question.asked)
        sql, values = "SELECT rowid, rank FROM words WHERE words MATCH ?", [quoted]
        if sources is not None:
            wanted = ",".join(str(int(s)) for s in sources) or "-1"
            sql += f" AND (SELECT source FROM passages WHERE id = words.rowid) IN ({wanted})"
        rows = self._db.execute(f"{sql} ORDER BY rank LIMIT {_CANDIDATES}", values)
        return {int(number): -float(rank) for number, rank in rows}

    def _held(self, term: str) -> int:
        row = self._db.execute("SELECT doc FROM terms WHERE term = ?", (term,)).fetchone()
        return int(row[0]) if row else 0


class Vectors:
    """Unit vectors of many passages in memory, compared exactly: 40,000 of width 384 take 61 MB and some
    milliseconds. On disk each number is one byte (`packed`)."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._size = 0
        self._ids: Int64[np.ndarray, " N"] = np.empty(0, np.int64)
        self._sources: UInt8[np.ndarray, " N"] = np.empty(0, np.uint8)
        self._matrix: Float32[np.ndarray, "N D"] = np.empty((0, dim), np.float32)
        self._row: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._row)

    def add(self, ids: Sequence[int], sources: Sequence[int], vectors: Float32[np.ndarray, "N D"]) -> None:
        """Vectors of passages that have none here yet."""
        start, self._size = self._size, self._size + len(ids)
        self._grow()
        self._ids[start : self._size] = ids
        self._sources[start : self._size] = sources
        self._matrix[start : self._size] = vectors
        self._row.update(zip(ids, range(start, self._size), strict=True))

    def drop(self, number: int) -> None:
        """Forget the vector of a passage, if there is one."""
        row = self._row.pop(number, None)
        if row is not None:
            self._ids[row], self._matrix[row] = 0, 0.0

    def cosines(self, query: Float32[np.ndarray, " D"]) -> Float32[np.ndarray, " N"]:
        """With each row; 0 for what was dropped or could not be read."""
        cosines: Float32[np.ndarray, " N"] = self._matrix[: self._size] @ query
        return cosines

    def best(self, cosines: Float32[np.ndarray, " N"], sources: Sequence[Source] | None) -> dict[int, float]:
        """The nearest passages."""
        held: Bool[np.ndarray, " N"] = self._ids[: self._size] > 0
        if sources is not None:
            held &= np.isin(self._sources[: self._size], [int(s) for s in sources])
        rows = np.flatnonzero(held)
        if len(rows) > _CANDIDATES:
            rows = rows[np.argpartition(-cosines[rows], _CANDIDATES)[:_CANDIDATES]]
        return {int(self._ids[r]): float(cosines[r]) for r in rows.tolist()}

    def cosine(self, cosines: Float32[np.ndarray, " N"], number: int) -> float | None:
        """With one passage; None if it has no vector, or one that says nothing."""
        row = self._row.get(number)
        return None if row is None or cosines[row] == 0 else float(cosines[row])

    def _grow(self) -> None:
        if self._size <= len(self._ids):
            return
        room = max(1024, self._size + self._size // 2)
        for name in ("_ids", "_sources", "_matrix"):
            old = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)


def score(cosine: float | None, evidence: float) -> float:
    """0..1; see the top of this file."""
    if cosine is None:
        return evidence
    return 1 - (1 - min(max(cosine, 0.0), 1.0)) * (1 - evidence / 2)


def plain(text: str) -> str:
    """As it is indexed and asked for: one way of writing each letter (NFC), nothing between joined letters,
    no NUL (which ends a string of SQLite's) and no lone surrogate (which has no UTF-8)."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return unicodedata.normalize("NFC", text.translate({0: " ", 0x200C: None, 0x200D: None}))


def packed(vector: Float32[np.ndarray, " D"]) -> bytes:
    """A direction as one signed byte for each number; how long the vector was is not kept."""
    scale = float(np.abs(vector).max()) / 127 or 1.0
    numbers: Int8[np.ndarray, " D"] = np.rint(vector / scale).astype(np.int8)
    return numbers.tobytes()


def unpacked(blobs: Sequence[bytes], dim: int) -> Float32[np.ndarray, "N D"]:
    """What `packed` made, of unit length (or zero)."""
    numbers = np.frombuffer(b"".join(blobs), np.int8).reshape(len(blobs), dim).astype(np.float32)
    length = np.linalg.norm(numbers, axis=1, keepdims=True)
    vectors: Float32[np.ndarray, "N D"] = numbers / np.where(length > 0, length, 1).astype(np.float32)
    return vectors


def _quoted(word: str) -> str:
    """A string of FTS5's query language, whatever the word is."""
    return '"' + word.replace('"', '""') + '"'


def _weight(held: int, function_word: bool, passages: int) -> float:
    """Inverse document frequency, in nats, as BM25 has it."""
    held += _PRIOR // 2 * function_word
    return math.log(1 + (passages + _PRIOR - held + 0.5) / (held + 0.5))
