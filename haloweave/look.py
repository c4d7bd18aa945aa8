# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Looking at a context: where a text stands, what the context says, how bright it is, and why it lives.

Knows a view, a codec and the laws. Must not know minds, engines, colours or screens. Pure functions whose
results are plain values that `dataclasses.asdict` turns into JSON. Everything that shows a context to a
person, on a terminal or over a network, looks through here.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from haloweave.errors import InvalidInput
from haloweave.memory.laws import WHOLE, Laws, hollow_turns
from haloweave.memory.tokens import FULL, NO_UNIT, Source, Tokens, View
from haloweave.text import Codec, spell

_NEVER_TEXT = b"\xff"
"""Stands for a control token while searching: no UTF-8 text can match it."""


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens that hold a text somebody looked for. The text may begin or end within a token."""

    start: int
    """Slot of the first token."""
    uids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one source, all pinned or none."""

    start: int
    stop: int
    source: str
    pinned: bool
    brightness: float
    """Mean of its tokens, 0..255."""
    text: str


@dataclass(frozen=True)
class Token:
    """One token of the context, as a person can read it."""

    uid: int
    slot: int
    text: str
    brightness: float
    source: str
    unit: int | None
    pinned: bool
    age: int
    """Tokens born since."""


@dataclass(frozen=True)
class Why:
    """What a token's fate hangs on."""

    token: Token
    rank: float
    """Per cent of the context's tokens that are dimmer."""
    protected: bool
    """No policy may cull it now."""
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """Some text, and how many tokens it took."""

    text: str
    tokens: int


def find(view: View, codec: Codec, text: str, *, any_case: bool = False) -> tuple[Run, ...]:
    """Where the context says `text`: the fewest tokens around each occurrence, found by its bytes.

    Occurrences that share tokens make one run. Control tokens are no text. `any_case` ignores case in
    ASCII. Raises InvalidInput if `text` is empty.
    """
    if not text:
        raise InvalidInput("expected some text to look for, got none")
    wanted = _bytes_as_read(text)
    pieces = _pieces(view.tokens, codec)
    haystack = b"".join(pieces)
    if any_case:
        wanted, haystack = wanted.lower(), haystack.lower()
    ends = np.cumsum([len(p) for p in pieces], dtype=np.int64)
    return tuple(_run(view.tokens, pieces, a, b) for a, b in _merged(_slots(haystack, wanted, ends)))


def open_reply(view: View, codec: Codec) -> Said:
    """What the model has said at the end of the context, as far as it is still there."""
    theirs = np.flatnonzero(view.tokens.source != Source.MODEL)
    start = int(theirs[-1]) + 1 if len(theirs) else 0
    return Said(spell(codec, view.tokens.token_id[start:].tolist()), len(view.tokens) - start)


def _bytes_as_read(text: str) -> bytes:
    """Lone surrogates as codecs read them: U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _pieces(tokens: Tokens, codec: Codec) -> list[bytes]:
    control = (tokens.source == Source.CONTROL).tolist()
    return [
        _NEVER_TEXT if c else codec.piece(i) for i, c in zip(tokens.token_id.tolist(), control, strict=True)
    ]


def _slots(haystack: bytes, wanted: bytes, ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """First slot, and slot after the last, of each occurrence."""
    at = haystack.find(wanted)
    while at >= 0:
        first = int(np.searchsorted(ends, at, side="right"))
        last = int(np.searchsorted(ends, at + len(wanted), side="left"))
        yield first, last + 1
        at = haystack.find(wanted, at + len(wanted))


def _merged(ranges: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in ranges:
        if merged and start < merged[-1][1]:
            start, _ = merged.pop()
        merged.append((start, stop))
    return merged


def _run(tokens: Tokens, pieces: Sequence[bytes], start: int, stop: int) -> Run:
    text = b"".join(pieces[start:stop]).decode("utf-8", "replace")
    return Run(start, tuple(tokens.uid[start:stop].tolist()), text)


def glyphs(codec: Codec, ids: Sequence[int]) -> list[str]:
    """What each token shows. A character cut in two is shown by the token that completes it, so the
    joined glyphs are the text."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    shown = [decoder.decode(codec.piece(int(i))) for i in ids]
    rest = decoder.decode(b"", final=True)
    return [*shown[:-1], shown[-1] + rest] if shown else []


def tokens(view: View, codec: Codec) -> list[Token]:
    """The context, token by token."""
    t = view.tokens
    columns = zip(
        t.uid.tolist(),
        glyphs(codec, t.token_id.tolist()),
        t.brightness.tolist(),
        t.source.tolist(),
        t.unit.tolist(),
        t.pinned.tolist(),
        strict=True,
    )
    return [
        Token(
            uid=uid,
            slot=slot,
            text=text,
            brightness=round(brightness, 2),
            source=Source(source).name,
            unit=None if unit == NO_UNIT else unit,
            pinned=pinned,
            age=view.next_uid - uid - 1,
        )
        for slot, (uid, text, brightness, source, unit, pinned) in enumerate(columns)
    ]


def spans(view: View, codec: Codec) -> list[Span]:
    """The context as runs of one source, pinned or not, in order."""
    made = []
    for (source, pinned), group in groupby(tokens(view, codec), key=lambda t: (t.source, t.pinned)):
        run = list(group)
        made.append(
            Span(
                start=run[0].slot,
                stop=run[-1].slot + 1,
                source=source,
                pinned=pinned,
                brightness=round(sum(t.brightness for t in run) / len(run), 2),
                text="".join(t.text for t in run),
            )
        )
    return made


def strip(view: View, width: int) -> list[float]:
    """The context's brightness in at most `width` cells, left to right, each the mean of its slots."""
    if width < 1:
        raise InvalidInput(f"width: expected at least 1 cell, got {width}")
    b = view.tokens.brightness.astype(np.float64)
    if len(b) <= width:
        return [float(x) for x in b]
    edges = np.linspace(0, len(b), width + 1).astype(np.int64)
    return [float(x) for x in np.add.reduceat(b, edges[:-1]) / np.diff(edges)]


def brightest(view: View, n: int) -> list[int]:
    """Slots of the `n` brightest tokens that are not control tokens, brightest first (ties: older first)."""
    said = np.flatnonzero(view.tokens.source != Source.CONTROL)
    order = np.argsort(-view.tokens.brightness[said], kind="stable")
    return [int(s) for s in said[order[: max(n, 0)]]]


def why(view: View, codec: Codec, laws: Laws, slots: Sequence[int]) -> list[Why]:
    """Why the tokens in these slots live, and how sure they are to. Raises InvalidInput for a slot that is
    not there."""
    rows = len(view.tokens)
    if wrong := [s for s in slots if not 0 <= s < rows]:
        raise InvalidInput(f"slot: expected 0..{rows - 1}, got {wrong[0]}")
    shown = tokens(view, codec)
    brightness = np.sort(view.tokens.brightness)
    untouchable = laws.untouchable(view.tokens)
    scaffold = np.isin(view.tokens.source, (Source.CONTROL, Source.MARKER))
    safe = untouchable | (scaffold & (hollow_turns(view.tokens) == NO_UNIT))
    may_die = np.sort(view.tokens.brightness[~safe])
    return [
        Why(
            token=shown[s],
            rank=round(100.0 * float(np.searchsorted(brightness, view.tokens.brightness[s])) / rows, 1),
            protected=bool(safe[s]),
            reasons=tuple(_reasons(view.tokens, laws, s, bool(safe[s]), may_die)),
        )
        for s in slots
    ]


def _reasons(t: Tokens, laws: Laws, slot: int, safe: bool, may_die: np.ndarray) -> Iterator[str]:
    """Everything that holds the token, then what its brightness means."""
    brightness, control = float(t.brightness[slot]), t.source[slot] == Source.CONTROL
    if t.pinned[slot]:
        yield "pinned: only you can let it go"
    if slot < laws.sinks:
        yield f"attention sink: the first {laws.sinks} tokens always stay"
    if slot >= len(t) - laws.tail:
        yield f"recent: the last {laws.tail} tokens are the present"
    if control:
        yield "control token: stays while its turn says anything"
    if t.source[slot] == Source.MARKER:
        yield "stands for lines that died: goes only with its whole turn, or into a neighbouring marker"
    elif brightness >= laws.lock:
        yield f"a rock: brightness {laws.lock:g} and above is locked"
    if t.unit[slot] != NO_UNIT and not control:
        yield _of_unit(t, slot)
        if safe and not _alone_safe(t, laws, slot):
            yield "its unit holds a protected token"
    if not safe:
        dimmer = float(np.searchsorted(may_die, brightness)) / max(len(may_die), 1)
        yield f"may be culled: brighter than {dimmer:.0%} of what may die"


def _of_unit(t: Tokens, slot: int) -> str:
    unit = t.unit == t.unit[slot]
    what = "line" if t.source[slot] in WHOLE else "passage"
    top = float(t.brightness[unit].max())
    return (
        f"one of {int(unit.sum())} tokens of a {what} that dies whole, as bright as its brightest ({top:.0f})"
    )


def _alone_safe(t: Tokens, laws: Laws, slot: int) -> bool:
    return bool(
        t.pinned[slot] or slot < laws.sinks or slot >= len(t) - laws.tail or t.brightness[slot] >= laws.lock
    )


def level(brightness: float, levels: int) -> int:
    """Brightness 0..255 as one of `levels` steps, 0..levels-1."""
    return min(int(max(brightness, 0.0) / FULL * levels), levels - 1)
