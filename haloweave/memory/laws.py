# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What no policy may touch: the laws of the context, as masks over slots.

Knows tokens. Must not know policies or edits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64

from haloweave.errors import InvalidInput
from haloweave.memory.tokens import NO_UNIT, SINKS, Source, Tokens

WHOLE = (Source.LOG, Source.TOOL)
"""Sources whose units are never rewritten: they die whole and leave one marker."""


@dataclass(frozen=True)
class Laws:
    """Which slots are beyond the reach of policies."""

    sinks: int = SINKS
    """First slots: attention sinks."""
    tail: int = 128
    """Last slots: the present, left alone."""
    lock: float = 250.0
    """Tokens at least this bright are rocks in the river; above 255 nothing is locked."""

    def __post_init__(self) -> None:
        if self.sinks < 0 or self.tail < 0 or not self.lock >= 0:
            raise InvalidInput(f"laws: expected counts and a brightness >= 0, got {self}")

    def untouchable(self, tokens: Tokens) -> Bool[np.ndarray, " S"]:
        """Slots that no policy may change or cull, whole units included.

        Control tokens are not in it: a policy may take them, but only with their whole, hollow turn
        (`hollow_turns`).
        """
        locked = tokens.pinned | (tokens.brightness >= self.lock)
        locked &= (tokens.source != Source.CONTROL) | tokens.pinned
        locked[: self.sinks] = True
        if self.tail:
            locked[-self.tail :] = True
        return spread(tokens, locked)

    def rigid(self, tokens: Tokens) -> Bool[np.ndarray, " S"]:
        """Slots whose text no repair may change: untouchable, or nobody's to rewrite."""
        mask: np.ndarray = self.untouchable(tokens) | unwritable(tokens)
        return mask


def unwritable(tokens: Tokens) -> Bool[np.ndarray, " S"]:
    """Slots whose text is not rewritten, however dim: frames, markers, logs and tools, whole units."""
    fixed = (Source.CONTROL, Source.MARKER, *WHOLE)
    mask: np.ndarray = np.isin(tokens.source, fixed) | (tokens.unit != NO_UNIT)
    return mask


def spread(tokens: Tokens, marked: Bool[np.ndarray, " S"]) -> Bool[np.ndarray, " S"]:
    """The mask, and with each marked token the rest of its unit."""
    units = tokens.unit[marked]
    units = units[units != NO_UNIT]
    return marked | np.isin(tokens.unit, units) if len(units) else marked


def hollow_turns(tokens: Tokens) -> Int32[np.ndarray, " S"]:
    """For each slot of a hollow turn that turn's unit, for all other slots NO_UNIT.

    A turn is hollow if nothing is left in it but control tokens and markers; then it may die, whole, with the
    markers in it. Any other turn keeps its control tokens. A turn's control tokens share one unit and frame
    what was said in it. The last turn is never hollow: it may still be open, its end unwritten.
    """
    marker = tokens.source == Source.MARKER
    control = (tokens.source == Source.CONTROL) & (tokens.unit != NO_UNIT)
    hollow = control & ~framed(tokens, (tokens.source == Source.CONTROL) | marker)
    hollow &= tokens.unit != (tokens.unit[control][-1] if control.any() else NO_UNIT)
    turn = np.where(hollow, tokens.unit, NO_UNIT)
    for unit in np.unique(tokens.unit[hollow]):
        slots = np.flatnonzero(turn == unit)
        inside = slice(int(slots[0]), int(slots[-1]) + 1)
        turn[inside] = np.where(marker[inside], unit, turn[inside])
    return turn.astype(np.int32)


def framed(tokens: Tokens, gone: Bool[np.ndarray, " S"]) -> Bool[np.ndarray, " S"]:
    """Control tokens of turns that still say something once the slots in `gone` are left out of account.

    A turn reaches from its first to its last control token; the last one, if its end is not yet written,
    to the end of the context.
    """
    control = np.flatnonzero((tokens.source == Source.CONTROL) & (tokens.unit != NO_UNIT))
    frames = np.zeros(len(tokens), np.bool_)
    if not len(control):
        return frames
    before = np.concatenate([[0], np.cumsum(~gone)])
    units, index = np.unique(tokens.unit[control], return_inverse=True)
    first, last = _extent(control, index, len(units))
    latest = int(index[-1])
    if last[latest] - first[latest] + 1 == np.count_nonzero(index == latest):
        last[latest] = len(tokens) - 1
    frames[control] = (before[last + 1] > before[first])[index]
    return frames


def _extent(
    slots: Int64[np.ndarray, " N"], index: Int64[np.ndarray, " N"], groups: int
) -> tuple[Int64[np.ndarray, " G"], Int64[np.ndarray, " G"]]:
    """First and last slot of each group."""
    first = np.full(groups, np.iinfo(np.int64).max, np.int64)
    last = np.full(groups, -1, np.int64)
    np.minimum.at(first, index, slots)
    np.maximum.at(last, index, slots)
    return first, last
