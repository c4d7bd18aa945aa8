# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What `haloweave.engine.hf.model.load` accepts, and everything it must refuse with a reason."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, Phi3Config, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from haloweave.engine.hf.model import check_safetensors, load, max_positions
from haloweave.errors import (
    InvalidInput,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    ModelUnsafe,
    ModelUnsupported,
)
from haloweave.models import resolve

ROWS = 32
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}ok"


def _shape() -> dict[str, Any]:
    return {
        "vocab_size": ROWS,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def _save_tokenizer(folder: Path, words: int, template: str | None) -> None:
    vocabulary = {f"w{i}": i for i in range(words)}
    backend = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0", eos_token="w1")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**_shape()))
    model.save_pretrained(folder)
    _save_tokenizer(folder, ROWS - 4, TEMPLATE)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- what works ---------------------------------------------------------------------------------------


def test_loads_a_plain_folder(folder: Path) -> None:
    loaded = load(folder, device="cpu")
    assert (loaded.architecture, loaded.max_positions) == ("LlamaForCausalLM", 128)
    assert (loaded.device.type, loaded.dtype, loaded.path) == ("cpu", torch.float32, folder)
    assert not loaded.model.training
    assert not any(weights.requires_grad for weights in loaded.model.parameters())
    assert loaded.tokenizer.decode([3, 4]) == "w3 w4"
    assert torch.isfinite(loaded.model(torch.tensor([[1, 2, 3]])).logits).all()


def test_dtype_and_attention_are_passed_on(folder: Path) -> None:
    loaded = load(folder, device="cpu", dtype="bfloat16", attn_implementation="eager")
    assert {weights.dtype for weights in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.model.config._attn_implementation == "eager"


def test_leaves_the_switches_of_transformers_alone(folder: Path) -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    load(folder)
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before


def test_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(folder)
    assert capfd.readouterr() == ("", "")


def test_sharded_weights(folder: Path, pristine: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(pristine)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(load(folder, device="cpu").model(ids).logits, model(ids).logits)


def test_fingerprint_names_the_content(folder: Path) -> None:
    first = load(folder, device="cpu").fingerprint
    assert load(folder, device="cpu").fingerprint == first
    moved = folder.rename(folder.parent / "elsewhere")
    assert load(moved, device="cpu").fingerprint == first
    assert load(moved, device="cpu", dtype="float16").fingerprint != first
    template = moved / "chat_template.jinja"
    template.write_text(TEMPLATE + "!")
    assert load(moved, device="cpu").fingerprint != first
    template.write_text(TEMPLATE)
    _change(moved / "config.json", rms_norm_eps=0.5)
    assert load(moved, device="cpu").fingerprint != first


# -- how far the positions were trained ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, 4096),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 4096),
        (
            {
                "rope_type": "dynamic",
                "rope_theta": 1e4,
                "factor": 2.0,
                "original_max_position_embeddings": 2048,
            },
            2048,
        ),
        (
            {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 1024},
            4096,
        ),
    ],
)
def test_positions_of_llama(rope: dict[str, Any], expected: int) -> None:
    shape = _shape() | {"max_position_embeddings": 4096}
    assert max_positions(LlamaConfig(**shape, rope_parameters=rope)) == expected


def test_positions_of_longrope_are_the_original_ones() -> None:
    factors = [1.0] * 4
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors}
    shape = _shape() | {"max_position_embeddings": 4096}
    config = Phi3Config(**shape, original_max_position_embeddings=512, rope_parameters=rope)
    assert max_positions(config) == 512


def test_positions_nobody_states_are_refused() -> None:
    config = AutoConfig.for_model("bloom")
    with pytest.raises(ModelUnsupported, match="how many positions"):
        max_positions(config)


# -- missing, unsafe ----------------------------------------------------------------------------------


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelNotFound, match=name):
        load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_only_pickle_weights(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelUnsafe, match="pickle"):
        load(folder)


def test_pickle_beside_safetensors_is_not_read(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_the_folder_is_refused(folder: Path, name: str) -> None:
    _change(folder / name, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (folder / "modeling_evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelUnsafe, match="auto_map"):
        load(folder)


def test_nested_code_is_refused(folder: Path) -> None:
    _change(folder / "config.json", extra=[{"text_config": {"auto_map": {"AutoConfig": "x.Y"}}}])
    with pytest.raises(ModelUnsafe, match="auto_map"):
        load(folder)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_from_the_hub_are_refused(folder: Path, key: str) -> None:
    _change(folder / "config.json", **{key: "someone/kernel"})
    with pytest.raises(ModelUnsafe, match="hub"):
        load(folder)


def test_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelUnsupported, match="adapter"):
        load(folder)


# -- chat templates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        ESCAPE,
        "{% for m in messages %}{{ m.content.__init__.__globals__ }}{% endfor %}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{% if messages[0]['role'] == 'system' %}" + ESCAPE + "{% endif %}",
    ],
)
def test_template_that_leaves_the_sandbox(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelUnsafe, match="sandbox"):
        load(folder)


@pytest.mark.parametrize(
    "template",
    [
        NO_SYSTEM,
        "{{ ''.__class__ }}",
        "{{ messages[7]['content'] }}",
        "{{ 1 / 0 }}",
        "{{ nonsense.x }}",
        "{{ messages | bogus }}",
        "{% if",
    ],
)
def test_template_that_fails_for_an_ordinary_reason(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    assert load(folder).tokenizer.chat_template == template


def test_no_template_at_all(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert load(folder).tokenizer.chat_template is None


# -- damaged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 7, 8, 9, 100, 0.5, -1])
def test_half_a_download(folder: Path, keep: float) -> None:
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: int(len(data) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(ModelCorrupt):
        load(folder)


@pytest.mark.parametrize("length", [0, 1, 10**9, 0xFFFFFFF0, 2**63])
def test_absurd_header_length(folder: Path, length: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(length.to_bytes(8, "little") + weights.read_bytes()[8:])
    with pytest.raises(ModelCorrupt, match="header"):
        load(folder)


def test_trailing_bytes(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelCorrupt, match="its header says"):
        load(folder)


def _write_header(path: Path, header: object, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 3},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, "b": 1},
        {"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
    ],
)
def test_header_that_lies(tmp_path: Path, header: object) -> None:
    path = tmp_path / "lies.safetensors"
    _write_header(path, header, bytes(8))
    with pytest.raises(ModelCorrupt):
        check_safetensors(path)


@given(place=st.integers(0, 600), flip=st.integers(1, 255))
def test_a_flipped_header_byte_is_harmless_or_noticed(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    data = bytearray((pristine / "model.safetensors").read_bytes())
    data[place] ^= flip
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(data)
    with suppress(ModelCorrupt):  # and nothing else
        check_safetensors(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\0", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_unreadable_json(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ModelCorrupt, match="JSON"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": "1.0", "model": {"type": "Nonsense"}}'])
def test_unreadable_tokenizer(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelCorrupt):
        load(folder)


def test_weights_that_do_not_fit_the_config(folder: Path) -> None:
    _change(folder / "config.json", intermediate_size=48)
    with pytest.raises(ModelCorrupt, match=r"mlp.down_proj.weight .*\(16, 24\).*\(16, 48\)"):
        load(folder)


def test_weights_that_are_not_there(folder: Path) -> None:
    _change(folder / "config.json", num_hidden_layers=2)
    with pytest.raises(ModelCorrupt, match="weights missing"):
        load(folder)


@pytest.mark.parametrize(
    ("weight_map", "match"),
    [
        ({"a": "gone.safetensors"}, "missing gone.safetensors"),
        ({"a": "../model.safetensors"}, "of this folder"),
        ({"a": 3}, "of this folder"),
        (None, "of this folder"),
    ],
)
def test_index_that_lies(folder: Path, weight_map: object, match: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelCorrupt, match=match):
        load(folder)


def test_tokenizer_larger_than_the_embeddings(folder: Path) -> None:
    _save_tokenizer(folder, ROWS, None)
    load(folder)
    _save_tokenizer(folder, ROWS + 1, None)
    with pytest.raises(ModelCorrupt, match=f"id {ROWS} has no row among {ROWS}"):
        load(folder)


# -- not for us ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "encoder-decoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "not a causal language model"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "both directions"),
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "recurrent|state"),
        ({"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"]}, "recurrent|state"),
        ({"model_type": "rwkv", "architectures": ["RwkvForCausalLM"]}, "recurrent|state"),
        ({"model_type": "jamba", "architectures": ["JambaForCausalLM"]}, "recurrent|state"),
        (
            {"model_type": "recurrent_gemma", "architectures": ["RecurrentGemmaForCausalLM"]},
            "recurrent|state",
        ),
        ({"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]}, "recurrent|state"),
        ({"model_type": "lfm2", "num_hidden_layers": 2, "full_attn_idxs": [1]}, "conv"),
        ({"model_type": "qwen3", "layer_types": ["linear_attention"]}, "linear_attention"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not a causal language model"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "not a causal language model"),
    ],
)
def test_models_without_rows_are_refused(folder: Path, changes: dict[str, Any], match: str) -> None:
    config = {"num_hidden_layers": 1} | changes
    if "model_type" in changes:
        (folder / "config.json").write_text(json.dumps(config))
    else:
        _change(folder / "config.json", **changes)
    with pytest.raises(ModelUnsupported, match=match):
        load(folder)


def test_unknown_model_type(folder: Path) -> None:
    _change(folder / "config.json", model_type="from_the_future")
    with pytest.raises(ModelError, match="from_the_future"):
        load(folder)


@pytest.mark.parametrize("call", [{"device": "abacus"}, {"dtype": "int3"}, {"attn_implementation": "a/b"}])
def test_arguments_that_mean_nothing(folder: Path, call: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(call.values()))):
        load(folder, **call)


# -- the real one -------------------------------------------------------------------------------------


@pytest.mark.real
def test_the_default_model_speaks() -> None:
    loaded = load(resolve("smollm2-135m"), device="cpu")
    tokenizer, model = loaded.tokenizer, loaded.model
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        talk, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert loaded.max_positions == 8192
    assert model.config.rope_parameters["rope_theta"] == 100_000
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.real
def test_the_default_tokenizer_gives_text_back() -> None:
    tokenizer = load(resolve("smollm2-135m"), device="cpu").tokenizer
    text = "  It's 12345\r\n\n\tनमस्ते 👩‍👩‍👧 é\0 <|im_end|>"
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert not {0, 1, 2} & {*ids}, "typed control tokens stay text"
    digits = tokenizer("12345")["input_ids"]
    assert [tokenizer.decode([i]) for i in digits] == list("12345")
    names = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token
    assert names == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
