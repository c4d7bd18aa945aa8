# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Reports in Markdown: tables, what has to be known to read them, and the files of a report's folder.

Knows text, rich's tables and files. Must not know what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from haloweave.diffusion.disk import write_text

README, RESULTS = "README.md", "results.json"
_FIRST = ("date", "seeds", "cpu", "cores", "threads", "dtype", "device", "torch", "python")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; its first column is text, the others are numbers and stand to the right."""
    ruler = ["---", *["---:"] * (len(headings) - 1)]
    lines = [headings, ruler, *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def of_rich(shown: Table) -> str:
    """A table that was made for a terminal."""
    headings = [str(column.header) for column in shown.columns]
    return table(headings, zip(*(column.cells for column in shown.columns), strict=True))


def _cell(value: object) -> str:
    """On one line; a bar would end the cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def told(provenance: Mapping[str, Any]) -> str:
    """The command, then the facts, the most telling ones first."""
    rest = [name for name in provenance if name not in (*_FIRST, "command")]
    names = [name for name in (*_FIRST, *rest) if name in provenance]
    facts = [[name, _plain(provenance[name])] for name in names]
    return f"```\n{provenance['command']}\n```\n\n" + table(["", "here"], facts).replace("---:", "---")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return "not known" if value is None else str(value)


def picture(name: str, what: str) -> str:
    return f"![{what}]({name})"


def write(folder: Path, parts: Iterable[str], results: Mapping[str, Any]) -> None:
    """README.md and results.json in `folder`, each replaced whole. Raises CannotWrite."""
    write_text(folder / README, "\n\n".join(parts) + "\n")
    write_text(folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
