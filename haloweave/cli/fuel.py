# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Real text that any machine with this package has: what `halo demo` reads when no file is named.

Knows the metadata of installed packages and where the installation left its log. Must not know minds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from haloweave.cli.options import Speaker

LOG_VARIABLE = "HALO_PIP_LOG"
_LOG_NAMES = (".venv/pip-install.log",)
_LONGEST = 1600  # characters of one description
_LONGEST_LINE = 160
_FAVOURITES = ("rich", "pydantic", "platformdirs", "requests", "MarkupSafe", "markdown-it-py", "click")
"""Packages that come with ours and describe themselves in prose; whatever else is there comes after."""

_CODE = re.compile(r"```.*?```|~~~.*?~~~|<!--.*?-->|^(?: {4}|\t).*$|^\.\. .*$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\](?:\([^)]*\)|\[[^\]]*\])")
_MARKUP = re.compile(r"<[^>\n]+>_{0,2}|https?://\S+|[`*|]+")


@dataclass(frozen=True)
class Passage:
    """One text to read, as one turn."""

    title: str
    speaker: Speaker
    text: str
    question: str = "What was that about? Answer in one sentence."


def passages(prose: int, log: int) -> list[Passage]:
    """About `prose` characters of descriptions and `log` characters of the log of an installation."""
    read: list[Passage] = []
    for name, text in _descriptions():
        if sum(len(p.text) for p in read) >= prose:
            break
        question = f"In one sentence: what is {name} for?"
        read.append(Passage(f"the first paragraphs about the package {name}", Speaker.TEXT, text, question))
    title, lines = _log()
    half = len(read) // 2
    return [*read[:half], Passage(title, Speaker.LOG, _share(lines, log)), *read[half:]]


def _descriptions() -> Iterator[tuple[str, str]]:
    seen = set()
    for found in _packages():
        name = found.metadata["Name"] or ""
        text = plain(str(found.metadata.json.get("description") or ""))
        if name and name not in seen and len(text) > 400:
            seen.add(name)
            summary = found.metadata["Summary"] or ""
            yield name, f"{name}: {summary}\n\n{_begin(text)}"


def _begin(text: str) -> str:
    """Whole paragraphs from the start."""
    kept = text[: text.find("\n\n", _LONGEST)] if text.find("\n\n", _LONGEST) > 0 else text
    return kept[: 2 * _LONGEST]


def _packages() -> Iterator[Distribution]:
    for name in _FAVOURITES:
        try:
            yield distribution(name)
        except PackageNotFoundError:
            continue
    yield from sorted(distributions(), key=lambda d: (d.metadata["Name"] or "").lower())


def plain(markup: str) -> str:
    """The paragraphs of a README that a person would read out: no badges, links, lists of links or code."""
    text = _CODE.sub("", markup)
    for _ in range(2):  # a badge is a picture in a link
        text = _LINK.sub(lambda m: "" if m.group(0).startswith("!") else m.group(1), text)
    blocks = re.split(r"\n\s*\n", _MARKUP.sub("", text))
    return "\n\n".join(" ".join(b.split()) for b in blocks if _is_prose(b))


def _is_prose(block: str) -> bool:
    """Whole sentences, mostly letters, in a script that the default model reads."""
    letters = sum(c.isascii() and (c.isalpha() or c.isspace()) for c in block)
    ends = block.rstrip().endswith((".", "!", ":"))
    return ends and len(block.split()) >= 8 and letters > 0.85 * len(block) and "://" not in block


def _log() -> tuple[str, list[str]]:
    """The log that pip left, or else lines of the records it keeps of what it installed."""
    named = os.environ.get(LOG_VARIABLE)
    for path in (Path(named),) if named else map(Path, _LOG_NAMES):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            short = [x for x in lines if x.strip() and len(x) <= _LONGEST_LINE]
            return f"lines of pip's log of the installation ({path})", short
    return "lines of pip's records of what it installed", list(_records())


def _records() -> Iterator[str]:
    for found in sorted(distributions(), key=lambda d: (d.metadata["Name"] or "").lower()):
        files = found.files or []
        size = sum(f.size or 0 for f in files)
        name, version = found.metadata["Name"], found.version
        yield f"INFO installed {name} {version}: {len(files)} files, {size:,} bytes"
        for file in files[:3]:
            yield f"DEBUG {name}: wrote {file} ({file.size or 0:,} bytes)"


def _share(lines: list[str], characters: int) -> str:
    """Lines from the whole length of a log, evenly, until there are enough."""
    total = sum(len(x) + 1 for x in lines)
    step = max(total / max(characters, 1), 1.0)
    picked = [lines[int(n * step)] for n in range(int(len(lines) / step))]
    return "\n".join(picked) + "\n"
