# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Load a local folder as a causal language model and its tokenizer, after looking for every reason not to.

Knows what a safe and usable folder looks like: safetensors weights, no code, attention in every layer, a
tokenizer that fits. Must not know where the folder came from, nor anything of KV caches, context or policies.

The order matters: what can be refused by reading JSON is refused before transformers sees the folder, and
nothing here reads pickle, runs code from the folder, or goes to the network.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from haloweave.errors import InvalidInput, ModelCorrupt, ModelNotFound, ModelUnsafe, ModelUnsupported
from haloweave.loading import PICKLES, explained, load_weights, optional_json, quiet, read_json, refuse_code
from haloweave.loading import device as device_named
from haloweave.loading import dtype as dtype_named

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000  # bytes, the limit of the safetensors format itself
_ROWS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})  # one K/V row per token
_GROWING_ROPE = frozenset({"longrope", "dynamic"})  # frequencies change once the text outgrows training
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
_BITS |= {"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "F8_E4M3": 8, "F8_E5M2": 8}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and what the rest must know about it."""

    model: Any
    tokenizer: Any
    path: Path
    device: torch.device
    dtype: torch.dtype
    max_positions: int  # trained range; the original one where rotary frequencies grow with length
    architecture: str
    fingerprint: str  # of config, tokenizer, template, weights and dtype


def load(
    path: Path, *, device: str = "auto", dtype: str = "auto", attn_implementation: str | None = None
) -> LoadedModel:
    """Load the model in the folder `path`; a `ModelError` says why not."""
    place = device_named(device)
    number = dtype_named(dtype, place)
    _check_attention(attn_implementation)
    raw = check_folder(path)
    with quiet(), explained(path):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        _check_config(path, config)
        positions = max_positions(config)
        tokenizer = _load_tokenizer(path, config)
        model = _load_weights(path, config, number, attn_implementation).to(place)
    return LoadedModel(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        path=path,
        device=place,
        dtype=number,
        max_positions=positions,
        architecture=type(model).__name__,
        fingerprint=_fingerprint(path, raw, tokenizer, number),
    )


def _load_tokenizer(path: Path, config: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(
        path, config=config, local_files_only=True, trust_remote_code=False
    )
    _check_tokenizer(path, tokenizer, config)
    return tokenizer


def _load_weights(path: Path, config: Any, dtype: torch.dtype, attn_implementation: str | None) -> Any:
    attention = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    model, missing = load_weights(AutoModelForCausalLM, path, config, dtype, **attention)
    if missing:
        raise ModelCorrupt(f"{path}: weights missing: {', '.join(missing[:5])}; fetch the model again")
    return model


def _check_attention(name: str | None) -> None:
    names = {"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()}
    if name is not None and name not in names:  # org/name would fetch a kernel from the hub
        raise InvalidInput(f"attn_implementation {name!r}: expected one of {', '.join(sorted(names))}")


# -- the folder, before transformers sees it ----------------------------------------------------------


def check_folder(path: Path) -> dict[str, Any]:
    """Refuse what can be refused by reading JSON; returns the parsed config.json."""
    if not path.is_dir():
        raise ModelNotFound(f"{path}: no such folder; expected config.json, *.safetensors and tokenizer.json")
    weights = _weight_files(path)
    for name in ("config.json", "tokenizer.json"):
        if not (path / name).is_file():
            raise ModelNotFound(f"{path}: {name} is missing; save model and tokenizer with save_pretrained")
    if (path / "adapter_config.json").exists():
        raise ModelUnsupported(f"{path}: holds an adapter; merge it into its base model and save the result")
    config = read_json(path / "config.json")
    for document, name in (
        (config, "config.json"),
        (optional_json(path / "tokenizer_config.json"), "tokenizer_config.json"),
    ):
        refuse_code(path / name, document)
    for file in weights:
        check_safetensors(file)
    return config


def _weight_files(path: Path) -> list[Path]:
    if (path / _WEIGHTS).is_file():
        return [path / _WEIGHTS]
    if (path / _INDEX).is_file():
        names = read_json(path / _INDEX).get("weight_map")
        if not isinstance(names, dict) or not all(
            isinstance(n, str) and Path(n).name == n for n in names.values()
        ):
            raise ModelCorrupt(f"{path / _INDEX}: weight_map should name files of this folder")
        files = [path / name for name in sorted(set(names.values()))]
        if absent := [file.name for file in files if not file.is_file()]:
            raise ModelCorrupt(f"{path}: missing {', '.join(absent)}; fetch the model again")
        return files
    if any(True for pattern in PICKLES for _ in path.glob(pattern)):
        raise ModelUnsafe(f"{path}: only pickle weights, which can run code; convert them to safetensors")
    raise ModelNotFound(f"{path}: no {_WEIGHTS} nor {_INDEX}")


def check_safetensors(path: Path) -> None:
    """Read the header alone: its length, its offsets and the file's size must agree."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or not 2 <= length <= min(size - 8, _HEADER_LIMIT):
            raise ModelCorrupt(f"{path}: header of {length} bytes in a file of {size}; fetch it again")
        try:
            header = json.loads(file.read(length).decode("utf-8"))
            spans = sorted(_span(entry) for name, entry in header.items() if name != "__metadata__")
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise ModelCorrupt(f"{path}: unreadable header ({error!r}); fetch it again") from error
    end = 0
    for first, last in spans:
        if first != end or last < first:
            raise ModelCorrupt(
                f"{path}: a tensor at bytes {first}..{last}, expected it at {end}; fetch it again"
            )
        end = last
    if end != size - 8 - length:
        raise ModelCorrupt(f"{path}: holds {size - 8 - length} bytes of weights, its header says {end}")


def _span(entry: Mapping[str, Any]) -> tuple[int, int]:
    first, last = entry["data_offsets"]
    bits = math.prod(entry["shape"]) * _BITS.get(entry["dtype"], 0)
    if not isinstance(first, int) or not isinstance(last, int) or (bits and (last - first) * 8 != bits):
        raise ValueError(f"shape {entry['shape']} of {entry['dtype']} in bytes {first}..{last}")
    return first, last


# -- what the model is --------------------------------------------------------------------------------


def _check_config(path: Path, config: Any) -> None:
    """A living context needs a causal model that keeps one K/V row per token in every layer."""
    kind, text = config.model_type, config.get_text_config()
    classes = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    names = classes if isinstance(classes, tuple | list) else (classes,)
    if config.is_encoder_decoder:
        raise _unsupported(path, kind, "it is an encoder-decoder")
    if classes is None or not set(config.architectures or names) & {*names}:
        raise _unsupported(path, kind, f"not a causal language model ({config.architectures})")
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise _unsupported(path, kind, "it reads text in both directions")
    if getattr(text, "use_bidirectional_attention", False):
        raise _unsupported(path, kind, "it reads text in both directions")
    if odd := sorted({*(getattr(text, "layer_types", None) or ())} - _ROWS):
        raise _unsupported(
            path, kind, f"its layers of type {', '.join(odd)} keep a state, not one row per token"
        )
    if _is_stateful(names):
        raise _unsupported(path, kind, "it is recurrent: a state cannot forget one token")


def _is_stateful(names: tuple[str, ...] | list[str]) -> bool:
    import transformers  # the classes are lazy attributes of the package

    return any(getattr(getattr(transformers, name), "_is_stateful", False) for name in names)


def _unsupported(path: Path, kind: str, why: str) -> ModelUnsupported:
    return ModelUnsupported(f"{path}: {kind} cannot have a living context: {why}; use a Llama-like model")


def max_positions(config: Any) -> int:
    """The trained range, not the stretched one: rows stay valid only while frequencies stand still."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    nested = [value for value in rope.values() if isinstance(value, dict)] or [rope]
    for parameters in nested:
        original = parameters.get("original_max_position_embeddings")
        original = original or getattr(text, "original_max_position_embeddings", None)
        if parameters.get("rope_type") in _GROWING_ROPE and original and limit:
            limit = min(limit, original)
    if not isinstance(limit, int) or limit < 1:
        raise ModelUnsupported(f"{config.model_type}: config does not say how many positions were trained")
    return limit


def _check_tokenizer(path: Path, tokenizer: Any, config: Any) -> None:
    rows = config.get_text_config().vocab_size
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise ModelCorrupt(
            f"{path}: the tokenizer's id {highest} has no row among {rows} embeddings; they do not fit"
        )
    _check_template(path, tokenizer)


def _check_template(path: Path, tokenizer: Any) -> None:
    """Render once: the sandbox raises when a template reaches for Python (CVE-2024-34359)."""
    templates = tokenizer.chat_template or {}
    templates = {"default": templates} if isinstance(templates, str) else templates
    user = {"role": "user", "content": "Hello"}
    for name, template in templates.items():
        for talk in ([user], [{"role": "system", "content": "Be kind."}, user]):
            try:
                tokenizer.apply_chat_template(
                    talk, chat_template=template, tokenize=False, add_generation_prompt=True
                )
            except SecurityError as error:
                raise ModelUnsafe(
                    f"{path}: chat template {name!r} tries to leave its sandbox: {error}"
                ) from error
            except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
                continue  # ordinary: this template takes no system role, or wants other fields


def _fingerprint(path: Path, raw: Mapping[str, Any], tokenizer: Any, dtype: torch.dtype) -> str:
    """What a snapshot must match; weights count by their headers and sizes, or by the manifest's hashes."""
    weights = [
        (file.name, file.stat().st_size, hashlib.sha256(_header(file)).hexdigest())
        for file in _weight_files(path)
    ]
    digest = hashlib.sha256(json.dumps([raw, tokenizer.chat_template, str(dtype), weights]).encode())
    for name in ("manifest.json", "generation_config.json"):
        digest.update((path / name).read_bytes() if (path / name).is_file() else b"-")
    digest.update((path / "tokenizer.json").read_bytes())
    return digest.hexdigest()


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))
