# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Telling what a reading did, to a person or to a script. The two ways a `Report` can be told.

Knows consoles, tallies and how things look. Must not know minds.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from types import TracebackType
from typing import Any

from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

from haloweave.cli import show
from haloweave.cli.ingest import Reading
from haloweave.cli.tally import Tally
from haloweave.cli.tools import Tools, safe
from haloweave.events import TurnEnded

MEGA = 1_000_000
_ENDINGS = {"length": "cut off at the limit of tokens", "interrupted": "interrupted", "stop": "stop text"}


class PlainReport:
    """For a person: a live line on stderr while reading, answers and summary on stdout."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._live: Status | None = None
        self._wrapper = show.Wrapper(tools.out.width)

    def __enter__(self) -> PlainReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet()

    def reading(self, tally: Tally, budget: int) -> None:
        """Move the live line."""
        if not self._tools.err.is_terminal:
            return
        line = status_line(tally, budget)
        if self._live is None:
            self._live = self._tools.err.status(line)
            self._live.start()
        self._live.update(line)

    def status(self, tally: Tally, budget: int) -> None:
        """One line that stays."""
        self._tools.err.print(status_line(tally, budget), soft_wrap=True)

    def notice(self, text: str) -> None:
        """One line beside the results."""
        self._tools.say(f"note: {text}")

    def asked(self, question: str) -> None:
        """The question, before its answer."""
        self._quiet()
        self._tools.out.print(Text(f"\n› {safe(question)}", "bold"), soft_wrap=True)

    def spoke(self, text: str) -> None:
        """A piece of the answer, as it comes."""
        self._write(self._wrapper.push(safe(text)))

    def answered(self, question: str, text: str, ended: TurnEnded, speed: float) -> None:
        """The last word of it, and why it ended."""
        self._write(self._wrapper.flush() + "\n")
        self._wrapper = show.Wrapper(self._tools.out.width)
        why = f" · {_ENDINGS[ended.reason]}" if ended.reason in _ENDINGS else ""
        pace = f" · {speed:.1f} tok/s" if speed else ""
        self._tools.say(f"({ended.tokens} tokens{pace}{why})")

    def summary(self, reading: Reading, budget: int) -> None:
        """What was read, what died, what it cost."""
        self._quiet()
        self._tools.out.print()
        self._tools.out.print(summary_table(reading, budget))

    def _write(self, text: str) -> None:
        self._tools.out.print(Text(text), end="", soft_wrap=True)
        self._tools.out.file.flush()

    def _quiet(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def status_line(tally: Tally, budget: int) -> Text:
    """The meter while reading."""
    return show.status(tally.rows, budget, tally.tokens, tally.dead, tally.speed, width=10)


def summary_table(reading: Reading, budget: int) -> Table:
    """The figures of a reading."""
    tally = reading.tally
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1)
    stopped = ", until you stopped it" if reading.interrupted else ""
    pace = f"{tally.seconds:.1f} s{stopped}: {tally.speed:.0f} tok/s"
    table.add_row("read", f"{tally.tokens:,} tokens in {pace}")
    table.add_row("held", show.meter(tally.rows, budget))
    table.add_row("most rows", f"{tally.peak_rows} (the budget is {budget})")
    by_source = ", ".join(f"{n:,} {s.name.lower()}" for s, n in tally.culled.most_common())
    marks = f"; {tally.markers:,} markers [...] left" if tally.markers else ""
    table.add_row("culled", f"{tally.dead:,} tokens" + (f" ({by_source})" if by_source else "") + marks)
    if reading.repairs is not None:
        table.add_row("repaired", show.repairs_line(reading.repairs))
    line = tally.line()
    if line:
        first, last = line[0] / MEGA, line[-1] / MEGA
        table.add_row(
            "memory",
            f"{show.sparkline(line)} {first:,.0f} MB at 10 %, {last:,.0f} MB at 100 % "
            f"({(last - first) / first:+.1%})",
        )
    return table


def padded(table: Table) -> Padding:
    """A table, set in a little."""
    return Padding(table, (0, 0, 0, 2))


class JsonReport:
    """For a script: one JSON object a line on stdout, notices also on stderr."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def __enter__(self) -> JsonReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tools.out.file.flush()

    def reading(self, tally: Tally, budget: int) -> None:
        """Not worth a line."""

    def status(self, tally: Tally, budget: int) -> None:
        """A line of figures."""
        emit(self._tools, {"event": "status", **figures(tally, budget)})

    def notice(self, text: str) -> None:
        """A line of its own."""
        emit(self._tools, {"event": "notice", "text": text})

    def asked(self, question: str) -> None:
        """Told with the answer."""

    def spoke(self, text: str) -> None:
        """Told with the answer."""

    def answered(self, question: str, text: str, ended: TurnEnded, speed: float) -> None:
        """Question and answer."""
        line = {"event": "answer", "question": question, "text": text, "ended": ended.reason}
        emit(self._tools, {**line, "tokens": ended.tokens, "tokens_per_second": round(speed, 2)})

    def summary(self, reading: Reading, budget: int) -> None:
        """The figures of the whole reading."""
        tally = reading.tally
        line = {"event": "summary", "interrupted": reading.interrupted, **figures(tally, budget)}
        died = {s.name: n for s, n in sorted(tally.culled.items())}
        mended = {} if reading.repairs is None else {"repairs": asdict(reading.repairs)}
        emit(self._tools, {**line, "culled_by_source": died, "resident_bytes": tally.line(), **mended})


def figures(tally: Tally, budget: int) -> dict[str, Any]:
    """The figures of a reading, so far."""
    return {
        "tokens": tally.tokens,
        "seconds": round(tally.seconds, 3),
        "tokens_per_second": round(tally.speed, 2),
        "rows": tally.rows,
        "peak_rows": tally.peak_rows,
        "budget": budget,
        "culled": tally.dead,
        "markers": tally.markers,
        "edits": tally.edits,
    }


def emit(tools: Tools, line: dict[str, Any]) -> None:
    """One JSON object on a line of stdout."""
    tools.out.file.write(json.dumps(line, ensure_ascii=False) + "\n")
    tools.out.file.flush()
