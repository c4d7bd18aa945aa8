# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A long talk about many things, in which the person mentions something about themselves, and asks for it
later: soon, after a while, and at the end.

Knows dialogues. Must not know models. The person speaks as USER, whoever answers as MODEL, turn by turn; a
fact is said at the end of one of the person's own turns, and its answer stands nowhere else in the talk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from haloweave.bench.facts import FACTS, Fact
from haloweave.bench.memory.cases import Case, Piece, Question
from haloweave.bench.memory.tasks.dialogues import Exchange, dialogues
from haloweave.bench.memory.tasks.needles import about
from haloweave.bench.memory.tasks.script import Script, checked, drawn, named, untold
from haloweave.errors import InvalidInput
from haloweave.memory.tokens import Source

TASK = "talks"
SAID = 12
"""Facts of one talk."""
LATER = (1 / 32, 1 / 8, 1 / 2)
"""Distances of questions, as shares of the talk; all facts are asked for at its end as well."""


def cases(
    data: Sequence[Path],
    size: Callable[[Piece], int],
    *,
    tokens: int,
    count: int,
    seed: int,
    facts: Sequence[Fact] = FACTS,
    said: int = SAID,
    later: Sequence[float] = LATER,
) -> list[Case]:
    """Talks of about `tokens` tokens, one dialogue after another in an order of the seed's, none read twice;
    `said` of the facts in each. `data`: text files of dialogues, and folders of them.

    Raises InvalidInput if there are too few dialogues, or a talk is too short for its facts.
    """
    checked(tokens, count, seed)
    if said < 1 or not all(0 < share <= 1 for share in later):
        raise InvalidInput(f"expected 1 fact or more, asked after shares in 0..1; got {said}, {tuple(later)}")
    found = dialogues(data)
    order = np.random.default_rng(seed).permutation(len(found)).tolist()
    unread = iter([found[n] for n in order])
    made = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, number])
        talk = _talk(unread, tokens, size)
        kept = untold(facts, "\n".join(piece.text for piece in talk))
        chosen = drawn(rng, kept, said, "facts whose answers this talk does not tell")
        script, at = _said(talk, chosen, size)
        document = named("talk", seed, number)
        asked = _asked(script, at, [round(share * tokens) for share in later])
        made.append(script.case(TASK, document, named(document, tokens), asked))
    return made


def _talk(unread: Iterator[tuple[Exchange, ...]], tokens: int, size: Callable[[Piece], int]) -> list[Piece]:
    """The next dialogues, the last of them broken off once there are so many tokens."""
    talk: list[Piece] = []
    for dialogue in unread:
        for exchange in dialogue:
            turns = [Piece(exchange.person, Source.USER), Piece(exchange.model, Source.MODEL)]
            talk += turns
            tokens -= sum(map(size, turns))
            if tokens <= 0:
                return talk
    raise InvalidInput(
        f"expected {tokens} more tokens of dialogue, got none: give more text, or ask for fewer "
        "cases or tokens"
    )


def _said(
    talk: Sequence[Piece], facts: Sequence[Fact], size: Callable[[Piece], int]
) -> tuple[Script, dict[Fact, int]]:
    """The talk with the facts in it, at even distances; and the number of the piece that tells each."""
    ends = Script.of(talk, size).ends
    pieces, at = list(talk), {}
    free = iter([n for n, piece in enumerate(talk) if piece.source is Source.USER])
    for number, fact in enumerate(facts):
        wanted = (number + 0.5) / len(facts) * ends[-1]
        place = next((n for n in free if ends[n] >= wanted), None)
        if place is None:
            raise InvalidInput(
                f"{ends[-1]} tokens in {len(talk)} turns are too few for {len(facts)} facts: ask for more "
                "tokens, or for fewer facts"
            )
        at[fact] = place
        pieces[place] = Piece(f"{talk[place].text} {fact.said}", Source.USER)
    return Script.of(pieces, size), at


def _asked(script: Script, at: dict[Fact, int], distances: Sequence[int]) -> Iterator[Question]:
    """Each fact, when it is the person's turn again; at the end of the talk once more."""
    for fact, said in at.items():
        soon = (script.later(said, distance) for distance in distances)
        turns = {n + (script.pieces[n - 1].source is Source.USER) for n in soon if n <= len(script.pieces)}
        for after in sorted(turns | {len(script.pieces)}):
            yield about(script, said, fact, after)
