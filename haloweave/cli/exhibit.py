# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The demo itself: read, ask, and show what became of it.

Knows the session, the report and the pictures. Must not know options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.rule import Rule
from rich.text import Text

from haloweave import look
from haloweave.cli import fuel, ingest, show
from haloweave.cli.fate import Fate
from haloweave.cli.reading import Reader, Said, turns
from haloweave.cli.report import PlainReport
from haloweave.cli.session import Session
from haloweave.cli.tally import Tally
from haloweave.cli.tools import Tools, safe
from haloweave.engine.sampling import Sampling
from haloweave.memory.tokens import Source, View

_TIMES = 6
"""How many budgets' worth of text is read."""
_PROSE, _LOG = 0.55 * 4.6, 0.45 * 2.3
"""Share of the text, times characters a token."""
_SHOWN = 160
"""Tokens of the distant context that are shown."""


@dataclass(frozen=True)
class Exhibit:
    """What to read and what to ask."""

    turns: tuple[tuple[Reader | Said, Source], ...]
    questions: tuple[str, ...]


def of_files(names: Sequence[str], ask: Sequence[str] | None) -> Exhibit:
    """Files that the person named."""
    questions = tuple(ask or ("What was this text about? Answer in one sentence.",))
    return Exhibit(tuple((reader, Source[whose.name]) for reader, whose in turns(names)), questions)


def of_this_machine(budget: int, ask: Sequence[str] | None) -> Exhibit:
    """Text that is there anyway."""
    wanted = budget * _TIMES
    found = fuel.passages(prose=int(wanted * _PROSE), log=int(wanted * _LOG))
    read = tuple((Said(p.title, p.text), Source[p.speaker.name]) for p in found)
    return Exhibit(read, tuple(ask or (found[-1].question,)))


def run(tools: Tools, session: Session, exhibit: Exhibit, how: Sampling, limit: int) -> bool:
    """Show it; whether it was shown to the end."""
    fate = Fate()
    with PlainReport(tools) as report:
        tools.out.print(f"A context of {session.budget} tokens is about to read:", style="bold")
        for turn, source in exhibit.turns:
            tools.out.print(f"  {turn.name}, as {show.kind(source)}", soft_wrap=True)
        reading = ingest.read(session, exhibit.turns, report, watch=fate.watch)
        before = session.view()
        stopped = reading.interrupted or ingest.ask(session, exhibit.questions, how, limit, report)
        _what_lived(tools, session, before)
        _what_died(tools, session, before, reading.tally, fate)
        _title(tools, "in figures")
        report.summary(reading, session.budget)
    return not stopped


def _title(tools: Tools, text: str) -> None:
    tools.out.print()
    tools.out.print(Rule(text, align="left", style="dim"))


def _what_lived(tools: Tools, session: Session, view: View) -> None:
    """The context as one strip, then its oldest unpinned part in colours."""
    _title(tools, "what lived")
    tools.out.print("the whole context, oldest on the left; height and colour are brightness:", style="dim")
    tools.out.print(show.strip(view, tools.out.width - 1), end="\n")
    distant = _distant(session, view)
    if not len(distant):
        return
    tools.out.print("\nits distant part, in what is left of the words:", style="dim")
    tools.out.print(show.coloured(view, session.codec, int(distant[0]), int(distant[-1]) + 1))
    if tools.out.color_system:
        tools.out.print(show.legend())
    words = _brightest(session, view, distant)
    tools.out.print(Text("\nbrightest there: ", "dim").append(words, "not dim"))


def _distant(session: Session, view: View) -> np.ndarray:
    """Slots of the oldest tokens that are neither pinned nor control tokens nor of the present."""
    tokens = view.tokens
    free = ~tokens.pinned & (tokens.source != Source.CONTROL)
    free[max(len(tokens) - session.laws.tail, 0) :] = False
    return np.flatnonzero(free)[:_SHOWN]


def _brightest(session: Session, view: View, slots: np.ndarray) -> str:
    """The brightest whole words in these slots."""
    shown = look.tokens(view, session.codec)
    order = slots[np.argsort(-view.tokens.brightness[slots], kind="stable")]
    words = (shown[slot].text for slot in order.tolist())
    whole = dict.fromkeys(w.strip() for w in words if w[:1] == " " and len(w) > 5 and w.strip().isalpha())
    return ", ".join(safe(w) for w in list(whole)[:12])


def _what_died(tools: Tools, session: Session, view: View, tally: Tally, fate: Fate) -> None:
    """Counts, a passage with its holes, and some of the lines that went."""
    _title(tools, "what died")
    for source, count in tally.culled.most_common():
        tools.out.print(f"  {count:>6,} tokens of {show.kind(source)}")
    if not tally.dead:
        tools.out.print("nothing: the text fitted into the context")
        return
    colour = bool(tools.out.color_system)
    prose = fate.passage(view, session.codec, Source.TEXT, 110, colour=colour)
    if prose:
        how = "struck through" if colour else "dots"
        tools.out.print(f"\na passage of prose, the dead as {how}:", style="dim")
        tools.out.print(prose)
    lines = [d.text for d in tally.samples if d.source is Source.LOG][-3:]
    if lines:
        tools.out.print(
            f"\nlog lines die whole and leave [...] ({tally.markers} markers); the last to go:", style="dim"
        )
    for line in lines:
        tools.out.print("  " + show.one_line(line, tools.out.width - 4), soft_wrap=True)
