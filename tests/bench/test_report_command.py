# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One command runs the others, each in a process of its own, and makes a report of what they wrote."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from haloweave.bench.memory import report_command
from haloweave.bench.memory.record import Record, head
from haloweave.bench.memory.shelf import for_tuning

Words = list[str]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = next(p for n in range(9) if not for_tuning(p := tmp_path / f"book{n}.txt"))
    path.write_text("Once upon a time.")
    return path


def ran(
    book: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str, fails: str = ""
) -> tuple[Any, list[Words]]:
    """What the command said, and the commands that it ran; each writes one record, but for one that fails."""
    seen: list[Words] = []

    def run(words: Sequence[str], **how: Any) -> Any:
        seen.append(list(words))
        name = words[4]
        if name == fails:
            return SimpleNamespace(returncode=2)
        record = Record("speed", name, 512, "c", "d", "rss_mb", 1.0)
        Path(words[words.index("--out") + 1]).write_text(f"{head({'command': name})}\n{record.line()}\n")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    app = Typer()
    report_command.register(app)
    app.command()(lambda: None)
    return CliRunner().invoke(app, ["report", "--books", str(book), "--out", str(out), *more]), seen


def test_every_command_gets_its_texts_and_a_file(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, seen = ran(book, tmp_path / "r", monkeypatch, "--seed", "3", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert [words[:4] for words in seen] == [[sys.executable, "-m", "haloweave", "bench"]] * 3
    assert [words[4] for words in seen] == ["memory", "compare", "scale"]
    memory, compare, scale = seen
    assert memory[memory.index("--books") + 1] == str(book)
    assert compare[5] == str(book)
    assert "--full" not in memory
    assert "--quick" in scale
    assert all(words[words.index("--threads") + 1] == "1" for words in seen)
    assert memory[memory.index("--seed") + 1] == compare[compare.index("--seed") + 1] == "3"
    assert {p.name for p in (tmp_path / "r").iterdir()} >= {"README.md", "index.html", "memory.jsonl"}


def test_the_long_one_and_peers_if_wanted(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, seen = ran(book, tmp_path / "r", monkeypatch, "--full", "--peers")
    assert done.exit_code == 0, done.output
    assert [words[4] for words in seen] == ["memory", "compare", "scale", "peers"]
    assert "--full" in seen[0]
    assert "--quick" not in seen[2]


def test_what_fails_is_told_and_the_rest_is_reported(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, _ = ran(book, tmp_path / "r", monkeypatch, fails="compare")
    assert done.exit_code == 0, done.output
    assert "halo bench compare ended with exit code 2" in (tmp_path / "r" / "README.md").read_text()


def test_nothing_measured_is_no_report(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = ran(book, tmp_path / "r", monkeypatch, "--only", "scale", fails="scale")
    assert done.exit_code != 0
    assert not (tmp_path / "r" / "README.md").exists()


def test_a_report_into_a_file_is_refused_before_anything_runs(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r").write_text("mine")
    done, seen = ran(book, tmp_path / "r", monkeypatch)
    assert done.exit_code != 0
    assert "cannot be a folder" in str(done.exception)
    assert seen == []
    assert (tmp_path / "r").read_text() == "mine"


def test_a_stale_file_is_not_taken_for_a_new_one(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    out.mkdir()
    (out / "compare.jsonl").write_text(Record("compare", "old", 1, "c", "d", "kl", 1.0).line())
    done, _ = ran(book, out, monkeypatch, fails="compare")
    assert done.exit_code == 0, done.output
    assert "old" not in (out / "records.jsonl").read_text()


def test_files_that_are_there_are_made_into_a_report_without_measuring(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(Record("speed", "halo", 512, "c", "d", "rss_mb", 1.0).line())
    done, seen = ran(book, tmp_path / "r", monkeypatch, "--from", str(file))
    assert done.exit_code == 0, done.output
    assert seen == []
    assert "halo" in (tmp_path / "r" / "README.md").read_text()
