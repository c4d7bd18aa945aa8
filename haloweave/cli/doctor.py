# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo doctor`: is everything here that a mind needs, and does surgery work on this machine?"""

from __future__ import annotations

import typer

from haloweave.cli.options import Json
from haloweave.cli.tools import tools_of

_STYLES = {"ok": "bold green", "warn": "bold yellow", "fail": "bold red"}


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """See whether everything is here that a mind needs.

    Looks at Python, torch, memory, disk and models, and tries one tiny surgery. Downloads nothing.

    Each line is ok, warn (it will work, but read why) or fail. Exit code 1 if a line says fail.
    """
    from dataclasses import asdict

    from rich.text import Text

    from haloweave.cli.checks import checks
    from haloweave.cli.report import emit

    tools = tools_of(context)
    failed = False
    for check in checks():
        failed |= check.verdict == "fail"
        if as_json:
            emit(tools, asdict(check))
            continue
        verdict = (f"{check.verdict:<5}", _STYLES[check.verdict])
        tools.out.print(
            Text.assemble(verdict, f"{check.name:<14}{check.says}"), soft_wrap=not tools.out.is_terminal
        )
    if failed:
        raise typer.Exit(1)
