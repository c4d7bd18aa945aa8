# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench ...`: arguments to benchmarks, benchmarks to tables and JSON lines. Measures nothing itself."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from haloweave.bench import denoisers_commands, durable_commands, edits_commands, warm_commands
from haloweave.bench.compact import commands as compact
from haloweave.bench.crash.command import crash
from haloweave.bench.memory import commands as memory
from haloweave.bench.memory import report_command
from haloweave.bench.peers import commands as peers
from haloweave.bench.report import Json, Model, Report, Rows, Threads, bar, load, median
from haloweave.bench.scale import commands as scale
from haloweave.settings import Settings, settings

_POLICIES = "halo,window,h2o,tova,snapkv,random"


def register(app: typer.Typer) -> None:
    """Add the benchmarks to `app`."""
    for command in (decode, surgery, stream, perplexity, tick, repair):
        app.command()(command)
    durable_commands.register(app)
    denoisers_commands.register(app)
    warm_commands.register(app)
    edits_commands.register(app)
    for part in (memory, report_command, compact, scale, peers):
        part.register(app)
    app.command()(crash)


def decode(
    rows: Rows = [512, 4096],  # noqa: B006
    tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded in one run.")] = 24,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side, alternating.")] = 5,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Decode speed with all layers observed, against plain generate (DynamicCache, SDPA)."""
    from haloweave.bench.decode import decode as measure

    s, loaded = load(model, threads)
    out = Report(as_json, "Decoding, tokens/s (medians)", ["rows", "halo", "generate", "ratio", "of runs"])
    for n in rows:
        pace = measure(loaded, s, n, tokens=tokens, runs=runs)
        ratios = [a / b for a, b in zip(pace.ours, pace.plain, strict=True)]
        out.row(
            {"bench": "decode", **asdict(pace), "ratio": pace.ratio},
            [
                n,
                f"{median(pace.ours):.1f}",
                f"{median(pace.plain):.1f}",
                f"{pace.ratio:.2f}",
                f"{min(ratios):.2f}..{max(ratios):.2f}",
            ],
        )
    out.end()


def surgery(
    rows: Annotated[int, typer.Option(min=128, help="Rows of context.")] = 4096,
    runs: Annotated[int, typer.Option(min=1, help="Edits of each kind that count.")] = 5,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Time of editing the live cache, against prefilling the edited context again."""
    from haloweave.bench.surgery import surgery as measure

    s, loaded = load(model, threads)
    out = Report(as_json, f"Surgery at {rows} rows (medians)", ["edit", "surgery", "prefill again", "faster"])
    for cut in measure(loaded, s, rows, runs=runs):
        out.row(
            {"bench": "surgery", **asdict(cut), "ratio": cut.ratio},
            [
                cut.name,
                f"{1e3 * median(cut.surgery):.0f} ms",
                f"{median(cut.prefill):.1f} s",
                f"{cut.ratio:.0f}x",
            ],
        )
    out.end()


def stream(
    tokens: Annotated[int, typer.Option(min=1000, help="Tokens to read.")] = 20_000,
    budget: Annotated[int, typer.Option(min=64, help="Rows held.")] = 512,
    tiny: Annotated[bool, typer.Option(help="A tiny random Llama instead of a real model.")] = False,
    data: Annotated[Path | None, typer.Option(help="Text file to read; else random tokens.")] = None,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """A long stream in a fixed budget: rows, resident memory and time per token must stay flat."""
    import numpy as np

    from haloweave import build
    from haloweave.bench import stream as bench

    s, loaded = _tiny(budget, threads) if tiny else load(model, threads)
    s = s.model_copy(update={"budget": budget, "system": ""})
    mind = _tiny_mind(s, loaded) if tiny else build.mind_of(s, loaded)
    vocabulary = mind.engine.capabilities.vocabulary
    ids = np.random.default_rng(0).integers(3, vocabulary, 64 * 1024)
    if data is not None:
        ids = np.array(mind.codec.encode([data.read_text("utf-8", errors="replace")])[0])
    with bar("reading", tokens) as tell:
        seen = bench.stream(mind, bench.cycled(ids, s.chunk), tokens, s.chunk, tell)
    rate = s.chunk / median(seen.seconds)
    result = {
        "bench": "stream",
        "model": "tiny" if tiny else s.model,
        "budget": budget,
        "tokens": seen.tokens,
    }
    result |= {
        "rows_peak": seen.rows_peak,
        "growth": seen.growth,
        "slowing": seen.slowing,
        "tokens_per_s": rate,
    }
    out = Report(
        as_json, "A long stream", ["tokens", "peak rows", "tokens/s", "memory end/warm", "time last/first"]
    )
    out.row(
        {**result, "memory_mb": seen.memory_mb},
        [
            seen.tokens,
            f"{seen.rows_peak}/{budget}",
            f"{rate:.0f}",
            f"{seen.growth:.3f}",
            f"{seen.slowing:.3f}",
        ],
    )
    out.end()


def perplexity(
    data: Annotated[list[Path], typer.Option(help="Text file; may be given several times.")],
    budget: Rows = [512, 256],  # noqa: B006
    tokens: Annotated[int, typer.Option(min=256, help="Tokens of each text.")] = 8192,
    skip: Annotated[int, typer.Option(min=0, help="Characters of each text to leave out first.")] = 0,
    policies: Annotated[str, typer.Option(help="Comma-separated; compared with the first.")] = _POLICIES,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Streaming perplexity of long texts under each brightness policy, at equal rows."""
    from haloweave.bench import quality
    from haloweave.corpus import book

    s, loaded = load(model, threads)
    loaded.tokenizer.chat_template = None
    columns = ["rows", "text", "policy", "perplexity", "nats/token worse than first [95 %]"]
    out = Report(as_json, "Streaming perplexity", columns)
    for rows in budget:
        for path in data:
            text = book(path)[skip : skip + 8 * tokens]
            base = s.model_copy(update={"budget": rows, "system": "", "slack": 0.0})
            for losses, worse in quality.compare(loaded, base, policies.split(","), text, tokens):
                gap = "" if worse is None else f"{worse.mean:+.4f} [{worse.low:+.4f}, {worse.high:+.4f}]"
                record = {"bench": "perplexity", "rows": rows, "text": path.stem, "policy": losses.arm}
                record |= {"perplexity": losses.perplexity, "tokens": int(losses.tokens.sum())}
                record |= {"worse": worse.json() if worse else None, "rows_peak": losses.peak_rows}
                out.row(record, [rows, path.stem, losses.arm, f"{losses.perplexity:.3f}", gap])
    out.end()


def tick(
    slots: Annotated[int, typer.Option(min=1024, help="Slots in the context.")] = 8192,
    as_json: Json = False,
) -> None:
    """Bookkeeping per decoded token (journal, mirror, brightness, its share of a weave), without a model."""
    from haloweave.bench.decode import bookkeeping

    found = bookkeeping(settings(), slots)
    out = Report(as_json, "Bookkeeping per tick", ["slots", "median", "worst"])
    out.row(
        {"bench": "tick", **asdict(found)},
        [slots, f"{found.milliseconds:.3f} ms", f"{found.worst:.3f} ms"],
    )
    out.end()


class Part(StrEnum):
    """What `halo bench repair` measures."""

    HOLES = "holes"
    CLEAN = "clean"
    SPEED = "speed"


def repair(
    data: Annotated[list[Path], typer.Option(help="Text file or folder; may be given several times.")],
    part: Annotated[
        list[Part],
        typer.Option(
            help="holes: what re-reading a culled text costs, and how much of it each arm wins back; clean: "
            "changes made to unharmed text; speed: repair beside decoding. May be given several times."
        ),
    ] = [Part.HOLES, Part.CLEAN, Part.SPEED],  # noqa: B006
    windows: Annotated[int, typer.Option(min=1, help="Stretches of text, spread over the files.")] = 20,
    arms: Annotated[str, typer.Option(help="Comma-separated; empty: all.")] = "",
    smooth: Annotated[list[int], typer.Option(help="Neighbours over which culling is smoothed.")] = [1, 15],  # noqa: B006
    margin: Annotated[float | None, typer.Option(min=0, help="Nats a change must win.")] = None,
    denoiser: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A denoiser that repairs. (the one that is shipped)")
    ] = None,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Repair: what it wins back of what culling costs, its restraint, and its speed beside decoding."""
    from haloweave.bench.repair import Bench

    s, loaded = load(model, threads)
    loaded.tokenizer.chat_template = None
    s = s.model_copy(update={} if margin is None else {"repair_margin": margin})
    bench = Bench.of(s, loaded, data, windows, denoiser)
    if Part.HOLES in part:
        columns = ["cull", "arm", "next 256: nats", "better than none [95 %]", "gap closed [95 %]"]
        out = Report(as_json, "Reading a culled text again", [*columns, "perplexity", "rows", "changed"])
        chosen = [a for a in arms.split(",") if a]

        def each(case: dict[str, Any]) -> None:
            if as_json:  # hours of work are not lost with the last of them
                sys.stdout.write(json.dumps({"bench": "repair", "part": "case", **case}) + "\n")
                sys.stdout.flush()

        with bar("reading", windows) as tell:
            for line in bench.holes(smooth, chosen, tell, each):
                out.row({"bench": "repair", "part": "holes", **line.json()}, line.cells())
        out.end()
    if Part.CLEAN in part:
        out = Report(as_json, "Changes to clean text", ["repairer", "tokens", "changes", "share"])
        for found in bench.clean():
            record = {"bench": "repair", "part": "clean", **asdict(found), "share": found.share}
            out.row(record, [found.repairer, found.tokens, found.changes, f"{found.share:.2%}"])
        out.end()
    if Part.SPEED in part:
        columns = ["repairer", "decoding alone", "beside", "slower", "proposed/s", "for each decoded"]
        out = Report(as_json, "Repair beside decoding, tokens/s", [*columns, "p50", "p99 a window"])
        for pace in bench.speed():
            out.row(
                {
                    "bench": "repair",
                    "part": "speed",
                    **asdict(pace),
                    "slowdown": pace.slowdown,
                    "keeps_up": pace.keeps_up,
                    "p50": pace.latency(0.5),
                    "p99": pace.latency(0.99),
                },
                [
                    pace.repairer,
                    f"{median(pace.alone):.1f}",
                    f"{median(pace.together):.1f}",
                    f"{pace.slowdown:.1%}",
                    f"{median(pace.proposed):.1f}",
                    f"{pace.keeps_up:.2f}",
                    f"{1e3 * pace.latency(0.5):.0f} ms",
                    f"{1e3 * pace.latency(0.99):.0f} ms",
                ],
            )
        out.end()


# ---- shared ----------------------------------------------------------------------------------------------


def _tiny(budget: int, threads: int) -> tuple[Settings, Any]:
    import torch

    from haloweave.engine.hf.tiny import tiny_llama

    if threads:
        torch.set_num_threads(threads)
    return settings(system=""), tiny_llama(budget)


def _tiny_mind(s: Settings, model: Any) -> Any:
    from haloweave import build
    from haloweave.bench.stream import NumberCodec
    from haloweave.engine.hf.engine import HFEngine
    from haloweave.engine.hf.tiny import VOCABULARY

    return build.assemble(s, HFEngine(model, capacity=s.budget), NumberCodec(VOCABULARY))
