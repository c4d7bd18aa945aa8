# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The slow, obviously correct way to edit a KV cache: what every engine is checked against.

Knows a stock transformers model, its config, and one formula: rotary embedding (Su et al., arXiv:2104.09864).
Must not know any engine, arena, attention function or rotary module: it shares no code with what it judges.

What is held is what a token *is*, apart from where it stands: its key before rotation and its value, at
every layer, in float64. Position is always the slot index, and enters only when a cache is built:

    held keys --rotate(slot)--> stock cache --stock forward--> new rows --rotate(-slot)--> held keys

A deletion is then a list without an element, a birth in the middle a forward pass over a shorter cache, and
a row that comes back is an element put in again, wherever that is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from haloweave.errors import InvalidEdit, InvalidInput, ModelUnsupported

# The new context, slot by slot: (old slot, token id) survives, (None, token id) is born here.
Layout: TypeAlias = Sequence[tuple[int | None, int]]

_PROBE_SLOTS: Final = 32
_PROBE_TOLERANCE: Final = 1e-3  # relative; rounding gives about 1e-6, a wrong formula about 1


@dataclass(frozen=True)
class Rows:
    """Tokens without their positions. Axes: L layers, H key heads, S slots, D head dimension."""

    ids: tuple[int, ...]
    keys: Float64[Tensor, "L H S D"]  # before rotation
    values: Float64[Tensor, "L H S D"]

    def span(self, start: int, stop: int) -> Rows:
        return Rows(self.ids[start:stop], self.keys[:, :, start:stop], self.values[:, :, start:stop])

    def then(self, right: Rows) -> Rows:
        keys = torch.cat([self.keys, right.keys], dim=2)
        return Rows(self.ids + right.ids, keys, torch.cat([self.values, right.values], dim=2))


@final
class SlowReference:
    """One context over one stock model, edited by rebuilding it. Slot i stands at rotary position i."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
        """`dtype` is what to compute in, the model's own unless told; in float64 rounding is out of the way
        (but for what stock models do in float32 whatever their dtype: norms, softmax, angles)."""
        self._model = _stock_copy(model, dtype)
        self._frequencies = _frequencies(self._model.config)
        self._nothing = self._probe().span(0, 0)
        self._rows = self._nothing

    @property
    def ids(self) -> list[int]:
        """The token id in every slot."""
        return list(self._rows.ids)

    def feed(self, ids: Sequence[int]) -> Float[Tensor, "V"]:
        """Append ids in one pass after the present rows; the logits at the last of them."""
        logits, born = self._forward(self._rows, ids)
        self._rows = self._rows.then(born)
        return logits

    def peek(self, ids: Sequence[int]) -> Float[Tensor, "V"]:
        """The logits that `feed(ids)` would give; nothing changes."""
        return self._forward(self._rows, ids)[0]

    def recompute(self, ids: Sequence[int]) -> None:
        """Forget everything and prefill ids afresh."""
        self._rows = self._forward(self._nothing, ids)[1] if ids else self._nothing

    def save(self, slots: Sequence[int]) -> Rows:
        """The rows of these slots, for `edit` to put in again."""
        if not all(0 <= slot < len(self._rows.ids) for slot in slots):
            raise InvalidInput(f"expected slots in 0..{len(self._rows.ids) - 1}, got {list(slots)}")
        rows = self._nothing
        for slot in slots:
            rows = rows.then(self._rows.span(slot, slot + 1))
        return rows

    def edit(self, layout: Layout, saved: Rows | None = None) -> None:
        """Rebuild the context from left to right: a survivor keeps its key (before rotation) and its value,
        a newborn is computed alone, against exactly the rows already to its left; or, where there are saved
        rows, it is the next of these."""
        self._check(layout)
        if saved is not None and saved.ids != tuple(token_id for slot, token_id in layout if slot is None):
            raise InvalidEdit(f"expected the saved rows of the births, got those of {saved.ids}")
        rows = self._nothing
        for old_slot, token_id in layout:
            if old_slot is not None:
                right = self._rows.span(old_slot, old_slot + 1)
            elif saved is not None:
                right, saved = saved.span(0, 1), saved.span(1, len(saved.ids))
            else:
                right = self._forward(rows, [token_id])[1]
            rows = rows.then(right)
        self._rows = rows

    def rows(self) -> list[tuple[Float64[Tensor, "H S D"], Float64[Tensor, "H S D"]]]:
        """For every layer the keys, rotated to the present slots, and the values."""
        keys = _rotate(self._rows.keys, torch.arange(len(self._rows.ids)), self._frequencies)
        return [(k.clone(), v.clone()) for k, v in zip(keys, self._rows.values, strict=True)]

    @staticmethod
    def fresh(model: PreTrainedModel, ids: Sequence[int]) -> Float[Tensor, "V"]:
        """The logits at the last position of one full forward pass without any cache. Serves every model."""
        with torch.no_grad():
            out = _stock_copy(model)(input_ids=torch.tensor([list(ids)]), use_cache=False)
        return _last(out.logits)

    @staticmethod
    def prefilled(
        model: PreTrainedModel, ids: Sequence[int], dtype: torch.dtype | None = None
    ) -> tuple[Float[Tensor, "V"], list[tuple[Float[Tensor, "H S D"], Float[Tensor, "H S D"]]]]:
        """The last logits of one pass over ids, and every layer's keys and values. Serves every model."""
        cache = DynamicCache()
        with torch.no_grad():
            out = _stock_copy(model, dtype)(input_ids=torch.tensor([list(ids)]), past_key_values=cache)
        return _last(out.logits), [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def _forward(self, left: Rows, ids: Sequence[int]) -> tuple[Float[Tensor, "V"], Rows]:
        """One stock forward over ids with `left` as the cache: the last logits, and the rows of ids."""
        vocabulary = self._model.config.vocab_size
        if not ids or not all(0 <= token_id < vocabulary for token_id in ids):
            raise InvalidInput(f"expected at least one token id, all in 0..{vocabulary - 1}, got {list(ids)}")
        start = len(left.ids)
        slots = torch.arange(start, start + len(ids))
        cache = self._cache(left)
        with torch.no_grad():
            out = self._model(
                input_ids=torch.tensor([list(ids)]),
                position_ids=slots[None],
                past_key_values=cache,
                use_cache=True,
            )
        keys = torch.stack([layer.keys[0, :, start:].double() for layer in cache.layers])
        values = torch.stack([layer.values[0, :, start:].double() for layer in cache.layers])
        return _last(out.logits), Rows(tuple(ids), _rotate(keys, -slots, self._frequencies), values)

    def _cache(self, rows: Rows) -> DynamicCache:
        """A stock cache that holds rows. Built without a config, so that no layer drops what its sliding
        window cannot see: the model's own mask, told the full length, hides it."""
        cache = DynamicCache()
        if not rows.ids:
            return cache
        keys = _rotate(rows.keys, torch.arange(len(rows.ids)), self._frequencies)
        for layer, (k, v) in enumerate(zip(keys, rows.values, strict=True)):
            cache.update(k[None].to(self._model.dtype), v[None].to(self._model.dtype), layer)
        return cache

    def _check(self, layout: Layout) -> None:
        survivors = [(slot, token_id) for slot, token_id in layout if slot is not None]
        slots = [slot for slot, _ in survivors]
        held = len(self._rows.ids)
        if slots != sorted(set(slots)) or not all(0 <= slot < held for slot in slots):
            raise InvalidEdit(f"expected strictly increasing old slots in 0..{held - 1}, got {slots}")
        for slot, token_id in survivors:
            if token_id != self._rows.ids[slot]:
                raise InvalidEdit(
                    f"expected token {self._rows.ids[slot]} to survive from slot {slot}, got {token_id}"
                )

    def _probe(self) -> Rows:
        """Does the formula below describe this model? In a context of one repeated token every slot computes
        the same at every layer, whatever the attention: keys before rotation must not depend on the slot.
        Finds wrong frequencies, interleaved layouts, other scalings, absolute positions."""
        none = torch.empty(0, 0, 0, 0, dtype=torch.float64)  # shapes are not known yet, and not needed
        empty = Rows((), none, none)
        _, rows = self._forward(empty, [self._model.config.vocab_size // 2] * _PROBE_SLOTS)
        spread = (rows.keys - rows.keys[:, :, :1]).abs().amax() / rows.keys.abs().amax()
        if not spread <= _PROBE_TOLERANCE:
            raise ModelUnsupported(
                f"expected keys that depend on position only through the rotation the config describes, "
                f"got a spread of {spread:.1e} over {_PROBE_SLOTS} slots of one repeated token in "
                f"{type(self._model).__name__}; use SlowReference.fresh"
            )
        return rows


def _stock_copy(model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The same weights in a newly built model with eager attention: no engine's hook or patch comes along."""
    with torch.random.fork_rng(devices=[]):  # building draws random weights, only to be overwritten
        stock = type(model)(copy.deepcopy(model.config))
    stock = stock.to(dtype=dtype or model.dtype)
    same = stock.dtype == model.dtype and model.device.type == "cpu"
    stock.load_state_dict(model.state_dict(), assign=same)  # shared where they can be: models are large
    stock.set_attn_implementation("eager")
    return stock.eval()


def _frequencies(config: Any) -> Float64[Tensor, "L n"]:
    """Radians per slot of every rotated pair, by layer, from nothing but a transformers 5 config."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise ModelUnsupported(
            f"expected rotary positions (rope_parameters), got a {config.model_type} config without: "
            "positions are in the embeddings and rows cannot move; use SlowReference.fresh"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if "rope_type" in parameters:  # one set for all layers, else one per kind of layer (Gemma 3)
        per_layer = [parameters] * config.num_hidden_layers
    else:
        per_layer = [parameters[kind] for kind in config.layer_types]
    return torch.stack([_layer_frequencies(rope, head_dim) for rope in per_layer])


def _layer_frequencies(rope: Mapping[str, Any], head_dim: int) -> Float64[Tensor, "n"]:
    rotated = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    exponents = torch.arange(0, rotated, 2, dtype=torch.float64) / rotated
    plain = torch.exp(-math.log(rope["rope_theta"]) * exponents)
    match rope["rope_type"]:
        case "default":
            return plain
        case "linear":
            return plain / float(rope["factor"])
        case (
            "llama3"
        ):  # slow pairs are slowed by `factor`, fast ones kept, linear in the turns made in between
            turns = rope["original_max_position_embeddings"] * plain / (2 * math.pi)
            low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
            kept = ((turns - low) / (high - low)).clamp(0, 1)
            return torch.lerp(plain / float(rope["factor"]), plain, kept)
        case other:
            raise ModelUnsupported(f"expected rope_type default, linear or llama3, got {other}")


def _rotate(
    x: Float64[Tensor, "L H S D"], slots: Int64[Tensor, "S"], frequencies: Float64[Tensor, "L n"]
) -> Float64[Tensor, "L H S D"]:
    """Turn the pairs (j, n + j) by slot * frequency; what lies past 2n is not rotated (partial rotary)."""
    n = frequencies.shape[1]
    angle = frequencies[:, None, None, :] * slots[:, None]  # L 1 S n
    turned = torch.complex(x[..., :n], x[..., n : 2 * n]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag, x[..., 2 * n :]], dim=-1)


def _last(logits: Float[Tensor, "1 Q V"]) -> Float[Tensor, "V"]:
    return logits[0, -1].detach().cpu()
