# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench crash`: arguments to workers, their results to tables. Measures nothing itself."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from haloweave.bench.crash.report import Tallies, Tally, killed, swept, told
from haloweave.bench.crash.work import Job, Line, carried_out

_err = Console(stderr=True)


def crash(
    kills: Annotated[int, typer.Option(min=0, help="SIGKILLs at random moments.")] = 500,
    stride: Annotated[
        int, typer.Option(min=0, help="Of all faults at all operations, every so many; 0: none.")
    ] = 1,
    follow: Annotated[
        int, typer.Option(min=1, help="After every so many faults, live on to the end and compare.")
    ] = 25,
    quick: Annotated[bool, typer.Option(help="A minute's worth: every 40th fault, 40 kills.")] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes at once; 0: one for each core, up to 8.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the moments at which is killed.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Where to work: a folder on the disk that is to be tried.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per class of cases.")] = False,
) -> None:
    """Break a kept mind at every operation on disk, and kill it at any moment: is anything lost?

    A small mind lives through generation, culls, edits, snapshots, backups, recall and redaction. Each
    operation on disk fails, is torn, meets a full disk, or is where the process dies or the power goes. What
    comes back has to be, to the last bit, what an uninterrupted life was at that point, and to go on like it.
    Exit code 1 if not.
    """
    if quick:
        kills, stride = min(kills, 40), 40
    if kills and not hasattr(os, "fork"):
        _err.print("no SIGKILLs: minds to be killed are forked, and this system cannot")
        kills = 0
    at_once = workers or min(os.cpu_count() or 1, 8)
    place = Path(tempfile.mkdtemp(prefix="halo-crash-", dir=folder))
    started = time.time()
    try:
        jobs = [
            Job("sweep", str(place / f"sweep{n}"), part=n, of=at_once, stride=stride, far=follow)
            for n in range(at_once if stride else 0)
        ]
        faults = _counted("faults", jobs, swept())
        jobs = [
            Job("kills", str(place / f"kills{n}"), part=n, kills=share, far=1, seed=seed * 1000 + n)
            for n, share in enumerate(_shares(kills, at_once))
        ]
        deaths = _counted("kills", jobs, killed())
    finally:
        shutil.rmtree(place, ignore_errors=True)
    parts = [("sweep", "Faults", faults), ("kill", "SIGKILLs", deaths)]
    for part, title, tallies in parts:
        if tallies.all and as_json:
            _lines(part, tallies)
        elif tallies.all:
            _table(title, tallies)
    seconds = round(time.time() - started, 1)
    if as_json:
        sys.stdout.write(json.dumps({"bench": "crash", "seconds": seconds, "workers": at_once}) + "\n")
    else:
        Console().print(f"[dim]{seconds} s, {at_once} processes[/dim]")
    if any(tallies.total.wrong for _, _, tallies in parts):
        raise typer.Exit(1)


def _shares(total: int, among: int) -> list[int]:
    return [n for n in ((total + i) // among for i in range(among)) if n]


def _counted(what: str, jobs: list[Job], tallies: Tallies) -> Tallies:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True) as progress:
        task = progress.add_task(what, total=None)
        heard: dict[int, Line] = {}

        def hear(line: Line) -> None:
            heard[line["part"]] = line
            tallies.add(line)
            done, of = (sum(one[k] for one in heard.values()) for k in ("done", "of"))
            progress.update(task, completed=done, total=of * len(jobs) // len(heard))

        carried_out(jobs, hear)
    return tallies


def _lines(part: str, tallies: Tallies) -> None:
    for tally in (*tallies.all, tallies.total):
        sys.stdout.write(json.dumps({"bench": "crash", "part": part, **tally.json()}) + "\n")
    sys.stdout.flush()


def _table(title: str, tallies: Tallies) -> None:
    columns = ["where", "cases", "ended", "came back", "half done on disk", "tokens compared", "wrong"]
    table = Table(*columns, title=title)
    for tally in tallies.all:
        table.add_row(*_cells(tally))
    table.add_section()
    table.add_row(*_cells(tallies.total))
    console = Console()
    console.print(table)
    for example in tallies.total.examples:
        console.print(f"[red]{example}[/red]", highlight=False)


def _cells(tally: Tally) -> list[str]:
    where = ": ".join(part for part in tally.name if part)
    ended, back, found = (told(counted) for counted in (tally.ended, tally.back, tally.found))
    return [where, str(tally.cases), ended, back, found, str(tally.compared or ""), str(tally.wrong)]
