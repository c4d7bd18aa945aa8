# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A masked LM in a quarter of its size: matrices in 8 bits with a scale for each row, the rest as it is.

Knows files, torch, and how transformers puts a model together. Must not know training.

    config.json  tokenizer.json  README.md     as in the folder it was packed from
    weights.safetensors                        int8 `name` with fp32 `name:scale`, or fp32 `name`
    manifest.json                              size and sha256 of each; written last, checked on loading
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.quantise import quantise as quantised
from haloweave.diffusion.quantise import restore
from haloweave.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported
from haloweave.loading import quiet
from haloweave.repair.mlm.checkpoint import sync

MANIFEST = "manifest.json"
SHIPPED = Path(__file__).resolve().parents[1] / "weights"
"""The parcel that comes with the package."""
_CONFIG, _TOKENIZER, _CARD, _WEIGHTS = "config.json", "tokenizer.json", "README.md", "weights.safetensors"
_FILES = (_CONFIG, _TOKENIZER, _CARD, _WEIGHTS)
_FORMAT = 1


class Unpacked(NamedTuple):
    """A masked LM in fp32, ready to predict, and its tokenizer."""

    model: Any
    tokenizer: Any
    """A `tokenizers.Tokenizer` that neither pads nor truncates."""


def quantise(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """See `haloweave.diffusion.quantise`. Raises ModelCorrupt for weights that are not finite."""
    try:
        return quantised(weights)
    except BadInput as error:
        raise ModelCorrupt(str(error)) from error


def pack(folder: Path, target: Path) -> int:
    """Pack the masked LM in `folder`; the size of the parcel in bytes. Leaves other files in `target` alone.

    Raises a ModelError if the folder holds no such model, or the parcel cannot be written.
    """
    for name in (_CONFIG, _TOKENIZER, _CARD, "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelNotFound(f"{folder}: {name} is missing; expected a folder made by halo train-mlm")
    try:
        target.mkdir(parents=True, exist_ok=True)
        (target / MANIFEST).unlink(missing_ok=True)  # from here on, it is no parcel until it is a whole one
        for name in (_CONFIG, _TOKENIZER, _CARD):
            (target / name).write_bytes((folder / name).read_bytes())
        save_file(quantise(load_file(folder / "model.safetensors")), target / _WEIGHTS)
        return _seal(target)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot pack {folder} into {target}: {error}") from error


def recard(target: Path, card: str) -> int:
    """Give a parcel another card; its size in bytes."""
    _checked(target)
    (target / MANIFEST).unlink()
    (target / _CARD).write_text(card, encoding="utf-8", newline="\n")
    return _seal(target)


def _seal(target: Path) -> int:
    """Write the manifest; the size of it all."""
    files = {}
    for name in _FILES:
        (target / name).chmod(0o644)  # safetensors writes for the owner alone
        sync(target / name)
        data = (target / name).read_bytes()
        files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps({"format": _FORMAT, "files": files}, indent=2) + "\n"
    (target / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    sync(target / MANIFEST, target)
    return len(text) + sum((target / name).stat().st_size for name in _FILES)


def unpack(parcel: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights in fp32. Raises ModelNotFound or ModelCorrupt."""
    files = _checked(parcel)
    return _config(parcel, files), _weights(parcel, files)


def load_parcel(parcel: Path = SHIPPED) -> Unpacked:
    """The model and its tokenizer, ready to predict. Raises a ModelError if the parcel is not whole."""
    files = _checked(parcel)
    told, weights = _config(parcel, files), _weights(parcel, files)
    try:
        config = AutoConfig.for_model(**told)
        kind = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    except (KeyError, ValueError, TypeError) as error:
        raise ModelUnsupported(f"{parcel}: {told.get('model_type')!r} is no masked LM known here") from error
    model = _assembled(parcel, kind, config, weights)
    tokenizer = Tokenizer.from_str(files[_TOKENIZER].decode("utf-8"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Unpacked(model.eval().requires_grad_(False), tokenizer)


def _assembled(parcel: Path, kind: Any, config: Any, weights: dict[str, Tensor]) -> Any:
    """A model of those weights and no others."""
    try:
        with quiet():
            model, report = kind.from_pretrained(
                None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
            )
    except (RuntimeError, ValueError) as error:
        raise ModelCorrupt(f"{parcel}: cannot be put together ({error})") from error
    if wrong := sorted({*report["missing_keys"], *report["unexpected_keys"]}):
        raise ModelCorrupt(f"{parcel}: weights missing or unknown: {', '.join(wrong[:5])}")
    return model


def _checked(parcel: Path) -> dict[str, bytes]:
    """Every file of a parcel, each what the manifest says."""
    try:
        told = json.loads((parcel / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelNotFound(f"{parcel}: no parcel there ({MANIFEST} is missing)") from error
    except ValueError as error:
        raise ModelCorrupt(f"{parcel / MANIFEST}: unreadable ({error})") from error
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        raise ModelCorrupt(f"{parcel / MANIFEST}: expected a parcel of format {_FORMAT}")
    return {name: _checked_file(parcel / name, told) for name in _FILES}


def _checked_file(file: Path, told: dict[str, Any]) -> bytes:
    try:
        data, expected = file.read_bytes(), told["files"][file.name]["sha256"]
    except (OSError, LookupError, TypeError) as error:
        raise ModelCorrupt(f"{file}: missing, or not in the manifest") from error
    if (got := hashlib.sha256(data).hexdigest()) != expected:
        raise ModelCorrupt(f"{file}: expected sha256 {expected}, got {got}; get the parcel again")
    return data


def _config(parcel: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        return dict(json.loads(files[_CONFIG]))
    except (ValueError, TypeError) as error:
        raise ModelCorrupt(f"{parcel / _CONFIG}: unreadable ({error})") from error


def _weights(parcel: Path, files: Mapping[str, bytes]) -> dict[str, Tensor]:
    try:
        return restore(load(files[_WEIGHTS]))
    except SafetensorError as error:
        raise ModelCorrupt(f"{parcel / _WEIGHTS}: unreadable ({error})") from error
