# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench warm`: arguments to the bench of warm starts, its results to a table or JSON lines. Measures
nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haloweave.bench.report import Json, Report, bar
from haloweave.models import DEFAULT


def register(app: typer.Typer) -> None:
    """Add the bench to `app`."""
    app.command()(warm)


def warm(
    files: Annotated[
        list[Path],
        typer.Option("--data", metavar="PATH", help="Texts to train on; may be given several times."),
    ],
    held_out: Annotated[
        list[Path] | None,
        typer.Option("--held-out", metavar="FILE", help="Measure on this file; may be given again."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="CPU time of each start, all its costs included.")] = 5.0,
    host: Annotated[
        str, typer.Option(metavar="NAME|FOLDER", help="Lends tokens and vectors, and teaches.")
    ] = DEFAULT,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Where runs are kept; starts that are done there are not run again."
        ),
    ] = Path("warm"),
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write figures.json and curves.png there.")
    ] = None,
    starts: Annotated[
        str | None, typer.Option(help="Numbers of starts, comma-separated; the first is the baseline.")
    ] = None,
    seq_len: Annotated[int, typer.Option(min=8, help="Tokens a block.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Blocks a step.")] = 8,
    distil_blocks: Annotated[int, typer.Option(min=1, help="Blocks that the teacher is asked about.")] = 192,
    blocks: Annotated[int, typer.Option(min=2, help="Held-out blocks that are judged.")] = 160,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and noise.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    as_json: Json = False,
) -> None:
    """Which warm start buys a denoiser most per minute of CPU: own or lent vectors, a teacher, an encoder."""
    import torch

    from haloweave.bench import warm as bench
    from haloweave.bench import warm_plan as plans
    from haloweave.bench import warm_report as told
    from haloweave.bench.stats import facts
    from haloweave.diffusion.training.hardware import keep_memory

    torch.set_num_threads(threads)
    keep_memory()  # as `halo train` does
    plan = plans.Plan(
        files=tuple(files),
        held_out=tuple(held_out or ()),
        minutes=minutes,
        host=host,
        out=out,
        seq_len=seq_len,
        batch_size=batch_size,
        distil_blocks=distil_blocks,
        blocks=blocks,
        seed=seed,
    )
    chosen, table = plans.chosen(starts), Report(as_json, "Warm starts", list(told.COLUMNS))
    found = []
    with bar("reading", 100) as tell:
        here = plans.common(plan, tell)
    for name, start in chosen.items():
        with bar(name, 100) as tell:
            found.append(bench.measure(plan, here, name, start, tell))
    rows = told.lines(found, here)
    for line in rows:
        table.row({"bench": "warm", **line.plain()}, line.cells())
    table.end()
    said = told.verdict(found, here) if len(found) > 1 else "one start alone: nothing to compare"
    level = told.plateau(here)
    typer.echo(f"by the tokens' frequencies alone: {level.value:.3f} bits per byte", err=as_json)
    typer.echo(said, err=as_json)
    if report is not None:
        more = {"minutes": minutes, "held_out_rows": len(here.held.rows), "by_frequency": level.plain()}
        told.write(report, rows, said, facts() | more)
