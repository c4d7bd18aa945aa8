# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Where a reply appears: plain text as it comes, on a terminal wrapped at words, with a live strip below.

Knows rich and how a context looks. Must not know minds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from haloweave.cli import show
from haloweave.cli.tools import safe
from haloweave.memory.tokens import View


@contextmanager
def no_echo() -> Iterator[None]:
    """What is typed meanwhile waits for the next prompt instead of landing in the reply."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Stage:
    """Use as a context around one reply."""

    def __init__(self, out: Console, *, strip: bool = False) -> None:
        self._out = out
        self._wrapper = show.Wrapper(out.width - 1) if out.is_terminal else None
        self._live = Live(console=out, refresh_per_second=12, transient=True) if strip else None
        self._line, self._strip = "", Text()

    def __enter__(self) -> Stage:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if self._live is not None:
            self._live.stop()

    def push(self, text: str) -> None:
        """More of the reply."""
        clean = safe(text)
        self._write(self._wrapper.push(clean) if self._wrapper else clean)

    def see(self, view: View) -> None:
        """The context has changed."""
        if self._live is not None:
            self._strip = show.strip(view, self._out.width - 1)
            self._draw()

    def note(self, text: str) -> None:
        """A line that is not the model's."""
        self._end()
        self._out.print(safe(text), style="dim italic")

    def _end(self) -> None:
        """The reply's last line."""
        if self._wrapper:
            self._write(self._wrapper.flush())
        if self._line:
            self._write("\n")

    def _write(self, text: str) -> None:
        if not text:
            return
        lines = (self._line + text).split("\n")
        if self._live is None:
            self._out.print(Text(text), end="", soft_wrap=True)
            self._out.file.flush()
        else:
            for line in lines[:-1]:
                self._out.print(Text(line), soft_wrap=True)
        self._line = lines[-1]
        self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(Group(Text(self._line), self._strip))
