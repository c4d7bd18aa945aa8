# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Warm starts as a person meets them: the host as teacher, an encoder's weights, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_bert
import tiny_denoiser as tiny
import torch
from terminal import Screens
from tiny_host import host
from tiny_models import llama
from transformers import BertModel, GPT2Config, GPT2LMHeadModel

from haloweave import models, warm_starts
from haloweave.cli import train_denoiser
from haloweave.diffusion import tokenizer as tokenizers
from haloweave.diffusion.checkpoint import from_pretrained
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.parcel import read
from haloweave.diffusion.train import CHECKPOINT
from haloweave.diffusion.training import curves
from haloweave.errors import ModelUnsupported
from haloweave.warm_starts import HostTeacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return host(tmp_path_factory.mktemp("models") / "host")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_starts, "native_bf16", lambda place: False)
    monkeypatch.setattr(curves, "_picture", lambda columns, path: None)


def teacher(folder: Path) -> HostTeacher:
    return HostTeacher(folder, tokenizers.borrowed_tokenizer(folder / "tokenizer.json"), CPU)


# ---- the host as a teacher ---------------------------------------------------------------------------


@torch.no_grad()
def test_it_foresees_each_token_from_those_before_it(lender: Path) -> None:
    """Against the model itself, row by row and place by place, fed no further than it may see."""
    rows = torch.randint(0, 256, (6, 9), generator=torch.Generator().manual_seed(1))
    tokens, probabilities = teacher(lender).answers(rows, 5)
    model = llama(0)
    assert tokens.shape == probabilities.shape == (6, 9, 5)
    assert not probabilities[:, 0].any()
    for row in range(6):
        for i in range(1, 9):
            best = model(rows[row : row + 1, :i]).logits[0, -1].softmax(-1).topk(5)
            torch.testing.assert_close(probabilities[row, i], best.values, atol=1e-5, rtol=0)
            assert tokens[row, i].tolist() == best.indices.tolist()


def test_tokens_of_the_denoisers_own_are_read_as_an_end_and_not_foreseen(lender: Path) -> None:
    who = teacher(lender)
    rows = torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(1))
    ended, plain = rows.clone(), rows.clone()
    ended[:, 3], plain[:, 3] = who.tokenizer.eos_id, 0
    assert who.tokenizer.eos_id >= 256
    tokens, probabilities = who.answers(ended, 4)
    expected = who.answers(plain, 4)
    after = [1, 2, 4, 5, 6, 7]
    assert torch.equal(tokens[:, after], expected[0][:, after])
    assert torch.equal(probabilities[:, after], expected[1][:, after])
    assert not probabilities[:, 3].any()
    with pytest.raises(BadInput, match="at most the host's 256 tokens, got 257"):
        who.answers(rows, 257)


def test_its_fingerprint_is_of_weights_and_precision(
    lender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, other = host(tmp_path / "same"), host(tmp_path / "other", seed=1)
    assert teacher(lender).fingerprint == teacher(same).fingerprint != teacher(other).fingerprint
    exact = teacher(lender).fingerprint
    monkeypatch.setattr(warm_starts, "native_bf16", lambda place: True)
    assert teacher(lender).fingerprint == teacher(same).fingerprint != exact


# ---- `halo train` ------------------------------------------------------------------------------------

SMALL = ["--seq-len", 24, "--batch-size", 4, "--max-steps", 6, "--dtype", "float32", "--device", "cpu"]
WIDTHS = ["--d-model", 32, "--n-layers", 2, "--n-heads", 2, "--d-ff", 64]
Run = Callable[..., Screens]


@pytest.fixture
def train(tmp_path: Path, lender: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """One run over a few texts into `out`; expects that exit code. `somebody` is the tiny host."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = [json.dumps({"text": t.text}, ensure_ascii=False) for t in tiny.texts()]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    plainly = models.resolve
    monkeypatch.setattr(
        models, "resolve", lambda name, **more: lender if name == "somebody" else plainly(name, **more)
    )

    def run(*more: Any, code: int = 0) -> Screens:
        screens = Screens(width=200)
        given = ["train", "--data-dir", folder, "--output-dir", "out", *SMALL, *WIDTHS]
        assert screens.halo(*given, *more) == code, screens.err
        return screens

    return run


def state(folder: str) -> dict[str, torch.Tensor]:
    found = read(Path(folder) / CHECKPOINT)
    assert found is not None
    return dict(found.tensors)


TAUGHT = ["--host", "somebody", "--set", "distil=0.5", "--set", "distil_blocks=10", "--set", "distil_top=4"]


def test_a_run_with_a_teacher_that_was_stopped_ends_with_the_same_weights(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(*TAUGHT, "--output-dir", "whole")
    stepped = train_denoiser.Watch.stepped

    def press(self: Any, report: Any) -> None:
        stepped(self, report)
        if report.step == 2:
            self._pressed.set()

    with monkeypatch.context() as patch:
        patch.setattr(train_denoiser.Watch, "stepped", press)
        train(*TAUGHT, code=130)
    asked: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(HostTeacher, "answers", lambda self, rows, top: asked.append(rows))
        train(*TAUGHT)
    assert not asked, "what was answered is not asked again"
    assert (Path("out/data/answers")).is_dir()
    one, other = state("whole"), state("out")
    assert all(torch.equal(one[name], other[name]) for name in one)
    table = curves.read(Path("out/curves.csv"))
    assert all(value > 0 for value in table["loss_teacher"])


def test_an_encoder_begins_with_the_weights_of_another(train: Run, encoder: Path) -> None:
    """At a rate of learning of next to nothing what comes out is what went in."""
    begun = ["--arch", "encoder", "--vocab-size", 400, "--set", f"initialiser={encoder}", "--lr", 1e-30]
    train(*begun)
    mine = from_pretrained(Path("out")).denoiser.state_dict()
    theirs = BertModel.from_pretrained(encoder).state_dict()
    for number in range(2):
        for ours, name in (("up", "intermediate.dense"), ("norm_ff", "output.LayerNorm")):
            taken = theirs[f"encoder.layer.{number}.{name}.weight"]
            torch.testing.assert_close(mine[f"blocks.{number}.{ours}.weight"], taken)
    again = train(*begun)
    assert "going on after step 6 of 6" in again.err
    cold = [part for part in begun if not str(part).startswith("initialiser=")]
    cold.remove("--set")
    refused = train(*cold, code=2)
    assert "initialiser" in refused.err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--set", "initialiser=minilm-l6"], "transformer takes over no weights; those that do: encoder"),
        (["--arch", "encoder", "--set", "initialiser=minilm_l7"], "no encoder 'minilm_l7'"),
        (["--arch", "encoder", "--set", "initialiser="], "no encoder ''"),
        (["--arch", "encoder", "--d-model", 16, "--set", "initialiser=ENCODER"], "set d_model and d_ff to"),
        (["--arch", "encoder", "--n-heads", 4, "--set", "initialiser=ENCODER"], "has 2 heads, got n_heads 4"),
        (["--arch", "encoder", "--n-layers", 3, "--set", "initialiser=ENCODER"], "set fewer n_layers"),
        (["--arch", "encoder", "--set", "norm_eps=0.001", "--set", "initialiser=ENCODER"], "layer_norm_eps"),
        (["--set", "distil=0.5"], "the teacher is the host, and there is none; give --host"),
        ([*TAUGHT, "--set", "objective=elbo"], "objective elbo is no bound with a teacher's targets"),
        ([*TAUGHT, "--corruption", "spans"], "corruption spans moves tokens"),
        ([*TAUGHT, "--set", "distil_top=1000"], "at most the host's 256 tokens, got 1,000"),
        (["--set", "distill=0.5"], "did you mean 'distil'"),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_told_in_a_line(train: Run, encoder: Path, more: list[Any], told: str) -> None:
    given = [str(part).replace("ENCODER", str(encoder)) for part in more]
    screens = train("--vocab-size", 400, *given, code=2)
    assert told in screens.err
    assert len([line for line in screens.err.splitlines() if "expected" in line or told in line]) == 1
    assert "Traceback" not in screens.err


def test_what_does_not_fit_is_told_before_the_teacher_is_asked(
    train: Run, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers take minutes, and the shape of an encoder is known at once."""
    asked: list[object] = []
    monkeypatch.setattr(HostTeacher, "answers", lambda self, rows, top: asked.append(rows))
    begun = ["--arch", "encoder", "--n-heads", 4, "--set", f"initialiser={encoder}"]
    assert "has 2 heads, got n_heads 4" in train(*TAUGHT, *begun, code=2).err
    assert not asked


def test_a_host_of_fewer_positions_than_a_block_is_no_teacher(train: Run, tmp_path: Path) -> None:
    """GPT-2 has a vector for each position: behind the last it would look up one that is not there."""
    few = host(tmp_path / "few")
    sizes = {"vocab_size": 256, "n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(few)
    told = train("--host", few, *TAUGHT[2:], code=2).err
    assert "at most the host's 16 positions, got 24; set a smaller seq_len" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "distilbert"}, "model_type 'bert', got 'distilbert'"),
        ({"hidden_act": "relu"}, "hidden_act 'gelu', got 'relu'"),
        ({"num_attention_heads": "two"}, "tells no num_attention_heads"),
    ],
    ids=str,
)
def test_what_would_compute_other_states_is_refused(
    tmp_path: Path, change: dict[str, str], told: str
) -> None:
    folder = tiny_bert.encoder(tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    mine = tiny.denoiser(tiny.tokenizer(), "encoder", d_model=32, d_ff=64)
    with pytest.raises(ModelUnsupported, match=told):
        warm_starts.initialise(mine, str(folder))


@pytest.mark.parametrize("eps", [None, "small", 1e-5])
def test_another_epsilon_than_ours_is_refused_whatever_it_is(tmp_path: Path, eps: object) -> None:
    folder = tiny_bert.encoder(tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": eps}))
    mine = tiny.denoiser(tiny.tokenizer(), "encoder", d_model=32, d_ff=64)
    with pytest.raises(BadInput, match=f"its layer_norm_eps is {eps!r}, got norm_eps 1e-12"):
        warm_starts.initialise(mine, str(folder))
