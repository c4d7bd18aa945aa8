# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One number that was measured: of one arm, at one budget, in one case. A file of them is JSON lines; the
first tells how, when and where they were made.

Knows JSON and files. Must not know what the numbers mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from haloweave.errors import InvalidInput

FACTS = "facts"


@dataclass(frozen=True)
class Record:
    """One number."""

    task: str
    arm: str
    rows: int
    """Budget of the arm; 0 where nothing bounds it."""
    case: str
    document: str
    metric: str
    value: float
    weight: float = 1.0
    """Of this number in a mean: tokens that a loss is of."""
    x: float | None = None
    """Where in the case: tokens read so far, or between what was said and what is asked."""
    group: str = ""

    def told(self, metric: str, value: float, **more: Any) -> Record:
        """Another number of the same arm and case."""
        return replace(self, metric=metric, value=value, **more)

    def line(self) -> str:
        return json.dumps({k: v for k, v in asdict(self).items() if v not in (None, "")}, ensure_ascii=False)


_NAMES = {field.name for field in fields(Record)}


def read(paths: Iterable[Path]) -> tuple[list[Record], list[dict[str, Any]]]:
    """The records of some files, and the facts that each begins with. Raises InvalidInput."""
    found: list[Record] = []
    facts: list[dict[str, Any]] = []
    for path in paths:
        for number, told in enumerate(_lines(path), 1):
            if FACTS in told:
                facts.append(told[FACTS])
                continue
            try:
                found.append(Record(**told))
            except TypeError as err:
                unknown = ", ".join(sorted(told.keys() - _NAMES)) or "a field is missing"
                raise InvalidInput(f"{path}: line {number} is no record: {unknown}") from err
    return found, facts


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidInput(f"{path}: cannot be read: {err}") from err
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except ValueError as err:
            raise InvalidInput(f"{path}: line {number} is no JSON: {err}") from err
        if not isinstance(told, dict):
            raise InvalidInput(f"{path}: line {number}: expected an object, got {line[:40]!r}")
        yield told


def head(facts: Mapping[str, Any]) -> str:
    """The first line of a file of records."""
    return json.dumps({FACTS: dict(facts)}, ensure_ascii=False)


def documents(records: Sequence[Record]) -> list[str]:
    """In the order in which they came."""
    return list(dict.fromkeys(record.document for record in records))
