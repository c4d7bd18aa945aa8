# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A transformers causal LM as an engine: feed, reread, and surgery on the arena.

Knows the model object, the arena, the tap and the rotation. Must not know policies, repair, journal
or text. Surgery:

    DROP       rows move left, their keys turn by the distance moved
    PATCH      DROP, then one forward pass over the born tokens at their own positions, each seeing its left
    RECOMPUTE  the rows from the first change on are fed again; or from an earlier row, if an earlier DROP or
               PATCH left it knowing what a fresh prefill would not: afterwards all rows are exact
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor
from transformers import PreTrainedModel

from haloweave.engine.base import Capabilities, Forward
from haloweave.engine.hf.arena import Arena
from haloweave.engine.hf.attention import AttentionTap
from haloweave.engine.hf.probe import probe
from haloweave.engine.hf.rope import Rotation
from haloweave.errors import CapacityExceeded, EngineFault, InvalidInput, SurgeryUnsupported
from haloweave.memory.edit import BORN, Edit, Surgery


class HFEngine:
    """One model, one arena of `capacity` rows, every layer observed unless `layers` says otherwise.

    Takes over the model's attention implementation while it runs; several engines may share one model, in
    one thread. `chunk` is the number of tokens fed at once when
    rows are computed again. Raises ModelUnsupported if the model cannot be run on an arena.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        capacity: int,
        max_positions: int | None = None,
        layers: frozenset[int] | None = None,
        chunk: int = 256,
    ) -> None:
        limit = max_positions or model.config.max_position_embeddings
        if not 1 <= capacity <= limit:
            raise InvalidInput(
                f"budget: expected 1..{limit} rows (the model's trained range), got {capacity}"
            )
        self._model = model
        self._arena = Arena(model.config.num_hidden_layers, capacity)
        self._tap = AttentionTap(self._arena, layers)
        found = probe(model, self._arena, self._tap)
        self._rotation: Rotation | None = found.rotation
        self._chunk = chunk
        self._ids = np.empty(0, np.int32)
        self._exact = 0
        """Leading rows that are what a fresh prefill of the same ids would give."""
        self._vocabulary = model.get_input_embeddings().num_embeddings
        self._capabilities = Capabilities(
            architecture=model.config.model_type,
            surgeries=found.surgeries,
            max_rows=capacity,
            vocabulary=self._vocabulary,
            layers=len(self._arena.layers),
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            notes=found.notes,
        )

    # ---- Engine ----------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def kv(self) -> HFEngine:
        return self

    @property
    def model(self) -> PreTrainedModel:
        """What runs here, for a judge that works on a twin of it (see `scoring`)."""
        return self._model

    def feed(self, ids: Sequence[int] | np.ndarray, *, score: bool = False) -> Forward:
        """See `Engine.feed`."""
        new = self._checked(ids)
        rows = self.rows + len(new)
        self._arena.begin(self._slots(self.rows, rows), rows=rows, tail=True, observe=True)
        logits = self._forward(new, keep=len(new) if score else 1)
        self._exact = rows if self._exact == self.rows else self._exact
        self._arena.commit()
        self._ids = np.concatenate([self._ids, new])
        logprobs = _logprobs(logits[:-1], new[1:]) if score else None
        return Forward(_numpy(logits[-1]), self._tap.collect(), logprobs)

    def reread(self) -> Forward:
        """See `Engine.reread`."""
        rows = self.rows
        if not rows:
            raise InvalidInput("reread: there is no row yet")
        self._arena.begin(self._slots(rows - 1, rows), rows=rows, tail=True)
        return Forward(_numpy(self._forward(self._ids[-1:], keep=1)[-1]), None)

    # ---- KVStore ---------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        return self._arena.rows

    @property
    def ids(self) -> Int32[np.ndarray, " S"]:
        """Token id of each row."""
        return self._ids

    @property
    def surgeries(self) -> frozenset[Surgery]:
        return self._capabilities.surgeries

    def apply(self, edit: Edit) -> None:
        """See `KVStore.apply`."""
        index = edit.gather(self.rows)
        ids = self._checked(edit.ids(self._ids), allow_empty=True)
        first = edit.first
        if len(ids) > self._arena.capacity:
            raise CapacityExceeded(f"{len(ids)} rows after the edit, the arena holds {self._arena.capacity}")
        if first is None and (edit.surgery is not Surgery.RECOMPUTE or self._exact == self.rows):
            return
        if edit.surgery not in self.surgeries:
            raise SurgeryUnsupported(
                f"{edit.surgery.name} on {self._capabilities.architecture}: "
                + "; ".join(self._capabilities.notes)
            )
        if edit.surgery is Surgery.RECOMPUTE:
            self._recompute(ids, self._exact if first is None else min(first, self._exact))
        elif first is not None:
            self._move(index, ids, first)

    def rebuild(self, ids: Sequence[int] | np.ndarray) -> None:
        """See `KVStore.rebuild`."""
        self._recompute(self._checked(ids, allow_empty=True), 0)

    def dump(self) -> bytes:
        """See `KVStore.dump`."""
        return self._arena.dump()

    def load(self, data: bytes, ids: Sequence[int] | np.ndarray | None = None) -> None:
        """See `KVStore.load`; `ids` are the tokens of the rows, where they differ from those held."""
        self._arena.load(data)
        self._exact = 0
        if ids is not None:
            self._ids = self._checked(ids, allow_empty=True)
        if len(self._ids) != self.rows:
            raise InvalidInput(f"load: {self.rows} rows, {len(self._ids)} token ids")

    def layer_rows(self) -> list[tuple[Tensor, Tensor]]:
        """Keys (rotated) and values of each layer, [H, S, D]: views, for looking only."""
        rows = self.rows
        return [(a.master[0, :, :rows], a.values[0, :, :rows]) for a in self._arena.layers]

    # ---- inside ----------------------------------------------------------------------------------

    def _checked(self, ids: Sequence[int] | np.ndarray, allow_empty: bool = False) -> Int32[np.ndarray, " Q"]:
        wide = np.asarray(ids, dtype=np.int64)
        if wide.ndim != 1 or (not len(wide) and not allow_empty):
            raise InvalidInput(f"token ids: expected at least one, in one row, got shape {wide.shape}")
        if len(wide) and (wide.min() < 0 or wide.max() >= self._vocabulary):
            raise InvalidInput(
                f"token ids: expected 0..{self._vocabulary - 1}, got {wide.min()}..{wide.max()}"
            )
        return wide.astype(np.int32)

    def _slots(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, device=self._model.device)

    @torch.inference_mode()
    def _forward(self, ids: np.ndarray, keep: int) -> Float[Tensor, "K V"]:
        """Run the pass that was begun. A pass that fails leaves the rows as they were counted before."""
        tokens = torch.from_numpy(ids.astype(np.int64))[None].to(self._model.device)
        self._tap.reset()
        if self._model.config._attn_implementation != self._tap.name:  # another engine uses this model too
            self._model.set_attn_implementation(self._tap.name)
        try:
            out = self._model(
                input_ids=tokens,
                position_ids=self._arena.current.slots[None],
                past_key_values=self._arena,
                use_cache=True,
                logits_to_keep=keep,
            )
        except RuntimeError as err:
            raise EngineFault(f"forward pass of {len(ids)} tokens at {self.rows} rows: {err}") from err
        logits: Tensor = out.logits[0]
        # The sum is finite only if all are; asking each of 49,000 costs 1.4 ms a token.
        if not math.isfinite(float(logits[-1].sum(dtype=torch.float32))):
            raise EngineFault("the model returned logits that are not finite")
        return logits

    def _recompute(self, ids: np.ndarray, first: int) -> None:
        self._arena.truncate(first)
        self._ids, self._exact = ids[:first], first
        for start in range(first, len(ids), self._chunk):
            part = ids[start : start + self._chunk]
            rows = start + len(part)
            self._arena.begin(self._slots(start, rows), rows=rows, tail=True)
            self._forward(part, keep=1)
            self._arena.commit()
            self._ids, self._exact = ids[:rows], rows

    def _move(self, index: np.ndarray, ids: np.ndarray, first: int) -> None:
        """DROP and PATCH: survivors move, then the born are computed, left to right."""
        target = np.flatnonzero(index[first:] != BORN) + first
        source = index[target]
        if len(target):
            moved = torch.from_numpy(target - source)
            turns = self._rotation.turns(moved, self._model.device) if self._rotation else []
            device = self._model.device
            self._arena.move(
                torch.from_numpy(source).to(device), torch.from_numpy(target).to(device), turns, len(index)
            )
        self._arena.rows = len(index)
        self._ids, self._exact = ids, min(first, self._exact)
        born = np.flatnonzero(index == BORN)
        for start in range(0, len(born), self._chunk):
            slots = born[start : start + self._chunk]
            self._arena.begin(
                torch.from_numpy(slots).to(self._model.device), rows=int(slots[-1]) + 1, tail=False
            )
            self._forward(ids[slots], keep=1)


def _numpy(logits: Float[Tensor, " V"]) -> np.ndarray:
    return logits.float().cpu().numpy()


def _logprobs(logits: Float[Tensor, "N V"], ids: np.ndarray) -> np.ndarray:
    """log p of each id under the logits before it, in nats."""
    chosen = torch.from_numpy(ids.astype(np.int64)).to(logits.device)
    picked = logits.float().gather(1, chosen[:, None])[:, 0] - logits.float().logsumexp(dim=-1)
    return picked.cpu().numpy()
