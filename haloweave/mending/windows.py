# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""From scars to windows: the text around the most urgent ones, hot only near a joint.

Knows views, laws and scars. Must not know repairers or threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from haloweave.memory.laws import Laws
from haloweave.memory.tokens import Tokens, View
from haloweave.mending.base import Mending, Scar
from haloweave.mending.scars import Joint, heat_of, placed
from haloweave.repair.base import RepairWindow


@dataclass(frozen=True)
class Cut:
    """Windows to be asked, the scars that are in them, and those that need no asking."""

    windows: tuple[RepairWindow, ...] = ()
    asked: tuple[Scar, ...] = ()
    moot: tuple[Scar, ...] = ()
    """Their place is gone or was filled, or nothing near may change."""


@dataclass(frozen=True)
class _Frame:
    """A window in the making."""

    start: int
    stop: int
    joints: list[Joint] = field(default_factory=list)

    def holds(self, joint: Joint, size: int, reach: int) -> bool:
        """Whether all that is near a joint lies inside."""
        return self.start <= max(joint.left - reach + 1, 0) and min(joint.right + reach, size) <= self.stop


def cut(view: View, scars: Sequence[Scar], laws: Laws, how: Mending) -> Cut:
    """At most `how.batch` windows, for the most urgent (the first) of the scars and whatever scars lie close
    to them: neighbours share a window."""
    tokens = view.tokens
    heat = heat_of(tokens, laws, how.cutoff)
    frames: list[_Frame] = []
    asked, moot = [], []
    for scar, joint in zip(scars, placed(tokens, scars), strict=True):
        if joint is None or not joint.warm(heat, how.reach):
            moot.append(scar)
            continue
        frame = next((f for f in frames if f.holds(joint, len(tokens), how.reach)), None)
        if frame is None and len(frames) < how.batch:
            frame = _around(joint, len(tokens), how.window)
            frames.append(frame)
        if frame is not None:
            frame.joints.append(joint)
            asked.append(scar)
    windows = tuple(_window(tokens, heat, f, how.reach) for f in frames)
    return Cut(windows, tuple(asked), tuple(moot))


def _around(joint: Joint, size: int, width: int) -> _Frame:
    """`width` tokens with the joint in the middle, or as near to it as the context's ends allow."""
    middle = (joint.left + 1 + joint.right) // 2
    start = max(0, min(middle - width // 2, size - width))
    return _Frame(start, min(start + width, size))


def _window(tokens: Tokens, heat: Float32[np.ndarray, " S"], frame: _Frame, reach: int) -> RepairWindow:
    inside = slice(frame.start, frame.stop)
    near = np.logical_or.reduce([j.near(frame.start, frame.stop, reach) for j in frame.joints])
    return RepairWindow(
        tokens.uid[inside].copy(),
        tokens.token_id[inside].copy(),
        np.where(near, heat[inside], np.float32(0)),
        np.zeros(frame.stop - frame.start, np.bool_),
    )
