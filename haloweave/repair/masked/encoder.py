# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A masked language model as repair uses it: rows of ids and heat in, the likeliest tokens out.

Knows one Hugging Face model and its own tokens. Must not know host tokens, windows or files (see
`checkpoint.load`). Axes as in rows.py and softmask.py.

One forward pass a batch, and logits only at the positions asked for: with a vocabulary of 30,000, the head
costs more than the layers below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from tokenizers import Tokenizer
from torch import Tensor

from haloweave.errors import EngineFault, InvalidInput, ModelCorrupt, ModelUnsupported
from haloweave.repair.masked.rows import Guess, Row, batches, cut
from haloweave.repair.masked.softmask import Noise, mixed
from haloweave.repair.masked.subwords import Subwords
from haloweave.repair.mlm.score import head

_HEAD_ROWS = 256
"""Positions that go through the head at once: 256 rows over 50,000 words are 51 MB."""
_LONGEST = 512
"""Tokens that one pass may see, where the model allows more: attention costs their square."""


class MaskedLM:
    """Any Hugging Face masked LM with a mask token. `model` is not changed.

    `batch_tokens` bounds a forward pass, padding included. Raises ModelUnsupported if the model cannot be
    fed mixed embeddings: that is tried out, not guessed from its name.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        mask_id: int,
        *,
        batch_tokens: int = 4096,
        longest: int = _LONGEST,
    ) -> None:
        self.subwords = Subwords(tokenizer, mask_id)
        self._model, self._batch_tokens = model, batch_tokens
        self._words, self._head = model.get_input_embeddings(), _head(model)
        if self.subwords.size > self._words.num_embeddings:
            raise ModelCorrupt(
                f"{type(model).__name__}: the tokenizer's id {self.subwords.size - 1} has no row among "
                f"{self._words.num_embeddings} embeddings; they do not fit"
            )
        self.limit = min(longest, max_tokens(model))
        """Tokens that one pass may see, frame included."""
        self._frame = len(self.subwords.opening) + len(self.subwords.closing)
        if self.limit <= self._frame or batch_tokens < 1:
            raise InvalidInput(
                f"a masked LM needs room for more than its frame of {self._frame} tokens, got {self.limit} "
                f"and batches of {batch_tokens}"
            )
        self._rms = float(self._words.weight.detach().float().pow(2).mean().sqrt())
        self._probe()

    @property
    def architecture(self) -> str:
        return type(self._model).__name__

    @property
    def device(self) -> torch.device:
        device: torch.device = self._words.weight.device
        return device

    @property
    def word_rms(self) -> float:
        """Root mean square of the word embeddings: the unit of noise."""
        return self._rms

    def predict(self, rows: Sequence[Row], *, top: int = 1, noise: Noise | None = None) -> list[Guess]:
        """The `top` likeliest tokens at the positions each row asks for. A row that asks for nothing costs
        nothing. Raises EngineFault if the model's numbers are not finite."""
        cuts = [(n, mine, piece) for n, row in enumerate(rows) for piece, mine in self._pieces(row)]
        top = min(top, self._words.num_embeddings)
        found = [Guess(np.zeros((len(r.at), top), np.int64), *_zeros(len(r.at), top)) for r in rows]
        for batch in batches([len(piece) + self._frame for _, _, piece in cuts], self._batch_tokens):
            told = self._pass([cuts[n][2] for n in batch], top, noise or Noise())
            for n, guess in zip(batch, told, strict=True):
                row, mine, _ = cuts[n]
                found[row].ids[mine], found[row].nats[mine] = guess.ids, guess.nats
                found[row].old[mine] = guess.old
        return found

    def _pieces(self, row: Row) -> list[tuple[Row, Int64[np.ndarray, " N"]]]:
        return cut(row, self.limit - self._frame) if len(row.at) else []

    @torch.inference_mode()
    def _pass(self, pieces: Sequence[Row], top: int, noise: Noise) -> list[Guess]:
        """One padded batch."""
        hidden = self._hidden(pieces, noise)
        before = len(self.subwords.opening)
        which = np.concatenate([np.full(len(p.at), n) for n, p in enumerate(pieces)])
        at = np.concatenate([p.at + before for p in pieces])
        asked = hidden[self._tensor(which), self._tensor(at)]
        old = self._tensor(np.concatenate([p.old for p in pieces]))
        parts = [
            self._told(asked[n : n + _HEAD_ROWS], old[n : n + _HEAD_ROWS], top)
            for n in range(0, len(asked), _HEAD_ROWS)
        ]
        ids, nats, told = (np.concatenate(p) for p in zip(*parts, strict=True))
        ends = np.cumsum([len(p.at) for p in pieces])[:-1]
        return [
            Guess(i, n, o)
            for i, n, o in zip(np.split(ids, ends), np.split(nats, ends), np.split(told, ends), strict=True)
        ]

    def _hidden(self, pieces: Sequence[Row], noise: Noise) -> Float[Tensor, "B T D"]:
        """What the last layer makes of a batch."""
        opening, closing = self.subwords.opening, self.subwords.closing
        sizes = [len(p) + self._frame for p in pieces]
        ids = np.full((len(pieces), max(sizes)), self.subwords.mask_id, np.int64)
        heat = np.zeros(ids.shape, np.float32)
        width = self._words.embedding_dim
        shaken = np.zeros((*ids.shape, width), np.float32) if noise.scale else None
        for n, piece in enumerate(pieces):
            inner = slice(len(opening), len(opening) + len(piece))
            ids[n, : sizes[n]] = [*opening, *piece.ids, *closing]
            heat[n, inner] = piece.heat
            if shaken is not None:
                shaken[n, inner] = noise.draw(piece, width) * self._rms
        there = np.arange(ids.shape[1]) < np.array(sizes)[:, None]
        words = mixed(
            self._words(self._tensor(ids)), self._words.weight[self.subwords.mask_id], self._tensor(heat)
        )
        if shaken is not None:
            words = words + self._tensor(shaken).to(words.dtype)
        out = self._model.base_model(inputs_embeds=words, attention_mask=self._tensor(there.astype(np.int64)))
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _told(
        self, hidden: Float[Tensor, "N D"], old: Tensor, top: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Best ids, their log p, and log p of what stood there."""
        logits = self._head(hidden).float()
        if not bool(torch.isfinite(logits).all()):
            raise EngineFault(f"{self.architecture} returned logits that are not finite")
        log_p = logits.log_softmax(-1)
        best = log_p.topk(top, dim=-1)
        told = log_p.gather(-1, old[:, None])[:, 0]
        return best.indices.cpu().numpy(), best.values.cpu().numpy(), told.cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    @torch.inference_mode()
    def _probe(self) -> None:
        """Mixed embeddings at heat 0, and our head, must say what the model itself says of the same ids."""
        rows = self._words.num_embeddings
        plain = [i for i in range(rows) if i not in self.subwords.special][
            : min(16, self.limit - self._frame)
        ]
        if not plain:
            raise ModelUnsupported(f"{self.architecture}: its vocabulary holds nothing but control tokens")
        ids = np.array(plain, np.int64)
        row = Row(ids, np.zeros(len(ids), np.float32), np.arange(len(ids)), ids)
        framed = self._tensor(np.array([[*self.subwords.opening, *plain, *self.subwords.closing]]))
        stock = self._model(input_ids=framed, attention_mask=torch.ones_like(framed)).logits[0].float()
        ours = self._head(self._hidden([row], Noise())[0]).float()
        if not bool(torch.isfinite(stock).all()):
            raise ModelCorrupt(f"{self.architecture}: its logits are not finite; fetch the model again")
        gap = float((ours - stock).abs().max() / stock.abs().max().clamp_min(1.0))
        if gap > (1e-3 if self._words.weight.dtype == torch.float32 else 0.1):
            raise ModelUnsupported(
                f"{self.architecture} reads embeddings otherwise than ids (logits differ by {gap:.1e}); "
                "use a BERT, DistilBERT, RoBERTa or ModernBERT"
            )


def max_tokens(model: Any) -> int:
    """Positions the model was trained on. RoBERTa's begin behind the padding index."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        raise ModelUnsupported(f"{model.config.model_type}: config does not say how many positions it has")
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    skipped = getattr(positions, "padding_idx", None)
    return limit if skipped is None else limit - int(skipped) - 1


def _head(model: Any) -> Callable[[Tensor], Tensor]:
    if getattr(model.config, "is_encoder_decoder", False) or getattr(model.config, "is_decoder", False):
        raise ModelUnsupported(f"{type(model).__name__} does not read text in both directions")
    return head(model)


def _zeros(size: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((size, top), np.float32), np.zeros(size, np.float32)
