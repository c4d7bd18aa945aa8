# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Whether this machine has the memory for a denoiser, asked before any is taken.

Asked afterwards there may be nobody left to answer: Linux grants what it does not have, and ends the process
that uses it. Knows configs and how much memory there is. Must not know files or text.
"""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from haloweave.diffusion import build
from haloweave.diffusion.denoisers.base import DenoiserConfig
from haloweave.diffusion.errors import BadInput

FLOAT = 4
"""Bytes of a float32."""
_TRAINED = 5
"""Numbers for each weight in training: itself, its gradient, its average and AdamW's two."""


def check_weights(config: DenoiserConfig, *, trained: bool = False) -> None:
    """Raise BadInput where the weights (`trained`: and what training keeps beside them) are too many."""
    each = FLOAT * (_TRAINED if trained else 1)
    try:
        needed = each * _numbers(config)
    except RuntimeError as error:  # more than 2^63 of them
        raise _too_much("the weights", 2.0**65, memory(), _SMALLER) from error
    if (there := memory()) is not None and needed > there:
        raise _too_much(
            "the weights, and what training keeps of each," if trained else "the weights",
            needed,
            there,
            _SMALLER,
        )


def check_rows(config: DenoiserConfig, rows: int, length: int) -> None:
    """Raise BadInput where not even one state a layer fits, of all tokens that are read at once in training.

    A lower bound: attention, feed-forward networks and logits come on top.
    """
    needed = FLOAT * rows * length * config.d_model * config.n_layers
    if (there := memory()) is not None and needed > there:
        raise _too_much(f"{rows:,} rows of {length:,} tokens at once", needed, there, FEWER)


_SMALLER = "choose a smaller d_model, d_ff, n_layers or vocab_size"
FEWER = "choose a smaller batch_size, and a larger grad_accum for as large a global batch"


def memory() -> int | None:
    """Bytes of this machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _numbers(config: DenoiserConfig) -> int:
    """Of a denoiser with vectors of its own: counted at one layer and at two, for there may be millions."""
    one, two = (
        _counted(replace(config, n_layers=n, borrowed_dim=None, projection_rank=None, reads_fully=False))
        for n in (1, 2)
    )
    return one + (config.n_layers - 1) * (two - one)


def _counted(config: DenoiserConfig) -> int:
    with torch.device("meta"):  # shapes without numbers
        made = build.denoiser(config)
    return sum(tensor.numel() for tensor in (*made.parameters(), *made.buffers()))


def _too_much(what: str, needed: float, there: int | None, remedy: str) -> BadInput:
    has = "" if there is None else f", and this machine has {there / 1e9:,.1f} GB"
    return BadInput(f"memory: {what} would take {needed / 1e9:,.1f} GB or more{has}; {remedy}")
