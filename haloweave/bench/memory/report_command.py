# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench report`: one command that runs every other one, and makes a report of what they wrote.

Each runs in a process of its own, so that none finds another's memory full, and what one cannot do keeps no
other from being told. Knows commands by name. Must not know what they measure.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from haloweave.bench.memory.commands import Books, Data, Logs, Talks
from haloweave.bench.report import Model, Threads, folder
from haloweave.errors import InvalidInput

_err = Console(stderr=True, highlight=False, emoji=False, markup=False)
_QUICK_TEXTS, _FULL_TEXTS = 1, 4
"""Books that minds of fixed size and of full size go on with, side by side."""


def register(app: typer.Typer) -> None:
    """Add it to `app`."""
    app.command()(report)


@dataclass(frozen=True)
class Step:
    """One command, and the file that it writes."""

    name: str
    words: tuple[str, ...]
    file: Path


def report(
    data: Data = None,
    books: Books = None,
    talks: Talks = None,
    logs: Logs = None,
    quick: Annotated[bool, typer.Option("--quick/--full", help="Half an hour, or some hours.")] = True,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Of the report and its records.")] = Path(
        "report"
    ),
    peers: Annotated[
        bool, typer.Option("--peers", help="Other packages too, in environments of their own (some GB).")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="memory, compare, scale or peers. (several times; all)")
    ] = None,
    made: Annotated[
        list[Path] | None, typer.Option("--from", help="Measure nothing: a report of these files of records.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the cases.")] = 0,
    model: Model = None,
    threads: Threads = 0,
) -> None:
    """The whole memory benchmark in one report: tables with intervals, pictures, HTML.

    Measures what a context of fixed size still knows against everything that people use instead, what it
    costs, how it differs from the whole context while it speaks, and what a past of years would cost.
    """
    from haloweave.bench import plots
    from haloweave.bench.memory.report import of_files
    from haloweave.bench.memory.shelf import shelf

    plots.wanted()
    folder(out)
    files, notes = list(made or []), list[str]()
    if not files:
        on = shelf(data or [], books or [], talks or [], logs or [], tuning=False)
        given = _given(data, books, talks, logs)
        steps = [*_steps(out, given, on.of("books"), quick, seed, model, threads, peers)]
        files, notes = _run([step for step in steps if not only or step.name in only])
    of_files(out, files, notes)
    _err.print(f"{out / 'README.md'}  {out / 'index.html'}")


def _given(
    data: Sequence[Path] | None,
    books: Sequence[Path] | None,
    talks: Sequence[Path] | None,
    logs: Sequence[Path] | None,
) -> tuple[str, ...]:
    named = {"--data": data, "--books": books, "--talks": talks, "--logs": logs}
    return tuple(word for name, paths in named.items() for path in paths or () for word in (name, str(path)))


def _steps(
    out: Path,
    given: tuple[str, ...],
    books: Sequence[Path],
    quick: bool,
    seed: int,
    model: str | None,
    threads: int,
    peers: bool,
) -> Iterator[Step]:
    same = (*(("--model", model) if model else ()), *(("--threads", str(threads)) if threads else ()))
    length, seeded = () if quick else ("--full",), ("--seed", str(seed))

    def step(name: str, *words: str) -> Step:
        file = out / f"{name}.jsonl"
        return Step(name, (name, *words, *same, "--out", str(file)), file)

    texts = tuple(str(path) for path in books[: _QUICK_TEXTS if quick else _FULL_TEXTS])
    yield step("memory", *given, *length, *seeded)
    yield step("compare", *texts, *seeded, "--runs", "2" if quick else "5", "--show", "0")
    yield step("scale", *(("--quick",) if quick else ()))
    if peers:
        yield step("peers", *given, *seeded, "--count", "1" if quick else "4")


def _run(steps: Sequence[Step]) -> tuple[list[Path], list[str]]:
    """Files that were written, and what there is to say of those that were not. Raises InvalidInput if there
    is none at all."""
    files, notes = [], []
    for step in steps:
        _err.print(f"halo bench {' '.join(step.words)}", style="dim")
        step.file.unlink(missing_ok=True)  # or an old one would be told as new
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "haloweave", "bench", *step.words], stdout=subprocess.DEVNULL
        )
        minutes = (time.monotonic() - began) / 60
        if done.returncode:
            how = f"ended with exit code {done.returncode} after {minutes:.1f} minutes"
            notes.append(f"halo bench {step.name} {how}.")
            _err.print(notes[-1])
        if step.file.exists() and step.file.stat().st_size:
            files.append(step.file)
    if not files:
        raise InvalidInput("nothing was measured, so there is nothing to report; see what was said above")
    return files, notes
