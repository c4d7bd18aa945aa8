# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What repair must never rewrite: numbers, names, negations, code, addresses, quotations, markers.

Knows a codec, windows, and that texts can be painted (`guarded/`). Must not know who proposes, or why; nor by
which signs a text is painted. Where it is unsure it guards: a word kept for nothing costs little, a changed
one may be a lie.

A text is painted, character by character, with what it must be kept for (`spans`); tokens that touch paint
are locked (`positions`); a change is refused unless the text says the same guarded strings in the same
order before and after (`refuses`). `Guarded` does all of it around any repairer. Everything here is linear
in the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from unicodedata import category, combining

import numpy as np
from jaxtyping import Bool

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, Repairer, RepairWindow
from haloweave.repair.diff import Change, applied
from haloweave.repair.guarded.kinds import Kind
from haloweave.repair.guarded.paint import alike, difference, painted, said
from haloweave.text import Codec

__all__ = ["GuardStats", "Guarded", "Kind", "Span", "positions", "refuses", "spans", "upheld"]


@dataclass(frozen=True)
class Span:
    """Characters start..stop of a text, guarded for one reason."""

    start: int
    stop: int
    kind: Kind


def spans(text: str) -> tuple[Span, ...]:
    """What is guarded in a text: disjoint, in order."""
    return tuple(Span(start, stop, kind) for start, stop, kind in alike(text))


def refuses(before: str, after: str) -> Kind | None:
    """Why this change may not be: a guarded string is brought in, taken away or altered. None if none is.

    Guarded strings with only white space between them count as one: what stood between them may not go.
    """
    return difference(said(before), said(after))


def upheld(
    codec: Codec, token_ids: Sequence[int] | np.ndarray, changes: Sequence[Change]
) -> tuple[Change, ...]:
    """The changes that the whole text can bear: all of them, unless a window hid something from its guard;
    then as many as it can bear, those of the greatest gain first. A run's changes stay together."""
    before = said(_spelled(codec, token_ids))
    runs: list[list[Change]] = []
    for c in sorted(changes, key=lambda c: (-c.gain, c.index)):
        joins = runs and (runs[-1][-1].gain, runs[-1][-1].index + 1) == (c.gain, c.index)
        if joins:
            runs[-1].append(c)
        else:
            runs.append([c])

    def first(n: int) -> tuple[Change, ...]:
        return tuple(sorted((c for run in runs[:n] for c in run), key=lambda c: c.index))

    good, bad, n = 0, len(runs) + 1, len(runs)
    while bad - good > 1:
        safe = difference(before, said(_spelled(codec, applied(token_ids, first(n))))) is None
        good, bad = (n, bad) if safe else (good, n)
        n = (good + bad) // 2
    return first(good)


def positions(codec: Codec, token_ids: Sequence[int] | np.ndarray) -> Bool[np.ndarray, " W"]:
    """Tokens that hold any guarded character, a part of a character, or nothing; and control tokens."""
    ids = [int(i) for i in token_ids]
    pieces = [_piece(codec, i) for i in ids]
    text = _decoded(pieces)
    first, stop, cut = _characters(text, pieces)
    guarded = np.frombuffer(painted(text), np.uint8) != 0
    so_far = np.concatenate([[0], np.cumsum(guarded)])
    control = codec.control_ids | codec.end_ids
    special = np.array([i in control or not p for i, p in zip(ids, pieces, strict=True)], np.bool_)
    return np.asarray((so_far[stop] > so_far[first]) | cut | special)


# ---- the wrapper --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GuardStats:
    """What a guard has seen."""

    offered: int = 0
    passed: int = 0
    counts: Mapping[Kind, int] = field(default_factory=lambda: MappingProxyType({}))
    """Proposals dropped, by reason."""

    def counting(self, kind: Kind | None) -> GuardStats:
        """One proposal more: dropped for `kind`, or passed on."""
        if kind is None:
            return GuardStats(self.offered + 1, self.passed + 1, self.counts)
        counts = MappingProxyType({**self.counts, kind: self.counts.get(kind, 0) + 1})
        return GuardStats(self.offered + 1, self.passed, counts)


@dataclass
class Guarded:
    """A repairer that is not trusted: it sees guarded tokens as locked, and each of its proposals is checked
    alone and beside the better ones that would be applied with it.

    It cannot see beyond a window: give windows some locked tokens of context, or lock `positions` of the
    whole text first. Around a gate it has the last word, so wrap it outermost.
    """

    repairer: Repairer
    codec: Codec

    def __post_init__(self) -> None:
        self.stats = GuardStats()

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        """See `Repairer.propose`."""
        locked = [w.locking(self._guarded(w)) for w in windows]
        home = {uid: n for n in reversed(range(len(locked))) for uid in locked[n].uid.tolist()}
        offered: list[list[tuple[slice, Proposal]]] = [[] for _ in windows]
        for proposal in self.repairer.propose(locked):
            place = _place(proposal, locked, home, self.codec)
            if place is None:
                self.stats = self.stats.counting(Kind.CONTRACT)
            else:
                offered[place[0]].append((place[1], proposal))
        return tuple(
            p for w, mine in zip(locked, offered, strict=True) if mine for p in self._passed(w, mine)
        )

    def _guarded(self, window: RepairWindow) -> Bool[np.ndarray, " W"]:
        """By what the text says now, and by what it will say without the doomed."""
        guarded, stays = positions(self.codec, window.token_id), ~window.doomed
        guarded[stays] |= positions(self.codec, window.token_id[stays])
        return guarded

    def _passed(self, window: RepairWindow, offered: list[tuple[slice, Proposal]]) -> Iterator[Proposal]:
        draft = _Draft(self.codec, window)
        for run, proposal in sorted(offered, key=lambda o: (-o[1].gain, o[0].start)):
            kind = draft.refuses(run, proposal.new_ids)
            self.stats = self.stats.counting(kind)
            if kind is None:
                yield proposal


class _Draft:
    """A window's text without the doomed, who go in any case; and what the proposals let through so far make
    of it."""

    def __init__(self, codec: Codec, window: RepairWindow) -> None:
        self._codec = codec
        rows = zip(window.token_id.tolist(), window.doomed.tolist(), strict=True)
        self._before = [b"" if doomed else _piece(codec, i) for i, doomed in rows]
        self._now = self._before
        self._said = said(_decoded(self._before))
        self._taken = np.zeros(len(window), np.bool_)

    def refuses(self, run: slice, new_ids: np.ndarray) -> Kind | None:
        """Why this run may not be replaced. One that overlaps a better one is not applied beside it, and
        need only be safe alone."""
        new = [_piece(self._codec, i) for i in new_ids.tolist()]
        new += [b""] * (run.stop - run.start - len(new))
        if not _whole(new):
            return Kind.CHARACTER
        alone = [*self._before[: run.start], *new, *self._before[run.stop :]]
        kind = difference(self._said, said(_decoded(alone)))
        if kind is not None or self._taken[run].any():
            return kind
        together = [*self._now[: run.start], *new, *self._now[run.stop :]]
        if self._taken.any() and (kind := difference(self._said, said(_decoded(together)))) is not None:
            return kind
        self._now, self._taken[run] = together, True
        return None


def _place(
    proposal: object, windows: Sequence[RepairWindow], home: Mapping[int, int], codec: Codec
) -> tuple[int, slice] | None:
    """Window and run of a proposal; None if it breaks the contract."""
    if not isinstance(proposal, Proposal) or not (_is_row(proposal.uid) and _is_row(proposal.new_ids)):
        return None
    at = home.get(int(proposal.uid[0]), -1) if len(proposal.uid) else -1
    run = windows[at].run(proposal) if at >= 0 else None
    if run is None or not np.all(windows[at].heat[run] > 0) or not _is_finite(proposal.gain):
        return None
    new = proposal.new_ids
    if len(new) > len(proposal.uid) or np.array_equal(new, windows[at].token_id[run]):
        return None
    return (at, run) if all(_says(codec, i) for i in new.tolist()) else None


def _is_row(ids: object) -> bool:
    return isinstance(ids, np.ndarray) and ids.ndim == 1 and (not len(ids) or ids.dtype.kind in "iu")


def _is_finite(gain: object) -> bool:
    return isinstance(gain, int | float | np.floating) and bool(-_HUGE < gain < _HUGE)


def _says(codec: Codec, token_id: int) -> bool:
    """Whether this id is text: none that the tokenizer does not know, none that frames or ends a turn."""
    try:
        return token_id not in codec.control_ids | codec.end_ids and _piece(codec, token_id) != b""
    except InvalidInput:
        return False


# ---- tokens and characters ----------------------------------------------------------------------------


def _piece(codec: Codec, token_id: int) -> bytes:
    try:
        if token_id >= 0:
            return codec.piece(token_id)
    except (LookupError, ValueError, OverflowError):
        pass
    raise InvalidInput(f"token ids: {token_id} is none that the tokenizer knows; was another model's used?")


def _spelled(codec: Codec, ids: Iterable[int] | np.ndarray) -> str:
    return _decoded(_piece(codec, int(i)) for i in ids)


def _decoded(pieces: Iterable[bytes]) -> str:
    """The text, with a lone surrogate for each byte that is no UTF-8."""
    return b"".join(pieces).decode("utf-8", "surrogateescape")


def _characters(text: str, pieces: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per token: its first character, the one after its last, and whether either end cuts a character."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    width = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    width[(points >= 0xD800) & (points <= 0xDFFF)] = 1  # stands for a byte
    edges = np.concatenate([[0], np.cumsum(width)])
    ends = np.cumsum([0, *map(len, pieces)])
    at = np.searchsorted(edges, ends)
    cut = edges[at] != ends
    for n in np.flatnonzero(~cut & (at > 0) & (at < len(text))).tolist():
        cut[n] = _belongs(text[at[n] - 1], text[at[n]])
    first = np.searchsorted(edges, ends[:-1], side="right") - 1
    return first, at[1:], cut[:-1] | cut[1:]


def _belongs(left: str, right: str) -> bool:
    """Whether two code points are one character to a reader: marks, conjuncts, joined emoji, flags."""
    if left < "\u0300" and right < "\u0300":
        return left == "\r" and right == "\n"
    if "\u200d" in (left, right) or "\U0001f3fb" <= right <= "\U0001f3ff":
        return True
    flag = all("\U0001f1e6" <= c <= "\U0001f1ff" for c in (left, right))
    return flag or category(right)[0] == "M" or combining(left) == _VIRAMA


def _whole(new: Iterable[bytes]) -> bool:
    """Whether new text is made of whole characters that keep to themselves."""
    text = _decoded(new)
    if any("\ud800" <= c <= "\udfff" for c in text):
        return False
    return not text or not (_belongs("a", text[0]) or _belongs(text[-1], "a"))


_HUGE = 1e300
_VIRAMA = 9  # its canonical combining class
