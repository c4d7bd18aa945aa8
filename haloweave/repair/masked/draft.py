# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One window on its way through a masked LM: which holes are open, what the model reads, what it answered.

Knows the bridge, heat and rows. Must not know torch or a model. Axes: W host tokens, T MLM tokens.

A hole is open (asked about in this pass), filled (with an answer that crossed the bridge, else with what was
there), or waits. Masked LMs predict holes of one pass independently of each other, so what is not open is
shown as it is going to stand: an answer that cannot be written is never shown to later passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from haloweave.repair.base import Proposal, RepairWindow
from haloweave.repair.masked.bridge import Bridge, BridgeCounts, Crossing, Hole
from haloweave.repair.masked.rows import MASKED, Guess, Row


@dataclass(frozen=True)
class Answer:
    """What came of one hole in the last pass that asked about it."""

    fill: tuple[int, ...] | None
    """MLM tokens that stand there now; None: the original."""
    nats: float
    """How sure the model was, per token."""
    proposals: tuple[Proposal, ...]
    counts: BridgeCounts


class Draft:
    """A window, its holes and their answers. `hot`: positions to ask about; `heat`: as the rows show it."""

    def __init__(
        self,
        bridge: Bridge,
        window: RepairWindow,
        heat: Float32[np.ndarray, " W"],
        hot: Bool[np.ndarray, " W"],
        doomed: Bool[np.ndarray, " W"],
    ) -> None:
        self._bridge, self._window = bridge, window
        self._alignment = bridge.align(window.token_id)
        free = ~self._alignment.control
        self.holes, self._counts = bridge.holes(self._alignment, hot & free, doomed & free)
        self._counts += BridgeCounts(impossible_position=int(((hot | doomed) & ~free).sum()))
        self._heat = self._mlm_heat(heat)
        self._doomed = frozenset(n for n, h in enumerate(self.holes) if doomed[h.host].all())
        self._answers: dict[int, Answer] = {}
        self._open: tuple[int, ...] = ()

    def _mlm_heat(self, heat: Float32[np.ndarray, " W"]) -> Float32[np.ndarray, " T"]:
        """The heat of each MLM token: of the coldest host token in its block, so that what is locked stays
        clean."""
        found = np.zeros(len(self._alignment.mlm_ids), np.float32)
        for block in self._alignment.blocks:
            found[block.mlm] = heat[block.host].min()
        return found

    @property
    def counts(self) -> BridgeCounts:
        """What became of everything in this window."""
        told = sum((a.counts for a in self._answers.values()), self._counts)
        return told + BridgeCounts(waiting=len(self.holes) - len(self._answers))

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        """In the order of the text."""
        return tuple(p for n in sorted(self._answers) for p in self._answers[n].proposals)

    # ---- what the model reads --------------------------------------------------------------------

    def open(self, share: float, spacing: int) -> bool:
        """Choose the holes of the next pass: those never asked about, hottest first; once there are none,
        this share of all, the least sure. False if there is nothing to ask."""
        waiting = [n for n in range(len(self.holes)) if n not in self._answers]
        if waiting:
            heat = self._window.heat
            ranked = sorted(
                waiting, key=lambda n: (n not in self._doomed, -float(heat[self.holes[n].host].min()), n)
            )
        else:
            ranked = sorted(self._answers, key=lambda n: (self._answers[n].nats, n))
            ranked = ranked[: int(share * len(ranked))]
        self._open = tuple(sorted(self._apart(ranked, spacing)))
        return bool(self._open)

    def _apart(self, ranked: Sequence[int], spacing: int) -> list[int]:
        """Those that keep at least `spacing` MLM tokens from each other, first come first served."""
        near = np.zeros(len(self._alignment.mlm_ids) + 2 * spacing, np.bool_)
        chosen = []
        for n in ranked:
            mlm = self.holes[n].mlm
            if not near[mlm.start + spacing : mlm.stop + spacing].any():
                chosen.append(n)
                near[mlm.start : mlm.stop + 2 * spacing] = True
        return chosen

    def rows(self) -> list[Row]:
        """The window with its open holes; and, if several tokens were masked as one, a second row that asks
        how likely they themselves are, under as many masks."""
        joined = [n for n in self._open if self.holes[n].joined]
        rows = [self._row(self._open, {n: self.holes[n].masks for n in self._open})]
        if joined:
            rows.append(self._row(joined, {n: self.holes[n].width for n in self._open}))
        return rows

    def _row(self, asked: Sequence[int], masks: dict[int, int]) -> Row:
        mlm_ids, end = self._alignment.mlm_ids, 0
        ids: list[np.ndarray] = []
        heat: list[np.ndarray] = []
        at: list[np.ndarray] = []
        old: list[np.ndarray] = []
        size = 0
        for n, hole in enumerate(self.holes):
            shown, warm = self._shown(n, masks.get(n))
            ids += [mlm_ids[end : hole.mlm.start], shown]
            heat += [self._heat[end : hole.mlm.start], warm]
            size += hole.mlm.start - end
            if n in asked:
                at.append(np.arange(size, size + len(shown)))
                old.append(mlm_ids[hole.mlm][: len(shown)])
            size, end = size + len(shown), hole.mlm.stop
        ids.append(mlm_ids[end:])
        heat.append(self._heat[end:])
        return Row(
            np.concatenate(ids),
            np.concatenate(heat).astype(np.float32),
            np.concatenate(at).astype(np.int64),
            np.concatenate(old).astype(np.int64),
        )

    def _shown(self, n: int, masks: int | None) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        """The tokens in a hole, and their heat: masks if it is open, clean if not."""
        hole, answer = self.holes[n], self._answers.get(n)
        original = self._alignment.mlm_ids[hole.mlm]
        if masks is None:
            fill = answer.fill if answer is not None else None
            shown = original if fill is None else np.array(fill, np.int64)
            return shown, np.zeros(len(shown), np.float32)
        if n in self._doomed or hole.joined or answer is not None:
            return original[:masks], np.full(masks, MASKED, np.float32)
        return original, self._heat[hole.mlm]

    # ---- what it answered ------------------------------------------------------------------------

    def take(self, guesses: Sequence[Guess]) -> None:
        """The answers to `rows`, in their order."""
        first, second = guesses[0], guesses[1] if len(guesses) > 1 else None
        at = extra = 0
        for n in self._open:
            hole = self.holes[n]
            mine = slice(at, at + hole.masks)
            at += hole.masks
            old = float(first.old[mine].sum())
            if second is not None and hole.joined:
                old = float(second.old[extra : extra + hole.width].sum())
                extra += hole.width
            self._answers[n] = self._answer(hole, first.ids[mine], first.nats[mine], old)
        self._open = ()

    def _answer(self, hole: Hole, ids: np.ndarray, nats: np.ndarray, old: float) -> Answer:
        """Bridge the choices for one hole. Several masks have one choice: the best at each."""
        choices = ids.T if hole.masks == 1 else ids.T[:1]
        counts, taken = BridgeCounts(), []
        for k, choice in enumerate(choices.tolist()):
            crossing = self._bridge.cross(self._alignment, hole, choice)
            won = float(nats[:, k].sum()) * hole.width / hole.masks - old
            if crossing.taken and not won > 0:
                counts += BridgeCounts(no_gain=1)
                continue
            counts += BridgeCounts.of(crossing.outcome)
            if crossing.taken:
                taken.append((tuple(choice), self._proposal(hole, crossing, won)))
        fill = taken[0][0] if taken else None
        return Answer(fill, float(nats[:, 0].mean()), tuple(p for _, p in taken), counts)

    def _proposal(self, hole: Hole, crossing: Crossing, won: float) -> Proposal:
        return Proposal(self._window.uid[hole.host].copy(), np.array(crossing.new_ids, np.int32), won)
