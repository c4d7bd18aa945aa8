# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench compare`: arguments to a comparison, a comparison to tables, texts and records.

Knows options. Must not know how anything is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from haloweave.bench.report import Json, Model, Threads, bar, streams
from haloweave.bench.stats import facts
from haloweave.settings import Settings, settings

if TYPE_CHECKING:
    from haloweave.bench.compact.records import Judging
    from haloweave.bench.compact.run import Arm, Contest, Plan
    from haloweave.bench.compact.told import Told

_SETS = (
    *("device", "dtype", "slack", "chunk", "kills_per_round", "sinks", "tail", "lock", "half_life", "smooth"),
    *("rejoin", "run_bias", "entropy_bias", "age_bias", "top_k", "top_p", "min_p", "repetition_penalty"),
)
"""Settings that matter here, and have no option of their own."""

_EXPLAINED = (
    "KL(full || compact), nats a token: what it costs to expect the compact side's next token where full "
    "context's comes; 0: nothing was lost. top 1: both think the same token likeliest.",
    "Own text: along what the compact side said, heard by both; full's text: along what full context said.",
    "Tokens until apart: one other draw is enough, and likely soon; it says more at --temperature 0.",
    "judge: how unlikely a text is. What repeats itself is likely too: read it with the lines above it.",
)

_err = Console(stderr=True, highlight=False, emoji=False, markup=False)


def register(app: typer.Typer) -> None:
    """Add the benchmark to `app`."""
    app.command()(compare)


def compare(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Texts, each read on its own; folders; - for stdin."),
    ],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each text, from its beginning.")] = 1536,
    say: Annotated[int, typer.Option(min=1, help="Tokens that each side says.")] = 64,
    budget: Annotated[
        list[int], typer.Option(min=1, help="Rows the compact side holds; may be given several times.")
    ] = [512],  # noqa: B006
    policy: Annotated[
        list[str], typer.Option(metavar="NAME", help="What makes a token bright; may be given several times.")
    ] = ["halo"],  # noqa: B006
    seed: Annotated[int, typer.Option(help="The same for both sides.")] = 0,
    runs: Annotated[int, typer.Option(min=1, help="Seeds, from --seed on; intervals need three.")] = 5,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="How freely tokens are chosen; 0 takes the best. (0.7; HALO_TEMPERATURE)"),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Who judges the texts. (the model itself, with full context)"),
    ] = None,
    block: Annotated[int, typer.Option(min=1, help="Tokens of one line of the first table.")] = 16,
    show: Annotated[int, typer.Option(min=0, help="Characters shown of each text; 0: none.")] = 400,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help=f"Another setting: {', '.join(_SETS)}."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the records there, as JSON lines.")
    ] = None,
    model: Model = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """A mind of fixed size beside one that holds everything: both read a text and go on with it.

    Same model, same text, same random number at every step: what differs is what the compact side has
    forgotten. Shows how soon it says something else, how far its expectations drift (KL divergence), and
    whether its text is any worse. With one text, intervals are over seeds; with several, over texts.
    """
    from haloweave import build
    from haloweave.bench.compact.run import Contest, Plan
    from haloweave.bench.compact.sources import texts
    from haloweave.bench.compact.told import Told

    s = _settings(sets, model=model, threads=threads or None, temperature=temperature, seed=seed, system="")
    if s.temperature == 0 and runs > 1:
        _err.print("temperature 0: every seed would say the same, so there is one run", style="dim")
        runs = 1
    plan = Plan(_arms(policy, budget), say, tuple(range(seed, seed + runs)))
    read = texts(files, 64 * tokens)
    _err.print(f"loading {s.model} ...", style="dim")
    contest = Contest(build.load_model(s), s, build.sampling(s), plan)
    ids = {name: contest.encoded(text, tokens) for name, text in read.items()}
    judging = _judging(judge, s, contest, ids, say)
    with ExitStack() as stack:  # an old file of records is replaced only once nothing speaks against it
        lines = streams(stack, out, as_json)
        told = Told(lines)
        told.begin(_facts(s, plan, ids, judge))
        with bar("comparing", sum(plan.passes(len(i), s.chunk) for i in ids.values())) as contest.tell:
            whole = told.follow(contest.run(ids), judging)
    if not as_json:
        _show(told, plan, contest, ids, block, show)
    if not whole:
        of = len(ids) * len(plan.seeds) * len(plan.arms)
        _err.print(f"interrupted: {len(told.found)} of {of} runs are whole, and told of; the rest is not")
        raise typer.Exit(130)


def _settings(sets: Sequence[str] | None, **given: Any) -> Settings:
    """Options win over `--set`. Raises BadInput for a name that is not known, InvalidInput for a value."""
    from haloweave.diffusion.training import config_file

    known = {name: Settings.model_fields[name].annotation for name in _SETS}
    return settings(**config_file.merged(given, config_file.assigned(sets or ()), known, "--set"))


def _arms(policies: Sequence[str], budgets: Sequence[int]) -> tuple[Arm, ...]:
    """Every policy at every budget. Raises InvalidInput for a name that is not known."""
    from haloweave.bench.compact.run import Arm

    names = [settings(policy=name.strip()).policy for given in policies for name in given.split(",")]
    return tuple(dict.fromkeys(Arm(name, rows) for rows in budgets for name in names))


def _judging(
    name: str | None, s: Settings, contest: Contest, ids: Mapping[str, Sequence[int]], say: int
) -> Judging:
    from haloweave import build
    from haloweave.bench.compact.judge import Judge
    from haloweave.bench.compact.records import by_host
    from haloweave.bench.compact.told import by_judge

    if name is None:
        return by_host
    _err.print(f"loading {name} ...", style="dim")
    judge = Judge(name, build.load_model(s.model_copy(update={"model": name})))
    return by_judge(judge, {document: contest.heard(i) for document, i in ids.items()}, say, _err.print)


def _facts(s: Settings, plan: Plan, ids: Mapping[str, Sequence[int]], judge: str | None) -> dict[str, Any]:
    from haloweave.bench.provenance import provenance

    seeds = {"first": plan.seeds[0], "last": plan.seeds[-1]}
    tokens = {document: len(i) for document, i in ids.items()}
    told = s.model_dump(include={"model", "temperature", *_SETS})
    return provenance(seeds, say=plan.say, tokens=tokens, judge=judge or "full context", settings=told)


def _show(
    told: Told, plan: Plan, contest: Contest, ids: Mapping[str, Sequence[int]], block: int, show: int
) -> None:
    """Tables of every arm, what was said with the first seed, and how to read it."""
    from haloweave.bench.compact.tables import side_by_side, tables

    console = Console(highlight=False, emoji=False, markup=False)
    for arm in dict.fromkeys(outcome.arm for outcome in told.found):
        for table in tables(told.records, arm, block):
            console.print(table)
        if not any(o.culled for o in told.found if o.arm == arm):
            console.print(f"{arm.rows:,} rows hold it all, so nothing was culled; lower --budget\n")
    for document in ids if show else ():
        if first := [o for o in told.found if (o.document, o.seed) == (document, plan.seeds[0])]:
            console.print(side_by_side(first, contest.heard(ids[document]), show))
    if told.found:
        read = ", ".join(f"{len(i):,} tokens of {document}" for document, i in ids.items())
        seeds = " to ".join(dict.fromkeys((str(plan.seeds[0]), str(plan.seeds[-1]))))
        console.print("\n".join(_EXPLAINED), style="dim")
        console.print(f"read: {read}; {plan.say:,} said; seed {seeds}", style="dim")
        console.print("  ".join(f"{name} {value}" for name, value in facts().items()), style="dim")
