# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Sentence embeddings: mean pooling against a slow reference, bad folders, and the real weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_bert
import torch
from transformers import BertModel

from haloweave.embedding import SentenceEncoder, load
from haloweave.errors import EngineFault, InvalidInput, ModelCorrupt, ModelNotFound, ModelUnsafe
from haloweave.models import resolve_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> SentenceEncoder:
    return load(folder)


def test_mean_pooling_as_a_slow_reference_does_it(folder: Path, tiny: SentenceEncoder) -> None:
    text = "the cat sits on the mat ."
    model = BertModel.from_pretrained(folder).eval()
    tokenizer = tiny_bert.tokenizer()
    with torch.no_grad():
        hidden = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
    expected = sum(hidden) / len(hidden)
    expected = (expected / expected.norm()).numpy()
    assert np.allclose(tiny.embed([text])[0], expected, atol=1e-5)


def test_neighbours_in_a_batch_change_nothing(tiny: SentenceEncoder) -> None:
    texts = ["cat", "the old dog waits near the log and sings .", "", "fox " * 30, *["mat box"] * 20]
    together, alone = tiny.embed(texts), np.concatenate([tiny.embed([t]) for t in texts])
    assert together.shape == (len(texts), tiny.dim) == (len(texts), 32)
    assert together.dtype == np.float32
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert tiny.embed([]).shape == (0, 32)


def test_text_that_pretends_and_text_that_is_broken(tiny: SentenceEncoder) -> None:
    spelt, control = tiny._tokenizer.encode("[MASK] [SEP]").ids, tiny_bert.SPECIAL.index("[MASK]")
    assert control not in spelt
    assert spelt.count(tiny_bert.SPECIAL.index("[SEP]")) == 1, "only the frame's own"
    bad = tiny.embed(["\ud800 lone", "\0", "cat " * 20_000, "\U0001f469‍\U0001f469"])
    assert np.isfinite(bad).all()


def test_threads_are_put_back(folder: Path, tiny: SentenceEncoder) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    asked = load(folder, threads=before + 1)
    asked._model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    assert np.allclose(asked.embed(["cat"]), tiny.embed(["cat"]), atol=1e-5)
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
    with pytest.raises(InvalidInput, match="threads"):
        load(folder, threads=0)


def test_numbers_that_are_none(folder: Path) -> None:
    broken = load(folder)
    with torch.no_grad():
        broken._model.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(EngineFault, match="not finite"):
        broken.embed(["cat"])


def test_folders_that_will_not_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"config\.json is missing"):
        load(tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ModelNotFound, match=r"model\.safetensors is missing"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelUnsafe, match="pickle"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelCorrupt):
        load(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnsafe, match="auto_map"):
        load(tmp_path)


def test_a_script_it_cannot_read_has_no_direction(tiny: SentenceEncoder) -> None:
    read, spelt, unknown, numbers = tiny.embed(["the old cat sits", "q r z b", "मेरी बहन", "..."])
    assert np.isclose(np.linalg.norm(read), 1)
    assert not spelt.any()
    assert not unknown.any()
    assert numbers.any(), "no letters at all: nothing was misread"


@pytest.mark.real
def test_the_real_one_knows_what_is_meant() -> None:
    encoder = load(resolve_encoder("minilm-l6"))
    texts = ["My sister Tamsin keeps bees in Lerwick.", "The stock market fell sharply on Monday."]
    question = encoder.embed(["Who in my family looks after hives?"])[0]
    right, wrong = encoder.embed(texts) @ question
    assert encoder.dim == 384
    assert right > wrong + 0.2
    assert not encoder.embed(["मेरी बहन मधुमक्खियाँ पालती है।", "Моя сестра держит пчёл."]).any()
    assert encoder.embed(["meri behen madhumakkhiyan palti hai", "Ma sœur garde des abeilles."]).any(1).all()
