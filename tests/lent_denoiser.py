# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Folders of tiny denoisers over the tokens and embeddings of a host, "somebody", as training leaves them.

codec(), borrowed()          the host's tokenizer, as a mind and as a denoiser see it
lend(folder, monkeypatch)    the host's embedding table, found under its name from then on
saved(folder, table)         a denoiser's folder
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_mlm
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from haloweave import models
from haloweave.diffusion import build as denoisers
from haloweave.diffusion import checkpoint
from haloweave.diffusion.tokenizer import Tokenizer, borrowed_tokenizer
from haloweave.engine.hf.text import HFCodec


def codec(words: Sequence[str] = tiny_mlm.COMMON) -> HFCodec:
    made = tiny_mlm.byte_level(words, tiny_mlm.CONTROL, first=False)
    return HFCodec(PreTrainedTokenizerFast(tokenizer_object=made, eos_token=tiny_mlm.CONTROL[1]))


def borrowed() -> Tokenizer:
    return borrowed_tokenizer(tiny_mlm.byte_level(tiny_mlm.COMMON, tiny_mlm.CONTROL, first=False))


def lend(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The embedding table of "somebody"."""
    table = torch.randn(borrowed().host_size or 0, 8, generator=torch.Generator().manual_seed(0))
    folder.mkdir()
    save_file({"model.embed_tokens.weight": table}, folder / "model.safetensors")
    monkeypatch.setattr(models, "resolve", lambda name, **how: folder if name == "somebody" else 1 / 0)
    return table


def saved(folder: Path, table: Tensor, tokenizer: Tokenizer | None = None, **options: Any) -> Path:
    """A denoiser's folder, as training leaves it."""
    words = tokenizer or borrowed()
    told = {"vocab_size": words.vocab_size, "mask_id": words.mask_id, "pad_id": words.pad_id, "max_len": 24}
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32, "time_conditioning": True}
    lent = words.extended(table) if tokenizer is None else None
    if lent is not None:
        shape["borrowed_dim"] = lent.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = denoisers.denoiser(
            denoisers.config_of({"arch": "transformer", **told, **shape, **options}), lent
        )
    checkpoint.begin(folder, made, words, {"corruption": "scars"})
    checkpoint.save(folder, made, words, {"host": "somebody" if lent is not None else None, "step": 1})
    return folder
