# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Turn one GGUF file into a Hugging Face folder: config, fp32 safetensors, tokenizer, chat template.

Knows how llama.cpp names, permutes and shifts the weights of a few architectures.
Must not know where files come from, where they are cached, or what runs them (no torch, no transformers).

Three steps, each of which can refuse: `read_header` checks every count and offset against the size of the
file before anything is allocated (CVE-2026-7482), `plan` says which tensor goes where and that none is
missing, spare or misshapen, `convert` writes. transformers has a GGUF loader of its own; it needs
accelerate and in 5.23 it forgets that SmolLM2 splits digits one by one, so it is not used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file

from haloweave.errors import ModelCorrupt, ModelUnsupported
from haloweave.gguf_header import Header, TensorInfo, read_header
from haloweave.gguf_tokenizer import strings, tokenizer_of
from haloweave.progress import Progress, silent

SHARD_BYTES = 2_000_000_000  # tensors held in memory before a safetensors file is written

# -- which tensor goes where --------------------------------------------------------------------------

# Per block: GGUF name, Hugging Face name, shape. Letters: E embedding, F feed-forward, V vocabulary, D one
# head, Q all query heads, K all key heads.
_ATTENTION = """
attn_norm.weight            input_layernorm.weight            E
attn_q.weight               self_attn.q_proj.weight           QE
attn_k.weight               self_attn.k_proj.weight           KE
attn_v.weight               self_attn.v_proj.weight           KE
attn_output.weight          self_attn.o_proj.weight           EQ
ffn_gate.weight             mlp.gate_proj.weight              FE
ffn_up.weight               mlp.up_proj.weight                FE
ffn_down.weight             mlp.down_proj.weight              EF
"""
_FFN_NORM = """
ffn_norm.weight             post_attention_layernorm.weight   E
"""
_BIASES = """
attn_q.bias                 self_attn.q_proj.bias             Q
attn_k.bias                 self_attn.k_proj.bias             K
attn_v.bias                 self_attn.v_proj.bias             K
"""
_HEAD_NORMS = """
attn_q_norm.weight          self_attn.q_norm.weight           D
attn_k_norm.weight          self_attn.k_norm.weight           D
"""
_SANDWICH = """
post_attention_norm.weight  post_attention_layernorm.weight   E
ffn_norm.weight             pre_feedforward_layernorm.weight  E
post_ffw_norm.weight        post_feedforward_layernorm.weight E
"""


@dataclass(frozen=True)
class _Architecture:
    name: str  # the transformers class
    model_type: str
    block: str  # the table of one block
    permuted: bool = False  # llama.cpp interleaves the rotary halves of q and k
    shifted_norms: bool = False  # llama.cpp stores 1 + weight
    activation: str = "silu"


_ARCHITECTURES = {
    "llama": _Architecture("LlamaForCausalLM", "llama", _ATTENTION + _FFN_NORM, permuted=True),
    "qwen2": _Architecture("Qwen2ForCausalLM", "qwen2", _ATTENTION + _FFN_NORM + _BIASES),
    "qwen3": _Architecture("Qwen3ForCausalLM", "qwen3", _ATTENTION + _FFN_NORM + _HEAD_NORMS),
    "gemma3": _Architecture(
        "Gemma3ForCausalLM",
        "gemma3_text",
        _ATTENTION + _HEAD_NORMS + _SANDWICH,
        shifted_norms=True,
        activation="gelu_pytorch_tanh",
    ),
}

_Weights = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class _Move:
    """One tensor's way from the GGUF file into the folder."""

    source: TensorInfo
    target: str
    transform: Callable[[_Weights], _Weights]


def _architecture(header: Header) -> _Architecture:
    name = header.text("general.architecture")
    if name not in _ARCHITECTURES:
        raise ModelUnsupported(
            f"{header.path}: architecture {name!r} cannot be converted from GGUF (only "
            f"{', '.join(_ARCHITECTURES)}); fetch the model as safetensors instead"
        )
    return _ARCHITECTURES[name]


def config_of(header: Header) -> dict[str, Any]:
    """The config.json that describes the same network."""
    arch, p = _architecture(header), header.text("general.architecture")
    heads, head_dim = header.integer(f"{p}.attention.head_count"), _head_dim(header, p)
    _refuse_variants(header, p, head_dim)
    if "token_embd.weight" not in header.tensors:
        raise ModelCorrupt(f"{header.path}: token_embd.weight is missing; fetch the file again")
    theta = _tidy(header.number(f"{p}.rope.freq_base", 1.0, 1e12, 10000.0))
    config: dict[str, Any] = {
        "architectures": [arch.name],
        "model_type": arch.model_type,
        "hidden_size": header.integer(f"{p}.embedding_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.integer(f"{p}.attention.head_count_kv", heads, high=heads),
        "head_dim": head_dim,
        "num_hidden_layers": header.integer(f"{p}.block_count", high=len(header.tensors)),
        "intermediate_size": header.integer(f"{p}.feed_forward_length"),
        "max_position_embeddings": header.integer(f"{p}.context_length", high=1 << 31),
        "rms_norm_eps": _tidy(header.number(f"{p}.attention.layer_norm_rms_epsilon", 1e-12, 1.0)),
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "hidden_act": arch.activation,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "dtype": "float32",
    }
    return config | _gemma3_extras(header, config) if p == "gemma3" else config


def _head_dim(header: Header, p: str) -> int:
    even = header.integer(f"{p}.embedding_length") // header.integer(f"{p}.attention.head_count")
    return header.integer(f"{p}.attention.key_length", max(even, 1))


def _gemma3_extras(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp fixes what GGUF leaves out: every sixth layer is full, sliding ones rotate by base 10,000."""
    layers = range(1, config["num_hidden_layers"] + 1)
    return {
        "hidden_activation": config["hidden_act"],
        "query_pre_attn_scalar": config["head_dim"],
        "sliding_window": header.integer("gemma3.attention.sliding_window"),
        "layer_types": ["sliding_attention" if i % 6 else "full_attention" for i in layers],
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    }


def _refuse_variants(header: Header, p: str, head_dim: int) -> None:
    """What the plain config of the architecture cannot say is refused, never left out."""
    keys = header.metadata
    odd = [key for key in keys if key.startswith((f"{p}.rope.scaling.", f"{p}.expert_"))]
    odd += [name for name in ("rope_freqs.weight",) if name in header.tensors]
    for name in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        odd += [f"{p}.{name}"] if keys.get(f"{p}.{name}", head_dim) != head_dim or head_dim % 2 else []
    if odd:
        raise ModelUnsupported(f"{header.path}: no way to convert {', '.join(odd)}; fetch it as safetensors")


def _tidy(value: float) -> float:
    """0.00001 was stored as a 32-bit float: say 1e-05 again, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def plan(header: Header, config: Mapping[str, Any]) -> tuple[_Move, ...]:
    """Every tensor's way; raises `ModelCorrupt` when one is missing, spare or misshapen."""
    arch = _architecture(header)
    axes = {
        "E": config["hidden_size"],
        "F": config["intermediate_size"],
        "D": config["head_dim"],
        "Q": config["head_dim"] * config["num_attention_heads"],
        "K": config["head_dim"] * config["num_key_value_heads"],
        "V": config["vocab_size"],
    }
    expected = dict(_expected(arch, config))
    if set(expected) != set(header.tensors):
        names = sorted(set(expected) ^ set(header.tensors))
        raise ModelCorrupt(f"{header.path}: tensors missing or unknown: {', '.join(names[:5])}")
    moves = []
    for name, (target, letters) in expected.items():
        info, shape = header.tensors[name], tuple(axes[letter] for letter in letters)
        if info.shape != shape:
            raise ModelCorrupt(f"{header.path}: {name} should have shape {shape}, has {info.shape}")
        moves.append(_Move(info, target, _transform(arch, name, config)))
    return tuple(moves)


def _expected(arch: _Architecture, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    yield "token_embd.weight", ("model.embed_tokens.weight", "VE")
    yield "output_norm.weight", ("model.norm.weight", "E")
    if not config["tie_word_embeddings"]:
        yield "output.weight", ("lm_head.weight", "VE")
    for layer in range(config["num_hidden_layers"]):
        for row in filter(None, arch.block.splitlines()):
            name, target, letters = row.split()
            yield f"blk.{layer}.{name}", (f"model.layers.{layer}.{target}", letters)


def _transform(arch: _Architecture, name: str, config: Mapping[str, Any]) -> Callable[[_Weights], _Weights]:
    if arch.shifted_norms and name.endswith("norm.weight"):
        return lambda weights: weights - 1
    if arch.permuted and name.endswith(("attn_q.weight", "attn_k.weight")):
        return lambda weights: _halves(weights, config["head_dim"])
    return lambda weights: weights


def _halves(weights: _Weights, head_dim: int) -> _Weights:
    """Undo llama.cpp's order (pairs side by side) into transformers' (first halves, then second halves)."""
    pairs = weights.reshape(-1, head_dim // 2, 2, weights.shape[-1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weights.shape))


# -- writing ------------------------------------------------------------------------------------------


def converted_bytes(source: Path) -> int:
    """What the weights will take on disk."""
    return sum(4 * math.prod(info.shape) for info in read_header(source).tensors.values())


def convert(source: Path, target: Path, progress: Progress = silent) -> None:
    """Write `source` as a Hugging Face folder into the existing directory `target`."""
    header = read_header(source)
    config = config_of(header)
    moves = plan(header, config)
    progress("building the tokenizer", 0, None)
    tokenizer = tokenizer_of(header, config["vocab_size"])
    specials = _special_tokens(header)
    ids = {f"{name}_token_id": token_id for name, (token_id, _) in specials.items() if name != "unk"}
    settings: dict[str, Any] = {f"{name}_token": text for name, (_, text) in specials.items()}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {"model_max_length": config["max_position_embeddings"]}
    if "tokenizer.chat_template" in header.metadata:
        settings["chat_template"] = header.text("tokenizer.chat_template")
    tokenizer.save(str(target / "tokenizer.json"))
    _write_json(target / "tokenizer_config.json", settings)
    _write_json(target / "config.json", config | ids)
    _write_json(target / "generation_config.json", ids)
    _write_weights(moves, source, target, progress)


def _special_tokens(header: Header) -> dict[str, tuple[int, str]]:
    texts, found = strings(header, "tokens"), {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        if f"tokenizer.ggml.{key}_token_id" in header.metadata:
            token_id = header.integer(f"tokenizer.ggml.{key}_token_id", low=0, high=len(texts) - 1)
            found[name] = (token_id, texts[token_id])
    return found


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_weights(moves: tuple[_Move, ...], source: Path, target: Path, progress: Progress) -> None:
    data, shards = np.memmap(source, dtype=np.uint8, mode="r"), _shards(moves)
    total, done = sum(move.source.size for move in moves), 0
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        name = f"model{part}.safetensors"
        tensors: dict[str, _Weights] = {}
        for move in shard:
            tensors[move.target] = _weights(data, move)
            done += move.source.size
            progress("converting", done, total)
        save_file(tensors, target / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        _write_json(target / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})


def _shards(moves: tuple[_Move, ...]) -> list[list[_Move]]:
    shards: list[list[_Move]] = [[]]
    size = 0
    for move in moves:
        step = 4 * math.prod(move.source.shape)
        if shards[-1] and size + step > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(move)
        size += step
    return shards


def _weights(data: np.ndarray[Any, np.dtype[np.uint8]], move: _Move) -> _Weights:
    info = move.source
    raw = data[info.offset : info.offset + info.size].reshape(*info.shape[:-1], -1)
    try:
        with np.errstate(all="ignore"):  # damaged blocks overflow; the next check says so
            weights = dequantize(raw, info.kind).reshape(info.shape).astype(np.float32)
    except NotImplementedError as error:
        raise ModelUnsupported(f"{info.name}: cannot convert {info.kind.name} weights; use Q8_0") from error
    if not np.isfinite(weights).all():
        raise ModelCorrupt(f"{info.name} holds numbers that are not finite; fetch the file again")
    return move.transform(weights)
