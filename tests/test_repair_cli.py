# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Repair as a person meets it: settings, options, what the chat and the stream tell of it."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, fake_mind
from repairers import Answer, Scripted, boom, star
from rich.console import Console

from haloweave.cli.app import run
from haloweave.cli.tools import Tools
from haloweave.errors import InvalidInput
from haloweave.mending import Mender, Mending
from haloweave.settings import Settings, settings


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No HALO_ variable and no .env of the machine the tests run on."""
    for name in [n for n in os.environ if n.upper().startswith("HALO_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


class Screen:
    """One run of `halo`, with a mind that soon has to weave and waits for this repairer (None: nobody)."""

    def __init__(self, answer: Answer | None = star, *, terminal: bool = False) -> None:
        self.stdout, self.stderr = io.StringIO(), io.StringIO()
        self.mind = fake_mind(budget=160, tail=24, says="Yes.", engine=FakeEngine(max_rows=160, says="Yes."))
        self.asked: list[str] = []
        self._answer = answer
        plain: dict[str, Any] = {"highlight": False, "emoji": False, "markup": False, "width": 90}
        self._tools = Tools(
            mind=lambda s, progress: self.mind,
            mender=self._mender,
            out=Console(file=self.stdout, force_terminal=terminal, color_system=None, **plain),
            err=Console(file=self.stderr, **plain),
        )

    def _mender(self, s: Settings, mind: Any, progress: Any) -> Mender | None:
        assert mind is self.mind
        self.asked.append(s.repair)
        if self._answer is None:
            return None
        return Mender(Scripted(self._answer), mind.laws, Mending(cutoff=0.01, wait=True, backoff=100.0))

    def halo(self, *arguments: object) -> int:
        return run([str(a) for a in arguments], self._tools)

    @property
    def out(self) -> str:
        return self.stdout.getvalue()


LONG = "the quick brown fox jumps over the lazy dog and runs away\n" * 5


# ---- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repair", "always"),
        ("repair_wait", "perhaps"),
        ("repair_cutoff", "0"),
        ("repair_cutoff", "1.1"),
        ("repair_cutoff", "nan"),
        ("repair_margin", "-0.1"),
        ("repair_margin", "inf"),
        ("repair_pace", "0"),
        ("repair_pace", "1.01"),
        ("repair_timeout", "0"),
        ("repair_timeout", "3601"),
        ("repair_timeout", "nan"),
    ],
)
def test_bad_values_name_their_field(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=name):
        settings(**{name: value})
    monkeypatch.setenv(f"HALO_{name.upper()}", value)
    with pytest.raises(InvalidInput, match=name):
        settings()


def test_repair_is_off_unless_it_is_asked_for_and_then_beside_the_mind() -> None:
    assert (settings().repair, settings().repair_wait) == ("off", False)
    Mending(cutoff=settings().repair_cutoff, pace=settings().repair_pace, timeout=settings().repair_timeout)


@pytest.mark.parametrize("command", [("chat",), ("stream", "said.txt")])
def test_the_option_reaches_the_mender(
    typed: Callable[[str], None], command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALO_REPAIR", "self")
    Path("said.txt").write_text("hello\n")
    for given, wanted in (((), "self"), (("--repair", "mlm"), "mlm"), (("--repair", "off"), "off")):
        typed("hello\n")
        screen = Screen()
        assert screen.halo(*command, *given) == 0
        assert screen.asked == [wanted]
    assert Screen().halo(*command, "--repair", "always") == 2


def test_off_means_that_nothing_of_a_mender_is_made() -> None:
    assert Tools().mender(settings(), fake_mind(), lambda *a: None) is None


# ---- chat ---------------------------------------------------------------------------------------------


def test_the_chat_shows_what_was_repaired_and_undo_takes_it_back(typed: Callable[[str], None]) -> None:
    typed(LONG + "/undo\n/repair\n")
    screen = Screen(terminal=True)
    assert screen.halo("chat") == 0
    assert re.search(r"\(repaired: “.” → “\*”", screen.out)
    assert re.search(r"undo: repair: no row moved, \d+ held", screen.out)
    assert re.search(r"repair +at work", screen.out)
    assert re.search(r"proposals +\d+: [1-9]\d* applied, \d+ stale", screen.out)


def test_a_chat_without_a_terminal_has_plain_replies(typed: Callable[[str], None]) -> None:
    typed(LONG)
    screen = Screen()
    assert screen.halo("chat") == 0
    assert screen.out == "Yes.\n" * 5
    assert "*" in screen.mind.text()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_failure_is_told_in_the_chat(typed: Callable[[str], None], terminal: bool) -> None:
    typed(LONG + "/repair\n")
    screen = Screen(boom, terminal=terminal)
    assert screen.halo("chat") == 0
    said = " ".join((screen.out + screen.stderr.getvalue()).split())
    assert said.count("repair failed: ZeroDivisionError: by nothing at all; the next try is in 100 s") == 1
    assert "failed, and waits for its next try" in said


def test_a_failure_in_a_weave_by_hand_is_told(typed: Callable[[str], None]) -> None:
    typed(LONG.split("\n")[0] + "\n/weave 60\n")
    screen = Screen(boom)
    assert screen.halo("chat") == 0
    assert "tokens culled" in screen.out
    assert "note: repair failed: ZeroDivisionError" in screen.stderr.getvalue()


def test_repair_that_is_off_says_how_to_turn_it_on(typed: Callable[[str], None]) -> None:
    typed("/repair\n")
    screen = Screen(None)
    assert screen.halo("chat") == 0
    assert "repair is off; halo chat --repair mlm" in screen.out


# ---- stream -------------------------------------------------------------------------------------------


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    (tmp_path / "prose.txt").write_text(LONG * 3)
    return tmp_path / "prose.txt"


def test_a_stream_sums_up_what_was_repaired_apart_from_what_was_culled(prose: Path) -> None:
    screen = Screen()
    assert screen.halo("stream", prose, "--source", "user", "--ask", "What?", "--json") == 0
    summary = [json.loads(line) for line in screen.out.splitlines()][-1]
    repairs = summary["repairs"]
    assert repairs["applied"] > 0
    assert repairs["state"] == "closed"
    assert summary["culled"] == summary["tokens"] - summary["rows"]
    assert summary["culled"] < screen.mind.totals.culled
    plain = Screen()
    assert plain.halo("stream", prose, "--source", "user") == 0
    assert re.search(r"repaired +\d+ places, of \d+ scars seen", plain.out)


def test_a_stream_without_repair_says_nothing_of_it(prose: Path) -> None:
    screen = Screen(None)
    assert screen.halo("stream", prose, "--json") == 0
    assert "repairs" not in screen.out
    screen = Screen(None)
    assert screen.halo("stream", prose) == 0
    assert "repaired" not in screen.out


def test_a_failure_is_told_in_the_stream(prose: Path) -> None:
    screen = Screen(boom)
    assert screen.halo("stream", prose, "--source", "user", "--json") == 0
    notices = [line for line in map(json.loads, screen.out.splitlines()) if line["event"] == "notice"]
    assert [n["text"].split(":")[0] for n in notices].count("repair failed") == 1
