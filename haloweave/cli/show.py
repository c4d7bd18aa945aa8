# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How a context looks on a terminal: meter, heat strip, coloured text, tables of reasons.

Knows rich, edits, and the plain values of `haloweave.look`. Must not know minds or sessions. Every colour
comes with its own background, so that dark and light terminals read the same; without colour the block
characters and marks still tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from haloweave import look
from haloweave.cli.tools import safe
from haloweave.memory.edit import Edit
from haloweave.memory.tokens import FULL, Source, View
from haloweave.mending import Stats
from haloweave.text import Codec, spell

if TYPE_CHECKING:
    from haloweave.journal.archive import Provenance

RAMP = (
    ("#b4b4cc", "#17172b"),
    ("#c4bfe0", "#2a2350"),
    ("#e2d3f0", "#4b2a6e"),
    ("#ffe6f6", "#7c2f74"),
    ("#ffffff", "#ad3b63"),
    ("#ffffff", "#c9513f"),
    ("#1a1000", "#f0953a"),
    ("#1a1000", "#ffd873"),
)
"""Text and background, from dim to bright."""

EMBERS = ("#55557a", "#655aa0", "#8a55b0", "#b555a5", "#dc5f7f", "#f07a50", "#f7a83f", "#ffe08a")
"""The same ramp for marks on `NIGHT`."""

NIGHT = "#12121c"
BLOCKS = "▁▂▃▄▅▆▇█"


def one_line(text: str, width: int = 60) -> str:
    """The text on one line, cut where it is too long."""
    flat = safe(" ".join(text.split()))
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def style_of(brightness: float, *, pinned: bool = False, dim: bool = False) -> Style:
    """How a token of this brightness is written; pinned ones stand out, control tokens stand back."""
    ink, paper = RAMP[look.level(brightness, len(RAMP))]
    return Style(color=ink, bgcolor=paper, bold=pinned, underline=pinned, italic=dim)


def coloured(view: View, codec: Codec, start: int = 0, stop: int | None = None) -> Text:
    """The context, or some slots of it, as the model reads it, each token as bright as it is."""
    text = Text()
    for token in look.tokens(view, codec)[start:stop]:
        style = style_of(token.brightness, pinned=token.pinned, dim=token.source in ("CONTROL", "MARKER"))
        text.append(safe(token.text), style)
    return text


def legend() -> Text:
    """What the colours say."""
    text = Text("dim ")
    for step in range(len(RAMP)):
        text.append(f" {step * 32:>3} ", style_of(step * 32 + 1))
    text.append(" bright   ")
    text.append("pinned", style_of(200, pinned=True)).append(" ")
    return text.append("frame", style_of(20, dim=True))


def strip(view: View, width: int) -> Text:
    """The context in one line: height and colour are brightness."""
    text = Text(no_wrap=True, end="")
    for brightness in look.strip(view, width):
        step = look.level(brightness, len(BLOCKS))
        text.append(BLOCKS[step], Style(color=EMBERS[step], bgcolor=NIGHT))
    return text


def meter(rows: int, budget: int, width: int = 20) -> Text:
    """How full the context is: a bar, and the numbers."""
    filled = min(round(rows / budget * width), width)
    text = Text(no_wrap=True)
    text.append("█" * filled, "cyan").append("░" * (width - filled), "dim cyan")
    return text.append(f" {rows}/{budget} rows", "bold")


def status(rows: int, budget: int, fed: int, culled: int, speed: float | None, width: int = 20) -> Text:
    """The one-line context meter."""
    text = meter(rows, budget, width).append(f" · fed {fed:,} · culled {culled:,}", "dim")
    return text.append(f" · {speed:.1f} tok/s", "dim") if speed else text


def sparkline(values: Sequence[float]) -> str:
    """Blocks from zero up, so that what is flat looks flat."""
    top = max(values, default=0.0)
    return "".join(BLOCKS[look.level(v / top * FULL, len(BLOCKS))] if top > 0 else BLOCKS[0] for v in values)


def reasons(found: Sequence[look.Why]) -> Table:
    """Why some tokens live."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("token", no_wrap=True, max_width=18)
    table.add_column("bright", justify="right")
    table.add_column("above", justify="right")
    table.add_column("age", justify="right")
    table.add_column("source")
    table.add_column("why", ratio=1)
    for why in found:
        token = why.token
        table.add_row(
            Text(_quoted(token.text), style_of(token.brightness, pinned=token.pinned)),
            f"{token.brightness:.0f}",
            f"{why.rank:.0f}%",
            f"{token.age:,}",
            token.source.lower(),
            "; ".join(why.reasons),
        )
    return table


def whose(source: Source) -> str:
    """Who wrote something, to the person."""
    who = {
        Source.USER: "what you said",
        Source.MODEL: "what it said itself",
        Source.SYSTEM: "the system turn",
    }
    return who.get(source, f"a {source.name.lower()}")


def kind(source: Source) -> str:
    """What sort of text it is, to the person."""
    return "text" if source is Source.TEXT else f"{source.name.lower()} text"


def provenance(told: Provenance) -> str:
    """Where a memory comes from, in words."""
    culled = f", culled from tick {told.culls[0].tick} on" if told.culls else ""
    times = f", recalled {len(told.recalls)} times" if len(told.recalls) > 1 else ""
    around = f" It stood after “{one_line(told.before[-60:], 60)}”." if told.before.strip() else ""
    text = one_line(told.passage.text, 120)
    return f"“{text}”: {whose(told.source)} at tick {told.ticks[0]}{culled}{times}.{around}"


def changes(edit: Edit, codec: Codec) -> list[str]:
    """What an edit made of the text, place by place: “old” → “new”."""
    sides = (
        (spell(codec, s.old.token_id.tolist()), spell(codec, s.new.token_id.tolist())) for s in edit.splices
    )
    return [f"{_quoted(old)} → {_quoted(new)}" for old, new in sides]


def repairs_line(stats: Stats) -> str:
    """What repair did, in one line."""
    lost = f", {stats.dropped:,} dropped" if stats.dropped else ""
    failed = f", {stats.failures:,} failures" if stats.failures else ""
    return (
        f"{stats.applied:,} places, of {stats.scars:,} scars seen ({stats.waiting:,} waiting{lost}){failed}"
    )


def repairs(stats: Stats) -> list[tuple[str, str]]:
    """What repair did, figure by figure."""
    state = {"closed": "at work", "open": "failed, and waits for its next try", "spent": "stopped for good"}
    return [
        ("repair", state[stats.state]),
        ("scars", f"{stats.scars:,} seen, {stats.waiting:,} waiting, {stats.dropped:,} dropped"),
        ("windows", f"{stats.windows:,} asked, {stats.p50:.2f} s each (p99 {stats.p99:.2f} s)"),
        ("proposals", f"{stats.proposals:,}: {stats.applied:,} applied, {stats.stale:,} stale"),
        ("gain", f"{stats.gain:,.1f} nats"),
        ("failures", f"{stats.failures:,}"),
        ("busy", f"{stats.seconds:,.1f} s"),
    ]


def _quoted(text: str) -> str:
    return "“" + safe(text.replace("\n", "⏎").replace("\t", "⇥")) + "”"


def show_whole(out: Console, view: View, codec: Codec) -> None:
    """The whole context, coloured, with its legend; unbroken where it goes to a file."""
    out.print(coloured(view, codec), soft_wrap=not out.is_terminal)
    if out.color_system:
        out.print()
        out.print(legend())


class Wrapper:
    """Breaks words that come in pieces at the width of the terminal, without waiting for their line."""

    def __init__(self, width: int) -> None:
        self._width, self._column, self._word = max(width, 8), 0, ""

    def push(self, text: str) -> str:
        """More text; what may be printed now. A word is printed once it is known where it ends."""
        out = ""
        for char in text:
            if char.isspace():
                out += self._place() + self._space(char)
            else:
                self._word += char
                if len(self._word) >= self._width:
                    out += self._place()
        return out

    def flush(self) -> str:
        """The last word."""
        return self._place()

    def _place(self) -> str:
        word, self._word = self._word, ""
        if not word:
            return ""
        fits = self._column + len(word) <= self._width
        self._column = self._column + len(word) if fits else len(word)
        return word if fits else "\n" + word

    def _space(self, char: str) -> str:
        if char == "\n":
            self._column = 0
            return char
        self._column += 1
        if self._column > self._width:
            self._column = 0
            return "\n"
        return char
