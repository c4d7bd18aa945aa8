# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo inspect`: read something, then lay the context open."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from haloweave.cli import options
from haloweave.cli.options import Speaker, settings_of
from haloweave.cli.tools import tools_of

Files = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Files to read, in order; - is standard input.")
]


def inspect(
    context: typer.Context,
    files: Files,
    source: options.Source = Speaker.USER,
    model: options.Model = None,
    budget: options.Budget = None,
    policy: options.PolicyOption = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="One JSON object a token: uid, slot, text, brightness, source, unit, pinned, age.",
        ),
    ] = False,
) -> None:
    """Read files, then lay open the context they leave.

    It is shown as text coloured by brightness, or as JSON lines. The brightness of a token is 0 to 255,
    grown from the attention it receives. Pinned tokens are underlined; [...] stands where log lines were
    culled (evicted).
    """
    from haloweave import look
    from haloweave.cli import ingest, show
    from haloweave.cli.reading import readers
    from haloweave.cli.report import PlainReport, emit, status_line
    from haloweave.cli.waiting import awake
    from haloweave.memory.tokens import Source

    tools = tools_of(context)
    s = settings_of(model=model, budget=budget, policy=policy, seed=seed, threads=threads)
    found = [(reader, Source[source.name]) for reader in readers(files, lines=source is not Speaker.USER)]
    with awake(tools, s) as session:
        with PlainReport(tools) as report:
            reading = ingest.read(session, found, report)
        view = session.view()
        if as_json:
            for token in look.tokens(view, session.codec):
                emit(tools, asdict(token))
        else:
            show.show_whole(tools.out, view, session.codec)
        tools.err.print(status_line(reading.tally, session.budget))
    if reading.interrupted:
        raise typer.Exit(130)
