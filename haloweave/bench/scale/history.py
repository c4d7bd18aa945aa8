# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One past that grows, and what it costs at each size: disk, writing, opening, waking, searching, copying,
redacting.

Knows the journal, waking, and the archive's benchmark, whose model is none (`Blank`) and whose vectors are
toys. The past grows once; at each size its database is copied, and the copy is measured. Times are of the
processor (user and system), to which other work on the machine adds little; waiting for a disk is not in
them, so what writes much is timed by the clock on the wall as well. Of several times the least counts.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from haloweave import build
from haloweave.bench import archive as bench
from haloweave.bench.facts import FACTS
from haloweave.bench.hay import Hay, Piece
from haloweave.errors import InvalidInput
from haloweave.journal.archive import Archive
from haloweave.journal.base import Journal, Vault
from haloweave.journal.copies import copy_database, reading
from haloweave.journal.cutter import COLUMNS, from_row
from haloweave.journal.disk import Disk
from haloweave.journal.log import Log
from haloweave.journal.passages import Passage
from haloweave.journal.records import Kind
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.minds import Minds, Place
from haloweave.progress import Progress
from haloweave.settings import Settings
from haloweave.waking import wake

VOCABULARY = 1 << 18
"""Room for all pieces of four bytes of a few million tokens."""
_clock = time.process_time
_NAME, _FORK = "past", "fork"
_PHRASE = 24
"""Characters of what is looked for, and tokens of what is redacted."""
_WORDS, _ZIPF = 20_000, 1.1
"""Words of made-up text, and the exponent of their frequencies."""
_LINE, _LINES, _TALKS_A_LOG = 12, 4, 3


@dataclass(frozen=True)
class Sizes:
    """What is measured of one past."""

    tokens: tuple[int, ...]
    """Culled tokens at which it is measured, ascending."""
    rows: int = 512
    queries: int = 60
    repeats: int = 3

    def __post_init__(self) -> None:
        if not self.tokens or list(self.tokens) != sorted(set(self.tokens)) or self.tokens[0] < 1000:
            raise InvalidInput(f"sizes: expected some, ascending, from 1000 on, got {self.tokens}")


@dataclass(frozen=True)
class Seen:
    """What was found at one size, by metric (see `measure.METRICS`)."""

    tokens: int
    numbers: dict[str, float]


class Quarters:
    """`bench.archive.Quarters` in a vocabulary of fixed size, as waking needs one."""

    frame = None
    control_ids: frozenset[int] = frozenset()
    end_ids: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self._inner = bench.Quarters()
        self._given = 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Codec.encode`."""
        ids = self._inner.encode(texts)
        self._given = max([self._given, *(n + 1 for some in ids for n in some)])
        if self._given > VOCABULARY:
            raise InvalidInput(f"text of more than {VOCABULARY} different pieces: measure smaller sizes")
        return ids

    def piece(self, token_id: int) -> bytes:
        """See `Codec.piece`; nothing, if the text has not come that far."""
        return self._inner.piece(token_id) if token_id < self._given else b""


def made_up(seed: int = 0) -> Iterator[Piece]:
    """Talk and logs without end for want of real ones: words by Zipf's law, so that some are everywhere and
    most are rare, as an index of words has it."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwygpbvk"))
    words = ["".join(rng.choice(letters, n)) for n in rng.integers(2, 9, _WORDS)]
    share = np.arange(1, _WORDS + 1, dtype=np.float64) ** -_ZIPF
    share /= share.sum()
    number = 0
    while True:
        drawn = iter(rng.choice(_WORDS, (256, _LINES, _LINE), p=share))
        for lines in drawn:
            said = [" ".join(words[w] for w in line.tolist()) + "." for line in lines]
            yield Piece("\n".join(said), Source.USER)
            number += 1
            if number % _TALKS_A_LOG == 0:
                yield Piece(f"12:{number % 60:02} unit {number % 97} {said[0]}\n{said[1]}", Source.LOG)


def texts(data: Sequence[Path], queries: int, seed: int = 0) -> tuple[Iterator[Piece], list[str]]:
    """What is read, and what is asked for: of these files, or made up."""
    asked = [fact.asked for fact in FACTS]
    if data:
        hay = Hay(data, seed)
        return hay.pieces(), list(islice([*asked, *hay.lines(queries)], queries))
    lines = (piece.text.splitlines()[0] for piece in made_up(seed + 1) if piece.source is Source.USER)
    return made_up(seed), [*asked[: queries // 2], *islice(lines, queries - queries // 2)]


# ---- growing -------------------------------------------------------------------------------------------


def grow(
    folder: Path,
    s: Settings,
    sizes: Sizes,
    pieces: Iterator[Piece],
    asked: Sequence[str],
    tell: Callable[[int], None],
) -> list[Seen]:
    """Let a past grow in `folder` to the largest size, and measure a copy of it at each."""
    codec, path = Quarters(), folder / "grown.db"
    minds = Minds(folder / "minds")
    s = s.model_copy(update={"budget": sizes.rows, "system": "", "embedder": "", "minds": str(minds.folder)})
    stages = _Stages(sizes.tokens, partial(_measured, path, minds, s, codec, asked, sizes), tell)
    bench.fill(path, s, codec, VOCABULARY, pieces, sizes.tokens[-1], stages)
    return stages.seen


@dataclass
class _Stages:
    """Told how far a past has grown, it stops the clock and measures where a size is reached."""

    sizes: tuple[int, ...]
    measure: Callable[[int], dict[str, float]]
    tell: Callable[[int], None]
    seen: list[Seen] = field(default_factory=list)
    _since: float = field(default_factory=_clock)
    _before: int = 0

    def __call__(self, culled: int) -> None:
        self.tell(culled)
        if len(self.seen) == len(self.sizes) or culled < self.sizes[len(self.seen)]:
            return
        pace = (_clock() - self._since) / max(culled - self._before, 1)
        numbers = {"write_us": 1e6 * pace} | self.measure(culled)
        self.seen.append(Seen(culled, numbers))
        self._since, self._before = _clock(), culled


def _measured(
    path: Path,
    minds: Minds,
    s: Settings,
    codec: Quarters,
    asked: Sequence[str],
    sizes: Sizes,
    culled: int,
) -> dict[str, float]:
    place = minds.make(_NAME)
    with reading(path) as log:
        copy_database(log, place.database, Disk(), force=True)
        units = _units(log)
    embedder = bench.Toy()
    bench.embed(place.database, embedder, lambda done: None)
    found = {"tokens_per_unit": culled / max(units, 1)}
    found |= _disk(place, culled) | _opening(place, sizes) | _searching(place, embedder, asked, sizes)
    found |= _waking(place, s, codec, sizes) | _copies(minds) | _redaction(place, embedder)
    minds.delete(_NAME)
    return found


def _units(log: Log) -> int:
    told = log.checkpoint()
    return told[1].turn.next_unit if told else 0


# ---- at one size ---------------------------------------------------------------------------------------


def _disk(place: Place, culled: int) -> dict[str, float]:
    size = bench.size(place.database, culled, 0, 0.0)
    parts = {f"{part}_per_token": taken / culled for part, taken in size.parts.items()}
    return {"bytes": float(size.bytes), "bytes_per_token": size.per_token, **parts}


def _opening(place: Place, sizes: Sizes) -> dict[str, float]:
    """Opening the journal and the archive; and giving up old checkpoints, which each snapshot does."""
    opened, thinned = [], []
    for _ in range(sizes.repeats):
        start = _clock()
        log = Log(place.database)
        Archive(log)
        opened.append(_clock() - start)
        thinned.append(_took(log.thin))
        looked = [_least(log, f"SELECT seq FROM records WHERE {where}") for where in (_SCANS, _SERVED)]
        log.close()
    found = {"open_ms": 1e3 * min(opened), "thin_ms": 1e3 * min(thinned)}
    return found | {"scan_ms": 1e3 * looked[0], "indexed_ms": 1e3 * looked[1]}


_SCANS = f"kind = {int(Kind.CHECKPOINT)}"
_SERVED = f"kind <> {int(Kind.BORN)} AND {_SCANS}"
"""A partial index serves only where its own condition is asked for (sqlite.org/partialindex.html)."""


def _least(log: Log, sql: str, repeats: int = 3) -> float:
    return min(_took(lambda: log.db.execute(sql).fetchall()) for _ in range(repeats))


def _searching(place: Place, embedder: bench.Toy, asked: Sequence[str], sizes: Sizes) -> dict[str, float]:
    runs = [_searches(place, embedder, asked) for _ in range(sizes.repeats)]
    words = [_searches(place, None, asked) for _ in range(sizes.repeats)]
    with _memory() as peak:
        log = Log(place.database)
        Archive(log, embedder).search(asked[0])
        log.close()
    return {
        "first_search_s": min(run[0] for run in runs),
        "search_p50_ms": 1e3 * float(np.percentile(np.min(runs, axis=0)[1:], 50)),
        "search_p95_ms": 1e3 * float(np.percentile(np.min(runs, axis=0)[1:], 95)),
        "words_p95_ms": 1e3 * float(np.percentile(np.min(words, axis=0)[1:], 95)),
        "search_peak_mb": peak[0] / 1e6,
    }


def _searches(place: Place, embedder: bench.Toy | None, asked: Sequence[str]) -> list[float]:
    """Seconds of the first search after opening, then of one for each query; by words alone without an
    embedder."""
    log = Log(place.database)
    try:
        archive = Archive(log, embedder)
        return [_took(partial(archive.search, query)) for query in (asked[0], *asked)]
    finally:
        log.close()


def _waking(place: Place, s: Settings, codec: Quarters, sizes: Sizes) -> dict[str, float]:
    """Coming back from a snapshot: what is left of it is the journal's share, as the model is none."""
    log = Log(place.database)
    log.put("born", "yes")
    log.close()

    def make(
        s: Settings, journal: Journal, vault: Vault, progress: Progress
    ) -> tuple[Mind, Mapping[str, str]]:
        engine: Any = bench.Blank(s.budget, VOCABULARY)
        return build.assemble(s, engine, codec, journal, vault), {"model": "blank"}

    given = s.model_dump(include={"budget", "system", "embedder", "minds"})
    times = []
    for again in range(sizes.repeats + 1):
        start = _clock()
        with wake(_NAME, given, make=make) as awake:
            times.append(_clock() - start)
            if again and awake.resumed.how != "snapshot":
                raise InvalidInput(f"expected it to come back from its snapshot, got: {awake.resumed}")
    return {"wake_ms": 1e3 * min(times[1:])}


def _copies(minds: Minds) -> dict[str, float]:
    start, wall = _clock(), time.perf_counter()
    made = minds.backup(_NAME)
    backup, waited = _clock() - start, time.perf_counter() - wall
    made.unlink()
    fork = _took(partial(minds.fork, _NAME, _FORK))
    minds.delete(_FORK)
    return {"backup_s": backup, "backup_wall_s": waited, "fork_s": fork}


def _redaction(place: Place, embedder: bench.Toy) -> dict[str, float]:
    """Finding a text in all that was ever said, and forgetting one place of it (else what is said often would
    cost more for being said often); and the most memory that SQLite held."""
    log = Log(place.database)
    try:
        Archive(log, embedder)
        passage = _half_way(log)
        start = _clock()
        log.occurrences(passage.text.strip()[:_PHRASE])
        found = _clock() - start
        apsw.memory_high_water(True)
        wall = time.perf_counter()
        gone = _took(partial(log.scrub, list(passage.uids)[:_PHRASE]))
        waited = time.perf_counter() - wall
        peak = apsw.memory_high_water(False)
        times = {"find_all_s": found, "redact_s": found + gone, "redact_wall_s": found + waited}
        return times | {"redact_peak_mb": peak / 1e6}
    finally:
        log.close()


def _half_way(log: Log) -> Passage:
    """Something that was said half-way."""
    sql = f"SELECT {COLUMNS} FROM passages WHERE id >= (SELECT max(id) / 2 FROM passages) ORDER BY id LIMIT 1"
    return from_row(log.db.execute(sql).fetchall()[0])


@contextmanager
def _memory() -> Iterator[list[int]]:
    """The most bytes that Python, numpy and SQLite held more than before."""
    peak, sqlite = [0], apsw.memory_used()
    apsw.memory_high_water(True)
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak[0] = tracemalloc.get_traced_memory()[1] + apsw.memory_high_water(False) - sqlite
        tracemalloc.stop()


def _took(act: Callable[[], object]) -> float:
    start = _clock()
    act()
    return _clock() - start
