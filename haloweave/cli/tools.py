# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What every command is handed: where to write, and how to get a mind.

Knows the two consoles and one function. Tests pass a `Tools` of their own; nothing is patched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer
from rich.console import Console

if TYPE_CHECKING:
    from haloweave.mind import Mind
    from haloweave.models import Progress
    from haloweave.settings import Settings

MakeMind = Callable[["Settings", "Progress"], "Mind"]


def _real_mind(s: Settings, progress: Progress) -> Mind:
    from haloweave.build import build  # torch comes with it

    return build(s, progress=progress)


def _out() -> Console:
    return Console(highlight=False, emoji=False, markup=False)


def _err() -> Console:
    return Console(stderr=True, highlight=False, emoji=False, markup=False)


@dataclass(frozen=True)
class Tools:
    """A command's surroundings. Results go to `out`, messages and progress to `err`."""

    mind: MakeMind = _real_mind
    out: Console = field(default_factory=_out)
    err: Console = field(default_factory=_err)

    def fail(self, message: str) -> None:
        """One red line."""
        self.err.print(message, style="bold red", soft_wrap=True)

    def say(self, message: str) -> None:
        """A message for the person, beside the results."""
        self.err.print(message, style="dim", soft_wrap=True)


def tools_of(context: typer.Context) -> Tools:
    """The tools this run was started with."""
    found = context.find_object(Tools)
    return found if found is not None else Tools()
