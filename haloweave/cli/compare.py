# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo compare`: denoisers side by side on equal terms, and a decision by rules that were written before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haloweave.cli import denoisers, unmasking
from haloweave.cli.options import Json
from haloweave.cli.tools import Tools, tools_of
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.cli.contest import Entrant
    from haloweave.cli.denoiser_run import Watch
    from haloweave.diffusion.compare import Comparison


def compare(
    context: typer.Context,
    models: Annotated[
        list[Path],
        typer.Argument(metavar="A B...", help="Folders that `halo train` wrote, or configs to train first."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where configs are trained, each in its own folder.")
    ] = Path("compared"),
    data: denoisers.Data = None,
    draws: denoisers.Draws = 4,
    blocks: denoisers.BlockCount = 256,
    infills: denoisers.Infills = 32,
    samples: denoisers.Samples = 16,
    length: denoisers.Length = None,
    steps: denoisers.Steps = None,
    order: denoisers.OrderName = "confidence",
    judge: denoisers.Judge = "none",
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="Times that speeds are measured, in turns.")
    ] = 7,
    longest: Annotated[
        int,
        typer.Option("--longest", metavar="T", min=8, help="Where the growth of a call's cost is measured."),
    ] = 4096,
    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="NAME", help="Of the training steps that are timed, as in train."),
    ] = "auto",
    device: denoisers.Device = "auto",
    seed: denoisers.Seed = 0,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Write README.md, pictures and results.json there."),
    ] = None,
    unmatched: Annotated[
        bool, typer.Option("--unmatched", help="Compare what is not comparable too, and say so.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare denoisers; the first is the baseline, each other one a candidate.

    They must have seen as much of the same text, with one tokenizer and seed, and have as many parameters,
    to 5 %. They meet the same blocks, masks and holes, and are timed in alternation. A candidate becomes the
    primary denoiser if it samples 1.5 times as fast, its bound is no more than 3 % worse, no script loses
    more than 5 %, its training was stable and it takes no more memory; else the baseline stays.
    """
    tools = tools_of(context)
    if len(models) < 2:
        raise InvalidInput("expected two denoisers or more: the baseline, then who wants to replace it")
    from haloweave.cli import contest
    from haloweave.cli.ar_judge import load_judge
    from haloweave.cli.waiting import reporting
    from haloweave.diffusion import compare as measure
    from haloweave.diffusion.evaluate import Measures
    from haloweave.diffusion.judging.race import Race
    from haloweave.diffusion.training import hardware

    if report is not None:
        from haloweave.bench import plots

        plots.wanted()
    bf16 = hardware.bf16(dtype, hardware.device(device))
    with ExitStack() as stack:
        folders = contest.trained(models, out, _watch(stack, tools), unmatched=unmatched)
    with reporting(tools, "loading") as progress:
        entrants = contest.entrants(folders, progress, device)
        first = entrants[0]
        sampling = unmasking.plan_of(first.loaded, unmasking.Asked(steps=steps, order=order)).unmasking
        held = denoisers.held_text(first.loaded, first.folder, data, blocks, seed, progress)
        plan = Measures(
            draws=draws,
            infills=infills,
            samples=samples,
            length=length,
            filling=replace(sampling, temperature=0.0),
            sampling=sampling,
            seed=seed,
        )
        found = measure.compare(
            [e.contestant for e in entrants],
            held,
            first.loaded.tokenizer.decode,
            plan,
            run=Race(
                rounds=rounds,
                lengths=tuple(longest >> n for n in (3, 2, 1, 0)),
                repeats=max(3, rounds),
                bf16=bf16,
            ),
            judge=load_judge(judge, progress) if samples else None,
            unmatched=unmatched,
            progress=progress,
        )
    _tell(tools, found, as_json)
    if report is not None:
        dtypes = "bfloat16 in training, float32 in calls" if bf16 else "float32"
        _report(report, entrants, found, seed, {"dtype": dtypes, "held_out_rows": len(held.rows)})
        tools.say(f"the report: {report / 'README.md'}")


def _report(folder: Path, entrants: Sequence[Entrant], found: Comparison, seed: int, more: Any) -> None:
    """The comparison as a folder, with how each was trained."""
    from haloweave.bench.provenance import provenance
    from haloweave.cli.comparison_report import Report, write
    from haloweave.diffusion.training.curves import CSV, read

    curves = {e.contestant.name: read(e.folder / CSV) for e in entrants}
    seeds = {"measuring": seed, **{e.contestant.name: e.contestant.facts.seed for e in entrants}}
    write(folder, Report(found, curves, provenance(seeds, **more)))


def _watch(stack: ExitStack, tools: Tools) -> Callable[[bool], Watch]:
    """Whoever looks on while configs are trained: on stderr, whatever is asked for on stdout."""
    from haloweave.cli.train_denoiser import Watch as Shown
    from haloweave.cli.waiting import reporting

    pressed = threading.Event()
    return lambda leads: Shown(tools, stack.enter_context(reporting(tools, "training")), False, pressed)


def _tell(tools: Tools, found: Comparison, as_json: bool) -> None:
    from haloweave.cli.figures import comparison_plain, comparison_tables

    if as_json:
        from haloweave.cli.report import emit

        emit(tools, comparison_plain(found))
        return
    for part in comparison_tables(found):
        if isinstance(part, str):
            tools.tell(part)
        else:
            tools.out.print(part)
            tools.out.print()
