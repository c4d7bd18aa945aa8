# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What an arm costs: time of reading and of speaking along a stream, memory, bytes of KV.

Arms take turns chunk by chunk and token by token, so that a machine whose speed drifts slows all of them.
Knows readers. Must not know what the text says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from haloweave.bench.memory.arms import FULL, Studio
from haloweave.bench.memory.cases import Case
from haloweave.bench.memory.reader import MindReader
from haloweave.bench.memory.record import Record
from haloweave.bench.stats import resident_mb
from haloweave.engine.sampling import Sampling

TASK = "speed"
POINTS = 16
"""Figures along a stream."""
_GREEDY = Sampling(temperature=0.0, top_p=1.0)


@dataclass
class Runner:
    """One arm on its way."""

    arm: str
    rows: int
    reader: MindReader
    reading: list[float] = field(default_factory=list)
    """Seconds of each chunk."""
    speaking: list[float] = field(default_factory=list)
    """Seconds of each token, what makes room for it included."""

    def read(self, ids: np.ndarray) -> None:
        began = time.perf_counter()
        for _ in self.reader.score(ids):
            pass
        self.reading.append(time.perf_counter() - began)

    def speak(self) -> None:
        mind = self.reader.mind
        began = time.perf_counter()
        for _ in mind.make_room(1):
            pass
        mind.speak_once(_GREEDY)
        self.speaking.append(time.perf_counter() - began)


def measure(
    studio: Studio, case: Case, arms: Sequence[str], rows: int, tokens: int, said: int
) -> Iterator[Record]:
    """Read `tokens` of a running text, then say `said` tokens; `full` is left out where it does not fit."""
    ids = np.array(studio.codec.encode(["".join(piece.text for piece in case.pieces)])[0][:tokens], np.int32)
    arms = [arm for arm in arms if arm != FULL or len(ids) + said <= studio.longest]
    with ExitStack() as stack:
        runners = [_runner(studio, arm, rows, stack) for arm in arms]
        chunk = studio.base.chunk
        for at in range(0, len(ids) - chunk + 1, chunk):
            for runner in runners:
                runner.read(ids[at : at + chunk])
        for _ in range(said):
            for runner in runners:
                runner.speak()
        for runner in runners:
            of = Record(TASK, runner.arm, runner.rows, case.name, case.document, "", 0.0)
            yield from _told(of, runner, chunk)


def _runner(studio: Studio, arm: str, rows: int, stack: ExitStack) -> Runner:
    reader = stack.enter_context(studio.reader(arm, rows))
    return Runner(arm, 0 if arm == FULL else rows, reader)


def _told(of: Record, runner: Runner, chunk: int) -> Iterator[Record]:
    every = max(1, len(runner.reading) // POINTS)
    for at in range(every, len(runner.reading) + 1, every):
        pace = chunk / float(np.median(runner.reading[at - every : at]))
        yield of.told("tokens_per_s", pace, x=at * chunk)
    for name, value in zip(
        ("p50_ms", "p95_ms", "p99_ms"), np.percentile(runner.speaking, (50, 95, 99)), strict=True
    ):
        yield of.told(name, 1e3 * float(value))
    yield of.told("said_per_s", len(runner.speaking) / sum(runner.speaking))
    yield of.told("kv_mb", kv_bytes(runner.reader) / 1e6)
    yield of.told("rss_mb", resident_mb())


def kv_bytes(reader: MindReader) -> int:
    """Bytes of the keys and values that are held now."""
    engine: Any = reader.mind.engine
    layers: Sequence[tuple[Any, ...]] = getattr(engine, "inner", engine).layer_rows()
    return sum(tensor.numel() * tensor.element_size() for layer in layers for tensor in layer)
