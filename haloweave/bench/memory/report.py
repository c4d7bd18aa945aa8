# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One folder that says it all: README.md, index.html, pictures, the records themselves, the numbers as JSON.

Knows files. Must not know how anything was measured: it reads records, from here, from peers, from yesterday.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from haloweave.bench import plots
from haloweave.bench.memory import record
from haloweave.bench.memory.blocks import as_markdown
from haloweave.bench.memory.cells import Budgets
from haloweave.bench.memory.gallery import Gallery
from haloweave.bench.memory.page import page
from haloweave.bench.memory.record import Record
from haloweave.bench.memory.sections import Facts, Told, Unable, cannot, sections
from haloweave.bench.memory.summary import summary
from haloweave.bench.memory.tables import Numbers
from haloweave.diffusion.disk import write_text
from haloweave.errors import InvalidInput

README, PAGE, RECORDS, SUMMARY = "README.md", "index.html", "records.jsonl", "summary.json"
TITLE = "Halo Weave: the memory benchmark"


def of_files(folder: Path, paths: Sequence[Path], notes: Sequence[str] = ()) -> None:
    """A report of files of records. Raises InvalidInput, also where two files hold the same; CannotWrite."""
    found = [record.read([path]) for path in paths]
    _once(paths, [records for records, _ in found])
    facts = [one for _, told in found for one in told]
    write(folder, [one for records, _ in found for one in records], facts, notes=notes)


def _once(paths: Sequence[Path], found: Sequence[Sequence[Record]]) -> None:
    """The same numbers twice would look like twice as many."""
    seen: dict[tuple[str, str, str, int, str], Path] = {}
    for path, records in zip(paths, found, strict=True):
        here = {(one.task, one.metric, one.arm, one.rows, one.case) for one in records}
        for what in sorted(here & seen.keys())[:1]:
            task, name, arm, rows, case = what
            raise InvalidInput(
                f"{path}: {task} {case}, {name} of {arm} at {rows} rows is in {seen[what]} too: give one file"
            )
        seen |= dict.fromkeys(here, path)


def write(
    folder: Path,
    records: Iterable[Record],
    facts: Sequence[Facts],
    more: Sequence[Unable] = (),
    *,
    budgets: Budgets | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Every file replaced whole. `more`: what arms cannot do, beside what the facts say; `budgets`: what
    part of the full context some rows are; `notes`: sentences of one's own, shown as such.

    Raises InvalidInput without records, without matplotlib, and for numbers that are not finite; CannotWrite.
    """
    plots.wanted()
    given = list(records)
    if not given:
        raise InvalidInput("a report needs records: got none; run `halo bench memory` first")
    numbers = Numbers(given)
    named = _budgets(facts) if budgets is None else budgets
    told = Told(numbers, facts, [*cannot(facts), *more], named, notes)
    numbers_said = _json({"facts": list(facts), **summary(numbers)})
    blocks = list(sections(told, Gallery(folder, numbers, named)))
    _put(folder / README, "\n\n".join(as_markdown(blocks)) + "\n")
    _put(folder / PAGE, page(TITLE, blocks, folder))
    _put(
        folder / RECORDS,
        "".join(f"{line}\n" for line in [*map(record.head, facts), *(r.line() for r in given)]),
    )
    _put(folder / SUMMARY, numbers_said)


def _budgets(facts: Sequence[Facts]) -> dict[int, str]:
    """As the files say: {"budgets": {"512": "1/4"}}."""
    said: list[Mapping[str, Any]] = [
        one["budgets"] for one in facts if isinstance(one.get("budgets"), Mapping)
    ]
    return {int(rows): str(part) for one in said for rows, part in one.items() if str(rows).isdecimal()}


def _json(told: Mapping[str, Any]) -> str:
    try:
        return json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    except ValueError as err:  # the numbers are finite by now: it is a fact
        raise InvalidInput(
            f"the facts of a file hold a number that is not finite: {err}; mend its line"
        ) from err


def _put(path: Path, text: str) -> None:
    """A lone surrogate, which JSON may hold and UTF-8 may not, is written as its escape: it stays JSON."""
    write_text(path, text.encode("utf-8", "backslashreplace").decode())
