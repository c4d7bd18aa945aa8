# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What is read, and what is asked on the way: one case is one document, the same for every arm.

Knows text and who says it. Must not know tokens, models, arms or files. Lengths are in tokens of whoever made
the case, for distances in reports only.
"""

from __future__ import annotations

from dataclasses import dataclass

from haloweave.errors import InvalidInput
from haloweave.memory.tokens import Source

LEAD = "The answer is"


@dataclass(frozen=True)
class Piece:
    """One turn, or one stretch of a raw text."""

    text: str
    source: Source = Source.USER


@dataclass(frozen=True)
class Question:
    """Put to a copy of the context, so that nobody's later answers depend on it."""

    after: int
    """How many pieces have been read by then."""
    asked: str
    answer: str
    """What the model's turn says next, behind a space: its log-probability is measured, and whether greedy
    decoding gives it."""
    evidence: str
    """What was said that tells it, word for word as it stands in a piece."""
    distance: int
    """Tokens read between the evidence and the question."""
    group: str = ""
    """Kind of question within a task, where there are several."""
    lead: str = LEAD
    """What the model's turn begins with, unscored, so that the answer is what has to come next and not one of
    many ways to begin."""


@dataclass(frozen=True)
class Case:
    """One document."""

    task: str
    name: str
    """Of this case, within its task; the same name is the same text for every arm and every peer."""
    document: str
    """Of the text it comes from: intervals are drawn over documents."""
    pieces: tuple[Piece, ...]
    questions: tuple[Question, ...] = ()
    raw: bool = False
    """Running text outside any turn, scored token by token; else turns in the model's chat format."""
    tokens: int = 0
    """Of all pieces, with their frames."""

    def __post_init__(self) -> None:
        for question in self.questions:
            said = any(question.evidence in piece.text for piece in self.pieces[: question.after])
            if not said:
                raise InvalidInput(f"{self.task} {self.name}: asked before it was said: {question.asked!r}")
