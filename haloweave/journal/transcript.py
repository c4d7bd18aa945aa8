# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a journal says as text: its lines, where it says something, and what each token spelt.

Knows records and their rows. Must not know databases or codecs. Pure functions over the births and edits that
happened, in order; they are read once, in windows, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from haloweave.errors import InvalidInput
from haloweave.journal.base import Born, Committed
from haloweave.journal.records import Kind, Row, check, unpack
from haloweave.memory.edit import Splice
from haloweave.memory.tokens import Source, Tokens

Told: TypeAlias = Iterable[Row]
"""Rows of births, and of edits that gave birth, that happened; in order."""

Births: TypeAlias = tuple[list[int], list[int], Sequence[bytes]]
"""Uids, sources and pieces."""

_NEVER_TEXT = b"\xff"
"""Stands for a control token while searching: no UTF-8 text can match it."""
_LONG = 4096
"""Bytes after which a line ends, so that a log of days is not one line."""
_WINDOW = 1 << 20
"""Bytes searched at once."""


@dataclass(frozen=True)
class Line:
    """Something that was said: neighbouring tokens of one source, all fed or all born in one edit."""

    uid: int
    """Of its first token."""
    tick: int
    source: Source
    text: str
    last_uid: int
    """Of its last token."""


def lines(told: Told, after_uid: int) -> Iterator[Line]:
    """Everything ever born after that uid, in order of birth."""
    said = bytearray()
    begun: tuple[int, int, int, int] | None = None  # seq of the edit or 0, source, first uid, tick
    last = -1
    for row in told:
        edit = row.seq if row.kind == Kind.COMMITTED else 0
        for uid, source, piece in sorted(zip(*births(row), strict=True)):
            if uid <= after_uid or uid < row.first_uid:  # what an undo brings back was born before
                continue
            if begun is None or begun[:2] != (edit, source) or (len(said) > _LONG and _begins(piece)):
                yield from _line(begun, last, said)
                said, begun = bytearray(), (edit, source, uid, row.tick)
            said += piece
            last = uid
    yield from _line(begun, last, said)


def _line(begun: tuple[int, int, int, int] | None, last: int, said: bytearray) -> Iterator[Line]:
    if begun is not None and said:
        _, source, uid, tick = begun
        yield Line(uid, tick, Source(source), said.decode("utf-8", "replace"), last)


def _begins(piece: bytes) -> bool:
    """Whether a piece begins with a whole character."""
    return piece[:1] != b"" and not 0x80 <= piece[0] < 0xC0


def births(row: Row) -> Births:
    """What a record gives birth to, or brings back."""
    if row.kind == Kind.BORN and row.tokens == 1 and row.source is not None:  # most are, so this is quick
        check(row)
        return [row.first_uid], [row.source], [row.text]
    record = unpack(row)
    if isinstance(record, Born):
        tokens, pieces = record.tokens, record.pieces
    elif isinstance(record, Committed):
        tokens = Tokens.concat([s.new.take(_born(s)) for s in record.edit.splices])
        pieces = record.pieces
    else:
        return [], [], []
    return tokens.uid.tolist(), tokens.source.tolist(), pieces or (b"",) * len(tokens)


def _born(s: Splice) -> np.ndarray:
    """Indices into `new`."""
    return np.setdiff1d(np.arange(len(s.new)), s.kept[0])


# ---- searching ---------------------------------------------------------------------------------------


def occurrences(told: Told, text: str, *, any_case: bool = False) -> tuple[tuple[int, ...], ...]:
    """Uids of all tokens that some occurrence of `text` touches; occurrences that share tokens are one.

    What was fed is searched as one text, cut only by control tokens; what was born in an edit, by itself.
    Raises InvalidInput if `text` is empty.
    """
    wanted = _Wanted(text, any_case)
    fed = _Window(wanted)
    edited: set[tuple[int, ...]] = set()
    for row in told:
        if row.kind == Kind.BORN:
            fed.add(*births(row))
            continue
        record = unpack(row)
        if isinstance(record, Committed) and record.pieces:
            for run, pieces in _runs(record):
                edited.update(wanted.among(run, pieces))
    return tuple(sorted({*_joined(fed.found()), *edited}))


def _runs(record: Committed) -> Iterator[tuple[list[int], Sequence[bytes]]]:
    """Neighbours born in an edit."""
    rest = iter(record.pieces)
    for s in record.edit.splices:
        born = _born(s)
        for run in np.split(born, np.flatnonzero(np.diff(born) != 1) + 1):
            tokens = s.new.take(run)
            yield tokens.uid.tolist(), _searchable(tokens.source.tolist(), [next(rest) for _ in run])


def _searchable(sources: Sequence[int], pieces: Sequence[bytes]) -> Sequence[bytes]:
    if Source.CONTROL not in sources:
        return pieces
    return [_NEVER_TEXT if s == Source.CONTROL else p for s, p in zip(sources, pieces, strict=True)]


def _joined(found: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Windows overlap: what was found in two of them, or lies across, is one."""
    joined: list[tuple[int, ...]] = []
    for uids in sorted(found):
        if joined and uids[0] <= joined[-1][-1]:
            uids = joined[-1] + tuple(u for u in uids if u > joined[-1][-1])
            joined.pop()
        joined.append(uids)
    return joined


class _Wanted:
    """A text somebody looks for."""

    def __init__(self, text: str, any_case: bool) -> None:
        if not text:
            raise InvalidInput("expected some text to look for, got none")
        read = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self._bytes, self._folded = read.encode(), read.casefold() if any_case else None
        self.longest = len(self._bytes) if self._folded is None else 4 * len(self._folded)
        """Bytes that an occurrence can have."""

    def among(self, uids: Sequence[int], pieces: Sequence[bytes]) -> Iterator[tuple[int, ...]]:
        """Uids of the tokens that occurrences touch, in order, those that share tokens joined."""
        ends = np.cumsum([len(p) for p in pieces], dtype=np.int64)
        start = stop = -1
        for a, b in self._places(b"".join(pieces)):
            first = int(np.searchsorted(ends, a, side="right"))
            after = int(np.searchsorted(ends, b, side="left")) + 1
            if first >= stop:
                if stop > 0:
                    yield tuple(uids[start:stop])
                start = first
            stop = after
        if stop > 0:
            yield tuple(uids[start:stop])

    def _places(self, data: bytes) -> Iterator[tuple[int, int]]:
        """First byte, and byte after the last, of each occurrence; they may overlap."""
        if self._folded is not None:
            yield from _folded_places(data, self._folded)
            return
        at = data.find(self._bytes)
        while at >= 0:
            yield at, at + len(self._bytes)
            at = data.find(self._bytes, at + 1)


def _widths(text: str) -> np.ndarray:
    """Bytes of each character in UTF-8; a lone surrogate stands for one byte that is no text."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    width = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    return np.where((points >= 0xD800) & (points < 0xE000), 1, width).astype(np.int64)


def _folded_places(data: bytes, wanted: str) -> Iterator[tuple[int, int]]:
    """A character may fold into several (ß into ss): an occurrence takes it whole."""
    text = data.decode("utf-8", "surrogateescape")
    folded = text.casefold()
    at = folded.find(wanted)
    if at < 0:
        return
    char = np.repeat(np.arange(len(text)), [len(c.casefold()) for c in text])
    edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(_widths(text))])
    while at >= 0:
        last = at + len(wanted) - 1
        yield int(edges[char[at]]), int(edges[char[last] + 1])
        at = folded.find(wanted, at + 1)


class _Window:
    """The end of a long text, as far as it was not searched yet."""

    def __init__(self, wanted: _Wanted) -> None:
        self._wanted = wanted
        self._uids: list[int] = []
        self._pieces: list[bytes] = []
        self._size = 0
        self._found: list[tuple[int, ...]] = []
        self._full = max(_WINDOW, 4 * wanted.longest)

    def add(self, uids: list[int], sources: list[int], pieces: Sequence[bytes]) -> None:
        shown = _searchable(sources, pieces)
        self._uids += uids
        self._pieces += shown
        self._size += sum(map(len, shown))
        if self._size >= self._full:
            self._search()

    def found(self) -> list[tuple[int, ...]]:
        """All there was, once everything was added."""
        self._search()
        return self._found

    def _search(self) -> None:
        """Search all, and keep as much of its end as an occurrence may begin in (and a character before)."""
        self._found += self._wanted.among(self._uids, self._pieces)
        keep, cut = self._wanted.longest + 4, len(self._pieces)
        self._size = 0
        while cut and self._size < keep:
            cut -= 1
            self._size += len(self._pieces[cut])
        self._uids, self._pieces = self._uids[cut:], self._pieces[cut:]
