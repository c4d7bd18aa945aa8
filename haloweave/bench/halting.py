# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How many block passes halting saves a trained hierarchical denoiser, and what that does to its bound.

Held-out text is split in two by documents. On one half every threshold is tried; of those whose bound is, at
the upper end of the interval, no more than a share worse than that of all passes, the one that saves most is
taken; the other half says whether that holds. Rows, masks and draws are the same at every threshold.

Knows the hierarchical denoiser and held-out rows. Must not know files or screens. Axes: N rows, T sequence,
V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from haloweave.diffusion import build
from haloweave.diffusion.denoisers.hierarchical import Hierarchical
from haloweave.diffusion.errors import BadInput, TooLittleText
from haloweave.diffusion.judging.held import Held
from haloweave.diffusion.judging.intervals import Interval, ratio
from haloweave.diffusion.likelihood import nelbo_estimate
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.reader import at_rest, device_of

THRESHOLDS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Mark:
    """What halting is to reach."""

    saved: float = 0.3
    """Share of block passes."""
    worse: float = 0.01
    """Relative change of the bound, at the upper end of its interval."""


@dataclass(frozen=True, eq=False)
class Bounded:
    """The bound of each row, and what it took."""

    nats: Float[np.ndarray, " N"]
    passes: Float[np.ndarray, " N"]
    """Block passes of each row, over its draws."""
    seconds: float


@dataclass(frozen=True)
class Halted:
    """One threshold, beside all passes on the same rows."""

    threshold: float
    saved: Interval
    """Share of block passes that were not made."""
    worse: Interval
    """Relative change of the bound; above 0 it is worse."""
    faster: float
    """Seconds of all passes over those with halting."""

    def keeps(self, mark: Mark) -> bool:
        return self.worse.high <= mark.worse

    def reaches(self, mark: Mark) -> bool:
        return self.keeps(mark) and self.saved.value >= mark.saved


@dataclass(frozen=True)
class Found:
    """The sweep on one half; the chosen threshold on the other, or None where none keeps the bound."""

    sweep: tuple[Halted, ...]
    chosen: float | None
    confirmed: Halted | None
    rows: tuple[int, int] = field(default=(0, 0))
    """Of each half."""


def find(
    denoiser: Hierarchical,
    held: Held,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    mark: Mark = Mark(),
    draws: int = 2,
    seed: int = 0,
    batch: int = 4,
    progress: Progress = silent,
) -> Found:
    """Sweep, choose, confirm. Raises BadInput for thresholds that are none, TooLittleText for fewer than four
    rows."""
    if not thresholds or min(thresholds) <= 0:
        raise BadInput(f"halting: expected thresholds above 0, got {list(thresholds)}")
    one, other = halves(held)
    todo = [None, *sorted(thresholds)]
    measured: list[Bounded] = []
    for done, threshold in enumerate(todo):
        progress("sweeping thresholds", done, len(todo))
        measured.append(bounded(denoiser, one, threshold, draws=draws, seed=seed, batch=batch))
    sweep = tuple(
        _beside(measured[0], m, t, one) for m, t in zip(measured[1:], sorted(thresholds), strict=True)
    )
    chosen = choice(sweep, mark)
    if chosen is None:
        return Found(sweep, None, None, (len(one.rows), len(other.rows)))
    progress("confirming on the other half", 0, None)
    full, halted = (
        bounded(denoiser, other, t, draws=draws, seed=seed + 1, batch=batch) for t in (None, chosen)
    )
    return Found(sweep, chosen, _beside(full, halted, chosen, other), (len(one.rows), len(other.rows)))


def choice(sweep: Sequence[Halted], mark: Mark) -> float | None:
    """The threshold that saves most among those that keep the bound."""
    kept = [h for h in sweep if h.keeps(mark)]
    return max(kept, key=lambda h: h.saved.value).threshold if kept else None


def halves(held: Held) -> tuple[Held, Held]:
    """Every second document, and the others; rows, where documents are few. Raises TooLittleText."""
    units = held.units()
    _, number = np.unique(units, return_inverse=True)
    parts = tuple(np.flatnonzero(number % 2 == side) for side in (0, 1))
    if min(map(len, parts)) < 2:
        raise TooLittleText(f"halting: expected four rows or more, got {len(held.rows)}; give more text")
    one, other = (_only(held, rows) for rows in parts)
    return one, other


def _only(held: Held, rows: Int[np.ndarray, " K"]) -> Held:
    documents = None if held.documents is None else held.documents[rows]
    scripts = tuple(held.scripts[i] for i in rows)
    return replace(held, rows=held.rows[rows], bytes=held.bytes[rows], scripts=scripts, documents=documents)


def bounded(
    denoiser: Hierarchical, held: Held, threshold: float | None, *, draws: int, seed: int, batch: int
) -> Bounded:
    """Each row's bound with rows that halt at this threshold (None: never)."""
    counting = _Counting(_halting_at(denoiser, threshold))
    generator, config = torch.Generator().manual_seed(seed), denoiser.config
    nats, passes, started = [], [], time.perf_counter()
    with at_rest(counting.predict):
        for at in range(0, len(held.rows), batch):
            x0 = held.rows[at : at + batch].to(device_of(denoiser))
            drawn = nelbo_estimate(
                counting, x0, generator, draws=draws, mask_id=config.mask_id, pad_id=held.pad_id
            )
            nats.append(drawn.mean(0).cpu())
            passes.append(counting.taken())
    seconds = time.perf_counter() - started
    return Bounded(torch.cat(nats).numpy(), torch.cat(passes).double().numpy(), seconds)


def _halting_at(denoiser: Hierarchical, threshold: float | None) -> Hierarchical:
    """The same weights under another rule."""
    rule = (
        {"halting": "never"} if threshold is None else {"halting": "divergence", "halt_threshold": threshold}
    )
    config = replace(denoiser.config, **rule)
    with torch.random.fork_rng(devices=[]):
        own = replace(config, borrowed_dim=None, projection_rank=None, reads_fully=False)
        double = build.denoiser(own)
    assert isinstance(double, Hierarchical)
    for name, part in denoiser.named_children():  # the weights themselves, borrowed tables among them
        setattr(double, name, part)
    return double.eval()


class _Counting:
    """A predict that counts the passes of each row."""

    def __init__(self, denoiser: Hierarchical) -> None:
        self.predict, self._passes = denoiser, list[Tensor]()

    def __call__(
        self, xt: Int[Tensor, "B T"], t: Float[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B T V"]:
        hidden = self.predict.hidden(xt, t)
        assert hidden.passes is not None
        self._passes.append(hidden.passes.cpu())
        return self.predict.logits(hidden.tokens)

    def taken(self) -> Float[Tensor, " B"]:
        """Passes of each row since this was asked last."""
        total = torch.stack(self._passes).sum(0)
        self._passes.clear()
        return total


def _beside(full: Bounded, halted: Bounded, threshold: float, held: Held) -> Halted:
    units = held.units()
    saved = ratio(full.passes - halted.passes, full.passes, units)
    worse = ratio(halted.nats, full.nats, units).map(lambda x: x - 1)
    return Halted(threshold, saved, worse, full.seconds / halted.seconds)
