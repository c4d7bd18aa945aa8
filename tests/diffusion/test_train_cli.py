# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo train` as a person meets it: from texts to a folder, again from where it was, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_denoiser as tiny
import tokenizers
import torch
from safetensors.torch import save_file
from terminal import Screens

from haloweave import models
from haloweave.cli import train_denoiser
from haloweave.diffusion.checkpoint import from_pretrained
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.training import curves

SMALL = ["--seq-len", 24, "--batch-size", 4, "--d-model", 16, "--n-layers", 1, "--n-heads", 2, "--d-ff", 32]
SMALL += ["--max-steps", 6, "--vocab-size", 400, "--dtype", "float32", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        n for n in os.environ if n.upper().startswith("HALO_") or n in ("WORLD_SIZE", "MASTER_ADDR")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(curves, "_picture", lambda columns, path: None)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = [json.dumps({"text": t.text}, ensure_ascii=False) for t in tiny.texts()]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "b.txt").write_text("A dog sings to the bird. " * 20, encoding="utf-8")
    return folder


Run = Callable[..., Screens]


@pytest.fixture
def train(texts: Path) -> Run:
    """One run over the texts into `out`; expects that exit code."""

    def run(*more: Any, code: int = 0, screens: Screens | None = None) -> Screens:
        screens = screens or Screens(width=200)
        given = ["train", "--data-dir", texts, "--output-dir", "out", *SMALL]
        assert screens.halo(*given, *more) == code, screens.err
        return screens

    return run


def steps(folder: str = "out") -> list[float]:
    return curves.read(Path(folder) / curves.CSV)["step"]


# ---- a run -------------------------------------------------------------------------------------------


def test_from_texts_to_a_model(train: Run) -> None:
    screens = train("--arch", "eco_hybrid", "--memory-slots", 4, "--conv-kernel", 3, "--sample-steps", 7)
    loaded = from_pretrained(Path("out"))
    config: Any = loaded.denoiser.config
    assert (config.arch, config.memory_slots, config.conv_kernel, config.max_len) == ("eco_hybrid", 4, 3, 24)
    assert (loaded.told["sample_steps"], loaded.told["step"]) == (7, 6)
    assert steps() == [1, 2, 3, 4, 5, 6]
    millions = f"{loaded.denoiser.parameters_trained / 1e6:.2f} M parameters (eco_hybrid), on cpu in float32"
    assert millions in screens.err
    assert "step 1 of 6 · loss" in screens.err
    assert "held out: at most" in screens.out.splitlines()[0]
    assert screens.out.splitlines()[1:] == [
        "the model: out (checkpoint and data there may be removed)",
        "try it: halo sample out",
    ]
    assert "nats per token" in screens.out.splitlines()[0]


def test_figures_for_a_script(train: Run) -> None:
    lines = train("--json").lines
    assert [line["event"] for line in lines] == ["started", "step", "step", "valid", "done"]
    started, first, last, valid, done = lines
    assert (started["arch"], started["steps"], started["step"], started["processes"]) == (
        "transformer",
        6,
        0,
        1,
    )
    assert (first["step"], last["step"], done["steps"], done["folder"]) == (1, 6, 6, "out")
    assert done["valid"] == {name: valid[name] for name in ("nats", "bits_per_byte", "tokens")}


def test_a_run_that_is_over_says_so_again(train: Run) -> None:
    first = train()
    again = train()
    assert again.out == first.out
    assert "going on after step 6 of 6" in again.err
    assert "learning merges" in first.err
    assert "learning merges" not in again.err, "the tokenizer is kept"


def test_a_head_may_begin_at_the_texts_frequencies(train: Run) -> None:
    train("--set", "prior=true", "--lr", "1e-9")
    loaded = from_pretrained(Path("out"))
    bias = loaded.denoiser.get_parameter("embedding.bias").detach()
    often, never = (loaded.tokenizer.encode(text)[0] for text in (" the", "~"))
    assert float(bias[often] - bias[never]) > 3
    assert "prior True there, None here" in train("--lr", "1e-9", code=2).err, "it decides the weights"


def test_the_same_seed_is_the_same_model(train: Run) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        train("--output-dir", folder, "--seed", seed)
    files = [(Path(folder) / "curves.csv").read_text().split("\n")[3].split(",")[3] for folder in "abc"]
    assert files[0] == files[1] != files[2]


def test_ctrl_c_ends_with_a_checkpoint_and_the_same_command_goes_on(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("--output-dir", "whole")
    stepped = train_denoiser.Watch.stepped

    def press(self: Any, report: Any) -> None:
        stepped(self, report)
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(train_denoiser.Watch, "stepped", press)
        screens = train(code=130)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped after step 3 of 6; the same command goes on from there" in screens.err
    assert steps() == [1, 2, 3]
    assert "going on after step 3 of 6" in train().err
    table = [curves.read(Path(folder) / curves.CSV) for folder in ("out", "whole")]
    assert table[0]["loss"] == table[1]["loss"]


def test_ctrl_c_pressed_twice_ends_at_once(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(self: Any, report: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train_denoiser.Watch, "stepped", press)
    train(code=130)
    assert not (Path("out") / "checkpoint").exists()


# ---- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.toml", "run.yaml"])
def test_a_config_file_and_options_that_win(texts: Path, name: str) -> None:
    given = {
        "data-dir": str(texts),
        "output_dir": "out",
        "arch": "hierarchical",
        "seq_len": 24,
        "vocab_size": 400,
    }
    given |= {
        "d_model": 16,
        "n_heads": 2,
        "d_ff": 32,
        "max_steps": 99,
        "batch_size": 2,
        "passes": 3,
        "dtype": "float32",
    }
    text = "\n".join(f"{n} = {json.dumps(v)}" for n, v in given.items())
    Path(name).write_text(text if name.endswith("toml") else json.dumps(given))
    screens = Screens(width=200)
    more = ["--max-steps", 3, "--set", "cells=6", "--set", "halting=never"]
    assert screens.halo("train", "--config", name, *more) == 0, screens.err
    config: Any = from_pretrained(Path("out")).denoiser.config
    assert (config.arch, config.passes, config.cells, config.halting) == ("hierarchical", 3, 6, "never")
    assert steps() == [1, 2, 3]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            ["--memory-slots", 4],
            "--memory-slots: transformer has none; the architectures that do: eco_hybrid",
        ),
        (["--arch", "hierarchical", "--conv-kernel", 3], "--conv-kernel: hierarchical has none"),
        (["--arch", "transfromer"], "did you mean 'transformer'"),
        (["--set", "drop_out=0.1"], "did you mean 'dropout'"),
        (["--set", "dropout"], "NAME=VALUE"),
        (["--set", "dropout=much"], "--set: dropout: expected float, got 'much'"),
        (["--config", "none.toml"], "none.toml: cannot be read"),
        (["--corruption", "noise"], "corruption 'noise'"),
        (["--host", "smollm2-135m", "--tokenizer", "x"], "give one of the two"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--dtype", "float16"], "float16"),
        (["--lr", 0], "lr"),
        (["--ema", 1], "ema"),
        (["--n-heads", 3], "heads divide"),
        (["--vocab-size", 20], "vocab_size: expected"),
        (["--held-out", "none.txt"], "no such file to hold out: none.txt"),
        (["--exclude", "none.txt"], "nothing to exclude matches"),
        (["--data-dir", "none"], "none"),
        (["--output-dir", "texts/out"], "lies in the data"),
        (["--seq-len", 40000], "expected at least 40000 tokens to train on"),
    ],
)
def test_what_cannot_be_done_is_one_line(train: Run, more: list[Any], told: str) -> None:
    screens = train(*more, code=2)
    (line,) = [line for line in screens.err.splitlines() if told in line]
    assert line
    assert not (Path("out") / "model.safetensors").exists()


def test_no_data_at_all() -> None:
    screens = Screens(width=200)
    assert screens.halo("train") == 2
    assert "give --data-dir" in screens.err


@pytest.mark.parametrize("content", [b"", b"   \n \n", b"hello"])
def test_too_little_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    screens = Screens(width=200)
    assert screens.halo("train", "--data-dir", "t.txt", "--output-dir", "out", *SMALL) == 2
    assert "text" in screens.err
    assert not (Path("out") / "model.safetensors").exists()


@pytest.mark.parametrize(
    "content", [b"word " * 3000, b"one,two;" * 2000, b"\xff\xfe caf\xe9 \x80 and more " * 300]
)
def test_one_giant_line_and_bytes_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    screens = Screens(width=200)
    assert screens.halo("train", "--data-dir", "t.txt", "--output-dir", "out", *SMALL) == 0, screens.err
    assert len(steps()) == 6


# ---- another run in the same folder ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--arch", "eco_hybrid"], "config.arch transformer there, eco_hybrid here"),
        (["--lr", "0.5"], "recipe.lr 0.001 there, 0.5 here"),
        (["--seq-len", 12], "config.max_len 24 there, 12 here"),
        (["--vocab-size", 370], "another tokenizer|remove"),
        (["--exclude", "b.txt"], "other text|another tokenizer|remove"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(train: Run, more: list[Any], told: str) -> None:
    train()
    before = {p: p.read_bytes() for p in Path("out").iterdir() if p.is_file()}
    screens = train(*more, code=2)
    assert re.search(told, screens.err), screens.err
    assert before == {p: p.read_bytes() for p in Path("out").iterdir() if p.is_file()}
    assert from_pretrained(Path("out")).told["step"] == 6
    train()


# ---- held out, tokenizers, hosts ---------------------------------------------------------------------


def test_a_file_that_is_held_out(train: Run, texts: Path) -> None:
    screens = train("--held-out", texts / "b.txt", "--json")
    assert screens.lines[0]["held_out_by"] == "files"
    words = from_pretrained(Path("out")).tokenizer
    length = len(words.encode((texts / "b.txt").read_text())) + 1
    assert screens.lines[0]["held_out"] == length // 24


def test_nothing_held_out_is_said(train: Run) -> None:
    screens = train("--set", "valid_share=0.0")
    assert "nothing is held out" in screens.err
    assert "nats" not in screens.out


def test_another_models_tokenizer(train: Run, tmp_path: Path) -> None:
    train("--output-dir", "first")
    train("--tokenizer", "first")
    assert (
        from_pretrained(Path("out")).tokenizer.fingerprint
        == Tokenizer.load(Path("first/tokenizer")).fingerprint
    )
    train("--output-dir", "third", "--tokenizer", "first/tokenizer")
    with pytest.raises(AssertionError, match="tokenizer"):
        train("--output-dir", "fourth", "--tokenizer", "none")


def test_a_cache_elsewhere_serves_two_runs(train: Run) -> None:
    train("--cache", "kept")
    screens = train("--cache", "kept", "--output-dir", "other", "--arch", "eco_hybrid")
    assert "learning merges" not in screens.err
    assert not Path("out/data").exists()
    assert not Path("other/data").exists()


def test_borrowed_from_a_host(train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokenizer, and its embeddings, which stay with it."""
    host = tmp_path / "host"
    host.mkdir()
    pieces = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({p: i for i, p in enumerate(pieces)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(host / "tokenizer.json"))
    table = torch.randn(260, 10, generator=torch.Generator().manual_seed(0))
    save_file({"model.embed_tokens.weight": table}, host / "model.safetensors")
    resolved: list[str] = []

    def resolve(name: str, **more: Any) -> Path:
        resolved.append(name)
        return host

    monkeypatch.setattr(models, "resolve", resolve)
    train("--host", "somebody", "--set", "projection_rank=4")
    words = Tokenizer.load(Path("out/tokenizer"))
    loaded = from_pretrained(Path("out"), words.extended(table))
    assert resolved == ["somebody"]
    assert loaded.told["host"] == "somebody"
    assert loaded.denoiser.config.borrowed_dim == 10
    assert words.host_size == 256


# ---- what a newcomer does --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--batch-size", 10**9], "smaller batch_size"),
        (["--d-model", 10**8], "memory: the weights"),
        (["--d-model", 65, "--n-heads", 4], "got d_model 65 and n_heads 4"),
        (["--set", "evaluate_rows=0"], "recipe: evaluate_rows should be >= 1, got 0"),
        (["--set", "foo=1"], "the nearest are"),
    ],
)
def test_what_is_refused_is_told_briefly(train: Run, more: list[Any], told: str) -> None:
    screens = train(*more, code=2)
    (line,) = [line for line in screens.err.splitlines() if told in line]
    assert len(line) < 250


def test_a_file_in_place_of_the_output_folder(train: Run) -> None:
    Path("out").write_text("mine")
    assert "expected a folder to write to, got a file" in train(code=2).err
    assert Path("out").read_text() == "mine"


@pytest.mark.parametrize("name", ["made.json", "tokenizer/vocabulary.json"])
def test_what_was_kept_of_the_texts_is_made_anew_where_it_is_damaged(train: Run, name: str) -> None:
    train()
    path = Path("out") / "data" / name
    before = path.read_bytes()
    path.write_bytes(b"\xff\xfe" + b"[" * 50_000)
    train()
    assert path.read_bytes() == before


def test_two_documents_of_very_different_sizes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c d e f " * 600)
    (tmp_path / "b.txt").write_text("g h i j " * 300)
    screens = Screens(width=200)
    given = ["train", "--data-dir", "a.txt", "--data-dir", "b.txt", "--output-dir", "out", *SMALL]
    assert screens.halo(*given) == 0, screens.err
    assert re.search(r"held out: \d+ of the tokens \(1\.\d%\), the end of the largest document", screens.err)


def test_the_last_measurement_is_told_once(train: Run) -> None:
    screens = train()
    assert (screens.out + screens.err).count("held out: at most") == 1


def test_ctrl_c_that_somebody_swallowed_while_things_were_read_ends_the_run(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    say, before = train_denoiser.Watch.started, signal.getsignal(signal.SIGINT)  # ignored, in the background

    def swallowed(self: Any, started: Any) -> None:
        say(self, started)
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train_denoiser.Watch, "started", swallowed)
    train(code=130)
    assert not (Path("out") / "model.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_became_another_error_ends_the_run(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(self: Any, started: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("half a module") from error

    monkeypatch.setattr(train_denoiser.Watch, "started", turned)
    train(code=130)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT there")
@pytest.mark.parametrize("seconds", [0.6, 0.9, 1.3, 1.8, 2.5])
def test_ctrl_c_at_any_moment_of_the_start(texts: Path, seconds: float) -> None:
    given = ["--data-dir", str(texts), "--output-dir", "out", *map(str, SMALL), "--max-steps", "100000"]
    run = subprocess.Popen([sys.executable, "-m", "haloweave", "train", *given], stderr=subprocess.PIPE)
    time.sleep(seconds)
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130, told
    assert b"Traceback" not in told


def test_the_package_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "haloweave", "--version"], capture_output=True, check=True)
    assert done.stdout.startswith(b"halo ")
