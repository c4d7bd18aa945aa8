# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Everything around one run of `halo`: two screens that can be read afterwards.

Knows consoles and the table of commands. Must not know what a test hands to `Tools` beside them.
"""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from haloweave.cli.app import run
from haloweave.cli.tools import Tools


class Screens:
    """Runs commands with `tools`, and keeps what they print."""

    def __init__(
        self,
        *,
        out: io.StringIO | None = None,
        err: io.StringIO | None = None,
        width: int = 80,
        live: bool = False,
        **tools: Any,
    ) -> None:
        self.stdout, self.stderr = out or io.StringIO(), err or io.StringIO()
        plain: dict[str, Any] = {"highlight": False, "emoji": False, "markup": False, "width": width}
        if live:
            plain |= {"force_terminal": True, "color_system": "truecolor"}
        screens = {"out": Console(file=self.stdout, **plain), "err": Console(file=self.stderr, **plain)}
        self._tools = Tools(**screens, **tools)

    def halo(self, *arguments: object) -> int:
        """The exit code of one command."""
        return run([str(a) for a in arguments], self._tools)

    @property
    def out(self) -> str:
        return self.stdout.getvalue()

    @property
    def err(self) -> str:
        return self.stderr.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was printed, one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]
