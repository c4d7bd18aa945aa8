# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo inspect`: lay a context open: what reading some files leaves, or what a kept mind holds or held."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from haloweave.cli import options
from haloweave.cli.minds import Folder, minds_of
from haloweave.cli.options import Speaker, settings_of
from haloweave.cli.tools import Tools, tools_of
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.asleep import Moment
    from haloweave.memory.tokens import View
    from haloweave.settings import Settings
    from haloweave.text import Codec

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE", help="Files to read, in order; - is standard input. None with --mind."),
]
Mind = Annotated[
    str | None,
    typer.Option("--mind", metavar="NAME", help="A mind that is kept, instead of files; no model is loaded."),
]
At = Annotated[int | None, typer.Option("--at", metavar="TICK", help="With --mind: when (now).")]


def inspect(
    context: typer.Context,
    files: Files = None,
    mind: Mind = None,
    at: At = None,
    source: options.Source = None,
    model: options.Model = None,
    budget: options.Budget = None,
    policy: options.PolicyOption = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    folder: Folder = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="One JSON object a token: uid, slot, text, brightness, source, unit, pinned, age.",
        ),
    ] = False,
) -> None:
    """Read files, then lay open the context they leave; or lay open a mind's, at any time of its life.

    It is shown as text coloured by brightness, or as JSON lines. The brightness of a token is 0 to 255,
    grown from the attention it receives. Pinned tokens are underlined; [...] stands where log lines were
    culled (evicted), [redacted] where text was redacted later.

    With --mind, the journal alone tells: no model is needed, and the mind may be in use. Brightness is kept
    with each checkpoint; what was born since then is as bright as at its birth.
    """
    tools = tools_of(context)
    given = {"model": model, "budget": budget, "policy": policy, "seed": seed, "threads": threads}
    _fit(files, mind, at, [name for name, value in given.items() if value is not None])
    if mind is not None:
        _remember(tools, mind, at, folder, as_json)
    else:
        _read(tools, files or [], source, settings_of(**given), as_json)


def _fit(files: list[str] | None, mind: str | None, at: int | None, given: list[str]) -> None:
    """Raises InvalidInput for what cannot be meant together."""
    if mind is None and at is not None:
        raise InvalidInput("--at is a tick of a mind: give --mind NAME too")
    if mind is None and not files:
        raise InvalidInput("expected files to read, or a mind with --mind NAME")
    if mind is not None and files:
        raise InvalidInput("expected files or --mind, got both")
    if mind is not None and given:
        raise InvalidInput(f"--{given[0]}: a mind is shown as it is; this is for reading files")


def _remember(tools: Tools, name: str, at: int | None, folder: str | None, as_json: bool) -> None:
    from haloweave import asleep

    with asleep.reading(minds_of(folder).whole(name)) as log:
        moment = asleep.moment(log, at)
    view = moment.view if as_json else asleep.struck_once(moment.view)
    _lay_open(tools, view, moment.speller, as_json)
    tools.say(_when(moment))


def _when(moment: Moment) -> str:
    rows = f"{len(moment.view.tokens)}" + (f"/{moment.budget}" if moment.budget else "") + " rows"
    lit = "all as bright as at birth" if moment.lit is None else f"brightness as of tick {moment.lit:,}"
    return f"tick {moment.view.tick:,} of {moment.newest:,} · {rows} · {lit}"


def _read(tools: Tools, files: list[str], source: Speaker | None, s: Settings, as_json: bool) -> None:
    from haloweave.cli import ingest
    from haloweave.cli.reading import turns
    from haloweave.cli.report import PlainReport, status_line
    from haloweave.cli.waiting import awake
    from haloweave.memory.tokens import Source

    found = [(reader, Source[whose.name]) for reader, whose in turns(files, source)]
    with awake(tools, s) as session:
        with PlainReport(tools) as report:
            reading = ingest.read(session, found, report)
        _lay_open(tools, session.view(), session.codec, as_json)
        tools.err.print(status_line(reading.tally, session.budget))
    if reading.interrupted:
        raise typer.Exit(130)


def _lay_open(tools: Tools, view: View, codec: Codec, as_json: bool) -> None:
    from haloweave import look
    from haloweave.cli import show
    from haloweave.cli.report import emit

    if not as_json:
        show.show_whole(tools.out, view, codec)
        return
    for token in look.tokens(view, codec):
        emit(tools, asdict(token))
