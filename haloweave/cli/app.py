# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The table of commands, and what becomes of errors.

Knows every command by name. Must not know what they do. Imports stay light: a command loads torch when it
runs, not when somebody asks for help.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from haloweave import __version__
from haloweave.cli import (
    bench,
    chat,
    compare,
    corpus,
    demo,
    doctor,
    evaluate_denoiser,
    inspect,
    minds,
    models,
    pack,
    repair,
    sample,
    stream,
    testkv,
    train,
    train_denoiser,
)
from haloweave.cli.tools import Tools
from haloweave.diffusion.errors import DiffusionError
from haloweave.errors import HaloError

app = typer.Typer(
    name="halo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"halo {__version__}")
        raise typer.Exit


@app.callback()
def halo(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A local language model whose context is a living memory of fixed size.

    Every token in the context has a brightness: attention feeds it, time dims it. The dimmest are culled,
    what matters stays, and you can look, pin, boost and redact. Start with: halo demo
    """


app.command()(chat.chat)
app.command()(stream.stream)
app.command()(demo.demo)
app.command()(inspect.inspect)
app.command()(repair.repair)
app.command("test-kv")(testkv.exactness)
app.add_typer(bench.app)
app.add_typer(models.app)
app.add_typer(minds.app)
app.command()(corpus.corpus)
app.command("train-mlm")(train.train_mlm)
app.command("train")(train_denoiser.train_denoiser)
app.command()(sample.sample)
app.command("eval")(evaluate_denoiser.evaluate)
app.command()(compare.compare)
app.command()(pack.pack)
app.command()(doctor.doctor)


def run(arguments: Sequence[str], tools: Tools | None = None) -> int:
    """Carry out one command line; the exit code. Errors of ours become one line, others a traceback."""
    _lenient()
    tools = tools or Tools()
    try:
        if "bench" in arguments:
            bench.load()
        app(args=list(arguments), obj=tools, prog_name="halo")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except (HaloError, DiffusionError) as err:
        tools.fail(str(err))
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _unheard()
    return 0


def _lenient() -> None:
    """A character that the terminal cannot show, or a byte that is no text, is no reason to stop."""
    for stream_ in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream_, "reconfigure", None)
        if reconfigure is not None:
            with suppress(ValueError, OSError):
                reconfigure(errors="replace")


def _unheard() -> int:
    """Whoever was reading our output has gone: be quiet about it, at exit too."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
