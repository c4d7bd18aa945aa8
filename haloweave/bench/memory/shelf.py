# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Which texts a task is made of: books, talks, logs; and which of them settings may be tuned on.

Knows folders. Must not know tasks or tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haloweave.errors import InvalidInput

_BOOKS, _LOGS = ("gutenberg", "books"), ("loghub", "logs")
_TALKS = ("sgd_dialogues", "synthetic_persona_chat", "talks")
"""Names of subfolders by which texts of a kind are found."""
_ASIDE = ("SOURCE", "LICENSE", "README")


@dataclass(frozen=True)
class Shelf:
    """Files of each kind."""

    books: tuple[Path, ...] = ()
    talks: tuple[Path, ...] = ()
    logs: tuple[Path, ...] = ()

    def of(self, task: str) -> tuple[Path, ...]:
        """What a task is made of. Raises InvalidInput if there is none of it."""
        books, both = dict.fromkeys(("books", "stream", "speed"), self.books), (*self.talks, *self.logs)
        found = {**books, "logs": self.logs, "talks": self.talks, "lines": ()}.get(task, both)
        if not found and task != "lines":
            raise InvalidInput(
                f"{task}: expected texts to make it of, got none: give --data, --books, --talks or --logs"
            )
        return found


def shelf(
    roots: Sequence[Path], books: Sequence[Path], talks: Sequence[Path], logs: Sequence[Path], *, tuning: bool
) -> Shelf:
    """Subfolders of `roots` by their names, and what is named one by one; of either only the half for tuning,
    or the other one, on which nothing was ever chosen. Raises InvalidInput."""

    def all_of(names: Sequence[str], given: Sequence[Path], endings: Sequence[str]) -> tuple[Path, ...]:
        folders = [root / name for root in roots for name in names if (root / name).is_dir()]
        found = _files([*folders, *given], endings)
        return tuple(path for path in found if for_tuning(path) == tuning)

    for root in (*roots, *books, *talks, *logs):
        if not root.exists():
            raise InvalidInput(f"no such file or folder: {root}")
    text = (".txt", ".md")
    talk = all_of(_TALKS, talks, (*text, ".jsonl", ".csv"))
    return Shelf(all_of(_BOOKS, books, text), talk, all_of(_LOGS, logs, (".log",)))


def _files(given: Sequence[Path], endings: Sequence[str]) -> list[Path]:
    """A file that is named counts whatever it is called."""
    named = [path for path in given if path.is_file()]
    within = [path for root in given if root.is_dir() for path in sorted(root.rglob("*"))]
    return named + [p for p in within if p.suffix in endings and p.is_file() and p.stem not in _ASIDE]


def for_tuning(path: Path) -> bool:
    """Half of all files, by their names: the same half everywhere and always."""
    return hashlib.sha256(path.stem.encode()).digest()[0] % 2 == 0
