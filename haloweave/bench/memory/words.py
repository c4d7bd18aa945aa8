# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The control for repair: the same places change, into words that mean nothing there.

Knows repairers. Must not know models or minds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from haloweave.repair.base import Proposal, Repairer, RepairWindow


@dataclass(frozen=True)
class RandomWords:
    """What another repairer proposes, with tokens of the same window, drawn by lot, in place of its own."""

    repairer: Repairer
    seed: int = 0

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        owner = {int(uid): window for window in windows for uid in window.uid}
        return tuple(
            self._other(proposal, owner[int(proposal.uid[0])]) for proposal in self.repairer.propose(windows)
        )

    def _other(self, proposal: Proposal, window: RepairWindow) -> Proposal:
        rng = np.random.default_rng((self.seed, int(proposal.uid[0])))
        drawn = rng.choice(window.token_id, len(proposal.new_ids))
        return replace(proposal, new_ids=drawn.astype(np.int32))
