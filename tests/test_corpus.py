# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Files to documents: what is read, what is left out, and what is refused instead of being dropped."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haloweave import corpus
from haloweave.corpus import Credit, credit, documents, files, home
from haloweave.errors import InvalidInput

BOOK = (
    "The Project Gutenberg eBook of Tea\r\nlicence, licence\r\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK TEA ***\r\n\r\n"
    "Tea is\r\nhot.\r\n\r\nMilk is not.\r\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK TEA ***\r\nmore licence\r\n"
)


def put(folder: Path, name: str, text: str | bytes = "some text\n") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(path: Path) -> list[str]:
    return [document.text for document in documents([path])]


# ---- documents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_book_without_its_frame_and_its_line_breaks(tmp_path: Path, start: str) -> None:
    path = put(tmp_path, "tea.txt", start + BOOK)
    assert read(path) == [corpus.book(path)] == ["Tea is hot.\n\nMilk is not."]


def test_the_words_end_of_alone_cut_nothing_off() -> None:
    text = "one\n*** END OF CHAPTER ONE ***\ntwo"
    assert corpus.unframed(text) == text
    early = "*** END OF THE PROJECT GUTENBERG EBOOK *** " + BOOK
    assert "Tea is" in corpus.unframed(early)


def test_hard_wrapped_lines_are_joined_and_others_are_not(tmp_path: Path) -> None:
    wide = "x" * 60
    assert read(put(tmp_path, "wrapped.txt", f"{wide}\n{wide}\n\n{wide}\n")) == [f"{wide} {wide}\n\n{wide}"]
    assert read(put(tmp_path, "lines.txt", "\none\ntwo\n\nthree\n")) == ["one\ntwo\n\nthree"]


@pytest.mark.parametrize("data", [b"", b"\n\n \n"])
def test_a_text_without_words_is_empty(tmp_path: Path, data: bytes) -> None:
    assert read(put(tmp_path, "blank.txt", data)) == [""]


def test_bytes_that_are_no_text_are_survived(tmp_path: Path) -> None:
    assert read(put(tmp_path, "odd.txt", b"a\xffb\x00c\r\nd")) == ["a\ufffdb\x00c\nd"]


def test_json_lines_keep_what_belongs_together(tmp_path: Path) -> None:
    question, answer = "How many apples are left?", "Three of them are left."
    line = {"question": question, "id": 7, "short": "no", "more": [{"answer": answer}]}
    path = put(tmp_path, "qa.jsonl", json.dumps(line) + "\n\n" + json.dumps({"n": 1}) + "\n")
    assert read(path) == [f"{question}\n{answer}"]


def test_a_json_string_may_hold_what_python_calls_a_line_end(tmp_path: Path) -> None:
    text = "one line to JSON\u2028two lines to Python\x85or three"
    path = put(tmp_path, "odd.jsonl", json.dumps({"t": text}, ensure_ascii=False))
    assert read(path) == [text]


def test_lone_surrogates_become_text(tmp_path: Path) -> None:
    (text,) = read(put(tmp_path, "half.jsonl", r'{"t": "half an emoji, \ud83d, no more"}'))
    assert text.encode() == b"half an emoji, ?, no more"


@pytest.mark.parametrize("line", ['{"torn": "yes', "plain text", "[" * 100_000])
def test_a_line_that_is_not_json_is_told_and_not_dropped(tmp_path: Path, line: str) -> None:
    path = put(tmp_path, "bad.jsonl", '{"good": "a long enough string"}\n' + line)
    with pytest.raises(InvalidInput, match=r"bad\.jsonl, line 2: expected JSON"):
        read(path)


def test_rows_of_a_table(tmp_path: Path) -> None:
    talk = 'A long talk,\nof two lines "and" a\u2028separator' + "!" * 200_000
    path = tmp_path / "talks.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["the heading of a column", "n"], [talk, "1"], ["short", "2"]])
    limit = csv.field_size_limit()
    assert read(path) == [talk]
    assert csv.field_size_limit() == limit


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        list(documents([tmp_path / "gone.txt"]))
    with pytest.raises(InvalidInput, match="no such text"):
        corpus.book(tmp_path / "gone.txt")


@given(words=st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=60), data=st.data())
def test_unwrapping_loses_no_word(words: list[str], data: st.DataObject) -> None:
    gaps = st.sampled_from([" ", "\n", " \n ", "\n\n", "\n \n"])
    text = "".join(word + data.draw(gaps) for word in words)
    assert corpus.unwrapped(text).split() == words


# ---- which files -------------------------------------------------------------------------------------


def names(found: list[Path]) -> list[str]:
    return [path.name for path in found]


def test_texts_are_found_and_notes_are_not(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.MD", "d.jsonl", "e.csv", "sources_of_the_nile.txt", "noticed.txt"):
        put(tmp_path, name)
    for name in ("SOURCE.txt", "a/LICENSE.md", "README.hi.md", "f.pdf", ".git/g.txt", "a/.h.txt", "no"):
        put(tmp_path, name)
    found = ["c.MD", "b.txt", "d.jsonl", "e.csv", "noticed.txt", "sources_of_the_nile.txt"]
    assert names(files([tmp_path])) == found
    assert names(files([tmp_path / "SOURCE.txt"])) == ["SOURCE.txt"], "what is named is taken"


def test_a_file_that_is_reached_twice_is_read_once(tmp_path: Path) -> None:
    put(tmp_path, "a/b.txt")
    roots = [tmp_path, tmp_path / "a", tmp_path / "a" / ".." / "a" / "b.txt", tmp_path / "a/b.txt"]
    assert names(files(roots)) == ["b.txt"]


def test_what_is_excluded(tmp_path: Path) -> None:
    for name in ("moby.txt", "a/moby.txt", "a/draft1.txt", "draft2.txt", "kept.txt"):
        put(tmp_path, name)
    assert names(files([tmp_path], ["moby.txt", "a/draft*"])) == ["draft2.txt", "kept.txt"]
    with pytest.raises(InvalidInput, match=r"'mobby\.txt'"):
        files([tmp_path], ["mobby.txt"])
    with pytest.raises(InvalidInput, match="nothing to read"):
        files([tmp_path], ["*.txt"])


def test_roots_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file or folder"):
        files([tmp_path / "gone"])
    with pytest.raises(InvalidInput, match="nothing to read"):
        files([tmp_path])
    with pytest.raises(InvalidInput, match=r"expected \.txt"):
        files([put(tmp_path, "film.mp4")])


# ---- credits -----------------------------------------------------------------------------------------


def test_the_note_beside_the_texts_is_read(tmp_path: Path) -> None:
    put(tmp_path, "tales/SOURCE.txt", "Repo: example.org/tales\nlicense: CC0: all of it\nwhat: 3 tales\n")
    assert credit(tmp_path / "tales") == Credit("tales", "CC0: all of it", "example.org/tales", "3 tales")
    assert credit(tmp_path) == Credit(tmp_path.name, "not stated", "not stated", "")


def test_the_nearest_note_speaks_for_a_file_but_none_above_the_roots(tmp_path: Path) -> None:
    put(tmp_path, "SOURCE.txt", "licence: of something else\n")
    inner = put(tmp_path, "data/set/part/a.txt")
    assert home(inner, [tmp_path / "data"]) == inner.parent.resolve()
    put(tmp_path, "data/set/SOURCE.txt", "licence: MIT\n")
    assert home(inner, [tmp_path / "data"]) == (tmp_path / "data/set").resolve()
    assert home(inner, [inner]) == inner.parent.resolve()
