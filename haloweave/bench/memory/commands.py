# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench memory`: arguments to a run, a run to records and tables.

Knows options. Must not know how anything is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table

from haloweave.bench.report import Json, Model, Threads, bar, put, streams
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.bench.memory.plan import Part
    from haloweave.bench.memory.record import Record
    from haloweave.bench.memory.shelf import Shelf

_err = Console(stderr=True, highlight=False, emoji=False, markup=False)

Data = Annotated[
    list[Path] | None,
    typer.Option(help="Folder with subfolders gutenberg, sgd_dialogues, loghub, ... (several times)"),
]
Books = Annotated[list[Path] | None, typer.Option(help="Long texts: a file or folder. (several times)")]
Talks = Annotated[list[Path] | None, typer.Option(help="Dialogues: a file or folder. (several times)")]
Logs = Annotated[list[Path] | None, typer.Option(help="Server logs: a file or folder. (several times)")]
Tuning = Annotated[
    bool, typer.Option("--tuning", help="The half of the texts that settings may be tuned on, not the other.")
]


def register(app: typer.Typer) -> None:
    """Add the benchmark to `app`."""
    app.command()(memory)


def memory(
    data: Data = None,
    books: Books = None,
    talks: Talks = None,
    logs: Logs = None,
    task: Annotated[list[str] | None, typer.Option(help="Tasks, all without. (several times)")] = None,
    arms: Annotated[
        str | None,
        typer.Option(help="Separated by ';', as in window;halo:half_life=256,smooth=5. (the plan's)"),
    ] = None,
    rows: Annotated[
        list[int] | None, typer.Option(min=64, help="Budgets. (several times; the plan's)")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=64, help="Tokens of a case. (the plan's)")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Cases of a task. (the plan's)")] = None,
    full: Annotated[bool, typer.Option("--full", help="The long plan: hours, not half an hour.")] = False,
    tuning: Tuning = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the cases.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Keep the records there.")] = None,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """What a context of fixed size still knows: every case on every arm, at equal rows.

    Running text is scored token by token; needles, register lines, logs and talks are asked about. The same
    cases come for the same seed, and half of all texts is never tuned on.
    """
    from haloweave.bench.memory.shelf import shelf

    on = shelf(data or [], books or [], talks or [], logs or [], tuning=tuning)
    parts = _parts(full, task, arms, rows, tokens, count)
    with ExitStack() as stack:
        files = streams(stack, out, as_json)
        found = _measured(on, parts, seed, model, threads, files)
    if not as_json:
        _show(found)


def _parts(
    full: bool,
    tasks: Sequence[str] | None,
    arms: str | None,
    rows: Sequence[int] | None,
    tokens: int | None,
    count: int | None,
) -> list[Part]:
    from haloweave.bench.memory import plan
    from haloweave.bench.memory.arms import arm

    parts = plan.FULL if full else plan.QUICK
    known = [part.task for part in parts]
    if unknown := [name for name in tasks or () if name not in known]:
        raise InvalidInput(f"no such task: {unknown[0]!r}; there are {', '.join(known)}")
    told: dict[str, Any] = {"rows": tuple(rows or ()), "tokens": tokens, "count": count}
    told["arms"] = tuple(name.strip() for name in (arms or "").split(";") if name.strip())
    for name in told["arms"]:
        arm(name)
    changes = {name: value for name, value in told.items() if value}
    return [part.but(**changes) for part in parts if not tasks or part.task in tasks]


def _measured(
    on: Shelf, parts: Sequence[Part], seed: int, model: str | None, threads: int, files: Sequence[TextIO]
) -> list[Record]:
    """Writes each record as it comes."""
    from haloweave import build
    from haloweave.bench.memory.plan import facts
    from haloweave.bench.memory.record import head
    from haloweave.bench.memory.run import Session, readings
    from haloweave.settings import settings

    s = settings(model=model, threads=threads or None)
    told = facts(s, parts, on, seed)
    _err.print(f"loading {s.model} ...", style="dim")
    session = Session.of(build.load_model(s), s, on, seed)
    cases = [session.cases(part) for part in parts]
    for part in parts:
        session.check(part)
    put(files, head(told))
    found: list[Record] = []
    for part, of in zip(parts, cases, strict=True):
        with bar(part.task, readings(part)) as tell:
            for record in session.measure(part, of, tell):
                found.append(record)
                put(files, record.line())
    return found


def _show(records: Sequence[Record]) -> None:
    """Every metric of every task, each arm beside halo where that was run; the report has more columns."""
    from haloweave.bench.memory import cells
    from haloweave.bench.memory.glossary import metric
    from haloweave.bench.memory.tables import Numbers, lines

    console, numbers = Console(highlight=False), Numbers(records)
    for task in numbers.tasks():
        for name in numbers.metrics(task):
            shown = Table(title=f"{task}: {metric(name).label}")
            for heading in ("rows", "arm", metric(name).short, "less halo's", "documents"):
                shown.add_column(heading, justify="left" if heading == "arm" else "right")
            for one in lines(numbers, task, name):
                less = "" if one.gap is None else cells.gap(one.gap, metric(name).digits)
                mean = cells.interval(one.mean, metric(name).digits)
                shown.add_row(str(one.budget or "all"), one.arm, mean, less, str(one.count.documents))
            console.print(shown)
