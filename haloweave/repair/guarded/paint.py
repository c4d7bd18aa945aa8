# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a text says that is guarded: it is painted, character by character, with what it must be kept for.

Knows one text: markers, hidden characters, code and quotations; `words.py` knows its words. Must not know
tokens, codecs, windows, or who would change it.

Everything here is linear in the text: patterns have no nested or adjoining repeats, and what must be counted
is counted in one pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from string import ascii_letters
from typing import AnyStr
from unicodedata import category

from haloweave.repair.guarded.kinds import Kind
from haloweave.repair.guarded.lists import KEYWORDS
from haloweave.repair.guarded.words import words


def said(text: str) -> list[Said]:
    """The guarded strings, in order; those with only white space between them as one."""
    paint = painted(text)
    bounds: list[list[int]] = []
    for start, stop in _found(_PAINT, paint):
        if bounds and text[bounds[-1][1] : start].isspace():
            bounds[-1][1] = stop
        else:
            bounds.append([start, stop])
    return [(text[a:b], paint[a:b]) for a, b in bounds]


def difference(before: list[Said], after: list[Said]) -> Kind | None:
    """Kind of the first guarded thing that is not as it was."""
    if before == after:
        return None
    n = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), -1)
    if n < 0 or len(before) != len(after):
        n = n if n >= 0 else min(len(before), len(after))
        return _KINDS[max(before, after, key=len)[n][1][0]]
    (old, kept), (new, brought) = before[n], after[n]
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    paint = kept[at:].lstrip(b"\0") or brought[at:].lstrip(b"\0") or kept[-1:]
    return _KINDS[paint[0]]


def painted(text: str) -> bytes:
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
    for start, stop, kind in words(text):
        cover(kind, [(start, stop)])
    # A mark within code is no quotation mark; but what looks like code may be prose: both readings count.
    cover(Kind.QUOTE, _quotes(prose))
    cover(Kind.QUOTE, _quotes(_without(prose, code, "x")) if code else ())
    cover(Kind.CODE, [*code, *fences])
    cover(Kind.MARKER, _found(_MARK, text))
    return bytes(paint)


def alike(text: str) -> Iterator[tuple[int, int, Kind]]:
    """Runs of characters that are guarded for one reason: disjoint, in order."""
    paint = painted(text)
    return ((a, b, _KINDS[paint[a]]) for a, b in _found(_ALIKE, paint))


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


Said = tuple[str, bytes]
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
    return shaped or (first in (first.lower(), first.upper()) and first.lower() in KEYWORDS)


_GAP = re.compile(r"\n[ \t\r]*\n")
_TICKS = re.compile("`+")
_PROMPTS = ("$ ", ">>>", "#!", "//", "/*", "*/", "@@ ", "#include", "#define", "+++ ", "--- a/")
_OPERATORS = (" = ", " := ", "==", "!=", "&&", "||", "+=", "</", "();", "){")
_STATEMENT = re.compile(
    r"(?:import|from|return|class|struct|enum|package|namespace|break|continue|pass|else|try|finally|done)"
    r"(?: [\w.]+)?(?: (?:import|as) .*)?[:;{]?"
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
