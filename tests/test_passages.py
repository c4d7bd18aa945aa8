# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Cutting: where passages end, and that nothing but their own tokens decides it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haloweave.journal.base import Born
from haloweave.journal.passages import LONGEST, SHORTEST, Bit, Stretch, advance, bits, passage
from haloweave.memory.tokens import NO_UNIT, Source, Tokens


def words(text: str, source: Source = Source.USER, *, first: int = 0, unit: int = NO_UNIT) -> list[Bit]:
    """One token a word, with the space before it; one for each run of newlines."""
    pieces = [p.encode() for p in re.findall(r"\n+| *[^\s]+| +", text)]
    return [Bit(first + n, int(source), unit, 0, p) for n, p in enumerate(pieces)]


def lines(texts: list[str], source: Source = Source.LOG) -> list[Bit]:
    out: list[Bit] = []
    for unit, text in enumerate(texts):
        out += words(text, source, first=len(out), unit=unit)
    return out


def told(*streams: list[Bit]) -> list[str]:
    """Texts of the passages, the open one included."""
    closed, open_ = advance((), [bit for stream in streams for bit in stream])
    return [passage(s).text for s in (*closed, *([open_] if open_ else []))]


SENTENCE = "One two three four five six seven eight nine ten."


def test_prose_ends_with_a_sentence_once_it_is_long_enough() -> None:
    assert told(words(f"{SENTENCE} {SENTENCE} {SENTENCE}")) == [f"{SENTENCE} {SENTENCE}", f" {SENTENCE}"]
    short = "Yes. No. Well."
    assert told(words(short)) == [short]


@pytest.mark.parametrize(
    "end", [".", "!", "?", "…", '."', ".)", "।", "॥", "。", ".**"], ids=lambda e: f"U+{ord(e[0]):04X}{len(e)}"
)
def test_signs_that_end_a_sentence(end: str) -> None:
    long = " ".join(["word"] * (SHORTEST + 2)) + end
    assert told(words(f"{long} And more of it.")) == [long, " And more of it."]


@pytest.mark.parametrize("inside", ["3.14 and", "v1.2: and", "example.com and", "e.g, and", "one,\ntwo"])
def test_what_looks_like_an_end_and_is_none(inside: str) -> None:
    text = " ".join(["word"] * SHORTEST) + f" {inside} more"
    assert told(words(text)) == [text]


def test_a_paragraph_ends_without_any_sign() -> None:
    head = " ".join(["word"] * SHORTEST)
    assert told(words(f"{head}\n\nNext")) == [f"{head}\n\n", "Next"]
    assert told(words(f"{head}\nNext")) == [f"{head}\nNext"], "hard-wrapped prose goes on"


def test_short_lines_are_joined_and_long_ones_are_whole() -> None:
    short = [f"at {n} all is well\n" for n in range(20)]
    assert told(lines(short)) == ["".join(short[n : n + 4]) for n in range(0, 20, 4)]
    long = [" ".join(["x"] * 40) + "\n", "short one\n", " ".join(["y"] * 40) + "\n", "end\n"]
    cut = told(lines(long))
    assert cut == [long[0], long[1] + long[2], long[3]], "joined while they are 48 tokens at most"


def test_a_line_longer_than_all_is_cut_between_words() -> None:
    line = " ".join(f"w{n}" for n in range(300)) + "\n"
    parts = told(lines([line]))
    assert "".join(parts) == line
    assert all(len(words(p)) <= LONGEST for p in parts)
    assert len(parts) == 4


@pytest.mark.parametrize("source", [Source.LOG, Source.USER])
def test_what_has_no_end_is_cut_where_it_hurts_least(source: Source) -> None:
    hindi = "\u0915\u094d\u0937" * 200
    letters = [Bit(n, int(source), 0, 0, bytes([b])) for n, b in enumerate(hindi.encode())]
    parts = told(letters)
    assert "".join(parts) == hindi, "no character is cut in two"
    assert max(len(p.encode()) for p in parts) <= LONGEST
    code = "\n".join(["{"] + ["  call(a, b);"] * 90)
    assert all(p.endswith("\n") for p in told(words(code))[:-1])
    nothing = [Bit(n, int(source), 0, 0, b"\x80") for n in range(3 * LONGEST)]
    assert [len(p) for p in told(nothing)] == [LONGEST] * 3


def test_a_change_of_source_ends_it_and_some_are_never_kept() -> None:
    said = [words("Hello there", Source.USER), words("<|x|>", Source.CONTROL), words("General", Source.MODEL)]
    remembered = [
        words("recalled text", Source.MEMORY),
        words("[...]", Source.MARKER),
        words("Kenobi", Source.MODEL),
    ]
    assert told(*said, *remembered) == ["Hello there", "General", "Kenobi"]


def test_what_is_recalled_or_unspelt_is_not_news() -> None:
    tokens = Tokens.make([1, 2], first_uid=5, source=Source.USER)
    assert {b.source for b in bits(Born(tokens, (b"a", b"b")))} == {Source.USER}
    assert advance((), bits(Born(tokens, (b"a", b"b"), origin=3))) == ([], ())
    assert advance((), bits(Born(tokens))) == ([], ())
    assert [b.uid for b in bits(Born(tokens))] == [5, 6]


def test_uids_given_to_others_meanwhile_are_holes() -> None:
    stream = words("one two", first=3) + words(" three four", first=8) + words(" five", first=11)
    (_, open_) = advance((), stream)
    made = passage(open_)
    assert (made.id, made.first_uid, made.last_uid) == (4, 3, 11)
    assert made.holes == ((5, 7), (10, 10))
    assert made.uids == (3, 4, 8, 9, 11)
    assert [made.holds(u) for u in (2, 3, 5, 7, 8, 10, 11, 12)] == [0, 1, 0, 0, 1, 0, 1, 0]
    assert made.text == "one two three four five"


TEXTS = st.text(st.sampled_from("ab .\n!\u0915\u093f\0"), max_size=300)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(list(Source)), st.integers(-1, 3)), max_size=5), st.data())
def test_cuts_depend_on_nothing_but_the_tokens_since_the_last_one(
    parts: list[tuple[str, Source, int]], data: st.DataObject
) -> None:
    stream: list[Bit] = []
    for text, source, unit in parts:
        stream += [
            Bit(len(stream) + n, int(source), unit, 0, bytes([b])) for n, b in enumerate(text.encode())
        ]
    closed, open_ = advance((), stream)
    at = data.draw(st.integers(0, len(stream)))
    first, held = advance((), stream[:at])
    second, left = advance(held, stream[at:])
    assert (first + second, left) == (closed, open_), "one pass or two"
    tail = closed[-1][-1].uid if closed else -1
    assert advance((), [b for b in stream if b.uid > tail]) == ([], open_), "made anew from the last cut on"
    assert_all_of(stream, [*closed, open_])


def assert_all_of(stream: list[Bit], stretches: list[Stretch]) -> None:
    """Everything that may be kept is in one stretch, in order, of one source, of bounded length."""
    kept = [b for b in stream if b.source not in (Source.MEMORY, Source.MARKER, Source.CONTROL)]
    assert [b for s in stretches for b in s] == kept
    assert all(len(s) <= LONGEST and len({b.source for b in s}) <= 1 for s in stretches)
    assert all(stretches[:-1])
