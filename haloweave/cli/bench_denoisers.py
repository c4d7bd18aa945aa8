# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench reveal` and `halting`: benchmarks of one trained denoiser, which need its folder, held-out text
and a judge. Arguments to benchmarks, results to tables, JSON lines and reports; measures nothing itself.

Here and not in `haloweave.bench` for the sake of what `halo eval` shares: options, held-out rows, the judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from haloweave import denoising
from haloweave.bench.report import Json, Report, bar
from haloweave.cli import denoisers, unmasking
from haloweave.cli.tools import tools_of
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.diffusion.checkpoint import Loaded
    from haloweave.diffusion.judging.held import Held
    from haloweave.progress import Progress

Number = TypeVar("Number", int, float)
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that `halo train` wrote.")]
Steps = Annotated[str, typer.Option(help="Rounds of revealing, comma-separated; empty: none.")]
Stops = Annotated[
    str, typer.Option(help="Confidence stops, each at every number of rounds, comma-separated; empty: none.")
]
Surer = Annotated[str, typer.Option(help="Write what is surer than this, comma-separated; empty: none.")]
Folder = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", help="Write README.md, pictures and results.json there."),
]


def register(app: typer.Typer) -> None:
    """Add the benchmarks to `app`."""
    for command in (reveal, halting):
        app.command()(command)


def reveal(
    context: typer.Context,
    model: Model,
    data: denoisers.Data = None,
    steps: Steps = "8,12,16",
    stop: Stops = "0.95,0.98,0.99",
    threshold: Surer = "0.5,0.7,0.9",
    order: denoisers.OrderName = "certainty",
    samples: Annotated[int, typer.Option(min=2, help="Texts under each plan.")] = 32,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a text.")] = 64,
    judge: denoisers.Judge = "smollm2-135m",
    blocks: denoisers.BlockCount = 256,
    device: denoisers.Device = "auto",
    seed: denoisers.Seed = 0,
    report: Folder = None,
    as_json: Json = False,
) -> None:
    """Few calls against one token a step, on a trained denoiser of text: calls, judge's perplexity, entropy.

    A plan reaches the mark with four times fewer calls, texts that the judge finds at most 5 % more
    perplexing, with an interval that allows for none more, and an entropy within 0.05 nats of the baseline's.
    """
    from haloweave.bench import reveal as bench
    from haloweave.bench import reveal_report
    from haloweave.cli.ar_judge import load_judge
    from haloweave.cli.waiting import reporting
    from haloweave.diffusion import build

    tools, mark = tools_of(context), bench.Mark()
    grid = bench.Grid(
        _numbers("--steps", steps, int),
        _numbers("--stop", stop, float),
        _numbers("--threshold", threshold, float),
        build.order(order),
    )
    grid.plans(length)  # values that cannot be are told before anything is loaded
    with reporting(tools, "loading") as progress:
        loaded, held = _ready(model, data, device, blocks, seed, report, progress)
        reader, decode = load_judge(judge, progress), loaded.tokenizer.decode
        true = bench.real(held, length, samples, decode, reader)
    grid = replace(grid, base=unmasking.plan_of(loaded, unmasking.Asked()).unmasking)
    found: list[bench.Revealed] = []
    out = Report(as_json, _title(samples, length, judge), [*reveal_report.SHORT])
    with bar("plans", len(grid.plans(length))) as tell:
        for one in bench.reveal(
            loaded.denoiser, held, decode, grid, length=length, count=samples, judge=reader, seed=seed
        ):
            found.append(one)
            tell(len(found))
            record, cells = reveal_report.line(one, found[0], mark)
            out.row({"bench": "reveal", "model": str(model), **record}, reveal_report.short(cells))
    out.end()
    verdict = reveal_report.verdict(found, mark)
    tools.say(verdict) if as_json else tools.tell(verdict)
    if report is not None:
        told = _provenance(loaded, seed, held, judge=judge, order=order)
        reveal_report.write(report, model.name, found, true, mark, told)
        tools.say(f"the report: {report / 'README.md'}")


def _numbers(option: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """Raises InvalidInput for what is no list of numbers."""
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidInput(f"{option} {text!r}: expected numbers with commas between them") from error


def halting(
    context: typer.Context,
    model: Model,
    data: denoisers.Data = None,
    threshold: Annotated[
        list[float] | None, typer.Option(help="Nats between two passes; may be given several times.")
    ] = None,
    draws: denoisers.Draws = 2,
    blocks: denoisers.BlockCount = 96,
    device: denoisers.Device = "auto",
    seed: denoisers.Seed = 0,
    report: Folder = None,
    as_json: Json = False,
) -> None:
    """What halting saves a trained hierarchical denoiser, and what that does to its likelihood bound.

    Thresholds are tried on one half of the held-out rows; the one that saves most with a bound at most 1 %
    worse is confirmed on the other half.
    """
    from haloweave.bench import halting as bench
    from haloweave.bench import halting_report
    from haloweave.cli.waiting import reporting
    from haloweave.diffusion.denoisers.hierarchical import Hierarchical

    tools, mark = tools_of(context), bench.Mark()
    out = Report(as_json, "Halting, beside all passes", ["part", *halting_report.COLUMNS])
    with reporting(tools, "loading") as progress:
        loaded, held = _ready(model, data, device, blocks, seed, report, progress)
        if not isinstance(loaded.denoiser, Hierarchical):
            raise InvalidInput(f"{model}: expected a hierarchical denoiser, which can halt; this one cannot")
        thresholds = tuple(threshold) if threshold else bench.THRESHOLDS
        found = bench.find(
            loaded.denoiser,
            held,
            thresholds=thresholds,
            mark=mark,
            draws=draws,
            seed=seed,
            progress=progress,
        )
    for record, cells in halting_report.lines(found, mark):
        out.row({"bench": "halting", "model": str(model), **record}, cells)
    out.end()
    verdict = halting_report.verdict(found, mark)
    tools.say(verdict) if as_json else tools.tell(verdict)
    if report is not None:
        halting_report.write(report, model.name, found, mark, _provenance(loaded, seed, held, draws=draws))
        tools.say(f"the report: {report / 'README.md'}")


def _ready(
    model: Path,
    data: list[Path] | None,
    device: str,
    blocks: int,
    seed: int,
    report: Path | None,
    progress: Progress,
) -> tuple[Loaded, Held]:
    """The denoiser and what it is measured on; first of all, whether a report can be drawn."""
    if report is not None:
        from haloweave.bench import plots

        plots.wanted()
    loaded = denoisers.placed(denoising.load(model, progress), device)
    return loaded, denoisers.held_text(loaded, model, data, blocks, seed, progress)


def _provenance(loaded: Loaded, seed: int, held: Held, **more: object) -> dict[str, Any]:
    from haloweave.bench.provenance import provenance

    told = {"architecture": loaded.told["arch"], "steps_trained": loaded.told.get("step")}
    rows = {"dtype": "float32", "held_out_rows": len(held.rows)}
    return provenance({"measuring": seed}, **told, **rows, **more)


def _title(samples: int, length: int, judge: str) -> str:
    return f"{samples} texts of {length} tokens under each plan, judged by {judge}"
