# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Where to compute, and how exactly. Knows torch's devices. Must not know models."""

from __future__ import annotations

import torch

from haloweave.errors import InvalidInput
from haloweave.loading import device

__all__ = ["bf16", "device"]


def bf16(name: str, place: torch.device) -> bool:
    """Whether to multiply in bfloat16: by itself only where the hardware does (twice as fast, then)."""
    if name not in ("auto", "float32", "bfloat16"):
        raise InvalidInput(f"dtype {name!r}: expected auto, float32 or bfloat16")
    if name != "auto":
        return name == "bfloat16"
    if place.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if place.type != "cpu":
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
