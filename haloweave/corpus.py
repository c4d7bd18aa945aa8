# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Text files on disk to clean documents, for training and benchmarks.

Knows files and the habits of public text collections (Project Gutenberg's licence frame, JSON lines,
hard-wrapped paragraphs). Must not know tokenizers or models.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haloweave.errors import InvalidInput

READABLE = (".txt", ".md", ".jsonl", ".csv")
_LEGAL = re.compile(r"^(source|licen[cs]e|readme|notice)", re.I)


@dataclass(frozen=True)
class Document:
    """One text: where it comes from, and its paragraphs joined by blank lines."""

    path: Path
    text: str = field(repr=False)


def unframed(text: str) -> str:
    """The text without a Project Gutenberg licence header and footer; line ends as LF."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    start = re.search(r"\*\*\* ?START OF.*?\*\*\*", text, re.S)
    end = re.search(r"\*\*\* ?END OF", text)
    return text[start.end() if start else 0 : end.start() if end else len(text)]


def unwrapped(text: str) -> str:
    """Hard-wrapped paragraphs, each on a line of its own, blank lines between."""
    paragraphs = [re.sub(r"\s*\n\s*", " ", p).strip() for p in re.split(r"\n\s*\n", text)]
    return "\n\n".join(p for p in paragraphs if p)


def book(path: Path) -> str:
    """A Project Gutenberg book, or any text file: no licence frame, unwrapped paragraphs.

    Raises InvalidInput if there is no such file.
    """
    if not path.is_file():
        raise InvalidInput(f"no such text: {path}; give a text file or a folder of them with --data")
    return unwrapped(unframed(path.read_text("utf-8-sig", errors="replace")))


def files(roots: Sequence[Path]) -> list[Path]:
    """Every readable text below some files and folders, sorted; not their licences and source notes.

    Raises InvalidInput if a root is missing or nothing can be read there.
    """
    found: set[Path] = set()
    for root in roots:
        if not root.exists():
            raise InvalidInput(f"no such file or folder: {root}")
        below = [root] if root.is_file() else [p for p in root.rglob("*") if p.is_file()]
        found |= {p for p in below if p.suffix.lower() in READABLE and not _LEGAL.match(p.name)}
    if not found:
        raise InvalidInput(f"nothing to read in {', '.join(map(str, roots))}: expected {' '.join(READABLE)}")
    return sorted(found)


def documents(roots: Sequence[Path]) -> Iterator[Document]:
    """The documents of those files, one or more a file. Raises InvalidInput as `files` does."""
    for path in files(roots):
        text = path.read_text("utf-8-sig", errors="replace")
        kind = path.suffix.lower()
        if kind == ".jsonl":
            yield from (Document(path, t) for t in _json_texts(text))
        elif kind == ".csv":
            yield from (Document(path, t) for t in _csv_texts(text))
        else:
            yield Document(path, unwrapped(unframed(text)) if _wrapped(text) else unframed(text).strip())


def _wrapped(text: str) -> bool:
    """Whether lines are broken at a width: most lines between blank ones are then of similar length."""
    lines = [len(line) for line in text.splitlines()[:4000] if line.strip()]
    return "*** START OF" in text or (bool(lines) and sum(55 <= n <= 80 for n in lines) > 0.5 * len(lines))


def _json_texts(text: str) -> Iterator[str]:
    """The strings of each line's object, joined: a question and its answer stay together."""
    for line in text.splitlines():
        try:
            parts = [s for s in _strings(json.loads(line)) if len(s) > 20]
        except (json.JSONDecodeError, RecursionError):
            continue
        if parts:
            yield "\n".join(parts)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _csv_texts(text: str) -> Iterator[str]:
    """The cells of each row, a paragraph each, without the header."""
    for i, row in enumerate(csv.reader(text.splitlines(keepends=True))):
        if i and (cells := [c.strip() for c in row if len(c.strip()) > 20]):
            yield "\n\n".join(cells)
