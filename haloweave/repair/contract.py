# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The contract of repairers: what any `Repairer` must keep, whatever it is made of.

Knows windows and proposals. Must not know how a repairer works. The tests run it over every repairer there
is; run it over your own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from haloweave.repair.base import Proposal, Repairer, RepairWindow


def examine(
    repairer: Repairer,
    windows: Sequence[RepairWindow],
    *,
    vocabulary: int,
    control_ids: frozenset[int] = frozenset(),
) -> list[str]:
    """Every breach of the contract on these windows, in words; an empty list if it was kept.

    The repairer is asked twice. Uids must be unique over all windows.
    """
    before = [_columns(w) for w in windows]
    proposals = repairer.propose(windows)
    found = list(breaches(windows, proposals, vocabulary=vocabulary, control_ids=control_ids))
    if [_told(p) for p in repairer.propose(windows)] != [_told(p) for p in proposals]:
        found.append("the same windows gave other proposals the second time")
    if [_columns(w) for w in windows] != before:
        found.append("a window was changed")
    return found


def breaches(
    windows: Sequence[RepairWindow],
    proposals: Sequence[Proposal],
    *,
    vocabulary: int,
    control_ids: frozenset[int] = frozenset(),
) -> Iterator[str]:
    """What is wrong with proposals for these windows."""
    for n, proposal in enumerate(proposals):
        for fault in _faults(windows, proposal, vocabulary, control_ids):
            yield f"proposal {n} ({proposal.uid.tolist()} -> {proposal.new_ids.tolist()}): {fault}"


def _faults(
    windows: Sequence[RepairWindow], proposal: Proposal, vocabulary: int, control_ids: frozenset[int]
) -> Iterator[str]:
    new = proposal.new_ids.tolist()
    if not math.isfinite(proposal.gain):
        yield f"its gain is {proposal.gain}"
    if any(not 0 <= i < vocabulary for i in new):
        yield f"ids outside 0..{vocabulary - 1}"
    if control_ids.intersection(new):
        yield "it brings in control tokens"
    if len(new) > len(proposal.uid):
        yield f"{len(new)} tokens for {len(proposal.uid)}"
    places = [(w, run) for w in windows if (run := w.run(proposal)) is not None]
    if not places:
        yield "its run is not one unbroken stretch of one window"
    for window, run in places:
        if not (window.heat[run] > 0).all():
            yield "it changes a locked token"
        if window.token_id[run].tolist() == new:
            yield "it changes nothing"


def _columns(window: RepairWindow) -> tuple[bytes, ...]:
    return tuple(c.tobytes() for c in (window.uid, window.token_id, window.heat, window.doomed))


def _told(proposal: Proposal) -> tuple[list[int], list[int], float]:
    return proposal.uid.tolist(), proposal.new_ids.tolist(), proposal.gain
