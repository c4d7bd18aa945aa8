# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Generators of cases: text in, cases out, the same for the same seed. No model, no arm.

    books      running text, scored token by token
    needles    pass keys at distances that grow by a factor; facts at even depths, all asked at the end
    lines      register lines, asked about all the while (StreamEval)
    logs       server logs with a rare important line
    talks      dialogues, in which the person says something about themselves

    script     pieces in order and their lengths: distances are counted here
    dialogues  files to exchanges of two
    filler     talk and logs to hide something in
    names      words for keys, services and hosts

Each knows files and text. None must know tokens: `size` tells the length of a piece, frame included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from haloweave.bench.memory.cases import Case, Piece
from haloweave.bench.memory.tasks import books, lines, logs, needles, talks


class Generator(Protocol):
    """What every task can be asked for. Most take more, by name."""

    def __call__(
        self, data: Sequence[Path], size: Callable[[Piece], int], *, tokens: int, count: int, seed: int
    ) -> list[Case]:
        """So many cases of about so many tokens each. Raises InvalidInput for data with too little text."""
        ...


TASKS: Mapping[str, Generator] = {
    books.TASK: books.cases,
    needles.PASSKEY: needles.passkeys,
    needles.TASK: needles.cases,
    lines.TASK: lines.cases,
    logs.TASK: logs.cases,
    talks.TASK: talks.cases,
}
