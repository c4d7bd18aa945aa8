# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo models`: which weights can be had by name, and fetching and checking them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haloweave.cli.options import Json
from haloweave.cli.tools import tools_of

if TYPE_CHECKING:
    from haloweave.models import ModelSpec

MEGA = 1_000_000

app = typer.Typer(
    name="models", no_args_is_help=True, help="List, fetch and verify the models known by name."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `halo models list`.")]


@app.command("list")
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """List the known models, and which of them are on this machine.

    Any folder with safetensors and a tokenizer, any .gguf file and any hub id works as --model too.
    """
    from rich.table import Table

    from haloweave import models
    from haloweave.cli.report import emit

    tools = tools_of(context)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "state", "size", "licence", "what it is"):
        table.add_column(heading, no_wrap=heading in ("name", "size"))
    for spec in models.known():
        found = models.status(spec)
        here = found.state == "ready"
        size = found.size_on_disk if here else sum(wheel.size for wheel in spec.wheels)
        if as_json:
            line = {"name": spec.name, "state": found.state, "path": str(found.path), "bytes": size}
            emit(tools, {**line, "licence": spec.licence, "description": spec.description})
        name = spec.name + (" *" if spec.name == models.DEFAULT else "")
        where = "" if here else " to fetch"
        table.add_row(name, found.state, f"{size / MEGA:,.0f} MB{where}", spec.licence, spec.description)
    if not as_json:
        tools.out.print(table)
        tools.say(f"* is the default. Kept in {models.cache_directory()}")


@app.command()
def pull(
    context: typer.Context,
    name: Name,
    again: Annotated[bool, typer.Option("--again", help="Fetch it even if it is there already.")] = False,
) -> None:
    """Fetch a model and convert it once, so that later starts take a second or two."""
    from haloweave import models
    from haloweave.cli.waiting import reporting

    tools = tools_of(context)
    spec = _known(name)
    with reporting(tools, f"fetching {spec.name}") as report:
        path = models.pull(spec, progress=report, again=again)
    tools.tell(f"{spec.name} is ready: {path}")


@app.command()
def verify(context: typer.Context, name: Name) -> None:
    """Hash every file of a model against what was written when it was converted."""
    from haloweave import models
    from haloweave.cli.waiting import reporting
    from haloweave.errors import ModelNotFound

    tools = tools_of(context)
    path = _path_of(name)
    if not path.is_dir():
        raise ModelNotFound(f"{name} is not on this machine; fetch it with: halo models pull {name}")
    with reporting(tools, f"hashing {name}") as report:
        models.verify(path, report)
    tools.tell(f"{name} is whole: every file in {path} has its hash")


def _known(name: str) -> ModelSpec:
    from haloweave import models
    from haloweave.errors import ModelNotFound

    spec = models.find(name)
    if spec is None:
        names = ", ".join(s.name for s in models.known())
        raise ModelNotFound(f"no model is known as {name!r}; expected one of: {names}")
    return spec


def _path_of(name: str) -> Path:
    """The folder of a known model, or a folder of converted files that the person names."""
    from haloweave import models

    path = Path(name).expanduser()
    return path if path.is_dir() else models.status(_known(name)).path
