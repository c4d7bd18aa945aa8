# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The journal as the mind sees it: what is written, in which order, and a bounded one in memory.

Knows memory values. Must not know engines, minds or codecs. Everything is written here *before* it
happens; a durable journal returns only once the record is safe. The mirror is a fold over the records, and
the KV cache is what a model makes of the same forward passes: so whatever changes rows has a record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
from jaxtyping import Float32

from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.rows import Image, SavedRows
from haloweave.memory.tokens import Tokens, View

Pieces: TypeAlias = tuple[bytes, ...]
"""The bytes that each token spells, in order; a character may be cut in two."""


@dataclass(frozen=True)
class Turn:
    """Where the chat frame stands: which turn is open, and which unit comes next."""

    role: str = ""
    """Of the open turn; empty if none is."""
    unit: int = -1
    begun: bool = False
    """Whether the first turn was ever opened."""
    next_unit: int = 0


@dataclass(frozen=True)
class Totals:
    """Counters since the mind was made."""

    fed: int = 0
    spoken: int = 0
    culled: int = 0
    edits: int = 0

    def after_birth(self, born: Born) -> Totals:
        """With one more forward pass."""
        return replace(self, fed=self.fed + len(born.tokens), spoken=self.spoken + born.sampled)

    def after_edit(self, edit: Edit) -> Totals:
        """With one more edit."""
        gone = sum(len(s.old) - len(s.kept[1]) for s in edit.splices)
        return replace(self, culled=self.culled + gone, edits=self.edits + 1)


@dataclass(frozen=True)
class Born:
    """Tokens fed in one forward pass (so the length is the pass's shape)."""

    tokens: Tokens
    pieces: Pieces = ()
    """One for each token; empty where nobody spells."""
    turn: Turn | None = None
    """Where the frame stands once these are in; None: where it stood."""
    sampled: bool = False
    """The model said it, and was not told it."""
    scored: bool = False
    """The pass gave logits for all its tokens: another shape of the last multiplication."""
    origin: int = 0
    """The archived passage that these tokens recall; 0: none."""


@dataclass(frozen=True)
class Committed:
    """An edit."""

    edit: Edit
    pieces: Pieces = ()
    """One for each of `edit.born_uids`, in that order; empty where nobody spells."""
    takes_back: int | None = None
    """Base revision of the edit that this one undoes."""
    redacts: tuple[int, ...] = ()
    """Uids whose text must vanish from disk for good, living or long culled."""
    goal: int = 0
    """Rows that the weave it is a part of still has to come down to; 0: it goes no further."""
    rows: int = 0
    """Where the rows of a RESTORE are kept (see `RowStore`); 0: no row is restored."""


@dataclass(frozen=True)
class Aborted:
    """The Born or Committed before this one did not happen, or was undone by a rebuild."""

    reason: str


@dataclass(frozen=True)
class Reread:
    """The last row was computed again, in its present context, for fresh logits."""


@dataclass(frozen=True)
class Rebuilt:
    """The KV cache was forgotten and prefilled from the mirror."""


@dataclass(frozen=True)
class Checkpoint:
    """The whole mirror, brightness included, so that a fold need not begin at the beginning."""

    view: View
    turn: Turn
    totals: Totals


Record: TypeAlias = Born | Committed | Aborted | Reread | Rebuilt | Checkpoint


@dataclass(frozen=True)
class State:
    """All that a mind is between two ticks, beside what the journal tells of the past."""

    checkpoint: Checkpoint
    image: Image
    logits: Float32[np.ndarray, " V"] | None
    """For the next token; None if nothing was read yet."""
    stale: bool
    """An edit changed what the logits follow from: they are read again when they are wanted."""


class Journal(Protocol):
    """An append-only record of what a mind does."""

    def write(self, record: Record) -> None:
        """Returns once the record is as safe as this journal makes it. Raises JournalFailed if it cannot
        be; then nothing may be written any more, and the mind has to be opened again."""
        ...

    def redact(self, uids: Sequence[int], state: Callable[[], State]) -> None:
        """Forget text and ids of these tokens, wherever they are kept. A record that named them
        (`Committed.redacts`) was written before; `state` tells what the mind is without them."""
        ...


class Vault(Protocol):
    """Where rows of culled tokens are kept, as long as there is room."""

    def put(self, tokens: Tokens, rows: SavedRows) -> None:
        """Keep these tokens' rows, if it can be done: it is only a convenience, and raises nothing."""
        ...

    def get(self, number: int) -> tuple[np.ndarray, SavedRows] | None:
        """Uids, ascending, and their rows, kept under a number (see `Committed.rows`); None if they are not
        kept any more."""
        ...


class MemoryJournal:
    """Keeps the last `keep` records; enough to look back on, lost with the process.

    Edits are held as bytes: as objects, the many small arrays of a weave weigh ten times as much.
    """

    def __init__(self, keep: int = 1024) -> None:
        self._records: deque[Record | tuple[bytes, Committed]] = deque(maxlen=keep)

    def __iter__(self) -> Iterator[Record]:
        for record in tuple(self._records):
            yield _unpacked(*record) if isinstance(record, tuple) else record

    def __len__(self) -> int:
        return len(self._records)

    def write(self, record: Record) -> None:
        """See `Journal.write`."""
        self._records.append(_packed(record) if isinstance(record, Committed) else record)

    def redact(self, uids: Sequence[int], state: Callable[[], State]) -> None:
        """See `Journal.redact`: edits that name a redacted token are dropped whole."""
        gone = np.array(uids, np.int64)
        kept: list[Record] = []
        for record in self:
            if isinstance(record, Born):
                lives = ~np.isin(record.tokens.uid, gone)
                pieces = tuple(p for p, keep in zip(record.pieces, lives, strict=False) if keep)
                kept.append(replace(record, tokens=record.tokens.take(lives), pieces=pieces))
            elif not (isinstance(record, Committed) and mentions(record.edit, gone)):
                kept.append(record)
        self._records.clear()
        for record in kept:
            self.write(record)


_NOTHING = Edit(0, 0, "", Surgery.DROP, ())


def _packed(record: Committed) -> tuple[bytes, Committed]:
    return record.edit.to_bytes(), replace(record, edit=_NOTHING)


def _unpacked(edit: bytes, record: Committed) -> Committed:
    return replace(record, edit=Edit.from_bytes(edit))


def mentions(edit: Edit, uids: np.ndarray) -> bool:
    """Whether any token in the edit has one of these uids."""
    return any(bool(np.isin(run.uid, uids).any()) for s in edit.splices for run in (s.old, s.new))
