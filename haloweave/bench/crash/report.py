# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What came of many crashes, counted.

Knows lines that workers tell. Must not know how they came about, or any screen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_EXAMPLES = 5


@dataclass
class Tally:
    """One class of cases."""

    name: tuple[str, ...]
    cases: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    """How the fault ended for the mind: it died, stopped and said so, or went on."""
    back: Counter[str] = field(default_factory=Counter)
    """How it came back."""
    found: Counter[str] = field(default_factory=Counter)
    """What was half done on disk."""
    compared: int = 0
    """Tokens said afterwards, and compared."""
    acts: Counter[str] = field(default_factory=Counter)
    without_rows: int = 0
    """Saved rows of culled tokens were lost, and that was said."""
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, line: dict[str, Any]) -> None:
        """One more case."""
        self.cases += 1
        self.ended[line.get("ended", "killed")] += 1
        self.back[line["back"]] += 1
        self.found.update(line.get("found", ()))
        self.acts[line["act"]] += 1
        self.compared += line.get("compared", 0)
        self.without_rows += any("rows" in note for note in line.get("notes", ()))
        if line["wrong"]:
            self.wrong += 1
            if len(self.examples) < _EXAMPLES:
                where = " ".join(str(line[k]) for k in ("start", "act", "layer", "at", "what") if k in line)
                self.examples.append(f"{where}: {'; '.join(line['wrong'])}")

    def json(self) -> dict[str, Any]:
        return {
            "class": list(self.name),
            "cases": self.cases,
            "ended": dict(self.ended),
            "back": dict(self.back),
            "half_done": dict(self.found),
            "acts": dict(self.acts),
            "tokens_compared": self.compared,
            "without_rows": self.without_rows,
            "wrong": self.wrong,
            "examples": self.examples,
        }


@dataclass
class Tallies:
    """All classes, by name."""

    name_of: Callable[[dict[str, Any]], tuple[str, ...]]
    by_name: dict[tuple[str, ...], Tally] = field(default_factory=dict)

    def add(self, line: dict[str, Any]) -> None:
        name = self.name_of(line)
        self.by_name.setdefault(name, Tally(name)).add(line)

    @property
    def all(self) -> Sequence[Tally]:
        return [self.by_name[name] for name in sorted(self.by_name)]

    @property
    def total(self) -> Tally:
        """Everything in one."""
        whole = Tally(("all", ""))
        for tally in self.all:
            whole.cases += tally.cases
            whole.compared += tally.compared
            whole.without_rows += tally.without_rows
            whole.wrong += tally.wrong
            for mine, its in (
                (whole.ended, tally.ended),
                (whole.back, tally.back),
                (whole.found, tally.found),
                (whole.acts, tally.acts),
            ):
                mine.update(its)
            whole.examples += tally.examples
        return whole


def swept() -> Tallies:
    """Classes of a sweep: where it went wrong, and how."""
    return Tallies(lambda line: (line["layer"], line["harm"].lower().replace("_", " ")))


def killed() -> Tallies:
    """Classes of kills: what the mind was doing."""
    return Tallies(lambda line: (line["act"], ""))


def told(counted: Counter[str]) -> str:
    """Counts in words."""
    return ", ".join(f"{n} {what}" for what, n in counted.most_common())
