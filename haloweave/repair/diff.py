# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Heat map in, diff out: one pure function, usable without any mind.

Knows token ids, heat and a repairer. Must not know text, a model, or how proposals are made.

    token_ids, heat ──cut──▶ windows ──repairer──▶ proposals ──the greatest gain wins──▶ changes

A long text is cut into cores that touch; each core is shown with some locked tokens of context on either
side, so that every token is open to change in one window only. The cores are asked in two batches, every
other one first: the second batch sees what the first has changed, so two neighbours never change both sides
of a joint without one of them having seen it. The cost is linear in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, Int32

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, Repairer, RepairWindow, checked_heat

_CONTEXT = 24
"""Tokens of context on either side of a core, unless windows are too small for it."""
_GONE = -1


@dataclass(frozen=True)
class Change:
    """One token of the text as it was becomes another, or goes."""

    index: int
    old_id: int
    new_id: int | None
    """None: the token goes."""
    heat: float
    gain: float
    """Nats, as the repairer reckons: the gain of the run it belongs to, in equal shares."""


def repair(
    token_ids: Sequence[int] | np.ndarray,
    heat: Sequence[float] | np.ndarray,
    repairer: Repairer,
    *,
    lock: float = 0.8,
    window: int = 128,
    overlap: int | None = None,
) -> tuple[Change, ...]:
    """What to change, by index. The text never grows; the same input gives the same diff.

    Heat is how far each token may change, 0..1. A token whose brightness, 1 - heat, is `lock` or more is
    locked. `window` is the most tokens a repairer is shown at once, `overlap` how many of them, on either
    side, are context. Raises InvalidInput if heat does not fit the text, or the repairer breaks its contract.
    """
    ids = _checked_ids(token_ids)
    draft = _Draft(ids, _unlocked(checked_heat(heat, len(ids)), lock))
    context = min(_CONTEXT, max(window, 0) // 4) if overlap is None else overlap
    if context < 0 or window - 2 * context < 1:
        raise InvalidInput(f"window: expected more than twice the overlap, got {window} and {context}")
    cores = _cores(draft.heat, window, window - 2 * context)
    for batch in (cores[::2], cores[1::2]):
        windows = [draft.window(core, context) for core in batch if draft.heat[core].any()]
        if windows:
            draft.take(windows, repairer.propose(windows))
    return draft.changes


def applied(token_ids: Sequence[int] | np.ndarray, changes: Sequence[Change]) -> Int32[np.ndarray, " R"]:
    """The text with these changes. Raises InvalidInput if they speak of another text."""
    ids = _checked_ids(token_ids)
    now = ids.astype(np.int64)
    for c in changes:
        if not 0 <= c.index < len(ids) or now[c.index] != c.old_id:
            there = f"token {now[c.index]}" if 0 <= c.index < len(ids) else f"a text of {len(ids)} tokens"
            raise InvalidInput(f"change at {c.index}: expected token {c.old_id} there, got {there}")
        now[c.index] = _GONE if c.new_id is None else c.new_id
    return np.asarray(now[now != _GONE], np.int32)


def _checked_ids(token_ids: Sequence[int] | np.ndarray) -> Int32[np.ndarray, " W"]:
    try:
        ids = np.array(token_ids)
    except ValueError as err:
        raise InvalidInput(f"token ids: expected one row of whole numbers: {err}") from err
    wide = ids.astype(np.int64) if ids.dtype.kind in "iu" or not ids.size else None
    if wide is None or ids.ndim != 1 or (ids.size and not 0 <= wide.min() <= wide.max() < 2**31):
        raise InvalidInput(f"token ids: expected one row of whole numbers from 0 on, got {token_ids!r:.80}")
    return wide.astype(np.int32)


def _unlocked(heat: Float32[np.ndarray, " W"], lock: float) -> Float32[np.ndarray, " W"]:
    """Heat, and 0 where the brightness is `lock` or more."""
    if not 0 <= lock <= 1:
        raise InvalidInput(f"lock: expected a brightness within 0..1, got {lock}")
    return np.where(heat <= np.float32(1 - lock), np.float32(0), heat)


def _cores(heat: Float32[np.ndarray, " W"], window: int, core: int) -> list[slice]:
    """The text in pieces of at most `core` tokens; of one, if it fits into one window. A cut falls where the
    tokens on either side are least likely to change, the later the better."""
    if len(heat) <= window:
        return [slice(0, len(heat))]
    at = np.concatenate([[0], np.maximum(heat[1:], heat[:-1])])
    cuts = [0]
    while len(heat) - cuts[-1] > core:
        soonest, latest = cuts[-1] + (core + 1) // 2, cuts[-1] + core
        joints = at[soonest : latest + 1][::-1]
        cuts.append(latest - int(np.argmin(joints)))
    return [slice(a, b) for a, b in pairwise([*cuts, len(heat)])]


class _Draft:
    """The text as changed so far. A token that is gone keeps its index."""

    def __init__(self, ids: Int32[np.ndarray, " W"], heat: Float32[np.ndarray, " W"]) -> None:
        self._ids, self.heat = ids, heat
        self._now = ids.copy()
        self._gain = np.zeros(len(ids), np.float64)

    def window(self, core: slice, context: int) -> RepairWindow:
        """A core between its neighbours as they are now; the uid of a token is its index."""
        reach = 2 * context  # a few of them may be gone
        left = self._alive(max(core.start - reach, 0), core.start)[-context:]
        right = self._alive(core.stop, min(core.stop + reach, len(self._ids)))[:context]
        index = np.concatenate([left, np.arange(core.start, core.stop), right])
        heat = np.where((index >= core.start) & (index < core.stop), self.heat[index], np.float32(0))
        return RepairWindow.of(self._now[index], heat, uid=index)

    def _alive(self, start: int, stop: int) -> np.ndarray:
        return start + np.flatnonzero(self._now[start:stop] != _GONE)

    def take(self, windows: Sequence[RepairWindow], proposals: Sequence[Proposal]) -> None:
        """Carry out proposals: the greater gain wins, then the earlier."""
        home = {uid: w for w in windows for uid in w.uid[w.heat > 0].tolist()}
        found = [(_run(home, p), p) for p in proposals]
        taken: Bool[np.ndarray, " W"] = np.zeros(len(self._ids), np.bool_)
        for run, p in sorted(found, key=lambda f: (-f[1].gain, f[0].start)):
            if not taken[run].any():
                taken[run] = True
                self._replace(run, p)

    def _replace(self, run: slice, proposal: Proposal) -> None:
        """New tokens stand where the run begins, but for those at its end that stay as they are."""
        old, new = self._ids[run], np.asarray(proposal.new_ids, np.int32)
        now = np.full(len(old), _GONE, np.int32)
        same = np.flatnonzero(old[len(old) - len(new) :] != new)
        tail = len(new) - 1 - int(same[-1]) if len(same) else len(new)
        now[: len(new) - tail] = new[: len(new) - tail]
        now[len(old) - tail :] = new[len(new) - tail :]
        self._now[run] = now
        changed = now != old
        self._gain[run] = proposal.gain / max(int(changed.sum()), 1)

    @property
    def changes(self) -> tuple[Change, ...]:
        """Whatever is not as it was."""
        return tuple(
            Change(
                index=i,
                old_id=int(self._ids[i]),
                new_id=None if self._now[i] == _GONE else int(self._now[i]),
                heat=float(self.heat[i]),
                gain=float(self._gain[i]),
            )
            for i in np.flatnonzero(self._now != self._ids).tolist()
        )


def _run(home: dict[int, RepairWindow], proposal: Proposal) -> slice:
    """Where in the text a proposal's run stands."""
    window = home.get(int(proposal.uid[0])) if len(proposal.uid) else None
    within = window.run(proposal) if window is not None else None
    if window is None or within is None or not np.all(window.heat[within] > 0):
        raise InvalidInput(
            f"repairer: expected a run of unlocked tokens, got uids {proposal.uid.tolist()[:8]}; {_WRAP}"
        )
    if len(proposal.new_ids) > len(proposal.uid) or not np.isfinite(proposal.gain):
        raise InvalidInput(
            f"repairer: expected at most {len(proposal.uid)} new ids and a finite gain, got "
            f"{len(proposal.new_ids)} and {proposal.gain}; {_WRAP}"
        )
    if any(not 0 <= i < 2**31 for i in proposal.new_ids.tolist()):
        raise InvalidInput(f"repairer: expected new ids from 0 on, got {proposal.new_ids.tolist()}; {_WRAP}")
    return slice(int(proposal.uid[0]), int(proposal.uid[0]) + len(proposal.uid))


_WRAP = "wrap it in guard.Guarded, which drops and counts such proposals"
