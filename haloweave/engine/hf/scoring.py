# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The host LM as a judge of texts, beside a living context and without touching it.

Knows transformers' model and its stock cache. Must not know the arena, the tap, repair or minds: it offers
plain reading and scoring. The judge is a twin of the model: modules of its own over the same weights, so it
costs no memory for weights, keeps its own attention implementation, and may run in another thread while the
engine decodes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from haloweave.errors import EngineFault, InvalidInput


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A second model over the same weights, with stock attention."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        double = type(model)(config)
    double.load_state_dict(model.state_dict(keep_vars=True), strict=False, assign=True)
    for (name, ours), (_, theirs) in zip(double.named_buffers(), model.named_buffers(), strict=True):
        if ours.is_meta:
            _own_buffer(double, name, theirs)
    double.generation_config = model.generation_config
    return double.eval()


def _own_buffer(model: torch.nn.Module, name: str, value: Tensor) -> None:
    """Buffers that no state dict holds (rotary frequencies)."""
    path, _, leaf = name.rpartition(".")
    model.get_submodule(path).register_buffer(leaf, value.clone(), persistent=False)


class HostScorer:
    """Judges by a causal LM. `model` is not changed. `opening` is what a text begins with (an id).

    `batch` bounds how many continuations go through the model at once.
    """

    def __init__(
        self, model: PreTrainedModel, *, opening: int, limit: int | None = None, batch: int = 32
    ) -> None:
        self._model, self._opening, self._batch = twin(model), opening, batch
        self._limit = limit or int(model.config.max_position_embeddings)

    @property
    def vocabulary(self) -> int:
        return int(self._model.get_input_embeddings().num_embeddings)

    @property
    def opening(self) -> int:
        """The id that stands before a text."""
        return self._opening

    @property
    def limit(self) -> int:
        """Tokens that one reading may hold, the opening included."""
        return self._limit

    def read(self, ids: Sequence[int] | np.ndarray) -> HostReading:
        """See `Scorer.read`. Raises InvalidInput for ids out of range or a text over the limit."""
        reading = HostReading(self._model, self._limit, self._batch)
        reading.extend(np.concatenate([[self._opening], np.asarray(ids, np.int64)]))
        return reading


class HostReading:
    """What the twin has read so far: a cache, and the logits after its last row."""

    def __init__(self, model: PreTrainedModel, limit: int, batch: int) -> None:
        self._model, self._limit, self._batch = model, limit, batch
        self._cache = DynamicCache()  # whole rows at sliding layers too: branches need them
        self._last: Tensor | None = None
        self._logits: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Tokens read, the opening included."""
        return int(self._cache.get_seq_length())

    @property
    def logits(self) -> Float32[np.ndarray, " V"]:
        """See `Reading.logits`."""
        if self._last is None:
            raise InvalidInput("nothing was read yet")
        if self._logits is None:
            self._logits = self._last.float().cpu().numpy()
        return self._logits

    @torch.inference_mode()
    def extend(self, ids: Sequence[int] | np.ndarray) -> Float32[np.ndarray, " Q"]:
        """See `Reading.extend`."""
        tokens = self._checked(ids, self.rows)
        if not len(tokens):
            return np.empty(0, np.float32)
        positions = torch.arange(self.rows, self.rows + len(tokens), device=self._model.device)
        out = self._model(
            input_ids=tokens[None], position_ids=positions[None], past_key_values=self._cache, use_cache=True
        )
        logits = out.logits[0].float()
        before = logits[:-1] if self._last is None else torch.cat([self._last[None].float(), logits[:-1]])
        self._last, self._logits = _finite(logits[-1]), None
        told = tokens[-len(before) :] if len(before) else tokens[:0]
        return _log_p(before, told).cpu().numpy()

    @torch.inference_mode()
    def score(self, continuations: Sequence[np.ndarray]) -> list[Float32[np.ndarray, " Q"]]:
        """See `Reading.score`."""
        found: list[np.ndarray] = []
        for at in range(0, len(continuations), self._batch):
            found += self._score([self._checked(c, self.rows) for c in continuations[at : at + self._batch]])
        return found

    def _score(self, rows: Sequence[Tensor]) -> list[np.ndarray]:
        """One padded batch. What stands behind the end of a continuation cannot change what is before it, so
        padding needs no mask."""
        if self._last is None:
            raise InvalidInput("nothing was read yet")
        first = self._last.float().log_softmax(-1)
        heads = [first[r[:1]] for r in rows]
        longest = max((len(r) for r in rows), default=0) - 1
        tails: Sequence[Tensor] = [first[:0]] * len(rows)
        if longest > 0:
            ids = pad_sequence(list(rows), batch_first=True)[:, :-1]
            targets = pad_sequence(list(rows), batch_first=True)[:, 1:]
            logits = self._branch(ids)
            told = _log_p(logits.float(), targets)
            tails = [t[: max(len(r) - 1, 0)] for t, r in zip(told, rows, strict=True)]
        return [torch.cat([h, t]).cpu().numpy() for h, t in zip(heads, tails, strict=True)]

    def _branch(self, ids: Tensor) -> Tensor:
        """Logits [B T V] of branches that go on from what was read; the cache stays as it is."""
        branch = _repeated(self._cache, len(ids))
        positions = torch.arange(self.rows, self.rows + ids.shape[1], device=ids.device)
        out = self._model(
            input_ids=ids,
            position_ids=positions.expand(len(ids), -1),
            past_key_values=branch,
            use_cache=True,
        )
        logits: Tensor = out.logits
        return logits

    def _checked(self, ids: Sequence[int] | np.ndarray, rows: int) -> Tensor:
        wide = np.asarray(ids, np.int64)
        size = self._model.get_input_embeddings().num_embeddings
        if wide.ndim != 1 or (len(wide) and (wide.min() < 0 or wide.max() >= size)):
            raise InvalidInput(f"token ids: expected ids of 0..{size - 1} in one row, got shape {wide.shape}")
        if rows + len(wide) > self._limit:
            raise InvalidInput(f"{rows + len(wide)} tokens to read, the model was trained on {self._limit}")
        return torch.from_numpy(wide).to(self._model.device)


def _log_p(logits: Tensor, ids: Tensor) -> Tensor:
    """Log p of each id [...] under its logits [... V]."""
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)


def _repeated(cache: DynamicCache, count: int) -> DynamicCache:
    """A cache of `count` branches that share what was read: expanded views, copied only where rows join."""
    branch = DynamicCache()
    for i, layer in enumerate(cache.layers):
        keys, values = layer.keys, layer.values
        branch.update(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1), i)
    return branch


def _finite(logits: Tensor) -> Tensor:
    if not math.isfinite(float(logits.sum(dtype=torch.float32))):
        raise EngineFault("the judging model returned logits that are not finite")
    return logits
