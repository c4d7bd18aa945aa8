# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What being kept on disk costs a mind: slower decoding, stops for snapshots; and what coming back costs it.

Two minds over one model decode in alternating blocks, so that a machine whose speed drifts slows both: one
with a journal in memory, one that is kept (journal, archive, snapshots and vectors, with the worker thread).
Both are full from the start, so that both weave, and what is culled is archived and embedded. After each
event the kept one is tended, as a Runner tends it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from haloweave import build
from haloweave.bench.decode import fill
from haloweave.engine.base import Capabilities, Engine, Forward, KVStore
from haloweave.engine.sampling import Sampling
from haloweave.errors import EngineFault
from haloweave.journal.base import Journal, State, Vault
from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.rows import Image, SavedRows
from haloweave.mind import Mind
from haloweave.progress import Progress
from haloweave.settings import Settings
from haloweave.waking import Awake, wake

Make = Callable[[Settings, Journal | None, Vault | None], tuple[Mind, Mapping[str, str]]]
"""An empty mind over a model already loaded, and the fingerprint of what it computes with."""

_NAME, _COPY = "bench", "crashed"


@dataclass(frozen=True)
class Block:
    """Decoding for a while; seconds of each tick, weaves and tending included."""

    ticks: np.ndarray = field(repr=False)
    tended: np.ndarray = field(repr=False)
    """The part of each that tending took."""

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return len(self.ticks) / float(self.ticks.sum())


@dataclass(frozen=True)
class Overhead:
    """Blocks of both sides at one number of rows, in pairs."""

    rows: int
    memory: list[Block]
    kept: list[Block]
    snapshots: int
    """Taken while decoding."""
    embedded: int
    """Passages that were given a vector meanwhile."""

    @property
    def ratios(self) -> np.ndarray:
        """Time of the kept over time in memory, pair by pair."""
        return np.array([m.rate / k.rate for m, k in zip(self.memory, self.kept, strict=True)])

    @property
    def slower(self) -> float:
        """Median of the pairs; 0.1 is 10 %."""
        return float(np.median(self.ratios)) - 1

    def interval(self, draws: int = 2000) -> tuple[float, float]:
        """95 % bootstrap interval of `slower`."""
        pick = np.random.default_rng(0).integers(0, len(self.ratios), (draws, len(self.ratios)))
        low, high = np.percentile(np.median(self.ratios[pick], axis=1), [2.5, 97.5])
        return float(low) - 1, float(high) - 1

    @property
    def tick(self) -> float:
        """Median seconds of a kept mind's tick."""
        return float(np.median(np.concatenate([b.ticks for b in self.kept])))

    @property
    def longest(self) -> float:
        """The longest of them."""
        return float(max(b.ticks.max() for b in self.kept))

    @property
    def stop(self) -> float:
        """Seconds of the longest tending: decoding stood still for a snapshot."""
        return float(max(b.tended.max() for b in self.kept))

    def json(self) -> dict[str, Any]:
        low, high = self.interval()
        counts = {"rows": self.rows, "snapshots": self.snapshots, "embedded": self.embedded}
        rates = {"memory": [b.rate for b in self.memory], "kept": [b.rate for b in self.kept]}
        ticks = {"tick": self.tick, "longest": self.longest, "stop": self.stop}
        return counts | rates | ticks | {"slower": self.slower, "interval": [low, high]}

    def cells(self) -> list[str]:
        low, high = self.interval()
        return [
            str(self.rows),
            f"{np.median([b.rate for b in self.memory]):.1f}",
            f"{np.median([b.rate for b in self.kept]):.1f}",
            f"{self.slower:.1%} [{low:.1%}, {high:.1%}]",
            str(self.snapshots),
            str(self.embedded),
            *(f"{1e3 * seconds:.0f} ms" for seconds in (self.tick, self.longest, self.stop)),
        ]


@dataclass(frozen=True)
class Return:
    """One waking of a kept mind, the model already loaded."""

    rows: int
    how: str
    seconds: float
    """From opening its log to being ready, without making the engine."""
    engine: float
    """Seconds of making the engine, which probes the model."""
    replayed: int
    """Passes and edits that the journal told of since the snapshot."""
    passes: int
    """Forward passes that were made."""
    tokens: int
    """Fed in them."""
    same: bool
    """Every number of it is what it was, to the last bit."""
    opening: float = 0.0
    """Seconds of coming back with nothing to repeat."""

    @property
    def per_pass(self) -> float:
        """Seconds for each pass and edit repeated."""
        return (self.seconds - self.opening) / self.replayed if self.replayed else 0.0


# ---- decoding ------------------------------------------------------------------------------------------


def overhead(
    make: Make, s: Settings, rows: int, *, tokens: int = 256, blocks: int = 5, seed: int = 0
) -> Overhead:
    """Decode `tokens` tokens in a block, `blocks` blocks of either side after one that does not count.

    That one is half as long: so where a snapshot is due once a block, it falls in the midst of one, and is
    written while the mind that is kept decodes, not the other.
    """
    s = s.model_copy(update={"budget": rows})
    plain, _ = make(s, None, None)
    build.introduce(plain, s)
    with _kept(make, s) as awake:
        for mind in (plain, awake.mind):
            fill(mind, _ids(mind, mind.budget - mind.rows, seed), s.chunk)
        _settle(awake)
        before = awake.keeper.archive.counts().embedded
        memory, kept, snapshots = [], [], 0
        for block in range(blocks + 1):
            length = tokens if block else max(tokens // 2, 1)
            memory.append(_decoded(plain, length, lambda: None))
            seq = _newest(awake)
            kept.append(_decoded(awake.mind, length, partial(_tend, awake)))
            snapshots += bool(block) and _newest(awake) != seq
        embedded = awake.keeper.archive.counts().embedded - before
        return Overhead(rows, memory[1:], kept[1:], snapshots, embedded)


def _decoded(mind: Mind, tokens: int, tend: Callable[[], None]) -> Block:
    how = Sampling(temperature=1.0, logit_bias=dict.fromkeys(mind.codec.end_ids, float("-inf")))
    ticks, tended = np.zeros(tokens), np.zeros(tokens)
    for n in range(tokens):
        start = time.perf_counter()
        for _ in mind.make_room(1):
            tended[n] += _took(tend)
        mind.speak_once(how)
        tended[n] += _took(tend)
        ticks[n] = time.perf_counter() - start
    return Block(ticks, tended)


def _tend(awake: Awake) -> None:
    awake.keeper.tend(awake.mind.state)


def _settle(awake: Awake) -> None:
    """All that filling has left to do, before anything is timed."""
    awake.keeper.snapshot(awake.mind.state())
    while awake.keeper.archive.embed_pending(16):
        pass


def _newest(awake: Awake) -> int:
    return max((s.seq for s in awake.keeper.shelf.all()), default=0)


# ---- coming back ---------------------------------------------------------------------------------------


def returns(make: Make, s: Settings, rows: int, *, passes: int = 64, seed: int = 0) -> Iterator[Return]:
    """A mind of so many rows comes back twice: after it was put to sleep, and as a crash left it so many
    passes after its newest snapshot (its files, copied between two passes while it lives)."""
    s = s.model_copy(update={"budget": rows + passes, "snapshot_every": 10**9})
    with TemporaryDirectory(prefix="halo-bench-") as folder:
        with _kept(make, s, folder) as awake:
            fill(awake.mind, _ids(awake.mind, rows - awake.mind.rows, seed), s.chunk)
            slept = awake.mind.state()
        woken = _returned(make, s, folder, _NAME, slept)
        yield woken
        with _kept(make, s, folder) as awake:
            _decoded(awake.mind, passes, lambda: None)
            shutil.copytree(
                Path(folder) / _NAME,
                Path(folder) / _COPY,
                ignore=shutil.ignore_patterns("lock", "owner.json"),
            )
            crashed = awake.mind.state()
        yield replace(_returned(make, s, folder, _COPY, crashed), opening=woken.seconds)


def _returned(make: Make, s: Settings, folder: str, name: str, was: State) -> Return:
    counted: list[Counted] = []
    took = [0.0]

    def counting(s: Settings, journal: Journal | None, vault: Vault | None) -> tuple[Mind, Mapping[str, str]]:
        start = time.perf_counter()
        mind, marks = make(s, journal, vault)
        counted.append(Counted(mind.engine))
        mind = build.assemble(s, counted[0], mind.codec, journal, vault)
        took[0] = time.perf_counter() - start
        return mind, marks

    start = time.perf_counter()
    with _kept(counting, s, folder, name) as awake:
        seconds = time.perf_counter() - start - took[0]
        if awake.resumed.how not in ("snapshot", "replayed"):
            raise EngineFault(f"expected it to come back from its snapshot, it did not: {awake.resumed}")
        told, fed = awake.resumed, counted[0]
        if told.how == "snapshot" and fed.passes:
            raise EngineFault(f"its snapshot was current, and yet {fed.tokens} tokens were read again")
        same = _same(awake.mind.state(), was)
        return Return(awake.mind.rows, told.how, seconds, took[0], told.passes, fed.passes, fed.tokens, same)


def _same(a: State, b: State) -> bool:
    images = a.image.keys() == b.image.keys() and all(np.array_equal(a.image[k], b.image[k]) for k in a.image)
    logits = a.logits is not None and b.logits is not None and np.array_equal(a.logits, b.logits)
    return images and logits and a.checkpoint.view.tokens == b.checkpoint.view.tokens


class Counted:
    """An engine, and its cache, that count what they are made to compute."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self.passes = self.tokens = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    @property
    def kv(self) -> KVStore:
        return self

    def feed(self, ids: Sequence[int] | np.ndarray, *, score: bool = False) -> Forward:
        """See `Engine.feed`."""
        self._count(len(ids))
        return self._inner.feed(ids, score=score)

    def reread(self) -> Forward:
        """See `Engine.reread`."""
        self._count(1)
        return self._inner.reread()

    @property
    def rows(self) -> int:
        return self._inner.kv.rows

    @property
    def surgeries(self) -> frozenset[Surgery]:
        return self._inner.kv.surgeries

    def apply(self, edit: Edit, rows: SavedRows | None = None) -> None:
        """See `KVStore.apply`; a pass over what is born in it counts, one over what is read again too."""
        if edit.surgery is not Surgery.RESTORE and (born := len(edit.born_uids)):
            self._count(born)
        self._inner.kv.apply(edit, rows)

    def rebuild(self, ids: Sequence[int] | np.ndarray) -> None:
        """See `KVStore.rebuild`."""
        self._count(len(ids))
        self._inner.kv.rebuild(ids)

    def save(self, slots: Sequence[int] | np.ndarray) -> SavedRows:
        """See `KVStore.save`."""
        return self._inner.kv.save(slots)

    def dump(self) -> Image:
        """See `KVStore.dump`."""
        return self._inner.kv.dump()

    def load(self, image: Image) -> None:
        """See `KVStore.load`."""
        self._inner.kv.load(image)

    def _count(self, tokens: int) -> None:
        self.passes += 1
        self.tokens += tokens


# ---- shared --------------------------------------------------------------------------------------------


def maker(loaded: Any) -> Make:
    """Minds over a loaded model."""
    from haloweave.waking import fingerprint

    def make(s: Settings, journal: Journal | None, vault: Vault | None) -> tuple[Mind, Mapping[str, str]]:
        return build.mind_of(s, loaded, journal=journal, vault=vault), fingerprint(loaded)

    return make


@contextmanager
def _kept(make: Make, s: Settings, folder: str = "", name: str = _NAME) -> Iterator[Awake]:
    """A mind that is kept in a folder, or in one of its own for the while."""

    def made(
        s: Settings, journal: Journal, vault: Vault, progress: Progress
    ) -> tuple[Mind, Mapping[str, str]]:
        return make(s, journal, vault)

    with TemporaryDirectory(prefix="halo-bench-") as own:
        given = {**s.model_dump(), "minds": folder or own}
        with wake(name, given, make=made) as awake:
            yield awake


def _ids(mind: Mind, count: int, seed: int) -> np.ndarray:
    most = mind.engine.capabilities.vocabulary
    ids = np.random.default_rng(seed).integers(most // 50, most, 4 * count)
    control = np.array(sorted(mind.codec.control_ids))
    return ids[~np.isin(ids, control)][:count]


def _took(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start
