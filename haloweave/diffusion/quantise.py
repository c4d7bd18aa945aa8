# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Weights in a quarter of their size: matrices in 8 bits with a scale for each row, the rest as it is.

    name                 int8, or fp32 as it was
    name:scale           fp32, one number a row, beside each int8

Knows tensors by name. Must not know files or models.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from haloweave.diffusion.errors import BadInput

SCALE = ":scale"
_STEPS = 127


def quantise(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices to 8 bits, symmetric, each row by its largest value; off by half a 127th of that at most.

    Raises BadInput for weights that are not finite.
    """
    packed = {}
    for name, value in weights.items():
        if not value.is_floating_point():
            packed[name] = value.contiguous()
            continue
        exact = value.detach().float().cpu()
        if not torch.isfinite(exact).all():
            raise BadInput(f"{name}: holds values that are not finite")
        if exact.ndim < 2 or not exact.numel():
            packed[name] = exact.contiguous()
            continue
        scale = exact.abs().amax(dim=-1, keepdim=True) / _STEPS
        scale[scale == 0] = 1.0
        packed[name] = (exact / scale).round().clamp(-_STEPS, _STEPS).to(torch.int8)
        packed[name + SCALE] = scale
    return packed


def restore(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in fp32 again."""
    return {
        name: value * packed[name + SCALE] if name + SCALE in packed else value
        for name, value in packed.items()
        if not name.endswith(SCALE)
    }
