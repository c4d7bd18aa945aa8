# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a report is made of, and how it reads as Markdown: what is quoted from records stays text there.

Knows text. Must not know what was measured, HTML or files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from haloweave.bench import markdown

_SIGNS = re.compile(r"[\\`*\[\]<>&~$]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown could take for more than text; an underscore within a word is none."""
_BEGINS = re.compile(r"^(\s*(?:\d+(?=[.)])|(?=[#+=-])))")
"""And what it takes for a list, a heading or a rule at the beginning of a line."""


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Points:
    """A list."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Table:
    """Its first `words` columns are text, the others numbers, which stand to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


@dataclass(frozen=True)
class Picture:
    name: str
    what: str


Block = Heading | Paragraph | Points | Code | Table | Picture


def as_markdown(blocks: Iterable[Block]) -> list[str]:
    """Parts, between which empty lines belong."""
    return [_part(block) for block in blocks]


def plain(text: str) -> str:
    """On one line, and nothing but text."""
    told = _SIGNS.sub(lambda found: "\\" + found[0], " ".join(text.split()))
    return _BEGINS.sub(lambda found: found[1] + "\\", told) if _BEGINS.match(told) else told


def _part(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {plain(block.text)}"
        case Paragraph():
            return plain(block.text)
        case Points():
            return "\n".join(f"* {plain(text)}" for text in block.texts)
        case Code():
            return _fenced(block.text)
        case Picture():
            return markdown.picture(block.name, plain(block.what))
        case Table():
            return _table(block)


def _fenced(text: str) -> str:
    """A fence is longer than any that is quoted."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _table(block: Table) -> str:
    rows = [[_cell(cell) for cell in row] for row in block.rows]
    made = markdown.table([_cell(heading) for heading in block.headings], rows)
    left: Sequence[str] = ["---"] * block.words
    ruler = " | ".join([*left, *["---:"] * (len(block.headings) - block.words)])
    head, _, *rest = made.split("\n")
    return "\n".join([head, f"| {ruler} |", *rest])


def _cell(text: str) -> str:
    return _SIGNS.sub(lambda found: "\\" + found[0], text)
