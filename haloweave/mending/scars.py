# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Where running text was cut: scars found by comparing two views, and the queue in which they wait.

Knows tokens, views and the laws. Must not know edits, repairers, threads or clocks. Whoever cut (a weave, the
person) is seen alike. What died whole and left its marker, a log line say, broke no sentence and leaves no
scar; nor does text that other text has replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32

from haloweave.memory.laws import Laws, unwritable
from haloweave.memory.tokens import FULL, Source, Tokens, View
from haloweave.mending.base import NOBODY, Mending, Scar

_TRIES = 2
"""Failed batches after which a scar is left as it is: one window that a repairer cannot bear must not end
repair for all others."""


@dataclass(frozen=True)
class Joint:
    """Slots of the survivors on either side of a hole; between them stands nothing, or a marker."""

    left: int
    """-1: the context begins here."""
    right: int

    def near(self, start: int, stop: int, reach: int) -> Bool[np.ndarray, " W"]:
        """Which of the slots from `start` to `stop` are within `reach` of the joint."""
        slots = np.arange(start, stop)
        before = (self.left - reach < slots) & (slots <= self.left)
        mask: np.ndarray = before | ((self.right <= slots) & (slots < self.right + reach))
        return mask

    def warm(self, heat: Float32[np.ndarray, " S"], reach: int) -> bool:
        """Whether anything near may change."""
        before = heat[max(self.left - reach + 1, 0) : self.left + 1]
        return bool(before.any() or heat[self.right : self.right + reach].any())


def heat_of(tokens: Tokens, laws: Laws, cutoff: float) -> Float32[np.ndarray, " S"]:
    """How far each token may change: 0 where the laws forbid it, or where it is not dim enough."""
    heat: np.ndarray = np.float32(1) - tokens.brightness / np.float32(FULL)
    heat[laws.rigid(tokens) | (heat < cutoff)] = 0
    return heat


def found(before: View, after: View, laws: Laws, how: Mending) -> tuple[Scar, ...]:
    """The scars that came about between two views, where something near may change, in the text's order."""
    joints = _joints(before.tokens, after.tokens)
    if not joints:
        return ()
    heat, uid = heat_of(after.tokens, laws, how.cutoff), after.tokens.uid
    scars = []
    for joint in joints:
        if joint.warm(heat, how.reach):
            left = int(uid[joint.left]) if joint.left >= 0 else NOBODY
            right = int(uid[joint.right]) if joint.right < len(uid) else NOBODY
            scars.append(Scar(left, right, after.tick))
    return tuple(scars)


def _joints(old: Tokens, new: Tokens) -> list[Joint]:
    """Neighbouring survivors between whom running text died, and nothing but markers came in its place."""
    if len(new) >= len(old) and np.array_equal(new.uid[: len(old)], old.uid):
        return []
    was = np.concatenate([[-1], np.flatnonzero(np.isin(old.uid, new.uid)), [len(old)]]).tolist()
    now = np.concatenate([[-1], np.flatnonzero(np.isin(new.uid, old.uid)), [len(new)]]).tolist()
    text, marker = ~unwritable(old), new.source == Source.MARKER
    joints = []
    for i in np.flatnonzero(np.diff(was) > 1).tolist():
        gone, came = slice(was[i] + 1, was[i + 1]), slice(now[i] + 1, now[i + 1])
        if text[gone].any() and marker[came].all():
            joints.append(Joint(now[i], now[i + 1]))
    return joints


def placed(tokens: Tokens, scars: Sequence[Scar]) -> list[Joint | None]:
    """Where each scar is now: beside the survivor that is left, or None if both are gone or the hole between
    them was filled."""
    wanted = np.array([uid for s in scars for uid in (s.left, s.right)], np.int64)
    slots = np.flatnonzero(np.isin(tokens.uid, wanted))
    at = dict(zip(tokens.uid[slots].tolist(), slots.tolist(), strict=True))
    return [_place(tokens, at.get(s.left), at.get(s.right)) for s in scars]


def _place(tokens: Tokens, left: int | None, right: int | None) -> Joint | None:
    if left is None:
        return None if right is None else Joint(right - 1, right)
    if right is None:
        return Joint(left, left + 1)
    filled = np.any(tokens.source[left + 1 : right] != Source.MARKER)
    return None if filled else Joint(left, right)


class Queue:
    """Scars that wait, at most `limit`, the most urgent last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._scars: list[Scar] = []

    def __len__(self) -> int:
        return len(self._scars)

    @property
    def urgent(self) -> tuple[Scar, ...]:
        """All of them, the most urgent first."""
        return tuple(reversed(self._scars))

    def add(self, scars: Sequence[Scar]) -> int:
        """New ones; one that shares a side with an older scar is the same hole, grown. How many of the oldest
        had to go."""
        lefts = {s.left for s in scars} - {NOBODY}
        rights = {s.right for s in scars} - {NOBODY}
        self._scars = [s for s in self._scars if s.left not in lefts and s.right not in rights] + list(scars)
        over = max(len(self._scars) - self._limit, 0)
        del self._scars[:over]
        return over

    def settle(self, scars: Sequence[Scar]) -> None:
        """These need no more care."""
        done = set(scars)
        self._scars = [s for s in self._scars if s not in done]

    def failed(self, scars: Sequence[Scar]) -> int:
        """Repair failed over these: they are the least urgent now. How many have failed too often and go."""
        back = set(scars).intersection(self._scars)
        again = [replace(s, tries=s.tries + 1) for s in self._scars if s in back and s.tries + 1 < _TRIES]
        self._scars = again + [s for s in self._scars if s not in back]
        return len(back) - len(again)

    def clear(self) -> int:
        """Give all of them up; how many."""
        over, self._scars = len(self._scars), []
        return over
