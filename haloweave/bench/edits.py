# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How well a denoiser decides what becomes of tokens: keep, substitute, delete; on held-out text full of
holes, wrong and needless tokens, with each token's heat beside it.

    soft    asked as a repairer asks: everything is shown, with its heat
    hard    asked the usual way, with the same trunk: what is hot is masked, and what the mask becomes decides

Half of the rows calibrate (a temperature; the margin that leaves clean text alone; the heat from which the
hard way masks), the other half is reported. Knows denoisers and noise. Must not know windows or tables.
Axes: R rows, T tokens of a row, N places asked about, V vocabulary; 3 decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.bench.stats import Interval
from haloweave.diffusion.checkpoint import Loaded
from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.denoisers.editor import DELETE, KEEP, SUBSTITUTE, Editor, decisions
from haloweave.diffusion.judging.calibration import Calibration, calibration
from haloweave.diffusion.scars import Scars
from haloweave.errors import InvalidInput

CUTOFFS = (0.0, 0.25, 0.5, 0.75)
RESTRAINT = 0.008
"""Share of clean text that may be changed where the margin is chosen, so that 1 % holds on other text too."""
_TEMPERATURES = np.geomspace(0.5, 2.0, 25)
_MARGINS = np.arange(0, 10.01, 0.25)
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Said:
    """Of every place asked about, what would be right and what a denoiser says."""

    row: Int[np.ndarray, " N"]
    visible: Bool[np.ndarray, " N"]
    """Whether a token is shown there, and no mask."""
    right: Int[np.ndarray, " N"]
    log_p: Float[np.ndarray, "N 3"]
    hit: Bool[np.ndarray, " N"]
    """Whether the token it would put there is the one that stood there ..."""
    sure: Float[np.ndarray, " N"]
    """... and how sure it is of that token, given that something is substituted."""

    def tempered(self, temperature: float) -> Said:
        scaled = self.log_p / temperature
        return replace(self, log_p=scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))

    def decided(self, margin: float = 0.0) -> Int[np.ndarray, " N"]:
        """The likeliest decision; a visible token is kept unless another wins more than `margin` nats."""
        best = self.log_p.argmax(1)
        won = self.log_p.max(1) - self.log_p[:, KEEP]
        return np.where(self.visible & (won <= margin), KEEP, best)


@dataclass(frozen=True, eq=False)
class Edits:
    """What came of it."""

    temperature: float
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
    token_ece: Calibration
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
        """Calibrate on the first half of the rows, report on the second."""
        known, new = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        before, noisy = self._worn(known, seed), self._worn(new, seed + 1)
        tried = self._said(before)
        temperature = min(_TEMPERATURES, key=lambda t: _nll(tried.tempered(t)))
        margin = self._margin(self._said(_clean(known)).tempered(temperature))
        cutoff = max(CUTOFFS, key=lambda c: macro(*self._hard(before, c)))
        soft, clean = self._said(noisy).tempered(temperature), self._said(_clean(new)).tempered(temperature)
        hard, right = self._hard(noisy, cutoff)
        each, held = f1(soft.decided(), soft.right), soft.decided(margin)
        changed, wrong = soft.visible & (held != KEEP), soft.visible & (soft.right != KEEP)
        put = (soft.right == SUBSTITUTE) & (soft.decided() == SUBSTITUTE)
        return Edits(
            temperature=float(temperature),
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
            token_ece=calibration(soft.sure[put], soft.hit[put]),
            places=len(soft.right),
            clean_tokens=len(clean.right),
        )

    def _worn(self, rows: Int[Tensor, "R T"], seed: int) -> Corrupted:
        generator = torch.Generator().manual_seed(seed)
        return self.noise(rows, torch.rand(len(rows), generator=generator), generator)

    def _margin(self, clean: Said) -> float:
        """The smallest that leaves clean text alone; the largest there is where none does."""
        fits = (m for m in _MARGINS if (clean.decided(m) != KEEP).mean() <= RESTRAINT)
        return float(next(fits, _MARGINS[-1]))

    def _said(self, noisy: Corrupted) -> Said:
        parts = [self._asked(part, row) for part, row in _batches(noisy)]
        return Said(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @torch.inference_mode()
    def _asked(self, noisy: Corrupted, first: int) -> tuple[np.ndarray, ...]:
        config = self.denoiser.config
        asked = noisy.weight > 0
        states = self.denoiser.hidden(noisy.xt, noisy.rate).tokens[asked]
        shown, target = noisy.xt[asked], noisy.x0[asked]
        log_p, best, sure = self._answers(states, shown)
        row = first + torch.nonzero(asked)[:, 0]
        right = decisions(shown, target, config.pad_id)
        told = (row, shown != config.mask_id, right, log_p.double(), best == target, sure)
        return tuple(t.numpy() for t in told)

    def _answers(
        self, states: Float[Tensor, "N D"], shown: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, "N 3"], Int[Tensor, " N"], Float[Tensor, " N"]]:
        """Log p of the decisions, the token to put there, and how sure that is."""
        parts = [
            self._some(*some) for some in zip(torch.split(states, 256), torch.split(shown, 256), strict=True)
        ]
        log_p, best, sure = (torch.cat(column) for column in zip(*parts, strict=True))
        return log_p, best, sure

    def _some(self, states: Float[Tensor, "N D"], shown: Int[Tensor, " N"]) -> tuple[Tensor, Tensor, Tensor]:
        config = self.denoiser.config
        pad = config.pad_id or 0
        logits = self.denoiser.logits(states).float()
        if isinstance(self.denoiser, Editor):
            log_p = self.denoiser.edits(states, shown)
        else:
            log_p = _of_tokens(logits, shown, config.mask_id, pad)
        logits.index_fill_(1, self.barred, -torch.inf)
        logits[:, pad] = -torch.inf
        logits.scatter_(1, shown[:, None], -torch.inf)
        sure, best = logits.softmax(-1).max(-1)
        return log_p, best, sure

    @torch.inference_mode()
    def _hard(self, noisy: Corrupted, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
        """Decisions by masking all that is hotter than `cutoff`, and the right ones. A deletion is what the
        trunk says of a mask: an editor by its decision, another denoiser by the pad."""
        config, found = self.denoiser.config, []
        for part, _ in _batches(noisy):
            asked = part.weight > 0
            hot = asked & (part.rate > cutoff)
            xt = part.xt.masked_fill(hot, config.mask_id)
            states = self.denoiser.hidden(xt, torch.where(hot, 1.0, part.rate)).tokens[asked]
            shown, masked = part.xt[asked], hot[asked]
            decided = torch.where(masked, self._filled(states, shown), KEEP)
            found.append((decided, decisions(shown, part.x0[asked], config.pad_id)))
        said, wanted = (torch.cat(column) for column in zip(*found, strict=True))
        return said.numpy(), wanted.numpy()

    def _filled(self, states: Float[Tensor, "N D"], shown: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        config, parts = self.denoiser.config, []
        for some, old in zip(torch.split(states, 256), torch.split(shown, 256), strict=True):
            best = self.denoiser.logits(some).float().argmax(-1)
            gone = torch.isin(best, torch.tensor([-1 if config.pad_id is None else config.pad_id]))
            if isinstance(self.denoiser, Editor):
                gone = self.denoiser.edits(some, torch.full_like(old, config.mask_id)).argmax(-1) == DELETE
            parts.append(torch.where(gone, DELETE, torch.where(best == old, KEEP, SUBSTITUTE)))
        return torch.cat(parts)


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


def _of_tokens(
    logits: Float[Tensor, "N V"], shown: Int[Tensor, " N"], mask: int, pad: int
) -> Float[Tensor, "N 3"]:
    """A denoiser without decisions of its own: what stands there is kept, the pad deletes, all else
    substitutes."""
    p = logits.softmax(-1)
    kept = torch.where(shown == mask, 0.0, p.gather(1, shown[:, None])[:, 0])
    gone = p[:, pad]
    return torch.stack([kept, (1 - kept - gone).clamp(min=0), gone], 1).clamp(min=1e-30).log()


def _clean(rows: Int[Tensor, "R T"]) -> Corrupted:
    """Nothing was taken from it, and all of it is dim."""
    one = torch.ones(rows.shape)
    return Corrupted(rows, rows, one, one)


def _batches(noisy: Corrupted) -> Iterator[tuple[Corrupted, int]]:
    for at in range(0, len(noisy.xt), _BATCH):
        yield noisy.rows(slice(at, at + _BATCH)), at


def _nll(said: Said) -> float:
    return -float(said.log_p[np.arange(len(said.right)), said.right].mean())


def _share(of: np.ndarray, among: np.ndarray) -> float:
    return float(of[among].mean()) if among.any() else 0.0
