# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Turn one GGUF file into a Hugging Face folder: config, fp32 safetensors, tokenizer, chat template.

Knows the GGUF layout and how llama.cpp names, permutes and shifts the weights of a few architectures.
Must not know where files come from, where they are cached, or what runs them (no torch, no transformers).

Three steps, each of which can refuse: `read_header` checks every count and offset against the size of the
file before anything is allocated (CVE-2026-7482), `plan` says which tensor goes where and that none is
missing, spare or misshapen, `convert` writes. transformers has a GGUF loader of its own; it needs
accelerate and in 5.23 it forgets that SmolLM2 splits digits one by one, so it is not used.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from haloweave.errors import ModelCorrupt, ModelError, ModelUnsupported
from haloweave.models import Progress, silent

SHARD_BYTES = 2_000_000_000  # tensors held in memory before a safetensors file is written

# Far above any model, far below an allocation that hurts.
_MAX_COUNT, _MAX_ITEMS, _MAX_NAME, _MAX_TEXT = 1 << 18, 1 << 22, 1 << 16, 1 << 24
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


# -- header -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in the file and what it is; `shape` in numpy order."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    size: int


@dataclass(frozen=True)
class Header:
    """All of a GGUF file but its weights, checked."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ModelCorrupt(f"{self.path}: {key} should be a number in {low}..{high}, got {value!r}")
        return value

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = 1 << 24) -> int:
        value = self.number(key, low, high, default)
        if not isinstance(value, int):
            raise ModelCorrupt(f"{self.path}: {key} should be a whole number, got {value!r}")
        return value

    def text(self, key: str) -> str:
        value = self.metadata.get(key)
        if not isinstance(value, str):
            raise ModelCorrupt(f"{self.path}: {key} should be a string, got {type(value).__name__}")
        return value


class _Cursor:
    """Reads forward through a mapped file and never past its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: np.ndarray[Any, np.dtype[np.uint8]] = np.memmap(path, dtype=np.uint8, mode="r")
        self.size = self.data.size
        self.at = 0

    def fail(self, what: str) -> ModelCorrupt:
        return ModelCorrupt(f"{self.path}: at byte {self.at} of {self.size}: {what}; fetch the file again")

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            raise self.fail(f"{what} needs {count} bytes, the file holds {self.size - self.at} more")
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def scalar(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def string(self, what: str, limit: int = _MAX_TEXT) -> str:
        length = self.scalar("Q", what)
        if length > limit:
            raise self.fail(f"{what} claims {length} bytes, expected at most {limit}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8 ({error.reason})") from error

    def value(self, kind: int, what: str) -> Any:
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.array(what)
        if kind not in _SCALARS:
            raise self.fail(f"{what} has unknown type {kind}")
        value = self.scalar(_SCALARS[kind], what)
        return bool(value) if kind == _BOOL else value

    def array(self, what: str) -> list[Any]:
        kind, count = self.scalar("I", what), self.scalar("Q", what)
        if count > min(_MAX_ITEMS, self.size - self.at):
            raise self.fail(f"{what} claims {count} items")
        if kind == _STRING:
            return [self.string(what) for _ in range(count)]
        if kind not in _SCALARS:
            raise self.fail(f"{what} is an array of unknown type {kind}")
        item = np.dtype("<" + _SCALARS[kind])
        return list(np.frombuffer(self.take(count * item.itemsize, what), dtype=item).tolist())


def read_header(path: Path) -> Header:
    """Read and check everything in front of the weights; raises `ModelCorrupt`."""
    if path.stat().st_size < 24:
        raise ModelCorrupt(f"{path}: {path.stat().st_size} bytes are too few for a GGUF file; fetch it again")
    cursor = _Cursor(path)
    magic, version = cursor.take(4, "magic"), cursor.scalar("I", "version")
    if magic != b"GGUF" or version not in (2, 3):
        raise cursor.fail(f"expected GGUF version 2 or 3, got {magic!r} version {version}")
    tensors, keys = cursor.scalar("Q", "tensor count"), cursor.scalar("Q", "key count")
    if not (0 < tensors <= _MAX_COUNT and 0 < keys <= _MAX_COUNT):
        raise cursor.fail(f"absurd counts: {tensors} tensors, {keys} keys")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.string("key", _MAX_NAME)
        if key in metadata:
            raise cursor.fail(f"key {key!r} appears twice")
        metadata[key] = cursor.value(cursor.scalar("I", key), key)
    infos = [_tensor_info(cursor) for _ in range(tensors)]
    return Header(path, metadata, _place(cursor, infos, metadata.get("general.alignment", 32)))


def _tensor_info(cursor: _Cursor) -> TensorInfo:
    name, rank = cursor.string("tensor name", _MAX_NAME), cursor.scalar("I", "tensor rank")
    if not 1 <= rank <= 4:
        raise cursor.fail(f"tensor {name!r} has {rank} axes, expected 1..4")
    shape = tuple(cursor.scalar("Q", name) for _ in range(rank))[::-1]
    kind, offset = cursor.scalar("I", name), cursor.scalar("Q", name)
    if kind not in GGMLQuantizationType.__members__.values():
        raise cursor.fail(f"tensor {name!r} has unknown type {kind}")
    kind = GGMLQuantizationType(kind)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[-1] % block:
        raise cursor.fail(f"tensor {name!r} of shape {shape} does not fill blocks of {block} ({kind.name})")
    return TensorInfo(name, shape, kind, offset, math.prod(shape) // block * block_bytes)


def _place(cursor: _Cursor, infos: list[TensorInfo], alignment: object) -> dict[str, TensorInfo]:
    if not isinstance(alignment, int) or alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
        raise cursor.fail(f"general.alignment should be a power of two in 8..4096, got {alignment!r}")
    start = -(-cursor.at // alignment) * alignment
    placed: dict[str, TensorInfo] = {}
    end = start
    for info in sorted(infos, key=lambda info: info.offset):
        first = start + info.offset
        if first < end or info.offset % alignment or first + info.size > cursor.size or info.name in placed:
            raise cursor.fail(
                f"tensor {info.name!r} lies at {first}..{first + info.size}: overlapping, unaligned, "
                f"named twice or past the end"
            )
        placed[info.name] = TensorInfo(info.name, info.shape, info.kind, first, info.size)
        end = first + info.size
    return placed


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


# -- tokenizer ----------------------------------------------------------------------------------------

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
_PRE_TOKENIZERS: Mapping[
    str, list[Any]
] = {  # by tokenizer.ggml.pre; an unknown name is refused, for a wrong split is a silent one
    "gpt-2": [_BYTES],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), _BYTES],
    "qwen2": [
        pre_tokenizers.Split(Regex(_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ],
}
_NORMAL, _CONTROL, _USER = 1, 3, 4
_LONGEST_TOKEN = 1024  # characters; the search for merges is quadratic in it


def tokenizer_of(header: Header, rows: int) -> Tokenizer:
    """The same tokenizer for the tokenizers library; a user-defined piece matches before any merge."""
    texts, kinds = _strings(header, "tokens"), header.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != len(texts) or not len(set(texts)) == len(texts) <= rows:
        raise ModelCorrupt(f"{header.path}: {len(texts)} tokens do not fit their types or {rows} rows")
    if max(map(len, texts)) > _LONGEST_TOKEN:
        raise ModelCorrupt(f"{header.path}: a token longer than {_LONGEST_TOKEN} characters; fetch it again")
    try:
        return _dressed(header, _bare(header, texts, kinds), kinds)
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelCorrupt(f"{header.path}: not a tokenizer ({error}); fetch the file again") from error


def _dressed(header: Header, tokenizer: Tokenizer, kinds: list[int]) -> Tokenizer:
    """Add what is matched in the text itself (control tokens, user-defined pieces) and the token in front."""
    texts = [tokenizer.id_to_token(i) for i in range(len(kinds))]
    control = [text for text, kind in zip(texts, kinds, strict=True) if kind == _CONTROL]
    pieces = [text for text, kind in zip(texts, kinds, strict=True) if kind == _USER]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    tokenizer.add_tokens([AddedToken(text, normalized=True) for text in pieces])
    if header.metadata.get("tokenizer.ggml.add_bos_token") is True:
        bos = header.integer("tokenizer.ggml.bos_token_id", low=0, high=len(texts) - 1)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[texts[bos], "$A"], pair=[texts[bos], "$A", "$B"], special_tokens=[(texts[bos], bos)]
        )
    return tokenizer


def _bare(header: Header, texts: list[str], kinds: list[int]) -> Tokenizer:
    kind = header.text("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level(header, texts)
    if kind == "llama" and header.metadata.get("tokenizer.ggml.add_space_prefix") is False:
        return _sentence_piece(header, texts, kinds)
    raise ModelUnsupported(f"{header.path}: no way to convert a {kind!r} tokenizer; fetch it as safetensors")


def _strings(header: Header, key: str) -> list[str]:
    values = header.metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise ModelCorrupt(f"{header.path}: tokenizer.ggml.{key} should be a list of strings; fetch it again")
    return values


def _byte_level(header: Header, texts: list[str]) -> Tokenizer:
    pre, vocabulary = header.text("tokenizer.ggml.pre"), {text: i for i, text in enumerate(texts)}
    if pre not in _PRE_TOKENIZERS:
        raise ModelUnsupported(f"{header.path}: unknown pre-tokenizer {pre!r}; fetch it as safetensors")
    pairs = [tuple(merge.split(" ")) for merge in _strings(header, "merges")]
    if not all(len(pair) == 2 and {*pair, "".join(pair)} <= vocabulary.keys() for pair in pairs):
        raise ModelCorrupt(f"{header.path}: tokenizer.ggml.merges speaks of tokens that are not there")
    tokenizer = Tokenizer(models.BPE(vocabulary, [(pair[0], pair[1]) for pair in pairs]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_PRE_TOKENIZERS[pre])
    tokenizer.normalizer = normalizers.NFC() if pre == "qwen2" else None
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(header: Header, texts: list[str], kinds: list[int]) -> Tokenizer:
    """SentencePiece stores scores, not merges: a piece's merges are its possible halves, best score first."""
    scores = header.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(texts):
        raise ModelCorrupt(f"{header.path}: tokenizer.ggml.scores should hold {len(texts)} numbers")
    texts = [
        text.replace(" ", "▁") if kind == _USER else text for text, kind in zip(texts, kinds, strict=True)
    ]
    ids = {text: i for i, text in enumerate(texts) if kinds[i] == _NORMAL}
    merges = []
    for text in sorted(ids, key=lambda text: -scores[ids[text]]):
        halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        pairs = [pair for pair in halves if ids.keys() >= {*pair}]
        merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    unknown = texts[header.integer("tokenizer.ggml.unknown_token_id", low=0, high=len(texts) - 1)]
    vocabulary = {text: i for i, text in enumerate(texts)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    spaces = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


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
    texts, found = _strings(header, "tokens"), {}
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
