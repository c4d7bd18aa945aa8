# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Contexts and edits for hypothesis, and the context as a plain list of rows for slow references.

Knows the values of `haloweave.memory`. Must not know how anything there is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from haloweave.memory.edit import Edit, Splice, Surgery
from haloweave.memory.tokens import COLUMNS, FULL, NO_UNIT, Source, Tokens, View


class Row(NamedTuple):
    """One token as a plain value; the fields are those of `COLUMNS`."""

    uid: int
    token_id: int
    brightness: float
    source: int
    unit: int
    pinned: bool
    born: int


def rows_of(tokens: Tokens) -> list[Row]:
    return [Row(*values) for values in zip(*(getattr(tokens, n).tolist() for n in COLUMNS), strict=True)]


def tokens_of(rows: Iterable[Row]) -> Tokens:
    rows = list(rows)
    return Tokens(**{n: np.array([getattr(r, n) for r in rows], dtype) for n, dtype in COLUMNS.items()})


def same_bits(a: Tokens, b: Tokens) -> bool:
    """Equal to the last bit (-0.0 is not 0.0)."""
    return len(a) == len(b) and all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in COLUMNS)


def view_of(rows: Iterable[Row], *, revision: int = 5, tick: int = 9, next_uid: int | None = None) -> View:
    tokens = tokens_of(rows)
    if next_uid is None:
        next_uid = int(tokens.uid.max()) + 1 if len(tokens) else 0
    return View(tokens, revision=revision, tick=tick, next_uid=next_uid)


def text(
    n: int,
    *,
    brightness: float | Sequence[float] = 100.0,
    source: Source = Source.MODEL,
    unit: int = NO_UNIT,
    pinned: bool = False,
    first_uid: int = 0,
) -> list[Row]:
    """`n` rows of one source, token ids equal to their uids."""
    light = [float(brightness)] * n if isinstance(brightness, int | float) else list(brightness)
    return [Row(first_uid + i, first_uid + i, light[i], int(source), unit, pinned, 0) for i in range(n)]


def renumbered(*runs: Iterable[Row]) -> list[Row]:
    """The runs, one after another, with uids (and token ids) counted from 0."""
    rows = [row for run in runs for row in run]
    return [row._replace(uid=i, token_id=i) for i, row in enumerate(rows)]


# ---- arbitrary tokens and edits ----------------------------------------------------------------------

brightnesses = st.one_of(
    st.sampled_from([0.0, 10.0, 47.5, 48.0, 64.0, 127.5, 249.5, 250.0, FULL]),
    st.floats(0, FULL, width=32),
)


@st.composite
def columns(draw: st.DrawFn, uid: int) -> Row:
    """Any token at all, with this uid."""
    return Row(
        uid=uid,
        token_id=draw(st.integers(0, 12)),
        brightness=draw(brightnesses),
        source=int(draw(st.sampled_from(list(Source)))),
        unit=draw(st.integers(-1, 4)),
        pinned=draw(st.booleans()),
        born=draw(st.integers(0, 50)),
    )


@st.composite
def any_views(draw: st.DrawFn, min_rows: int = 0, max_rows: int = 14) -> View:
    """Any tokens in any order of uids: what random edits have left behind."""
    uids = draw(st.lists(st.integers(0, 99), unique=True, min_size=min_rows, max_size=max_rows))
    rows = [draw(columns(uid)) for uid in uids]
    return view_of(rows, revision=draw(st.integers(0, 9)), tick=draw(st.integers(0, 60)), next_uid=100)


@st.composite
def edits(draw: st.DrawFn, view: View, first_born: int | None = None, most: int = 3) -> Edit:
    """Any edit that fits `view`, of up to `most` splices: tokens die, stay, stay with other columns, and
    are born."""
    old_rows = rows_of(view.tokens)
    next_uid = view.next_uid if first_born is None else first_born
    cuts = sorted(draw(st.lists(st.integers(0, len(old_rows)), max_size=2 * most)))
    splices: list[Splice] = []
    births = 0
    for start, stop in zip(cuts[::2], cuts[1::2], strict=False):
        new: list[Row] = []
        for row in [*old_rows[start:stop], None]:
            for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
                new.append(draw(columns(next_uid)))
                next_uid += 1
                births += 1
            fate = draw(st.sampled_from(["die", "stay", "change"]))
            if row is not None and fate == "stay":
                new.append(row)
            elif row is not None and fate == "change":
                other = draw(columns(row.uid))
                new.append(row._replace(brightness=other.brightness, pinned=other.pinned))
        splices.append(Splice(start, tokens_of(old_rows[start:stop]), tokens_of(new)))
    surgeries = [s for s in Surgery if not births or s is not Surgery.DROP]
    return Edit(view.revision, view.tick, "any", draw(st.sampled_from(surgeries)), tuple(splices))


# ---- contexts as a mind holds them -------------------------------------------------------------------


@dataclass
class _Writer:
    """Writes a context token by token; uids have gaps, as if others had died."""

    draw: st.DrawFn
    rows: list[Row]
    next_uid: int = 0
    next_unit: int = 0

    def unit(self) -> int:
        self.next_unit += 1
        return self.next_unit - 1

    def put(self, n: int, source: Source, unit: int = NO_UNIT) -> None:
        for _ in range(n):
            brightness = FULL if source is Source.CONTROL else self.draw(brightnesses)
            pinned = self.draw(st.sampled_from([False] * 15 + [True]))
            token_id = self.draw(st.integers(0, 5))
            self.rows.append(Row(self.next_uid, token_id, brightness, int(source), unit, pinned, 0))
            self.next_uid += self.draw(st.sampled_from([1, 1, 1, 3]))

    def segment(self) -> None:
        source = self.draw(
            st.sampled_from(
                [Source.USER, Source.MODEL, Source.MEMORY, Source.LOG, Source.TOOL, Source.MARKER]
            )
        )
        alone = source in (Source.USER, Source.MODEL, Source.MEMORY)
        self.put(self.draw(st.integers(1, 4)), source, NO_UNIT if alone else self.unit())


@st.composite
def streams(draw: st.DrawFn, max_segments: int = 9) -> View:
    """Text, log units and markers, without a chat around them."""
    writer = _Writer(draw, [])
    for _ in range(draw(st.integers(0, max_segments))):
        writer.segment()
    return view_of(writer.rows, next_uid=writer.next_uid)


@st.composite
def chats(draw: st.DrawFn, max_turns: int = 4) -> View:
    """Closed turns, each framed by the control tokens of one unit; markers may stand between them."""
    writer = _Writer(draw, [])
    for _ in range(draw(st.integers(0, max_turns))):
        frame = writer.unit()
        writer.put(draw(st.integers(1, 2)), Source.CONTROL, frame)
        for _ in range(draw(st.integers(0, 3))):
            writer.segment()
        writer.put(1, Source.CONTROL, frame)
        if draw(st.sampled_from([False, False, True])):
            writer.put(1, Source.MARKER, writer.unit())
    return view_of(writer.rows, next_uid=writer.next_uid)


contexts = st.one_of(streams(), chats())
