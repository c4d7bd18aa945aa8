# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench`: the measurements, an empty shelf that `haloweave.bench` and `bench_denoisers` fill.

The hook: if the module `haloweave.bench.commands` exists, its `register(app)` is called with this Typer
app when `bench` is on the command line, and adds its commands. It must import light, and load torch
only when a command runs.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import typer

HOOK = "haloweave.bench.commands"
BESIDE = "haloweave.cli.bench_denoisers"

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    help="Measure speed, surgery and quality against baselines.",
)


def load() -> None:
    """Let `haloweave.bench` add its commands, once; then those that share what `halo eval` has."""
    if find_spec(HOOK) is not None and not app.registered_commands:
        import_module(HOOK).register(app)
        import_module(BESIDE).register(app)
