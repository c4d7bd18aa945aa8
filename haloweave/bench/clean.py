# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Restraint: how much a repairer changes in a text that has no scar, where everything is equally dim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from haloweave.repair.base import Repairer
from haloweave.repair.diff import repair


@dataclass(frozen=True)
class Restraint:
    """Changes made to clean text."""

    repairer: str
    tokens: int
    changes: int

    @property
    def share(self) -> float:
        return self.changes / self.tokens if self.tokens else 0.0


def restraint(name: str, repairer: Repairer, texts: Sequence[np.ndarray], heat: float = 1.0) -> Restraint:
    """Repair clean texts, every token of which has this heat."""
    changes = [repair(ids, np.full(len(ids), heat, np.float32), repairer, lock=1.0) for ids in texts]
    return Restraint(name, sum(len(ids) for ids in texts), sum(map(len, changes)))
