# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench recall`, `archive` and `durable`: what a mind that is kept can do, and what it costs. Arguments
to benchmarks, benchmarks to tables and JSON lines; measures nothing itself."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from haloweave.bench.report import Json, Model, Report, Rows, Threads, bar, load

Texts = Annotated[
    list[Path],
    typer.Option(help="Text file or folder of talk, or of logs (*.log); may be given several times."),
]
_POLICIES = "window,h2o,tova,snapkv,random,linear"


def register(app: typer.Typer) -> None:
    """Add the benchmarks to `app`."""
    for command in (recall, archive, durable):
        app.command()(command)


def recall(
    data: Texts,
    budget: Annotated[int, typer.Option(min=128, help="Rows held.")] = 384,
    times: Annotated[int, typer.Option(min=2, help="Length of the stream, in budgets.")] = 20,
    policies: Annotated[str, typer.Option(help="Eviction alone, beside halo; comma-separated.")] = _POLICIES,
    full: Annotated[bool, typer.Option(help="Also with the whole stream in the context, if it fits.")] = True,
    strong: Annotated[float | None, typer.Option(min=0, max=1, help="Likeness that is strong.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Passages that may come back at once.")] = None,
    seed: Annotated[int, typer.Option(help="Of the stream.")] = 1,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Fifty facts planted in a long stream, and asked for: recall against eviction alone, at equal rows."""
    from haloweave.bench import recall as bench
    from haloweave.bench.recalled import chances, latency, lines
    from haloweave.settings import SYSTEM_PROMPT

    s, loaded = load(model, threads)
    given = {"budget": budget, "system": SYSTEM_PROMPT, "recall_strong": strong, "recall_most": most}
    s = s.model_copy(update={name: value for name, value in given.items() if value is not None})
    chosen = [p for p in policies.split(",") if p]
    run = bench.Bench.of(loaded, s, data, times, seed)
    with bar("reading", len(run.stream) * (1 + full + len(chosen))) as tell:
        run.tell = tell
        for _ in run.run(chosen, full=full):
            pass
    found = run.found
    title = f"What came back, {found.tokens} tokens in {budget} rows"
    out = Report(as_json, title, ["", "how many", "share [95 %]"])
    for chance in chances(found):
        out.row({"bench": "recall", "part": "hits", **chance.json()}, chance.cells())
    p50, p95 = latency(found)
    record = {"bench": "recall", "part": "search", "p50": p50, "p95": p95}
    out.row(record, ["a search, its query embedded", f"p50 {1e3 * p50:.0f} ms", f"p95 {1e3 * p95:.0f} ms"])
    out.end()
    columns = ["arm", "in context", "answer: nats (mean)", "median", "recall better by [95 %]"]
    out = Report(as_json, "Answers", [*columns, "share of full context's gain"])
    for line in lines(found):
        out.row({"bench": "recall", "part": "answers", **line.json()}, line.cells())
    if as_json:
        for part, cases in (("answer", found.answers), ("hit", found.hits), ("alarm", found.alarms)):
            for case in cases:
                out.row({"bench": "recall", "part": part, **asdict(case)}, [])
    out.end()


class Vectors(StrEnum):
    """Whose vectors an archive is searched by."""

    TOY = "toy"
    REAL = "real"


def archive(
    data: Texts,
    tokens: Annotated[int, typer.Option(min=1000, help="Tokens culled.")] = 1_000_000,
    budget: Annotated[int, typer.Option(min=128, help="Rows held.")] = 512,
    embed: Annotated[
        Vectors,
        typer.Option(help="toy: vectors of the same width that take no time to make; real: the encoder's."),
    ] = Vectors.TOY,
    queries: Annotated[int, typer.Option(min=1, help="Searches.")] = 200,
    pieces: Annotated[bool, typer.Option(help="Four bytes to a token, instead of a model's.")] = False,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Size of a mind's database, and time of a search in it, after a million tokens."""
    from haloweave.bench import archive as bench
    from haloweave.bench.facts import FACTS
    from haloweave.bench.hay import Hay

    s, codec, vocabulary = _language(model, threads, pieces)
    s = s.model_copy(update={"budget": budget, "system": ""})
    real, hay = _encoder(s.embedder), Hay(data)
    asked = list(islice([f.asked for f in FACTS] + hay.lines(queries), queries))
    embedder: Any = bench.Toy() if embed is Vectors.TOY else real
    columns = ["tokens", "passages", "bytes/token", "records", "passages", "words", "vectors", "other"]
    sizes = Report(as_json, "Database, bytes for each token culled", columns)
    columns = ["vectors", "first search", "p50", "p95", "p50 with query", "p95 with query", "embedded/s"]
    searches = Report(as_json, "Searching", columns)
    with TemporaryDirectory(prefix="halo-bench-") as folder:
        path = Path(folder) / "mind.db"
        with bar("culling", tokens) as tell:
            culled, fed, took = bench.fill(path, s, codec, vocabulary, hay.pieces(), tokens, tell)
        with bar("embedding", culled // 25) as tell:
            pace = bench.embed(path, embedder, tell)
        if embed is Vectors.TOY:
            pace = bench.sampled(path, real)
        size = bench.size(path, culled, fed, took)
        found = bench.search(path, embedder, asked, real if embed is Vectors.TOY else None)
    record = {"bench": "archive", "part": "size", **asdict(size), "per_token": size.per_token}
    shares = [f"{n / size.culled:.1f}" for n in size.parts.values()]
    sizes.row(record, [size.culled, size.passages, f"{size.per_token:.1f}", *shares])
    sizes.end()
    times = {"first": found.first, "p50": found.p(50), "p95": found.p(95)}
    times |= {"p50_embedded": found.p(50, embedded=True), "p95_embedded": found.p(95, embedded=True)}
    record = {"bench": "archive", "part": "search", "embed": embed.value, **times}
    record |= {"searches": len(found.plain), "passages": size.passages, "embedded_per_s": pace.per_second}
    told = [f"{1e3 * seconds:.1f} ms" for seconds in times.values()]
    searches.row(record, [embed.value, *told, f"{pace.per_second:.0f}"])
    searches.end()


def durable(
    rows: Rows = [512, 4096],  # noqa: B006
    tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded in one block.")] = 256,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of each side, alternating.")] = 5,
    passes: Annotated[int, typer.Option(min=1, help="Passes between the last snapshot and a crash.")] = 64,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """What being kept costs: decoding beside a mind in memory, stops for snapshots, and coming back."""
    from haloweave.bench import durable as bench

    s, loaded = load(model, threads)
    make = bench.maker(loaded)
    columns = ["rows", "in memory", "kept", "slower [95 %]", "snapshots", "embedded", "tick", "longest tick"]
    out = Report(as_json, "Decoding while being kept, tokens/s", [*columns, "longest stop"])
    for n in rows:
        found = bench.overhead(make, s, n, tokens=tokens, blocks=blocks)
        out.row({"bench": "durable", "part": "decode", **found.json()}, found.cells())
    out.end()
    columns = ["rows", "how", "ready after", "passes and edits", "fed", "for each", "same bits"]
    out = Report(as_json, "Coming back (model loaded, engine made)", [*columns, "engine"])
    for n in rows:
        for back in bench.returns(make, s, n, passes=passes):
            out.row(
                {"bench": "durable", "part": "return", **asdict(back), "per_pass": back.per_pass},
                [
                    back.rows,
                    back.how,
                    f"{back.seconds:.2f} s",
                    back.replayed,
                    back.tokens,
                    f"{1e3 * back.per_pass:.0f} ms" if back.replayed else "",
                    "yes" if back.same else "NO",
                    f"{back.engine:.2f} s",
                ],
            )
    out.end()


def _language(model: str | None, threads: int, pieces: bool) -> tuple[Any, Any, int]:
    """Settings, codec and vocabulary: of a model, or of none."""
    from haloweave.bench.archive import Quarters
    from haloweave.settings import settings

    if pieces:
        codec = Quarters()
        return settings(threads=threads or None), codec, codec.vocabulary
    from haloweave import build

    s, loaded = load(model, threads)
    mind = build.mind_of(s, loaded)
    return s, mind.codec, mind.engine.capabilities.vocabulary


def _encoder(name: str) -> Any:
    from haloweave import embedding
    from haloweave.models import resolve_encoder

    return embedding.load(resolve_encoder(name))
