# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What the commands of `halo bench` share: options, loading, tables or JSON lines, files, a progress bar.
Measures nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from haloweave.errors import InvalidInput
from haloweave.settings import Settings, settings

Json = Annotated[bool, typer.Option("--json", help="One JSON line per result on stdout.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves the choice to torch.")]
Model = Annotated[str | None, typer.Option(help="Known name, folder, GGUF file or hub id.")]
Rows = Annotated[list[int], typer.Option(min=64, help="Rows of context; may be given several times.")]

_err = Console(stderr=True)


def load(model: str | None, threads: int) -> tuple[Settings, Any]:
    """Settings and the model they name; no system turn."""
    from haloweave import build

    s = settings(model=model, threads=threads or None, system="")
    _err.print(f"[dim]loading {s.model} ...[/dim]")
    return s, build.load_model(s)


def streams(stack: ExitStack, out: Path | None, as_json: bool) -> list[TextIO]:
    """Where records go as they come. Raises InvalidInput for a file that cannot be written, before hours of
    work."""
    files: list[TextIO] = [sys.stdout] if as_json else []
    if out is None:
        return files
    try:
        return [*files, stack.enter_context(out.open("w", encoding="utf-8"))]
    except OSError as error:
        raise InvalidInput(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


def folder(out: Path) -> Path:
    """There by now. Raises InvalidInput for what cannot be a folder, before hours of work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{out}: cannot be a folder ({error.strerror}); choose another --out") from error
    return out


def put(files: Iterable[TextIO], line: str) -> None:
    """At once: hours of work are not lost with the last of them."""
    for file in files:
        file.write(f"{line}\n")
        file.flush()


def median(values: list[float]) -> float:
    """The upper one of two."""
    return sorted(values)[len(values) // 2]


class Report:
    """A table for people, or JSON lines for programs."""

    def __init__(self, as_json: bool, title: str, columns: list[str]) -> None:
        self._json = as_json
        self._table = Table(title=title, *columns)  # noqa: B026
        self._started = time.time()

    def row(self, record: dict[str, Any], cells: list[Any]) -> None:
        if self._json:
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()
        else:
            self._table.add_row(*map(str, cells))

    def end(self) -> None:
        from haloweave.bench.stats import facts

        took = {"seconds": round(time.time() - self._started, 1)}
        if self._json:
            sys.stdout.write(json.dumps({"facts": facts() | took}) + "\n")
        else:
            console = Console()
            console.print(self._table)
            console.print("  ".join(f"{k} {v}" for k, v in (facts() | took).items()), style="dim")


class bar:
    """A progress bar on stderr; entering gives the function that moves it."""

    def __init__(self, what: str, total: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=_err, transient=True)
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return lambda done: self._progress.update(self._task, completed=done)

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
