# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Baselines that shorten a text and have it read again, as people do who cannot edit a cache.

    Rereads     an engine that computes all rows behind a cut again, so that nobody remembers the dead
    Surprise    a brightness that is what a token told when it was read: its surprisal (Selective Context,
                Li et al., arXiv 2310.06201, which drops what is least surprising)
    Summaries   before the room runs out, the older half becomes the model's own summary of it

Knows engines and minds. Must not know arms by name or tasks. Axes: S slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from haloweave.bench.memory.cases import Piece
from haloweave.engine.base import Capabilities, Engine, Forward, KVStore
from haloweave.engine.sampling import Sampling
from haloweave.events import Spoke
from haloweave.memory.brightness import TYPICAL, to_brightness
from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.plan import delete
from haloweave.memory.rows import Image, SavedRows
from haloweave.memory.tokens import AttentionSample, Source, View
from haloweave.mind import Mind

_ASKED = "Summarise in a few short sentences what was said, with all names and numbers:\n\n"
_SHORT, _FRAME = 64, 32
"""Tokens of a summary, and of the frames that a piece may bring along."""
_NOT_SAID = (Source.CONTROL, Source.SYSTEM, Source.MARKER)
_GREEDY = Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.2)


@dataclass(frozen=True, eq=False)
class Rereads:
    """An engine whose every edit is exact: rows from the first change on are computed again."""

    inner: Any

    @property
    def capabilities(self) -> Capabilities:
        found: Capabilities = self.inner.capabilities
        return found

    @property
    def model(self) -> Any:
        return self.inner.model

    @property
    def kv(self) -> KVStore:
        return _ExactEdits(self.inner)

    def feed(self, ids: Sequence[int] | np.ndarray, *, score: bool = False) -> Forward:
        forward: Forward = self.inner.feed(ids, score=score)
        return forward

    def reread(self) -> Forward:
        forward: Forward = self.inner.reread()
        return forward


@dataclass(frozen=True, eq=False)
class _ExactEdits:
    """The rows of an engine; DROP and PATCH become RECOMPUTE."""

    inner: Engine

    @property
    def rows(self) -> int:
        return self.inner.kv.rows

    @property
    def surgeries(self) -> frozenset[Surgery]:
        return self.inner.kv.surgeries

    def apply(self, edit: Edit, rows: SavedRows | None = None) -> None:
        self.inner.kv.apply(replace(edit, surgery=Surgery.RECOMPUTE), rows)

    def rebuild(self, ids: Sequence[int] | np.ndarray) -> None:
        self.inner.kv.rebuild(ids)

    def save(self, slots: Sequence[int] | np.ndarray) -> SavedRows:
        return self.inner.kv.save(slots)

    def dump(self) -> Image:
        return self.inner.kv.dump()

    def load(self, image: Image) -> None:
        self.inner.kv.load(image)


@dataclass(frozen=True)
class Surprise:
    """A token stays as bright as it was surprising."""

    surprise: float = 1.0
    """Above 0, so that samples bring surprisals."""

    def birth(self, source: Source) -> float:
        return float(to_brightness(np.array([1.0]))[0])

    def update(self, view: View, sample: AttentionSample) -> Float32[np.ndarray, " S"]:
        bright = view.tokens.brightness.copy()
        if sample.nats is not None:
            share = np.maximum(sample.nats, 0.0) / TYPICAL
            bright[len(bright) - len(share) :] = to_brightness(share**self.surprise)
        return bright


@dataclass(eq=False)
class Summaries:
    """Makes room before a piece is read: the older half goes, and its summary is read as a memory, since what
    logs and tools wrote may not be rewritten where it stood. `another`: an empty mind that writes them."""

    another: Callable[[], Mind]
    _writer: Mind | None = None
    _empty: Any = None

    def __call__(self, mind: Mind, piece: Piece) -> None:
        size = len(mind.codec.encode([piece.text])[0]) + _FRAME
        if mind.rows + size <= mind.budget:
            return
        tokens = mind.view.tokens
        said = ~np.isin(tokens.source, _NOT_SAID) & ~tokens.pinned
        slots = np.flatnonzero(said)
        slots = slots[slots < (len(tokens) + int(slots[0])) // 2] if len(slots) else slots
        if len(slots) <= _SHORT:
            return
        runs = _runs(slots)
        old = [b"".join(map(mind.codec.piece, tokens.token_id[run].tolist())) for run in runs]
        short = self._written(b"\n".join(old).decode("utf-8", "replace"))
        mind.commit(delete(mind.view, tokens.uid[slots].tolist(), surgery=Surgery.RECOMPUTE))
        for _ in mind.listen(short, Source.MEMORY):
            pass

    def _written(self, text: str) -> str:
        if self._writer is None:
            self._writer = self.another()
            self._empty = self._writer.state()
        self._writer.resume(self._empty, (), ())
        for _ in self._writer.listen(_ASKED + text):
            pass
        events = self._writer.reply(_GREEDY, _SHORT)
        return "".join(event.text for event in events if isinstance(event, Spoke)).strip()


def _runs(slots: np.ndarray) -> list[np.ndarray]:
    """Unbroken runs of slots: what stands in one turn."""
    return np.split(slots, np.flatnonzero(np.diff(slots) > 1) + 1)
