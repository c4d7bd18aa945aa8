# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What every command is handed: where to write, and how to get a mind and its mender.

Knows the two consoles and two functions. Tests pass a `Tools` of their own; nothing is patched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer
from rich.console import Console

if TYPE_CHECKING:
    from haloweave.mending import Mender
    from haloweave.mind import Mind
    from haloweave.progress import Progress
    from haloweave.settings import Settings
    from haloweave.waking import Make

_SAFE = {c: 0x2400 + c for c in range(32) if c not in (9, 10)} | {127: 0x2421}
_SAFE |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)

MakeMind = Callable[["Settings", "Progress"], "Mind"]
MakeMender = Callable[["Settings", "Mind", "Progress"], "Mender | None"]


def safe(text: str) -> str:
    """The text with control characters made visible: nothing that is read may steer the terminal."""
    return text.replace("\r\n", "\n").translate(_SAFE)


def _real_mind(s: Settings, progress: Progress) -> Mind:
    from haloweave.build import build  # torch comes with it

    return build(s, progress=progress)


def _real_mender(s: Settings, mind: Mind, progress: Progress) -> Mender | None:
    if s.repair == "off":
        return None
    from haloweave.build import mender

    return mender(s, mind, progress)


def _out() -> Console:
    return Console(highlight=False, emoji=False, markup=False)


def _err() -> Console:
    return Console(stderr=True, highlight=False, emoji=False, markup=False)


@dataclass(frozen=True)
class Tools:
    """A command's surroundings. Results go to `out`, messages and progress to `err`."""

    mind: MakeMind = _real_mind
    mender: MakeMender = _real_mender
    make: Make | None = None
    """How a kept mind is made; None: as the settings say."""
    out: Console = field(default_factory=_out)
    err: Console = field(default_factory=_err)

    def tell(self, message: str) -> None:
        """A result in words: wrapped on a terminal, one line elsewhere."""
        self.out.print(safe(message), soft_wrap=not self.out.is_terminal)

    def fail(self, message: str) -> None:
        """An error: one red line."""
        line = safe(" ".join(message.splitlines()))
        self.err.print(line, style="bold red", soft_wrap=not self.err.is_terminal)

    def say(self, message: str) -> None:
        """A message for the person, beside the results."""
        self.err.print(safe(message), style="dim", soft_wrap=not self.err.is_terminal)


def tools_of(context: typer.Context) -> Tools:
    """The tools this run was started with."""
    found = context.find_object(Tools)
    return found if found is not None else Tools()
