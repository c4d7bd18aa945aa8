# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Everything that `halo bench scale` measures, as records: one number each, with the size it belongs to.

Knows what there is to measure, and in which order. Must not know laws, thresholds or pages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from haloweave.bench.memory.record import Record
from haloweave.bench.scale import crowd
from haloweave.bench.scale.history import Sizes, grow, texts
from haloweave.settings import Settings

TASK = "scale"
Tell = Callable[[str, int], None]
"""What is being measured, and how far it is."""


@dataclass(frozen=True)
class Metric:
    """A number that is measured."""

    arm: str
    unit: str
    what: str
    per: str = "tokens"
    """What x counts."""


METRICS: dict[str, Metric] = {
    "bytes": Metric("disk", "bytes", "database: journal, archive, index, vectors"),
    "bytes_per_token": Metric("shares", "bytes", "a token of it"),
    "records_per_token": Metric("shares", "bytes", "records of the journal, a token"),
    "passages_per_token": Metric("shares", "bytes", "passages, a token"),
    "words_per_token": Metric("shares", "bytes", "index of words, a token"),
    "vectors_per_token": Metric("shares", "bytes", "vectors, a token"),
    "other_per_token": Metric("shares", "bytes", "the rest, a token"),
    "tokens_per_unit": Metric("shares", "tokens", "tokens of history for each unit given"),
    "write_us": Metric("write", "µs", "reading, culling and archiving a token, no model"),
    "open_ms": Metric("wake", "ms", "opening journal and archive"),
    "wake_ms": Metric("wake", "ms", "waking from a snapshot, no model"),
    "thin_ms": Metric("wake", "ms", "giving up old checkpoints, once a snapshot"),
    "scan_ms": Metric("wake", "ms", "looking for checkpoints as it is done: every record is read"),
    "indexed_ms": Metric("wake", "ms", "the same, asked so that the index of rare records serves"),
    "first_search_s": Metric("search", "s", "first search after opening: reads all vectors"),
    "search_p50_ms": Metric("search", "ms", "search, words and vectors, p50"),
    "search_p95_ms": Metric("search", "ms", "search, words and vectors, p95"),
    "words_p95_ms": Metric("search", "ms", "search by words alone, p95"),
    "search_peak_mb": Metric("search", "MB", "memory of the first search, at most"),
    "backup_s": Metric("copies", "s", "backup"),
    "backup_wall_s": Metric("clock", "s", "backup, by the clock on the wall"),
    "fork_s": Metric("copies", "s", "fork"),
    "find_all_s": Metric("redact", "s", "finding a text in all that was said"),
    "redact_s": Metric("redact", "s", "redacting it from the database, VACUUM included"),
    "redact_wall_s": Metric("clock", "s", "redacting it, by the clock on the wall"),
    "redact_peak_mb": Metric("redact", "MB", "memory that SQLite held meanwhile, at most"),
    "spoken_bytes_per_token": Metric("shares", "bytes", "journal and archive of a token it spoke itself"),
    "spoken_write_us": Metric("spoken", "µs", "a token spoken, a synced record each, no model"),
    "spoken_open_ms": Metric("spoken", "ms", "opening a journal of such records"),
    "spoken_thin_ms": Metric("spoken", "ms", "giving up old checkpoints in it, once a snapshot"),
    "tick_ms": Metric("rows", "ms", "a tick of the tiny model", "rows"),
    "kv_bytes": Metric("rows", "bytes", "K/V rows", "rows"),
    "snapshot_bytes": Metric("rows", "bytes", "a snapshot on disk", "rows"),
    "snapshot_s": Metric("rows", "s", "taking it: copied, written, read back", "rows"),
    "keeping_ms": Metric("rows", "ms", "bookkeeping of a tick, no model", "rows"),
    "turn_ratio": Metric("minds", "", "time of a tick in turns over that of one mind alone", "minds"),
    "turn_ms": Metric("minds", "ms", "a tick in turns", "minds"),
    "kept_files": Metric("minds", "", "open files of a mind that is kept and awake", "rows"),
    "kept_threads": Metric("minds", "", "its threads", "rows"),
    "kept_memory": Metric("minds", "bytes", "its memory, K/V rows included", "rows"),
    "kept_rows_memory": Metric("minds", "bytes", "K/V rows of that", "rows"),
    "kept_disk": Metric("minds", "bytes", "its folder on disk, new", "rows"),
    "bandwidth": Metric("machine", "bytes/s", "reading memory, one thread", ""),
}
"""By name, in the order of pages."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    sizes: Sizes
    spoken: tuple[int, ...]
    """Tokens."""
    rows: tuple[int, ...]
    slots: tuple[int, ...]
    """Rows for the bookkeeping alone."""
    minds: tuple[int, ...]
    """Minds that take turns; the first number is what the others are compared with."""
    kept: int
    """Minds awake on disk at once."""
    kept_rows: tuple[int, ...]
    ticks: int = 64
    rounds: int = 9


FULL = Plan(
    sizes=Sizes((10_000, 31_600, 100_000, 316_000, 1_000_000)),
    spoken=(2_000, 6_000, 20_000),
    rows=(128, 512, 2048, 8192),
    slots=(1024, 4096, 16_384),
    minds=(1, 4, 16, 64),
    kept=8,
    kept_rows=(256, 1024, 2048),
)
QUICK = Plan(
    sizes=Sizes((30_000, 100_000, 300_000), repeats=2),
    spoken=(1_000, 2_000, 4_000),
    rows=(128, 512, 2048),
    slots=(1024, 4096, 16_384),
    minds=(1, 4, 16, 64),
    kept=4,
    kept_rows=(256, 1024, 2048),
    rounds=5,
)


class Part(StrEnum):
    """What is measured at a go."""

    HISTORY = "history"
    SPOKEN = "spoken"
    ROWS = "rows"
    MINDS = "minds"


def measure(
    s: Settings, plan: Plan, data: Sequence[Path], loaded: Any, tell: Tell, parts: Collection[Part]
) -> Iterator[Record]:
    """The records of these parts; `loaded`: a model whose minds are counted too, beside the tiny one's, or
    None. Raises InvalidInput."""
    if Part.HISTORY in parts:
        yield from _history(s, plan, data, tell)
    if Part.SPOKEN in parts:
        yield from _spoken(s, plan, tell)
    make = crowd.over_tiny(2 * max(*plan.rows, *plan.kept_rows))
    s = s.model_copy(update={"system": "", "budget": 256})
    if Part.ROWS in parts:
        tell("rows", 0)
        yield from _rows(make, s, plan)
        yield _one("machine", 0, "bandwidth", crowd.bandwidth(), None)
    if Part.MINDS in parts:
        tell("minds", 0)
        yield from _minds("tiny", make, s, plan)
        if loaded is not None:
            tell("minds over the model", 0)
            yield from _minds_of(s, loaded)


def _history(s: Settings, plan: Plan, data: Sequence[Path], tell: Tell) -> Iterator[Record]:
    pieces, asked = texts(data, plan.sizes.queries)
    with TemporaryDirectory(prefix="halo-bench-") as folder:
        for seen in grow(Path(folder), s, plan.sizes, pieces, asked, lambda n: tell("history", n)):
            for metric, value in seen.numbers.items():
                yield _one("history", plan.sizes.rows, metric, value, seen.tokens)


def _spoken(s: Settings, plan: Plan, tell: Tell) -> Iterator[Record]:
    s = s.model_copy(update={"system": "", "budget": plan.sizes.rows})
    with TemporaryDirectory(prefix="halo-bench-") as folder:
        for tokens in plan.spoken:
            tell("speaking", tokens)
            found = crowd.spoken(s, Path(folder), tokens)
            for metric in ("bytes_per_token", "write_us", "open_ms", "thin_ms"):
                yield _one("spoken", s.budget, f"spoken_{metric}", getattr(found, metric), tokens)


def _rows(make: crowd.Make, s: Settings, plan: Plan) -> Iterator[Record]:
    for rows in plan.rows:
        found = crowd.rows_cost(make, s, rows, ticks=plan.ticks // 4, repeats=3)
        for metric, value in found.items():
            yield _one("tiny", rows, metric, value, rows)
    for slots in plan.slots:
        yield _one("tiny", slots, "keeping_ms", crowd.keeping(s, slots, plan.ticks), slots)


def _minds(case: str, make: crowd.Make, s: Settings, plan: Plan) -> Iterator[Record]:
    found = crowd.turns(make, s, plan.minds, ticks=plan.ticks, rounds=plan.rounds)
    yield from _turns(case, s.budget, found)
    for rows in plan.kept_rows:
        yield from _kept(case, crowd.kept(make, s, rows, plan.kept), rows)


def _minds_of(s: Settings, loaded: Any) -> Iterator[Record]:
    make = crowd.over(loaded)
    case, s = s.model, s.model_copy(update={"budget": 512})
    yield from _turns(case, s.budget, crowd.turns(make, s, (1, 2, 4), ticks=8, rounds=5))
    yield from _kept(case, crowd.kept(make, s, s.budget, 2), s.budget)


def _kept(case: str, found: crowd.Kept, rows: int) -> Iterator[Record]:
    for name, value in asdict(found).items():
        yield _one(case, rows, f"kept_{name}", value, rows)


def _turns(case: str, rows: int, found: Sequence[crowd.Turns]) -> Iterator[Record]:
    for many in found:
        for seconds in many.ticks:
            yield _one(case, rows, "turn_ms", 1e3 * seconds, many.minds)
    for minds, ratio in crowd.ratios(found):
        yield _one(case, rows, "turn_ratio", ratio, minds)


def _one(case: str, rows: int, metric: str, value: float, x: float | None) -> Record:
    return Record(TASK, METRICS[metric].arm, rows, case, case, metric, value, x=x)
