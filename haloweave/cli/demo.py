# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo demo`: several budgets' worth of real text, a question, and what lived and died."""

from __future__ import annotations

from typing import Annotated

import typer

from haloweave.cli import options
from haloweave.cli.options import settings_of
from haloweave.cli.tools import tools_of

_BUDGET, _LIMIT = 384, 60
Files = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE",
        help="Files to read, *.log as logs; without any, descriptions of installed packages and pip's log.",
    ),
]
Ask = Annotated[
    list[str] | None, typer.Option("--ask", "-a", metavar="QUESTION", help="Ask this; may be given again.")
]


def demo(
    context: typer.Context,
    files: Files = None,
    ask: Ask = None,
    model: options.Model = None,
    budget: Annotated[
        int, typer.Option("--budget", "-b", help="Tokens the context may hold: rows of the KV cache.")
    ] = _BUDGET,
    limit: Annotated[int, typer.Option("--limit", help="Tokens the model may say.")] = _LIMIT,
    policy: options.PolicyOption = None,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="How freely tokens are chosen; 0 takes the best.")
    ] = 0.0,
    seed: options.Seed = None,
    threads: options.Threads = None,
) -> None:
    """Watch a small model read several times what it can hold.

    Then it answers a question, and you see what lived and how brightly, what died, the speed, and the flat
    line of memory. A minute or so on two cores; the first run also fetches a small model (93 MB).
    """
    from haloweave.build import sampling
    from haloweave.cli import exhibit
    from haloweave.cli.waiting import awake

    tools = tools_of(context)
    s = settings_of(
        model=model,
        budget=budget,
        limit=limit,
        policy=policy,
        temperature=temperature,
        seed=seed,
        threads=threads,
    )
    shown = exhibit.of_files(files, ask) if files else exhibit.of_this_machine(s.budget, ask)
    with awake(tools, s) as session:
        complete = exhibit.run(tools, session, shown, sampling(s), s.limit)
    if not complete:
        raise typer.Exit(130)
