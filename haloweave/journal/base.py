# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The journal as the mind sees it, and a bounded one in memory.

Knows memory values. Must not know engines, minds or text. Everything is written here *before* it
happens; a durable journal returns only once the record is safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from haloweave.memory.edit import Edit
from haloweave.memory.tokens import Tokens


@dataclass(frozen=True)
class Born:
    """Tokens fed in one forward pass (so the length is the pass's shape)."""

    tokens: Tokens


@dataclass(frozen=True)
class Committed:
    """An edit."""

    edit: Edit


@dataclass(frozen=True)
class Aborted:
    """The record before this one did not happen, or was undone by a rebuild."""

    reason: str


Record: TypeAlias = Born | Committed | Aborted


class Journal(Protocol):
    """An append-only record of what a mind does."""

    def write(self, record: Record) -> None:
        """Returns once the record is as safe as this journal makes it."""
        ...

    def redact(self, uids: Sequence[int]) -> None:
        """Forget every record's tokens with these uids, for good."""
        ...


class MemoryJournal:
    """Keeps the last `keep` records; enough to look back on, lost with the process.

    Edits are held as bytes: as objects, the many small arrays of a weave weigh ten times as much.
    """

    def __init__(self, keep: int = 1024) -> None:
        self._records: deque[Born | Aborted | bytes] = deque(maxlen=keep)

    def __iter__(self) -> Iterator[Record]:
        for record in tuple(self._records):
            yield Committed(Edit.from_bytes(record)) if isinstance(record, bytes) else record

    def __len__(self) -> int:
        return len(self._records)

    def write(self, record: Record) -> None:
        """See `Journal.write`."""
        self._records.append(record.edit.to_bytes() if isinstance(record, Committed) else record)

    def redact(self, uids: Sequence[int]) -> None:
        """See `Journal.redact`: edits that name a redacted token are dropped whole."""
        gone = np.array(uids, np.int64)
        kept: list[Record] = []
        for record in self:
            if isinstance(record, Born):
                kept.append(Born(record.tokens.take(~np.isin(record.tokens.uid, gone))))
            elif not (isinstance(record, Committed) and mentions(record.edit, gone)):
                kept.append(record)
        self._records.clear()
        for record in kept:
            self.write(record)


def mentions(edit: Edit, uids: np.ndarray) -> bool:
    """Whether any token in the edit has one of these uids."""
    return any(bool(np.isin(run.uid, uids).any()) for s in edit.splices for run in (s.old, s.new))
