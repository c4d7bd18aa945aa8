# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What must hold of any mind at any time, as assertions that tests share.

Knows minds, journals and the fakes' frame. Must not know how any of it is brought about.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from haloweave.engine.sampling import Sampling
from haloweave.journal.base import Aborted, Born, Committed, Record
from haloweave.memory.mirror import Mirror
from haloweave.memory.tokens import FULL, Source, Tokens
from haloweave.mind import Mind


class Ledger:
    """A journal that keeps everything in order and forgets nothing, to check the mind against."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.redacted: list[int] = []

    def write(self, record: Record) -> None:
        self.records.append(record)

    def redact(self, uids: Sequence[int], state: Any) -> None:
        self.redacted += list(uids)


def replayed(records: Iterable[Record]) -> Tokens:
    """The context that a journal tells of: what a restart would bring back."""
    happened: list[Born | Committed] = []
    for record in records:
        if isinstance(record, Aborted):
            happened.pop()
        elif isinstance(record, Born | Committed):
            happened.append(record)
    mirror = Mirror()
    for record in happened:
        if isinstance(record, Born):
            mirror.append(record.tokens)
        else:
            mirror.apply(record.edit)
    return mirror.view.tokens


def all_of(events: Iterable[Any]) -> list[Any]:
    return list(events)


def say(mind: Mind, n: int, how: Sampling) -> list[int]:
    """`n` tokens more of the model's own."""
    out = []
    while len(out) < n:
        all_of(mind.make_room(1))
        token = mind.speak_once(how)
        assert token is not None
        out.append(token)
    return out


def assert_whole(mind: Mind) -> None:
    """Mirror, KV and budget agree; uids are used once; brightness is a brightness."""
    tokens = mind.view.tokens
    kv: Any = mind.engine.kv
    assert kv.rows == mind.rows == len(tokens)
    assert kv.ids.tolist() == tokens.token_id.tolist()
    assert mind.rows <= mind.budget
    assert len(np.unique(tokens.uid)) == len(tokens)
    assert not len(tokens) or int(tokens.uid.max()) < mind.view.next_uid
    assert np.all(np.isfinite(tokens.brightness))
    assert np.all((tokens.brightness >= 0) & (tokens.brightness <= FULL))


def assert_journal_tells_all(mind: Mind, records: Iterable[Record]) -> None:
    """Replaying the journal gives the present context (brightness apart: it is not journalled)."""
    told, held = replayed(records), mind.view.tokens
    for column in ("uid", "token_id", "source", "unit", "pinned", "born"):
        assert np.array_equal(getattr(told, column), getattr(held, column)), column


def assert_well_formed(mind: Mind) -> None:
    """Each header has its footer, except the open turn's; nothing but markers stands outside of turns."""
    frame = mind.codec.frame
    assert frame is not None
    tokens = mind.view.tokens
    ids, control = tokens.token_id.tolist(), (tokens.source == Source.CONTROL).tolist()

    def where(slot: int) -> str:
        return f"slot {slot} of {mind.text()!r}"

    at, role = len(frame.opening) if tuple(ids[: len(frame.opening)]) == frame.opening else 0, None
    unit = -1
    while at < len(ids):
        if role is None and not control[at]:
            assert tokens.source[at] == Source.MARKER, f"said outside of any turn: {where(at)}"
            at += 1
        elif not control[at]:
            at += 1
        elif role is None:
            named = [r for r, h in frame.headers.items() if tuple(ids[at : at + len(h)]) == h]
            assert named, f"not a header: {where(at)}"
            role, unit = named[0], int(tokens.unit[at])
            at += len(frame.headers[role])
        else:
            footer = frame.footers[role]
            assert tuple(ids[at : at + len(footer)]) == footer, f"not the footer of {role}: {where(at)}"
            assert int(tokens.unit[at]) == unit, f"footer of another turn: {where(at)}"
            at += len(footer)
            role = None


def assert_one_marker_per_gap(mind: Mind) -> None:
    """No two markers (units of source MARKER) stand side by side, sinks, tail and pins apart."""
    tokens = mind.view.tokens
    fixed = mind.laws.untouchable(tokens)
    marks = np.flatnonzero((tokens.source == Source.MARKER) & ~fixed)
    for a, b in itertools.pairwise(marks):
        assert b != a + 1 or tokens.unit[a] == tokens.unit[b], f"two markers at slot {b}: {mind.text()!r}"
