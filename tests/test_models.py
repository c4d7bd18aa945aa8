# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Where weights come from: the table, the fetch, the cache, and GGUF files both sound and damaged.

The GGUF files are written here from tiny random transformers models, named by the gguf package's own tables
and permuted as llama.cpp's converter does: a road independent of the one under test, which must lead back.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import haloweave.gguf_convert as gguf_convert
import haloweave.models as models
from haloweave.engine.hf.model import load
from haloweave.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported
from haloweave.gguf_convert import convert, read_header
from haloweave.models import ModelSpec, Wheel, pull, resolve, status, verify
from haloweave.progress import silent

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
NORMAL, CONTROL, USER, BYTE = 1, 3, 4, 6
HIDDEN, FEED, HEADS, KEY_HEADS, HEAD_DIM, LAYERS = 32, 64, 4, 2, 8, 2


# -- tiny GGUF files ----------------------------------------------------------------------------------


def _byte_alphabet() -> list[str]:
    """GPT-2's printable names of the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    strange = [byte for byte in range(256) if byte not in plain]
    names = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(strange)}
    return [names[byte] for byte in range(256)]


def _byte_level_vocabulary(writer: gguf.GGUFWriter, pre: str = "smollm") -> int:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_byte_alphabet(), "he", "Ġt", "12"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] * 3 + [NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["h e", "Ġ t", "1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    return len(tokens)


def _sentence_piece_vocabulary(writer: gguf.GGUFWriter) -> int:
    pieces = ["▁", *"abcdehlo", "he", "ll", "hell", "hello", "▁hello"]
    tokens = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "  ",
        "\n\n",
        *pieces,
    ]
    kinds = [CONTROL] * 4 + [BYTE] * 256 + [USER] * 2 + [NORMAL] * len(pieces)
    scores = {"he": -1.0, "ll": -2.0, "hell": -3.0, "hello": -4.0, "▁hello": -5.0}
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_scores([scores.get(token, -100.0) for token in tokens])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    return len(tokens)


def _sizes(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "pad_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 12345.0},
    } | more


def _llama(vocabulary: int) -> Any:
    return LlamaForCausalLM(LlamaConfig(**_sizes(vocabulary, tie_word_embeddings=True)))


def _qwen2(vocabulary: int) -> Any:
    return Qwen2ForCausalLM(Qwen2Config(**_sizes(vocabulary, tie_word_embeddings=False)))


def _qwen3(vocabulary: int) -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**_sizes(vocabulary, tie_word_embeddings=True, head_dim=16)))


def _gemma3(vocabulary: int) -> Any:
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 12345.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    sizes = _sizes(vocabulary, head_dim=16, num_hidden_layers=6, rope_parameters=rope)
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes, query_pre_attn_scalar=16, sliding_window=4))


_FAMILIES: dict[str, tuple[Callable[[int], Any], Callable[[gguf.GGUFWriter], int], gguf.MODEL_ARCH]] = {
    "llama": (_llama, _byte_level_vocabulary, gguf.MODEL_ARCH.LLAMA),
    "qwen2": (_qwen2, lambda writer: _byte_level_vocabulary(writer, "qwen2"), gguf.MODEL_ARCH.QWEN2),
    "qwen3": (_qwen3, lambda writer: _byte_level_vocabulary(writer, "qwen2"), gguf.MODEL_ARCH.QWEN3),
    "gemma3": (_gemma3, _sentence_piece_vocabulary, gguf.MODEL_ARCH.GEMMA3),
}


def write_gguf(path: Path, family: str = "llama", quantise: bool = False) -> Any:
    """Write a random model of that family as GGUF; returns the model."""
    build, vocabulary, arch = _FAMILIES[family]
    writer = gguf.GGUFWriter(path, family)
    rows = vocabulary(writer) + 3  # padded embeddings
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = build(rows).eval()
        for weights in model.parameters():
            weights.data += 0.2 * torch.randn_like(weights)
    _write_sizes(writer, model.config)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    kept = {name: weights for name, weights in model.state_dict().items() if name != "lm_head.weight"}
    if not model.config.tie_word_embeddings:
        kept["lm_head.weight"] = model.lm_head.weight
    for name, weights in kept.items():
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        _write_tensor(writer, new, _as_llama_cpp(family, name, weights.detach().numpy()), quantise)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _write_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(12345.0)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)


def _as_llama_cpp(family: str, name: str, weights: Any) -> Any:
    """What convert_hf_to_gguf.py does to a tensor besides renaming it."""
    if family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = HEADS if "q_proj" in name else KEY_HEADS
        halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        return halves.swapaxes(1, 2).reshape(weights.shape)
    return weights + 1 if family == "gemma3" and name.endswith("norm.weight") else weights


def _write_tensor(writer: gguf.GGUFWriter, name: str, weights: Any, quantise: bool) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    if quantise and weights.ndim == 2 and weights.shape[1] % 32 == 0:
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, np.ascontiguousarray(weights))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


# -- conversion ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", _FAMILIES)
def test_the_converted_model_computes_the_same(tmp_path: Path, family: str) -> None:
    model = write_gguf(tmp_path / "model.gguf", family)
    loaded = load(resolve(str(tmp_path / "model.gguf"), cache=tmp_path), device="cpu")
    ids = torch.arange(3, 27)[None]
    torch.testing.assert_close(loaded.model(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    tied = loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings


def test_quantised_weights_are_near(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf", quantise=True)
    loaded = load(resolve(str(tmp_path / "model.gguf"), cache=tmp_path), device="cpu")
    for name, weights in model.named_parameters():
        got = loaded.model.get_parameter(name)
        assert 0 < (got - weights).abs().max() < 0.01 or weights.ndim == 1, name


def test_the_folder_holds_what_transformers_wants(tiny: Path, tmp_path: Path) -> None:
    convert(tiny, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 12345.0}
    assert config["rms_norm_eps"] == 1e-5, "not the float32 neighbour 9.999999747378752e-06"
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    assert config.items() >= ids.items()
    assert json.loads((tmp_path / "generation_config.json").read_text()) == ids


def test_sharded_when_large(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_convert, "SHARD_BYTES", 20_000)
    folder = resolve(str(tiny), cache=tmp_path)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    load(folder, device="cpu")


def test_byte_level_tokenizer(tiny: Path, tmp_path: Path) -> None:
    convert(tiny, tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "the  the\r\n\n\t12 नमस्ते 👩‍👩‍👧 é\0 "
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert "12" not in tokenizer.convert_ids_to_tokens(ids), "SmolLM2 splits digits one by one"
    assert "he" in tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer("<|im_end|>")["input_ids"] == [2]
    assert 2 not in tokenizer("<|im_end|>", split_special_tokens=True)["input_ids"]
    assert tokenizer.chat_template == TEMPLATE


def test_sentence_piece_tokenizer(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "gemma3")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(resolve(str(tmp_path / "model.gguf"), cache=tmp_path))
    text = "hello hello   hello\n\nझ👩‍👧"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert pieces[:7] == ["<bos>", "hello", "▁hello", "▁▁", "▁hello", "\n\n", "<0xE0>"]
    assert tokenizer.chat_template is None


# -- GGUF files that are not what they say ------------------------------------------------------------


def _alter(source: Path, target: Path, place: int, data: bytes) -> Path:
    content = bytearray(source.read_bytes())
    content[place : place + len(data)] = data
    target.write_bytes(content)
    return target


def _header_length(path: Path) -> int:
    return min(info.offset for info in read_header(path).tensors.values())


@pytest.mark.parametrize(
    ("place", "data", "match"),
    [
        (0, b"GGML", "GGUF version 2 or 3"),
        (4, (1).to_bytes(4, "little"), "GGUF version 2 or 3"),
        (4, (3).to_bytes(4, "big"), "GGUF version 2 or 3"),
        (8, (2**63).to_bytes(8, "little"), "absurd counts"),
        (8, bytes(8), "absurd counts"),
        (16, (2**40).to_bytes(8, "little"), "absurd counts"),
        (24, (0xFFFFFFF0).to_bytes(8, "little"), "claims 4294967280 bytes"),
        (24, (60_000_000).to_bytes(8, "little"), "claims 60000000 bytes"),
    ],
)
def test_damaged_front(tiny: Path, tmp_path: Path, place: int, data: bytes, match: str) -> None:
    with pytest.raises(ModelCorrupt, match=match):
        read_header(_alter(tiny, tmp_path / "bad.gguf", place, data))


@pytest.mark.parametrize("value", [2**32, 2**63, 2**64 - 32, 33])
def test_offset_past_the_end_or_astray(tiny: Path, tmp_path: Path, value: int) -> None:
    """CVE-2026-7482: the last eight bytes of a tensor's entry are its offset."""
    name = b"blk.1.ffn_down.weight"
    place = tiny.read_bytes().index(name) + len(name) + 4 + 2 * 8 + 4
    with pytest.raises(ModelCorrupt, match="past the end"):
        read_header(_alter(tiny, tmp_path / "bad.gguf", place, value.to_bytes(8, "little")))


def test_shape_past_the_end(tiny: Path, tmp_path: Path) -> None:
    name = b"blk.1.ffn_down.weight"
    place = tiny.read_bytes().index(name) + len(name) + 4
    with pytest.raises(ModelCorrupt, match="past the end"):
        read_header(_alter(tiny, tmp_path / "bad.gguf", place, (2**62).to_bytes(8, "little")))


def test_array_longer_than_the_file(tiny: Path, tmp_path: Path) -> None:
    key = b"tokenizer.ggml.token_type"
    place = tiny.read_bytes().index(key) + len(key) + 4 + 4
    with pytest.raises(ModelCorrupt, match="claims"):
        read_header(_alter(tiny, tmp_path / "bad.gguf", place, (2**60).to_bytes(8, "little")))


@pytest.mark.parametrize("length", [0, 3, 4, 20, 24, 30, 0.3, 0.9])
def test_half_a_file(tiny: Path, tmp_path: Path, length: float) -> None:
    data = tiny.read_bytes()
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(data[: int(len(data) * length) if 0 < length < 1 else int(length)])
    with pytest.raises(ModelCorrupt):
        resolve(str(bad), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*")), "nothing is left behind"


def test_not_finite(tiny: Path, tmp_path: Path) -> None:
    place = read_header(tiny).tensors["blk.0.ffn_up.weight"].offset
    bad = _alter(tiny, tmp_path / "bad.gguf", place, b"\xff" * 4)
    with pytest.raises(ModelCorrupt, match="not finite"):
        resolve(str(bad), cache=tmp_path / "cache")


def _renamed(source: Path, target: Path, old: bytes, new: bytes) -> Path:
    assert len(old) == len(new)
    target.write_bytes(source.read_bytes().replace(old, new))
    return target


@pytest.mark.parametrize(
    ("old", "new", "error", "match"),
    [
        (b"blk.1.ffn_up.weight", b"blk.7.ffn_up.weight", ModelCorrupt, "missing or unknown"),
        (b"token_embd", b"token_EMBD", ModelCorrupt, "token_embd.weight is missing"),
        (b"llama.block_count", b"llama.block_COUNT", ModelCorrupt, "llama.block_count"),
        (b"ggml.tokens", b"ggml.TOKENS", ModelCorrupt, "tokenizer.ggml.tokens"),
        (b"smollm", b"SMOLLM", ModelUnsupported, "unknown pre-tokenizer 'SMOLLM'"),
        (b"output_norm.weight", b"output_NORM.weight", ModelCorrupt, "missing or unknown"),
    ],
)
def test_wrong_names(
    tiny: Path, tmp_path: Path, old: bytes, new: bytes, error: type[ModelError], match: str
) -> None:
    with pytest.raises(error, match=match):
        resolve(str(_renamed(tiny, tmp_path / "bad.gguf", old, new)), cache=tmp_path / "cache")


def test_unknown_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "mamba.gguf", "mamba")
    writer.add_tensor("a", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelUnsupported, match="'mamba' cannot be converted"):
        resolve(str(tmp_path / "mamba.gguf"), cache=tmp_path)


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_any_flip_or_cut_of_the_header_converts_or_is_refused(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, where: float, flip: int, cut: bool
) -> None:
    work = tmp_path_factory.getbasetemp() / "fuzz"
    shutil.rmtree(work, ignore_errors=True)
    (work / "out").mkdir(parents=True)
    data = bytearray(tiny.read_bytes())
    place = int(where * _header_length(tiny))
    data[place] ^= flip
    bad = work / "bad.gguf"
    bad.write_bytes(data[:place] if cut else data)
    with suppress(ModelCorrupt, ModelUnsupported):  # and nothing else
        convert(bad, work / "out")


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 2**64 - 1))
def test_no_eight_bytes_make_the_reader_allocate_much(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, where: float, value: int
) -> None:
    place = int(where * _header_length(tiny))
    bad = _alter(tiny, tmp_path_factory.getbasetemp() / "big.gguf", place, value.to_bytes(8, "little"))
    tracemalloc.start()
    try:
        with suppress(ModelCorrupt):
            read_header(bad)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


# -- names --------------------------------------------------------------------------------------------


def test_the_table_is_complete() -> None:
    assert models.known()[0].name == models.DEFAULT
    for spec in models.known():
        assert models.find(spec.name) is spec
        assert spec.licence
        assert all(len(digest) == 64 for digest in (spec.sha256, *(wheel.sha256 for wheel in spec.wheels)))
        assert spec.peak_bytes > spec.converted_bytes
    assert "Gemma Terms" in next(spec.notice for spec in models.known() if spec.name.startswith("gemma"))


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "name", ["", " ", "nonsense", "./org/name/x", "/no/such/model.gguf", "a\0b", "../up", "a/.."]
)
def test_names_that_mean_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="smollm2-135m"):
        resolve(name, cache=tmp_path)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelNotFound, match=r"\.gguf"):
        resolve(str(tmp_path / "model.bin"))


def test_the_hub_is_asked_for_safe_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def answer(name: str, **how: Any) -> str:
        asked.update(how, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert resolve("someone/some-model") == tmp_path
    assert asked["name"] == "someone/some-model"
    assert not any(pattern.endswith(("bin", "pt", "pth", "py", "*")) for pattern in asked["allow_patterns"])


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("bad name")])
def test_a_hub_out_of_reach(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **how: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelNotFound, match="check the name and the network"):
        resolve("someone/some-model")


def test_importing_is_light() -> None:
    code = "import sys, haloweave.models; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "transformers", "gguf", "huggingface_hub"} & {*done.stdout.split()}


def test_the_environment_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_CACHE", str(tmp_path))
    assert models.cache_directory() == tmp_path / "models"
    monkeypatch.delenv("HALO_CACHE")
    assert models.cache_directory().parent.name == "haloweave"


# -- fetching -----------------------------------------------------------------------------------------


@pytest.fixture
def parcel(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A known model in two wheels that the real pip finds in a folder, without any network."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    data = tiny.read_bytes()
    halves = (data[: len(data) // 2], data[len(data) // 2 :])
    wheels = tuple(_write_wheel(shelf, f"tiny-part{i}", half) for i, half in enumerate(halves))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return ModelSpec("tiny", "for tests", "none", wheels, _digest(tiny), 1_000_000, notice="Read me first")


def _digest(path: Path) -> str:
    return models._sha256(path, silent)


def _write_wheel(shelf: Path, package: str, content: bytes) -> Wheel:
    stem, info = package.replace("-", "_"), f"{package.replace('-', '_')}-1.0.dist-info"
    path = shelf / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{stem}/__init__.py", "raise SystemExit('imported')")
        archive.writestr(f"{stem}/data.part", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(package, "1.0", _digest(path), path.stat().st_size, f"{stem}/data.part")


def test_fetch_convert_and_find_again(
    parcel: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, told = tmp_path / "cache", []
    assert status(parcel, cache).state == "absent"
    folder = pull(parcel, cache=cache, progress=lambda text, done, total: told.append(text))
    assert told[0] == "Read me first"
    assert {text.split()[0] for text in told[1:]} == {"downloading", "hashing", "building", "converting"}
    assert status(parcel, cache).state == "ready"
    assert status(parcel, cache).size_on_disk > 100_000
    assert [entry.name for entry in cache.iterdir()] == [parcel.folder], "nothing else is left"
    load(folder, device="cpu")
    verify(folder)
    monkeypatch.setattr(models, "_fetch", None)
    assert pull(parcel, cache=cache) == folder, "the second time needs no network"


def test_a_known_name_resolves(parcel: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_KNOWN", (parcel,))
    assert resolve("tiny", cache=tmp_path) == tmp_path / parcel.folder


def test_a_parcel_that_was_tampered_with(parcel: ModelSpec, tmp_path: Path) -> None:
    first, *rest = parcel.wheels
    bad = replace(parcel, wheels=(replace(first, sha256="0" * 64), *rest))
    with pytest.raises(ModelCorrupt, match=f"expected sha256 {'0' * 64}, got {first.sha256}"):
        pull(bad, cache=tmp_path / "cache")
    swapped = replace(parcel, wheels=parcel.wheels[::-1])
    with pytest.raises(ModelCorrupt, match="expected a GGUF file"):
        pull(swapped, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_parcel_that_is_not_there(parcel: ModelSpec, tmp_path: Path) -> None:
    gone = replace(parcel, wheels=(replace(parcel.wheels[0], version="9.9"),))
    with pytest.raises(ModelNotFound, match=r"could not download tiny-part0==9.9 .*network"):
        pull(gone, cache=tmp_path / "cache")


# -- the cache ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return resolve(str(tiny), cache=tmp_path / "cache")


def _without_manifest(folder: Path) -> None:
    (folder / models.MANIFEST).unlink()


def _with_empty_manifest(folder: Path) -> None:
    (folder / models.MANIFEST).write_text('{"files": {}}')


def _with_torn_manifest(folder: Path) -> None:
    (folder / models.MANIFEST).write_text('{"files": {"config.json"')


def _with_short_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [_without_manifest, _with_empty_manifest, _with_torn_manifest, _with_short_weights, _without_config],
)
def test_a_damaged_folder_is_rebuilt(tiny: Path, folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(ModelCorrupt):
        verify(folder)
    assert resolve(str(tiny), cache=folder.parent) == folder
    verify(folder)
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_a_flipped_bit_is_found_by_verify_alone(parcel: ModelSpec, tmp_path: Path) -> None:
    folder = pull(parcel, cache=tmp_path / "cache")
    weights = folder / "model.safetensors"
    _alter(weights, weights, weights.stat().st_size - 1, b"\x55")
    assert pull(parcel, cache=tmp_path / "cache") == folder, "too slow to hash at every start"
    with pytest.raises(ModelCorrupt, match="not the file that was converted"):
        verify(folder)
    pull(parcel, cache=tmp_path / "cache", again=True)
    verify(folder)


def test_another_file_under_the_same_name_is_converted_anew(tiny: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(tiny, tmp_path / "mine.gguf"))
    first = resolve(str(copy), cache=tmp_path / "cache")
    os.utime(copy, (1, 1))
    assert resolve(str(copy), cache=tmp_path / "cache") != first


def test_a_crash_leaves_nothing_that_is_trusted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(text: str, done: int, total: int | None) -> None:
        if text.startswith("hashing"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if killed: no cleaning up
        with pytest.raises(KeyboardInterrupt):
            resolve(str(tiny), cache=tmp_path, progress=crash)
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".tmp-")
    os.utime(leftover, (time.time() - 90_000,) * 2)
    verify(resolve(str(tiny), cache=tmp_path))
    assert not leftover.exists(), "yesterday's leftovers are swept"


def test_no_room_on_disk(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match=r"needs \d+ MB of free disk, has 0 MB; set HALO_CACHE"):
        resolve(str(tiny), cache=tmp_path)


def test_the_disk_fills_up_all_the_same(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left"):
        resolve(str(tiny), cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_made(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="set HALO_CACHE"):
        resolve(str(tiny), cache=tmp_path / "file" / "cache")


def test_a_rival_that_was_first_wins(tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    rivals: Iterator[Path] = iter([])

    def meanwhile(text: str, done: int, total: int | None) -> None:
        nonlocal rivals
        if text.startswith("building"):
            rivals = iter([resolve(str(tiny), cache=cache)])

    folder = resolve(str(tiny), cache=cache, progress=meanwhile)
    assert next(rivals) == folder
    verify(folder)
    assert [entry.name for entry in cache.iterdir()] == [folder.name]


def test_two_processes_at_once(tiny: Path, tmp_path: Path) -> None:
    code = "import sys; from haloweave.models import resolve; from pathlib import Path; "
    code += "print(resolve(sys.argv[1], cache=Path(sys.argv[2])))"
    command = [sys.executable, "-c", code, str(tiny), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    (folder,) = folders
    verify(Path(folder))
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [Path(folder).name]
