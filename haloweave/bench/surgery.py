# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Surgery against its alternative: an edit of the live cache, timed beside a fresh prefill of the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from haloweave import build
from haloweave.bench.decode import fill
from haloweave.memory.edit import Edit, Splice
from haloweave.memory.plan import delete, substitute
from haloweave.mind import Mind
from haloweave.settings import Settings


@dataclass(frozen=True)
class Cut:
    """Seconds of one kind of edit, run by run, and of prefilling the edited context instead."""

    name: str
    rows: int
    surgery: list[float]
    prefill: list[float]

    @property
    def ratio(self) -> float:
        """How many times faster: ratio of the medians."""
        return float(np.median(self.prefill) / np.median(self.surgery))


def surgery(loaded: Any, settings: Settings, rows: int = 4096, *, runs: int = 5) -> list[Cut]:
    """Cull 64 scattered tokens (DROP), substitute 8 scattered ones (PATCH); each beside a prefill."""
    mind = build.mind_of(settings.model_copy(update={"budget": rows + 64, "tail": 0.0}), loaded)
    rng = np.random.default_rng(0)
    fill(mind, rng.integers(100, mind.engine.capabilities.vocabulary - 100, rows))
    drops, patches, prefills = [], [], []
    for run in range(runs + 1):
        dead = rng.choice(mind.view.tokens.uid[4:], 64, replace=False)
        drop = _timed(mind.commit, delete(mind.view, dead.tolist()))
        fill(mind, rng.integers(100, 40_000, 64))
        edits = [int(u) for u in rng.choice(mind.view.tokens.uid[4:-1], 8, replace=False)]
        patch = _timed(mind.commit, _scattered(mind, edits, rng))
        if run:
            drops.append(drop)
            patches.append(patch)
        if 0 < run <= 3:
            prefills.append(_timed(mind.engine.kv.rebuild, mind.view.tokens.token_id))
    return [Cut("cull 64", rows, drops, prefills), Cut("substitute 8", rows, patches, prefills)]


def _scattered(mind: Mind, uids: list[int], rng: np.random.Generator) -> Edit:
    """One edit of eight separate substitutions."""
    view = mind.view
    splices: list[Splice] = []
    for n, uid in enumerate(sorted(uids, key=lambda u: int(view.tokens.slots_of([u])[0]))):
        (s,) = substitute(view, [uid], [int(rng.integers(100, 40_000))]).splices
        splices.append(replace(s, new=s.new.replace(uid=s.new.uid + n)))
    return replace(substitute(view, uids[:1], [0]), splices=tuple(splices))


def _timed(act: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    act(*arguments)
    return time.perf_counter() - start
