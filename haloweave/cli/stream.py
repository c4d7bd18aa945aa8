# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo stream`: read without end inside a fixed budget, then answer and sum up."""

from __future__ import annotations

from typing import Annotated

import typer

from haloweave.cli import options
from haloweave.cli.options import plain, settings_of
from haloweave.cli.tools import tools_of

Files = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Files to read, in order; - is standard input.")
]
Ask = Annotated[
    list[str] | None,
    typer.Option("--ask", "-a", metavar="QUESTION", help="Ask this when all is read; may be given again."),
]
Every = Annotated[
    int, typer.Option("--every", metavar="N", min=0, help="A status line every N tokens; 0 for none.")
]


def stream(
    context: typer.Context,
    files: Files,
    source: options.Source = None,
    ask: Ask = None,
    every: Every = 0,
    model: options.Model = None,
    budget: options.Budget = None,
    policy: options.PolicyOption = None,
    repair: options.Repair = None,
    repair_model: options.RepairModel = None,
    mind: options.Mind = None,
    limit: options.Limit = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Read files or a pipe of any length within a fixed budget.

    The context never holds more tokens than --budget, however long the text; the dimmest are culled.

    Text is read as it arrives, so a growing log works: tail -f app.log | halo stream - --ask "What broke?"

    With --mind NAME the mind is kept on disk, and a later stream or chat goes on with it.

    Ctrl-C ends the reading; questions are answered still. Then comes a summary: tokens read, rows held,
    what was culled (evicted from the KV cache), and the memory used along the way.
    """
    from haloweave.build import sampling
    from haloweave.cli import ingest
    from haloweave.cli.reading import turns
    from haloweave.cli.report import JsonReport, PlainReport
    from haloweave.cli.waiting import awake, kept
    from haloweave.memory.tokens import Source

    tools = tools_of(context)
    given = plain(
        model=model,
        budget=budget,
        policy=policy,
        repair=repair,
        repair_model=repair_model,
        limit=limit,
        temperature=temperature,
        seed=seed,
        threads=threads,
    )
    s = settings_of(**given)
    found = turns(files, source)
    woken = kept(tools, mind, given) if mind is not None else awake(tools, s)
    with woken as session, (JsonReport if as_json else PlainReport)(tools) as report:
        if session.kept is not None:
            s = session.kept.settings
            tools.say(f"{session.kept.name}: {session.kept.resumed}")
        reading = ingest.read(session, [(f, Source[w.name]) for f, w in found], report, every=every)
        stopped = ingest.ask(session, ask or (), sampling(s), s.limit, report)
        reading = ingest.settled(session, reading, report)
        report.summary(reading, session.budget)
    if reading.interrupted or stopped:
        raise typer.Exit(130)
