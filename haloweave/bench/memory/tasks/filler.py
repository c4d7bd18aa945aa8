# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Talk and logs to hide something in, as a stream would bring them.

Knows files. Must not know what is hidden. No turn of talk comes twice, neither in a case nor in the next one;
logs, of which there is one turn for three of talk, may come round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from haloweave.bench.hay import Hay
from haloweave.bench.memory.cases import Piece
from haloweave.errors import InvalidInput
from haloweave.memory.tokens import Source


class Filler:
    """What has not been read yet. `data`: files and folders; what ends in .log is a log, the rest is talk.

    Raises InvalidInput if there is no such file, or no talk in it.
    """

    def __init__(self, data: Sequence[Path], seed: int) -> None:
        hay = Hay(data, seed)
        self._turns = len(hay.lines(sys.maxsize))
        self._pieces = hay.pieces()
        self._read = 0

    def turns(self, tokens: int, size: Callable[[Piece], int]) -> list[Piece]:
        """The next turns, of at least so many tokens. Raises InvalidInput if there is too little left."""
        return self._taken(tokens, size, lambda piece: [piece])

    def lines(self, tokens: int, size: Callable[[Piece], int], longest: float) -> list[Piece]:
        """The same, each line a turn of its own. Lines of more than `longest` tokens are left out."""

        def short(piece: Piece) -> list[Piece]:
            lines = (Piece(line, piece.source) for line in piece.text.splitlines())
            return [line for line in lines if size(line) <= longest]

        return self._taken(tokens, size, short)

    def _taken(
        self, tokens: int, size: Callable[[Piece], int], parts: Callable[[Piece], list[Piece]]
    ) -> list[Piece]:
        taken: list[Piece] = []
        while tokens > 0:
            if self._read >= self._turns:
                raise InvalidInput(
                    f"expected {tokens} more tokens of talk that fits, got none after {self._turns} turns: "
                    "give more text, or ask for fewer cases or tokens, or for longer distances"
                )
            piece = next(self._pieces)
            self._read += piece.source is Source.USER
            for part in parts(Piece(piece.text, piece.source)):
                taken.append(part)
                tokens -= size(part)
        return taken
