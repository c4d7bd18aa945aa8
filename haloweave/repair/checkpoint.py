# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Load a local folder as a masked language model, after looking for every reason not to.

Knows what a safe and usable folder looks like. Must not know where it came from, nor windows or host tokens.
Nothing here reads pickle, runs code from the folder, or goes to the network.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from haloweave.errors import (
    HaloError,
    InvalidInput,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsafe,
    ModelUnsupported,
)
from haloweave.repair.encoder import MaskedLM

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MASKS = ("[MASK]", "<mask>")
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load(path: Path, *, device: str = "auto", dtype: str = "auto", batch_tokens: int = 4096) -> MaskedLM:
    """The masked LM in the folder `path`; a `ModelError` says why not."""
    place = _device(device)
    number = _dtype(dtype, place)
    _check_folder(path)
    with _quiet(), _explained(path):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        _check_config(path, config)
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        mask_id = _mask_id(path, tokenizer)
        model = _load_weights(path, config, number).to(place)
        return MaskedLM(model.eval().requires_grad_(False), tokenizer, mask_id, batch_tokens=batch_tokens)


def _load_weights(path: Path, config: Any, dtype: torch.dtype) -> Any:
    model, report = AutoModelForMaskedLM.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, with names and shapes
    )
    if missing := sorted(report["missing_keys"]):
        raise ModelUnsupported(
            f"{path}: not a whole masked LM: weights missing: {', '.join(missing[:5])}; an encoder without a "
            "head has to be trained first"
        )
    for name, got, expected in sorted(report["mismatched_keys"]):
        raise ModelCorrupt(f"{path}: {name} has shape {tuple(got)}, the config says {tuple(expected)}")
    return model


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise InvalidInput(f"device {name!r} cannot be used here ({error}); use auto or cpu") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise InvalidInput(f"dtype {name!r}: expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


# -- the folder, before transformers sees it ----------------------------------------------------------


def _check_folder(path: Path) -> None:
    """Refuse what can be refused by reading names and JSON."""
    if not path.is_dir():
        raise ModelNotFound(f"{path}: no such folder; expected config.json, *.safetensors and tokenizer.json")
    if not any((path / name).is_file() for name in _WEIGHTS):
        if any(True for pattern in _PICKLES for _ in path.glob(pattern)):
            raise ModelUnsafe(f"{path}: only pickle weights, which can run code; convert them to safetensors")
        raise ModelNotFound(f"{path}: neither {' nor '.join(_WEIGHTS)}")
    for name in ("config.json", "tokenizer.json"):
        if not (path / name).is_file():
            raise ModelNotFound(f"{path}: {name} is missing; save model and tokenizer with save_pretrained")
    for name in ("config.json", "tokenizer_config.json"):
        _refuse_code(path / name, _read_json(path / name))


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path}: unreadable JSON ({error}); fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _refuse_code(path: Path, document: object) -> None:
    """`auto_map` imports modules of the folder; `*_implementation` may fetch kernels."""
    for item in document if isinstance(document, list) else ():
        _refuse_code(path, item)
    for key, value in document.items() if isinstance(document, dict) else ():
        if key == "auto_map" and value:
            raise ModelUnsafe(
                f"{path}: asks for its own code (auto_map); use a model that transformers knows"
            )
        if key.endswith(("_implementation", "_implementation_internal")) and "/" in str(value):
            raise ModelUnsafe(f"{path}: asks for code from the hub ({key}: {value!r}); remove that line")
        _refuse_code(path, value)


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
        _read_json(path / n).get("mask_token") for n in ("tokenizer_config.json", "special_tokens_map.json")
    ]
    names = [t.get("content") if isinstance(t, dict) else t for t in told]
    known = {str(t.content): int(i) for i, t in tokenizer.get_added_tokens_decoder().items()}
    for name in (*names, *_MASKS):
        if name in known:
            return known[name]
    raise ModelUnsupported(f"{path}: its tokenizer has no mask token ({' or '.join(_MASKS)})")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold transformers' bars and advice back, and leave its switches as they were."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what transformers, tokenizers and torch raise into our tree."""
    try:
        yield
    except HaloError:
        raise
    except ImportError as error:
        raise ModelUnsupported(f"{path}: needs a package that is not installed: {error}") from error
    except SafetensorError as error:
        raise ModelCorrupt(f"{path}: unreadable weights ({error}); fetch the model again") from error
    except Exception as error:  # tokenizers raises bare Exception, transformers whatever a file leads it to
        raise ModelCorrupt(f"{path}: cannot be loaded ({type(error).__name__}: {error})") from error
