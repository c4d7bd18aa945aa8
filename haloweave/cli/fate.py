# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What became of what was read: the living in their colours, the dead struck through, where each stood.

Knows moments, look and how things look. Bounded by what it is asked to remember: for short streams, as in the
demo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.style import Style
from rich.text import Text

from haloweave import look
from haloweave.cli import show
from haloweave.cli.session import Moment
from haloweave.cli.tools import safe
from haloweave.events import Fed
from haloweave.memory.tokens import Source, View
from haloweave.text import Codec

_DEAD = Style(color="#8a6f6f", strike=True)


@dataclass(frozen=True)
class _Once:
    """A token as it was fed."""

    uid: int
    token_id: int
    source: int


class Fate:
    """Watch a reading, then see what became of it."""

    def __init__(self) -> None:
        self._fed: list[_Once] = []

    def watch(self, moment: Moment) -> None:
        """One moment of the reading."""
        if not isinstance(moment.event, Fed):
            return
        new = moment.view.tokens[len(moment.view.tokens) - moment.event.tokens :]
        columns = zip(new.uid.tolist(), new.token_id.tolist(), new.source.tolist(), strict=True)
        self._fed += [_Once(*row) for row in columns]

    def passage(self, view: View, codec: Codec, source: Source, tokens: int, *, colour: bool) -> Text:
        """The `tokens` neighbouring tokens of `source` among whom the living and the dead mix most."""
        whose = [t for t in self._fed if t.source == source]
        alive = dict(zip(view.tokens.uid.tolist(), view.tokens.brightness.tolist(), strict=True))
        lives = np.array([t.uid in alive for t in whose], np.float64)
        start = _most_mixed(lives, tokens)
        some = whose[start : start + tokens]
        return _drawn(some, look.glyphs(codec, [t.token_id for t in some]), alive, colour)


def _most_mixed(lives: np.ndarray, width: int) -> int:
    """Where most of `width` neighbouring tokens have another fate than the one before (the first such)."""
    if len(lives) <= width:
        return 0
    total = np.concatenate([[0.0, 0.0], np.cumsum(np.abs(np.diff(lives)))])
    return int(np.argmax(total[width:] - total[:-width]))


def _drawn(some: list[_Once], glyphs: list[str], alive: dict[int, float], colour: bool) -> Text:
    text = Text()
    for token, glyph in zip(some, glyphs, strict=True):
        shown = safe(glyph)
        if token.uid in alive:
            text.append(shown, show.style_of(alive[token.uid]))
        else:
            text.append(shown if colour else "".join(c if c.isspace() else "·" for c in shown), _DEAD)
    return text
