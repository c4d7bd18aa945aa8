# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A transformers causal LM as an engine: feed, reread, and surgery on the arena.

Knows the model object, the arena, the tap and the rotation. Must not know policies, repair, journal
or text. Surgery:

    DROP       rows move left, their keys turn by the distance moved
    PATCH      DROP, then one forward pass over the born tokens at their own positions, each seeing its left
    RECOMPUTE  the rows from the first change on are fed again; or from an earlier row, if an earlier DROP or
               PATCH left it knowing what a fresh prefill would not: afterwards all rows are exact
    RESTORE    DROP, then saved rows are written as they were, keys turned to their new slots; no forward pass
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor
from transformers import PreTrainedModel

from haloweave.engine.base import Capabilities, Forward
from haloweave.engine.hf.arena import Arena, Turn
from haloweave.engine.hf.attention import AttentionTap
from haloweave.engine.hf.image import dump, load, misfit, restore, save
from haloweave.engine.hf.probe import probe
from haloweave.engine.hf.rope import Rotation
from haloweave.errors import CapacityExceeded, EngineFault, InvalidInput, ModelCorrupt, SurgeryUnsupported
from haloweave.memory.edit import BORN, Edit, Surgery
from haloweave.memory.rows import Image, SavedRows

_ABSENT = np.empty(0)


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
        pooling: Literal["mean", "max"] = "mean",
        value_power: float = 1.0,
        chunk: int = 256,
    ) -> None:
        limit = max_positions or model.config.max_position_embeddings
        if not 1 <= capacity <= limit:
            raise InvalidInput(
                f"budget: expected 1..{limit} rows (the model's trained range), got {capacity}"
            )
        self._model = model
        self._arena = Arena(model.config.num_hidden_layers, capacity)
        self._tap = AttentionTap(self._arena, layers, pooling, value_power)
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

    def apply(self, edit: Edit, rows: SavedRows | None = None) -> None:
        """See `KVStore.apply`."""
        index = edit.gather(self.rows)
        ids = self._checked(edit.ids(self._ids), allow_empty=True)
        first = edit.first
        if len(ids) > self._arena.capacity:
            raise CapacityExceeded(f"{len(ids)} rows after the edit, the arena holds {self._arena.capacity}")
        if first is not None:
            self._check_surgery(edit.surgery)
        self._check_saved(edit, rows)
        if edit.surgery is Surgery.RECOMPUTE:
            self._recompute(ids, self._exact if first is None else min(first, self._exact))
        elif first is not None:
            self._move(index, ids, first)
            born = np.flatnonzero(index == BORN)
            if rows is not None:
                self._restore(born, rows)
            else:
                self._compute(born)

    def rebuild(self, ids: Sequence[int] | np.ndarray) -> None:
        """See `KVStore.rebuild`."""
        self._recompute(self._checked(ids, allow_empty=True), 0)

    def save(self, slots: Sequence[int] | np.ndarray) -> SavedRows:
        """See `KVStore.save`."""
        self._check_surgery(Surgery.RESTORE)
        where = np.array(slots, np.int64)
        if where.ndim != 1 or (len(where) and not (where.min() >= 0 and where.max() < self.rows)):
            raise InvalidInput(f"save: expected slots in 0..{self.rows - 1}, got {where.tolist()}")
        return SavedRows(where, save(self._arena, torch.from_numpy(where).to(self._model.device)))

    def dump(self) -> Image:
        """See `KVStore.dump`: the arena's arrays (see `image`), `ids` [S], and `exact` [1]."""
        exact = np.array([self._exact], np.int64)
        return {**dump(self._arena), "ids": self._ids.copy(), "exact": exact}

    def load(self, image: Image) -> None:
        """See `KVStore.load`."""
        arrays = dict(image)
        ids, exact = arrays.pop("ids", _ABSENT), arrays.pop("exact", _ABSENT)
        wrong = self._odd(ids, exact) or misfit(self._arena, arrays, len(ids))
        if wrong:
            raise ModelCorrupt(f"image of the rows: {wrong}; of another model, dtype or budget? then prefill")
        load(self._arena, arrays, len(ids))
        self._ids, self._exact = ids.copy(), int(exact[0])

    def layer_rows(self) -> list[tuple[Tensor, Tensor]]:
        """Keys (rotated) and values of each layer, [H, S, D]: views, for looking only."""
        rows = self.rows
        return [(a.master[0, :, :rows], a.values[0, :, :rows]) for a in self._arena.layers]

    # ---- inside ----------------------------------------------------------------------------------

    def _checked(self, ids: Sequence[int] | np.ndarray, allow_empty: bool = False) -> Int32[np.ndarray, " Q"]:
        given = np.asarray(ids)
        if given.size and given.dtype.kind not in "iu":
            raise InvalidInput(f"token ids: expected whole numbers below 2**63, got {given.dtype}")
        wide = given.astype(np.int64)
        if wide.ndim != 1 or (not len(wide) and not allow_empty):
            raise InvalidInput(f"token ids: expected at least one, in one row, got shape {wide.shape}")
        if len(wide) and (wide.min() < 0 or wide.max() >= self._vocabulary):
            raise InvalidInput(
                f"token ids: expected 0..{self._vocabulary - 1}, got {wide.min()}..{wide.max()}"
            )
        return wide.astype(np.int32)

    def _check_surgery(self, surgery: Surgery) -> None:
        if surgery not in self.surgeries:
            notes = "; ".join(self._capabilities.notes)
            raise SurgeryUnsupported(f"{surgery.name} on {self._capabilities.architecture}: {notes}")

    def _check_saved(self, edit: Edit, rows: SavedRows | None) -> None:
        """Saved rows are there exactly where an edit restores them, one for each birth."""
        born = len(edit.born_uids)
        if edit.surgery is not Surgery.RESTORE:
            if rows is not None:
                raise InvalidInput(f"saved rows are for RESTORE, this edit says {edit.surgery.name}")
        elif rows is None:
            if born:
                raise InvalidInput(f"RESTORE: expected the {born} saved rows that come back, got none")
        elif len(rows) != born or rows.positions.dtype != np.int64:
            raise InvalidInput(f"RESTORE: expected {born} saved rows, one for each birth, got {len(rows)}")
        elif wrong := misfit(self._arena, rows.columns, born, rows_first=True):
            raise InvalidInput(f"RESTORE: saved rows of another model or dtype: {wrong}")

    def _odd(self, ids: np.ndarray, exact: np.ndarray) -> str | None:
        """Why this cannot be what an image says of its rows; None if it can."""
        if ids.dtype != np.int32 or ids.ndim != 1 or len(ids) > self._arena.capacity:
            return f"expected up to {self._arena.capacity} ids (int32), got {ids.dtype} of shape {ids.shape}"
        if len(ids) and not (ids.min() >= 0 and ids.max() < self._vocabulary):
            return f"expected ids in 0..{self._vocabulary - 1}, got {ids.min()}..{ids.max()}"
        if exact.dtype != np.int64 or exact.shape != (1,) or not 0 <= exact[0] <= len(ids):
            return f"expected one count of exact rows (int64) up to {len(ids)}, got {exact.tolist()}"
        return None

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
            with suppress(RuntimeError):  # a device that failed may fail again
                self._arena.abandon()
            raise EngineFault(f"forward pass of {len(ids)} tokens at {self.rows} rows: {err}") from err
        logits: Tensor = out.logits[0]
        # The sum is finite only if all are; asking each of 49,000 costs 1.4 ms a token.
        if not math.isfinite(float(logits.sum(dtype=torch.float32))):
            self._arena.abandon()
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
        """Survivors move; the rows of the born are still to be filled."""
        target = np.flatnonzero(index[first:] != BORN) + first
        source = index[target]
        if len(target):
            device = self._model.device
            self._arena.move(
                torch.from_numpy(source).to(device),
                torch.from_numpy(target).to(device),
                self._turns(target - source),
                len(index),
            )
        self._arena.rows = len(index)
        self._ids, self._exact = ids, min(first, self._exact)

    def _compute(self, born: np.ndarray) -> None:
        """PATCH: the born are computed, left to right, each at its own slot."""
        for start in range(0, len(born), self._chunk):
            slots = born[start : start + self._chunk]
            self._arena.begin(
                torch.from_numpy(slots).to(self._model.device), rows=int(slots[-1]) + 1, tail=False
            )
            self._forward(self._ids[slots], keep=1)

    def _restore(self, born: np.ndarray, rows: SavedRows) -> None:
        """RESTORE: the born have rows already."""
        slots = torch.from_numpy(born).to(self._model.device)
        restore(self._arena, slots, rows.columns, self._turns(born - rows.positions))

    def _turns(self, moved: np.ndarray) -> list[Turn]:
        """For each layer, what carries keys so many slots onwards."""
        return self._rotation.turns(torch.from_numpy(moved), self._model.device) if self._rotation else []


def _numpy(logits: Float[Tensor, " V"]) -> np.ndarray:
    return logits.float().cpu().numpy()


def _logprobs(logits: Float[Tensor, "N V"], ids: np.ndarray) -> np.ndarray:
    """log p of each id under the logits before it, in nats."""
    chosen = torch.from_numpy(ids.astype(np.int64)).to(logits.device)
    picked = logits.float().gather(1, chosen[:, None])[:, 0] - logits.float().logsumexp(dim=-1)
    return picked.cpu().numpy()
