# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Parts of a record's body: tokens, what they spell, and where the chat frame stands.

Knows memory values and how numbers are packed. Must not know records or rows.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from haloweave.errors import JournalCorrupt
from haloweave.journal.base import Pieces, Turn
from haloweave.journal.packing import Packer, Unpacker
from haloweave.memory.tokens import COLUMNS, Tokens

_ROLES = ("", "system", "user", "assistant", "tool")
_OTHER_ROLE = 0x7F
_BEGUN = 0x80

_BOUNDS = {
    "uid": (-(1 << 63), (1 << 63) - 1),
    "token_id": (-(1 << 31), (1 << 31) - 1),
    "brightness": (0, (1 << 32) - 1),
    "source": (0, 255),
    "unit": (-(1 << 31), (1 << 31) - 1),
    "pinned": (0, 1),
    "born": (-(1 << 63), (1 << 63) - 1),
}
"""What a column can hold; a float's bits."""


def put_tokens(out: Packer, tokens: Tokens, expected: dict[str, np.ndarray] | None = None) -> None:
    """All columns, or those that are not as `expected`."""
    columns = {name: _numbers(getattr(tokens, name)) for name in COLUMNS}
    known = expected or {}
    written = [n for n, c in columns.items() if n not in known or not np.array_equal(c, known[n])]
    if expected is not None:
        out.byte(sum(1 << k for k, name in enumerate(COLUMNS) if name in written))
    for name in written:
        out.column(columns[name])


def get_tokens(src: Unpacker, count: int, expected: dict[str, np.ndarray] | None = None) -> Tokens:
    """Inverse of `put_tokens`, given how many there are and the same expectations."""
    mask = (1 << len(COLUMNS)) - 1 if expected is None else src.byte()
    columns = {}
    for k, (name, dtype) in enumerate(COLUMNS.items()):
        if mask >> k & 1:
            columns[name] = _of_numbers(name, src.column(count))
        elif expected is not None and name in expected:
            columns[name] = expected[name].astype(dtype)
        else:
            raise JournalCorrupt(f"there is no column {name}")
    return Tokens(**columns)


def _numbers(column: np.ndarray) -> Int64[np.ndarray, " N"]:
    """A column as integers; a float as its bits."""
    bits = np.ascontiguousarray(column).view(np.uint32) if column.dtype == np.float32 else column
    return bits.astype(np.int64)


def _of_numbers(name: str, numbers: Int64[np.ndarray, " N"]) -> np.ndarray:
    low, high = _BOUNDS[name]
    if len(numbers) and not (numbers.min() >= low and numbers.max() <= high):
        raise JournalCorrupt(f"column {name}: a number outside {low}..{high}")
    if COLUMNS[name] is np.float32:
        return numbers.astype(np.uint32).view(np.float32)
    return numbers.astype(COLUMNS[name])


def put_turn(out: Packer, turn: Turn) -> None:
    """In a few bytes, since every birth has one."""
    known = turn.role in _ROLES
    role = _ROLES.index(turn.role) if known else _OTHER_ROLE
    out.byte(role | _BEGUN * turn.begun)
    if not known:
        out.text(turn.role)
    out.number(turn.unit)
    out.number(turn.next_unit - turn.unit)


def get_turn(src: Unpacker) -> Turn:
    """Inverse of `put_turn`."""
    head = src.byte()
    number = head & ~_BEGUN
    if number != _OTHER_ROLE and number >= len(_ROLES):
        raise JournalCorrupt(f"no role has number {number}")
    role = src.text() if number == _OTHER_ROLE else _ROLES[number]
    unit = src.number()
    return Turn(role, unit, bool(head & _BEGUN), unit + src.number())


def put_pieces(out: Packer, pieces: Pieces) -> None:
    """Where each piece ends in the text, which is kept elsewhere; the reader has to know how many."""
    if len(pieces) != 1:
        out.column(np.array([len(p) for p in pieces], np.int64))


def get_pieces(src: Unpacker, text: bytes, count: int) -> Pieces:
    """`text`, cut as `put_pieces` was told."""
    if count == 1:
        return (text,)
    lengths = src.column(count)
    if np.any(lengths < 0) or np.any(lengths > len(text)) or int(lengths.sum()) != len(text):
        raise JournalCorrupt("its tokens do not spell its text")
    ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), lengths])).tolist()
    return tuple(text[a:b] for a, b in pairwise(ends))
