# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The conversation: prompt, turn, reply, until the person leaves.

Knows the session, the screen and the slash commands. Must not know how a context is edited.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.text import Text

from haloweave import __version__, look
from haloweave.cli import show, slash
from haloweave.cli.ingest import turn
from haloweave.cli.session import Moment, Session
from haloweave.cli.stage import Stage, no_echo
from haloweave.cli.tools import Tools
from haloweave.errors import HaloError
from haloweave.events import Edited, Notice, Recalled, Spoke, TurnEnded
from haloweave.memory.plan import REPAIR
from haloweave.runner import Work

if TYPE_CHECKING:
    from haloweave.engine.sampling import Sampling
    from haloweave.settings import Settings

PROMPT = "› "
_SHOWN = 4
"""Repairs of one turn that are quoted."""
_ENDINGS = {
    "length": "(cut off at the limit; --limit raises it)",
    "interrupted": "(interrupted; the mind keeps what it said)",
}


class Talk:
    """One conversation with one mind."""

    def __init__(
        self, tools: Tools, session: Session, how: Sampling, s: Settings, *, heat: bool = False
    ) -> None:
        self._tools, self._session, self._how, self._settings = tools, session, how, s
        self._live = tools.out.is_terminal
        self._heat = heat and self._live
        self._speed: float | None = None
        self._hands = slash.Hands(tools, session, s)
        self._repaired: list[str] = []
        """What repair made of the text since this was last told."""

    def run(self) -> int:
        """Talk until the person leaves; the exit code."""
        if self._live:
            self._welcome()
        try:
            self._pick_up()
        except HaloError as err:
            self._tools.fail(str(err))
        for line in self._lines():
            try:
                if not self._take(line):
                    break
            except HaloError as err:
                self._tools.fail(str(err))
        self._catch_up()
        return 130 if self._left_by_force else 0

    def _pick_up(self) -> None:
        """Tell how a kept mind came back, and let it finish what it was saying when it was cut off."""
        kept = self._session.kept
        if kept is None or kept.resumed.how == "new":
            return
        self._tools.say(f"{kept.name} is back: {kept.resumed}")
        if kept.unfinished:
            self._tools.say("It was cut off in mid-sentence, and goes on:")
            so_far = look.open_reply(self._session.view(), self._session.codec)
            left = self._settings.limit - so_far.tokens
            if left > 0:
                self._play(lambda mind: mind.reply(self._how, left), so_far.text)
        elif kept.unanswered:
            self._tools.say("It was cut off before it could answer; say it again, or go on.")

    def _take(self, line: str) -> bool:
        """One line from the person; whether to go on."""
        if line.startswith("/") and not line.startswith("//"):
            return self._hands.do(line)
        if line.strip():
            self._reply_to(line[1:] if line.startswith("//") else line)
        return True

    def _reply_to(self, text: str) -> None:
        if "\ufffd" in text:
            self._tools.say("note: some bytes of that line were not UTF-8 and are read as �")
        self._play(turn(self._session, text, self._how, self._settings.limit))

    def _play(self, work: Work, said: str = "") -> None:
        """Show what the work brings, after what was `said` before."""
        self._session.at_work(True)
        with no_echo(), Stage(self._tools.out, strip=self._heat) as stage:
            stage.push(said)
            try:
                self._watch(self._session.play(work), stage)
            except KeyboardInterrupt:
                self._watch(iter(self._session.interrupt()), stage)

    def _watch(self, moments: Iterator[Moment], stage: Stage) -> None:
        first, spoken = 0.0, 0
        for moment in moments:
            event = moment.event
            stage.see(moment.view)
            if isinstance(event, Spoke):
                stage.push(event.text)
                first, spoken = first or moment.at, spoken + 1
                if spoken > 1:
                    self._speed = (spoken - 1) / (moment.at - first)
            elif isinstance(event, Notice):
                stage.note(event.text)
            elif isinstance(event, Recalled):
                told = f"(remembers {show.whose(event.source)}: “{show.one_line(event.text, 72)}”)"
                stage.note(told) if self._live else self._tools.say(told)
            elif isinstance(event, TurnEnded):
                self._note_ending(event, stage)
            elif isinstance(event, Edited):
                self._note_repair(event)
        if repaired := self._of_repairs():
            stage.note(repaired)

    def _note_ending(self, ended: TurnEnded, stage: Stage) -> None:
        if ended.reason in _ENDINGS and self._live:
            stage.note(_ENDINGS[ended.reason])
        if ended.reason == "interrupted":
            self._session.at_work(False)

    # ---- repairs, told when a turn is over ---------------------------------------------------------

    def _note_repair(self, done: Edited) -> None:
        if done.edit.reason == REPAIR and self._live:
            self._repaired += show.changes(done.edit, self._session.codec)

    def _of_repairs(self) -> str:
        """The places repaired since this was last called, in a line."""
        all_of_them, self._repaired = self._repaired, []
        more = f" and {len(all_of_them) - _SHOWN} more" if len(all_of_them) > _SHOWN else ""
        return f"(repaired: {', '.join(all_of_them[:_SHOWN])}{more})" if all_of_them else ""

    def _catch_up(self) -> None:
        """Tell what happened while nothing was said."""
        for moment in self._session.meanwhile():
            if isinstance(moment.event, Notice):
                self._tools.say(f"note: {moment.event.text}")
            elif isinstance(moment.event, Edited):
                self._note_repair(moment.event)
        if repaired := self._of_repairs():
            self._tools.say(repaired)

    # ---- the person's side -----------------------------------------------------------------------

    _left_by_force = False

    def _lines(self) -> Iterator[str]:
        """What the person types, line by line, until the end of input or the second Ctrl-C in a row."""
        if not (self._live and sys.stdin.isatty()):
            yield from (line.rstrip("\r\n") for line in sys.stdin)
            return
        with suppress(ImportError):
            import readline  # noqa: F401  (gives `input` a history and line editing)
        warned = False
        while True:
            self._catch_up()
            self._meter()
            try:
                line = input(PROMPT)
            except EOFError:
                self._tools.out.print()
                return
            except KeyboardInterrupt:
                self._tools.out.print()
                if warned:
                    self._left_by_force = True
                    return
                warned = True
                self._tools.say("Ctrl-C once more, or /quit, to leave.")
                continue
            warned = False
            yield line

    def _meter(self) -> None:
        view, totals = self._session.view(), self._session.totals()
        rows = len(view.tokens)
        line = show.status(rows, self._session.budget, totals.fed, totals.culled, self._speed)
        self._tools.out.print()
        if self._heat:
            self._tools.out.print(show.strip(view, self._tools.out.width - 1))
        self._tools.out.print(line, overflow="ellipsis")

    def _welcome(self) -> None:
        s = self._settings
        head = Text(f"Halo Weave {__version__}", "bold")
        head.append(f"  {s.model} · {self._session.budget} rows · brightness by {s.policy}", "not bold dim")
        self._tools.out.print(head)
        self._tools.out.print("Talk, and /help to lay hands on what it remembers.", style="dim")
