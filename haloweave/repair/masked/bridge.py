# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The way between two vocabularies: what a masked LM may be asked about a window, and what its answers are
in host tokens.

Knows text, ids and alignments. Must not know torch or heat.

An answer is taken only if it can be written in place: spaces and casing are the original's, and the text
around it, encoded anew by the host's own tokenizer, keeps every other id. What cannot is dropped and
counted, never approximated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Int32

from haloweave.repair.masked.align import Alignment, Block, align
from haloweave.repair.masked.subwords import Subwords
from haloweave.repair.masked.wording import cased, fits, kind
from haloweave.text import Codec

_NEAR = (8, 1)
"""Host tokens on either side that are encoded anew with a replacement: rules about spaces and digits look
further than merges do. Then the neighbours alone."""


class Outcome(StrEnum):
    """What became of one answer."""

    SINGLE = "single"
    MULTI = "multi"
    UNCHANGED = "unchanged"
    IMPOSSIBLE_PREDICTION = "impossible_prediction"
    TOO_LONG = "too_long"
    DISTURBS_NEIGHBOURS = "disturbs_neighbours"


@dataclass(frozen=True)
class BridgeCounts:
    """Everything that was asked, by what became of it. Sums over calls with `+`."""

    single: int = 0
    """One host token for one."""
    multi: int = 0
    """Any other number of host tokens."""
    unchanged: int = 0
    """The same but for casing and spaces: no diff."""
    impossible_prediction: int = 0
    """A control token, the unknown, a word's end where a word must begin, a mark for a word."""
    impossible_position: int = 0
    """Host tokens that share a character or an MLM token with one that may not change, or that the masked LM
    does not see."""
    too_long: int = 0
    """It takes more host tokens than there is room for."""
    disturbs_neighbours: int = 0
    """Tokens around it would become others."""
    no_gain: int = 0
    """The masked LM finds it no likelier than what is there."""
    doomed: int = 0
    """Runs of doomed tokens that were asked about as one."""
    waiting: int = 0
    """Holes that stood too near others and were not reached in the passes there were."""

    def __add__(self, other: BridgeCounts) -> BridgeCounts:
        return BridgeCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @staticmethod
    def of(outcome: Outcome) -> BridgeCounts:
        return BridgeCounts(**{outcome.value: 1})


@dataclass(frozen=True)
class Hole:
    """A run of host tokens that the masked LM is asked about."""

    host: slice
    mlm: slice
    start: int
    """First and last character, spaces left out."""
    stop: int
    masks: int
    """Predictions asked for: one for each MLM token, or one for all of them together."""
    room: int
    """Host tokens that may stand here afterwards."""

    @property
    def width(self) -> int:
        """MLM tokens that stand here now."""
        return len(range(self.mlm.start, self.mlm.stop))

    @property
    def joined(self) -> bool:
        """True if several MLM tokens are asked about as one."""
        return self.masks < self.width


@dataclass(frozen=True)
class Crossing:
    """One answer in host tokens; `new_ids` is empty unless it was taken."""

    outcome: Outcome
    new_ids: tuple[int, ...] = ()

    @property
    def taken(self) -> bool:
        return self.outcome in (Outcome.SINGLE, Outcome.MULTI)


class Bridge:
    """Between a host's codec and a masked LM's subwords.

    A window's ends are taken for the ends of the text: whoever cuts windows out of a longer text locks the
    tokens at its ends, or gives them their neighbours.

    `join_words`: a word of several MLM tokens is asked about with one mask. Masks side by side are predicted
    independently, and the pieces of different words make no word; without it, they are all masked, and an
    answer is taken if its pieces joined can be written.
    """

    def __init__(self, codec: Codec, subwords: Subwords, *, join_words: bool = True) -> None:
        self._codec, self._subwords, self._join_words = codec, subwords, join_words

    def align(self, ids: Int32[np.ndarray, " W"]) -> Alignment:
        """A window as both tokenizers see it."""
        return align(self._codec, self._subwords, ids)

    def holes(
        self, alignment: Alignment, asked: Bool[np.ndarray, " W"], doomed: Bool[np.ndarray, " W"]
    ) -> tuple[tuple[Hole, ...], BridgeCounts]:
        """What can be asked: each doomed run as one hole, and blocks all of whose host tokens are asked for.
        Counts doomed runs, and the tokens that fit no hole."""
        found = [h for run in _runs(doomed) if (h := self._doomed(alignment, run)) is not None]
        one_by_one = asked & ~doomed
        runs = len(found)
        found += [self._hole(alignment, b) for b in alignment.blocks if b.usable and one_by_one[b.host].all()]
        reached = np.zeros(len(alignment), np.bool_)
        for hole in found:
            reached[hole.host] = True
        missed = int(((asked | doomed) & ~reached).sum())
        holes = tuple(sorted(found, key=lambda h: h.host.start))
        return holes, BridgeCounts(doomed=runs, impossible_position=missed)

    def _doomed(self, alignment: Alignment, run: slice) -> Hole | None:
        """A doomed run as one hole, without the ends that belong to something else."""
        a, b = run.start, run.stop
        while a < b and not alignment.joint[a]:
            a += 1
        while b > a and not alignment.joint[b]:
            b -= 1
        blocks = [alignment.blocks[n] for n in np.unique(alignment.block_of[a:b]) if n >= 0]
        if not blocks or alignment.spell(slice(a, b)) is None:
            return None
        mlm = slice(blocks[0].mlm.start, blocks[-1].mlm.stop)
        if self._subwords.unknown in alignment.mlm_ids[mlm]:
            return None
        return Hole(slice(a, b), mlm, blocks[0].start, blocks[-1].stop, 1, max(1, b - a - 1))

    def _hole(self, alignment: Alignment, block: Block) -> Hole:
        masks = block.mlm.stop - block.mlm.start
        if self._join_words and self._is_word(alignment, block):
            masks = 1
        room = block.host.stop - block.host.start
        return Hole(block.host, block.mlm, block.start, block.stop, masks, room)

    def _is_word(self, alignment: Alignment, block: Block) -> bool:
        """True for one word, or part of one: no marks, no spaces, no second beginning."""
        rest = alignment.mlm_ids[block.mlm.start + 1 : block.mlm.stop].tolist()
        letters = alignment.text[block.start : block.stop]
        return not any(self._subwords.begins(i) for i in rest) and all(kind(c) == "word" for c in letters)

    # ---- and back --------------------------------------------------------------------------------

    def cross(self, alignment: Alignment, hole: Hole, predicted: Sequence[int]) -> Crossing:
        """One answer, `hole.masks` MLM tokens, in host tokens."""
        word = self._word(alignment, hole, predicted)
        if word is None:
            return Crossing(Outcome.IMPOSSIBLE_PREDICTION)
        old = alignment.text[hole.start : hole.stop]
        same = len(predicted) == hole.width and np.array_equal(alignment.mlm_ids[hole.mlm], predicted)
        if same or word.casefold() == old.casefold():
            return Crossing(Outcome.UNCHANGED)
        first, last = alignment.spans[hole.host.start, 0], alignment.spans[hole.host.stop - 1, 1]
        lead, tail = alignment.text[first : hole.start], alignment.text[hole.stop : last]
        new_ids = self._in_place(alignment, hole.host, lead + word + tail)
        if new_ids is None:
            return Crossing(Outcome.DISTURBS_NEIGHBOURS)
        if list(new_ids) == alignment.ids[hole.host].tolist():  # the host's own normaliser sees no change
            return Crossing(Outcome.UNCHANGED)
        if len(new_ids) > hole.room:
            return Crossing(Outcome.TOO_LONG)
        one = len(new_ids) == 1 == hole.host.stop - hole.host.start
        return Crossing(Outcome.SINGLE if one else Outcome.MULTI, new_ids)

    def _word(self, alignment: Alignment, hole: Hole, predicted: Sequence[int]) -> str | None:
        """The text of an answer in the original's casing; None if it cannot stand there."""
        originals = alignment.mlm_ids[hole.mlm].tolist()[: len(predicted)]
        begins = self._subwords.begins
        if any(begins(p) != begins(o) for p, o in zip(predicted, originals, strict=True)):
            return None
        old = alignment.text[hole.start : hole.stop]
        gaps = [""] * (len(predicted) - 1)
        if len(predicted) == hole.width:
            gaps = alignment.gaps(hole.mlm)
        word = self._subwords.spell(predicted, gaps)
        if not word or not fits(word, old, alignment.text[hole.stop : hole.stop + 1]):
            return None
        return cased(word, old, alignment.text, hole.start) if self._subwords.uncased else word

    def _in_place(self, alignment: Alignment, run: slice, text: str) -> tuple[int, ...] | None:
        """Host ids of `text` in the place of a run, if everything around it keeps its ids.

        Where the surroundings do not encode to themselves even with the old text (a scar, a model's own odd
        spelling), the replacement is not to blame, and its two neighbours alone decide.
        """
        old = alignment.spell(run) or ""
        for near in _NEAR:
            around = _around(alignment, run, near)
            if alignment.spell(around[0]) is None or alignment.spell(around[1]) is None:
                continue
            new_ids = self._between(alignment, around, run, text)
            if new_ids is not None or self._between(alignment, around, run, old) is not None:
                return new_ids
        return None

    def _between(
        self, alignment: Alignment, around: tuple[slice, slice], run: slice, text: str
    ) -> tuple[int, ...] | None:
        """Host ids of `text` between two stretches of the window, if those keep theirs."""
        left, right = (alignment.ids[s].tolist() for s in around)
        ids = self._codec.encode([f"{alignment.spell(around[0])}{text}{alignment.spell(around[1])}"])[0]
        new, size = ids[len(left) : len(ids) - len(right)], len(left) + len(right)
        if len(ids) <= size or ids[: len(left)] != left or ids[len(ids) - len(right) :] != right:
            return None
        return tuple(new)


def _runs(marked: Bool[np.ndarray, " W"]) -> Iterator[slice]:
    """Unbroken stretches of True."""
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    for start, stop in edges.reshape(-1, 2).tolist():
        yield slice(start, stop)


def _around(alignment: Alignment, run: slice, near: int) -> tuple[slice, slice]:
    """Up to `near` host tokens on either side, but not across control tokens."""
    control = np.flatnonzero(alignment.control)
    before, after = control[control < run.start], control[control >= run.stop]
    first = max([0, run.start - near, *(before[-1:] + 1)])
    last = min([len(alignment), run.stop + near, *after[:1]])
    return slice(int(first), run.start), slice(run.stop, int(last))
