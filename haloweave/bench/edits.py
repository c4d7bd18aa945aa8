# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How well a denoiser decides what becomes of tokens: keep, substitute, delete; on held-out text full of
holes, wrong and needless tokens, with each token's heat beside it.

Asked softly, as a repairer asks, and hard, by masks (see `haloweave.bench.answers`). Half of the rows
calibrate (a temperature; the margin that leaves clean text alone; the heat from which the hard way masks),
the other half is reported. Knows noise and scores. Must not know windows or tables.
Axes: R rows, T tokens of a row, N places asked about, K barred tokens; 3 decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from haloweave.bench.answers import Asking, Said
from haloweave.bench.stats import Interval
from haloweave.diffusion.checkpoint import Loaded
from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.denoisers.editor import DELETE, KEEP, SUBSTITUTE, Editor
from haloweave.diffusion.judging.calibration import Calibration, calibration
from haloweave.diffusion.scars import Scars
from haloweave.errors import InvalidInput

CUTOFFS = (0.0, 0.25, 0.5, 0.75)
RESTRAINT = 0.008
"""Share of clean text that may be changed where the margin is chosen, so that 1 % holds on other text too."""
_TEMPERATURES = np.geomspace(0.5, 2.0, 25)
_MARGINS = np.arange(0, 10.01, 0.25)


@dataclass(frozen=True, eq=False)
class Edits:
    """What came of it."""

    temperature: float
    """Of an editor's decisions; 1 for another denoiser, which repair does not temper either."""
    margin: float
    cutoff: float
    """From which heat the hard way masks."""
    f1: dict[str, float]
    """Of the soft way: keep, substitute, delete, and macro (their mean); with a margin of 0."""
    f1_margin: float
    """Macro, with the calibrated margin."""
    f1_hard: float
    gain: Interval
    """Macro F1, soft less hard; rows are drawn again."""
    hits: float
    """Where something is rightly substituted, how often it is by the very token that stood there."""
    precision: float
    """With the margin: share of changed visible tokens that were wrong ..."""
    recall: float
    """... and of wrong ones that were changed."""
    clean: float
    """Share of clean tokens changed, all of them at heat 1."""
    decision_ece: Calibration
    token_ece: Calibration | None
    """None where nothing was rightly substituted."""
    places: int
    clean_tokens: int


@dataclass(frozen=True, eq=False)
class Bench:
    """A denoiser that hears heat, the noise it is asked about, and what it may not answer."""

    denoiser: Denoiser
    noise: Scars
    barred: Int[Tensor, " K"]

    @staticmethod
    def of(loaded: Loaded) -> Bench:
        """A trained denoiser under mixed noise: holes, wrong and needless tokens, on every row alike.

        Raises InvalidInput for one that hears no heat.
        """
        denoiser, tokenizer = loaded.denoiser, loaded.tokenizer
        if not denoiser.config.time_conditioning or denoiser.config.pad_id is None:
            raise InvalidInput("expected a denoiser that hears heat; train one with --corruption scars")
        special = tokenizer.special_ids
        noise = Scars(
            tokenizer.mask_id,
            tokenizer.pad_id,
            tokenizer.vocab_size,
            starts=tokenizer.starts_word,
            specials=special,
            protected=tuple(i for i in special if i not in (tokenizer.mask_id, tokenizer.pad_id)),
        )
        return Bench(denoiser.eval(), noise, torch.tensor(special))

    def measure(self, rows: Int[Tensor, "R T"], seed: int = 0) -> Edits:
        """Calibrate on the first half of the rows, report on the second. Raises InvalidInput for fewer than
        two, EngineFault for numbers that are not finite."""
        if len(rows) < 2:
            raise InvalidInput(
                f"expected two rows or more, half of them to calibrate, got {len(rows)}; give more text"
            )
        known, new = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        before, noisy = self._worn(known, seed), self._worn(new, seed + 1)
        ask = self._asking
        temperature = self._temperature(before)
        margin = self._margin(ask.soft(_clean(known)).tempered(temperature))
        cutoff = max(CUTOFFS, key=lambda c: macro(*ask.hard(before, c)))
        soft, clean = (ask.soft(text).tempered(temperature) for text in (noisy, _clean(new)))
        hard, right = ask.hard(noisy, cutoff)
        each, held = f1(soft.decided(), soft.right), soft.decided(margin)
        changed, wrong = soft.visible & (held != KEEP), soft.visible & (soft.right != KEEP)
        put = (soft.right == SUBSTITUTE) & (soft.decided() == SUBSTITUTE)
        return Edits(
            temperature=temperature,
            margin=margin,
            cutoff=cutoff,
            f1=dict(zip(("keep", "substitute", "delete"), each, strict=True))
            | {"macro": float(np.mean(each))},
            f1_margin=macro(held, soft.right),
            f1_hard=macro(hard, right),
            gain=_gain(soft.decided(), hard, soft.right, soft.row),
            hits=_share(soft.hit, put),
            precision=_share(wrong, changed),
            recall=_share(changed, wrong),
            clean=_share(clean.decided(margin) != KEEP, np.ones_like(clean.visible)),
            decision_ece=calibration(np.exp(soft.log_p.max(1)), soft.log_p.argmax(1) == soft.right),
            token_ece=calibration(soft.sure[put], soft.hit[put]) if put.any() else None,
            places=len(soft.right),
            clean_tokens=len(clean.right),
        )

    @cached_property
    def _asking(self) -> Asking:
        return Asking(self.denoiser, self.barred)

    def _temperature(self, worn: Corrupted) -> float:
        if not isinstance(self.denoiser, Editor):
            return 1.0
        tried = self._asking.soft(worn)
        return float(min(_TEMPERATURES, key=lambda t: _nll(tried.tempered(t))))

    def _worn(self, rows: Int[Tensor, "R T"], seed: int) -> Corrupted:
        generator = torch.Generator().manual_seed(seed)
        return self.noise(rows, torch.rand(len(rows), generator=generator), generator)

    def _margin(self, clean: Said) -> float:
        """The smallest that leaves clean text alone; the largest there is where none does."""
        fits = (m for m in _MARGINS if (clean.decided(m) != KEEP).mean() <= RESTRAINT)
        return float(next(fits, _MARGINS[-1]))


def f1(decided: Int[np.ndarray, " N"], right: Int[np.ndarray, " N"]) -> tuple[float, float, float]:
    """Of keep, substitute and delete; 0 for one that is neither said nor right."""
    found = []
    for kind in (KEEP, SUBSTITUTE, DELETE):
        said, is_ = decided == kind, right == kind
        found.append(2 * float((said & is_).sum()) / max(1, int(said.sum() + is_.sum())))
    return found[0], found[1], found[2]


def macro(decided: Int[np.ndarray, " N"], right: Int[np.ndarray, " N"]) -> float:
    """The mean F1 of the three."""
    return float(np.mean(f1(decided, right)))


def _gain(
    soft: np.ndarray, hard: np.ndarray, right: np.ndarray, row: np.ndarray, draws: int = 1000
) -> Interval:
    """Macro F1 of one less the other's, and its 95 % interval: rows are drawn again, by their counts."""
    counts = np.stack([_counts(said, right, row) for said in (soft, hard)])
    rng, size = np.random.default_rng(0), counts.shape[1]
    pick = rng.integers(0, size, (draws, size))
    scores = [_macro_of(counts[:, chosen].sum(1)) for chosen in pick]
    low, high = np.percentile([a - b for a, b in scores], [2.5, 97.5])
    a, b = _macro_of(counts.sum(1))
    return Interval(float(a - b), float(low), float(high))


def _counts(said: np.ndarray, right: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Of each row [R 3 3]: how often which decision was made where which was right."""
    found = np.zeros((int(row.max()) + 1, 3, 3))
    np.add.at(found, (row, said, right), 1)
    return found


def _macro_of(counts: np.ndarray) -> tuple[float, ...]:
    both = np.diagonal(counts, axis1=-2, axis2=-1)
    return tuple((2 * both / np.maximum(1, counts.sum(-1) + counts.sum(-2))).mean(-1).tolist())


def _clean(rows: Int[Tensor, "R T"]) -> Corrupted:
    """Nothing was taken from it, and all of it is dim."""
    one = torch.ones(rows.shape)
    return Corrupted(rows, rows, one, one)


def _nll(said: Said) -> float:
    return -float(said.log_p[np.arange(len(said.right)), said.right].mean())


def _share(of: np.ndarray, among: np.ndarray) -> float:
    return float(of[among].mean()) if among.any() else 0.0
