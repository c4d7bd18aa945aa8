# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What was measured of denoisers, as tables for people and as plain values for JSON.

Knows results and rich. Must not know how anything is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from haloweave.cli.tabular import interval as _interval
from haloweave.cli.tabular import percent as _percent
from haloweave.cli.tabular import table as _table
from haloweave.diffusion.judging.intervals import Interval

if TYPE_CHECKING:
    from haloweave.diffusion.compare import Comparison, Result
    from haloweave.diffusion.evaluate import Evaluation
    from haloweave.diffusion.judging.generation import Generation
    from haloweave.diffusion.judging.judge import Judged
    from haloweave.diffusion.judging.timing import Latency

_TRUSTED = "a low perplexity means something only where the entropy is near real text's; here it is"
_WORTHLESS = (
    "the samples' entropy is far below real text's: their perplexity is worthless, however low (they repeat "
    "themselves)"
)


def plain(value: Any) -> Any:
    """Values as JSON has them: intervals as [value, low, high], what is not finite as null."""
    if isinstance(value, Interval):
        return value.plain()
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluation_plain(e: Evaluation) -> dict[str, Any]:
    """One object; rows and puzzles left out."""
    told = {f.name: plain(getattr(e, f.name)) for f in fields(e) if f.name not in ("nats", "filled")}
    if e.generation is not None:
        told["generation"]["believable"] = e.generation.believable
    return told


def comparison_plain(c: Comparison) -> dict[str, Any]:
    """One object."""
    results = {
        name: {
            **evaluation_plain(r.evaluation),
            "training_tokens_per_second": r.speed.training,
            "sampling_tokens_per_second": r.speed.sampling,
            "training_step_bytes": r.speed.step_bytes,
            "cost_exponent": plain(r.speed.exponent),
            "seconds_by_length": plain(r.speed.seconds_by_length),
            "slot_entropy": plain(r.slot_entropy),
        }
        for name, r in c.results.items()
    }
    rest = {"gaps": plain(c.gaps), "decisions": plain(c.decisions), "mismatches": list(c.mismatches)}
    return {"primary": c.primary, **rest, "results": results}


def evaluation_tables(e: Evaluation) -> Iterator[Table | str]:
    """What a person should see, top to bottom."""
    yield _bound(e)
    yield _how(e)
    if e.infill:
        yield _infill(e)
    if e.generation is not None:
        yield from _generation(e.generation)
    yield (
        f"{e.parameters / 1e6:.2f} M parameters, {e.weight_bytes / 1e6:.1f} MB of weights; a call on one row "
        f"takes {e.call_bytes / 1e6:.1f} MB beside them"
    )


def _bound(e: Evaluation) -> Table:
    b = e.bound
    table = _table("likelihood", "", "95 %")
    table.add_row("perplexity, at most", *_interval(b.perplexity, 2))
    table.add_row("bits per byte, at most", *_interval(b.bits_per_byte, 3))
    if len(b.scripts) > 1:
        for name, bits in b.scripts.items():
            table.add_row(f"  {name}", *_interval(bits, 3))
    table.add_row("calibration error", f"{e.calibration.error:.3f}", "")
    return table


def _how(e: Evaluation) -> str:
    b, c = e.bound, e.calibration
    return (
        f"per token, from the NELBO of {b.blocks} blocks, intervals over {b.units} {b.unit}; predictions are "
        f"{c.confidence:.1%} sure and {c.accuracy:.1%} right ({c.count:,} of them)"
    )


def _infill(e: Evaluation) -> Table:
    table = _table("infilling", "exact", "95 %", "word overlap", "95 %", *_CLOCK)
    for kind, s in e.infill.items():
        name = f"holes of {kind}" if kind.isdecimal() else f"{kind} holes"
        exact, overlap = _interval(s.exact, 3), _interval(s.overlap, 3)
        table.add_row(f"{name} ({s.holes})", *exact, *overlap, *_clock(s.latency))
    return table


def _generation(g: Generation) -> Iterator[Table | str]:
    table = _table(f"texts of {g.length} tokens", "judge's perplexity", "95 %", "entropy", "distinct-1/2/3")
    for name, found in (("generated", g.made), ("real", g.real)):
        perplexity = ("not judged", "") if found.perplexity is None else _interval(found.perplexity, 1)
        table.add_row(f"{name} ({found.texts})", *perplexity, *_variety(found))
    yield table
    yield f"entropy in nats; {_TRUSTED if g.believable else _WORTHLESS}"
    yield (
        f"variety is of beginnings of equal length; {g.ended} of {g.made.texts} texts ended by themselves, a "
        f"text has {g.tokens:.0f} tokens on average"
    )
    yield _words(g)
    speed = _table("generating", "tok/s", "95 %", *_CLOCK)
    speed.add_row("one at a time", *_interval(g.latency.speed, 0), *_clock(g.latency))
    yield speed


def _words(g: Generation) -> Table:
    table = _table("words by script", "words", "mixed in one word", "95 %", "Devanagari", "Latin")
    for name, found in (("generated", g.made_words), ("real", g.real_words)):
        share = ("no words", "") if found.mixing is None else _percent(found.mixing)
        kinds = (f"{n / max(found.count, 1):.1%}" for n in (found.devanagari, found.latin))
        table.add_row(name, f"{found.count:,}", *share, *kinds)
    return table


_CLOCK = ("p50 ms", "95 %", "p99 ms", "calls", "calls/token")


def _clock(x: Latency) -> tuple[str, ...]:
    """The p99 of a few samples is the slowest of them, so it is told of how many."""
    late = f"{x.p99:,.1f} (of {x.samples})"
    return *_interval(x.typical, 1), late, f"{x.calls_per_sample:.1f}", f"{x.calls_per_token:.3f}"


def _variety(found: Judged) -> tuple[str, str]:
    v = found.variety
    return f"{v.entropy:.3f}", " / ".join(f"{d:.3f}" for d in v.distinct)


def comparison_tables(c: Comparison) -> Iterator[Table | str]:
    """Numbers side by side, then each rule, then the decision."""
    for odd in c.mismatches:
        yield f"not matched: {odd}"
    yield _side_by_side(c)
    for name, decision in c.decisions.items():
        table = _table(f"may {name} replace {next(iter(c.results))}?", "rule", "measured", "")
        for o in decision.outcomes:
            table.add_row(o.rule, o.wanted, o.got, "FAILS" if o.verdict == "fails" else o.verdict)
        yield table
    yield f"decision: {c.primary} is the primary denoiser"


def _side_by_side(c: Comparison) -> Table:
    table = _table("", *c.results)
    results = list(c.results.values())
    for label, value in _LINES.items():
        table.add_row(label, *[value(r) for r in results])
    for kind in results[0].evaluation.infill:
        told = [_doubt(r.evaluation.infill[kind].exact, 3) for r in results]
        table.add_row(f"exact match, holes: {kind}", *told)
    gaps = list(c.gaps.values())
    table.add_row("bits per byte, to the first", "", *[_doubt(g.bits_per_byte, 4, "+") for g in gaps])
    table.add_row("training speed, to the first", "", *[f"{_doubt(g.training, 2)} x" for g in gaps])
    for kind in gaps[0].exact:
        table.add_row(f"holes: {kind}, to the first", "", *[_doubt(g.exact[kind], 3, "+") for g in gaps])
    return table


def _doubt(x: Interval, digits: int, sign: str = "") -> str:
    if not math.isfinite(x.low):
        return f"{x.value:{sign}.{digits}f}"
    return f"{x.value:{sign}.{digits}f} ({x.low:{sign}.{digits}f} .. {x.high:{sign}.{digits}f})"


def _slots(r: Result) -> str:
    return "none" if not r.slot_entropy else " ".join(f"{s:.2f}" for s in r.slot_entropy)


def _perplexity(r: Result) -> str:
    g = r.evaluation.generation
    if g is None or g.made.perplexity is None:
        return "not judged"
    doubt = "" if g.believable else "; worthless: low entropy"
    return f"{g.made.perplexity.value:,.1f} (entropy {g.made.variety.entropy:.2f}{doubt})"


_LINES: Mapping[str, Callable[[Result], str]] = {
    "parameters": lambda r: f"{r.evaluation.parameters:,}",
    "perplexity, at most": lambda r: _doubt(r.evaluation.bound.perplexity, 2),
    "bits per byte, at most": lambda r: _doubt(r.evaluation.bound.bits_per_byte, 4),
    "calibration error": lambda r: f"{r.evaluation.calibration.error:.3f}",
    "judge's perplexity": _perplexity,
    "training, tok/s": lambda r: f"{r.speed.training:,.0f}",
    "sampling, tok/s": lambda r: f"{r.speed.sampling:,.0f}",
    "cost of a call ~ T to the": lambda r: f"{r.speed.exponent:.2f}",
    "peak MB, a call": lambda r: f"{r.evaluation.call_bytes / 1e6:.1f}",
    "peak MB, a training step": lambda r: f"{r.speed.step_bytes / 1e6:.1f}",
    "slot use, nats by block": _slots,
}
