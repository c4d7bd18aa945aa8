# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo repair`: a text and a heat map in, a diff out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haloweave.cli import options
from haloweave.cli.options import Speaker, settings_of
from haloweave.cli.tools import Tools, tools_of
from haloweave.errors import InvalidInput
from haloweave.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    from haloweave.repair.base import Repairer
    from haloweave.repair.diff import Change
    from haloweave.text import Codec

_WHOLE = 400
"""Tokens up to which a text is shown whole; of longer ones, what surrounds the changes."""
_AROUND = 16

Content = Annotated[
    str, typer.Option("--text", metavar="FILE", help="The text to repair; - is standard input.")
]
Heat = Annotated[
    str | None,
    typer.Option(
        "--heat",
        metavar="FILE|NUMBER",
        help="How far each token may change, 0 to 1, one number a token: a .npy array or a JSON list. "
        "A number of your own: all alike.",
    ),
]
Auto = Annotated[
    bool, typer.Option("--auto", help="Take the heat from the model's attention as it reads the text.")
]
By = Annotated[
    str,
    typer.Option(
        "--repairer",
        help="Who proposes: mlm, a small masked LM; self, the model itself; denoiser, one over its own "
        "tokens (needs --repair-model).",
    ),
]
Lock = Annotated[
    float,
    typer.Option("--lock", min=0, max=1, help="Tokens this bright (1 - heat) or brighter never change."),
]
Margin = Annotated[
    float | None,
    typer.Option(
        "--margin",
        metavar="NATS",
        min=0,
        help="How much better the model must find the text. "
        f"({Settings.model_fields['repair_margin'].default}; HALO_REPAIR_MARGIN)",
    ),
]
Gate = Annotated[
    bool, typer.Option("--gate/--no-gate", help="Let only that through which the model finds better.")
]


def repair(
    context: typer.Context,
    text: Content,
    heat: Heat = None,
    auto: Auto = False,
    by: By = "mlm",
    repair_model: options.RepairModel = None,
    lock: Lock = 0.8,
    margin: Margin = None,
    gate: Gate = True,
    model: options.Model = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Repair a text where a heat map says it may change, and show the diff.

    Heat is 1 - brightness: 0 for what must stay, 1 for what nobody looks at. It comes from a file, one number
    for each of the model's tokens, or with --auto from the model's own attention.

    Numbers, names, negations, code, addresses and quotations are never changed, however hot. The text never
    grows. With --json, one line a change, then a summary with the text as it became.
    """
    tools = tools_of(context)
    if (heat is None) != auto:
        raise InvalidInput(
            f"heat: expected --heat FILE (numbers, one a token) or --auto (the model's attention), "
            f"got {'both' if auto else 'neither'}"
        )
    s = settings_of(model=model, repair_model=repair_model, threads=threads)
    chosen = {} if margin is None else {"margin": margin}
    outcome = _repaired(tools, s, text, heat, lock, {"name": by, "gated": gate, **chosen})
    if as_json:
        _tell_script(tools, outcome)
    else:
        _tell_person(tools, outcome)


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What became of a text."""

    codec: Codec
    ids: list[int]
    heat: np.ndarray
    """As it was given; what is guarded or locked has kept its own."""
    changes: tuple[Change, ...]
    guarded: int
    """Tokens that were hot enough to change, and guarded."""
    seconds: float
    """Spent repairing."""


def _repaired(
    tools: Tools, s: Settings, name: str, heat: str | None, lock: float, how: dict[str, Any]
) -> _Outcome:
    """Read, load, repair. What can be refused without the model is refused before it is loaded."""
    import numpy as np

    from haloweave import build
    from haloweave.cli import heat as heatmap
    from haloweave.cli.waiting import reporting
    from haloweave.engine.hf.text import HFCodec
    from haloweave.repair.base import checked_heat

    content = _read(tools, name)
    given = None if heat is None else heatmap.given(heat)
    with reporting(tools, f"loading {s.model}") as report:
        loaded = build.load_model(s, report)
        codec = HFCodec(loaded.tokenizer)
        ids = codec.encode([content])[0]
        if given is None:
            given = heatmap.of_attention(s, loaded, ids, report)
        column = checked_heat(given if given.ndim else np.full(len(ids), given), len(ids))
        report(f"repairing {len(ids):,} tokens", 0, len(ids))
        repairer = build.repairer(s, loaded, codec, **how)
        return _outcome(tools, codec, ids, column, repairer, lock)


def _outcome(
    tools: Tools, codec: Codec, ids: list[int], heat: np.ndarray, repairer: Repairer, lock: float
) -> _Outcome:
    """The guard is asked about the whole text too: a window may not show where a quotation began."""
    import numpy as np

    from haloweave.repair import diff, guard

    began = time.perf_counter()
    guarded = guard.positions(codec, ids)
    found = diff.repair(ids, np.where(guarded, np.float32(0), heat), repairer, lock=lock)
    kept = guard.upheld(codec, ids, found)
    if len(kept) < len(found):
        tools.say(f"note: {len(found) - len(kept)} changes withheld, they would alter what is guarded")
    hot = int((guarded & (heat > np.float32(1 - lock))).sum())
    return _Outcome(codec, ids, heat, kept, hot, time.perf_counter() - began)


def _read(tools: Tools, name: str) -> str:
    from haloweave.cli.reading import turns

    ((reader, _),) = turns([name], Speaker.TEXT)
    content = "".join(reader)
    if reader.interrupted:
        raise KeyboardInterrupt
    if not content.strip():
        raise InvalidInput(f"{reader.name}: nothing to repair, it is empty or blank")
    if reader.bad:
        tools.say(f"note: {reader.name}: {reader.bad:,} of {reader.size:,} bytes are not UTF-8, read as �")
    return content


# ---- telling ------------------------------------------------------------------------------------------


def _tell_script(tools: Tools, o: _Outcome) -> None:
    from haloweave.cli.report import emit
    from haloweave.repair.diff import applied
    from haloweave.text import spell

    for c in o.changes:
        new = None if c.new_id is None else spell(o.codec, [c.new_id])
        line = {"index": c.index, "old_id": c.old_id, "old": spell(o.codec, [c.old_id]), "new_id": c.new_id}
        emit(tools, {**line, "new": new, "heat": round(c.heat, 6), "gain": round(c.gain, 6)})
    after = applied(o.ids, o.changes)
    figures = {
        "event": "summary",
        "tokens": len(o.ids),
        "tokens_after": len(after),
        "changes": len(o.changes),
        "gain": round(sum(c.gain for c in o.changes), 6),
        "guarded": o.guarded,
        "seconds": round(o.seconds, 3),
        "text": spell(o.codec, after.tolist()),
    }
    emit(tools, figures)


def _tell_person(tools: Tools, o: _Outcome) -> None:
    out = tools.out
    if o.changes and out.color_system:
        out.print("before: the darker, the hotter; what is struck goes", style="dim")
        out.print(_before(o), soft_wrap=not out.is_terminal)
        out.print("\nafter: what is green is new", style="dim")
        out.print(_after(o), soft_wrap=not out.is_terminal)
        out.print()
    elif o.changes:
        out.print(_marked(o), soft_wrap=not out.is_terminal)
        out.print()
    if o.changes:
        out.print(_table(o))
        out.print()
    tools.tell(_summary(o))


def _summary(o: _Outcome) -> str:
    gone = sum(c.new_id is None for c in o.changes)
    gain = sum(c.gain for c in o.changes)
    did = f"{len(o.changes) - gone:,} replaced, {gone:,} removed" if o.changes else "nothing changed"
    won = f", {gain:+.2f} nats" if o.changes else ""
    return f"{did} of {len(o.ids):,} tokens{won}; {o.guarded:,} guarded"


def _before(o: _Outcome) -> Text:
    """The text as it was, as bright as it is cool."""
    from rich.style import Style
    from rich.text import Text

    from haloweave.cli import show
    from haloweave.memory.tokens import FULL

    gone = Style(color="#b00020", bgcolor="#ffffff", strike=True)
    changed = {c.index for c in o.changes}
    shown = _glyphs(o.codec, o.ids)
    text = Text()
    for part in _parts(o):
        for i in part:
            dim = show.style_of((1 - float(o.heat[i])) * FULL)
            _append(text, shown[i], gone if i in changed else dim, dim)
        text.append(_ellipsis(o, part))
    return _trimmed(text)


def _after(o: _Outcome) -> Text:
    from rich.style import Style
    from rich.text import Text

    fresh = Style(color="#06210f", bgcolor="#7fd89a", bold=True)
    was, now = _glyphs(o.codec, o.ids), _new_glyphs(o)
    text = Text()
    for part in _parts(o):
        for i in part:
            _append(text, now.get(i, was[i]), fresh if i in now else "", "")
        text.append(_ellipsis(o, part))
    return _trimmed(text)


def _append(text: Text, token: str, style: Style | str, space: Style | str) -> None:
    """A token, with the white space before it in a style of its own."""
    word = token.lstrip()
    text.append(token[: len(token) - len(word)], space)
    text.append(word, style)


def _marked(o: _Outcome) -> Text:
    """Both in one, for where there is no colour: {-what goes-}{+what comes+}."""
    from rich.text import Text

    was, now = _glyphs(o.codec, o.ids), _new_glyphs(o)
    text = Text()
    for part in _parts(o):
        for changed, run in groupby(part, key=now.__contains__):
            where = list(run)
            old = "".join(was[i] for i in where)
            text.append(_word_diff(old, "".join(now[i] for i in where)) if changed else old)
        text.append(_ellipsis(o, part))
    return _trimmed(text)


def _trimmed(text: Text) -> Text:
    text.rstrip()
    return text


def _word_diff(old: str, new: str) -> str:
    space = old[: len(old) - len(old.lstrip())]
    if not new.startswith(space) or not new.strip():
        space = ""
    old, new = old.removeprefix(space), new.removeprefix(space)
    return f"{space}{{-{old}-}}" + (f"{{+{new}+}}" if new else "")


def _parts(o: _Outcome) -> list[range]:
    """What is shown: all of a short text, of a long one what surrounds the changes."""
    if len(o.ids) <= _WHOLE:
        return [range(len(o.ids))]
    parts: list[range] = []
    for c in o.changes:
        start, stop = max(c.index - _AROUND, 0), min(c.index + _AROUND + 1, len(o.ids))
        if parts and start <= parts[-1].stop:
            parts[-1] = range(parts[-1].start, stop)
        else:
            parts.append(range(start, stop))
    return parts


def _ellipsis(o: _Outcome, part: range) -> str:
    return " […]\n" if len(o.ids) > _WHOLE and part.stop < len(o.ids) else ""


def _glyphs(codec: Codec, ids: Sequence[int]) -> list[str]:
    from haloweave.cli.tools import safe
    from haloweave.look import glyphs

    return [safe(g) for g in glyphs(codec, ids)]


def _new_glyphs(o: _Outcome) -> dict[int, str]:
    """What stands at each changed index now; nothing where the token goes."""
    new = [(c.index, c.new_id) for c in o.changes if c.new_id is not None]
    shown = dict(zip((i for i, _ in new), _glyphs(o.codec, [t for _, t in new]), strict=True))
    return {c.index: shown.get(c.index, "") for c in o.changes}


def _table(o: _Outcome) -> Table:
    from rich.table import Table

    was, now = _glyphs(o.codec, o.ids), _new_glyphs(o)
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("index", justify="right", no_wrap=True)
    table.add_column("old", no_wrap=True, max_width=18)
    table.add_column("new", no_wrap=True, max_width=18)
    table.add_column("heat", justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    for c in o.changes:
        new = "(gone)" if c.new_id is None else _quoted(now[c.index])
        table.add_row(f"{c.index:,}", _quoted(was[c.index]), new, f"{c.heat:.2f}", f"{c.gain:+.2f}")
    return table


def _quoted(text: str) -> str:
    return "“" + text.replace("\n", "⏎").replace("\t", "⇥") + "”"
