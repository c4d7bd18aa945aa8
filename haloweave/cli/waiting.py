# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Progress for whatever takes long before a mind is there: downloads, conversions, loading.

Knows the `Progress` callback of `haloweave.models`. Bars go to stderr; where that is no terminal, each step
becomes one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from haloweave.cli.tools import Tools

if TYPE_CHECKING:
    from haloweave.cli.session import Session
    from haloweave.progress import Progress as Report
    from haloweave.settings import Settings


@contextmanager
def reporting(tools: Tools, first: str) -> Iterator[Report]:
    """A `Progress` that shows on stderr how far a long step has come; `first` is shown until it is told."""
    if not tools.err.is_terminal:
        yield _Lines(tools)
        return
    with bars(tools) as shown:
        yield _Bars(tools, shown, first)


def bars(tools: Tools) -> Progress:
    """Bars on stderr that vanish when they are done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
    )
    return Progress(*columns, console=tools.err, transient=True)


class _Lines:
    """One line a step."""

    def __init__(self, tools: Tools) -> None:
        self._tools, self._last = tools, ""

    def __call__(self, description: str, done: int, total: int | None) -> None:
        if description != self._last:
            self._last = description
            self._tools.say(description)


class _Bars:
    """One bar a step; what has no length is a message, and stays."""

    def __init__(self, tools: Tools, shown: Progress, first: str) -> None:
        self._tools, self._shown, self._last = tools, shown, first
        self._task = shown.add_task(first, total=None)

    def __call__(self, description: str, done: int, total: int | None) -> None:
        if total is None and description != self._last:
            self._tools.say(description)
        elif total is not None:
            self._shown.update(self._task, description=description, completed=done, total=total)
        self._last = description


@contextmanager
def awake(tools: Tools, s: Settings) -> Iterator[Session]:
    """A mind made of these settings, on its runner until the block ends."""
    from haloweave.cli.session import Session

    with reporting(tools, f"waking {s.model}") as report:
        mind = tools.mind(s, report)
        mender = tools.mender(s, mind, report)
    with Session(mind, mender) as session:
        yield session


@contextmanager
def kept(tools: Tools, name: str, given: Mapping[str, Any]) -> Iterator[Session]:
    """A mind that is kept under a name, on its runner until the block ends; saved when it ends."""
    from haloweave.cli.session import Session
    from haloweave.waking import wake

    with ExitStack() as stack:
        with reporting(tools, f"waking {name}") as report:
            awake = stack.enter_context(wake(name, given, make=tools.make, progress=report))
            mender = tools.mender(awake.settings, awake.mind, report)
        yield stack.enter_context(Session(awake.mind, mender, awake))
