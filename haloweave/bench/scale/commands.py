# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench scale`: arguments to measurements, records to lines, tables or a page. Measures
nothing itself."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from haloweave.bench.memory.record import Record
from haloweave.bench.report import Json, Threads, bar, folder, load, put, streams
from haloweave.bench.scale.measure import FULL, QUICK, Part, measure

Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE.jsonl", dir_okay=False, help="Keep the records, a JSON line each."),
]
Page = Annotated[
    Path | None, typer.Option(metavar="FOLDER", file_okay=False, help="Write tables and pictures there.")
]


def register(app: typer.Typer) -> None:
    """Add the benchmark to `app`."""
    app.command()(scale)


def scale(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Text file or folder to read; else made-up words. (several times)"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Three sizes up to 300,000 tokens.")] = False,
    part: Annotated[list[Part], typer.Option(help="What to measure. (several times)")] = [*Part],  # noqa: B006
    out: Out = None,
    page: Page = None,
    model: Annotated[str | None, typer.Option(help="Count minds over this model too.")] = None,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """What a past of 10^9 tokens and many minds would cost: measured slopes, and what breaks first."""
    from haloweave.bench import plots
    from haloweave.bench.memory.record import head
    from haloweave.bench.provenance import provenance
    from haloweave.bench.scale.breaks import breaks, curves, fits, numbered
    from haloweave.bench.scale.page import parts, save

    if page is not None:
        plots.wanted()
        folder(page)
    plan = QUICK if quick else FULL
    s, loaded = load(model, threads) if model else (_plain(threads), None)
    facts = provenance({"text": 0}, sizes=list(plan.sizes.tokens), rows=plan.sizes.rows)
    facts["data"] = ", ".join(path.name for path in data or []) or "made-up words"
    records: list[Record] = []
    with ExitStack() as stack:
        files = streams(stack, out, as_json)
        put(files, head(facts))
        tell = stack.enter_context(bar("measuring", plan.sizes.tokens[-1]))
        for record in measure(s, plan, data or [], loaded, lambda what, done: tell(done), part):
            records.append(record)
            put(files, record.line())
        for record in numbered(fits(curves(records))):
            put(files, record.line())
    if Part.HISTORY not in part:
        return  # pages are about a past
    if page is not None:
        save(page, records, facts)
    if not as_json:
        for text in parts(records, facts):
            Console().print(text, markup=False, highlight=False, soft_wrap=True)
        crossed = breaks(fits(curves(records)))
        Console().print(f"first: {crossed[0].threshold.said}" if crossed else "nothing breaks", style="bold")


def _plain(threads: int) -> Any:
    import torch

    from haloweave.settings import settings

    if threads:
        torch.set_num_threads(threads)
    return settings(threads=threads or None, system="")
