# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What every loader of weights needs: where to compute, in which numbers, JSON that is read with suspicion,
transformers kept quiet, and its errors told in our words.

Knows torch, transformers and JSON. Must not know what kind of model is loaded.
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
from transformers.utils import logging as transformers_logging

from haloweave.errors import HaloError, InvalidInput, ModelCorrupt, ModelError, ModelUnsafe, ModelUnsupported

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Names of weights that could run code: never read."""
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def device(name: str) -> torch.device:
    """A device by name; auto takes a GPU if there is one. Raises InvalidInput if it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise InvalidInput(f"device {name!r} cannot be used here ({error}); use auto or cpu") from error
    return found


def dtype(name: str, place: torch.device) -> torch.dtype:
    """A dtype by name; auto takes bfloat16 on CUDA, else float32. Raises InvalidInput."""
    if name == "auto":
        return torch.bfloat16 if place.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise InvalidInput(f"dtype {name!r}: expected auto, {', '.join(_DTYPES)}")
    if name == "float64" and place.type == "mps":
        raise InvalidInput("dtype 'float64': mps has none; use float32, or the cpu")
    return _DTYPES[name]


def load_weights(
    kind: Any, path: Path, config: Any, number: torch.dtype, **more: str
) -> tuple[Any, list[str]]:
    """A model of `kind` (an auto class) from safetensors alone, and the names of weights that are missing.

    Raises ModelCorrupt if a weight has another shape than the config says.
    """
    model, report = kind.from_pretrained(
        path,
        config=config,
        dtype=number,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, with names and shapes
        **more,
    )
    for name, got, expected in sorted(report["mismatched_keys"]):
        raise ModelCorrupt(f"{path}: {name} has shape {tuple(got)}, the config says {tuple(expected)}")
    return model, sorted(report["missing_keys"])


@contextmanager
def quiet() -> Iterator[None]:
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
def explained(path: Path) -> Iterator[None]:
    """Turn what transformers, tokenizers and torch raise into our tree."""
    try:
        yield
    except HaloError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelError(f"{path}: not enough memory to load it; use a smaller model or dtype") from error
    except ImportError as error:
        raise ModelUnsupported(f"{path}: needs a package that is not installed: {error}") from error
    except SafetensorError as error:
        raise ModelCorrupt(f"{path}: unreadable weights ({error}); fetch the model again") from error
    except Exception as error:  # tokenizers raises bare Exception, transformers whatever a file leads it to
        if "DefaultCPUAllocator" in str(error):  # torch's RuntimeError for a full memory
            raise ModelError(f"{path}: not enough memory to load it; use a smaller model or dtype") from error
        raise ModelCorrupt(f"{path}: cannot be loaded ({type(error).__name__}: {error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelCorrupt."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path}: unreadable JSON ({error}); fetch the model again") from error
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    return read_json(path) if path.exists() else {}


def refuse_code(path: Path, document: object) -> None:
    """`auto_map` imports modules of the folder (CVE-2026-22807); `*_implementation` may fetch kernels."""
    if isinstance(document, list):
        for item in document:
            refuse_code(path, item)
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        if key == "auto_map" and value:
            raise ModelUnsafe(
                f"{path}: asks for its own code (auto_map); use a model that transformers knows"
            )
        if key.endswith(("_implementation", "_implementation_internal")) and "/" in str(value):
            raise ModelUnsafe(f"{path}: asks for code from the hub ({key}: {value!r}); remove that line")
        refuse_code(path, value)
