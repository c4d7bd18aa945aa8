# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Plans of few calls as table, Markdown and picture: which reach the mark, and which do not.

Knows results. Must not know how they were measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from haloweave.bench import markdown, plots
from haloweave.bench.reveal import ONE_BY_ONE, Mark, Revealed
from haloweave.diffusion.judging.intervals import Interval, ratio
from haloweave.diffusion.judging.judge import Variety

PICTURE, ENTROPY = "calls-and-perplexity.png", "calls-and-entropy.png"
COLUMNS = ("plan", "calls", "fewer", "judge's perplexity", "to the baseline", "entropy", "to the baseline")
MORE = ("distinct-1/2/3", "p50 ms", "reaches the mark")
SHORT = ("plan", "calls", "fewer", "judge's perplexity, to the baseline", "entropy", "reaches the mark")
"""What there is room for on a screen."""
_IN_SHORT = (0, 1, 2, 4, 5, 9)
_SHOWN = 3
"""Texts that a report quotes of each plan it quotes."""


def line(one: Revealed, baseline: Revealed, mark: Mark) -> tuple[dict[str, Any], list[str]]:
    """A record and the cells of a table."""
    worse, gap, fewer = one.worse(baseline), one.entropy_gap(baseline), one.fewer(baseline)
    reached = one.reaches(baseline, mark)
    record: dict[str, Any] = {"plan": one.plan, "steps": one.steps, "calls": one.latency.calls_per_sample}
    record |= {"fewer_calls": fewer, "perplexity": _plain(one.perplexity), "perplexity_ratio": _plain(worse)}
    record |= {"entropy": one.variety.entropy, "entropy_gap": gap.plain()}
    record |= {"distinct": list(one.variety.distinct), "p50_ms": one.latency.p50, "p99_ms": one.latency.p99}
    record |= {"tokens_per_second": one.latency.tokens_per_second, "reaches": reached}
    record |= {"surely": one.surely(baseline, mark)}
    said = "not judged" if reached is None else "no"
    said = "yes, surely" if record["surely"] else "yes" if reached else said
    cells = [one.plan, f"{one.latency.calls_per_sample:.1f}", f"{fewer:.1f}x", _doubt(one.perplexity, 1)]
    cells += [_doubt(worse, 3), f"{one.variety.entropy:.3f}", _doubt(gap, 3, "+")]
    cells += [distinct(one.variety), f"{one.latency.p50:.0f}", "baseline" if one is baseline else said]
    return record, cells


def short(cells: Sequence[str]) -> list[str]:
    return [cells[i] for i in _IN_SHORT]


def distinct(v: Variety) -> str:
    return " / ".join(f"{d:.2f}" for d in v.distinct)


def verdict(found: Sequence[Revealed], mark: Mark) -> str:
    """Which plans reach the mark, in one sentence."""
    wanted = (
        f"{mark.fewer:g} times fewer calls, at most {mark.worse:.0%} more perplexing with an interval that "
        f"allows for none, entropy within {mark.entropy:g} nats of the baseline's"
    )
    if found[0].said is None:
        return f"Nobody judged, so no plan can reach the mark ({wanted})."
    surely = {one.plan: one.surely(found[0], mark) for one in found[1:] if one.reaches(found[0], mark)}
    reached = [f"{plan} (surely)" if sure else plan for plan, sure in surely.items()]
    if not reached:
        return f"No plan reaches the mark ({wanted})."
    return f"These reach the mark ({wanted}): {'; '.join(reached)}."


def write(
    folder: Path,
    model: str,
    found: Sequence[Revealed],
    true: tuple[Variety, Interval],
    mark: Mark,
    provenance: Mapping[str, Any],
) -> None:
    """Raises CannotWrite, InvalidInput without matplotlib."""
    plots.wanted()
    pairs = [line(one, found[0], mark) for one in found]
    _pictures(folder, found, true)
    real = {"entropy": true[0].entropy, "distinct": list(true[0].distinct), "perplexity": true[1].plain()}
    told = {"provenance": dict(provenance), "model": model, "real": real}
    parts = _parts(model, found, [cells for _, cells in pairs], true, mark, provenance)
    markdown.write(folder, parts, {**told, "plans": [record for record, _ in pairs]})


def _parts(
    model: str,
    found: Sequence[Revealed],
    rows: Sequence[Sequence[str]],
    true: tuple[Variety, Interval],
    mark: Mark,
    provenance: Mapping[str, Any],
) -> Iterator[str]:
    count, length = found[0].latency.samples, round(_length(found[0]))
    yield f"# Reveal plans on `{model}`"
    yield verdict(found, mark)
    yield (
        f"{count} texts of {length} tokens under each plan, from nothing but masks, temperature 1, the same "
        f"seeds; the baseline reveals one token a step in the same order. Intervals are 95 %, over texts in "
        f"pairs. No text may end before its length."
    )
    yield markdown.told(provenance)
    real = [
        "real text",
        "",
        "",
        _doubt(true[1], 1),
        "",
        f"{true[0].entropy:.3f}",
        "",
        distinct(true[0]),
        "",
        "",
    ]
    yield markdown.table([*COLUMNS, *MORE], [*rows, real])
    if idle := unused(found):
        yield (
            f"These made the very texts of the plan without stop or threshold, as nothing ever was so sure: "
            f"{'; '.join(idle)}."
        )
    yield markdown.picture(PICTURE, "judge's perplexity against calls")
    yield markdown.picture(ENTROPY, "entropy against calls")
    yield "## Some texts\n\nThe first ones of some plans, so that nobody has to believe numbers alone."
    for one in _quoted(found):
        yield f"**{one.plan}**"
        yield "\n".join(f"* {_one_line(text)}" for text in one.texts[:_SHOWN])


def unused(found: Sequence[Revealed]) -> list[str]:
    """Plans whose stop or threshold never came to bear."""
    plain = {one.plan: one.texts for one in found}
    origin = {plan: ONE_BY_ONE if plan.startswith("surer") else plan.partition(",")[0] for plan in plain}
    return [plan for plan, texts in plain.items() if origin[plan] != plan and plain[origin[plan]] == texts]


def _length(one: Revealed) -> float:
    """Tokens of a text, from the pace."""
    return one.latency.calls_per_sample / one.latency.calls_per_token


def _quoted(found: Sequence[Revealed]) -> Sequence[Revealed]:
    """The baseline, the plan of middling calls, and that of fewest; fewer where there are no others."""
    by_calls = sorted(found[1:], key=lambda one: one.latency.calls_per_sample)
    others = (by_calls[len(by_calls) // 2], by_calls[0]) if by_calls else ()
    return [found[0], *{one.plan: one for one in others}.values()]


def _one_line(text: str) -> str:
    """A text inside backticks that it cannot leave."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def _pictures(folder: Path, found: Sequence[Revealed], true: tuple[Variety, Interval]) -> None:
    groups = {name: [p for p in found if _kind(p.plan) == name] for name in dict.fromkeys(map(_of, found))}
    calls = ("denoiser calls a text", "entropy, nats")
    entropies = {
        name: [plots.Point(p.plan, p.latency.calls_per_sample, *_entropy(p)) for p in points]
        for name, points in groups.items()
    }
    plots.trade(folder / ENTROPY, calls, entropies, levels={"real text": true[0].entropy}, logarithmic=True)
    judged = {
        name: [plots.Point(p.plan, p.latency.calls_per_sample, *_ends(p.perplexity)) for p in points]
        for name, points in groups.items()
    }
    level = {"real text": true[1].value} if math.isfinite(true[1].value) else {}
    labels = ("denoiser calls a text", "judge's perplexity")
    plots.trade(folder / PICTURE, labels, judged, levels=level, logarithmic=True)


def _kind(plan: str) -> str:
    if plan == ONE_BY_ONE:
        return plan
    if "surer" in plan:
        return "thresholds"
    return "steps and confidence stop" if "stop" in plan else "steps"


def _of(one: Revealed) -> str:
    return _kind(one.plan)


def _entropy(one: Revealed) -> tuple[float, float, float]:
    return _ends(ratio(one.entropies, [1.0] * len(one.entropies)))


def _ends(x: Interval | None) -> tuple[float, float, float]:
    """Value and ends to draw; without an interval, a point."""
    if x is None:
        return math.nan, math.nan, math.nan
    return (x.value, x.low, x.high) if math.isfinite(x.low) else (x.value, x.value, x.value)


def _plain(x: Interval | None) -> list[float | None] | None:
    return None if x is None else x.plain()


def _doubt(x: Interval | None, digits: int, sign: str = "") -> str:
    if x is None or not math.isfinite(x.value):
        return "not judged"
    doubt = f" ({x.low:{sign}.{digits}f} .. {x.high:{sign}.{digits}f})" if math.isfinite(x.low) else ""
    return f"{x.value:{sign}.{digits}f}{doubt}"
