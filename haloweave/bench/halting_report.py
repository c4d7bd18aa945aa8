# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What halting saves and costs, as table, Markdown and picture.

Knows results. Must not know how they were measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from haloweave.bench import markdown, plots
from haloweave.bench.halting import Found, Halted, Mark
from haloweave.diffusion.judging.intervals import Interval

PICTURE = "saved-and-worse.png"
COLUMNS = ("threshold, nats", "passes saved", "bound worse by", "faster", "")


def line(one: Halted, part: str, mark: Mark) -> tuple[dict[str, Any], list[str]]:
    """A record and the cells of a table."""
    record = {
        "part": part,
        "threshold": one.threshold,
        "saved": one.saved.plain(),
        "worse": one.worse.plain(),
    }
    record |= {"faster": one.faster, "keeps_bound": one.keeps(mark), "reaches": one.reaches(mark)}
    kept = "reaches the mark" if one.reaches(mark) else "bound kept" if one.keeps(mark) else "bound lost"
    return record, [
        f"{one.threshold:g}",
        _share(one.saved),
        _share(one.worse, "+"),
        f"{one.faster:.2f}x",
        kept,
    ]


def lines(found: Found, mark: Mark) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """A record and the cells of a table for each threshold, the confirmed one last; the part comes first."""
    confirmed = [] if found.confirmed is None else [("confirmed", found.confirmed)]
    for part, one in [*(("sweep", halted) for halted in found.sweep), *confirmed]:
        record, cells = line(one, part, mark)
        yield record, [part, *cells]


def verdict(found: Found, mark: Mark) -> str:
    """What came of it, in one sentence."""
    wanted = f"{mark.saved:.0%} of block passes saved at a bound at most {mark.worse:.0%} worse"
    if found.confirmed is None:
        return f"No threshold keeps the bound: the mark ({wanted}) is not reached."
    c = found.confirmed
    said = "is reached" if c.reaches(mark) else "is not reached"
    return (
        f"At the threshold {c.threshold:g}, chosen on one half of the held-out rows, the other half saves "
        f"{_share(c.saved)} of the block passes, and its bound changes by {_share(c.worse, '+')}: the mark "
        f"({wanted}, at the upper end of the interval) {said}."
    )


def write(folder: Path, model: str, found: Found, mark: Mark, provenance: Mapping[str, Any]) -> None:
    """Raises CannotWrite, InvalidInput without matplotlib."""
    plots.wanted()
    _picture(folder, found, mark)
    swept = [line(one, "sweep", mark) for one in found.sweep]
    told = {"provenance": dict(provenance), "model": model, "mark": asdict(mark), "chosen": found.chosen}
    confirmed = None if found.confirmed is None else line(found.confirmed, "confirmed", mark)
    results = {"sweep": [record for record, _ in swept], "confirmed": confirmed and confirmed[0]}
    parts = _parts(model, found, [cells for _, cells in swept], confirmed and confirmed[1], mark, provenance)
    markdown.write(folder, parts, told | results)


def _parts(
    model: str,
    found: Found,
    rows: list[list[str]],
    confirmed: list[str] | None,
    mark: Mark,
    provenance: Mapping[str, Any],
) -> Iterator[str]:
    yield f"# Halting of `{model}`"
    yield verdict(found, mark)
    yield (
        f"A row halts when its prediction moves by less than the threshold between two passes (mean KL "
        f"at its probed positions). Held-out rows are split by documents, {found.rows[0]} to sweep and "
        f"{found.rows[1]} to confirm; rows and masks are the same at every threshold. Intervals are 95 %."
    )
    yield markdown.told(provenance)
    yield "## The sweep, on one half"
    yield markdown.table(COLUMNS, rows)
    yield markdown.picture(PICTURE, "change of the bound against passes saved")
    if confirmed is not None:
        yield "## The chosen threshold, on the other half"
        yield markdown.table(COLUMNS, [confirmed])


def _picture(folder: Path, found: Found, mark: Mark) -> None:
    groups = {"sweep, one half": [_point(one) for one in found.sweep]}
    if found.confirmed is not None:
        groups["chosen, the other half"] = [_point(found.confirmed)]
    plots.trade(
        folder / PICTURE,
        ("block passes saved, %", "bound worse by, %"),
        groups,
        levels={f"{mark.worse:.0%} worse": 100 * mark.worse},
        at_least=(f"{mark.saved:.0%} saved", 100 * mark.saved),
    )


def _point(one: Halted) -> plots.Point:
    worse = (100 * x for x in (one.worse.value, one.worse.low, one.worse.high))
    return plots.Point(f"{one.threshold:g}", 100 * one.saved.value, *worse)


def _share(x: Interval, sign: str = "") -> str:
    return f"{x.value:{sign}.2%} ({x.low:{sign}.2%} .. {x.high:{sign}.2%})"
