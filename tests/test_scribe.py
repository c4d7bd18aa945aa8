# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""From text to segments: lines, units, turns, chunks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fakes import END, START, ByteCodec
from hypothesis import given
from hypothesis import strategies as st

from haloweave.memory.tokens import NO_UNIT, Source
from haloweave.scribe import Opening, Scribe, Segment, lines, packed

CHAT = ByteCodec()


def _scribe(longest: int = 16) -> Scribe:
    return Scribe(CHAT, longest_unit=longest)


def _turn(scribe: Scribe, source: Source, *, fresh: bool = True) -> list[Segment]:
    """The control tokens of a turn, and that they have been read (where the scribe wants to be told)."""
    return _read(scribe, scribe.turn(source, fresh=fresh))


def _read(scribe: Scribe, opening: Opening) -> list[Segment]:
    scribe.enter(opening)
    return list(opening.segments)


def _text(segments: list[Segment]) -> str:
    return b"".join(bytes(s.ids) for s in segments).decode("utf-8", "replace")


# ---- lines -------------------------------------------------------------------------------------------


def _cut(text: str, at: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(a % (len(text) + 1) for a in at)})
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


@given(text=st.text("ab \r\n\x00\u2028", max_size=60), at=st.lists(st.integers(0, 60), max_size=6))
def test_lines_do_not_depend_on_how_the_text_arrived(text: str, at: list[int]) -> None:
    whole = list(lines([text]))
    assert list(lines(_cut(text, at))) == whole
    assert list(lines(list(text))) == whole
    expected = [part + "\n" for part in text.replace("\r\n", "\n").split("\n") if part.strip()]
    assert whole == expected


def test_line_ends_of_all_kinds() -> None:
    assert list(lines(["a\r\nb\nc\r", "\nd"])) == ["a\n", "b\n", "c\n", "d\n"]
    assert list(lines(["50%\r100%\n"])) == ["50%\r100%\n"]
    assert list(lines(["a\x0bb\x0cc\x85d\u2028e\n"])) == ["a\x0bb\x0cc\x85d\u2028e\n"]
    assert list(lines(["", "\n", " \n", "\r\n"])) == []


def test_lines_are_read_as_they_come() -> None:
    def growing() -> Iterator[str]:
        yield "one\ntw"
        raise AssertionError("read too far ahead")

    assert next(lines(growing())) == "one\n"


def test_a_long_line_in_many_small_pieces_takes_no_quadratic_time() -> None:
    """300 kB in pieces of 8, as a slow pipe would bring them: seconds mean that all is copied each time."""
    start = time.process_time()
    (line,) = lines("x" * 8 for _ in range(40_000))
    assert len(line) == 320_001
    assert time.process_time() - start < 1.0


# ---- units -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [Source.LOG, Source.TOOL])
def test_a_line_is_a_unit(source: Source) -> None:
    segments = list(_scribe().write(["one\n\ntwo\n", "three"], source))
    assert [_text([s]) for s in segments] == ["one\n", "two\n", "three\n"]
    assert len({s.unit for s in segments}) == 3
    assert NO_UNIT not in {s.unit for s in segments}
    assert {s.source for s in segments} == {source}


def test_long_lines_are_cut_into_several_units_and_counted() -> None:
    scribe = _scribe(longest=10)
    segments = list(scribe.write(["x" * 25 + "\nshort\n"], Source.LOG))
    assert [len(s.ids) for s in segments] == [10, 10, 6, 6]
    assert len({s.unit for s in segments}) == 4
    assert scribe.long_lines == 1


def test_a_memory_is_one_unit_and_words_are_none() -> None:
    scribe = _scribe(longest=100)
    (memory,) = scribe.write(["one\ntwo\n"], Source.MEMORY)
    assert memory.unit != NO_UNIT
    assert [s.unit for s in scribe.write(["one\ntwo\n"], Source.USER)] == [NO_UNIT]
    (pinned,) = scribe.write(["x"], Source.USER, pinned=True)
    assert pinned.pinned


def test_units_of_turns_and_lines_never_meet() -> None:
    scribe = _scribe()
    seen: list[int] = []
    for n in range(5):
        seen += {s.unit for s in _turn(scribe, Source.USER)}
        seen += [s.unit for s in scribe.write([f"{n}\n"], Source.LOG)]
    opened = [u for u in seen if seen.count(u) > 2]
    assert not opened


@given(st.text(max_size=40))
def test_nothing_of_a_persons_text_is_lost(text: str) -> None:
    segments = list(_scribe().write([text], Source.USER))
    assert b"".join(bytes(s.ids) for s in segments) == text.encode("utf-8", "replace")


@given(st.lists(st.text("ab\n", max_size=9), max_size=6), st.integers(1, 7))
def test_no_unit_is_longer_than_the_longest(texts: list[str], longest: int) -> None:
    segments = list(_scribe(longest).write(texts, Source.LOG))
    assert all(0 < len(s.ids) <= longest for s in segments)
    assert _text(segments) == "".join(lines(texts))


# ---- turns -------------------------------------------------------------------------------------------


def test_turns_open_and_close() -> None:
    scribe = _scribe()
    user = [START, *b"user\n"]
    assert [list(s.ids) for s in _turn(scribe, Source.USER)] == [user]
    assert _turn(scribe, Source.LOG, fresh=False) == []
    assert [list(s.ids) for s in _turn(scribe, Source.USER)] == [[END, 10], user]
    answer = _turn(scribe, Source.MODEL, fresh=False)
    assert [list(s.ids) for s in answer] == [[END, 10], [START, *b"assistant\n"]]
    assert all(s.source is Source.CONTROL for s in answer)
    assert answer[0].unit != answer[1].unit
    assert [list(s.ids) for s in _read(scribe, scribe.end())] == [[END, 10]]
    assert _read(scribe, scribe.end()) == []


def test_a_model_without_a_template_has_no_turns() -> None:
    scribe = Scribe(ByteCodec(chat=False), longest_unit=8)
    assert _turn(scribe, Source.USER) == _turn(scribe, Source.MODEL) == _read(scribe, scribe.end()) == []


def test_the_opening_comes_once() -> None:
    class Opened(ByteCodec):
        @property
        def frame(self) -> Any:
            frame = super().frame
            return frame and replace(frame, opening=(END,))

    scribe = Scribe(Opened(), longest_unit=8)
    assert _turn(scribe, Source.USER)[0].ids == (END,)
    assert sum(s.ids == (END,) for s in _turn(scribe, Source.MODEL)) == 0


# ---- packing -----------------------------------------------------------------------------------------

_SEGMENTS = st.lists(
    st.builds(
        lambda ids, unit: Segment(tuple(ids), Source.USER, unit),
        st.lists(st.integers(0, 255), max_size=12),
        st.integers(-1, 3),
    ),
    max_size=8,
)


@given(segments=_SEGMENTS, size=st.integers(1, 9))
def test_packing_loses_and_invents_nothing(segments: list[Segment], size: int) -> None:
    chunks = list(packed(segments, size))
    flat = [(i, s.unit) for chunk in chunks for s in chunk for i in s.ids]
    assert flat == [(i, s.unit) for s in segments for i in s.ids]
    counts = [sum(len(s.ids) for s in chunk) for chunk in chunks]
    assert counts[:-1] == [size] * (len(counts) - 1)
    assert all(0 < n <= size for n in counts)
    assert all(s.ids for chunk in chunks for s in chunk)
