# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Whether a denoiser takes a word and its transliteration for the same word (pairs as those of the Dakshina
lexicon, 2007.01176).

A word of a held-out text that the lexicon has is taken out. Which word stood there: it, or one of three
others of the lexicon of as many tokens? The likeliest is the answer (log p of the tokens in order, given the
text on both sides), once as the text is, and once with the word in the other script in brackets behind the
hole, as real texts write it. Chance is one in four. The context alone tells something, and frequent words are
likelier, so what counts is the gain: how much oftener the answer is right with the other script beside it,
word by word.

Two ways: a Devanagari word told in Latin letters, a romanised one told in Devanagari. Words of fewer than
three letters, English function words and words of more than twelve tokens are not asked for. Knows texts and
a Predict. Must not know files. Axes: C candidates, T sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import regex
import torch

from haloweave.diffusion.judging.intervals import Interval, ratio
from haloweave.diffusion.judging.languages import ENGLISH, WORD
from haloweave.diffusion.likelihood import chain_rule
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.reader import Predict, device_of

CANDIDATES = 4
_AROUND = 40
"""Tokens of text on each side, at most."""
_MOST_TOKENS = 12
_SHORT = 3
_TIE = 1e-6
"""Nats by which the likeliest may be missed: rows of one batch differ in the last bit."""

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Lexicon:
    """Words and their transliterations, the best attested first, both ways."""

    attested: Mapping[tuple[str, str], int] = field(repr=False)
    """How often: a Devanagari word, and a romanised one."""

    @cached_property
    def romanised(self) -> Mapping[str, tuple[str, ...]]:
        """Of each Devanagari word."""
        return _renderings((word, one, n) for (word, one), n in self.attested.items())

    @cached_property
    def native(self) -> Mapping[str, tuple[str, ...]]:
        """Of each romanised word."""
        return _renderings((one, word, n) for (word, one), n in self.attested.items())


def _renderings(pairs: Iterable[tuple[str, str, int]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for word, rendering, _ in sorted(pairs, key=lambda pair: (pair[0], -pair[2])):
        found.setdefault(word, []).append(rendering)
    return {word: tuple(own) for word, own in found.items()}


@dataclass(frozen=True)
class Question:
    """Text before the hole, candidates (the true one first) and text behind, in tokens; what is told, too."""

    text: int
    before: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]
    told: tuple[int, ...]
    behind: tuple[int, ...]


@dataclass(frozen=True)
class Rendering:
    """How often the true word is the likeliest of `candidates`, without and with its other script beside."""

    count: int
    chance: float
    alone: Interval
    told: Interval
    gain: Interval
    """Told less alone, word by word."""


def questions(
    texts: Sequence[str],
    known: Mapping[str, tuple[str, ...]],
    encode: Encode,
    *,
    count: int,
    max_len: int,
    seed: int = 0,
) -> list[Question]:
    """At most `count`, one a text and round, of words that `known` renders in the other script."""
    rng = np.random.default_rng(seed)
    by_length = _by_length(known, encode)
    places = [[m for m in WORD.finditer(text) if _fair(m[0], text, m.start(), known)] for text in texts]
    made: list[Question] = []
    for text in (i for _ in range(count) for i in rng.permutation(len(texts)).tolist()):
        if len(made) == count or not any(places):
            break
        if places[text]:
            match = places[text].pop(int(rng.integers(len(places[text]))))
            one = _question(text, texts[text], match, known, by_length, encode, max_len, rng)
            made += [one] if one else []
    return made


def _fair(word: str, text: str, at: int, known: Mapping[str, tuple[str, ...]]) -> bool:
    return (
        len(word) >= _SHORT
        and text[at - 1 : at] == " "
        and word.lower() == word
        and word in known
        and word not in ENGLISH
    )


def _by_length(known: Mapping[str, tuple[str, ...]], encode: Encode) -> dict[int, list[str]]:
    """The words by the number of tokens they have behind a space."""
    found: dict[int, list[str]] = {}
    for word in sorted(known):
        if len(word) >= _SHORT:
            found.setdefault(len(encode(f" {word}")), []).append(word)
    return found


def _question(
    number: int,
    text: str,
    match: regex.Match[str],
    known: Mapping[str, tuple[str, ...]],
    by_length: Mapping[int, list[str]],
    encode: Encode,
    max_len: int,
    rng: np.random.Generator,
) -> Question | None:
    """One question, or None where the word is too long, or too few others are as long."""
    word, renderings = match[0], set(known[match[0]])
    true = encode(f" {word}")
    same_length = by_length.get(len(true), [])
    others = [same_length[int(i)] for i in rng.permutation(len(same_length))[: 8 * CANDIDATES]]
    wrong = [other for other in others if other != word and renderings.isdisjoint(known[other])]
    if len(true) > _MOST_TOKENS or len(wrong) < CANDIDATES - 1:
        return None
    told = encode(f" ({known[word][0]})")
    room = min(_AROUND, (max_len - len(true) - len(told)) // 2)
    if room < 1:
        return None
    before, behind = encode(text[: match.start() - 1])[-room:], encode(text[match.end() :])[:room]
    ids = (true, *(encode(f" {other}") for other in wrong[: CANDIDATES - 1]))
    return Question(number, tuple(before), tuple(map(tuple, ids)), tuple(told), tuple(behind))


def rendering(
    predict: Predict,
    asked: Sequence[Question],
    groups: Sequence[int] | np.ndarray,
    *,
    mask_id: int,
    progress: Progress = silent,
) -> Rendering | None:
    """Answer all; None for none. `groups`: of each text that was asked about, what intervals are over."""
    right: list[tuple[float, float]] = []
    for number, question in enumerate(asked):
        alone, told = (rightness(predict, question, mask_id=mask_id, told=told) for told in (False, True))
        right.append((alone, told))
        progress("asking for words in two scripts", number + 1, len(asked))
    if not right:
        return None
    a, b = np.array(right).T
    where, ones = np.asarray(groups)[[q.text for q in asked]], np.ones(len(right))
    parts = (ratio(values, ones, where) for values in (a, b, b - a))
    return Rendering(len(right), 1 / CANDIDATES, *parts)


def rightness(predict: Predict, question: Question, *, mask_id: int, told: bool) -> float:
    """1 if the true word is the likeliest, its part where several are, else 0: who knows nothing has chance.
    log p is exact for the tokens in order, a call for each."""
    behind = (*question.told, *question.behind) if told else question.behind
    rows = [[*question.before, *candidate, *behind] for candidate in question.candidates]
    x0 = torch.tensor(rows, device=device_of(predict))
    hole = torch.zeros_like(x0, dtype=torch.bool)
    hole[:, len(question.before) : len(question.before) + len(question.candidates[0])] = True
    order = torch.arange(x0.shape[1])
    log_p = chain_rule(predict, x0, order, mask_id=mask_id, asked=hole)
    best = log_p >= log_p.max() - _TIE
    return float(best[0]) / int(best.sum())
