# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Fewer, longer holes at equal length: lone survivors go, the smallest gaps stay whole.

Knows masks, brightness and cull policies. Must not know text, models or edits.

Culling token by token leaves specks: one or two survivors with gaps on either side. Read again (after a
crash, a redaction, or on an engine that must recompute), specks say little and confuse, while a gap of one
token in the midst of survivors costs its neighbours dearly. So the specks die too, and for every row they
leave, a row of the smallest gaps is spared: in the terms of image processing an opening, then a closing.
Nothing is invented; every token that stands was there. Measured: docs/lab-notes.md ("The hole gap").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from haloweave.errors import InvalidInput
from haloweave.memory.cull import CullChoice, CullPolicy, runs
from haloweave.memory.laws import Laws
from haloweave.memory.tokens import NO_UNIT, Source, View


def rejoined(
    dead: Bool[np.ndarray, " S"],
    brightness: np.ndarray,
    fixed: Bool[np.ndarray, " S"],
    *,
    speck: int = 2,
) -> Bool[np.ndarray, " S"]:
    """The same number of dead in fewer gaps.

    Survivors in runs of at most `speck` between gaps die, the dimmest run first; what they free spares the
    smallest gaps, the brightest of equal ones first, and the brightest tokens at the edge of a gap with what
    is left. `fixed` tokens keep their fate. Raises InvalidInput if columns differ in length.
    """
    if not len(dead) == len(brightness) == len(fixed) or speck < 0:
        raise InvalidInput(
            f"rejoin: expected columns of one length and a speck >= 0, got {len(dead)} fates, "
            f"{len(brightness)} brightnesses, {len(fixed)} fixed and {speck}"
        )
    light = np.concatenate([[0.0], np.cumsum(brightness, dtype=np.float64)])

    def mean(run: tuple[int, int]) -> float:
        return float(light[run[1]] - light[run[0]]) / (run[1] - run[0])

    now = dead.copy()
    specks = [r for r in runs(~dead & ~fixed) if r[1] - r[0] <= speck and _between(dead, r)]
    for a, b in sorted(specks, key=mean):
        now[a:b] = True
    free = int(now.sum() - dead.sum())
    spared = np.zeros(len(dead), np.bool_)
    for a, b in sorted(runs(now & ~fixed), key=lambda r: (r[1] - r[0], -mean(r))):
        if b - a > free:
            break
        spared[a:b] = True
        free -= b - a
    now &= ~spared
    return _grown(now, brightness, fixed, free)


def _grown(
    dead: Bool[np.ndarray, " S"], brightness: np.ndarray, fixed: Bool[np.ndarray, " S"], free: int
) -> Bool[np.ndarray, " S"]:
    """`free` more tokens are spared, one by one: the brightest that stands next to a survivor."""
    now = dead.copy()
    for _ in range(free):
        alive = np.concatenate([[False], ~now, [False]])
        edge = np.flatnonzero(now & ~fixed & (alive[:-2] | alive[2:]))
        if not len(edge):
            edge = np.flatnonzero(now & ~fixed)
        now[edge[np.argmax(brightness[edge])]] = False
    return now


def _between(dead: Bool[np.ndarray, " S"], run: tuple[int, int]) -> bool:
    """Whether a run has a gap, or an end of the context, on either side."""
    a, b = run
    return (a == 0 or bool(dead[a - 1])) and (b == len(dead) or bool(dead[b]))


@dataclass(frozen=True)
class Rejoined:
    """A cull policy whose choice is rejoined. Tokens in units, frames and what the laws protect keep the fate
    that `policy` gives them."""

    policy: CullPolicy
    laws: Laws
    speck: int = 2

    def choose(self, view: View, n: int) -> CullChoice:
        """See `CullPolicy.choose`; as many as `policy` chooses."""
        choice = self.policy.choose(view, n)
        tokens = view.tokens
        if not len(choice) or not self.speck:
            return choice
        dead = np.isin(tokens.uid, choice.uids)
        fixed = self.laws.untouchable(tokens) | (tokens.unit != NO_UNIT)
        fixed |= np.isin(tokens.source, (Source.CONTROL, Source.MARKER))
        now = rejoined(dead, tokens.brightness, fixed, speck=self.speck)
        return CullChoice(tokens.uid[now], f"{choice.reason}, rejoined")
