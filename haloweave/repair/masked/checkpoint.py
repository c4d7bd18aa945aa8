# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Load a local folder as a masked language model, after looking for every reason not to.

Knows what a safe and usable folder looks like. Must not know where it came from, nor windows or host tokens.
Nothing here reads pickle, runs code from the folder, or goes to the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from haloweave.errors import ModelNotFound, ModelUnsafe, ModelUnsupported
from haloweave.loading import PICKLES, explained, load_weights, optional_json, quiet, refuse_code
from haloweave.loading import device as device_named
from haloweave.loading import dtype as dtype_named
from haloweave.repair.masked.encoder import MaskedLM

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_MASKS = ("[MASK]", "<mask>")


def load(path: Path, *, device: str = "auto", dtype: str = "auto", batch_tokens: int = 4096) -> MaskedLM:
    """The masked LM in the folder `path`; a `ModelError` says why not."""
    place = device_named(device)
    number = dtype_named(dtype, place)
    _check_folder(path)
    with quiet(), explained(path):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        _check_config(path, config)
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        mask_id = _mask_id(path, tokenizer)
        model = _load_weights(path, config, number).to(place)
        return MaskedLM(model.eval().requires_grad_(False), tokenizer, mask_id, batch_tokens=batch_tokens)


def _load_weights(path: Path, config: Any, dtype: torch.dtype) -> Any:
    model, missing = load_weights(AutoModelForMaskedLM, path, config, dtype)
    if missing:
        raise ModelUnsupported(
            f"{path}: not a whole masked LM: weights missing: {', '.join(missing[:5])}; an encoder without a "
            "head has to be trained first"
        )
    return model


# -- the folder, before transformers sees it ----------------------------------------------------------


def _check_folder(path: Path) -> None:
    """Refuse what can be refused by reading names and JSON."""
    if not path.is_dir():
        raise ModelNotFound(f"{path}: no such folder; expected config.json, *.safetensors and tokenizer.json")
    if not any((path / name).is_file() for name in _WEIGHTS):
        if any(True for pattern in PICKLES for _ in path.glob(pattern)):
            raise ModelUnsafe(f"{path}: only pickle weights, which can run code; convert them to safetensors")
        raise ModelNotFound(f"{path}: neither {' nor '.join(_WEIGHTS)}")
    for name in ("config.json", "tokenizer.json"):
        if not (path / name).is_file():
            raise ModelNotFound(f"{path}: {name} is missing; save model and tokenizer with save_pretrained")
    for name in ("config.json", "tokenizer_config.json"):
        refuse_code(path / name, optional_json(path / name))


# -- what the model is --------------------------------------------------------------------------------


def _check_config(path: Path, config: Any) -> None:
    """It must read in both directions and predict what is masked."""
    kind = config.model_type
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.is_encoder_decoder:
        raise ModelUnsupported(f"{path}: {kind} is not a masked LM; use a BERT, RoBERTa or ModernBERT")
    if getattr(config, "is_decoder", False):
        raise ModelUnsupported(f"{path}: this {kind} is a decoder: it reads text in one direction only")


def _mask_id(path: Path, tokenizer: Tokenizer) -> int:
    """The mask token: as the folder says, or as such tokens are commonly spelt."""
    told = [
        optional_json(path / n).get("mask_token")
        for n in ("tokenizer_config.json", "special_tokens_map.json")
    ]
    names = [t.get("content") if isinstance(t, dict) else t for t in told]
    known = {str(t.content): int(i) for i, t in tokenizer.get_added_tokens_decoder().items()}
    for name in (*names, *_MASKS):
        if name in known:
            return known[name]
    raise ModelUnsupported(f"{path}: its tokenizer has no mask token ({' or '.join(_MASKS)})")
