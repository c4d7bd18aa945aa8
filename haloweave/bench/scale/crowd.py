# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Many minds over one set of weights: time of a tick as they take turns, memory and files that each takes;
and what rows cost one of them.

Knows minds, and a tiny Llama (or a model that is handed in). Every number of minds is measured in every
round, so that a machine whose speed drifts slows all alike; the ratios are of one round.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw
import numpy as np
import psutil
from jaxtyping import Int64

from haloweave import build
from haloweave.bench import archive
from haloweave.bench.decode import bookkeeping, fill
from haloweave.bench.stream import NumberCodec
from haloweave.engine.hf.engine import HFEngine
from haloweave.engine.hf.tiny import VOCABULARY, tiny_llama
from haloweave.engine.sampling import Sampling
from haloweave.journal.archive import Archive
from haloweave.journal.base import Journal, Vault
from haloweave.journal.log import Log
from haloweave.journal.snapshot import Shelf
from haloweave.mind import Mind
from haloweave.progress import Progress
from haloweave.settings import Settings
from haloweave.waking import wake

Make = Callable[[Settings, Journal | None, Vault | None], Mind]
"""An empty mind over weights that all of them share."""
_clock = time.process_time
"""Of the processor (user and system): other work on the machine adds little to it."""
_SOON = 1.0
"""Seconds: a worker that is done with what it was given is due later than that."""


def over_tiny(rows: int) -> Make:
    """Minds over one tiny random Llama, of up to so many rows."""
    model = tiny_llama(rows)

    def make(s: Settings, journal: Journal | None, vault: Vault | None) -> Mind:
        engine = HFEngine(model, capacity=s.budget)
        return build.assemble(s, engine, NumberCodec(VOCABULARY), journal, vault)

    return make


def over(loaded: Any) -> Make:
    """Minds over a loaded model."""
    return lambda s, journal, vault: build.mind_of(s, loaded, journal=journal, vault=vault)


@dataclass(frozen=True)
class Turns:
    """Seconds of the processor that a tick takes where so many minds take turns, round by round."""

    minds: int
    ticks: tuple[float, ...]


def turns(make: Make, s: Settings, counts: Sequence[int], *, ticks: int, rounds: int) -> list[Turns]:
    """Full minds that speak one token each in turn, about `ticks` in all; so often for each of `counts`."""
    minds = [full(make, s, seed) for seed in range(max(counts))]
    for mind in minds:
        _speak(mind)
    found: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            found[count].append(_in_turn(minds[:count], ticks))
    return [Turns(count, tuple(times)) for count, times in found.items()]


def _in_turn(minds: Sequence[Mind], ticks: int) -> float:
    start, done = _clock(), 0
    while done < ticks:
        for mind in minds:
            _speak(mind)
        done += len(minds)
    return (_clock() - start) / done


def _say(mind: Mind, tokens: int) -> None:
    for _ in range(tokens):
        _speak(mind)


def _speak(mind: Mind) -> None:
    for _ in mind.make_room(1):
        pass
    mind.speak_once(_how(mind))


def _how(mind: Mind) -> Sampling:
    return Sampling(temperature=1.0, logit_bias=dict.fromkeys(mind.codec.end_ids, float("-inf")))


def full(make: Make, s: Settings, seed: int = 0) -> Mind:
    """One whose context is full of random tokens."""
    mind = make(s, None, None)
    fill(mind, _ids(mind, seed), s.chunk)
    return mind


def _ids(mind: Mind, seed: int) -> Int64[np.ndarray, " S"]:
    """As many as it holds, none of them a control token."""
    most = mind.engine.capabilities.vocabulary
    ids = np.random.default_rng(seed).integers(most // 50, most, mind.budget)
    control = np.array(sorted(mind.codec.control_ids), np.int64)
    return np.where(np.isin(ids, control), most // 50 + 1, ids)


# ---- memory and files ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What one more mind takes that is kept on disk and awake, its context full."""

    files: float
    threads: float
    memory: float
    """Bytes: of Python and numpy, of SQLite, and of its K/V rows; the weights are everybody's. Counted, not
    resident: a process that has freed memory before takes none anew."""
    rows_memory: float
    """K/V rows alone."""
    disk: float
    """Bytes of its folder once it is asleep: its first context, and its snapshots."""


def kept(make: Make, s: Settings, rows: int, count: int) -> Kept:
    """Wake `count` minds in one process, each with journal, archive, snapshots and worker."""
    process = psutil.Process()
    with TemporaryDirectory(prefix="halo-bench-") as folder, ExitStack() as stack:
        given = {"minds": folder, "budget": rows, "system": "", "embedder": "", "snapshot_every": 1}
        gc.freeze()  # all that is there already: looking through it takes seconds
        stack.callback(gc.unfreeze)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        _woken(make, given, stack, "first")  # it also pays for whatever is made but once
        before = _open_files(process), process.num_threads(), _counted()
        minds = [_woken(make, given, stack, f"mind{n}") for n in range(count)]
        after = _open_files(process), process.num_threads(), _counted()
        image = sum(part.nbytes for part in minds[-1].engine.kv.dump().values())
        stack.close()
        disk = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / (count + 1)
    files, threads, memory = ((b - a) / count for a, b in zip(before, after, strict=True))
    return Kept(files, threads, memory + image, image, disk)


def _woken(make: Make, given: Mapping[str, Any], stack: ExitStack, name: str) -> Mind:
    def made(
        s: Settings, journal: Journal, vault: Vault, progress: Progress
    ) -> tuple[Mind, Mapping[str, str]]:
        return make(s, journal, vault), {"model": "bench"}

    awake = stack.enter_context(wake(name, given, make=made))
    fill(awake.mind, _ids(awake.mind, 0), 64)
    awake.keeper.tend(awake.mind.state)  # a snapshot is due: the worker begins one
    while (due := awake.keeper.due()) is not None and due < _SOON:
        time.sleep(due)
        awake.keeper.tend(awake.mind.state)
    return awake.mind


def _counted() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] + apsw.memory_used()


def _open_files(process: psutil.Process) -> int:
    """Descriptors, or handles where there are none."""
    count = getattr(process, "num_fds", None) or process.num_handles
    return int(count())


# ---- one mind ------------------------------------------------------------------------------------------


def rows_cost(make: Make, s: Settings, rows: int, *, ticks: int, repeats: int) -> dict[str, float]:
    """A tick, a snapshot and the bookkeeping at so many rows; the least of several."""
    s = s.model_copy(update={"budget": rows + ticks * (repeats + 1) + 1, "tail": 0.0})
    mind = make(s, None, None)
    fill(mind, np.random.default_rng(0).integers(10, VOCABULARY, rows), s.chunk)
    _in_turn([mind], 2)
    tick = min(_in_turn([mind], ticks) for _ in range(repeats))
    with TemporaryDirectory(prefix="halo-bench-") as folder:
        shelf = Shelf(Path(folder) / "snapshots")
        times, size = [], 0
        for seq in range(1, repeats + 1):
            start = _clock()
            state = mind.state()
            size = shelf.put(seq, state, {"model": "bench"}).size
            times.append(_clock() - start)
    image = sum(part.nbytes for part in mind.engine.kv.dump().values()) / mind.rows
    found = {"tick_ms": 1e3 * tick, "kv_bytes": image * rows}
    return found | {"snapshot_s": min(times), "snapshot_bytes": size / mind.rows * rows}


def keeping(s: Settings, slots: int, ticks: int) -> float:
    """Milliseconds of journal, mirror, brightness and a share of a weave for each tick, without a model."""
    return bookkeeping(s, slots, ticks).milliseconds


@dataclass(frozen=True)
class Spoken:
    """What a mind's own words cost: a record each, synced, where what it reads has one for each chunk."""

    tokens: int
    bytes_per_token: float
    write_us: float
    """A token, without a model."""
    open_ms: float
    """Opening the log again."""
    thin_ms: float
    """Giving up old checkpoints, which each snapshot does while decoding waits."""


def spoken(s: Settings, folder: Path, tokens: int, repeats: int = 3) -> Spoken:
    """Let a mind without a model speak so many tokens."""
    path = folder / f"spoken{tokens}.db"
    log = Log(path)
    Archive(log)
    engine: Any = archive.Blank(s.budget, VOCABULARY)
    mind = build.assemble(s, engine, NumberCodec(VOCABULARY), _as_journal(log))
    fill(mind, np.random.default_rng(0).integers(10, VOCABULARY, s.budget), s.chunk)
    before, took = _size(log), _took(partial(_say, mind, tokens))
    log.write(mind.state().checkpoint)
    size = _size(log) - before
    log.close()
    opened, thinned = [], []
    for _ in range(repeats):
        start = _clock()
        log = Log(path)
        opened.append(_clock() - start)
        thinned.append(_took(log.thin))
        log.close()
    return Spoken(tokens, size / tokens, 1e6 * took / tokens, 1e3 * min(opened), 1e3 * min(thinned))


def _took(act: Callable[[], object]) -> float:
    start = _clock()
    act()
    return _clock() - start


def _as_journal(log: Log) -> Any:
    """Nothing is redacted here, which is all that a log cannot do alone."""
    return log


def _size(log: Log) -> int:
    log.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return log.size()


def bandwidth(megabytes: int = 256, repeats: int = 3) -> float:
    """Bytes a second at which one thread reads memory."""
    block = np.ones(megabytes * 250_000, np.float32)
    act = partial(np.dot, block, block)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return float(block.nbytes / min(times[1:]))


def ratios(found: Sequence[Turns]) -> Iterator[tuple[int, float]]:
    """Number of minds, and the time of its tick over that of the first number, round by round."""
    for many in found:
        for one, here in zip(found[0].ticks, many.ticks, strict=True):
            yield many.minds, here / one
