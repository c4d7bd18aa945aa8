# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Which pictures a report has, drawn into its folder: of what was measured, and of nothing else.

Knows numbers, names and pictures. Must not know how anything was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from haloweave.bench.memory import cells, curves, glossary, pictures
from haloweave.bench.memory.blocks import Picture
from haloweave.bench.memory.cells import Budgets
from haloweave.bench.memory.curves import Curve
from haloweave.bench.memory.glossary import ALIVE, BOOKS, EXACT, HALO, KL, LOSS, PACE, SCALE, SPEED, metric
from haloweave.bench.memory.pictures import Differences, Panel
from haloweave.bench.memory.tables import Numbers
from haloweave.bench.memory.verdict import Bout, Standing

QUALITY, VERDICT, PARTS = "quality.png", "verdict.png", "parts.png"
_DISTANCE = "distance of what is asked for, in budgets"
_READ = "tokens read"
_CONTROLS = ("cull", "halo+random")


class Gallery:
    """Draws into one folder; the same arm looks the same everywhere. Raises CannotWrite."""

    def __init__(self, folder: Path, numbers: Numbers, budgets: Budgets) -> None:
        self._folder, self._numbers, self._budgets = folder, numbers, budgets
        self._looks = pictures.arms_looks(numbers.arms())

    def _shown(self, told: Iterable[Curve]) -> list[Curve]:
        """Controls are shown among the parts: of curves there are many enough."""
        return sorted((c for c in told if c.arm not in _CONTROLS), key=lambda c: glossary.order(c.arm))

    def quality(self) -> Iterator[Picture]:
        """Loss against rows, to full context's."""
        told = self._shown(curves.quality(self._numbers))
        if told:
            y = f"loss above full context's, {metric(LOSS).unit}"
            panel = Panel("books", "rows of the budget", y, told, level=("full context", 0.0))
            yield self._curves(QUALITY, [[panel]], "loss above full context's, against rows")

    def recall(self, task: str) -> Iterator[Picture]:
        """What is known of what was said, against how long ago; a column a budget."""
        rows = [self._recalled(task, name) for name in (EXACT, ALIVE)]
        rows.append(self._gained(task))
        shown = [row for row in rows if any(panel.curves for panel in row)]
        if shown:
            yield self._curves(f"recall-{task}.png", shown, f"{task}: recall against distance")

    def _recalled(self, task: str, name: str) -> list[Panel]:
        y = {EXACT: "greedy reply has the answer", ALIVE: "evidence still in context"}[name]
        return [
            Panel(self._at(task, budget), _DISTANCE, f"{y}, share", told, shares=True)
            for budget in self._numbers.budgets(task, name)
            if (told := self._shown(curves.recall(self._numbers, task, name, budget))) and budget
        ]

    def _gained(self, task: str) -> list[Panel]:
        return [
            Panel(self._at(task, budget), _DISTANCE, "share of full context's gain", told)
            for budget in self._numbers.budgets(task, "answer")
            if budget and (told := self._shown(curves.gained(self._numbers, task, budget)))
        ]

    def drift(self) -> Iterator[Picture]:
        """Divergence from full context against tokens read."""
        said = "divergence from full context"
        yield from self._along(self._numbers, (BOOKS, KL), "drift-books.png", said, _READ)

    def pace(self) -> Iterator[Picture]:
        said = "pace of reading"
        yield from self._along(self._numbers, (SPEED, PACE), "pace.png", said, _READ)

    def along(self, task: str, name: str, kind: str) -> Iterator[Picture]:
        """Any metric of things of one kind that has places."""
        safe = "".join(c for c in f"{task}-{name}-{kind}" if c.isascii() and (c.isalnum() or c in "-_"))
        numbers = self._numbers.of_kind(task, name, kind)
        said = f"{metric(name).short} ({kind})" if kind else metric(name).short
        yield from self._along(numbers, (task, name), f"{safe.strip('-')}.png", said, "tokens")

    def _along(
        self, numbers: Numbers, what: tuple[str, str], file: str, said: str, x: str
    ) -> Iterator[Picture]:
        unit = metric(what[1]).unit
        panels = [
            Panel(self._at(what[0], budget), x, f"{said}, {unit}" if unit else said, told, grows=True)
            for budget in numbers.budgets(*what)
            if (told := self._shown(curves.along(numbers, *what, budget)))
        ]
        if panels:
            yield self._curves(file, [panels], f"{what[0]}: {said} against {x}")

    def scale(self) -> Iterator[Picture]:
        """Costs over histories, and what their laws say beyond; dashed where nothing was measured."""
        from haloweave.bench.scale import breaks, page  # brings torch

        laws = breaks.fits(breaks.curves(self._numbers.records(SCALE)))
        for file, (unit, names) in page._DRAWN.items():
            if laws.keys() & set(names):
                page.draw(self._folder / file, laws, file)
                yield Picture(
                    file, f"scale: {unit} against tokens of history; dashed: computed by fitted laws"
                )

    def verdict(self, told: Sequence[Standing]) -> Iterator[Picture]:
        """Halo less each baseline."""
        fought = [bout for one in told for bout in one.bouts]
        yield from self._forest(VERDICT, fought, f"{HALO} less each baseline, with intervals", by_arm=False)

    def parts(self, told: Sequence[Bout]) -> Iterator[Picture]:
        yield from self._forest(PARTS, told, "what each part changes, with intervals", by_arm=True)

    def _forest(self, file: str, told: Sequence[Bout], what: str, *, by_arm: bool) -> Iterator[Picture]:
        found = [bout for bout in told if bout.gap.count.numbers]
        of = dict.fromkeys((bout.task, bout.metric) for bout in found)
        panels = [
            self._differences([bout for bout in found if (bout.task, bout.metric) == one], by_arm)
            for one in of
        ]
        if panels:
            pictures.forest(self._folder / file, panels)
            yield Picture(file, what)

    def _differences(self, told: Sequence[Bout], by_arm: bool) -> Differences:
        first, what = told[0], metric(told[0].metric)
        names = {bout: f"{bout.arm} - {bout.other}" if by_arm else bout.other for bout in told}
        series = {
            cells.rows(budget, self._budgets): {
                names[bout]: bout.gap.value for bout in told if bout.budget == budget
            }
            for budget in dict.fromkeys(bout.budget for bout in told)
        }
        side = {1: "right is better", -1: "left is better", 0: ""}[what.better]
        x = f"{'difference' if by_arm else f'{HALO} - baseline'}, {what.unit}: {side}"
        return Differences(f"{first.task}: {first.metric}", x, list(dict.fromkeys(names.values())), series)

    def _curves(self, file: str, panels: Sequence[Sequence[Panel]], what: str) -> Picture:
        pictures.curves(self._folder / file, panels, self._looks)
        return Picture(file, what)

    def _at(self, task: str, budget: int) -> str:
        return f"{task}, {cells.rows(budget, self._budgets)}"
