# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Where a stream of tokens is cut into passages: what is archived, searched and recalled together (chunking).

Knows tokens' sources, units and spelling. Must not know databases, searching or culling.

    prose       ends with a sentence or a paragraph, once it has 12 tokens; at a gap between words at 96
    LOG, TOOL   whole units: one long line, or several short ones up to 24..48 tokens
    never       MEMORY (what is recalled is not news), MARKER, CONTROL, and what nobody spells

A cut depends on nothing but the tokens since the cut before: so the passages of a journal are the same,
however often it was closed and opened again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from haloweave.journal.base import Born
from haloweave.memory.tokens import NO_UNIT, Source

SHORTEST, LONGEST = 12, 96
"""Tokens of prose. One vector stands for one sentence, hardly for three: of 25 facts said between two other
sentences, the first hit held 7 with passages of at least 24 tokens, 16 with 12 (MiniLM-L6, 5,500 passages of
task dialogues). 96 tokens are read whole by every encoder."""
_FEW_LINES, _LINES = 24, 48
"""Tokens. Short lines are joined up to here."""

NEVER = frozenset({Source.MEMORY, Source.MARKER, Source.CONTROL})
_LINED = frozenset({Source.LOG, Source.TOOL})

_ENDS = (".", "!", "?", "…", "।", "॥", "。", "！", "？")
_CLOSERS = "\"')]}»”’*_"
_SPACE = b" \t\r\n"


@dataclass(frozen=True)
class Bit:
    """One token, as far as cutting goes."""

    uid: int
    source: int
    unit: int
    tick: int
    piece: bytes


Stretch: TypeAlias = tuple[Bit, ...]
"""Tokens that were born one after another, of one source."""


@dataclass(frozen=True)
class Passage:
    """Neighbouring tokens of one source, archived and found together."""

    id: int
    """The first uid + 1, so that 0 means none."""
    first_uid: int
    last_uid: int
    source: Source
    unit: int
    """Of the first token."""
    first_tick: int
    last_tick: int
    text: str
    holes: tuple[tuple[int, int], ...] = ()
    """Uids in between, first and last, that went to tokens born in edits meanwhile: not part of it."""

    def holds(self, uid: int) -> bool:
        """Whether the token is part of it."""
        inside = self.first_uid <= uid <= self.last_uid
        return inside and not any(first <= uid <= last for first, last in self.holes)

    @property
    def uids(self) -> tuple[int, ...]:
        """Of all its tokens, in order."""
        return tuple(uid for uid in range(self.first_uid, self.last_uid + 1) if self.holds(uid))

    @property
    def blank(self) -> bool:
        """Whether there is nothing to find in it: white space, or all of it redacted."""
        return not self.text.strip()


def bits(record: Born) -> list[Bit]:
    """The tokens of a pass; those that may not be archived have source MEMORY."""
    tokens = record.tokens
    source = tokens.source.tolist()
    if record.origin or len(record.pieces) != len(source):
        source = [int(Source.MEMORY)] * len(source)
    columns = zip(tokens.uid.tolist(), source, tokens.unit.tolist(), tokens.born.tolist(), strict=True)
    pieces = record.pieces or (b"",) * len(source)
    return [Bit(*column, piece) for column, piece in zip(columns, pieces, strict=False)]


def advance(open_: Stretch, more: Iterable[Bit]) -> tuple[list[Stretch], Stretch]:
    """Take tokens in: the stretches that are closed by them, and the one that is open now."""
    closed: list[Stretch] = []
    held = list(open_)
    for bit in more:
        if held and bit.source != held[0].source:
            closed.append(tuple(held))
            held = []
        if bit.source in NEVER:
            continue
        held.append(bit)
        if at := _cut(held):
            closed.append(tuple(held[:at]))
            held = held[at:]
    return closed, tuple(held)


def passage(stretch: Stretch) -> Passage:
    """A closed stretch as it is kept."""
    first, last = stretch[0], stretch[-1]
    return Passage(
        id=first.uid + 1,
        first_uid=first.uid,
        last_uid=last.uid,
        source=Source(first.source),
        unit=first.unit,
        first_tick=first.tick,
        last_tick=last.tick,
        text=spelt(bit.piece for bit in stretch),
        holes=tuple(_holes([bit.uid for bit in stretch])),
    )


def spelt(pieces: Iterable[bytes]) -> str:
    """Pieces as text; a character cut in two shows as U+FFFD."""
    return b"".join(pieces).decode("utf-8", "replace")


def _holes(uids: Sequence[int]) -> Iterator[tuple[int, int]]:
    for before, after in pairwise(uids):
        if after != before + 1:
            yield before + 1, after - 1


# -- where to cut -------------------------------------------------------------------------------------


def _cut(held: Sequence[Bit]) -> int:
    """How many of these tokens make a passage, now that the last one is known; 0: none yet."""
    size, last = len(held), held[-1]
    lined = last.source in _LINED and last.unit != NO_UNIT
    if size > (_FEW_LINES if lined else SHORTEST) and (last.unit != held[-2].unit if lined else _ends(held)):
        return size - 1
    if lined and size > _LINES and held[0].unit != last.unit:
        return next(n for n in range(size - 1, 0, -1) if held[n].unit != held[n - 1].unit)
    return _gap(held) if size >= LONGEST else 0


def _ends(held: Sequence[Bit]) -> bool:
    """Whether a sentence or a paragraph ends right before the last token."""
    before = b"".join(bit.piece for bit in held[-9:-1])
    after = held[-1].piece
    if after.lstrip(_SPACE) and (before + after[:1]).endswith(b"\n\n"):
        return False
    text = before.decode("utf-8", "ignore")
    if text.replace("\r", "").endswith("\n\n"):
        return True
    apart = after[:1] in (b" ", b"\n", b"\r", b"\t") or text[-1:].isspace()
    return apart and text.rstrip().rstrip(_CLOSERS).endswith(_ENDS)


def _gap(held: Sequence[Bit]) -> int:
    """Where to cut what has no end: behind a line, else between words, else between characters, else here."""
    later = range(len(held) - 1, LONGEST // 2, -1)
    for fits in (_new_line, _new_word, _new_character):
        for n in later:
            if fits(held[n - 1].piece, held[n].piece):
                return n
    return len(held)


def _new_line(before: bytes, after: bytes) -> bool:
    return before.endswith(b"\n") and not after.startswith(b"\n")


def _new_word(before: bytes, after: bytes) -> bool:
    return after[:1] in (b" ", b"\t", b"\n") and not before.endswith((b" ", b"\t", b"\n"))


def _new_character(before: bytes, after: bytes) -> bool:
    """UTF-8: bytes 0x80..0xBF go on with a character."""
    return bool(after) and not 0x80 <= after[0] < 0xC0
