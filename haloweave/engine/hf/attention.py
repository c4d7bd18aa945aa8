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
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from haloweave.engine.hf.arena import Arena
from haloweave.errors import ModelUnsupported
from haloweave.memory.tokens import SINKS, AttentionSample

_BLOCK = 1 << 24
"""Attention weights held at once, at most: longer chunks are observed in blocks of queries."""

_numbers = itertools.count()
"""Names for attention functions; transformers wants one per function."""


class AttentionTap:
    """One model's attention function. `layers` are observed (None: all)."""

    def __init__(self, arena: Arena, layers: frozenset[int] | None = None) -> None:
        self.arena = arena
        self.layers = layers
        self.name = f"haloweave_{next(_numbers)}"
        self._sums: Float[Tensor, "3 S"] | None = None
        self._heads = 0

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
            norms = self.arena.layers[module.layer_idx].norms
            out = self._explicit(query, key, value, mask, scale, softcap, norms if observed else None)
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
        norms: Float[Tensor, "H C"] | None,
    ) -> Float[Tensor, "1 A Q D"]:
        """softmax(q k) v on un-repeated key heads, in blocks of queries; with norms, the sums are fed."""
        _, heads, queries, width = query.shape
        kv_heads, rows = key.shape[1], key.shape[2]
        groups = heads // kv_heads
        step = max(1, min(queries, _BLOCK // (heads * rows)))
        parts = []
        for start in range(0, queries, step):
            q = query[0, :, start : start + step] * scale
            n = q.shape[1]
            scores = torch.bmm(q.reshape(kv_heads, groups * n, width), key[0].transpose(1, 2))
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if mask is not None:
                hidden = ~mask[start : start + step]
                scores.view(kv_heads, groups, n, rows).masked_fill_(hidden, float("-inf"))
            weights = scores.softmax(dim=-1, dtype=torch.float32)
            if norms is not None:
                self._pool(
                    weights.view(kv_heads, groups, n, rows), norms[:, :rows], last=start + n == queries
                )
            part = torch.bmm(weights.to(value.dtype), value[0])
            parts.append(part.view(kv_heads * groups, n, value.shape[-1]))
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return out[None]

    def _pool(self, weights: Float[Tensor, "H G N S"], norms: Float[Tensor, "H S"], *, last: bool) -> None:
        """Add a block of one layer's weights to the sums (see `AttentionSample`)."""
        heads, groups, queries, rows = weights.shape
        if self._sums is None:
            self._sums = torch.zeros((3, rows), device=weights.device)
        mass, value_mass, latest = self._sums
        flat = weights.view(heads, groups * queries, rows)
        meant = flat[:, :, SINKS:].sum(-1).clamp_min(1e-6).reciprocal()
        plain, shares = torch.bmm(torch.stack([torch.ones_like(meant), meant], dim=1), flat).unbind(1)
        strength = norms / norms.mean(dim=1, keepdim=True).clamp_min(1e-12)
        mass += plain.sum(0)
        value_mass += (shares * strength * strength).sum(0)
        if last:
            latest += weights[:, :, -1].sum(dim=(0, 1))
            self._heads += heads * groups

    def collect(self) -> AttentionSample | None:
        """What the pass just made has seen, averaged over layers and heads; forgets it."""
        if self._sums is None:
            return None
        pooled = (self._sums / self._heads).cpu().numpy().astype(np.float32)
        pooled[1, :SINKS] = 0.0
        self.reset()
        return AttentionSample(pooled[0], pooled[1], pooled[2], len(self.arena.current.slots))

    def reset(self) -> None:
        """Forget sums of a pass that failed."""
        self._sums = None
        self._heads = 0


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The tap knows which rows each query may see; transformers need not."""
