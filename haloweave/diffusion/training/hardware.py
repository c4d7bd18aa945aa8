# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Where to compute, how exactly, and with whom. Knows torch's devices. Must not know models."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch

from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.training.processes import Alone, Processes, Several
from haloweave.diffusion.training.recipe import DTYPES

DEVICES = ("auto", "cpu", "cuda")
"""Not mps: the likelihood bound is counted in float64, which Apple's GPUs have not."""
_KEEPING = {-4: 0, -1: 2**31 - 1, -2: 1 << 26}
"""glibc's M_MMAP_MAX: map nothing by itself; M_TRIM_THRESHOLD: keep 2 GB; M_TOP_PAD: grow by 64 MB."""


@dataclass(frozen=True)
class Machine:
    """One process's place in a run."""

    place: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bf16: bool = False
    """Multiply in bfloat16; weights, sums and losses stay in float32."""
    processes: Processes = field(default_factory=Alone)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, evaluates and talks."""
        return self.processes.index == 0

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.bf16 else "float32"


def machine(device_name: str = "auto", dtype: str = "auto", processes: Processes | None = None) -> Machine:
    """The machine for these names; each of several processes gets the device that accelerate gave it.

    Raises BadInput for a device that is not there, and for an unknown dtype.
    """
    processes = processes or Alone()
    place = processes.device if isinstance(processes, Several) else device(device_name)
    return Machine(place, bf16(dtype, place), processes)


def device(name: str = "auto") -> torch.device:
    """The device of that name, which has to be there; "auto" takes the quickest. Raises BadInput."""
    kind, cuda = name.split(":")[0], torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if kind == "mps":
        raise BadInput(f"device {name!r}: it has no float64, in which likelihoods are counted; take cpu")
    if kind not in DEVICES:
        raise BadInput(f"device {name!r}: expected one of {', '.join(DEVICES)}")
    if kind == "cuda" and not cuda:
        raise BadInput(f"device {name!r}: torch finds none on this machine; auto takes what is there")
    return torch.device(name)


def bf16(name: str, place: torch.device) -> bool:
    """Whether to multiply in bfloat16: by itself only where the hardware does so natively."""
    if name not in DTYPES:
        raise BadInput(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    return native_bf16(place) if name == "auto" else name == "bfloat16"


def native_bf16(place: torch.device) -> bool:
    """Whether the hardware itself multiplies in bfloat16: twice as fast, then."""
    if place.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if place.type != "cpu":
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def keep_memory() -> bool:
    """Ask the C library to keep freed memory instead of giving it back; whether it is one that can be asked.

    A step's largest tensors are logits of some hundred MB. glibc maps such memory anew each time, and the
    system clears it page by page: a third of the time of training over 49,155 tokens. Kept: 1.25 times as
    many tokens a second (batch 32 x 256, one thread, bf16).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return all(mallopt(what, amount) for what, amount in _KEEPING.items())
