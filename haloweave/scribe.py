# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""From text to tokens that wait to be fed: turns, units, control tokens.

Knows text, the chat frame and token values. Must not know engines, policies or files. It decides what belongs
together (a log line, a data row, a turn's frame), never what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from haloweave.journal.base import Turn
from haloweave.memory.tokens import NO_UNIT, Source
from haloweave.text import Codec

LINE_SOURCES = (Source.LOG, Source.TOOL)
"""Text of these comes in lines, and a line is a unit."""

_BATCH = 256
"""Lines tokenised at once."""


@dataclass(frozen=True)
class Segment:
    """Tokens of one source and unit, not yet fed."""

    ids: tuple[int, ...]
    source: Source
    unit: int = NO_UNIT
    pinned: bool = False


@dataclass(frozen=True)
class Opening:
    """Control tokens not yet fed, and the turn that is open once they are: (role, unit), or None."""

    segments: tuple[Segment, ...]
    turn: tuple[str, int] | None

    @property
    def tokens(self) -> int:
        return sum(len(s.ids) for s in self.segments)


class Scribe:
    """Writes turns. Holds which turn is open, and counts units."""

    def __init__(self, codec: Codec, *, longest_unit: int, stands: Turn | None = None) -> None:
        stands = stands or Turn()
        self._codec = codec
        self._longest = longest_unit
        self._next_unit = stands.next_unit
        self._open: tuple[str, int] | None = (stands.role, stands.unit) if stands.role else None
        self._begun = stands.begun
        self.long_lines = 0
        """Lines that had to be cut into several units since this was last set to 0."""

    def turn(self, source: Source, *, fresh: bool = True) -> Opening:
        """What brings a turn of `source` about; nothing if it is open already. Changes nothing: call
        `enter` once the tokens are in.

        `fresh` closes an open turn even if it has the same role.
        """
        frame = self._codec.frame
        if frame is None:
            return Opening((), None)
        role = frame.role(source)
        if self._open and self._open[0] == role and not fresh:
            return Opening((), self._open)
        segments = list(self.end().segments)
        if not self._begun and frame.opening:
            segments.append(Segment(frame.opening, Source.CONTROL))
        segments.append(Segment(frame.headers[role], Source.CONTROL, self._next_unit))
        return Opening(tuple(segments), (role, self._next_unit))

    def end(self) -> Opening:
        """What ends the open turn; nothing if none is open. Changes nothing."""
        if self._open is None or self._codec.frame is None:
            return Opening((), None)
        role, unit = self._open
        return Opening((Segment(self._codec.frame.footers[role], Source.CONTROL, unit),), None)

    def stands(self, opening: Opening | None = None) -> Turn:
        """Where the frame stands; with `opening`, where it will stand once that is in."""
        turn = opening.turn if opening else self._open
        role, unit = turn or ("", NO_UNIT)
        begun = self._begun or bool(opening and opening.turn)
        following = max(self._next_unit, unit + 1) if opening else self._next_unit
        return Turn(role, unit, begun, following)

    def enter(self, opening: Opening) -> None:
        """The tokens of `opening` are in the context."""
        there = self.stands(opening)
        self._begun, self._next_unit, self._open = there.begun, there.next_unit, opening.turn

    def write(self, texts: Iterable[str], source: Source, *, pinned: bool = False) -> Iterator[Segment]:
        """Text as segments, lazily. Lines of logs and tools become units; a memory is one unit."""
        if source in LINE_SOURCES:
            for batch in _batched(lines(texts), _BATCH):
                for ids in self._codec.encode(batch):
                    yield from self._units(ids, source, pinned)
            return
        for text in texts:
            (ids,) = self._codec.encode([text])
            if ids and source is Source.MEMORY:
                yield from self._units(ids, source, pinned)
            elif ids:
                yield Segment(tuple(ids), source, pinned=pinned)

    def _units(self, ids: list[int], source: Source, pinned: bool) -> Iterator[Segment]:
        if len(ids) > self._longest:
            self.long_lines += 1
        for start in range(0, len(ids), self._longest):
            yield Segment(tuple(ids[start : start + self._longest]), source, self._unit(), pinned)

    def _unit(self) -> int:
        self._next_unit += 1
        return self._next_unit - 1


def lines(texts: Iterable[str]) -> Iterator[str]:
    """Whole lines, with one "\\n" each, of text that arrives in pieces; blank lines are left out."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if "\n" in text:
            parts = "".join(held).replace("\r\n", "\n").split("\n")
            held = [parts.pop()]
            yield from (line + "\n" for line in parts if line.strip())
    rest = "".join(held)
    if rest.strip():
        yield rest + "\n"


def packed(segments: Iterable[Segment], size: int) -> Iterator[list[Segment]]:
    """The segments in chunks of exactly `size` tokens (the last may be shorter); long ones are split."""
    chunk: list[Segment] = []
    room = size
    for segment in segments:
        start = 0
        while start < len(segment.ids):
            part = segment.ids[start : start + room]
            chunk.append(replace(segment, ids=part))
            start, room = start + len(part), room - len(part)
            if not room:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk


def _batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
