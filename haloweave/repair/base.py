# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What repair is made of: windows in, proposals out, and the two protocols between them.

Knows memory values and numpy. Must not know torch, text, an engine or a mind. Axes: W tokens of a window,
R a run, V vocabulary.

    Repairer   windows -> proposals           (masked_lm, selfscore, denoise, or your own twenty lines)
    Scorer     how likely the host LM finds token sequences; gate and selfscore ask it

Behaviour is added by wrapping: `Guarded(repairer)` keeps hands off what must never be rewritten,
`Gated(repairer)` lets through only what the host LM finds better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from haloweave.errors import InvalidInput
from haloweave.memory.plan import Proposal

__all__ = ["Proposal", "Reading", "RepairWindow", "Repairer", "Scorer", "checked_heat", "replaced"]


@dataclass(frozen=True, eq=False)
class RepairWindow:
    """A stretch of text and its heat. Raises InvalidInput if columns differ in length or heat leaves 0..1."""

    uid: Int64[np.ndarray, " W"]
    token_id: Int32[np.ndarray, " W"]
    heat: Float32[np.ndarray, " W"]
    """How far each token may change, 0..1. At 0 it is locked: never noised, predicted or changed."""
    doomed: Bool[np.ndarray, " W"]
    """About to be culled: a run of these becomes fewer tokens, if that is proposed, or goes."""

    def __post_init__(self) -> None:
        size = len(self.token_id)
        if not len(self.uid) == len(self.heat) == len(self.doomed) == size:
            raise InvalidInput(
                f"window: expected columns of one length, got {len(self.uid)} uids, {size} tokens, "
                f"{len(self.heat)} heats, {len(self.doomed)} doomed"
            )
        object.__setattr__(self, "heat", checked_heat(self.heat, size))
        for column in (self.uid, self.token_id, self.heat, self.doomed):
            column.flags.writeable = False

    def __len__(self) -> int:
        return len(self.token_id)

    @staticmethod
    def of(
        token_ids: Sequence[int] | np.ndarray,
        heat: Sequence[float] | np.ndarray,
        *,
        uid: np.ndarray | None = None,
        doomed: np.ndarray | None = None,
    ) -> RepairWindow:
        """A window over plain ids; the uid of a token is its index, unless given."""
        ids = np.array(token_ids, np.int32)
        return RepairWindow(
            np.arange(len(ids), dtype=np.int64) if uid is None else np.array(uid, np.int64),
            ids,
            checked_heat(heat, len(ids)),
            np.zeros(len(ids), np.bool_) if doomed is None else np.array(doomed, np.bool_),
        )

    def locking(self, locked: Bool[np.ndarray, " W"]) -> RepairWindow:
        """The same window with more positions locked."""
        heat = np.where(locked, np.float32(0), self.heat)
        return RepairWindow(self.uid.copy(), self.token_id.copy(), heat, self.doomed.copy())

    @property
    def standing(self) -> Int32[np.ndarray, " S"]:
        """The text without what is doomed."""
        ids: np.ndarray = self.token_id[~self.doomed]
        return ids

    def place(self, run: slice) -> slice:
        """Where a run of this window stands in `standing`; empty if all of it is doomed."""
        before = np.concatenate([[0], np.cumsum(~self.doomed)])
        return slice(int(before[run.start]), int(before[run.stop]))

    def run(self, proposal: Proposal) -> slice | None:
        """Where a proposal's run stands in this window; None if it is not one unbroken run of it."""
        if not len(proposal.uid):
            return None
        at = np.flatnonzero(self.uid == proposal.uid[0])
        if not len(at):
            return None
        run = slice(int(at[0]), int(at[0]) + len(proposal.uid))
        return run if np.array_equal(self.uid[run], proposal.uid) else None


def checked_heat(heat: Sequence[float] | np.ndarray, size: int) -> Float32[np.ndarray, " W"]:
    """Heat as a column. Raises InvalidInput if it has another length, or is not within 0..1."""
    try:
        column = np.array(heat, np.float32)
    except (TypeError, ValueError) as err:
        raise InvalidInput(f"heat: expected {size} numbers within 0..1: {err}") from err
    if column.shape != (size,):
        raise InvalidInput(f"heat: expected {size} values, one a token, got shape {column.shape}")
    wrong = np.flatnonzero(~((column >= 0) & (column <= 1)))
    if len(wrong):
        raise InvalidInput(f"heat: expected values within 0..1, got {column[wrong[0]]} at index {wrong[0]}")
    return column


def replaced(window: RepairWindow, run: slice, new_ids: np.ndarray) -> Int32[np.ndarray, " W2"]:
    """The window's ids with one run replaced."""
    ids = window.token_id
    return np.concatenate([ids[: run.start], new_ids, ids[run.stop :]]).astype(np.int32)


class Repairer(Protocol):
    """Proposes changes to dim tokens.

    The same windows give the same proposals. A proposal's run lies in one window and has heat above 0
    throughout; its new ids are no more than its run is long, and differ from it. Proposals may overlap: the
    greater gain wins where they are applied.
    """

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]: ...


class Reading(Protocol):
    """A causal LM that has read some tokens."""

    @property
    def logits(self) -> Float32[np.ndarray, " V"]:
        """For the token after the last one read."""
        ...

    def extend(self, ids: Sequence[int] | np.ndarray) -> Float32[np.ndarray, " Q"]:
        """Read on; log p of each of these tokens, in nats."""
        ...

    def score(self, continuations: Sequence[np.ndarray]) -> list[Float32[np.ndarray, " Q"]]:
        """Log p of each token of each continuation, in nats, in one batched pass over what was read, which
        stays as it is."""
        ...


class Scorer(Protocol):
    """The host LM as a judge. It keeps no state between readings; one thread uses it."""

    @property
    def vocabulary(self) -> int: ...

    @property
    def opening(self) -> int:
        """The id that stands before a text."""
        ...

    @property
    def limit(self) -> int:
        """Tokens that one reading may hold, the opening included."""
        ...

    def read(self, ids: Sequence[int] | np.ndarray) -> Reading:
        """Start reading. No ids at all: the beginning of a text."""
        ...
