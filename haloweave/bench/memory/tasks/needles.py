# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Needles in a haystack: what was said once, long ago, and is asked when everything has been read.

    pass keys   five digits each, at distances that grow by a factor, from half a budget to fifty times of it:
                one case is a curve (passkey retrieval: arXiv 2305.16300)
    facts       what a person mentions, spread evenly over the stream

Knows talk and logs. Must not know models. No answer stands anywhere else in its case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from haloweave.bench import hay
from haloweave.bench.facts import FACTS, Fact
from haloweave.bench.memory.cases import Case, Piece, Question
from haloweave.bench.memory.tasks.filler import Filler
from haloweave.bench.memory.tasks.names import COLOURS, THINGS
from haloweave.bench.memory.tasks.script import Script, checked, drawn, named, numbers, untold
from haloweave.errors import InvalidInput

PASSKEY, TASK = "passkey", "needles"
SAME, OTHER = "same words", "other words"
"""Kinds of question: with some words of what was said, or none that means anything."""
BUDGETS = 50
"""Farthest distance of a pass key, in budgets."""
_NEAREST = 0.5
_OFF = 2.0
"""Times that a distance may miss what it should be."""
_SPARE = 1.2
"""Times the tokens of a stream that are taken from the filler: what is not needed is left out."""


# ---- pass keys ---------------------------------------------------------------------------------------


def passkeys(
    data: Sequence[Path],
    size: Callable[[Piece], int],
    *,
    tokens: int,
    count: int,
    seed: int,
    rows: int | None = None,
    keys: int = 9,
) -> list[Case]:
    """Streams of `tokens` tokens and a little more, with a key at each of so many distances.

    The nearest lies half of `rows` back (None: a fiftieth of the tokens), the farthest all of the tokens.
    Filler comes line by line, none longer than the nearest distance, so that a key lies where it should.
    Raises InvalidInput if there is too little such talk, or rows are too few for that.
    """
    checked(tokens, count, seed)
    nearest = _NEAREST * (rows or tokens / BUDGETS)
    if not (0 < nearest < tokens and keys >= 2):
        raise InvalidInput(f"expected 2 keys, and rows from 1 to {2 * tokens}, got {keys} keys, {rows} rows")
    filler = Filler(data, seed)
    made = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, number])
        talk = filler.lines(round(tokens + nearest), size, longest=nearest)
        document = named("passkey", seed, number)
        made.append(_keyed(talk, size, np.geomspace(nearest, tokens, keys), rng, document))
    return made


def _keyed(
    talk: list[Piece],
    size: Callable[[Piece], int],
    distances: np.ndarray,
    rng: np.random.Generator,
    document: str,
) -> Case:
    digits = numbers(rng, len(distances), "\n".join(piece.text for piece in talk))
    colours = drawn(rng, COLOURS, len(distances), "colours")
    things = drawn(rng, THINGS, len(distances), "things")
    names = [f"{colour} {thing}" for colour, thing in zip(colours, things, strict=True)]
    said = [
        Piece(f"The pass key of the {n} is {d}. Remember it.") for n, d in zip(names, digits, strict=True)
    ]
    script = Script.of(_laid(talk, said, distances, size), size)
    questions = []
    for piece, name, answer, wanted in zip(said, names, digits, distances.tolist(), strict=True):
        asked = f"What is the pass key of the {name}?"
        question = script.question(script.pieces.index(piece), piece.text, asked, answer, PASSKEY)
        if not wanted / _OFF <= question.distance <= wanted * _OFF:
            raise InvalidInput(
                f"expected a key {wanted:.0f} tokens back, got one {question.distance} back: raise tokens "
                "or rows, or ask for fewer keys"
            )
        questions.append(question)
    return script.case(PASSKEY, document, named(document, script.tokens), questions)


def _laid(
    talk: Sequence[Piece], said: Sequence[Piece], distances: np.ndarray, size: Callable[[Piece], int]
) -> list[Piece]:
    """Backwards from the end: each key where what follows it comes nearest to its distance (ascending)."""
    behind, placed = 0, 0
    stream: list[Piece] = []
    for piece in reversed(talk):
        length = size(piece)
        if placed < len(said) and behind + length / 2 >= distances[placed]:
            stream.append(said[placed])
            behind += size(said[placed])
            placed += 1
        stream.append(piece)
        behind += length
    return [*reversed(stream)] if placed == len(said) else [*reversed(said[placed:]), *reversed(stream)]


# ---- facts -------------------------------------------------------------------------------------------


def cases(
    data: Sequence[Path],
    size: Callable[[Piece], int],
    *,
    tokens: int,
    count: int,
    seed: int,
    facts: Sequence[Fact] = FACTS,
    said: int | None = None,
) -> list[Case]:
    """Streams of about `tokens` tokens with facts at even depths, in an order of the seed's, all of them
    asked at the end; `said` of the facts, drawn for each stream (None: all). A fact is left out of a stream
    that tells its answer anyhow.

    Raises InvalidInput if there is too little talk, or a stream is too short for its facts.
    """
    checked(tokens, count, seed)
    filler = Filler(data, seed)
    return [
        _needles(filler, size, tokens, facts, said, named("needles", seed, number), seed + number)
        for number in range(1, count + 1)
    ]


def _needles(
    filler: Filler,
    size: Callable[[Piece], int],
    tokens: int,
    facts: Sequence[Fact],
    said: int | None,
    document: str,
    seed: int,
) -> Case:
    talk = filler.turns(round(_SPARE * tokens), size)
    kept = untold(facts, "\n".join(piece.text for piece in talk))
    if not kept:
        raise InvalidInput(f"none of {len(facts)} facts can be asked: the text tells their answers anyhow")
    if said is not None:
        kept = drawn(np.random.default_rng(seed), kept, said, "facts whose answers this stream does not tell")
    stream = hay.planted(_supply(talk), kept, tokens, lambda p: size(Piece(p.text, p.source)), seed)
    script = Script.of((Piece(piece.text, piece.source) for piece in stream), size)
    there = {piece.fact: n for n, piece in enumerate(stream) if piece.fact is not None}
    questions = [about(script, there[n], fact) for n, fact in enumerate(kept)]
    return script.case(TASK, document, named(document, tokens), questions)


def about(script: Script, said: int, fact: Fact, after: int | None = None) -> Question:
    """A fact, asked for."""
    group = OTHER if fact.apart else SAME
    return script.question(said, fact.said, fact.asked, fact.answer, group, after)


def _supply(talk: Sequence[Piece]) -> Iterator[hay.Piece]:
    yield from (hay.Piece(piece.text, piece.source) for piece in talk)
    raise InvalidInput(
        "the turns of this text are too long for its facts: ask for more tokens or fewer facts"
    )
