# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo pack` and `halo bench edits`, as a person and as a script meet them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from lent_denoiser import lend, saved
from terminal import Screens
from tiny_mlm import COMMON

from haloweave import denoising


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    table = lend(tmp_path / "host", monkeypatch)
    return saved(tmp_path / "model", table, arch="eco_editor", projection_rank=4, reads_fully=True)


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    rng, paths = random.Random(0), [tmp_path / "one.txt", tmp_path / "two.txt"]
    for path in paths:
        path.write_text(" ".join(rng.choices(COMMON, k=400)))
    return paths


def ran(*arguments: object, code: int = 0) -> Screens:
    screens = Screens(width=200)
    assert screens.halo(*arguments) == code, screens.err
    return screens


def measured(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    ran("bench", "edits", *arguments, "--rows", 16, "--windows", 2, "--json")
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_decisions_are_measured_and_kept(
    model: Path, texts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found, *paces = measured(capsys, model, "--data", texts[0], "--data", texts[1], "--keep")
    assert set(found["f1"]) == {"keep", "substitute", "delete", "macro"}
    assert all(0 <= found[name] <= 1 for name in ("f1_hard", "clean", "decision_ece", "token_ece"))
    assert [pace["name"] for pace in paces if "name" in pace] == [
        "a tenth hot",
        "half of it hot",
        "all of it hot",
    ]
    kept = denoising.calibration(model)
    assert (kept.temperature, kept.margin) == (found["temperature"], found["margin"])
    again, *_ = measured(capsys, model, "--data", texts[0], "--data", texts[1])
    assert again == found


def test_packed_it_is_told_how_large_and_measured_alike(
    model: Path, texts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    denoising.calibrate(model, denoising.Calibration(1.5, 2.0))
    (model / "README.md").write_text("a card")
    told = ran("pack", model, tmp_path / "packed").out
    assert "packed: " in told
    assert " MB" in told
    assert denoising.calibration(tmp_path / "packed") == denoising.Calibration(1.5, 2.0)
    assert (tmp_path / "packed" / "README.md").read_text() == "a card"
    assert not (tmp_path / "packed" / "checkpoint").exists()
    capsys.readouterr()
    one, *_ = measured(capsys, model, "--data", texts[0])
    other, *_ = measured(capsys, tmp_path / "packed", "--data", texts[0])
    assert other["f1"]["macro"] == pytest.approx(one["f1"]["macro"], abs=0.1)


def test_what_cannot_be_done_is_one_line(model: Path, texts: list[Path], tmp_path: Path) -> None:
    texts[1].write_text("the cat")
    for arguments, told in (
        (("pack", model, tmp_path), "is there already; choose a new folder"),
        (("pack", tmp_path / "nothing", tmp_path / "new"), "no model.safetensors there"),
        (("bench", "edits", model), "give --data FILE"),
        (("bench", "edits", model, "--data", tmp_path / "nothing.txt"), "cannot be read"),
        (("bench", "edits", model, "--data", texts[1]), "expected at least a row of 24 tokens"),
    ):
        screens = ran(*arguments, code=2)
        assert told in screens.err
        assert "Traceback" not in screens.err
    assert not (tmp_path / "new").exists()
