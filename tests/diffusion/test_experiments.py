# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The contestants of `experiments/`: configs are known, and those that meet are of one size and course."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from haloweave.diffusion import build
from haloweave.diffusion.compare import PARAMETERS
from haloweave.diffusion.training import config_file
from haloweave.diffusion.training.settings import Settings, known, settled

FOLDER = Path(__file__).parents[2] / "experiments"
CONFIGS = sorted(FOLDER.glob("*.toml"))
MEETING = [
    ("transformer", "eco_hybrid"),
    ("eco_hybrid", "slots_8", "slots_32"),
    ("eco_hybrid", "conv_only", "slots_only"),
    ("looped", "hierarchical"),
]


def settings(path: Path) -> Settings:
    return settled(config_file.merged({}, config_file.read(path), known(), str(path)))


def size(path: Path) -> int:
    with torch.device("meta"):
        return build.denoiser(settings(path).config(8192, 1, 0, None)).parameters_trained


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_makes_a_denoiser_of_five_to_ten_million_parameters(path: Path) -> None:
    assert 4.9e6 < size(path) < 1e7


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_all_follow_one_course(path: Path) -> None:
    mine, base = settings(path), settings(FOLDER / "transformer.toml")
    assert mine.recipe == base.recipe
    assert (mine.around.seq_len, mine.around.held_out) == (base.around.seq_len, base.around.held_out)
    assert (mine.around.cache, mine.around.vocab_size) == (base.around.cache, base.around.vocab_size)


@pytest.mark.parametrize("names", MEETING, ids="-".join)
def test_those_that_meet_are_of_one_size(names: tuple[str, ...]) -> None:
    first, *others = (size(FOLDER / f"{name}.toml") for name in names)
    assert all(abs(other - first) <= PARAMETERS * first for other in others)


def test_hierarchical_and_looped_make_as_many_block_passes() -> None:
    shapes = [settings(FOLDER / f"{name}.toml").shape for name in ("hierarchical", "looped")]
    assert shapes[0]["n_layers"] * shapes[0]["passes"] == shapes[1]["n_layers"] * shapes[1]["loops"] == 8


@pytest.mark.skipif(os.name != "posix", reason="a script of the shell")
def test_the_script_gives_each_command_its_arguments(tmp_path: Path) -> None:
    """Paths with spaces among them; `halo` here writes down what it is asked, one argument a line."""
    corpus, out, halo = tmp_path / "a corpus", tmp_path / "an out", tmp_path / "halo"
    (corpus / "held").mkdir(parents=True)
    for name in ("english", "hindi"):
        (corpus / "held" / f"{name}.jsonl").touch()
    halo.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" '' >> '{tmp_path}/asked'\n")
    halo.chmod(0o755)
    script = ["sh", "experiments/run.sh", str(corpus), str(out)]
    subprocess.run(script, cwd=FOLDER.parent, env={**os.environ, "HALO": str(halo)}, check=True)
    asked = [one.split("\n") for one in (tmp_path / "asked").read_text().strip().split("\n\n")]
    trained = [one for one in asked if one[0] == "train"]
    assert len(trained) == len(CONFIGS) + 2
    for one in trained:
        held = [one[i + 1] for i, word in enumerate(one) if word == "--held-out"]
        assert held == [f"{corpus}/held/english.jsonl", f"{corpus}/held/hindi.jsonl"]
    assert trained[-1][-8:-4] == ["--output-dir", f"{out}/eco_hybrid_seed1", "--seed", "1"]
    compared = [one[1 : one.index("--data")] for one in asked if one[0] == "compare"]
    for names in MEETING:
        assert [f"{out}/{name}" for name in names] in compared


def test_the_script_runs_every_config_and_compares_those_that_meet() -> None:
    script = (FOLDER / "run.sh").read_text(encoding="utf-8")
    trained = re.search(r"for name in ([\w ]+); do\n  train", script)
    assert trained is not None
    assert sorted(trained[1].split()) == [path.stem for path in CONFIGS]
    for names in MEETING:
        assert " ".join(names) in script
