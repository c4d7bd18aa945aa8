# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A denoiser over the host's own tokens as a repairer: ids and heat in, ids out, and no text in between.

    window -> Sheet: what is doomed becomes a few masks, heat becomes the noise level of each token
    sheets -> one pass over all of them, in padded batches -> the likeliest token at each place in question
    place  -> keep | substitute | delete (the pad: nothing belongs here) | a doomed run in fewer tokens

Knows windows and denoisers. Must not know text, tokenizers, hosts or files. Axes: W tokens of a window,
T of a row, B rows, N places asked about, V vocabulary, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, RepairWindow
from haloweave.repair.masked.rows import MASKED, Guess, Row, batches, cut
from haloweave.repair.verdicts import judgement


@dataclass(frozen=True, eq=False)
class Sheet:
    """A window as the denoiser reads it."""

    window: RepairWindow
    row: Row
    """Its `old` at a mask is the pad: what would stand there otherwise is nothing."""
    runs: tuple[tuple[slice, int], ...]
    """What is asked about, in the order of the text: a run of the window, and how many places of the row."""
    nothing: int
    """The pad's id."""

    def proposals(self, guess: Guess, margin: float) -> Iterator[Proposal]:
        """Those answers that win more than `margin` nats. Keeping wins nothing, whatever is kept."""
        best, won = guess.ids[:, 0], guess.nats[:, 0].astype(np.float64) - guess.old
        at = 0
        for run, places in self.runs:
            new, gain = best[at : at + places], float(won[at : at + places].sum())
            at += places
            if gain > margin:
                yield Proposal(self.window.uid[run].copy(), new[new != self.nothing].astype(np.int32), gain)


@dataclass
class DenoiserRepairer:
    """Proposes what a denoiser that was trained on scars (`haloweave.diffusion.scars`) would rather see.

    A visible token's gain is log p of the answer less log p of what stands there, in nats; a doomed run's is
    log p of its new tokens less log p that nothing belongs there. An editor's are those of its decisions. All
    places are answered in one pass, independently of each other. The denoiser is put in evaluation mode.
    Raises InvalidInput for a denoiser without heat or without a pad, or of another vocabulary.
    """

    denoiser: Denoiser
    vocabulary: int
    """Ids 0..vocabulary-1 are the host's; the denoiser's own come behind them, and are never proposed."""
    control_ids: frozenset[int] = frozenset()
    """Never proposed, and locked where they stand."""
    cutoff: float = 0.5
    """Visible tokens of at least this heat are asked about."""
    margin: float = 0.0
    """Nats that an answer must win."""
    fill: int = 4
    """Masks that a doomed run becomes, at most, and always fewer than it is long: a lone one just goes."""
    batch_tokens: int = 4096
    """Tokens of one pass, padding included."""
    temperature: float = 1.0
    """Of an editor's decisions, as calibrated."""

    def __post_init__(self) -> None:
        config = self.denoiser.config
        if not config.time_conditioning or config.pad_id is None:
            raise InvalidInput(
                f"repair by a denoiser: expected one with time_conditioning, which hears heat, and a pad, "
                f"which says delete; got time_conditioning {config.time_conditioning} and pad "
                f"{config.pad_id}; train one with --corruption scars --set time_conditioning=true"
            )
        if not 0 < self.vocabulary <= config.vocab_size:
            raise InvalidInput(
                f"repair by a denoiser: expected the tokens of a host, got {self.vocabulary} and a "
                f"denoiser of {config.vocab_size}; train it with the host's vocabulary"
            )
        numbers = math.isfinite(self.cutoff) and math.isfinite(self.margin)
        if not numbers or min(self.cutoff, self.margin, self.fill) < 0 or self.batch_tokens < 1:
            raise InvalidInput(
                f"repair by a denoiser: expected cutoff, margin and fill of at least 0 and batches of at "
                f"least 1 token, got {self.cutoff}, {self.margin}, {self.fill} and {self.batch_tokens}"
            )
        self._pad, self._mask = config.pad_id, config.mask_id
        self._open = np.ones(config.vocab_size, np.bool_)
        self._open[self.vocabulary :] = False
        self._open[[self._mask, self._pad, *(i for i in self.control_ids if i < self.vocabulary)]] = False
        self._locked = np.isin(np.arange(config.vocab_size), list(self.control_ids))
        self._place = next(self.denoiser.parameters()).device
        self.denoiser.eval()
        self._judge = judgement(self.denoiser, self._tensor(self._open), self.temperature)

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        """See `Repairer.propose`. Raises InvalidInput for ids that are not the host's, EngineFault if the
        denoiser's numbers are not finite."""
        sheets = [sheet for window in windows if (sheet := self._sheet(window)).runs]
        guesses = self._predict([s.row for s in sheets])
        return tuple(
            p
            for sheet, guess in zip(sheets, guesses, strict=True)
            for p in sheet.proposals(guess, self.margin)
        )

    # ---- what it reads -------------------------------------------------------------------------------

    def _sheet(self, window: RepairWindow) -> Sheet:
        """Each token by itself, but as many doomed ones in a row as are all hot, or all locked, together.

        These are not shown, for they go: a hot run leaves masks; a locked one none, for it may not become
        anything."""
        self._check(window)
        warm = window.heat > 0
        begins = ~window.doomed | ~_before(window.doomed) | (warm != _before(warm))
        start = np.flatnonzero(begins)
        length = np.diff(start, append=len(window))
        doomed, token = window.doomed[start], window.token_id[start].astype(np.int64)
        masks = np.where(warm[start], np.minimum(self.fill, length - 1), 0)
        shown = np.where(doomed, masks, 1)
        heat = np.where(self._locked[token], np.float32(0), window.heat[start])
        ids = np.repeat(np.where(doomed, self._mask, token), shown)
        warmth = np.repeat(np.where(doomed, np.float32(MASKED), heat), shown)
        asked = (shown > 0) & (doomed | self._askable(window)[start])
        at = np.flatnonzero(np.repeat(asked, shown))
        row = Row(ids, warmth, at, np.where(ids[at] == self._mask, self._pad, ids[at]))
        runs = zip(start[asked].tolist(), length[asked].tolist(), shown[asked].tolist(), strict=True)
        return Sheet(window, row, tuple((slice(n, n + size), places) for n, size, places in runs), self._pad)

    def _askable(self, window: RepairWindow) -> Bool[np.ndarray, " W"]:
        hot: np.ndarray = (window.heat > 0) & (window.heat >= self.cutoff) & self._open[window.token_id]
        return hot

    def _check(self, window: RepairWindow) -> None:
        ids = window.token_id
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.vocabulary:
            raise InvalidInput(
                f"window: expected ids in 0..{self.vocabulary - 1}, the vocabulary that the denoiser was "
                f"trained on, got {ids.min()}..{ids.max()}: another host's?"
            )

    # ---- what it answers -----------------------------------------------------------------------------

    def _predict(self, rows: Sequence[Row]) -> list[Guess]:
        """The likeliest token at each place of each row; a row too long for one pass in overlapping pieces,
        of which each place is answered by the one that shows most text on its poorer side."""
        room = self.denoiser.config.max_len
        pieces = [(n, mine, piece) for n, row in enumerate(rows) for piece, mine in cut(row, room)]
        found = [Guess(np.zeros((len(r.at), 1), np.int64), *_zeros(len(r.at))) for r in rows]
        for batch in batches([len(piece) for _, _, piece in pieces], self.batch_tokens):
            ids, nats, old = self._pass([pieces[i][2] for i in batch])
            ends = np.cumsum([len(pieces[i][2].at) for i in batch])[:-1]
            for i, *told in zip(batch, *(np.split(a, ends) for a in (ids, nats, old)), strict=True):
                row, mine, _ = pieces[i]
                found[row].ids[mine, 0], found[row].nats[mine, 0], found[row].old[mine] = told
        return found

    @torch.inference_mode()
    def _pass(self, pieces: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One padded batch; what is said of the places in question alone."""
        longest = max(map(len, pieces))
        ids = np.full((len(pieces), longest), self._pad, np.int64)
        heat = np.zeros(ids.shape, np.float32)
        for n, piece in enumerate(pieces):
            ids[n, : len(piece)], heat[n, : len(piece)] = piece.ids, piece.heat
        shown = self._tensor(ids)
        states = self.denoiser.hidden(shown, self._tensor(heat)).tokens
        which = self._tensor(np.repeat(np.arange(len(pieces)), [len(p.at) for p in pieces]))
        at = self._tensor(np.concatenate([piece.at for piece in pieces]))
        said = self._judge(states[which, at], shown[which, at])
        return said.best.cpu().numpy(), said.nats.cpu().numpy(), said.before.cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._place)


def _before(column: Bool[np.ndarray, " W"]) -> Bool[np.ndarray, " W"]:
    """What the token before has; before the first one there is none."""
    shifted: np.ndarray = np.roll(column, 1)
    shifted[:1] = False
    return shifted


def _zeros(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((size, 1), np.float32), np.zeros(size, np.float32)
