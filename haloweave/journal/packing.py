# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Numbers and texts to few bytes and back: variable-length integers, columns of integers, deflate.

Knows numpy. Must not know tokens, records or databases. Reading trusts nothing: whatever was not written by
`Packer` raises JournalCorrupt, and no length read from the bytes makes it allocate more than they can hold.

A column is stored as offsets from its smallest value, or from that of its differences where these are
narrower, in as many bytes as the largest needs, low bytes first. So a constant column, and uids that count
up, cost a few bytes whatever their length.
"""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Int64

from haloweave.errors import InvalidInput, JournalCorrupt

MOST = 1 << 22
"""Values in a column; no context is that long, and a longer one is refused on both sides."""

_SHORT = 96
"""Below so many bytes deflate gains nothing."""
_RATIO = 1040
"""Deflate never packs denser than 1032 to 1."""
_DIFFERENCES = 0x10
_WIDTH = 0x0F
_LARGEST = 1 << 63


class Packer:
    """Writes values one after another."""

    def __init__(self) -> None:
        self._out = bytearray()

    def written(self) -> bytes:
        """All of it."""
        return bytes(self._out)

    def byte(self, value: int) -> None:
        self._out.append(value)

    def number(self, value: int) -> None:
        """A signed 64-bit integer; small ones are short."""
        if not -_LARGEST <= value < _LARGEST:
            raise InvalidInput(f"expected a 64-bit integer, got {value}")
        rest = value << 1 if value >= 0 else ~(value << 1)
        while rest > 0x7F:
            self._out.append(rest & 0x7F | 0x80)
            rest >>= 7
        self._out.append(rest)

    def text(self, value: str) -> None:
        """Any text, lone surrogates included."""
        data = value.encode("utf-8", "surrogatepass")
        self.number(len(data))
        self._out += data

    def column(self, values: Int64[np.ndarray, " N"]) -> None:
        """Integers of any size; the reader has to know how many."""
        if len(values) > MOST:
            raise InvalidInput(f"expected at most {MOST} values, got {len(values)}")
        if not len(values):
            return
        steps = np.diff(values)  # wraps around, and so does the sum that undoes it
        width, step_width = _width(values), _width(steps)
        if step_width < width:
            self.byte(_DIFFERENCES | step_width)
            self.number(int(values[0]))
            self._offsets(steps, step_width)
        else:
            self.byte(width)
            self._offsets(values, width)

    def _offsets(self, values: Int64[np.ndarray, " N"], width: int) -> None:
        low = values.min()
        self.number(int(low))
        if width:
            octets = (values - low).astype("<i8").view(np.uint8).reshape(-1, 8)
            self._out += octets[:, :width].T.tobytes()


def _width(values: Int64[np.ndarray, " N"]) -> int:
    """Bytes that an offset from the smallest value needs."""
    spread = int(values.max()) - int(values.min()) if len(values) else 0
    return (spread.bit_length() + 7) // 8


class Unpacker:
    """Reads what a `Packer` wrote, in the same order; `end` when done."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def at(self) -> int:
        """Bytes read so far."""
        return self._at

    def end(self) -> None:
        """Nothing may be left."""
        if left := len(self._data) - self._at:
            raise JournalCorrupt(f"{left} bytes too many")

    def byte(self) -> int:
        return self._take(1)[0]

    def number(self) -> int:
        rest = shift = 0
        while True:
            octet = self.byte()
            rest |= (octet & 0x7F) << shift
            if octet < 0x80:
                break
            shift += 7
            if shift > 63:
                raise JournalCorrupt("a number of more than 64 bits")
        if rest >= _LARGEST * 2:
            raise JournalCorrupt("a number of more than 64 bits")
        return rest >> 1 if not rest & 1 else ~(rest >> 1)

    def size(self, most: int = MOST) -> int:
        """A number that says how many follow."""
        size = self.number()
        if not 0 <= size <= most:
            raise JournalCorrupt(f"a length of {size}, expected 0..{most}")
        return size

    def text(self) -> str:
        data = self._take(self.size(len(self._data)))
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as err:
            raise JournalCorrupt(f"no text: {err}") from err

    def column(self, count: int) -> Int64[np.ndarray, " N"]:
        if not 0 <= count <= MOST:
            raise JournalCorrupt(f"a column of {count} values, expected 0..{MOST}")
        if not count:
            return np.empty(0, np.int64)
        tag = self.byte()
        width = tag & _WIDTH
        if tag & ~(_DIFFERENCES | _WIDTH) or width > 8:
            raise JournalCorrupt(f"no column: it begins {tag:#x}")
        if not tag & _DIFFERENCES:
            return self._offsets(count, width)
        first = np.array([self.number()], np.int64)
        return np.cumsum(np.concatenate([first, self._offsets(count - 1, width)]), dtype=np.int64)

    def _offsets(self, count: int, width: int) -> Int64[np.ndarray, " N"]:
        low = self.number()
        if not width:
            return np.full(count, low, np.int64)
        octets = np.zeros((count, 8), np.uint8)
        octets[:, :width] = np.frombuffer(self._take(count * width), np.uint8).reshape(width, count).T
        return octets.view("<i8").reshape(count).astype(np.int64) + np.int64(low)

    def _take(self, count: int) -> bytes:
        data = self._data[self._at : self._at + count]
        if len(data) < count:
            raise JournalCorrupt(f"it ends after {len(self._data)} bytes, too early")
        self._at += count
        return data


def deflated(data: bytes) -> bytes | None:
    """The bytes packed, with their length before them; None if that makes them no shorter."""
    if len(data) < _SHORT:
        return None
    size = Packer()
    size.number(len(data))
    packed = size.written() + zlib.compress(data, 6, wbits=-15)
    return packed if len(packed) < len(data) else None


def inflated(data: bytes) -> bytes:
    """Inverse of `deflated`."""
    head = Unpacker(data[:10])
    size = head.size(len(data) * _RATIO)
    machine = zlib.decompressobj(wbits=-15)
    try:
        out = machine.decompress(data[head.at :], size + 1)
    except zlib.error as err:
        raise JournalCorrupt(f"packed bytes are damaged: {err}") from err
    if len(out) != size or not machine.eof or machine.unused_data:
        raise JournalCorrupt(f"packed bytes are damaged: expected {size} of them, got {len(out)}")
    return out
