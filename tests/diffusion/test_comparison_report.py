# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo compare --report`: a folder that tells everything that was measured, how, and when."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_denoiser
from matplotlib.figure import Figure
from rich.table import Table
from terminal import Screens

from haloweave.bench import markdown, plots, provenance
from haloweave.cli import comparison_report
from haloweave.errors import InvalidInput

QUICK = ("--samples", 1, "--infills", 2, "--draws", 1, "--blocks", 12, "--length", 8, "--judge", "none")
PACE = ("--rounds", 1, "--longest", 64, "--dtype", "float32", "--unmatched")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trained folders, and the text that both have not seen."""
    work = tmp_path_factory.mktemp("pair")
    words = tiny_denoiser.tokenizer()
    corpus = tiny_denoiser.corpus(work / "tokens", words)
    for name, arch in (("plain", "transformer"), ("eco", "eco_hybrid")):
        material = tiny_denoiser.Material(tiny_denoiser.denoiser(words, arch), words, corpus)
        tiny_denoiser.losses(tiny_denoiser.trainer(material, work / name))
    text = work / "held.jsonl"
    lines = (json.dumps({"text": t.text}, ensure_ascii=False) for t in tiny_denoiser.texts(20, seed=9))
    text.write_text("\n".join(lines), encoding="utf-8")
    return [work / "plain", work / "eco", text]


@pytest.fixture(scope="module")
def written(pair: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "new" / "here"
    plain, eco, text = pair
    screens = Screens(width=160)
    asked = ("compare", plain, eco, "--data", text, *QUICK, *PACE, "--report", folder)
    assert screens.halo(*asked) == 0, screens.err
    assert "README.md" in screens.err
    assert "decision:" in screens.out
    return folder


def test_the_folder_holds_tables_pictures_and_numbers(written: Path) -> None:
    pictures = {comparison_report.COST, comparison_report.TRAINING, comparison_report.CURVES}
    pictures.add(comparison_report.TRUST)
    assert {p.name for p in written.iterdir()} == {markdown.README, markdown.RESULTS, *pictures}
    text = (written / markdown.README).read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\S+\.png)\)", text)) == pictures
    for name in pictures:
        content = (written / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 150_000


def test_the_report_tells_all_that_compare_measures(written: Path) -> None:
    text = (written / markdown.README).read_text(encoding="utf-8")
    for told in (
        "bits per byte, at most",
        "exact match, holes: 3",
        "word overlap",
        "training, tok/s",
        "seconds grow as",
        "peak MB, training step",
        "slot use, nats by block",
        "ECE",
        "may eco replace plain?",
        "likelihood bound",
        "decision: ",
        "not matched: ",
        "held out, nats per token",
        "measuring 0, plain 0, eco 0",
    ):
        assert told in text
    for number in re.findall(r"^\| (?:date|cpu|torch|python|threads|dtype|seeds) \| (.*) \|$", text, re.M):
        assert number.strip()
    assert len(re.findall(r"^\| (?:date|cpu|torch|python|threads|dtype|seeds) \| ", text, re.M)) == 7


def test_every_table_is_square(written: Path) -> None:
    text = (written / markdown.README).read_text(encoding="utf-8")
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        widths = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(widths) == 1, block


def test_the_numbers_are_those_of_json(written: Path, pair: list[Path]) -> None:
    found = json.loads((written / markdown.RESULTS).read_text(encoding="utf-8"))
    assert list(found["results"]) == list(found["by_length"]) == list(found["training"]) == ["plain", "eco"]
    assert list(found["by_length"]["eco"]["lengths"]) == ["8", "16", "32", "64"]
    assert len(found["by_length"]["eco"]["lengths"]["64"]["step_seconds"]) == 3
    assert found["training"]["plain"]["steps"] == 12
    assert [at["tokens"] for at in found["training"]["plain"]["held_out"]] == [6 * 96, 12 * 96]
    assert found["provenance"]["seeds"] == {"measuring": 0, "plain": 0, "eco": 0}
    gap = found["gaps"]["eco"]["by_length"]["64"]
    assert set(gap) == {"calling", "training", "call_memory", "step_memory"}
    rules = [o["verdict"] for o in found["decisions"]["eco"]["outcomes"]]
    assert set(rules) <= {"holds", "fails", "not judged"}


def test_without_curves_or_with_a_failed_picture_nothing_is_half(pair: list[Path], tmp_path: Path) -> None:
    plain, eco, text = pair
    bare = shutil.copytree(plain, tmp_path / "bare")
    (bare / "curves.csv").unlink()
    screens = Screens(width=160)
    asked = ("compare", bare, eco, "--data", text, *QUICK, *PACE, "--report", tmp_path / "r")
    assert screens.halo(*asked) == 0, screens.err
    assert "not known" in (tmp_path / "r" / markdown.README).read_text(encoding="utf-8")


def test_no_matplotlib_is_told_before_anything_is_measured(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="matplotlib"):
        plots.wanted()
    screens = Screens()
    assert screens.halo("compare", *pair[:2], "--report", tmp_path / "r") == 2
    assert "matplotlib" in screens.err
    assert not (tmp_path / "r").exists()


def test_the_ninth_denoiser_is_drawn_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(path: Path, size: tuple[float, float], drawn: Any) -> None:
        drawn(figure)

    figure = Figure()
    monkeypatch.setattr(plots, "drawn", draw)
    names = [f"model {n}" for n in range(11)]
    plots.cost(tmp_path / "x.png", "title", {n: {8: 1.0, 16: 2.0} for n in names}, dict.fromkeys(names, 1.0))
    lines = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(names)


# ---- Markdown --------------------------------------------------------------------------------------------


def test_a_cell_never_breaks_a_table() -> None:
    made = markdown.table(["a|b", "c"], [["one\ntwo", "x | y"], ["", 3]])
    assert made.splitlines() == ["| a\\|b | c |", "| --- | ---: |", "| one two | x \\| y |", "|  | 3 |"]


def test_a_table_for_a_terminal_says_the_same() -> None:
    shown = Table("rule", "found")
    shown.add_row("speed", "1.5x")
    assert markdown.of_rich(shown) == markdown.table(["rule", "found"], [["speed", "1.5x"]])


def test_what_is_known_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = tmp_path / "cpuinfo"
    described.write_text("processor: 0\nmodel name\t: Some CPU @ 2 GHz\n", encoding="utf-8")
    assert provenance.cpu(described) == "Some CPU @ 2 GHz"
    assert provenance.cpu(tmp_path / "none")
    monkeypatch.setattr("sys.argv", ["/somewhere/halo", "compare", "a b", "--report", "r"])
    found = provenance.provenance({"training": None}, dtype="float32")
    assert found["command"] == "halo compare 'a b' --report r"
    told = markdown.told(found)
    assert told.startswith("```\nhalo compare 'a b' --report r\n```\n")
    assert "| seeds | training not known |" in told
    assert "| dtype | float32 |" in told
