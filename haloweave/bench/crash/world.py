# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One small mind on disk, all of it real but the size of its model: made, woken, and left for dead.

Knows everything that a mind is kept by. Must not know what goes wrong, or what the mind lives through.
Nothing here runs beside the mind: a snapshot is written, a passage embedded, when it is due, so that the same
life is the same operations on disk.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import apsw
import numpy as np

from haloweave import build
from haloweave.engine.base import Engine
from haloweave.journal.archive import Archive
from haloweave.journal.connection import leave
from haloweave.journal.copies import Copies
from haloweave.journal.disk import Disk, Files
from haloweave.journal.keeper import Keeper, Keeping
from haloweave.journal.log import Log
from haloweave.journal.rows import RowStore
from haloweave.journal.snapshot import Shelf
from haloweave.mind import Mind
from haloweave.recall import Recaller, Recalling
from haloweave.resume import Resumed, resume
from haloweave.settings import Settings, settings
from haloweave.text import ChatFrame

START, END = 256, 257
BUDGET, CHUNK = 128, 24
_PAGES = 40
"""Pages in the -wal before they are moved into the database: SQLite's own 1,000 would hardly ever come."""
_ROWS = 1 << 19
"""Bytes of rows of the culled."""


@dataclass(frozen=True)
class Bytes:
    """A byte is a token; further ids spell two letters. Two are control tokens, for a chat frame."""

    vocabulary: int = 512

    @property
    def frame(self) -> ChatFrame:
        roles = {"system": 115, "user": 117, "assistant": 97}
        headers = {role: (START, letter, 10) for role, letter in roles.items()}
        return ChatFrame(opening=(), headers=headers, footers=dict.fromkeys(roles, (END, 10)))

    @property
    def control_ids(self) -> frozenset[int]:
        return frozenset({START, END})

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset({END})

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(t.encode()) for t in texts]

    def piece(self, token_id: int) -> bytes:
        if token_id < START:
            return bytes([token_id])
        if token_id in self.control_ids:
            return b"<|>"
        return b"aeiourstln"[token_id % 10 :][:1] + b"bcdfghjkmpqvwxyz"[token_id % 16 :][:1]


class Hashing:
    """An embedder without a model: texts are alike as far as they share words."""

    name, dim = "hashing", 64

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(out, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                row[zlib.crc32(word.encode()) % self.dim] += 1
            row /= np.linalg.norm(row)
        return out


@dataclass(frozen=True)
class Kit:
    """What a mind computes with."""

    name: str
    engine: Callable[[], Engine]
    codec: Bytes
    ending: float
    """Added to the logit of the end of a turn: so that a reply is some ten tokens long."""
    settings: Settings = field(default_factory=lambda: frugal())


def frugal(**more: object) -> Settings:
    """Settings of the smallest mind that does all that a mind does."""
    given: dict[str, object] = {
        "budget": BUDGET,
        "chunk": CHUNK,
        "slack": 0.125,
        "tail": 0.2,
        "sinks": 4,
        "lock": 250.0,
        "policy": "halo",
        "kills_per_round": 6,
        "system": "Be.",
        "seed": 7,
        "snapshot_every": 9,
        "snapshots": 2,
        "embedder": "",
        "repair": "off",
        "recall": "ask",
        "rows_quota": 1,
    }
    return settings(**{**given, **more})


def tiny_kit() -> Kit:
    """A Llama of two layers, on one thread."""
    import torch

    from haloweave.engine.hf.engine import HFEngine
    from haloweave.engine.hf.tiny import VOCABULARY, tiny_llama

    torch.set_num_threads(1)
    model = tiny_llama(BUDGET, sharpness=4.0)
    return Kit("tiny llama", lambda: HFEngine(model, capacity=BUDGET), Bytes(VOCABULARY), ending=4.0)


@dataclass
class Alive:
    """A mind that is awake, and what keeps it."""

    mind: Mind
    keeper: Keeper
    recaller: Recaller
    copies: Copies
    resumed: Resumed
    ending: float
    told: list[str] = field(default_factory=list)
    """What a person was to know of."""

    def tend(self) -> None:
        """What a runner has done between two events."""
        self.told += self.keeper.tend(self.mind.state)

    def die(self) -> None:
        """What `kill -9` leaves: files as they are, and nothing said."""
        leave(self.keeper.log.db)
        if self.keeper.rows is not None:
            abandon(self.keeper.rows)


def abandon(rows: RowStore) -> None:
    """Close without touching the file."""
    db: apsw.Connection = rows._db
    leave(db)


@dataclass(frozen=True)
class World:
    """A folder with a mind in it, on a disk that may be faulty."""

    folder: Path
    kit: Kit
    disk: Files = field(default_factory=Disk)

    def wake(self) -> Alive:
        """The mind as its files tell, or a new one. Raises JournalError; then all is closed."""
        self._forget_stillborn()
        opened: list[Log | RowStore] = []
        try:
            return self._woken(opened)
        except BaseException:
            for one in opened:
                with suppress(apsw.Error):
                    leave(one.db) if isinstance(one, Log) else abandon(one)
            raise

    def _woken(self, opened: list[Log | RowStore]) -> Alive:
        s, made_of = self.kit.settings, {"model": self.kit.name}
        log = Log(self.folder / "mind.db")
        opened.append(log)
        log.db.pragma("wal_autocheckpoint", _PAGES)
        archive, copies = Archive(log, Hashing()), self.copies()
        shelf = Shelf(self.folder / "snapshots", disk=self.disk, keep=s.snapshots, part_bytes=1 << 16)
        rows = RowStore(self.folder / "rows.db", _ROWS, fingerprint=made_of)
        opened.append(rows)
        how = Keeping(every=s.snapshot_every, idle=float("inf"))
        keeper = Keeper(log, shelf, archive, made_of, rows=rows, copies=copies, how=how, background=False)
        mind = build.assemble(s, self.kit.engine(), self.kit.codec, keeper, keeper)
        resumed = resume(mind, keeper)
        if resumed.how == "new":
            build.introduce(mind, s)
            keeper.snapshot(mind.state())
            log.put("born", "yes")
        return Alive(mind, keeper, recaller(archive), copies, resumed, self.kit.ending)

    def copies(self) -> Copies:
        return Copies(self.folder / "backups", disk=self.disk, now=lambda: datetime(2026, 1, 2, tzinfo=UTC))

    def _forget_stillborn(self) -> None:
        """Nobody was ever told of a mind that was cut off before it had read its first turn."""
        database = self.folder / "mind.db"
        if not database.exists():
            return
        log = Log(database)
        born, records = log.get("born"), log.last
        log.close()
        if born is None and records:
            for file in self.folder.glob("mind.db*"):
                file.unlink()
            Shelf(self.folder / "snapshots", disk=self.disk).clear(None)


def recaller(archive: Archive) -> Recaller:
    """Brings back nothing by itself, and on demand even what is half as long as the context."""
    return Recaller(archive, Recalling(strong=2.0, most=1, rows=BUDGET // 2))
