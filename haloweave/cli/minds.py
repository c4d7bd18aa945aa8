# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo minds`: which minds are kept, what is in them, and copies, forks and ends of them. None is woken."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haloweave.cli.options import Json, settings_of
from haloweave.cli.tools import Tools, safe, tools_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from haloweave.asleep import Details, Owner, Summary
    from haloweave.journal.transcript import Line
    from haloweave.minds import Minds

MEGA = 1_000_000

app = typer.Typer(
    name="minds", no_args_is_help=True, help="List, show, copy, fork and delete the minds that are kept."
)

Folder = Annotated[
    str | None,
    typer.Option(
        "--minds",
        metavar="FOLDER",
        help="Folder of the minds. (the user's data folder; HALO_MINDS)",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `halo minds list`.")]


def minds_of(folder: str | None) -> Minds:
    """The minds in this folder, or in the one that the settings name."""
    from haloweave.waking import minds

    return minds(settings_of(minds=folder))


@app.command("list")
def list_minds(context: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """List the minds that are kept here.

    A mind that cannot be read is listed too, and says why.
    """
    from haloweave import asleep
    from haloweave.cli.report import emit

    tools, minds = tools_of(context), minds_of(folder)
    found = [asleep.summary(minds.place(name)) for name in minds.names()]
    if as_json:
        for mind in found:
            emit(tools, _plain(mind))
    elif found:
        tools.out.print(_table(found))
        _explain(tools, found)
        tools.say(f"Kept in {minds.folder}")
    else:
        tools.tell(f"No mind is kept in {minds.folder} yet. Make one with: halo chat --mind NAME")


@app.command()
def show(
    context: typer.Context,
    name: Name,
    transcript: Annotated[
        bool, typer.Option("--transcript", help="All that was ever said, line by line, and nothing else.")
    ] = False,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Show what is known of a mind, without waking it.

    Its figures, snapshots (of the KV cache), backups and archive (what was culled), and the last lines that
    were said. Redacted text is gone from all of these.
    """
    from haloweave import asleep
    from haloweave.cli.report import emit

    tools = tools_of(context)
    place = minds_of(folder).whole(name)
    with asleep.reading(place) as log:
        if transcript and as_json:
            for line in log.transcript():
                emit(tools, {**asdict(line), "source": line.source.name})
            return
        if transcript:
            _say(tools, asleep.spoken(log.transcript()))
            return
        mind, more, said = asleep.summary(place), asleep.details(place), asleep.recent(log)
    if as_json:
        emit(tools, {**_plain(mind), **_plain_details(more)})
        return
    tools.out.print(_figures(mind, more))
    if said:
        tools.out.print()
        _say(tools, said)


@app.command()
def export(
    context: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
    folder: Folder = None,
) -> None:
    """Copy a mind's journal and archive to one file, to be carried elsewhere.

    The mind may be in use meanwhile. Snapshots stay behind: where the file is imported, the mind's context is
    read again. What is redacted later is not redacted in the file.
    """
    tools = tools_of(context)
    minds_of(folder).export(name, file.expanduser(), force=force)
    tools.tell(
        f"{name} is in {file}. What is redacted from now on stays in that file: "
        "delete it when it is done with."
    )


@app.command("import")
def bring_in(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported mind, or a backup.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the mind is to be called here.")],
    folder: Folder = None,
) -> None:
    """Make a mind of an exported file or a backup.

    The file is checked from end to end first, and stays as it is.
    """
    tools = tools_of(context)
    minds_of(folder).bring_in(file.expanduser(), name)
    tools.tell(f"{name} is here. Wake it with: halo chat --mind {name}")


@app.command()
def fork(
    context: typer.Context,
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="What the second mind is to be called.")],
    at: Annotated[
        int | None,
        typer.Option("--at", metavar="TICK", help="The last tick that the two share (the newest)."),
    ] = None,
    folder: Folder = None,
) -> None:
    """Make a second mind with the past of a mind, all of it or up to a tick.

    From there on each goes its own way: what is redacted in one stays in the other. The first may be in use
    meanwhile.
    """
    tools = tools_of(context)
    minds_of(folder).fork(name, new, tick=at)
    upto = "" if at is None else f" up to tick {at}"
    tools.tell(f"{new} has the past of {name}{upto}. What is redacted in one from now on stays in the other.")


@app.command()
def delete(
    context: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    folder: Folder = None,
) -> None:
    """Delete a mind with its snapshots and backups, for good.

    Asks first. Where nobody can be asked it needs --yes.
    """
    tools, minds = tools_of(context), minds_of(folder)
    minds.find(name)
    if not (yes or _agreed(tools, name)):
        tools.tell("Nothing was deleted.")
        raise typer.Exit(1)
    minds.delete(name)
    tools.tell(f"{name} is deleted.")


@app.command()
def backup(context: typer.Context, name: Name, folder: Folder = None) -> None:
    """Copy a mind's journal and archive into its own folder.

    The mind may be in use meanwhile. A later redaction reaches this copy, unlike an exported one. To go back
    to it: halo minds import.
    """
    tools = tools_of(context)
    tools.tell(f"backed up: {minds_of(folder).backup(name)}")


def _agreed(tools: Tools, name: str) -> bool:
    """Whether the person says yes. Raises InvalidInput where there is nobody to ask."""
    from haloweave.errors import InvalidInput

    if not (sys.stdin.isatty() and tools.err.is_terminal):
        raise InvalidInput(f"to delete {name} for good where nobody can be asked, give --yes")
    tools.err.print(f"Delete {name}, its snapshots and its backups, for good? [y/N] ", end="", style="bold")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# ---- how it is told --------------------------------------------------------------------------------------


def _table(found: list[Summary]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "model", "rows", "ticks", "size", "made", "state"):
        numbers = heading in ("rows", "ticks", "size")
        table.add_column(heading, no_wrap=heading != "model", justify="right" if numbers else "left")
    for mind in found:
        known = ("?", "?") if mind.fault else (f"{mind.rows:,}/{mind.budget:,}", f"{mind.tick:,}")
        cells = (mind.name, mind.model or "?", *known, _mega(mind.size), mind.created[:10] or "?")
        state = Text("unreadable", "bold red") if mind.fault else Text("in use" if mind.owner else "asleep")
        table.add_row(*(Text(safe(c)) for c in cells), state)
    return table


def _explain(tools: Tools, found: list[Summary]) -> None:
    """Who uses what, and what is wrong with what cannot be read."""
    from rich.text import Text

    for mind in found:
        if mind.fault or mind.owner:
            style = "bold red" if mind.fault else ""
            line = Text(safe(f"{mind.name}: {_state(mind)}"), style)
            tools.out.print(line, soft_wrap=not tools.out.is_terminal)


def _figures(mind: Summary, more: Details) -> Table:
    from rich.table import Table
    from rich.text import Text

    from haloweave.cli.show import meter

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1)
    t = more.totals
    said = f"{t.fed:,} tokens, {t.spoken:,} of them its own; {t.culled:,} culled; {t.edits:,} edits"
    lines: dict[str, str | Text] = {
        "mind": safe(mind.name),
        "model": safe(mind.model or "?"),
        "made": safe(mind.created or "?"),
        "held": meter(mind.rows, mind.budget) if mind.budget else Text(f"{mind.rows} rows"),
        "lived": f"{mind.tick:,} ticks: {said}",
        "archive": ", ".join(f"{n:,} {what}" for what, n in more.archive.items()) or "nothing yet",
        "snapshots": ", ".join(f"tick {s.tick:,} ({_mega(s.size)})" for s in more.snapshots) or "none",
        "backups": ", ".join(safe(p.name) for p in more.backups) or "none",
        "state": safe(_state(mind)),
        "kept in": safe(f"{mind.folder} ({_mega(mind.size)})"),
    }
    if more.unfinished:
        lines["redaction"] = f"{more.unfinished} tokens are not gone from disk yet: waking it finishes that"
    for heading, value in lines.items():
        table.add_row(heading, value)
    return table


def _state(mind: Summary) -> str:
    if mind.fault:
        return mind.fault
    return _used(mind.owner) if mind.owner else "asleep"


def _used(owner: Owner) -> str:
    return f"in use by process {owner.pid} on {owner.host} since {owner.since}"


def _mega(size: int) -> str:
    return f"{size / MEGA:,.1f} MB"


def _plain(mind: Summary) -> dict[str, Any]:
    told = asdict(mind)
    return {**told, "folder": str(mind.folder)}


def _plain_details(more: Details) -> dict[str, Any]:
    return {
        "totals": asdict(more.totals),
        "open_turn": more.turn.role or None,
        "snapshots": [{"seq": s.seq, "tick": s.tick, "rows": s.rows, "size": s.size} for s in more.snapshots],
        "backups": [str(p) for p in more.backups],
        "archive": dict(more.archive),
        "unfinished_redactions": more.unfinished,
    }


def _say(tools: Tools, lines: Iterable[Line]) -> None:
    """What was said, as it is read from disk, and by whom."""
    from rich.text import Text

    for line in lines:
        told = Text(f"{line.source.name.lower()}: ", "bold").append(safe(line.text.rstrip("\r")), "not bold")
        tools.out.print(told, soft_wrap=not tools.out.is_terminal)
