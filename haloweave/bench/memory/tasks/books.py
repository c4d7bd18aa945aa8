# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Running text out of books: stretches that begin with a paragraph, none read twice.

Knows files and paragraphs. Must not know tokens beyond what `size` says. A stretch holds more text than asked
for; whoever reads it cuts it at exactly so many tokens of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from haloweave.bench.memory.cases import Case, Piece
from haloweave.bench.memory.tasks.script import checked, distinct, named
from haloweave.corpus import book, files
from haloweave.errors import InvalidInput
from haloweave.memory.tokens import Source

TASK = "books"
CHARACTERS = 8
"""Given for each token that is asked for: English has four to five of them to a token."""
_PROSE = (".txt", ".md")
_FRONT = 0.03
"""Share of a book that may be title, contents and preface."""
_BREAK = "\n\n"


@dataclass
class _Book:
    """What is left of one."""

    name: str
    text: str = field(repr=False)
    at: int
    """Where the next stretch may begin."""
    told: int = 0
    """Stretches so far."""

    def stretch(self, length: int, wanted: int, skip: float) -> str | None:
        """The next one of `wanted`, beginning with a paragraph; None: too little is left.

        `skip` (0..1): how much is passed over of what all of them can spare.
        """
        left = len(self.text) - self.at
        several = min(wanted, max(left // length, 1))
        paragraph = self.text.find(_BREAK, self.at + int(skip * max(left - several * length, 0) / several))
        latest = len(self.text) - length
        if not 0 <= paragraph <= latest - len(_BREAK):
            paragraph = self.text.rfind(_BREAK, self.at, max(latest, 0))
        if paragraph < 0:
            return None
        start = paragraph + len(_BREAK)
        self.at, self.told = start + length, self.told + 1
        return self.text[start : self.at]


def cases(
    data: Sequence[Path], size: Callable[[Piece], int], *, tokens: int, count: int, seed: int
) -> list[Case]:
    """Stretches of `tokens * CHARACTERS` characters, from one book after another and then round again.

    Books come in an order of the seed's, and each begins after a skip of the seed's. `data`: text files, and
    folders of them. Raises InvalidInput if they hold too little.
    """
    checked(tokens, count, seed)
    rng = np.random.default_rng(seed)
    shelf = _shelf(data, rng)
    length = tokens * CHARACTERS
    found: list[Case] = []
    while shelf and len(found) < count:
        share = -(-(count - len(found)) // len(shelf))
        for open_ in shelf[: count - len(found)]:
            text = open_.stretch(length, share, rng.random())
            if text is None:
                shelf.remove(open_)
            else:
                found.append(_case(open_, text, tokens, seed, size))
    if len(found) < count:
        raise InvalidInput(
            f"expected books for {count} stretches of {tokens} tokens ({length} characters each), "
            f"got enough for {len(found)}: give more or longer books, or ask for fewer or shorter stretches"
        )
    return found


def _shelf(data: Sequence[Path], rng: np.random.Generator) -> list[_Book]:
    paths = [path for path in files(data) if path.suffix.lower() in _PROSE]
    if not paths:
        raise InvalidInput(f"no book in {', '.join(map(str, data))}: expected {' '.join(_PROSE)}")
    distinct(path.stem for path in paths)
    order = rng.permutation(len(paths)).tolist()
    texts = ((paths[n].stem, book(paths[n])) for n in order)
    return [_Book(name, text, int(_FRONT * len(text))) for name, text in texts]


def _case(open_: _Book, text: str, tokens: int, seed: int, size: Callable[[Piece], int]) -> Case:
    piece = Piece(text, Source.TEXT)
    if (there := size(piece)) < tokens:
        raise InvalidInput(
            f"{open_.name}: expected {tokens} tokens in {len(text)} characters, got {there}: "
            "leave this text out"
        )
    return Case(
        TASK, named(open_.name, open_.told, tokens, seed), open_.name, (piece,), raw=True, tokens=tokens
    )
