# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How good a denoiser is in each of several languages, and whether it keeps to their scripts.

Reads top to bottom: `suite`, then its parts. Everything that is counted in what it wrote is counted in what
really stood there too. Knows a denoiser, held-out rows with their languages, and a lexicon that is handed in.
Must not know files, or how the rows were chosen. Axes: N rows, T sequence.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.evaluate import Measures, bound, row_nats
from haloweave.diffusion.judging.broken import Breakage, breakage
from haloweave.diffusion.judging.continuing import Continuation, Edit, continuations, edits
from haloweave.diffusion.judging.held import Decode, Held
from haloweave.diffusion.judging.intervals import Interval, ratio
from haloweave.diffusion.judging.languages import code_mixing
from haloweave.diffusion.judging.mixing import Words, words
from haloweave.diffusion.judging.rendering import Encode, Lexicon, Rendering, questions, rendering
from haloweave.diffusion.judging.scripts import Edits, edited, off_mix
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.sampling.reader import at_rest
from haloweave.diffusion.unmask import Unmasking

ALL = "all"
"""Stands for every language together."""
HINDI_WRITTEN = {"hindi": "devanagari", "mixed": "devanagari", "hinglish": "romanised"}
"""In which script a language's Hindi words stand, and are asked for."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Held-out rows of several languages, and the language of each."""

    held: Held
    languages: tuple[str, ...]

    def of(self, language: str) -> np.ndarray:
        """The numbers of a language's rows; of all rows for ALL."""
        names = np.array(self.languages)
        return np.arange(len(names)) if language == ALL else np.flatnonzero(names == language)


@dataclass(frozen=True)
class Mixing:
    """The mean Code-Mixing Index of texts written on, of what really stood there, and the drift between."""

    made: float
    true: float
    drift: Interval


@dataclass(frozen=True)
class Scripts:
    """Whether it keeps to scripts, in one language: `made` of what it wrote, `real` of what stood there.

    The same words are written anew twice: greedily, which is what a repairer would put there, and sampled.
    A denoiser that has learnt little puts a comma or a space everywhere, and only samples tell its scripts.
    """

    texts: int
    made_words: Words
    real_words: Words
    edits: Edits
    sampled_edits: Edits
    made_off: Interval | None
    real_off: Interval | None
    made_broken: Breakage
    real_broken: Breakage
    mixing: Mixing | None


@dataclass(frozen=True)
class _Outputs:
    """What it wrote."""

    texts: Sequence[Continuation]
    greedy: Sequence[Edit]
    sampled: Sequence[Edit]

    def of(self, rows: Container[int]) -> _Outputs:
        """Those of some rows alone."""
        texts = [text for text in self.texts if text.row in rows]
        greedy, sampled = ([e for e in own if e.row in rows] for own in (self.greedy, self.sampled))
        return _Outputs(texts, greedy, sampled)


@dataclass(frozen=True)
class Tongue:
    """One language."""

    rows: int
    documents: int
    bits_per_byte: Interval
    """At most: the exact NELBO."""
    scripts: Scripts


@dataclass(frozen=True)
class Suite:
    """Everything that was measured."""

    languages: Mapping[str, Tongue]
    """By language, and ALL of them."""
    bits_by_script: Mapping[str, Interval]
    renderings: Mapping[str, Rendering]
    """By the script that words are asked for in; empty without a lexicon."""
    tokens_per_character: Mapping[str, float]
    """That the tokenizer needs for the rows of each script."""


def suite(
    denoiser: Denoiser,
    rows: Rows,
    encode: Encode,
    decode: Decode,
    plan: Measures,
    lexicon: Lexicon | None = None,
    progress: Progress = silent,
) -> Suite:
    """Measure it all; `plan.infills` rows and `plan.samples` texts of each language. Raises TooLong if a row
    is longer than the denoiser was made for."""
    with at_rest(denoiser):
        nats = row_nats(denoiser, rows.held, plan, progress)
        written = _Outputs(
            _written(denoiser, rows, decode, plan, progress),
            _anew(denoiser, rows, decode, plan, plan.filling, progress),
            _anew(denoiser, rows, decode, plan, plan.sampling, progress),
        )
        asked = _renderings(denoiser, rows, encode, decode, plan, lexicon, progress)
    names = [*dict.fromkeys(rows.languages), ALL]
    found = {name: _tongue(rows, rows.of(name), nats, written) for name in names}
    by_script = bound(nats, rows.held).scripts
    return Suite(found, by_script, asked, tokens_per_character(rows, decode))


def _written(
    denoiser: Denoiser, rows: Rows, decode: Decode, plan: Measures, progress: Progress
) -> list[Continuation]:
    return continuations(
        denoiser,
        rows.held,
        _by_lot(rows, plan.samples, plan.seed),
        decode,
        mask_id=denoiser.config.mask_id,
        plan=plan.sampling,
        length=min(plan.length or denoiser.config.max_len, denoiser.config.max_len),
        seed=plan.seed,
        progress=progress,
    )


def _anew(
    denoiser: Denoiser, rows: Rows, decode: Decode, plan: Measures, how: Unmasking, progress: Progress
) -> list[Edit]:
    return edits(
        denoiser,
        rows.held,
        _by_lot(rows, plan.infills, plan.seed),
        decode,
        mask_id=denoiser.config.mask_id,
        plan=how,
        nothing=plan.nothing,
        seed=plan.seed,
        progress=progress,
    )


def _by_lot(rows: Rows, count: int, seed: int) -> np.ndarray:
    """So many rows of each language, the fullest first among equals of the lot: short ones hold little."""
    chosen: list[np.ndarray] = []
    for name in dict.fromkeys(rows.languages):
        own = np.random.default_rng(seed).permutation(rows.of(name))
        full = rows.held.text[own] >= np.median(rows.held.text[own])
        chosen.append(np.concatenate([own[full], own[~full]])[:count])
    return np.concatenate(chosen)


def _renderings(
    denoiser: Denoiser,
    rows: Rows,
    encode: Encode,
    decode: Decode,
    plan: Measures,
    lexicon: Lexicon | None,
    progress: Progress,
) -> dict[str, Rendering]:
    """Two words a puzzle: an answer is a few calls on a few short rows."""
    found: dict[str, Rendering] = {}
    if lexicon is None or not plan.infills:
        return found
    for script, known in (("devanagari", lexicon.romanised), ("romanised", lexicon.native)):
        own = [i for i, name in enumerate(rows.languages) if HINDI_WRITTEN.get(name) == script]
        texts = [decode(rows.held.rows[i, : int(rows.held.text[i])].tolist()) for i in own]
        config, count = denoiser.config, 2 * plan.infills
        asked = questions(texts, known, encode, count=count, max_len=config.max_len, seed=plan.seed)
        groups = rows.held.units()[own]
        answered = rendering(denoiser, asked, groups, mask_id=config.mask_id, progress=progress)
        if answered is not None:
            found[script] = answered
    return found


def _tongue(rows: Rows, own: np.ndarray, nats: Float[np.ndarray, " N"], written: _Outputs) -> Tongue:
    held = rows.held
    bits = ratio(nats[own] / math.log(2), held.bytes[own], held.units(own))
    documents = own if held.documents is None else held.documents[own]
    scripts = _scripts(written.of(set(own.tolist())), held.units())
    return Tongue(len(own), len(np.unique(documents)), bits, scripts)


def _scripts(outputs: _Outputs, units: np.ndarray) -> Scripts:
    written = outputs.texts
    made, true = ([c.joint + text for c, text in zip(written, t, strict=True)] for t in _both(written))
    groups = [int(units[c.row]) for c in written]
    prompts, (wrote, stood) = [c.prompt for c in written], _both(written)
    return Scripts(
        texts=len(written),
        made_words=words(made),
        real_words=words(true),
        edits=_edited(outputs.greedy, units),
        sampled_edits=_edited(outputs.sampled, units),
        made_off=off_mix(prompts, wrote, groups),
        real_off=off_mix(prompts, stood, groups),
        made_broken=breakage(made),
        real_broken=breakage(true),
        mixing=_mixing(wrote, stood, groups),
    )


def _edited(anew: Sequence[Edit], units: np.ndarray) -> Edits:
    return edited([e.true for e in anew], [e.made for e in anew], [int(units[e.row]) for e in anew])


def _both(written: Sequence[Continuation]) -> tuple[list[str], list[str]]:
    return [c.made for c in written], [c.true for c in written]


def _mixing(made: Sequence[str], true: Sequence[str], groups: Sequence[int]) -> Mixing | None:
    if not made:
        return None
    a, b = (np.array([code_mixing(text) for text in texts]) for texts in (made, true))
    return Mixing(float(a.mean()), float(b.mean()), ratio(a - b, np.ones(len(a)), groups))


def tokens_per_character(rows: Rows, decode: Decode) -> dict[str, float]:
    """By script: a tokenizer that lacks a script spells it byte by byte, three for a Devanagari letter."""
    held = rows.held
    found: dict[str, tuple[int, int]] = {}
    for number, script in enumerate(held.scripts):
        size = int(held.text[number])
        tokens, letters = found.get(script, (0, 0))
        found[script] = tokens + size, letters + len(decode(held.rows[number, :size].tolist()))
    return {script: tokens / max(1, letters) for script, (tokens, letters) in found.items()}
