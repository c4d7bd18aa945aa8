# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The tap: attention that also tells how much of it each row received.

Knows attention arithmetic and the present pass. Must not know tokens, brightness or edits. It is
registered with transformers under a name of its own, for this one model object, so nothing is patched;
its mask function returns None because the tap builds the mask itself from the pass (transformers
would assume that queries are the last rows, which a patch's are not).

An observed pass computes softmax(qk) explicitly on the un-repeated key heads: for one query that is as
fast as the fused kernel, and the weights are then there to be summed. Passes that nobody observes go
through SDPA.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from haloweave.engine.hf import banks
from haloweave.engine.hf.arena import Arena
from haloweave.errors import ModelUnsupported
from haloweave.memory.tokens import SINKS, AttentionSample

_BLOCK = 1 << 24
"""Attention weights held at once, at most: longer chunks are observed in blocks of queries."""

_FEW, _MANY = 8, 1024
"""Queries up to which, and rows from which, scores are computed the other way round."""

_numbers = itertools.count()
"""Names for attention functions; transformers wants one per function."""


class AttentionTap:
    """One model's attention function. `layers` are observed (None: all). `pooling` of value mass over layers
    and key heads: what they pay a row on average, or the most that one pays. There a row counts by the norm
    of its value, relative to others', to the `value_power`."""

    def __init__(
        self,
        arena: Arena,
        layers: frozenset[int] | None = None,
        pooling: Literal["mean", "max"] = "mean",
        value_power: float = 1.0,
    ) -> None:
        self.arena = arena
        self.layers = layers
        self.pooling = pooling
        self.value_power = value_power
        self.name = f"haloweave_{next(_numbers)}"
        self._seen: dict[int, tuple[Float[Tensor, "H 2 S"], Float[Tensor, "H S"]]] = {}
        """By layer: attention received, plain and as shares, and that of the last query alone."""
        self._groups = 1
        self._single: Float[Tensor, "L H G S"] | None = None
        """Attention weights of a pass of one query, layer by layer in the order they came."""
        self._singles: list[int] = []
        """The layers that are in it."""

    def register(self) -> str:
        """Make the function known to transformers; the name to give as `attn_implementation`."""
        AttentionInterface.register(self.name, self)
        AttentionMaskInterface.register(self.name, _no_mask)
        return self.name

    def __call__(
        self,
        module: Any,
        query: Float[Tensor, "1 A Q D"],
        key: Float[Tensor, "1 H S D"],
        value: Float[Tensor, "1 H S D"],
        attention_mask: Any,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "1 Q A D"], None]:
        """The attention function that transformers calls in every layer."""
        for unknown in ("s_aux", "position_bias"):
            if kwargs.get(unknown) is not None:
                raise ModelUnsupported(f"attention with {unknown} is not one this engine can observe")
        at = self.arena.current
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        window = sliding_window if sliding_window is not None else getattr(module, "sliding_window", None)
        mask = at.mask(window)
        observed = at.observe and (self.layers is None or module.layer_idx in self.layers)
        if observed or softcap is not None:
            layer = module.layer_idx if observed else None
            out = self._explicit(query, key, value, mask, scale, softcap, layer)
        else:
            out = scaled_dot_product_attention(
                query, key, value, mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
            )
        return out.transpose(1, 2), None

    def _explicit(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Bool[Tensor, "Q S"] | None,
        scale: float,
        softcap: float | None,
        layer: int | None,
    ) -> Float[Tensor, "1 A Q D"]:
        """softmax(q k) v on un-repeated key heads, in blocks of queries; `layer` is observed."""
        _, heads, queries, width = query.shape
        kv_heads, rows = key.shape[1], key.shape[2]
        groups = heads // kv_heads
        if queries == 1 and layer is not None and mask is None and softcap is None:
            room = self._room(layer, (kv_heads, groups, rows), query)
            if room is not None:
                q = query.view(kv_heads, groups, width) * scale
                whole = self.arena.layers[layer]
                shared = self._shared(key, whole.keys) and self._shared(value, whole.values)
                scores = banks.scores(q, whole.keys[0], rows) if shared else self._scores(q, key[0])
                torch.softmax(scores, dim=-1, dtype=torch.float32, out=room)
                weights = room.to(value.dtype)
                out = banks.mixed(weights, whole.values[0]) if shared else torch.bmm(weights, value[0])
                return out.reshape(1, heads, 1, value.shape[-1])
        step = max(1, min(queries, _BLOCK // (heads * rows)))
        parts = []
        for start in range(0, queries, step):
            q = query[0, :, start : start + step] * scale
            n = q.shape[1]
            scores = self._scores(q.reshape(kv_heads, groups * n, width), key[0])
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if mask is not None:
                hidden = ~mask[start : start + step]
                scores.view(kv_heads, groups, n, rows).masked_fill_(hidden, float("-inf"))
            weights = scores.softmax(dim=-1, dtype=torch.float32)
            if layer is not None:
                self._groups = groups
                self._pool(layer, weights.view(kv_heads, groups, n, rows), last=start + n == queries)
            part = torch.bmm(weights.to(value.dtype), value[0])
            parts.append(part.view(kv_heads * groups, n, value.shape[-1]))
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return out[None]

    def _room(self, layer: int, shape: tuple[int, int, int], like: Tensor) -> Float[Tensor, "H G S"] | None:
        """Where one layer's weights for a single query go, so that they are pooled with those of all layers;
        None if this layer is not shaped as the ones before it."""
        if self._single is None:
            layers = len(self.arena.layers)
            self._single = torch.empty((layers, *shape), dtype=torch.float32, device=like.device)
            self._groups = shape[1]
        if self._single.shape[1:] != shape or self._single.device != like.device:
            return None
        self._singles.append(layer)
        return self._single[len(self._singles) - 1]

    def _shared(self, seen: Float[Tensor, "1 H S D"], whole: Float[Tensor, "1 H C D"]) -> bool:
        """Whether threads share two banks of rows better than they share key heads: with MKL, which gives a
        thread whole products, and where a model attends to the arena itself."""
        _, heads, rows, _ = seen.shape
        return (
            seen.device.type == "cpu"
            and seen.dtype in (torch.float32, torch.float64)
            and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
            and seen.data_ptr() == whole.data_ptr()
            and banks.pays(heads, rows, whole.shape[2], torch.get_num_threads())
        )

    @staticmethod
    def _scores(q: Float[Tensor, "H M D"], key: Float[Tensor, "H S D"]) -> Float[Tensor, "H M S"]:
        """q k for all rows. With few queries the keys stream fastest as the left factor (measured at 4,096
        rows: 4.1 against 5.9 ms over 30 layers)."""
        if q.shape[1] <= _FEW and key.shape[1] >= _MANY:
            return torch.bmm(key, q.transpose(1, 2)).transpose(1, 2).contiguous()
        return torch.bmm(q, key.transpose(1, 2))

    def _pool(self, layer: int, weights: Float[Tensor, "H G N S"], *, last: bool) -> None:
        """Keep what a block of one layer's queries paid to each row (see `AttentionSample`)."""
        heads, groups, queries, rows = weights.shape
        flat = weights.view(heads, groups * queries, rows)
        per_query = flat.new_ones((heads, 2, groups * queries))
        per_query[:, 1] /= flat[:, :, SINKS:].sum(-1).clamp_min_(1e-6)
        paid = torch.bmm(per_query, flat)
        latest = weights[:, :, -1].sum(dim=1) if last and queries > 1 else paid[:, 0]
        if layer in self._seen:
            paid += self._seen[layer][0]
        self._seen[layer] = (paid, latest)

    def collect(self) -> AttentionSample | None:
        """What the pass just made has seen, averaged over layers and heads; forgets it."""
        if not self._seen and not self._singles:
            return None
        with torch.inference_mode():
            pooled = self._pooled().cpu().numpy()
        self.reset()
        pooled[1, :SINKS] = 0.0
        return AttentionSample(pooled[0], pooled[1], pooled[2], len(self.arena.current.slots))

    def _pooled(self) -> Float[Tensor, "3 S"]:
        """Mass, value mass and last over all observed layers at once, so that decoding pays for a handful of
        small operations and not for a handful in each layer."""
        parts = []
        if self._singles and self._single is not None:
            weights = self._single[: len(self._singles)]
            norms = self._norms(self._singles, weights.shape[-1])
            parts.append(_singles_by_head(weights, norms, self.value_power))
        if self._seen:
            paid = torch.cat([paid for paid, _ in self._seen.values()])
            latest = torch.cat([latest for _, latest in self._seen.values()])
            norms = torch.cat([self.arena.layers[n].norms[:, : paid.shape[2]] for n in self._seen])
            parts.append((paid[:, 0], paid[:, 1] * _strength(norms, self.value_power), latest))
        plain, valued, latest = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        heads = len(plain) * self._groups
        most = valued.amax(0) / self._groups if self.pooling == "max" else valued.sum(0) / heads
        return torch.stack([plain.sum(0) / heads, most, latest.sum(0) / heads])

    def _norms(self, layers: list[int], rows: int) -> Float[Tensor, "L H S"]:
        """Norms of the value rows of layers with as many heads."""
        every = self.arena.norms
        if every is not None and layers == list(range(len(self.arena.layers))):
            return every[:, :, :rows]
        return torch.stack([self.arena.layers[layer].norms[:, :rows] for layer in layers])

    def reset(self) -> None:
        """Forget what a pass that failed has seen."""
        self._seen, self._single, self._singles = {}, None, []


def _singles_by_head(
    weights: Float[Tensor, "L H G S"], norms: Float[Tensor, "L H S"], value_power: float
) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N S"], Float[Tensor, "N S"]]:
    """For each key head of each layer what one query paid: plain, as shares of what was not paid to the sinks
    times relative value norms to a power, and plain again (it is the last query too)."""
    layers, heads, groups, rows = weights.shape
    per_query = weights.new_ones((layers, heads, 2, groups))
    per_query[:, :, 1] /= weights[..., SINKS:].sum(-1).clamp_min_(1e-6)
    flat = weights.view(layers * heads, groups, rows)
    paid = torch.bmm(per_query.view(layers * heads, 2, groups), flat)
    plain = paid[:, 0]
    return plain, paid[:, 1].mul_(_strength(norms.reshape(layers * heads, rows), value_power)), plain


def _strength(norms: Float[Tensor, "N S"], power: float) -> Float[Tensor, "N S"]:
    """How much each row of a head brings, relative to the others, to a power."""
    relative = norms / norms.mean(dim=1, keepdim=True).clamp_min_(1e-12)
    return relative if power == 1 else relative.pow_(power)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The tap knows which rows each query may see; transformers need not."""
