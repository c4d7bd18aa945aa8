# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Re-rotation: how a key computed at one position is moved to another.

Knows rotary frequencies. Must not know caches or attention. R(new) k = R(new - old) R(old) k, so a row
that moves needs only the angle between its two slots; scaling factors of the model (YaRN's mscale) stay
in the key. Frequencies come from the model's own rotary module, so partial rotary, several bases and
scaled variants need no code here. Angles are taken in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from haloweave.engine.hf.arena import Turn


@dataclass(frozen=True)
class Rotation:
    """Radians per slot of each rotated pair, for every layer."""

    frequencies: tuple[Float64[Tensor, " P"], ...]
    """Layers of one kind share one tensor."""
    interleaved: bool = False
    """Pairs are (2i, 2i + 1) instead of (i, i + P)."""

    @classmethod
    def of(cls, model: Any, layers: int) -> Rotation | None:
        """The model's own frequencies; None if it has no rotary module, or one this cannot read."""
        rotary = [m for m in model.modules() if type(m).__name__.endswith("RotaryEmbedding")]
        if not rotary:
            return None
        kinds = getattr(model.config, "layer_types", None) or ["all"] * layers
        by_kind = {kind: _frequencies(rotary[0], kind) for kind in set(kinds)}
        found = [by_kind[kind] for kind in kinds[:layers]]
        return cls(tuple(f for f in found if f is not None)) if None not in by_kind.values() else None

    def turns(self, moved: Int64[Tensor, " N"], device: torch.device) -> list[Turn]:
        """Per layer, what carries keys `moved` slots onwards (negative: back)."""
        distances, index = torch.unique(moved, return_inverse=True)
        made: dict[int, Turn] = {}
        for f in self.frequencies:
            if id(f) not in made:
                angle = distances[:, None].double() * f[None, :]
                cos, sin = angle.cos().float()[index].to(device), angle.sin().float()[index].to(device)
                made[id(f)] = partial(self._turn, cos, sin)
        return [made[id(f)] for f in self.frequencies]

    def _turn(
        self, cos: Float[Tensor, "N P"], sin: Float[Tensor, "N P"], keys: Float[Tensor, "1 H N D"]
    ) -> None:
        """Rotate keys in place; what lies beyond the rotary part stays."""
        half = cos.shape[-1]
        pairs = keys[..., : 2 * half]
        if self.interleaved:
            first, second = pairs[..., ::2], pairs[..., 1::2]
        else:
            first, second = pairs[..., :half], pairs[..., half:]
        turned = first * cos - second * sin
        second.mul_(cos).addcmul_(first, sin)
        first.copy_(turned)


def _frequencies(rotary: Any, kind: str) -> Float64[Tensor, " P"] | None:
    own = getattr(rotary, f"{kind}_inv_freq", None)
    found = own if own is not None else getattr(rotary, "inv_freq", None)
    return None if found is None else found.detach().to("cpu", torch.float64)
