# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a report says in words: every sentence is put together from numbers, so none can outlive them.

Knows numbers and verdicts. Must not know files, HTML or Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from haloweave.bench.memory import cells
from haloweave.bench.memory.cells import Budgets
from haloweave.bench.memory.doubt import FEW
from haloweave.bench.memory.glossary import ASKED, BOOKS, FULL, HALO, LOSS, RECALL, metric
from haloweave.bench.memory.tables import Gap, Numbers, gap, shares
from haloweave.bench.memory.verdict import LOSES, PARTS, TIES, UNKNOWN, WINS, Bout, Standing, parts, standings

WANTED = 0.95
"""Share of full context's gain that recall is to reach."""
_SAID = (
    (WINS, "beats"),
    (TIES, "cannot be told from"),
    (LOSES, "loses to"),
    (UNKNOWN, "cannot be judged against"),
)
Sentences = Iterator[str]


def found(numbers: Numbers, budgets: Budgets) -> list[str]:
    """What came of it, the target first."""
    told = standings(numbers)
    return [
        *target(told, budgets),
        *standing(told, budgets),
        *_price(numbers, budgets),
        *_recalled(numbers, budgets),
        *_ablated(parts(numbers)),
    ]


def target(told: Sequence[Standing], budgets: Budgets) -> Sentences:
    """Whether the default beats all, where it does, and where it does not."""
    if not told:
        return
    holds = [_where(one, budgets) for one in told if one.holds]
    fails = [_where(one, budgets) for one in told if not one.holds and _lost(one)]
    open_ = [_where(one, budgets) for one in told if not one.holds and not _lost(one)]
    yield (
        "The target is that halo beats every baseline that only lets go, in loss over books and in evidence "
        f"that survives, each time by an interval that excludes zero, over {FEW} documents or more."
    )
    if holds:
        yield f"It holds for: {'; '.join(holds)}."
    if fails:
        yield f"It does not hold for: {'; '.join(fails)}."
    if open_:
        yield f"It cannot be judged for: {'; '.join(open_)} (few documents, or baselines that were not run)."


def _lost(one: Standing) -> bool:
    return bool(one.of(TIES) or one.of(LOSES))


def _where(one: Standing, budgets: Budgets) -> str:
    return f"{_what(one)} at {cells.rows(one.budget, budgets)}"


def _what(one: Standing) -> str:
    return f"{one.task} ({metric(one.metric).short})"


def standing(told: Sequence[Standing], budgets: Budgets) -> Sentences:
    """Task by task, against whom at which budget."""
    for what in dict.fromkeys(map(_what, told)):
        yield f"{what}: {' '.join(_against(one, budgets) for one in told if _what(one) == what)}"


def _against(one: Standing, budgets: Budgets) -> str:
    said = [f"{verb} {cells.listed(one.of(word))}" for word, verb in _SAID if one.of(word)]
    if one.missing:
        said.append(f"was not run against {cells.listed(list(one.missing))}")
    least = min((bout.gap.count.documents for bout in one.bouts), default=0)
    sure = "" if least >= FEW else ", too few to be sure"
    drawn = f" ({cells.documents(least)}{sure})" if one.bouts else ""
    return f"At {cells.rows(one.budget, budgets)} halo {'; '.join(said)}{drawn}."


def _price(numbers: Numbers, budgets: Budgets) -> Sentences:
    for budget in numbers.budgets(BOOKS, LOSS):
        arms = numbers.at(BOOKS, LOSS, budget)
        if HALO not in arms or FULL not in arms:
            continue
        one = gap(arms[HALO], arms[FULL])
        if one.count.numbers:
            yield (
                f"At {cells.rows(budget, budgets)} halo's loss over books differs from full context's by "
                f"{cells.interval(one.value, 3, '+')} nats per token, over {_over(one)}."
            )


def _recalled(numbers: Numbers, budgets: Budgets) -> Sentences:
    for task in ASKED:
        for budget in numbers.budgets(task, "answer"):
            one = shares(numbers, task, budget).get(RECALL)
            if one is not None:
                yield (
                    f"{task} at {cells.rows(budget, budgets)}: halo with recall has {cells.share(one.value)} "
                    f"of what full context gains in the answers' log-probability, over {_over(one)}; "
                    f"{_reached(one)}."
                )


def _reached(one: Gap) -> str:
    if one.value.value < WANTED:
        return f"{WANTED:.0%} is not reached"
    sure = not math.isnan(one.value.low) and one.value.low >= WANTED and not one.count.few
    return f"{WANTED:.0%} is reached" + ("" if sure else ", though less cannot be excluded")


def _ablated(told: Sequence[Bout]) -> Sentences:
    for arm, other in PARTS:
        these = [bout for bout in told if (bout.arm, bout.other) == (arm, other)]
        if these:
            counts = [f"{word} in {n}" for word in _EFFECTS if (n := sum(b.effect == word for b in these))]
            few = sum(not bout.sure for bout in these)
            unsure = f" ({few} of them over fewer than {FEW} documents)" if few else ""
            yield f"{arm} against {other}: {', '.join(counts)} of {len(these)} comparisons{unsure}."


_EFFECTS = ("helps", "no effect seen", "harms", UNKNOWN)


def _over(one: Gap) -> str:
    return f"{one.count.numbers:,} numbers of {cells.documents(one.count.documents)}"
