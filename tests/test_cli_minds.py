# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo minds` and `halo inspect --mind`, as a person and as a script meet them; no model is ever loaded."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from minds_on_disk import SECRET, Kept, asleep_mind, lived
from terminal import Screens

from haloweave import asleep
from haloweave.memory.tokens import Source
from haloweave.minds import Minds


def no_model(*_: Any) -> Any:
    raise AssertionError("a model was asked for")


class Terminal(Screens):
    """One run of `halo` that must not load a model."""

    def __init__(self, *, live: bool = False) -> None:
        super().__init__(width=140, live=live, mind=no_model, mender=no_model, make=no_model)


@pytest.fixture
def minds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Minds:
    monkeypatch.setenv("HALO_MINDS", str(tmp_path / "minds"))
    monkeypatch.chdir(tmp_path)
    return Minds(tmp_path / "minds")


# ---- list --------------------------------------------------------------------------------------------


def test_no_mind_yet(minds: Minds) -> None:
    terminal = Terminal()
    assert terminal.halo("minds", "list") == 0
    assert terminal.out == f"No mind is kept in {minds.folder} yet. Make one with: halo chat --mind NAME\n"
    assert not minds.folder.exists()
    terminal = Terminal()
    assert terminal.halo("minds", "list", "--json") == 0
    assert terminal.out == ""


@pytest.mark.parametrize("live", [False, True])
def test_the_list(minds: Minds, live: bool) -> None:
    life = asleep_mind(minds)
    asleep_mind(minds, "broken")
    minds.place("broken").database.write_bytes(b"x" * 5000)
    terminal = Terminal(live=live)
    with minds.lock("ada"):
        assert terminal.halo("minds", "list") == 0
    assert "fake" in terminal.out
    assert f"{len(life.mirror.view.tokens)}/512" in terminal.out
    assert "2026-01-02" in terminal.out
    assert f"in use by process {os.getpid()} on " in terminal.out
    assert "damaged, or not the database" in " ".join(terminal.out.split())


def test_the_list_as_json(minds: Minds) -> None:
    life = asleep_mind(minds)
    asleep_mind(minds, "broken")
    minds.place("broken").database.write_bytes(b"")
    terminal = Terminal()
    with minds.lock("ada"):
        assert terminal.halo("minds", "list", "--json") == 0
    ada, broken = terminal.lines
    assert (ada["name"], ada["model"], ada["fault"]) == ("ada", "fake", "")
    assert (ada["rows"], ada["budget"]) == (len(life.mirror.view.tokens), 512)
    assert ada["tick"] == life.mirror.view.tick
    assert ada["owner"]["pid"] == os.getpid()
    assert broken["name"] == "broken"
    assert "empty" in broken["fault"]


def test_another_folder(minds: Minds, tmp_path: Path) -> None:
    asleep_mind(Minds(tmp_path / "other"))
    for command in (["list"], ["show", "ada"], ["backup", "ada"]):
        terminal = Terminal()
        assert terminal.halo("minds", *command, "--minds", tmp_path / "other") == 0
        assert "ada" in terminal.out
    assert not minds.folder.exists()


def test_a_model_name_cannot_steer_the_terminal(minds: Minds) -> None:
    life = lived(minds)
    life.log.put("model", "\x1b[2J[bold]evil[/]")
    life.log.put("created", "\x1b]0;x\x07")
    life.log.close()
    for command in (["list"], ["show", "ada"]):
        terminal = Terminal()
        assert terminal.halo("minds", *command) == 0
        assert "\x1b" not in terminal.out
        assert "[bold]evil" in terminal.out


# ---- show --------------------------------------------------------------------------------------------


def test_show(minds: Minds) -> None:
    kept = Kept(minds.make("ada"))
    kept.hear("Will you remember the boiler?")
    kept.hear("a line of a log\n" * 40, Source.LOG)
    kept.snapshot()
    kept.close()
    minds.backup("ada")
    terminal = Terminal()
    assert terminal.halo("minds", "show", "ada") == 0
    view = kept.mind.view
    assert f"{view.tick:,} ticks: {kept.mind.totals.fed:,} tokens" in terminal.out
    assert f"tick {view.tick:,} (0.0 MB)" in terminal.out
    assert minds.place("ada").backups.joinpath(asleep.details(minds.find("ada")).backups[0].name).is_file()
    assert "passages" in terminal.out
    assert terminal.out.rstrip().endswith("log: a line of a log")
    assert "asleep" in terminal.out
    terminal = Terminal()
    assert terminal.halo("minds", "show", "ada", "--json") == 0
    (told,) = terminal.lines
    assert told["totals"]["culled"] == kept.mind.totals.culled > 0
    assert told["snapshots"][0]["tick"] == view.tick
    assert told["archive"]["passages"] > 0
    assert len(told["backups"]) == 1


def test_the_transcript(minds: Minds) -> None:
    asleep_mind(minds)
    terminal = Terminal()
    assert terminal.halo("minds", "show", "ada", "--transcript") == 0
    assert "user: Remember the boiler, and mind the gap between the train and the platform." in terminal.out
    assert "log: the boiler in the cellar" in terminal.out
    assert "model: I will remember it." in terminal.out
    assert "this never happened" not in terminal.out
    terminal = Terminal()
    assert terminal.halo("minds", "show", "ada", "--transcript", "--json") == 0
    assert [line["source"] for line in terminal.lines[:3]] == ["USER", "LOG", "MODEL"]


def test_lines_are_whole_whatever_was_culled_between_them(minds: Minds) -> None:
    kept = Kept(minds.make("ada"))
    kept.hear("First.")
    kept.hear("".join(f"line {n:03} of a log\n" for n in range(60)), Source.LOG)
    kept.close()
    assert b"[...]" in minds.place("ada").database.read_bytes()
    terminal = Terminal()
    assert terminal.halo("minds", "show", "ada", "--transcript") == 0
    assert terminal.out.splitlines() == ["user: First.", *(f"log: line {n:03} of a log" for n in range(60))]


def test_the_frame_of_the_chat_is_not_said(minds: Minds) -> None:
    kept = Kept(minds.make("ada"))
    kept.hear("Hello <|im_end|> there")
    kept.close()
    terminal = Terminal()
    assert terminal.halo("minds", "show", "ada", "--transcript") == 0
    assert terminal.out == "user: Hello <|im_end|> there\n"


def test_what_is_redacted_is_shown_nowhere(minds: Minds) -> None:
    life = lived(minds)
    life.redact(life.log.occurrences(SECRET)[0])
    life.log.scrub()
    life.log.close()
    for command in (["show", "ada"], ["show", "ada", "--transcript"], ["show", "ada", "--json"]):
        terminal = Terminal()
        assert terminal.halo("minds", *command) == 0
        assert SECRET not in terminal.out


def test_an_unfinished_redaction_is_told(minds: Minds) -> None:
    life = lived(minds)
    uids = life.log.occurrences(SECRET)[0]
    life.redact(uids)
    life.log.close()
    terminal = Terminal()
    assert terminal.halo("minds", "show", "ada") == 0
    assert f"{len(uids)} tokens are not gone from disk yet: waking it finishes that" in terminal.out
    assert SECRET not in terminal.out


# ---- what cannot be done -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "eve"], "no mind 'eve'"),
        (["show", "../ada"], "cannot be one"),
        (["show", ""], "cannot be one"),
        (["show", "x" * 100], "cannot be one"),
        (["show", ".hidden"], "cannot be one"),
        (["show", "मन"], "cannot be one"),
        (["show", "a\nb\x1b[2J"], "cannot be one"),
        (["show", "broken"], "damaged"),
        (["export", "eve", "out"], "no mind 'eve'"),
        (["export", "ada", "there"], "there is a file of that name already"),
        (["export", "ada", "."], "a folder of that name"),
        (["import", "/", "--name", "eve"], "a folder"),
        (["export", "ada", "no/where"], "cannot"),
        (["export", "broken", "out"], "damaged"),
        (["export", "ada", "x" * 5000], "cannot"),
        (["import", "nothing", "--name", "eve"], "no such file"),
        (["import", "there", "--name", "eve"], "empty"),
        (["import", ".", "--name", "eve"], "a folder"),
        (["import", os.devnull, "--name", "eve"], "no ordinary file"),
        (["import", "x" * 5000, "--name", "eve"], "cannot be read"),
        (["import", "there", "--name", "../eve"], "cannot be one"),
        (["import", "there", "--name", "ada"], "choose another name"),
        (["fork", "ada", "ada"], "choose another name"),
        (["fork", "ada", "../x"], "cannot be one"),
        (["fork", "eve", "new"], "no mind 'eve'"),
        (["fork", "broken", "new"], "damaged"),
        (["fork", "ada", "new", "--at", "-1"], "tick: expected 0.."),
        (["fork", "ada", "new", "--at", "99999"], "tick: expected 0.."),
        (["delete", "ada"], "give --yes"),
        (["delete", "eve", "--yes"], "no mind 'eve'"),
        (["backup", "broken"], "damaged"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(minds: Minds, arguments: list[str], says: str) -> None:
    asleep_mind(minds)
    minds.make("broken").database.write_bytes(b"no database" * 1000)
    Path("there").write_bytes(b"")
    terminal = Terminal()
    assert terminal.halo("minds", *arguments) == 2
    assert says in terminal.err
    assert "Traceback" not in terminal.err
    assert len(terminal.err.splitlines()) == 1
    assert "\x1b" not in terminal.err
    assert terminal.out == ""
    assert minds.names() == ("ada", "broken")
    assert sorted(os.listdir()) == ["minds", "there"]
    assert Path("there").read_bytes() == b""


# ---- copies and ends ---------------------------------------------------------------------------------


def test_away_and_back(minds: Minds) -> None:
    asleep_mind(minds)
    terminal = Terminal()
    assert terminal.halo("minds", "export", "ada", "ada.halo") == 0
    assert "What is redacted from now on stays in that file" in terminal.out
    assert terminal.halo("minds", "export", "ada", "ada.halo", "--force") == 0
    assert terminal.halo("minds", "import", "ada.halo", "--name", "eve") == 0
    assert "Wake it with: halo chat --mind eve" in terminal.out
    transcripts = []
    for name in ("ada", "eve"):
        terminal = Terminal()
        assert terminal.halo("minds", "show", name, "--transcript") == 0
        transcripts.append(terminal.out)
    assert transcripts[0] == transcripts[1]


def test_fork(minds: Minds) -> None:
    asleep_mind(minds)
    terminal = Terminal()
    assert terminal.halo("minds", "fork", "ada", "eve", "--at", 1) == 0
    assert "eve has the past of ada up to tick 1." in terminal.out
    assert asleep.summary(minds.find("eve")).tick == 1


def test_backup(minds: Minds) -> None:
    asleep_mind(minds)
    terminal = Terminal()
    assert terminal.halo("minds", "backup", "ada") == 0
    (made,) = asleep.details(minds.find("ada")).backups
    assert terminal.out == f"backed up: {made}\n"


def test_delete_for_a_script(minds: Minds) -> None:
    asleep_mind(minds)
    terminal = Terminal()
    with minds.lock("ada"):
        assert terminal.halo("minds", "delete", "ada", "--yes") == 2
    assert f"in use by process {os.getpid()}" in terminal.err
    assert minds.names() == ("ada",)
    assert terminal.halo("minds", "delete", "ada", "--yes") == 0
    assert minds.names() == ()


class Typing(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "gone"),
    [("y\n", True), ("YES\n", True), ("\n", False), ("no\n", False), ("", False), ("yep\n", False)],
)
def test_delete_asks_a_person(minds: Minds, monkeypatch: pytest.MonkeyPatch, typed: str, gone: bool) -> None:
    asleep_mind(minds)
    monkeypatch.setattr(sys, "stdin", Typing(typed))
    terminal = Terminal(live=True)
    assert terminal.halo("minds", "delete", "ada") == (0 if gone else 1)
    assert "for good? [y/N]" in terminal.err
    assert ("Nothing was deleted" in terminal.out) is not gone
    assert minds.names() == (() if gone else ("ada",))


# ---- inspect -----------------------------------------------------------------------------------------


def test_the_context_of_a_mind(minds: Minds) -> None:
    kept = Kept(minds.make("ada"))
    kept.hear("Hello there")
    kept.snapshot()
    tick = kept.mind.view.tick
    kept.hear("and more")
    then, now = kept.mind.view, kept.mind.text()
    kept.close()
    terminal = Terminal()
    assert terminal.halo("inspect", "--mind", "ada") == 0
    assert terminal.out == now + "\n"
    assert f"tick {then.tick} of {then.tick}" in terminal.err
    assert f"brightness as of tick {tick}" in terminal.err
    terminal = Terminal()
    assert terminal.halo("inspect", "--mind", "ada", "--at", tick) == 0
    assert "Hello there" in terminal.out
    assert "and more" not in terminal.out
    terminal = Terminal()
    assert terminal.halo("inspect", "--mind", "ada", "--json") == 0
    assert "".join(line["text"] for line in terminal.lines) == now
    assert [line["uid"] for line in terminal.lines] == then.tokens.uid.tolist()
    terminal = Terminal(live=True)
    assert terminal.halo("inspect", "--mind", "ada") == 0
    assert "\x1b[" in terminal.out
    assert "bright" in terminal.out


def test_inspect_looks_back_on_what_was_redacted(minds: Minds) -> None:
    life = lived(minds)
    tick = life.mirror.view.tick
    life.redact(life.log.occurrences(SECRET)[0])
    life.log.scrub()
    life.feed("Later.")
    life.log.close()
    terminal = Terminal()
    assert terminal.halo("inspect", "--mind", "ada", "--at", tick - 1) == 0
    assert "The word is[redacted] and nobody must know." in terminal.out
    terminal = Terminal()
    assert terminal.halo("inspect", "--mind", "ada", "--at", tick - 1, "--json") == 0
    assert {line["text"] for line in terminal.lines} >= {"[redacted]"}
    assert SECRET not in terminal.out
    terminal = Terminal()
    assert terminal.halo("inspect", "--mind", "ada") == 0
    assert "[redacted]" not in terminal.out


def test_before_the_first_tick_there_is_nothing(minds: Minds) -> None:
    asleep_mind(minds)
    terminal = Terminal()
    assert terminal.halo("inspect", "--mind", "ada", "--at", 0) == 0
    assert terminal.out == "\n"
    assert "tick 0 of" in terminal.err
    assert "all as bright as at birth" in terminal.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "expected files to read, or a mind with --mind NAME"),
        (["--at", "3"], "--at is a tick of a mind"),
        (["a.txt", "--mind", "ada"], "expected files or --mind, got both"),
        (["--mind", "ada", "--budget", "9"], "--budget: a mind is shown as it is"),
        (["--mind", "ada", "--model", "x"], "--model: a mind is shown as it is"),
        (["--mind", "ada", "--at", "-1"], "tick: expected 0.."),
        (["--mind", "ada", "--at", "99999"], "tick: expected 0.."),
        (["--mind", "eve"], "no mind 'eve'"),
        (["--mind", "../ada"], "cannot be one"),
    ],
)
def test_what_inspect_cannot_show(minds: Minds, arguments: list[str], says: str) -> None:
    asleep_mind(minds)
    terminal = Terminal()
    assert terminal.halo("inspect", *arguments) == 2
    assert says in terminal.err
    assert len(terminal.err.splitlines()) == 1
    assert terminal.out == ""
