# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench edits`: a repairing denoiser's decisions and its speed. Arguments to a benchmark, a benchmark
to tables and JSON lines; measures nothing itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haloweave.bench.report import Json, Report, Threads, bar
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.bench.edits import Edits
    from haloweave.bench.windows import Pace


def register(app: typer.Typer) -> None:
    """Add the benchmark to `app`."""
    app.command()(edits)


def edits(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder that `halo train --corruption scars` wrote.")
    ],
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="FILE", help="Texts it never saw; two or more.")
    ] = None,
    rows: Annotated[int, typer.Option(min=8, help="Rows of text; half of them calibrate.")] = 256,
    windows: Annotated[int, typer.Option(min=1, help="Windows that are timed, of each kind.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write temperature and margin into the folder, for repair to use.")
    ] = False,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """What a denoiser decides about worn text, beside the same trunk asked by masks; and a window's time.

    Calibrated on the first half of the rows, reported on the second; give a text for each half or more.
    """
    import torch

    from haloweave import denoising
    from haloweave.bench import windows as timed
    from haloweave.bench.edits import Bench
    from haloweave.bench.windows import rows_of

    if threads:
        torch.set_num_threads(threads)
    if not data:
        raise InvalidInput("expected texts that the denoiser has not seen; give --data FILE")
    with bar("edits", 3) as tell:
        loaded = denoising.load(model)
        text = rows_of(data, loaded.tokenizer, loaded.denoiser.config.max_len, rows)
        tell(1)
        found = Bench.of(loaded).measure(text, seed)
        tell(2)
        if keep:
            denoising.calibrate(model, denoising.Calibration(found.temperature, found.margin))
        paces = timed.measure(loaded, text, windows)
        tell(3)
    _tell(model.name, found, paces, as_json)


def _tell(name: str, found: Edits, paces: list[Pace], as_json: bool) -> None:
    out = Report(as_json, f"Decisions of {name}", ["what", "value"])
    told: dict[str, Any] = {k: v for k, v in asdict(found).items() if not k.endswith("_ece")}
    told |= {"decision_ece": found.decision_ece.error, "token_ece": found.token_ece and found.token_ece.error}
    if as_json:
        out.row({"bench": "edits", "model": name, **told}, [])
    for label, value in _lines(found):
        if not as_json:
            out.row({}, [label, value])
    for pace in paces:
        cells = f"{pace.p50:.1f} ms p50, {pace.p99:.1f} ms p99 ({pace.asked:.0f} asked, {pace.dtype})"
        out.row({"bench": "edits", "part": "speed", **asdict(pace)}, [f"a window, {pace.name}", cells])
    out.end()


def _lines(found: Edits) -> list[tuple[str, str]]:
    each = ", ".join(f"{name} {value:.1%}" for name, value in found.f1.items() if name != "macro")
    low, high = found.gain.low, found.gain.high
    return [
        ("macro F1", f"{found.f1['macro']:.1%} ({each})"),
        (f"masked from heat {found.cutoff:g} on", f"{found.f1_hard:.1%}"),
        ("points above", f"{100 * found.gain.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"),
        ("with the margin", f"{found.f1_margin:.1%} at {found.margin:g} nats"),
        ("changes that were due", f"{found.precision:.1%}; of all that were due {found.recall:.1%}"),
        ("clean tokens changed", f"{found.clean:.2%} of {found.clean_tokens:,}"),
        ("the very token", f"{found.hits:.1%} of substitutes"),
        ("calibration of decisions", f"ECE {found.decision_ece.error:.3f} at {found.temperature:.2f}"),
        ("calibration of tokens", f"ECE {found.token_ece.error:.3f}" if found.token_ece else "none was put"),
        ("places", f"{found.places:,}"),
    ]
