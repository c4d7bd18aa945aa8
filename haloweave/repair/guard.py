# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What repair must never rewrite: numbers, names, negations, code, addresses, quotations, markers.

Knows text, a codec and windows. Must not know who proposes, or why. Where it is unsure it guards: a word kept
for nothing costs little, a changed one may be a lie.

A text is painted, character by character, with what it must be kept for (`spans`); tokens that touch paint
are locked (`positions`); a change is refused unless the text says the same guarded strings in the same
order before and after (`refuses`). `Guarded` does all of it around any repairer. Everything here is linear
in the text: patterns have no nested or adjoining repeats, and what must be counted is counted in one pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from string import ascii_letters
from types import MappingProxyType
from typing import AnyStr
from unicodedata import category, combining, normalize

import numpy as np
from jaxtyping import Bool

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, Repairer, RepairWindow
from haloweave.repair.diff import Change, applied
from haloweave.text import Codec


class Kind(StrEnum):
    """Why something is guarded, or why a proposal was dropped."""

    NUMBER = "number"
    """Digits of any script, number words, ordinals, amounts with their units, dates and times."""
    NAME = "name"
    """Words with a capital letter, but for function words that begin a sentence."""
    NEGATION = "negation"
    CODE = "code"
    """Also paths, flags, identifiers and hashes."""
    ADDRESS = "address"
    """URLs and e-mail addresses."""
    QUOTE = "quote"
    MARKER = "marker"
    """`[...]`, and what looks like a chat template's token."""
    BREAK = "line break"
    """Paragraphs decide what is code and what a quotation."""
    CHARACTER = "character"
    """Parts of a character, and characters that do not show."""
    CONTRACT = "contract"
    """Never in a text: the proposal itself breaks what `Repairer` promises."""


@dataclass(frozen=True)
class Span:
    """Characters start..stop of a text, guarded for one reason."""

    start: int
    stop: int
    kind: Kind


def spans(text: str) -> tuple[Span, ...]:
    """What is guarded in a text: disjoint, in order."""
    paint = _painted(text)
    return tuple(Span(a, b, _KINDS[paint[a]]) for a, b in _found(_ALIKE, paint))


def refuses(before: str, after: str) -> Kind | None:
    """Why this change may not be: a guarded string is brought in, taken away or altered. None if none is.

    Guarded strings with only white space between them count as one: what stood between them may not go.
    """
    return _difference(_said(before), _said(after))


def upheld(
    codec: Codec, token_ids: Sequence[int] | np.ndarray, changes: Sequence[Change]
) -> tuple[Change, ...]:
    """The changes that the whole text can bear: all of them, unless a window hid something from its guard;
    then as many as it can bear, those of the greatest gain first. A run's changes stay together."""
    before = _said(_spelled(codec, token_ids))
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
        safe = _difference(before, _said(_spelled(codec, applied(token_ids, first(n))))) is None
        good, bad = (n, bad) if safe else (good, n)
        n = (good + bad) // 2
    return first(good)


def positions(codec: Codec, token_ids: Sequence[int] | np.ndarray) -> Bool[np.ndarray, " W"]:
    """Tokens that hold any guarded character, a part of a character, or nothing; and control tokens."""
    ids = [int(i) for i in token_ids]
    pieces = [_piece(codec, i) for i in ids]
    text = _decoded(pieces)
    first, stop, cut = _characters(text, pieces)
    painted = np.frombuffer(_painted(text), np.uint8) != 0
    so_far = np.concatenate([[0], np.cumsum(painted)])
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
        self._said = _said(_decoded(self._before))
        self._taken = np.zeros(len(window), np.bool_)

    def refuses(self, run: slice, new_ids: np.ndarray) -> Kind | None:
        """Why this run may not be replaced. One that overlaps a better one is not applied beside it, and
        need only be safe alone."""
        new = [_piece(self._codec, i) for i in new_ids.tolist()]
        new += [b""] * (run.stop - run.start - len(new))
        if not _whole(new):
            return Kind.CHARACTER
        alone = [*self._before[: run.start], *new, *self._before[run.stop :]]
        kind = _difference(self._said, _said(_decoded(alone)))
        if kind is not None or self._taken[run].any():
            return kind
        together = [*self._now[: run.start], *new, *self._now[run.stop :]]
        if self._taken.any() and (kind := _difference(self._said, _said(_decoded(together)))) is not None:
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


# ---- what a text says that is guarded -----------------------------------------------------------------


def _said(text: str) -> list[_Said]:
    """The guarded strings, in order; those with only white space between them as one."""
    paint = _painted(text)
    bounds: list[list[int]] = []
    for start, stop in _found(_PAINT, paint):
        if bounds and text[bounds[-1][1] : start].isspace():
            bounds[-1][1] = stop
        else:
            bounds.append([start, stop])
    return [(text[a:b], paint[a:b]) for a, b in bounds]


def _difference(before: list[_Said], after: list[_Said]) -> Kind | None:
    """Kind of the first guarded thing that is not as it was."""
    if before == after:
        return None
    n = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), -1)
    if n < 0 or len(before) != len(after):
        n = n if n >= 0 else min(len(before), len(after))
        return _KINDS[max(before, after, key=len)[n][1][0]]
    (old, painted), (new, brought) = before[n], after[n]
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    paint = painted[at:].lstrip(b"\0") or brought[at:].lstrip(b"\0") or painted[-1:]
    return _KINDS[paint[0]]


def _painted(text: str) -> bytes:
    """The kind of each character, by its number; later kinds cover earlier ones."""
    paint = bytearray(len(text))

    def cover(kind: Kind, ranges: Iterable[tuple[int, int]]) -> None:
        for start, stop in ranges:
            paint[start:stop] = bytes([_KINDS.index(kind)]) * (stop - start)

    fences = list(_fences(text))
    prose = _without(text, fences, "\n")
    code = [*_ticked(prose), *_code_lines(prose)]
    cover(Kind.BREAK, _found(_BREAK, text))
    cover(Kind.CHARACTER, _found(_HIDDEN, text))
    for start, stop, kind in _words(text):
        cover(kind, [(start, stop)])
    # A mark within code is no quotation mark; but what looks like code may be prose: both readings count.
    cover(Kind.QUOTE, _quotes(prose))
    cover(Kind.QUOTE, _quotes(_without(prose, code, "x")) if code else ())
    cover(Kind.CODE, [*code, *fences])
    cover(Kind.MARKER, _found(_MARK, text))
    return bytes(paint)


def _found(pattern: re.Pattern[AnyStr], text: AnyStr) -> Iterator[tuple[int, int]]:
    return (m.span() for m in pattern.finditer(text))


def _without(text: str, ranges: Iterable[tuple[int, int]], fill: str) -> str:
    """The text with these ranges filled, as long as before."""
    parts, at = [], 0
    for start, stop in sorted(ranges):
        if stop > at:
            parts += [text[at:start], fill * (stop - max(start, at))]
            at = stop
    return "".join([*parts, text[at:]])


def _listed(*words: str) -> frozenset[str]:
    return frozenset(normalize("NFKC", word) for line in words for word in line.split())


_Said = tuple[str, bytes]
"""A guarded string, and its paint."""
_KINDS = (Kind.CONTRACT, *(k for k in Kind if k is not Kind.CONTRACT))
"""Kinds by their number in a painted text, where 0 is none."""
_PAINT, _ALIKE = re.compile(rb"[^\0]+"), re.compile(rb"([^\0])\1*")
_BREAK = re.compile("[\r\n]+")
_MARK = re.compile(r"\[(?:\.\.\.|…)\]|<\|[^|\n]{0,64}\|>")
_HIDDEN = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffd"
    "\ud800-\udfff\ue000-\uf8ff\U000e0000-\U000e007f]"
)


# ---- code ---------------------------------------------------------------------------------------------


def _lines(text: str) -> Iterator[tuple[int, str]]:
    at = 0
    for line in text.split("\n"):
        yield at, line
        at += len(line) + 1


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    for gap in _GAP.finditer(text):
        yield at, gap.start()
        at = gap.end()
    yield at, len(text)


def _fences(text: str) -> Iterator[tuple[int, int]]:
    """From a line that opens a fence to the one that closes it, or to the end."""
    start, mark = 0, ""
    for at, line in _lines(text):
        bare = line.strip()
        if mark and bare.startswith(mark):
            yield start, at + len(line)
            mark = ""
        elif not mark and bare.startswith(("```", "~~~")) and bare[:3] not in bare.lstrip(bare[0]):
            start, mark = at, bare[:3]
    if mark:
        yield start, len(text)


def _ticked(text: str) -> Iterator[tuple[int, int]]:
    """From a run of backticks to the next as long, or to the end of the paragraph."""
    for begin, end in _paragraphs(text):
        start, width = 0, 0
        for run in _TICKS.finditer(text, begin, end):
            if not width:
                start, width = run.start(), len(run.group())
            elif width == len(run.group()):
                yield start, run.end()
                width = 0
        if width:
            yield start, end


def _code_lines(text: str) -> Iterator[tuple[int, int]]:
    return ((at, at + len(line)) for at, line in _lines(text) if _is_code(line))


def _is_code(line: str) -> bool:
    bare = line.strip()
    if bare.startswith(_PROMPTS) or any(sign in bare for sign in _OPERATORS) or _STATEMENT.fullmatch(bare):
        return True
    if not any(sign in bare for sign in "(){}[]=<>;_$"):
        return False
    shaped = line.startswith(("    ", "\t")) or bare.startswith("}") or bare.endswith(("{", "}", ";", "):"))
    first = bare[: len(bare) - len(bare.lstrip(ascii_letters))]
    return shaped or (first in (first.lower(), first.upper()) and first.lower() in _KEYWORDS)


_GAP = re.compile(r"\n[ \t\r]*\n")
_TICKS = re.compile("`+")
_PROMPTS = ("$ ", ">>>", "#!", "//", "/*", "*/", "@@ ", "#include", "#define", "+++ ", "--- a/")
_OPERATORS = (" = ", " := ", "==", "!=", "&&", "||", "+=", "</", "();", "){")
_STATEMENT = re.compile(
    r"(?:import|from|return|class|struct|enum|package|namespace|break|continue|pass|else|try|finally|done)"
    r"(?: [\w.]+)?(?: (?:import|as) .*)?[:;{]?"
)
_KEYWORDS = _listed(
    "async await case catch class const create def delete echo elif else except export fn for func function",
    "if insert let print private public return select static switch try update var while with yield",
)


# ---- quotations ---------------------------------------------------------------------------------------


def _quotes(text: str) -> Iterator[tuple[int, int]]:
    for begin, end in _paragraphs(text):
        if not _ANY_MARK.search(text, begin, end):
            continue
        double = [quoted for marks in _DOUBLE for quoted in _double(text, marks, begin, end)]
        yield from double
        rest = _without(text[begin:end], [(a - begin, b - begin) for a, b in double], "x")
        yield from ((begin + a, begin + b) for a, b in _single(rest))


def _double(text: str, marks: re.Pattern[str], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Pairs, if opening and closing marks take turns. Else all from the first mark to the end of the
    paragraph, or the paragraph if that mark closes."""
    found = [m.start() for m in marks.finditer(text, begin, end)]
    opens = [_opens(text[max(p - 1, begin) : p], text[p], text[p + 1 : min(p + 2, end)]) for p in found]
    if opens == [True, False] * (len(found) // 2):
        yield from zip(found[::2], (p + 1 for p in found[1::2]), strict=True)
    elif found:
        yield found[0] if opens[0] else begin, end


def _single(text: str) -> Iterator[tuple[int, int]]:
    """A closing mark looks like the apostrophe of a plural: the last before the next opening one counts.
    Without any, all to the end of the paragraph."""
    start, close = -1, 0
    for mark in _SINGLE.finditer(text):
        at = mark.start()
        before, after = text[max(at - 1, 0) : at], text[at + 1 : at + 2]
        if _opens(before, text[at], after) and not (text[at] == "'" and _ELISION.match(text, at + 1)):
            if start >= 0 and close:
                yield start, close
            if start < 0 or close:
                start, close = at, 0
        elif start >= 0 and before.strip() and not _wordy(after):
            close = at + 1
    if start >= 0:
        yield start, close or len(text)


def _opens(before: str, mark: str, after: str) -> bool:
    """Whether a quotation mark opens: by its shape, or by what stands beside it."""
    if mark not in "'\"＂":
        return mark in _OPENING
    return (not before.strip() or before in "([{<-–—/=*_'\"" + _OPENING) and bool(after.strip())


def _wordy(char: str) -> bool:
    return char.isalnum() or (char != "" and category(char)[0] == "M")


_OPENING = "“„‟«‹「『‘‚‛"
_DOUBLE = tuple(re.compile(marks) for marks in ('["＂]', "[“”„‟]", "[«»]", "[‹›]", "[「」]", "[『』]"))
_SINGLE = re.compile("['‘’‚‛]")
_ANY_MARK = re.compile("['‘’‚‛\"＂“”„‟«»‹›「」『』]")
_ELISION = re.compile(r"(?i:tis|twas|em|cause|til|n|\d\ds?)\b")


# ---- words --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Word:
    """A run without white space at begin..end; its core, without punctuation around it, at start..stop."""

    begin: int
    end: int
    start: int
    stop: int
    low: str
    """The core as the lists spell it."""
    kind: Kind | None
    leads: bool = False
    """A function word with a capital: a name, unless it begins a sentence."""

    @property
    def loose(self) -> bool:
        """Punctuation parts it from what follows."""
        return self.stop < self.end


def _words(text: str) -> Iterator[tuple[int, int, Kind]]:
    """Guarded words, with what belongs to them."""
    found = [_word(m.group(), m.start()) for m in _BLOB.finditer(text)]
    last, at = ".", 0
    for word in found:
        if word.leads and word.start == word.begin:
            begins = last in _ENDS or text.count("\n", at, word.begin) > 1
            word.kind = None if begins else Kind.NAME
        last, at = text[word.end - 1], word.end
    for left, right in pairwise(found):
        _join(left, right)
    _connect(found)
    return ((w.start, w.stop, w.kind) for w in found if w.kind is not None)


def _word(blob: str, at: int) -> _Word:
    start, stop = len(blob) - len(blob.lstrip(_EDGES)), len(blob.rstrip(_EDGES))
    if start >= stop:
        return _Word(at, at + len(blob), at, at + len(blob), blob, None)
    if start and (blob[start - 1] == "." or (blob[start - 1] in "'’" and blob[start].isnumeric())):
        start -= 1
    core = blob[start:stop]
    low = _plain(core)
    kind = _kind(core, low)
    if kind in (Kind.CODE, Kind.ADDRESS):
        start, stop = 0, len(blob.rstrip(".,;:!?"))
    leads = kind is Kind.NAME and core[1:] == core[1:].lower() and low.partition("'")[0] in _FUNCTION
    return _Word(at, at + len(blob), at + start, at + stop, low, kind, leads)


def _kind(core: str, low: str) -> Kind | None:
    """What a word is guarded for, by itself."""
    if (known := _known(low)) is not None:
        return known
    numeric = bool(_DIGIT.search(core)) or (not core.isascii() and any(c.isnumeric() for c in core))
    if _ADDRESS.search(core):
        return Kind.ADDRESS
    if _AMOUNT.search(core) or (numeric and not _LETTER.search(core)):
        return Kind.NUMBER
    if _CODE.search(core):
        return Kind.CODE
    parts = {_known(_plain(part)) for part in _PART.findall(core)}
    if Kind.NEGATION in parts:
        return Kind.NEGATION
    if numeric or Kind.NUMBER in parts:
        return Kind.NUMBER
    return Kind.NAME if core != core.lower() else None


def _known(word: str) -> Kind | None:
    if word in _NEGATIONS or word.endswith("n't"):
        return Kind.NEGATION
    return Kind.NUMBER if word in _NUMBERS or _ROMAN.fullmatch(word) else None


def _plain(word: str) -> str:
    """As the lists spell it; nothing for what is longer than their words (normalising is not linear)."""
    if len(word) > 40:
        return ""
    if not word.isascii():
        word = normalize("NFKC", word).translate(_SPELLING)
    return word.casefold().strip("'").removesuffix("'s")


def _join(left: _Word, right: _Word) -> None:
    """What makes a word part of its neighbour: a unit after a number, a sign before it, `koi nahi`."""
    if left.kind is Kind.NUMBER and right.kind is None and not left.loose and right.low in _UNITS:
        right.kind = Kind.NUMBER
    elif right.kind is Kind.NUMBER and left.low in ("-", "–"):
        left.kind = Kind.NUMBER
    elif right.kind is Kind.NEGATION and left.kind is None and left.low in _ANYBODY:
        left.kind = Kind.NEGATION


def _connect(found: Sequence[_Word]) -> None:
    """Small words within a name: The Hague, Bank of America, Lord of the Rings."""
    name = -1
    for n, word in enumerate(found):
        if word.kind is Kind.NAME:
            leads = n > 0 and found[n - 1].leads and found[n - 1].low == "the"
            for within in found[n - 1 if leads else n if name < 0 else max(name, n - 3) : n]:
                within.kind = within.kind or Kind.NAME
            name = -1 if word.loose else n
        elif word.kind or word.low not in _WITHIN or word.loose or word.start > word.begin:
            name = -1


_BLOB = re.compile(r"\S+")
_PART = re.compile(
    "[^\\s!-&(-/:-@\\[-^`{-©«-±´¶-¸»¿\u2010-\u2018\u201a-\u206f\u0964\u0965\u060c\u061b\u061f"
    "\u3000-\u3004\u3008-\u3020\uff01-\uff0f\uff1a-\uff20]+"
)
_LETTER = re.compile(r"[^\W\d_]")
_DIGIT = re.compile(r"\d")
_ADDRESS = re.compile(r"://|^www\.|^mailto:|[^@]@[^@]")
_AMOUNT = re.compile("[$€£¥₹₽₩]\\d|[%‰°€£¥₹₽₩+−±×÷=<>≤≥≈^]$|^[$€£¥₹₽₩+−±×÷=<>≤≥≈^]+$")
_CODE = re.compile(
    r"[\\/_=<>{}\[\]()|&^~@#*`+$]|[^\s.:][.:][^\s.:]|[a-z][A-Z]|^--?[^\W\d]|^\.\w|^[0-9a-f]{7,}$"
)
_ROMAN = re.compile("(?=[ivx]{2})x{0,3}(?:ix|iv|v?i{0,3})")
_EDGES = "()[]{}\"'“”‘’„‚«»‹›「」『』¡¿!?.,;:…—–`।॥。，、！？"
_ENDS = ".!?…।॥。！？"
_SPELLING = str.maketrans({"’": "'", "\u200c": None, "\u200d": None})

_NEGATIONS = _listed(
    "no not non none nobody nothing nowhere never neither nor cannot without hardly scarcely barely rarely",
    "seldom unless except lest minus instead nope nah nay lack lacks lacked lacking fail fails failed deny",
    "denies denied refuse refuses refused forbid forbids forbidden dont doesnt didnt isnt arent wasnt",
    "werent wont cant couldnt shouldnt wouldnt hasnt havent hadnt aint mustnt neednt नहीं नही नहि नहिं न ना",
    "मत बिना बगैर बग़ैर सिवा सिवाय मना nahi nahin nahee nahii naheen nhi nai mat na naa bina binaa bagair",
    "siva sivay siwa siway mana",
)
_ANYBODY = _listed("कोई किसी कुछ कभी कहीं koi kisi kuch kuchh kabhi kahin kahi")
"""Hindi says nobody, nothing, never and nowhere with two words."""
_NUMBERS = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand",
    "million billion trillion lakh crore dozen ones twos tens hundreds thousands millions billions",
    "trillions lakhs crores dozens half halves quarter quarters third thirds fourths fifths twenties",
    "thirties forties fifties sixties seventies eighties nineties first second fourth fifth sixth seventh",
    "eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth",
    "nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth hundredth",
    "thousandth millionth billionth once twice thrice single double triple percent noon midnight today",
    "tonight tomorrow yesterday a.m p.m o'clock january february april june july august september october",
    "november december jan feb apr jun jul aug sep sept oct nov dec monday tuesday wednesday thursday",
    "friday saturday sunday शून्य एक दो तीन चार पांच पाँच छह छः छे सात आठ नौ दस ग्यारह बारह तेरह चौदह",
    "पंद्रह सोलह सत्रह अठारह उन्नीस बीस तीस चालीस पचास साठ सत्तर अस्सी नब्बे सौ हजार हज़ार लाख करोड़ अरब",
    "आधा आधी आधे पौन सवा डेढ़ ढाई पहला पहली पहले दूसरा दूसरी दूसरे तीसरा तीसरी तीसरे चौथा चौथी चौथे प्रतिशत",
    "फीसदी रुपये रुपए रुपया आज कल परसों",
)
_UNITS = _listed(
    "per cent cents dollar dollars euro euros pound pounds rupee rupees yen yuan am pm bc ad bce ce degree",
    "degrees celsius fahrenheit nm mm cm m km inch inches foot feet yard yards mile miles mg g gram grams",
    "kg kilo kilos ton tons tonne tonnes ounce ounces oz lb lbs ml l litre litres liter liters ms s sec",
    "secs seconds min mins minute minutes h hr hrs hour hours day days night nights week weeks month months",
    "year years decade decades century centuries hz khz mhz ghz kb mb gb tb byte bytes bit bits w kw mw",
    "watt watts volt volts v mph kmh times point",
)
_WITHIN = _listed("of the and for van von der den de del della di da do dos du la le los las al el bin ibn")
_FUNCTION = _listed(
    "a an the this that these those i you he she it we they me him her us them my your his its our their",
    "mine yours hers ours theirs who whom whose which what when where why how if then else so as at by for",
    "from in into of off on onto out over to up with about above after again against all also although am",
    "among and any anyone anything are be because been before being below between both but can could did do",
    "does doing down during each either even ever every is everyone everything few had has have having here",
    "however just let like many more most much must now only or other perhaps same shall should since some",
    "somebody someone something sometimes still such than there therefore though through thus too under",
    "until upon very was were whatever whenever whether while within would yes yet",
)
