# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Who left the context by an edit, and from between whom; and who lives after a record.

Knows edits, records and how numbers are packed. Must not know passages or databases. Axes: S slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from haloweave.journal.base import Born, Checkpoint, Committed, Record
from haloweave.journal.packing import Packer, Unpacker
from haloweave.memory.edit import Edit

NOBODY = -1
"""There is no neighbour on that side."""


@dataclass(frozen=True)
class Run:
    """Tokens with neighbouring uids that stood and left together."""

    first_uid: int
    last_uid: int
    left_uid: int
    """The nearest tokens that stayed; NOBODY at an end of the context."""
    right_uid: int


def alive_after(before: Int64[np.ndarray, " S"], record: Record) -> Int64[np.ndarray, " T"]:
    """The uids in the context after a record, by slot."""
    if isinstance(record, Checkpoint):
        return record.view.tokens.uid
    if isinstance(record, Born):
        return np.concatenate([before, record.tokens.uid])
    if not isinstance(record, Committed) or record.edit.first is None:
        return before
    parts, at = [], 0
    for splice in record.edit.splices:
        parts += [before[at : splice.start], splice.new.uid]
        at = splice.stop
    return np.concatenate([*parts, before[at:]])


def leaving(alive: Int64[np.ndarray, " S"], edit: Edit) -> Iterator[Run]:
    """Who leaves by an edit, from left to right."""
    if edit.first is None:
        return
    there = np.concatenate([np.arange(s.start, s.stop) for s in edit.splices])
    gone = there[~np.isin(alive[there], np.concatenate([s.new.uid for s in edit.splices]))]
    if not len(gone):
        return
    stay = np.delete(np.arange(len(alive)), gone)
    ends = np.flatnonzero((np.diff(gone) != 1) | (np.diff(alive[gone]) != 1))
    firsts, lasts = gone[np.r_[0, ends + 1]], gone[np.r_[ends, -1]]
    right = np.searchsorted(stay, firsts)
    beside = np.r_[alive[stay], NOBODY]  # so that index -1, and the one past the end, are nobody
    columns = (alive[firsts], alive[lasts], beside[right - 1], beside[right])
    for values in zip(*(column.tolist() for column in columns), strict=True):
        yield Run(*values)


def packed_runs(runs: Sequence[Run], start: int) -> bytes:
    """Runs that lie near one another, from uid `start` on, in few bytes: mostly four for each."""
    out = Packer()
    for run in runs:
        out.number(run.first_uid - start)
        out.number(run.last_uid - run.first_uid)
        for uid, near in ((run.left_uid, run.first_uid), (run.right_uid, run.last_uid)):
            out.number(0 if uid == NOBODY else uid - near)  # nobody is their own neighbour
        start = run.last_uid
    return out.written()


def unpacked_runs(data: bytes, start: int) -> tuple[Run, ...]:
    """Inverse of `packed_runs`. Raises JournalCorrupt."""
    read, runs = Unpacker(data), []
    while read.at < len(data):
        first = start + read.number()
        last = first + read.number()
        left, right = read.number(), read.number()
        runs.append(Run(first, last, first + left if left else NOBODY, last + right if right else NOBODY))
        start = last
    return tuple(runs)
