# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a run consists of: for each task its arms, budgets, lengths and number of cases. A quick plan fits
into half an hour of two cores, a full one takes some hours.

Budgets are 1/4 and 1/8 of the context that is read, where that fits the model whole. Knows tasks and arms by
name. Must not know how they are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from haloweave.bench.memory.shelf import Shelf
from haloweave.bench.provenance import provenance
from haloweave.settings import Settings

CONTEXT = 2048
"""Tokens of a case whose full context is a baseline."""
ROWS = (CONTEXT // 4, CONTEXT // 8)
EVICTORS = ("window", "h2o", "tova", "snapkv", "random")
REREAD = ("truncate", "redact", "summary")
FITS = ("books", "needles", "lines", "logs", "talks")
"""Tasks whose cases full context can hold."""


@dataclass(frozen=True)
class Part:
    """One task of a run."""

    task: str
    arms: Sequence[str]
    rows: Sequence[int] = ROWS
    tokens: int = CONTEXT
    count: int = 2
    more: Mapping[str, Any] = field(default_factory=dict)
    """What this task's generator alone takes."""
    said: int = 48
    """Tokens said, where speed is measured."""

    def but(self, **changes: Any) -> Part:
        return replace(self, **changes)


_TEXT = ("full", "truncate", *EVICTORS, "halo")
_ASKED = ("full", "none", *EVICTORS, "halo", "halo+recall")
_FAR = ("none", "window", "h2o", "snapkv", "halo", "halo+recall")
_COSTS = ("full", "truncate", "window", "h2o", "halo", "halo+repair")
_MENDED = ("cull", "halo+repair", "halo+random")
_EIGHTH = (CONTEXT // 8,)
_FACTS: Mapping[str, Any] = {"said": 12}
_NEAR: Mapping[str, Any] = {"rows": 256}
_BACK: Mapping[str, Any] = {"back": (20, 50)}
_RARE: Mapping[str, Any] = {"rare": 10}
"""Log lines are long: with one in a hundred a case of this length would have one that matters."""
_SAID: Mapping[str, Any] = {"said": 8, "later": (1 / 8, 1 / 2)}

QUICK = (
    Part("books", _TEXT, (256, 128), tokens=1024, count=6),
    Part("needles", (*_ASKED, "truncate"), _EIGHTH, count=1, more=_FACTS),
    Part("passkey", ("none", "window", "halo", "halo+recall"), _EIGHTH, tokens=50 * 256, count=1, more=_NEAR),
    Part("lines", _ASKED, _EIGHTH, count=1, more=_BACK),
    Part("logs", (*_ASKED, *_MENDED), _EIGHTH, count=1, more=_RARE),
    Part("talks", (*_ASKED, *_MENDED, "truncate", "redact"), _EIGHTH, count=1, more=_SAID),
    Part("speed", _COSTS, (CONTEXT // 4,), tokens=CONTEXT, count=1),
)
FULL = (
    Part("books", _TEXT, count=12),
    Part("books", _MENDED[1:], _EIGHTH, count=6),
    Part("needles", (*_ASKED, "truncate"), count=6, more=_FACTS),
    Part("talks", (*_ASKED, *_MENDED[1:], "halo+both", *REREAD), _EIGHTH, count=6, more=_SAID),
    Part("logs", (*_ASKED, "truncate", "cull"), _EIGHTH, count=6, more=_RARE),
    Part("lines", (*_ASKED, "truncate"), _EIGHTH, count=6, more=_BACK),
    Part("passkey", _FAR, _EIGHTH, tokens=50 * 256, count=1, more=_NEAR),
    Part("stream", ("window", "halo"), (CONTEXT // 4,), tokens=51_200, count=1),
    Part("speed", _COSTS, (CONTEXT // 4,), tokens=2 * CONTEXT, count=1, said=128),
)


def facts(s: Settings, parts: Sequence[Part], shelf: Shelf, seed: int) -> dict[str, Any]:
    """What has to be known to repeat a run."""
    plan = [
        {"task": p.task, "arms": list(p.arms), "rows": list(p.rows), "tokens": p.tokens, "cases": p.count}
        for p in parts
    ]
    texts = sorted({path.stem for part in parts for path in shelf.of(part.task)})
    return provenance({"cases": seed}, model=s.model, budgets=_budgets(parts), plan=plan, texts=texts)


def _budgets(parts: Sequence[Part]) -> dict[str, str]:
    """What part of a case some rows are, where it is the same part of all cases that they are held for."""
    shares: dict[int, set[int]] = {}
    for part in parts:
        for rows in part.rows if part.task in FITS else ():
            shares.setdefault(rows, set()).add(part.tokens // rows)
    return {str(rows): f"1/{share}" for rows, found in shares.items() for share in found if len(found) == 1}
