# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench denoisers` and `sampler`: speed of the diffusion library's parts. Arguments to benchmarks,
benchmarks to tables and JSON lines; measures nothing itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import typer

from haloweave.bench.report import Json, Report, Threads, bar

_ARMS = "transformer,eco_hybrid,hierarchical"
Lengths = Annotated[list[int], typer.Option(min=8, help="Tokens of a row; may be given several times.")]


def register(app: typer.Typer) -> None:
    """Add the benchmarks to `app`."""
    for command in (denoisers, sampler):
        app.command()(command)


def denoisers(
    length: Lengths = [128, 512, 2048],  # noqa: B006
    arms: Annotated[str, typer.Option(help="Comma-separated.")] = _ARMS,
    tokens: Annotated[int, typer.Option(min=1, help="Of a batch; at least one row.")] = 4096,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all arms, alternating.")] = 9,
    d_model: Annotated[int, typer.Option(min=8)] = 256,
    n_layers: Annotated[int, typer.Option(min=4, help="Even.")] = 6,
    n_heads: Annotated[int, typer.Option(min=1)] = 4,
    d_ff: Annotated[int, typer.Option(min=8)] = 1024,
    vocab: Annotated[int, typer.Option(min=16)] = 8192,
    bf16: Annotated[bool, typer.Option(help="Multiply in bfloat16, on all sides.")] = False,
    device: Annotated[str, typer.Option(help="Where all sides compute: auto, cpu, cuda.")] = "auto",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Training and reading speed of each denoiser, beside a plain BertForMaskedLM of the same shape."""
    from haloweave.bench import denoisers as bench
    from haloweave.diffusion.training import hardware

    _use(threads)
    place = hardware.device(device)
    shape = bench.Shape(vocab_size=vocab, d_model=d_model, n_layers=n_layers, n_heads=n_heads, d_ff=d_ff)
    chosen, paces = [a for a in arms.split(",") if a], []
    columns = ["T", "arm", "parameters", "training tokens/s", "to baseline [95 %]", "reading tokens/s"]
    dtype = "bfloat16" if bf16 else "float32"
    title = f"Denoisers beside {bench.BERT}, {dtype}, medians"
    out = Report(as_json, title, [*columns, "to baseline [95 %]", "peak training", "peak reading"])
    with bar("lengths", len(length)) as tell:
        for i, n in enumerate(length):
            paces += bench.measure(shape, chosen, n, tokens=tokens, rounds=rounds, bf16=bf16, device=place)
            tell(i + 1)
    for record, cells in bench.lines(paces):
        told = {"bench": "denoisers", "part": "speed", "dtype": dtype, "device": str(place)}
        out.row(told | record, cells)
    out.end()
    columns = ["arm", "training", "reading"]
    grow = Report(as_json, "Seconds of a row grow as T to the power of", columns)
    for arm in [bench.BERT, *chosen]:
        training, reading = bench.exponent(paces, arm)
        record = {"bench": "denoisers", "part": "exponent", "dtype": dtype, "arm": arm}
        record |= {"training": _finite(training), "reading": _finite(reading)}
        grow.row(record, [arm, f"{training:.2f}", f"{reading:.2f}"])
    grow.end()


def sampler(
    arch: Annotated[str, typer.Option(help="Denoiser to train: transformer, eco_hybrid or hierarchical.")] = (
        "transformer"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Steps it is trained for; 32 rows each.")] = 2500,
    samples: Annotated[int, typer.Option(min=2, help="Made under each plan.")] = 200,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Write what is surer than this.")] = 0.9,
    length: Annotated[int, typer.Option(min=16, help="Tokens of a row of the grammar.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, noise and samples.")] = 0,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """What each sampling plan costs, and how many of its samples obey a grammar that was learnt before."""
    from haloweave.bench import sampler as bench
    from haloweave.bench.toy import Exam, Toy, trained

    _use(threads)
    toy = Toy.of(arch, length, steps, seed)
    with bar("learning", steps) as tell:
        denoiser = trained(toy, lambda step, loss: tell(step))
    exam = Exam.of(toy.grammar)
    out = Report(as_json, "Held-out holes filled rightly, in one call", ["by", "all", "far apart"])
    for name, filled in ((arch, exam.of_denoiser(denoiser)), ("two neighbours a side", exam.of_window())):
        record = {
            "bench": "sampler",
            "part": "holes",
            "by": name,
            "all": filled.all,
            "far": _finite(filled.far),
        }
        out.row(record, [name, f"{filled.all:.2%}", f"{filled.far:.2%}"])
    out.end()
    plans, found = bench.plans(length, threshold), []
    with bar("sampling", samples * len(plans)) as tell:
        for i, (name, plan) in enumerate(plans.items()):
            move = _from(tell, i * samples)
            found.append(
                bench.sample(denoiser, toy.grammar, name, plan, count=samples, seed=seed, progress=move)
            )
    columns = ["plan", "steps", "calls", "fewer", "p50", "p99", "valid", "better by points [95 %]"]
    out = Report(
        as_json, f"{samples} samples of {length} tokens, one at a time", [*columns, "entropy", "distinct-2"]
    )
    for record, cells in bench.lines(found):
        out.row({"bench": "sampler", "part": "plans", "arch": arch, **record}, cells)
    out.end()


def _from(tell: Callable[[int], None], start: int) -> Callable[[int], None]:
    """A bar that goes on where it was."""
    return lambda done: tell(start + done)


def _finite(x: float) -> float | None:
    """For JSON, which has no NaN."""
    return x if math.isfinite(x) else None


def _use(threads: int) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
