# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench peers`: the memory benchmark on other packages. Measures nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console

from haloweave.bench.memory.commands import Books, Data, Logs, Talks
from haloweave.bench.report import Model, Rows, Threads, bar, load, put, streams
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.bench.memory.arms import Studio
    from haloweave.bench.memory.cases import Case
    from haloweave.bench.memory.plan import Part
    from haloweave.bench.peers.run import Cannot, Run

_err = Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the benchmark to `app`."""
    app.command()(peers)


def peers(
    out: Annotated[Path, typer.Option(help="File of records to write, one JSON line each.")],
    data: Data = None,
    books: Books = None,
    talks: Talks = None,
    logs: Logs = None,
    peer: Annotated[
        list[str],
        typer.Option(help="generate, kvpress or attention_sinks; may be given several times. (all)"),
    ] = [],  # noqa: B006
    arms: Annotated[str, typer.Option(help="Comma-separated, as in records; empty: all of each peer.")] = "",
    tasks: Annotated[str, typer.Option(help="Comma-separated.")] = "books,needles",
    rows: Rows = [512, 256],  # noqa: B006
    tokens: Annotated[int | None, typer.Option(min=128, help="Tokens of each case. (as in memory)")] = None,
    count: Annotated[int, typer.Option(min=1, help="Cases of each task.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same cases.")] = 0,
    decode: Annotated[int, typer.Option(min=0, help="Tokens decoded after each book, for speed.")] = 64,
    silence: Annotated[float, typer.Option(min=1, help="Seconds without a number that end a peer.")] = 3600,
    model: Model = None,
    threads: Threads = 0,
) -> None:
    """What other packages remember of the same cases, each in a virtual environment of its own."""
    from haloweave.bench.memory.run import Session
    from haloweave.bench.memory.shelf import shelf
    from haloweave.settings import settings

    names = _known(peer)
    _, loaded = load(model, threads)
    s = settings(model=model, threads=threads or None)  # with the system turn that our own arms read
    session = Session.of(
        loaded, s, shelf(data or (), books or (), talks or (), logs or (), tuning=False), seed
    )
    parts = [
        _part(task).but(count=count, **({"tokens": tokens} if tokens else {})) for task in tasks.split(",")
    ]
    cases = [case for part in parts for case in session.cases(part)]
    how = {"rows": rows, "tokens": {part.task: part.tokens for part in parts}, "decode": decode}
    with ExitStack() as stack:
        files = streams(stack, out, False)
        for name in names:
            chosen = [arm for arm in arms.split(",") if arm.partition(":")[0] == name]
            if chosen or not arms:
                _write(
                    prepared(session.studio, name, cases, silence=silence, arms=chosen, **how), files, seed
                )


def _part(task: str) -> Part:
    """As in a run of our own, so that the cases are the same. Raises InvalidInput."""
    from haloweave.bench.memory.plan import FULL, QUICK

    found = {part.task: part for part in (*QUICK, *FULL)}
    if task not in found:
        raise InvalidInput(f"no such task: {task!r}; there are {', '.join(found)}")
    return found[task]


def prepared(studio: Studio, name: str, cases: Sequence[Case], *, silence: float = 3600, **how: Any) -> Run:
    """A peer ready to run, its environment made unless it is there. `how`: fields of a job. Raises PeerError,
    InvalidInput."""
    import torch

    from haloweave.bench.peers.job import job
    from haloweave.bench.peers.run import Run
    from haloweave.bench.peers.venvs import PEERS, python

    how |= {"dtype": str(studio.loaded.dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    told = job(studio.codec, studio.loaded.path, cases, studio.base, **how)
    place = python(PEERS[name], progress=lambda what, done, total: _err.print(what))
    return Run(PEERS[name], place, told, _reference(studio), silence)


def _known(names: Sequence[str]) -> list[str]:
    from haloweave.bench.peers.venvs import PEERS

    if unknown := [name for name in names if name not in PEERS]:
        raise InvalidInput(f"no such peer: {unknown[0]!r}; there are {', '.join(PEERS)}")
    return list(names or PEERS)


def _reference(studio: Studio) -> float:
    """Our own loss of the check, nats a token."""
    import numpy as np

    from haloweave.bench.peers.job import CHECKED, check_ids

    with studio.engine(studio.base.model_copy(update={"budget": CHECKED})) as engine:
        told = engine.feed(np.array(check_ids(studio.codec)), score=True).logprobs
    if told is None:
        raise InvalidInput("the engine tells no log-probabilities")
    return -float(told.astype(np.float64).mean())


def _write(run: Run, files: Sequence[TextIO], seed: int) -> None:
    """A peer's records, and after them how they were made and what it cannot do."""
    from haloweave.bench.memory.record import Record, head
    from haloweave.bench.provenance import provenance

    cannot: list[Cannot] = []
    with bar(run.peer.name, len(run.job.cases)) as tell:
        seen: Counter[str] = Counter()
        for found in run.records():
            if isinstance(found, Record):
                put(files, found.line())
                seen[found.case] += 1
                tell(len(seen))
            elif found not in cannot:
                cannot.append(found)
                _err.print(f"{found.arm} cannot do {found.task}: {found.why}")
    more: dict[str, Any] = {"peer": run.peer.name, "versions": run.versions, "notes": run.peer.notes}
    more |= {"rows": run.job.rows, "dtype": run.job.dtype, "peer_threads": run.job.threads}
    put(files, head(provenance({"cases": seed}, **more, cannot=[asdict(c) for c in cannot])))
