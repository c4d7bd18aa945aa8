# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The parcel: a quarter of the size, hardly another model, and refused where a bit is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_bert
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file
from transformers import BertForMaskedLM

from haloweave.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported
from haloweave.repair.mlm import base, parcel, saving
from haloweave.repair.mlm.parcel import load_parcel, pack, quantise, recard, restore, unpack


@pytest.fixture(scope="module", params=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training leaves it."""
    made = tmp_path_factory.mktemp("made")
    start = base.load(tiny_bert.masked_lm(tmp_path_factory.mktemp("base"), tied=request.param == "tied"))
    saving.save(start, made, "# a card\n")
    return made


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    pack(folder, tmp_path / "parcel")
    return tmp_path / "parcel"


# ---- eight bits --------------------------------------------------------------------------------------


@given(
    value=arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_no_weight_is_off_by_more_than_half_a_step_of_its_row(value: np.ndarray) -> None:
    there = torch.from_numpy(value)
    packed = quantise({"w": there})
    back = restore(packed)["w"]
    assert (back.shape, back.dtype) == (there.shape, torch.float32)
    if there.ndim == 1 or not there.numel():
        assert torch.equal(back, there)
        return
    assert packed["w"].dtype == torch.int8
    largest = there.abs().amax(dim=-1, keepdim=True)
    assert ((back - there).abs() <= largest * (0.5001 / 127) + 1e-38).all()


def test_what_is_not_a_matrix_of_reals_stays_as_it_is() -> None:
    there = {
        "norm": torch.tensor([0.1, 1e-30]),
        "half": torch.tensor([0.5]).half(),
        "ids": torch.arange(3)[None],
    }
    back = restore(quantise(there))
    assert torch.equal(back["norm"], there["norm"])
    assert torch.equal(back["half"], there["half"].float())
    assert torch.equal(back["ids"], there["ids"])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_packed(wrong: float) -> None:
    with pytest.raises(ModelCorrupt, match="w: holds values that are not finite"):
        quantise({"w": torch.tensor([[1.0, wrong]])})


# ---- there and back ----------------------------------------------------------------------------------


def test_a_quarter_of_the_size(folder: Path, packed: Path) -> None:
    size = sum(path.stat().st_size for path in packed.iterdir())
    assert pack(folder, packed) == size
    assert {path.name for path in packed.iterdir()} == {
        *("config.json", "tokenizer.json", "README.md", "weights.safetensors", "manifest.json")
    }
    matrices = sum(v.numel() for v in load_file(folder / "model.safetensors").values() if v.ndim > 1)
    weights = load_file(packed / "weights.safetensors")
    assert sum(v.numel() for v in weights.values() if v.dtype == torch.int8) == matrices


def test_what_is_unpacked_is_what_was_packed_to_within_a_step(folder: Path, packed: Path) -> None:
    config, weights = unpack(packed)
    assert config == json.loads((folder / "config.json").read_text())
    there = load_file(folder / "model.safetensors")
    assert weights.keys() == there.keys()
    for name, value in there.items():
        assert weights[name].dtype == torch.float32
        assert (weights[name] - value).abs().max() <= value.abs().max() * 0.5001 / 127


def test_the_loaded_model_predicts_nearly_the_same(folder: Path, packed: Path) -> None:
    model, tokenizer = load_parcel(packed)
    there = BertForMaskedLM.from_pretrained(folder).eval()
    assert type(model) is BertForMaskedLM
    assert not model.training
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == there.config.tie_word_embeddings
    encoded = tokenizer.encode("The cat sits on the [MASK], " * 9)
    assert len(encoded.ids) > 60, "neither padded nor cut"
    assert encoded.tokens[:4] == ["[CLS]", "the", "cat", "s"]
    ids = torch.tensor([encoded.ids])
    got, expected = model(input_ids=ids).logits, there(input_ids=ids).logits.detach()
    assert 0 < (got - expected).std() < 0.04 * expected.std()
    assert not got.requires_grad
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in unpack(packed)[1].items())


def test_a_parcel_depends_on_its_folder_alone(folder: Path, packed: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "again")
    for path in packed.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_packing_leaves_other_files_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".gitattributes").write_text("* -text\n")
    pack(folder, tmp_path)
    load_parcel(tmp_path)
    assert (tmp_path / ".gitattributes").read_text() == "* -text\n"


def test_another_card(packed: Path) -> None:
    size = recard(packed, "# another\r\ncard, ä\n")
    assert size == sum(path.stat().st_size for path in packed.iterdir())
    assert (packed / "README.md").read_bytes() == "# another\r\ncard, ä\n".encode()
    load_parcel(packed)


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "README.md", "weights.safetensors"])
@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_a_flipped_bit_anywhere(packed: Path, name: str, where: float) -> None:
    data = bytearray((packed / name).read_bytes())
    data[int(where * len(data)) if where > 0 else int(where)] ^= 1
    (packed / name).write_bytes(data)
    for read in (load_parcel, unpack):
        with pytest.raises(ModelCorrupt, match=rf"{name}: expected sha256"):
            read(packed)
    with pytest.raises(ModelCorrupt):
        recard(packed, "# does not make it good again")


def _cut(packed: Path) -> None:
    os.truncate(packed / "weights.safetensors", 500)


def _missing(packed: Path) -> None:
    (packed / "tokenizer.json").unlink()


def _torn_manifest(packed: Path) -> None:
    os.truncate(packed / "manifest.json", 50)


def _other_format(packed: Path) -> None:
    told = json.loads((packed / "manifest.json").read_text())
    (packed / "manifest.json").write_text(json.dumps(told | {"format": 99}))


def _not_listed(packed: Path) -> None:
    told = json.loads((packed / "manifest.json").read_text())
    told["files"].pop("weights.safetensors")
    (packed / "manifest.json").write_text(json.dumps(told))


def _odd_manifest(packed: Path) -> None:
    (packed / "manifest.json").write_text('{"format": 1, "files": 7}')


@pytest.mark.parametrize(
    "damage", [_cut, _missing, _torn_manifest, _other_format, _not_listed, _odd_manifest]
)
def test_a_parcel_that_is_not_whole(packed: Path, damage: Callable[[Path], None]) -> None:
    damage(packed)
    with pytest.raises(ModelCorrupt):
        load_parcel(packed)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model_type": "llama"}, ModelUnsupported, "'llama' is no masked LM"),
        ({"model_type": "no-such"}, ModelUnsupported, "'no-such' is no masked LM"),
        ({"num_hidden_layers": 3}, ModelCorrupt, "missing or unknown"),
        ({"num_hidden_layers": 1}, ModelCorrupt, "missing or unknown"),
        ({"hidden_size": 64}, ModelCorrupt, "cannot be put together"),
    ],
)
def test_a_sealed_parcel_whose_parts_do_not_fit(
    packed: Path, change: dict[str, object], error: type[ModelError], match: str
) -> None:
    told = json.loads((packed / "config.json").read_text()) | change
    (packed / "config.json").write_text(json.dumps(told))
    parcel._seal(packed)
    with pytest.raises(error, match=match):
        load_parcel(packed)


def test_there_is_no_parcel(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ModelNotFound, match=r"manifest\.json is missing"):
            load_parcel(place)


def test_a_folder_that_is_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="halo train-mlm"):
        pack(tmp_path, tmp_path / "parcel")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot pack"):
        pack(folder, tmp_path / "file" / "parcel")


def test_a_crash_while_packing_leaves_no_parcel(
    folder: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parcel, "save_file", crash)
    with pytest.raises(KeyboardInterrupt):
        pack(folder, packed)
    with pytest.raises(ModelNotFound):
        load_parcel(packed)
