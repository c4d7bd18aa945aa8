# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo corpus`: languages found by content, an evaluation set that is everybody's, and no passage on both
sides."""

from __future__ import annotations

import json
import random
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import Screens

from haloweave.diffusion.judging.overlap import Passages, spoken
from haloweave.errors import InvalidInput
from haloweave.language_corpus import LONGEST, Piece, gather, hold_out, portion, readable
from haloweave.language_suite import digest


def vocabulary(words: str, more: str = "", letters: str = "") -> list[str]:
    return [*words.split(), *(f"{more}{letter}" for letter in letters)]


ENGLISH = vocabulary("the of and to in that was he for it with as his on", "house", "abcdefghij")
HINDI = vocabulary("यह एक है और के में को से पर का", "घर", "कखगचजटडतदनपबमरलव")
HINGLISH = vocabulary("yeh ek hai aur ke mein ko se nahi bahut", "ghar", "abcdefghij")
MIXED = vocabulary("यह एक है और के में React state props component button page")


def lines(words: list[str], count: int, seed: int, length: int = 15) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=length)) for _ in range(count)]


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    for number, (name, words) in enumerate(
        (("novels", ENGLISH), ("stories", HINDI), ("chats", HINGLISH), ("manuals", MIXED))
    ):
        (root / name).mkdir(parents=True)
        (root / name / "a.txt").write_text("\n".join(lines(words, 600, number)), encoding="utf-8")
        note = f"repo: example.org/{name}\nlicence: CC0\n"
        (root / name / "SOURCE.txt").write_text(note, encoding="utf-8")
    (root / "novels" / "LICENSE.txt").write_text("no text to train on " * 50)
    return root


def ran(*arguments: object, code: int = 0) -> Screens:
    one = Screens(width=200)
    assert one.halo("corpus", *arguments) == code, one.err
    return one


def read(folder: Path) -> dict[str, list[str]]:
    return {
        path.stem: [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    }


def test_four_languages_are_told_apart_by_content(roots: Path, tmp_path: Path) -> None:
    ran(roots, "--out", tmp_path / "out")
    train, held = read(tmp_path / "out" / "train"), read(tmp_path / "out" / "held")
    assert set(train) == set(held) == {"english", "hindi", "hinglish", "mixed"}
    for side in (train, held):
        for name, words in (("english", ENGLISH), ("hindi", HINDI), ("hinglish", HINGLISH), ("mixed", MIXED)):
            assert {w for text in side[name] for w in text.split()} <= set(words)
    assert all(len(text) <= LONGEST + 200 for texts in train.values() for text in texts)


def test_the_manifest_says_what_is_there_and_of_whom(roots: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran(roots, "--out", out)
    told = json.loads((out / "manifest.json").read_text("utf-8"))
    assert told["evaluation_set"] == digest(out / "held")
    for name, own in told["languages"].items():
        for side in ("train", "held"):
            path = out / own[side]["file"]
            assert own[side]["sha256"] == sha256(path.read_bytes()).hexdigest()
            texts = read(out / side)[name]
            assert own[side]["documents"] == len(texts)
            assert own[side]["bytes"] == sum(len(text.encode()) for text in texts)
        assert [s["licence"] for s in own["sources"]] == ["CC0"]
    assert told["languages"]["hindi"]["sources"][0]["source"] == "example.org/stories"


def test_no_passage_is_on_both_sides(roots: Path, tmp_path: Path) -> None:
    other = roots / "again"
    other.mkdir()
    mixed_up = lines(ENGLISH, 600, 0)  # the lines of the novels in another order and dress
    random.Random(5).shuffle(mixed_up)
    (other / "b.txt").write_text("\n".join(f"- {line}!" for line in mixed_up))
    ran(roots, "--out", tmp_path / "out", "--held-share", 0.2)
    train, held = read(tmp_path / "out" / "train"), read(tmp_path / "out" / "held")
    known = Passages(text for texts in held.values() for text in texts)
    assert len(known)
    for texts in train.values():
        assert not any(known.shared(spoken(text)).any() for text in texts)
    assert train["english"]


def test_the_same_texts_are_held_out_whatever_else_is_there(roots: Path, tmp_path: Path) -> None:
    ran(roots / "stories", "--out", tmp_path / "alone")
    ran(roots, "--out", tmp_path / "all", "--seed", 7, "--per-language", 20_000)
    one, other = read(tmp_path / "alone" / "held"), read(tmp_path / "all" / "held")
    assert one["hindi"] == other["hindi"]
    assert read(tmp_path / "alone" / "train")["hindi"] != read(tmp_path / "all" / "train")["hindi"]


def test_a_larger_share_holds_out_the_smaller_ones_texts_too(roots: Path, tmp_path: Path) -> None:
    ran(roots, "--out", tmp_path / "few", "--held-share", 0.05)
    ran(roots, "--out", tmp_path / "many", "--held-share", 0.3)
    few, many = read(tmp_path / "few" / "held"), read(tmp_path / "many" / "held")
    assert all(set(texts) <= set(many[name]) for name, texts in few.items())


def test_the_same_call_writes_the_same_bytes(roots: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        ran(roots, "--out", tmp_path / name)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_language_has_no_more_than_its_bytes(roots: Path, tmp_path: Path) -> None:
    ran(roots, "--out", tmp_path / "out", "--per-language", 6_000)
    for path in (tmp_path / "out" / "train").iterdir():
        texts = read(path.parent)[path.stem]
        assert 0 < sum(len(text.encode()) + 1 for text in texts) <= 6_000


def test_tables_give_their_sentences_and_neither_labels_parses_nor_lexicons(tmp_path: Path) -> None:
    english, hinglish = lines(ENGLISH, 200, 1), lines(HINGLISH, 200, 2)
    rows = [f"{a}\t{b}\t[IN:DO {a} ]\tlabel" for a, b in zip(english, hinglish, strict=True)]
    (tmp_path / "t.tsv").write_text("en_query\tcs_query\tparse\tdomain\n" + "\n".join(rows))
    (tmp_path / "lexicon.tsv").write_text("".join(f"ghar{i}\tघर\t3\n" for i in range(900)), encoding="utf-8")
    found = gather(readable([tmp_path]))
    assert {piece.path.name for piece in found.pieces} == {"t.tsv"}
    there = {line for piece in found.pieces for line in piece.lines}
    assert there <= {*english, *hinglish}
    assert {piece.language for piece in found.pieces} == {"english", "hinglish"}


def test_broken_lines_apparatus_and_repetition_are_left_out(tmp_path: Path) -> None:
    good = lines(HINDI, 60, 3)
    bad = [b"\xff\xfe" + good[0].encode(), "काा घर है और".encode(), b"\xe0\xa4"]
    about = ["=== part one", "see https://example.org", "[12 | License: CC-BY | Language: hi]"]
    body = [line.encode() for line in (*good, *good, *about)] + bad
    (tmp_path / "a.txt").write_bytes(b"\n".join(body))
    found = gather(readable([tmp_path]))
    assert [line for piece in found.pieces for line in piece.lines] == good
    assert found.broken == 3


def test_joiners_stay(tmp_path: Path) -> None:
    own = [f"{line} क्\u200dया चिट्\u200cठी" for line in lines(HINDI, 30, 3)]
    (tmp_path / "a.txt").write_text("\n".join(own), encoding="utf-8")
    found = gather(readable([tmp_path]))
    assert "\u200d" in found.pieces[0].text
    assert "\u200c" in found.pieces[0].text


def test_a_missing_language_is_told_and_the_others_written(roots: Path, tmp_path: Path) -> None:
    err = ran(roots / "stories", roots / "chats", "--out", tmp_path / "out")
    said = err.out + err.err
    assert "english: none found" in said
    assert "mixed: none found" in said
    assert set(read(tmp_path / "out" / "train")) == {"hindi", "hinglish"}
    told = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert told["languages"]["english"]["train"] is None


def test_a_file_that_is_not_what_it_is_called_is_told_and_skipped(roots: Path, tmp_path: Path) -> None:
    (roots / "chats" / "bad.jsonl").write_text("{no json")
    said = ran(roots, "--out", tmp_path / "out")
    assert "skipped" in said.out + said.err
    assert read(tmp_path / "out" / "train")["hinglish"]


@pytest.mark.parametrize(
    ("make", "arguments", "told"),
    [
        ("", ("nowhere",), "no such file"),
        ("empty.txt", ("empty.txt",), "nothing in English"),
        ("only.png", (".",), "nothing to read"),
        ("a.txt", (".", "--leave-out", "z.txt"), "nothing to leave out"),
        ("a.txt", (".", "--leave-out", ""), "nothing to leave out"),
    ],
)
def test_nothing_to_read_is_an_error(
    tmp_path: Path, make: str, arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if make:
        (tmp_path / make).write_text("")
    err = ran(*arguments, "--out", tmp_path / "out", code=2).err
    assert told in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_not_written_to(roots: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert "new or empty" in ran(roots, "--out", tmp_path / "out", code=2).err
    assert "held-share" in ran(roots, "--out", tmp_path / "x", "--held-share", "nan", code=2).err


def test_files_can_be_left_out(roots: Path, tmp_path: Path) -> None:
    ran(roots, "--out", tmp_path / "out", "--leave-out", "novels/*")
    assert "english" not in read(tmp_path / "out" / "train")


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=60, max_size=90), max_size=12), st.integers(0, 9)
)
def test_sides_share_nothing_and_portions_are_kept(words: list[list[str]], seed: int) -> None:
    rows = [[" ".join(w + w[:9] for w in own[i : i + 10]) for i in range(0, len(own), 10)] for own in words]
    pieces = [Piece(Path("x"), "english", tuple(own)) for own in rows]
    found = hold_out(pieces, 0.4)
    assert all(piece in pieces for piece in found.held)
    known = Passages(piece.text for piece in found.held)
    assert not any(known.shared(spoken(piece.text)).any() for piece in found.train)
    chosen = portion(found.train, 900, seed)
    assert sum(len(piece.text) + 1 for piece in chosen) <= 900
    assert portion(reversed(found.train), 900, seed) == chosen


def test_a_missing_root_is_named() -> None:
    with pytest.raises(InvalidInput, match="no such"):
        readable([Path("does-not-exist")])
