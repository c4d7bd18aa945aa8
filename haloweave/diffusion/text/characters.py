# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Which bytes may follow one another in text that nothing is wrong with: a finite automaton over UTF-8.

A text is *broken* where its bytes are no UTF-8, where U+FFFD stands, and where a hanging mark
(clusters.HANGING) has nothing before it that can carry it. What carries:

    a mark of one or several scripts (matra, virama, nukta, haraka ...)   a letter of one of them
    a mark of no script (accents, joiners, variation selectors)            all but white space and controls

and what is carried carries in turn. The scripts of _TRACKED are told apart; what is left of the world's
letters, but for the Latin ones, counts as one script more. Knows Unicode. Must not know tokens.
Axes: S states, L of them between two characters, C kinds of characters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex
from jaxtyping import Bool, Int

from haloweave.diffusion.text.clusters import HANGING

_TRACKED = (
    *("Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam"),
    *("Sinhala", "Arabic", "Hebrew", "Thai", "Lao", "Tibetan", "Myanmar", "Khmer"),
)
_REST = 1 << len(_TRACKED)
"""The bit of the letters and marks of all other scripts."""
_EMPTY = regex.compile(r"[\s\p{GCB=Control}\p{GCB=CR}\p{GCB=LF}]")
_LETTER, _UNSCRIPTED = regex.compile(r"\p{L}"), regex.compile(r"[\p{sc=Zinh}\p{sc=Zyyy}]")
_OTHER = regex.compile(r"(?!\p{sc=Latin})(?![\p{sc=Zinh}\p{sc=Zyyy}])\p{L}")
_LOST = 0xFFFD
_SURROGATES, _POINTS = slice(0xD800, 0xE000), 0x110000
_EMPTY_KIND, _PLAIN, _COMMON, _LOST_KIND = range(4)
NOTHING = 0
"""The state of a text's beginning, and behind white space: nothing can hang there."""


@dataclass(frozen=True, eq=False)
class Automaton:
    """`step[state, byte]` is the next state; the last state, `dead`, is never left. The first `between`
    states lie between two characters: a text may end in any of them, and begins in NOTHING."""

    step: Int[np.ndarray, "S 256"]
    between: int

    @property
    def dead(self) -> int:
        return len(self.step) - 1

    def after(self, data: bytes, state: int = NOTHING) -> int:
        """The state behind some bytes."""
        for byte in data:
            state = int(self.step[state, byte])
        return state


def broken(text: str) -> list[int]:
    """Where a text is broken: the places of its characters that cannot stand where they do. Behind one of
    them anything counts as carried that something can carry together with it."""
    kinds, follow = _kinds()
    beginning = np.array([NOTHING])
    places, states = list[int](), beginning
    for place, character in enumerate(text):
        kind = int(kinds[ord(character)])
        led = follow[states, kind]
        if led.max() < 0:
            places.append(place)
            led = follow[:, kind]
        states = led[led >= 0] if led.max() >= 0 else beginning
    return places


@lru_cache(maxsize=1)
def automaton() -> Automaton:
    """Made once, in half a second."""
    kinds, follow = _kinds()
    return _over_bytes(kinds, follow)


# ---- characters ------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _kinds() -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, "L C"]]:
    """The kind of every character, and the state [L, C] that a kind leads to; -1 where it cannot stand."""
    kinds = np.full(_POINTS, _PLAIN, np.int16)
    kinds[_SURROGATES] = _LOST_KIND
    letters: dict[int, int] = {}
    marks: dict[int, int] = {}
    for point, character in _assigned():
        if point == _LOST:
            kinds[point] = _LOST_KIND
        elif _EMPTY.match(character):
            kinds[point] = _EMPTY_KIND
    bits = _scripts()
    hanging: Int[np.ndarray, " M"] = np.array(
        [point for point, character in _assigned() if HANGING.match(character)]
    )
    for point in hanging[kinds[hanging] == _PLAIN].tolist():
        own = int(bits[point]) or (0 if _UNSCRIPTED.match(chr(point)) else _REST)
        kinds[point] = _COMMON if own == 0 else 4 + marks.setdefault(own, len(marks))
    spelt = bits.copy()
    spelt[hanging] = 0
    for point in np.flatnonzero(spelt).tolist():
        own = int(spelt[point])
        kinds[point] = 4 + len(marks) + letters.setdefault(own, len(letters))
    return kinds, _following([*marks], [*letters])


def _assigned() -> Iterator[tuple[int, str]]:
    """The planes in which marks, spaces and letters of many scripts lie."""
    for point in (*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)):
        yield point, chr(point)


def _scripts() -> Int[np.ndarray, " P"]:
    """Of each letter and mark, a bit for each script that it belongs to."""
    text = "".join(character for _, character in _assigned())
    points = np.array([point for point, _ in _assigned()])
    bits = np.zeros(_POINTS, np.int32)
    for number, script in enumerate(_TRACKED):
        found = regex.compile(rf"(?=\p{{scx={script}}})(?:\p{{L}}|{HANGING.pattern})").finditer(text)
        bits[points[[match.start() for match in found]]] |= 1 << number
    other = points[[match.start() for match in _OTHER.finditer(text)]]
    bits[other[bits[other] == 0]] = _REST
    return bits


def _following(marks: list[int], letters: list[int]) -> Int[np.ndarray, "L C"]:
    """States: NOTHING, something plain, then a letter of each kind."""
    plain = 1
    table = np.full((2 + len(letters), 4 + len(marks) + len(letters)), -1, np.int16)
    table[:, _EMPTY_KIND], table[:, _PLAIN] = NOTHING, plain
    states = np.arange(len(table))
    table[plain:, _COMMON] = states[plain:]
    for state, own in enumerate(letters, start=2):
        for number, mark in enumerate(marks):
            if own & mark:
                table[state, 4 + number] = state
        table[:, 4 + len(marks) + state - 2] = state
    return table


# ---- bytes -----------------------------------------------------------------------------------------------


def _over_bytes(kinds: Int[np.ndarray, " P"], follow: Int[np.ndarray, "L C"]) -> Automaton:
    """UTF-8 without overlong forms (surrogates lead nowhere already). States that lead to the same ends are
    one: first those before a character's last byte, then those before its last two, and so on."""
    size = len(follow)
    blocks, of = np.unique(kinds.reshape(-1, 64), axis=0, return_inverse=True)
    last, one_left = _merged(follow[:, blocks], size)
    one_left = one_left[:, of.reshape(-1)]  # [L, 17408]: by the character's number without its last 6 bits
    three = one_left.reshape(size, -1, 64).copy()
    three[:, 0, :32] = -1  # overlong
    middle, two_left = _merged(three, size + len(last))
    four = np.full((size, 5 * 64), -1, np.int64)
    four[:, 16:272] = two_left[:, 16:]
    first, three_left = _merged(four.reshape(size, 5, 64), size + len(last) + len(middle))
    step = np.full((size + len(last) + len(middle) + len(first) + 1, 256), -1, np.int64)
    step[:size, :0x80] = follow[:, kinds[:0x80]]
    step[:size, 0xC2:0xE0] = one_left[:, 2:32]
    step[:size, 0xE0:0xF0] = two_left[:, :16]
    step[:size, 0xF0:0xF5] = three_left
    step[size:-1, 0x80:0xC0] = np.concatenate([last, middle, first])
    step[step < 0] = len(step) - 1
    return Automaton(step.astype(np.int16), size)


def _merged(
    ahead: Int[np.ndarray, "L M 64"], number: int
) -> tuple[Int[np.ndarray, "N 64"], Int[np.ndarray, "L M"]]:
    """Different rows once, and which of them each is, counted from `number`; rows without a way on are -1."""
    rows, of = np.unique(ahead.reshape(-1, 64), axis=0, return_inverse=True)
    alive: Bool[np.ndarray, " N"] = np.any(rows >= 0, axis=1)
    names = np.where(alive, np.cumsum(alive) - 1 + number, -1)
    return rows[alive], names[of.reshape(-1)].reshape(ahead.shape[:2])
