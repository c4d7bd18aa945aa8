# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Text files on disk to clean documents, for training and benchmarks, and whom to thank for them.

Knows files and the habits of public text collections (Project Gutenberg's licence frame, JSON lines,
hard-wrapped paragraphs, a note of source and licence beside the texts). Must not know tokenizers or models.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haloweave.errors import InvalidInput

READABLE = (".txt", ".md", ".jsonl", ".csv")
NOTE = "SOURCE.txt"
"""Beside the texts of a collection: lines `key: value`, of which repo, licence and what are read."""
_LEGAL = re.compile(r"(source|licen[cs]e|readme|notice)([.-].*)?", re.I)
_CELL_LIMIT = 1 << 30
_START = re.compile(r"\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG.*?\*\*\*", re.S | re.I)
_END = re.compile(r"\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG", re.I)


@dataclass(frozen=True)
class Document:
    """One text: where it comes from, and its paragraphs joined by blank lines."""

    path: Path
    text: str = field(repr=False)


@dataclass(frozen=True)
class Credit:
    """Where a folder of texts comes from, by the note beside them."""

    name: str
    licence: str
    source: str
    what: str


def unframed(text: str) -> str:
    """The text without a Project Gutenberg licence header and footer; line ends as LF."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    start = _START.search(text)
    first = start.end() if start else 0
    end = _END.search(text, first)
    return text[first : end.start() if end else len(text)]


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
    return unwrapped(unframed(_read(path)))


def files(roots: Sequence[Path], exclude: Sequence[str] = ()) -> list[Path]:
    """Every readable text below some files and folders, sorted; not their licences and source notes.

    `exclude` holds globs of names or of the ends of paths (`moby_dick.txt`, `drafts/*.md`). A file that is
    reached in two ways is read once. Raises InvalidInput if a root is missing, a glob matches nothing (what
    should have been kept out would be read), or nothing is left to read.
    """
    found: dict[Path, Path] = {}
    for path in sorted(path for root in roots for path in _below(root)):
        found.setdefault(path.resolve(), path)
    kept = list(found.values())
    for glob in exclude:
        if not any(path.match(glob) for path in found.values()):
            raise InvalidInput(f"nothing to exclude matches {glob!r}; expected a name or the end of a path")
        kept = [path for path in kept if not path.match(glob)]
    if not kept:
        raise InvalidInput(f"nothing to read in {', '.join(map(str, roots))}: expected {' '.join(READABLE)}")
    return kept


def _below(root: Path) -> list[Path]:
    """The texts of a folder, hidden ones left out; a file that is named is taken as it is."""
    if not root.exists():
        raise InvalidInput(f"no such file or folder: {root}")
    if root.is_file():
        return [root] if root.suffix.lower() in READABLE else []
    texts = [p for p in root.rglob("*") if p.suffix.lower() in READABLE and not _LEGAL.fullmatch(p.name)]
    return [p for p in texts if p.is_file() and not any(n[0] == "." for n in p.relative_to(root).parts)]


def documents(paths: Sequence[Path]) -> Iterator[Document]:
    """The documents of some files, one or more a file.

    Raises InvalidInput for a file that cannot be read, or that is not the JSON lines or CSV it is called.
    """
    for path in paths:
        text, kind = _read(path), path.suffix.lower()
        if kind == ".jsonl":
            yield from (Document(path, t) for t in _json_texts(path, text))
        elif kind == ".csv":
            yield from (Document(path, t) for t in _csv_texts(path, text))
        else:
            yield Document(path, unwrapped(unframed(text)) if _wrapped(text) else unframed(text).strip())


def home(path: Path, roots: Sequence[Path]) -> Path:
    """The folder whose note speaks for a file: the nearest with one, but none above the roots."""
    tops = {(root if root.is_dir() else root.parent).resolve() for root in roots}
    for folder in path.resolve().parents:
        if (folder / NOTE).is_file():
            return folder
        if folder in tops:
            break
    return path.resolve().parent


def credit(folder: Path) -> Credit:
    """Whom the texts of a folder come from; what its note does not tell is "not stated"."""
    note = folder / NOTE
    pairs = [line.partition(":") for line in _read(note).splitlines()] if note.is_file() else []
    told = {key.strip().lower(): value.strip() for key, _, value in pairs}
    licence = told.get("licence") or told.get("license") or "not stated"
    source = told.get("repo") or told.get("source") or told.get("url") or "not stated"
    return Credit(folder.resolve().name, licence, source, told.get("what", ""))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); exclude it or mend it") from error


def _wrapped(text: str) -> bool:
    """Whether lines are broken at a width: most lines between blank ones are then of similar length."""
    lines = [len(line) for line in text.splitlines()[:4000] if line.strip()]
    return bool(_START.search(text)) or (bool(lines) and sum(55 <= n <= 80 for n in lines) > 0.5 * len(lines))


def _json_texts(path: Path, text: str) -> Iterator[str]:
    """The strings of each line's object, joined: a question and its answer stay together."""
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut strings at U+2028
        if not line.strip():
            continue
        try:
            parts = [s for s in _strings(json.loads(line)) if len(s) > 20]
        except (json.JSONDecodeError, RecursionError) as error:
            raise InvalidInput(
                f"{path}, line {number}: expected JSON ({error}); mend or remove it"
            ) from error
        if parts:
            yield "\n".join(parts)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode("utf-8", "replace").decode()  # JSON may hold lone surrogates, which are no text
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _csv_texts(path: Path, text: str) -> Iterator[str]:
    """The cells of each row, a paragraph each, without the header."""
    limit = csv.field_size_limit(_CELL_LIMIT)
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise InvalidInput(f"{path}: expected CSV ({error}); mend or exclude it") from error
    finally:
        csv.field_size_limit(limit)
    for row in rows[1:]:
        if cells := [c.strip() for c in row if len(c.strip()) > 20]:
            yield "\n\n".join(cells)
