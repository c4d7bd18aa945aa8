# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A record of the journal as one row of a table, and back, exactly.

Knows records and memory values. Must not know databases. A row's columns are what a person or a query may
want (`text` is the plain text); its body is the rest in few bytes: version, fields, CRC-32 of the whole row.
So a row that was damaged, moved or given another number is noticed: it raises JournalCorrupt.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from haloweave.errors import InvalidInput, JournalCorrupt
from haloweave.journal.base import (
    Aborted,
    Born,
    Checkpoint,
    Committed,
    Pieces,
    Rebuilt,
    Record,
    Reread,
    Totals,
)
from haloweave.journal.fields import get_pieces, get_tokens, get_turn, put_pieces, put_tokens, put_turn
from haloweave.journal.packing import MOST, Packer, Unpacker, deflated, inflated
from haloweave.memory.edit import Edit, Splice, Surgery
from haloweave.memory.tokens import NO_UNIT, Tokens, View

VERSION = 1
_DEFLATED = 0x80
_SEAL = 4

_SAMPLED, _SCORED, _TURN, _RECALLED, _SPELT = 1, 2, 4, 8, 16
_TAKES_BACK, _REDACTS, _GOAL, _ROWS = 1, 2, 4, 8

_SURGERIES = (Surgery.DROP, Surgery.PATCH, Surgery.RECOMPUTE, Surgery.RESTORE)


class Kind(IntEnum):
    """What a row holds. Numbers on disk: never change one."""

    THINNED = 0
    """It was a checkpoint, which newer ones made superfluous; its number stays taken."""
    BORN = 1
    COMMITTED = 2
    ABORTED = 3
    REREAD = 4
    REBUILT = 5
    CHECKPOINT = 6


class Row(NamedTuple):
    """One row of the table `records`; the fields are its columns."""

    seq: int
    kind: int
    tick: int
    """Of the mirror, as this was written."""
    first_uid: int
    """The uid that would be given next, as this was written."""
    tokens: int
    """Uids taken."""
    source: int | None
    text: bytes
    body: bytes

    @property
    def next_uid(self) -> int:
        return self.first_uid + self.tokens

    @property
    def next_tick(self) -> int:
        return self.tick + (self.kind == Kind.BORN)


def pack(record: Record, *, seq: int, tick: int, next_uid: int) -> Row:
    """The row for a record that is written as the mirror stands at `tick`, with `next_uid` yet to be given.

    Raises InvalidInput if the record does not fit together.
    """
    row = _heading(record, Row(seq, int(_KINDS[type(record)]), tick, next_uid, 0, None, b"", b""))
    out = Packer()
    if isinstance(record, Born):
        _put_born(out, record, row)
    elif isinstance(record, Committed):
        _put_committed(out, record, row)
    elif isinstance(record, Checkpoint):
        _put_checkpoint(out, record)
    elif isinstance(record, Aborted):
        out.text(record.reason)
    return _sealed(row, out.written())


def unpack(row: Row) -> Record:
    """Inverse of `pack`. Raises JournalCorrupt on anything else."""
    try:
        src = Unpacker(_opened(row))
        record = _READERS[Kind(row.kind)](src, row)
        src.end()
        return record
    except (JournalCorrupt, ValueError, KeyError, OverflowError) as err:
        raise _told(row, err) from err


def thinned(row: Row) -> Row:
    """What is left of a checkpoint that nobody needs any more."""
    return _sealed(row._replace(kind=int(Kind.THINNED)), b"")


# ---- rows --------------------------------------------------------------------------------------------

_KINDS: dict[type[Record], Kind] = {
    Born: Kind.BORN,
    Committed: Kind.COMMITTED,
    Aborted: Kind.ABORTED,
    Reread: Kind.REREAD,
    Rebuilt: Kind.REBUILT,
    Checkpoint: Kind.CHECKPOINT,
}


def _heading(record: Record, row: Row) -> Row:
    """The columns that say what kind of thing this is, and the text."""
    if isinstance(record, Born) and len(record.tokens):
        t = record.tokens
        return row._replace(
            tick=int(t.born[0]),
            first_uid=int(t.uid[0]),
            tokens=len(t),
            source=int(t.source[0]),
            text=b"".join(record.pieces),
        )
    if isinstance(record, Committed):
        born, edit = record.edit.born_uids, record.edit
        taken = max(int(born.max()) + 1 - row.first_uid, 0) if len(born) else 0
        sources = (int(s.new.source[n]) for s in edit.splices for n in np.flatnonzero(_is_born(s)).tolist())
        return row._replace(
            tick=max(row.tick, edit.tick),
            tokens=taken,
            source=next(sources, None),
            text=b"".join(record.pieces),
        )
    if isinstance(record, Checkpoint):
        tick, uid = max(row.tick, record.view.tick), max(row.first_uid, record.view.next_uid)
        return row._replace(tick=tick, first_uid=uid)
    return row


def _is_born(s: Splice) -> Bool[np.ndarray, " N"]:
    born = np.ones(len(s.new), np.bool_)
    born[s.kept[0]] = False
    return born


def _sealed(row: Row, payload: bytes) -> Row:
    packed = deflated(payload)
    head, rest = (VERSION, payload) if packed is None else (VERSION | _DEFLATED, packed)
    row = row._replace(body=bytes([head]) + rest)
    return row._replace(body=row.body + _checksum(row, row.body))


def check(row: Row) -> None:
    """Raises JournalCorrupt unless the row is whole; cheaper than reading it."""
    try:
        _unsealed(row)
    except JournalCorrupt as err:
        raise _told(row, err) from err


def _told(row: Row, err: Exception) -> JournalCorrupt:
    return JournalCorrupt(f"record {row.seq}: {err}; restore a backup")


def _opened(row: Row) -> bytes:
    """The payload of a row."""
    body = _unsealed(row)
    return inflated(body[1:]) if body[0] & _DEFLATED else body[1:]


def _unsealed(row: Row) -> bytes:
    """The body of a row without its seal, if the row is whole."""
    if any(type(v) is not int for v in row[:5]) or any(type(v) is not bytes for v in row[6:]):
        raise JournalCorrupt("its columns are of the wrong types")
    if len(row.body) <= _SEAL:
        raise JournalCorrupt(f"its body is too short: {len(row.body)} bytes")
    body, seal = row.body[:-_SEAL], row.body[-_SEAL:]
    if (version := body[0] & ~_DEFLATED) != VERSION:
        raise JournalCorrupt(f"written as version {version}, this release reads version {VERSION}")
    if _checksum(row, body) != seal:
        raise JournalCorrupt("its checksum differs: damaged")
    return body


def _checksum(row: Row, body: bytes) -> bytes:
    head = repr((*row[:6], len(row.text))).encode()
    return zlib.crc32(body, zlib.crc32(row.text, zlib.crc32(head))).to_bytes(_SEAL, "little")


# ---- births ------------------------------------------------------------------------------------------


def _put_born(out: Packer, record: Born, row: Row) -> None:
    flags = _SAMPLED * record.sampled | _SCORED * record.scored | _SPELT * bool(record.pieces)
    flags |= _TURN * (record.turn is not None) | _RECALLED * bool(record.origin)
    out.byte(flags)
    put_tokens(out, record.tokens, _expected(row))
    if record.turn is not None:
        put_turn(out, record.turn)
    if record.origin:
        out.number(record.origin)
    if _spelt(record.pieces, len(record.tokens)):
        put_pieces(out, record.pieces)


def _spelt(pieces: Pieces, count: int) -> bool:
    if pieces and len(pieces) != count:
        raise InvalidInput(f"pieces: expected none or one for each of {count} tokens, got {len(pieces)}")
    return bool(pieces)


def _get_born(src: Unpacker, row: Row) -> Born:
    if not 0 <= row.tokens <= MOST:
        raise JournalCorrupt(f"{row.tokens} tokens, expected 0..{MOST}")
    if row.source is not None and not 0 <= row.source <= 255:
        raise JournalCorrupt(f"source {row.source}, expected 0..255")
    flags = src.byte()
    tokens = get_tokens(src, row.tokens, _expected(row))
    turn = get_turn(src) if flags & _TURN else None
    origin = src.number() if flags & _RECALLED else 0
    pieces = get_pieces(src, row.text, row.tokens) if flags & _SPELT else ()
    return Born(tokens, pieces, turn, bool(flags & _SAMPLED), bool(flags & _SCORED), origin)


def _expected(row: Row) -> dict[str, Int64[np.ndarray, " N"]]:
    """What most births look like, given the row: only what differs is written."""
    n = row.tokens
    return {
        "uid": np.arange(n, dtype=np.int64) + row.first_uid,
        "source": np.full(n, row.source or 0, np.int64),
        "unit": np.full(n, NO_UNIT, np.int64),
        "pinned": np.zeros(n, np.int64),
        "born": np.full(n, row.tick, np.int64),
    }


# ---- edits -------------------------------------------------------------------------------------------


def _put_committed(out: Packer, record: Committed, row: Row) -> None:
    flags = _TAKES_BACK * (record.takes_back is not None) | _REDACTS * bool(record.redacts)
    flags |= _GOAL * bool(record.goal) | _ROWS * bool(record.rows) | _SPELT * bool(record.pieces)
    out.byte(flags)
    _put_edit(out, record.edit, row)
    for number in (record.takes_back, record.goal or None, record.rows or None):
        if number is not None:
            out.number(number)
    if record.redacts:
        out.number(len(record.redacts))
        out.column(np.array(record.redacts, np.int64))
    if _spelt(record.pieces, len(record.edit.born_uids)):
        put_pieces(out, record.pieces)


def _get_committed(src: Unpacker, row: Row) -> Committed:
    flags = src.byte()
    edit = _get_edit(src, row)
    takes_back = src.number() if flags & _TAKES_BACK else None
    goal = src.number() if flags & _GOAL else 0
    rows = src.number() if flags & _ROWS else 0
    redacts = tuple(src.column(src.size()).tolist()) if flags & _REDACTS else ()
    pieces = get_pieces(src, row.text, len(edit.born_uids)) if flags & _SPELT else ()
    return Committed(edit, pieces, takes_back, redacts, goal, rows)


def _put_edit(out: Packer, edit: Edit, row: Row) -> None:
    out.number(edit.base)
    out.number(edit.tick - row.tick)
    out.text(edit.reason)
    out.byte(_SURGERIES.index(edit.surgery))
    out.number(len(edit.splices))
    for numbers in zip(*((s.start, len(s.old), len(s.new)) for s in edit.splices), strict=True):
        out.column(np.array(numbers, np.int64))
    put_tokens(out, Tokens.concat([s.old for s in edit.splices]))
    put_tokens(out, Tokens.concat([s.new for s in edit.splices]))


def _get_edit(src: Unpacker, row: Row) -> Edit:
    base, tick, reason, surgery = src.number(), row.tick + src.number(), src.text(), src.byte()
    if surgery >= len(_SURGERIES):
        raise JournalCorrupt(f"no surgery has number {surgery}")
    count = src.size()
    starts, *lengths = (src.column(count) for _ in range(3))
    runs = []
    for column in lengths:
        if np.any(column < 0) or np.any(column > MOST):
            raise JournalCorrupt(f"a splice whose length is not 0..{MOST}")
        bounds = np.cumsum(np.concatenate([np.zeros(1, np.int64), column])).tolist()
        tokens = get_tokens(src, bounds[-1])
        runs.append([tokens[a:b] for a, b in pairwise(bounds)])
    splices = tuple(Splice(*parts) for parts in zip(starts.tolist(), *runs, strict=True))
    return Edit(base, tick, reason, _SURGERIES[surgery], splices)


# ---- checkpoints -------------------------------------------------------------------------------------


def _put_checkpoint(out: Packer, record: Checkpoint) -> None:
    view, totals = record.view, record.totals
    numbers = (view.revision, view.tick, view.next_uid, len(view.tokens))
    for number in (*numbers, totals.fed, totals.spoken, totals.culled, totals.edits):
        out.number(number)
    put_turn(out, record.turn)
    put_tokens(out, view.tokens)


def _get_checkpoint(src: Unpacker, row: Row) -> Checkpoint:
    revision, tick, next_uid, count = (src.number() for _ in range(4))
    totals = Totals(*(src.number() for _ in range(4)))
    turn = get_turn(src)
    return Checkpoint(View(get_tokens(src, count), revision, tick, next_uid), turn, totals)


_READERS: dict[Kind, Callable[[Unpacker, Row], Record]] = {
    Kind.BORN: _get_born,
    Kind.COMMITTED: _get_committed,
    Kind.ABORTED: lambda src, row: Aborted(src.text()),
    Kind.REREAD: lambda src, row: Reread(),
    Kind.REBUILT: lambda src, row: Rebuilt(),
    Kind.CHECKPOINT: _get_checkpoint,
}
