# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A very long past: how large its database is, and how long a search in it takes.

A mind with the real policies, tokenizer, journal and archive reads text until so many tokens are culled. Only
its model is none: `Blank` makes attention up, so that a million tokens take minutes. What the journal keeps
does not depend on what the model thinks; who dies does, and there the made-up attention is as uneven as real
attention is.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from haloweave import build
from haloweave.bench.hay import Piece
from haloweave.engine.base import Capabilities, Forward
from haloweave.errors import InvalidInput
from haloweave.journal.archive import Archive
from haloweave.journal.log import Log
from haloweave.journal.search import Embedder
from haloweave.memory.edit import BORN, Edit, Surgery
from haloweave.memory.rows import Image, SavedRows
from haloweave.memory.tokens import SINKS, AttentionSample
from haloweave.settings import Settings
from haloweave.text import Codec

_UNEVEN = 1.5
"""Standard deviation of the logarithm of what tokens are paid: a few get most of it."""
_EVERY = 256
"""Passes from one checkpoint to the next, as a mind that is kept has them."""
_KINDS = {
    "records": ("records", "landmarks"),
    "passages": ("passages", "runs", "recalls"),
    "words": ("words_",),
    "vectors": ("vectors", "unembedded"),
}
"""Tables and indexes, by the beginning of their names."""


class Blank:
    """Engine and KV cache without a model: every row is paid by what was drawn for it at its birth."""

    def __init__(self, rows: int, vocabulary: int, seed: int = 0) -> None:
        self._most = rows
        self._paid: Float32[np.ndarray, " S"] = np.empty(0, np.float32)
        self._logits = np.zeros(vocabulary, np.float32)
        self._rng = np.random.default_rng(seed)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("blank", self.surgeries, self._most, len(self._logits), 0, "none", "none")

    @property
    def kv(self) -> Blank:
        return self

    @property
    def rows(self) -> int:
        return len(self._paid)

    @property
    def surgeries(self) -> frozenset[Surgery]:
        return frozenset({Surgery.DROP, Surgery.PATCH})

    def feed(self, ids: Sequence[int] | np.ndarray, *, score: bool = False) -> Forward:
        """See `Engine.feed`; no token is ever scored."""
        self._paid = np.concatenate([self._paid, self._drawn(len(ids))])
        share = self._paid / self._paid.sum()
        value = share.copy()
        value[:SINKS] = 0
        return Forward(self._logits, AttentionSample(share * len(ids), value * len(ids), share, len(ids)))

    def reread(self) -> Forward:
        """See `Engine.reread`."""
        return Forward(self._logits, None)

    def apply(self, edit: Edit, rows: SavedRows | None = None) -> None:
        """See `KVStore.apply`."""
        index = edit.gather(self.rows)
        self._paid = np.where(index == BORN, self._drawn(len(index)), self._paid[index]).astype(np.float32)

    def rebuild(self, ids: Sequence[int] | np.ndarray) -> None:
        """See `KVStore.rebuild`."""
        self._paid = self._drawn(len(ids))

    def save(self, slots: Sequence[int] | np.ndarray) -> SavedRows:
        """See `KVStore.save`."""
        return SavedRows(np.asarray(slots), {})

    def dump(self) -> Image:
        """See `KVStore.dump`."""
        return {"paid": self._paid.copy()}

    def load(self, image: Image) -> None:
        """See `KVStore.load`."""
        self._paid = image["paid"]

    def _drawn(self, count: int) -> Float32[np.ndarray, " Q"]:
        return np.exp(_UNEVEN * self._rng.standard_normal(count)).astype(np.float32)


class Toy:
    """An embedder that takes no time: each word is a fixed random direction, a text is their sum. It finds
    nothing by meaning; but how large vectors are, and how long they take to compare, is the same."""

    name, dim = "toy-projection", 384

    def __init__(self) -> None:
        self._directions = np.random.default_rng(0).standard_normal((4096, self.dim)).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """See `Embedder.embed`."""
        sums = np.stack([self._directions[_buckets(text)].sum(axis=0) for text in texts])
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.asarray(sums / np.where(length > 0, length, 1), np.float32)


def _buckets(text: str) -> list[int]:
    return [zlib.crc32(word.encode()) % 4096 for word in text.lower().split()]


class Quarters:
    """A tokenizer without a model: pieces of four bytes, numbered as they come."""

    frame = None
    control_ids: frozenset[int] = frozenset()
    end_ids: frozenset[int] = frozenset()
    vocabulary = 1 << 24

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._pieces: list[bytes] = []

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Codec.encode`."""
        return [
            [self._id(data[n : n + 4]) for n in range(0, len(data), 4)] for data in map(str.encode, texts)
        ]

    def piece(self, token_id: int) -> bytes:
        """See `Codec.piece`."""
        return self._pieces[token_id]

    def _id(self, piece: bytes) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._pieces)
            self._pieces.append(piece)
        return self._ids[piece]


@dataclass(frozen=True)
class Size:
    """A database, and what takes how much of it."""

    culled: int
    fed: int
    passages: int
    bytes: int
    parts: dict[str, int]
    seconds: float
    """Of reading, culling and archiving, a transaction each."""

    @property
    def per_token(self) -> float:
        """Bytes for each token culled."""
        return self.bytes / self.culled


@dataclass(frozen=True)
class Pace:
    """Seconds that embedding takes."""

    passages: int
    """How many it was measured on."""
    seconds: float

    @property
    def per_second(self) -> float:
        return self.passages / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Searches:
    """Seconds of each search, without and with what embedding the query takes."""

    first: float
    """The first after opening, which loads all vectors."""
    plain: list[float]
    embedded: list[float]

    def p(self, percent: float, *, embedded: bool = False) -> float:
        """A percentile."""
        return float(np.percentile(self.embedded if embedded else self.plain, percent))


def fill(
    path: Path,
    s: Settings,
    codec: Codec,
    vocabulary: int,
    pieces: Iterable[Piece],
    tokens: int,
    tell: Callable[[int], None],
) -> tuple[int, int, float]:
    """Read until `tokens` tokens are in the archive. How many were culled and fed, and how long it took."""
    log = Log(path)
    Archive(log)
    start = time.perf_counter()
    try:
        journal: Any = log  # nothing is redacted here
        mind = build.assemble(s, Blank(s.budget, vocabulary), codec, journal)
        saved = 0
        for piece in pieces:
            for _ in mind.listen(piece.text, piece.source):
                if log.last >= saved + _EVERY:
                    saved = log.write(mind.state().checkpoint)
                    log.thin()
            tell(min(mind.totals.culled, tokens))
            if mind.totals.culled >= tokens:
                break
        return mind.totals.culled, mind.totals.fed, time.perf_counter() - start
    finally:
        log.close()


def embed(path: Path, embedder: Embedder, tell: Callable[[int], None]) -> Pace:
    """Make all vectors that are wanted."""
    log = Log(path)
    try:
        archive = Archive(log, embedder)
        start, done = time.perf_counter(), 0
        while made := archive.embed_pending(256):
            done += made
            tell(done)
        return Pace(done, time.perf_counter() - start)
    finally:
        log.close()


def sampled(path: Path, embedder: Embedder, count: int = 64) -> Pace:
    """How fast another embedder would be, on some passages spread over the archive."""
    log = Log(path)
    try:
        rows = log.db.execute("SELECT text FROM passages WHERE culled IS NOT NULL ORDER BY id").fetchall()
        texts = [str(text) for (text,) in rows[:: max(1, len(rows) // count)]][:count]
        embedder.embed(texts[:1])
        start = time.perf_counter()
        embedder.embed(texts)
        return Pace(len(texts), time.perf_counter() - start)
    finally:
        log.close()


def size(path: Path, culled: int, fed: int, seconds: float) -> Size:
    """What is on disk, the log beside the database folded in."""
    log = Log(path)
    try:
        passages = Archive(log).counts().archived
        log.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        pages: list[tuple[Any, ...]] = log.db.execute(
            "SELECT name, sum(pgsize) FROM dbstat GROUP BY name"
        ).fetchall()
        return Size(culled, fed, passages, log.size(), _parts(pages), seconds)
    finally:
        log.close()


def _parts(pages: Iterable[tuple[str, int]]) -> dict[str, int]:
    parts = dict.fromkeys([*_KINDS, "other"], 0)
    for name, taken in pages:
        kind = next((k for k, begins in _KINDS.items() if name.startswith(begins)), "other")
        parts[kind] += taken
    return parts


def search(path: Path, embedder: Embedder, queries: Sequence[str], asking: Embedder | None) -> Searches:
    """Search for each query in an archive just opened. `asking` embeds queries for its time alone, where the
    archive's own embedder is a toy."""
    if not queries:
        raise InvalidInput("search: expected at least one query")
    log = Log(path)
    try:
        timed = _Timed(embedder)
        archive = Archive(log, timed)
        first = _took(partial(archive.search, queries[0]))
        plain, embedded = [], []
        for query in queries:
            timed.seconds = 0.0
            whole = _took(partial(archive.search, query))
            own = timed.seconds if asking is None else _took(partial(asking.embed, [query]))
            plain.append(whole - timed.seconds)
            embedded.append(whole - timed.seconds + own)
        return Searches(first, plain, embedded)
    finally:
        log.close()


class _Timed:
    """An embedder with a clock."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner
        self.name, self.dim = inner.name, inner.dim
        self.seconds = 0.0

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """See `Embedder.embed`."""
        start = time.perf_counter()
        vectors = self._inner.embed(texts)
        self.seconds += time.perf_counter() - start
        return vectors


def _took(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start
