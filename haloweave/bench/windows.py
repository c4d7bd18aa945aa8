# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How long a repairing denoiser takes over one window, as it is used: settled, in the quickest dtype here.

Knows denoisers, windows and clocks. Must not know folders or tables. Axes: R rows, T tokens of a row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from haloweave.corpus import documents
from haloweave.diffusion.checkpoint import Loaded
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.training.hardware import native_bf16
from haloweave.errors import InvalidInput
from haloweave.repair.base import RepairWindow
from haloweave.repair.denoise import DenoiserRepairer

KINDS = {"a tenth hot": 0.1, "half of it hot": 0.5, "all of it hot": 1.0}


@dataclass(frozen=True)
class Pace:
    """Milliseconds for one window."""

    name: str
    p50: float
    p99: float
    asked: float
    """Tokens of a window that it was asked about, mean."""
    tokens: int
    dtype: str
    windows: int


def rows_of(paths: Sequence[Path], tokenizer: Tokenizer, length: int, count: int) -> Int[Tensor, "R T"]:
    """About `count` rows of `length` tokens, as many of each text, spread over it, in the order of the texts.

    Raises InvalidInput if a text is too short for a row.
    """
    each, rows = -(-count // len(paths)), []
    for path in paths:
        ids = [i for document in documents([path]) for i in tokenizer.encode(document.text)]
        if len(ids) < length:
            raise InvalidInput(f"{path}: expected at least a row of {length} tokens, got {len(ids)}")
        starts = np.linspace(0, len(ids) - length, each).astype(int)
        rows += [ids[at : at + length] for at in sorted(set(starts.tolist()))]
    return torch.tensor(rows)


def measure(loaded: Loaded, rows: Int[Tensor, "R T"], count: int) -> list[Pace]:
    """One window at a time, of each kind; the first five do not count. The denoiser is settled for good."""
    dtype = torch.bfloat16 if native_bf16(torch.device("cpu")) else torch.float32
    size = loaded.tokenizer.host_size or loaded.tokenizer.vocab_size
    control = frozenset(loaded.tokenizer.special_ids)
    repairer = DenoiserRepairer(loaded.denoiser.settled(dtype), size, control, cutoff=1e-6)
    return [_pace(name, repairer, list(_windows(rows, hot, count + 5))) for name, hot in KINDS.items()]


def _windows(rows: Int[Tensor, "R T"], hot: float, count: int) -> Iterator[RepairWindow]:
    """Text with a share of it hot, a third of that wrong: someone else's tokens."""
    rng = np.random.default_rng(0)
    for n in range(count):
        ids = rows[n % len(rows)].numpy().astype(np.int32)
        warm = np.where(rng.random(len(ids)) < hot, rng.random(len(ids)), 0).astype(np.float32)
        other = rows[(n + 1) % len(rows)].numpy().astype(np.int32)
        yield RepairWindow.of(np.where((warm > 0) & (rng.random(len(ids)) < 1 / 3), other, ids), warm)


def _pace(name: str, repairer: DenoiserRepairer, windows: Sequence[RepairWindow]) -> Pace:
    seconds = []
    for window in windows:
        started = time.perf_counter()
        repairer.propose([window])
        seconds.append(time.perf_counter() - started)
    p50, p99 = np.percentile(seconds[5:], [50, 99]) * 1000
    asked = float(np.mean([(w.heat > 0).sum() for w in windows[5:]]))
    dtype = str(next(repairer.denoiser.parameters()).dtype).removeprefix("torch.")
    return Pace(name, float(p50), float(p99), asked, len(windows[0]), dtype, len(seconds) - 5)
