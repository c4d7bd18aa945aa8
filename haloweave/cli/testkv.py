# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo test-kv`: is surgery on the KV cache exact on this model? Measured, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haloweave.cli import options
from haloweave.cli.options import settings_of
from haloweave.cli.tools import Tools, tools_of

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from haloweave.engine.contract import Difference, Verdict
    from haloweave.settings import Settings

BOUND = 1e-4
_ROWS = 40
_CAPACITY = 256
_EDITS = 3
"""Edits in a sequence: 2 to 4."""


class Precision(StrEnum):
    """What surgery can be examined in: in less, rounding is larger than the bound."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


def exactness(
    context: typer.Context,
    model: options.Model = None,
    sequences: Annotated[
        int, typer.Option("--sequences", "-n", min=1, help="Random sequences of edits to try.")
    ] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Other seeds try other edits.")] = 0,
    threads: options.Threads = None,
    dtype: Annotated[
        Precision, typer.Option("--dtype", help="float32 or float64: what the model computes in.")
    ] = Precision.FLOAT32,
    as_json: options.Json = False,
) -> None:
    """Check surgery on the KV cache against a slow reference.

    Edits the cache of a model at random, while it holds passages of English, and compares it with an obvious
    and slow way to do the same.
    Surgery is how an edit reaches the cache: DROP lets rows leave, PATCH also computes the new ones,
    RECOMPUTE does everything from the first change on again, RESTORE brings rows back that left.
    Logits, and keys and values of every layer, must agree to 1e-4 with float64. On a few contexts float32 is
    further off whoever computes; "rounding" says that the stock model was at least half as far off there, and
    float64 shows then whether the surgery is exact. Takes four times the memory of the weights in float32.
    Exit code 1 if one is wrong.
    """
    tools = tools_of(context)
    s = settings_of(model=model, threads=threads, device="cpu", dtype=dtype)
    verdicts, notes = examine(tools, s, sequences, seed)
    if as_json:
        _as_json(tools, verdicts)
    else:
        tools.out.print(table(s.model, verdicts, notes))
    if not all(v.ok(BOUND) for v in verdicts):
        raise typer.Exit(1)


def examine(tools: Tools, s: Settings, sequences: int, seed: int) -> tuple[list[Verdict], Sequence[str]]:
    """Load the model, and run the contract under a bar."""
    from haloweave.build import load_model
    from haloweave.cli.waiting import bars, reporting
    from haloweave.engine.contract import examining, verdicts
    from haloweave.engine.hf.engine import HFEngine

    with reporting(tools, f"loading {s.model}") as report:
        loaded = load_model(s, report)
    engine = HFEngine(loaded.model, capacity=min(_CAPACITY, loaded.max_positions))
    seen: list[Difference] = []
    words = passages(loaded.tokenizer)
    seen_in = examining(engine, loaded.model, sequences=sequences, seed=seed, rows=_ROWS, text=words)
    with bars(tools) as shown:
        task = shown.add_task("edits", total=sequences * _EDITS)
        for difference in seen_in:
            seen.append(difference)
            shown.advance(task)
    return list(verdicts(engine, seen)), engine.capabilities.notes


def passages(tokenizer: Any) -> list[int]:
    """English to cut contexts from: always the same, so that a seed tries the same edits everywhere."""
    from haloweave.engine.english import ENGLISH

    ids: list[int] = tokenizer(ENGLISH, add_special_tokens=False)["input_ids"]
    return ids


def table(name: str, verdicts: Sequence[Verdict], notes: Sequence[str]) -> Table:
    """The verdicts as a person reads them."""
    from rich.table import Table

    made = Table(
        title=f"Surgery on {name}, against the slow reference", title_justify="left", title_style="bold"
    )
    for heading in ("surgery", "edits", "|Δ logit|", "stock", "keys", "values", "verdict"):
        made.add_column(heading, justify="left" if heading in ("surgery", "verdict") else "right")
    for v in verdicts:
        if not v.edits:
            why = "not checked" if v.supported else "not possible"
            made.add_row(v.surgery.name, "-", "-", "-", "-", "-", why)
            continue
        rounded = f"{v.stock:.1e}" if v.stock else "-"  # in float64 it is the reference itself
        numbers = f"{v.logits:.1e}", rounded, f"{v.keys:.1e}", f"{v.values:.1e}"
        made.add_row(v.surgery.name, str(v.edits), *numbers, _verdict(v))
    scale = f"bound {BOUND:.0e}; keys and values relative to each layer's largest"
    stock = "stock: the same edit's logits by the slow way in the same dtype"
    made.caption = "\n".join([scale, stock, *notes])
    made.caption_justify = "left"
    return made


def _verdict(v: Verdict) -> Text:
    from rich.text import Text

    if v.within(BOUND):
        return Text("exact", "bold green")
    return Text("rounding", "bold yellow") if v.ok(BOUND) else Text("WRONG", "bold red")


def _as_json(tools: Tools, verdicts: Sequence[Verdict]) -> None:
    from haloweave.cli.report import emit

    for v in verdicts:
        line: dict[str, Any] = {
            "surgery": v.surgery.value,
            "supported": v.supported,
            "edits": v.edits,
            "logits": v.logits,
        }
        line |= {
            "stock": v.stock,
            "unexplained": v.unexplained,
            "keys": v.keys,
            "values": v.values,
            "bound": BOUND,
        }
        emit(tools, {**line, "within": v.within(BOUND), "ok": v.ok(BOUND)})
