# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The texts that are read, by name: files, folders and standard input.

Knows files. Must not know tokens, models or minds.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from haloweave.corpus import documents, files
from haloweave.errors import InvalidInput

PIPE = "-"


def texts(names: Sequence[str], limit: int) -> dict[str, str]:
    """At least the first `limit` characters of each text, where it has as many; files of many documents are
    read as one text. Blank texts are refused.

    Raises InvalidInput for what cannot be read, is empty, or is named twice.
    """
    paths = [path for name in names for path in _paths(name)]
    short = Counter(path.name for path in paths)
    found: dict[str, str] = {}
    for path in paths:
        piped = str(path) == PIPE
        name = "stdin" if piped else path.name if short[path.name] == 1 else str(path)
        if name in found:
            raise InvalidInput(f"{name}: expected every text once, got it twice; name it once")
        text = _stdin() if piped else _beginning(path, limit)
        if not text.strip():
            raise InvalidInput(f"{name}: nothing to read, it is empty or blank; leave it out")
        found[name] = text
    return found


def _paths(name: str) -> list[Path]:
    path = Path(name)
    if name == PIPE:
        return [path]
    try:
        there, folder = path.exists(), path.is_dir()
    except OSError as error:  # too long
        raise InvalidInput(f"{name[:80]!r} is no path ({error.strerror}); name a file") from error
    if not there:
        raise InvalidInput(f"{name}: no such file; check the path, or use - for stdin")
    return files([path]) if folder else [path]


def _stdin() -> str:
    return sys.stdin.buffer.read().decode("utf-8-sig", "replace")


def _beginning(path: Path, limit: int) -> str:
    found: list[str] = []
    for document in documents([path]):
        found.append(document.text)
        if sum(map(len, found)) >= limit:
            break
    return "\n\n".join(found)
