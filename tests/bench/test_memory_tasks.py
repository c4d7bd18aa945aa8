# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Generators of cases: what is asked was said before, once, and lies as far back as is claimed."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haloweave.bench.facts import FACTS, Fact
from haloweave.bench.memory.cases import Case, Piece
from haloweave.bench.memory.tasks import TASKS, books, lines, logs, names, needles, talks
from haloweave.bench.memory.tasks.dialogues import Exchange, dialogues
from haloweave.bench.memory.tasks.script import numbers, tells, untold
from haloweave.errors import InvalidInput
from haloweave.memory.tokens import Source

FRAME = 5
"""Tokens around a piece."""
FRAMED = "\r\n".join(
    [
        "*** START OF THE PROJECT GUTENBERG EBOOK X ***",
        "",
        "{}",
        "*** END OF THE PROJECT GUTENBERG EBOOK X ***",
    ]
)
ASKED = sorted(set(TASKS) - {books.TASK})
PLAIN = ["a", "river", "stone", "walks", "by", "quiet", "tables", "nobody", "counts", "old", "water"]


def size(piece: Piece) -> int:
    return len(piece.text.split()) + FRAME


def sentence(rng: np.random.Generator, words: int) -> str:
    chosen = rng.choice(PLAIN, words)
    return " ".join(chosen.tolist()).capitalize() + "."


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books, talk and logs of a few thousand tokens each, all made up."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for folder in ("books", "talk", "logs"):
        (root / folder).mkdir()
    for name in ("first", "second", "third"):
        told = "\r\n\r\n".join(sentence(rng, 40) for _ in range(120))
        (root / f"books/{name}.txt").write_text(FRAMED.format(told), "utf-8", newline="")
    (root / "books/SOURCE.txt").write_text("what: books\n" * 4000, "utf-8")
    talk = ["### 1 | Rooms\n" + "\n".join(_said(rng, n) for n in range(16)) for _ in range(300)]
    (root / "talk/talk.txt").write_text("\n\n".join(talk) + "\n", "utf-8")
    for name in ("disk", "web"):
        log = (
            f"Jun 15 02:{n // 60 % 60:02}:{n % 60:02} box {name}[{n}]: {sentence(rng, 6)}"
            for n in range(1500)
        )
        (root / f"logs/{name}.log").write_text("\n".join(log) + "\n", "utf-8")
    return root


def _said(rng: np.random.Generator, number: int) -> str:
    return f"{'System' if number % 2 else 'User'}: {sentence(rng, 8)}"


def made(task: str, data: Path, *, tokens: int = 1500, count: int = 2, seed: int = 0) -> list[Case]:
    roots = {"books": ["books"], "logs": ["logs"], "talks": ["talk"], "lines": []}
    where = [data / name for name in roots.get(task, ["talk", "logs"])]
    few = {"facts": FACTS[:12]} if task == needles.TASK else {}
    return TASKS[task](where, size, tokens=tokens, count=count, seed=seed, **few)


# ---- what holds for all of them ----------------------------------------------------------------------


@pytest.mark.parametrize("task", ASKED)
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), tokens=st.integers(1500, 3000))
def test_a_question_measures_memory(task: str, data: Path, seed: int, tokens: int) -> None:
    for case in made(task, data, tokens=tokens, seed=seed):
        assert case.questions
        assert not case.raw
        assert case.task == task
        assert [q.after for q in case.questions] == sorted(q.after for q in case.questions)
        for question in case.questions:
            holds = [n for n, piece in enumerate(case.pieces) if question.evidence in piece.text]
            assert len(holds) == 1
            assert holds[0] < question.after <= len(case.pieces)
            since = case.pieces[holds[0] + 1 : question.after]
            assert question.distance == sum(len(piece.text.split()) + FRAME for piece in since)
            read = "\n".join(piece.text for piece in case.pieces)
            assert said_in(question.evidence, question.answer) == said_in(read, question.answer) == 1


def said_in(text: str, answer: str) -> int:
    """How often, word for word, whatever stands between the words."""
    words, looked = (re.findall(r"\w+", part.lower()) for part in (text, answer))
    return sum(words[n : n + len(looked)] == looked for n in range(len(words)))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_same_seed_gives_the_same_cases_and_another_seed_others(task: str, data: Path) -> None:
    one, same, other = made(task, data, seed=5), made(task, data, seed=5), made(task, data, seed=6)
    assert one == same
    assert {case.name for case in one}.isdisjoint(case.name for case in other)
    assert [case.pieces for case in one] != [case.pieces for case in other]


@pytest.mark.parametrize("task", sorted(TASKS))
def test_as_many_cases_as_asked_for_of_about_the_length_asked_for(task: str, data: Path) -> None:
    cases = made(task, data, tokens=1500, count=3)
    assert len(cases) == len({case.name for case in cases}) == 3
    for case in cases:
        if not case.raw:
            assert case.tokens == sum(map(size, case.pieces))
        assert 1500 <= case.tokens < 1500 * 1.25


@pytest.mark.parametrize("task", sorted(set(TASKS) - {lines.TASK}))
def test_no_text_is_read_twice(task: str, data: Path) -> None:
    once, twice = made(task, data, count=1)[0], made(task, data, count=2)
    assert once.pieces == twice[0].pieces
    long = [
        {p.text for p in case.pieces if len(p.text) > 60 and p.source is not Source.LOG} for case in twice
    ]
    assert long[0].isdisjoint(long[1])


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"count": 0}, {"seed": -1}])
def test_sizes_that_make_no_sense(task: str, data: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="at least"):
        made(task, data, **wrong)


@pytest.mark.parametrize("task", sorted(set(TASKS) - {lines.TASK}))
def test_too_little_text_is_refused_with_a_remedy(task: str, data: Path) -> None:
    with pytest.raises(InvalidInput, match=r"(got|give).*fewer"):
        made(task, data, tokens=4000, count=50)


@pytest.mark.parametrize("task", sorted(set(TASKS) - {lines.TASK}))
@pytest.mark.parametrize("missing", ["nowhere", "nowhere.log", "nowhere.txt"])
def test_missing_data_is_refused(task: str, tmp_path: Path, missing: str) -> None:
    with pytest.raises(InvalidInput, match=r"no such|nothing to read|no log"):
        TASKS[task]([tmp_path / missing], size, tokens=1500, count=1, seed=0)


@pytest.mark.parametrize("task", sorted(set(TASKS) - {lines.TASK}))
def test_data_without_text_are_refused(task: str, tmp_path: Path) -> None:
    for name in ("a.txt", "a.log"):
        (tmp_path / name).write_text("\n\n  \n", "utf-8")
    with pytest.raises(InvalidInput, match="expected"):
        TASKS[task]([tmp_path], size, tokens=1500, count=1, seed=0)


# ---- books -------------------------------------------------------------------------------------------


def test_a_stretch_is_whole_paragraphs_from_its_beginning_on(data: Path) -> None:
    for case in made(books.TASK, data, tokens=300, count=9):
        (piece,) = case.pieces
        assert case.raw
        assert case.tokens == 300
        assert not case.questions
        assert len(piece.text) == 300 * books.CHARACTERS
        told = (data / f"books/{case.document}.txt").read_text("utf-8")
        assert f"\n\n{piece.text[:100]}" in told
        assert "PROJECT GUTENBERG" not in piece.text


def test_books_take_turns(data: Path) -> None:
    found = [case.document for case in made(books.TASK, data, tokens=300, count=9)]
    assert set(found[:3]) == {"first", "second", "third"}
    assert found == found[:3] * 3


def test_stretches_of_one_book_do_not_overlap(data: Path) -> None:
    cases = books.cases([data / "books/first.txt"], size, tokens=300, count=9, seed=3)
    told = (data / "books/first.txt").read_text("utf-8")
    starts = [told.index(case.pieces[0].text) for case in cases]
    assert all(late - early >= 2400 for early, late in itertools.pairwise(starts))


def test_a_book_that_is_too_short_is_passed_over(data: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("One.\n\nTwo.\n", "utf-8")
    roots = [tmp_path, data / "books/first.txt", data / "books/second.txt"]
    assert {c.document for c in books.cases(roots, size, tokens=300, count=6, seed=1)} == {"first", "second"}


def test_text_of_too_few_tokens_is_refused(data: Path) -> None:
    with pytest.raises(InvalidInput, match="expected 300 tokens"):
        books.cases([data / "books"], lambda _: 299, tokens=300, count=1, seed=0)


def test_tables_are_no_books(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "once upon a time there was"}\n', "utf-8")
    with pytest.raises(InvalidInput, match="no book"):
        books.cases([tmp_path], size, tokens=1, count=1, seed=0)


@pytest.mark.parametrize(("task", "ending"), [(books.TASK, "txt"), (logs.TASK, "log")])
def test_two_texts_of_one_name_are_refused(task: str, ending: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"same.{ending}").write_text("one\n\ntwo\n" * 99, "utf-8")
    with pytest.raises(InvalidInput, match="called 'same'"):
        TASKS[task]([tmp_path], size, tokens=10, count=1, seed=0)


# ---- needles -----------------------------------------------------------------------------------------


@given(rows=st.integers(60, 120), keys=st.integers(2, 10), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_pass_keys_lie_at_growing_distances(data: Path, rows: int, keys: int, seed: int) -> None:
    where = [data / "talk", data / "logs"]
    (case,) = needles.passkeys(where, size, tokens=50 * rows, count=1, seed=seed, rows=rows, keys=keys)
    found = [q.distance for q in case.questions]
    wanted = np.geomspace(rows / 2, 50 * rows, keys)
    assert np.allclose(found, wanted, rtol=0, atol=2 * 14)  # half a piece, and the key before it
    assert len({q.asked for q in case.questions}) == len({q.answer for q in case.questions}) == keys
    assert all(re.fullmatch(r"\d{5}", q.answer) for q in case.questions)


def test_pass_keys_need_room(data: Path) -> None:
    where = [data / "talk"]
    with pytest.raises(InvalidInput, match="rows"):
        needles.passkeys(where, size, tokens=500, count=1, seed=0, rows=1000)
    with pytest.raises(InvalidInput, match="longer distances"):
        needles.passkeys(where, size, tokens=500, count=1, seed=0, rows=4)
    with pytest.raises(InvalidInput, match="colours"):
        needles.passkeys(where, size, tokens=2000, count=1, seed=0, keys=40)


def test_facts_lie_at_even_depths(data: Path) -> None:
    (case,) = made(needles.TASK, data, tokens=3000, count=1)
    found = sorted(q.distance for q in case.questions)
    assert len(found) == 12
    assert np.allclose(found, (np.arange(12) + 0.5) * 250, atol=100)
    assert {q.group for q in case.questions} == {needles.SAME, needles.OTHER}


def test_a_fact_that_the_text_tells_is_left_out(data: Path) -> None:
    told = Fact("I live by the water.", "Where do I live?", "Water")
    kept = Fact("My cat is called Quimby.", "Who is my cat?", "Quimby")
    (case,) = needles.cases([data / "talk"], size, tokens=500, count=1, seed=0, facts=[told, kept])
    assert [q.answer for q in case.questions] == ["Quimby"]
    with pytest.raises(InvalidInput, match="answers anyhow"):
        needles.cases([data / "talk"], size, tokens=500, count=1, seed=0, facts=[told])


def test_too_many_facts_for_a_stream(data: Path) -> None:
    with pytest.raises(InvalidInput, match="more tokens or fewer facts"):
        needles.cases([data / "talk"], size, tokens=100, count=1, seed=0)


# ---- lines -------------------------------------------------------------------------------------------


@given(
    every=st.integers(8, 20),
    back=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=15)
def test_a_question_is_about_a_line_so_many_lines_earlier(every: int, back: list[int], seed: int) -> None:
    (case,) = lines.cases([], size, tokens=1200, count=1, seed=seed, every=every, back=back)
    rows = [row for piece in case.pieces for row in piece.text.splitlines()]
    told = [re.fullmatch(r"line (\w+-\w+): REGISTER_CONTENT is (<\d{5}>)", row) for row in rows]
    found = [match.groups() for match in told if match]
    assert len(found) == len(rows) == len({k for k, _ in found}) == len({v for _, v in found})
    seen: dict[str, list[int]] = {}
    for question in case.questions:
        read = sum(len(piece.text.splitlines()) for piece in case.pieces[: question.after])
        far = int(question.group.split()[0])
        assert rows[read - far] == question.evidence
        assert f"in line {found[read - far][0]}?" in question.asked
        assert question.lead == f"The REGISTER_CONTENT in line {found[read - far][0]} is"
        assert found[read - far][1] == question.answer
        seen.setdefault(question.group, []).append(read)
    assert set(seen) == {f"{far} lines" for far in back}
    for far in back:
        due = [n // every for n in seen[f"{far} lines"]]
        assert due == list(range(due[0], len(rows) // every + 1))


def test_lines_are_rows_of_a_tool_and_stand_anywhere_in_their_piece() -> None:
    (case,) = lines.cases([], size, tokens=3000, count=1, seed=0)
    assert {piece.source for piece in case.pieces} == {Source.TOOL}
    places = {
        piece.text.splitlines().index(q.evidence)
        for q in case.questions
        for piece in case.pieces
        if q.evidence in piece.text
    }
    assert len(places) > 3


def test_lines_that_cannot_be() -> None:
    with pytest.raises(InvalidInput, match="less far back"):
        lines.cases([], size, tokens=300, count=1, seed=0, back=[200])
    with pytest.raises(InvalidInput, match="too few"):
        lines.cases([], size, tokens=100_000, count=1, seed=0)
    for every, back in ((0, [1]), (10, [0]), (10, [])):
        with pytest.raises(InvalidInput, match="back 1 or more"):
            lines.cases([], size, tokens=300, count=1, seed=0, every=every, back=back)


def test_names_are_told_apart() -> None:
    words = [*names.COLOURS, *names.THINGS, *names.ADJECTIVES, *names.NOUNS]
    words += [*names.DUTIES, *names.WORKERS, *names.BIRDS]
    assert len(words) == len(set(words))


# ---- logs --------------------------------------------------------------------------------------------

HEADS = {
    "Jun 15 02:04:59 box ftpd[20884]: connection closed": "Jun 15 02:04:59 CRITICAL ",
    "[Sun Dec 04 04:51:09 2005] [notice] child found in slot 6": "[Sun Dec 04 04:51:09 2005] [critical] ",
    "[10.30 16:49:07] reader.exe - open through proxy": "[10.30 16:49:07] CRITICAL ",
    "2016-09-28 04:30:31, Info                  CBS    Starting.": "2016-09-28 04:30:31, Critical ",
    "2015-10-18 18:01:50,353 INFO [main] app.Master: ready": "2015-10-18 18:01:50,353 CRITICAL ",
    "2024-01-02T10:11:12.123Z warn disk nearly full": "2024-01-02T10:11:12.123Z critical ",
    "081109 204106 329 INFO node.Packet: terminating": "081109 204106 329 CRITICAL ",
    "- 1117842440 2005.06.03 R23-M0 2005-06-03-16.47.20.7 RAS": "- 1117842440 CRITICAL ",
    "20171223-22:15:29:635|Step_Counter|30002312|flush": "20171223-22:15:29:635|CRITICAL|",
    "03-17 16:13:38.859  2227  2227 D TextView: visible": "03-17 16:13:38.859 CRITICAL ",
    "366633 node-200 unix.hw state_change.unavailable 1085100843": "366633 CRITICAL ",
    "Sep 1 begins without information": "Sep CRITICAL ",
}


@pytest.mark.parametrize("before", HEADS)
def test_an_important_line_begins_like_the_line_before(before: str) -> None:
    assert logs.head(before) == HEADS[before]


def test_one_line_in_so_many_matters_and_is_asked_about(data: Path) -> None:
    (case,) = logs.cases([data / "logs/web.log"], size, tokens=9000, count=1, seed=0, rare=50)
    assert {piece.source for piece in case.pieces} == {Source.LOG}
    assert case.document == "web"
    rows = [row for piece in case.pieces for row in piece.text.splitlines()]
    places = [n for n, row in enumerate(rows) if "CRITICAL" in row]
    assert len(places) == (len(rows) - len(places)) // 50
    assert max(np.diff(places)) <= 2 * 50 + 2
    for place in places:
        asked = [q for q in case.questions if q.evidence == rows[place]]
        assert sorted(q.group for q in asked) == [logs.HOST, logs.SERVICE, logs.TICKET]
        assert rows[place][:15] == rows[place - 1][:15]
    plain = (data / "logs/web.log").read_text("utf-8")
    assert "\n".join(row for row in rows if "CRITICAL" not in row) in plain


def test_a_short_log_has_one_line_that_matters(data: Path) -> None:
    cases = logs.cases([data / "logs"], size, tokens=200, count=6, seed=0)
    assert {case.document for case in cases} == {"disk", "web"}
    assert all(len({q.evidence for q in case.questions}) == 1 for case in cases)


def test_only_logs_are_logs(data: Path) -> None:
    with pytest.raises(InvalidInput, match="no log"):
        logs.cases([data / "talk"], size, tokens=200, count=1, seed=0)
    with pytest.raises(InvalidInput, match="important"):
        logs.cases([data / "logs"], size, tokens=200, count=1, seed=0, rare=0)


# ---- talks -------------------------------------------------------------------------------------------


def test_a_talk_alternates_and_questions_come_when_the_model_has_answered(data: Path) -> None:
    for case in made(talks.TASK, data, tokens=3000):
        sources = [piece.source for piece in case.pieces]
        assert sources == [Source.USER, Source.MODEL] * (len(sources) // 2)
        assert all(case.pieces[q.after - 1].source is Source.MODEL for q in case.questions)
        assert not any(re.match(r"User|System|#", piece.text) for piece in case.pieces)


def test_a_fact_is_asked_for_soon_later_and_at_the_end(data: Path) -> None:
    (case,) = talks.cases([data / "talk"], size, tokens=3000, count=1, seed=0, said=6, later=[0.05, 0.25])
    by_fact = {q.evidence: [o for o in case.questions if o.evidence == q.evidence] for q in case.questions}
    assert len(by_fact) == 6
    for asked in by_fact.values():
        found = [q.distance for q in asked]
        assert asked[-1].after == len(case.pieces)
        for wanted, distance in zip([150, 750], found[:-1], strict=False):
            assert wanted <= distance < wanted + 4 * (8 + FRAME) + 20
    assert max(len(asked) for asked in by_fact.values()) == 3


def test_talks_that_cannot_be(data: Path) -> None:
    with pytest.raises(InvalidInput, match="too few for 12 facts"):
        talks.cases([data / "talk"], size, tokens=100, count=1, seed=0)
    with pytest.raises(InvalidInput, match="facts whose answers"):
        talks.cases([data / "talk"], size, tokens=900, count=1, seed=0, said=99)
    with pytest.raises(InvalidInput, match="shares"):
        talks.cases([data / "talk"], size, tokens=900, count=1, seed=0, later=[1.5])


def test_a_talk_has_no_fact_that_it_tells(data: Path) -> None:
    told = Fact("I live by the water.", "Where do I live?", "Water")
    kept = Fact("My cat is called Quimby.", "Who is my cat?", "Quimby")
    two = [told, kept]
    (case,) = talks.cases([data / "talk"], size, tokens=900, count=1, seed=0, facts=two, said=1)
    assert {q.answer for q in case.questions} == {"Quimby"}
    with pytest.raises(InvalidInput, match="facts whose answers"):
        talks.cases([data / "talk"], size, tokens=900, count=1, seed=0, facts=two, said=2)


def put(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


def test_speakers_are_known_by_their_marks(tmp_path: Path) -> None:
    text = "### 7\nSystem: Hello.\nUser: Hi.\nUser: A room?\nSystem: For whom?\nfor how long?\nUser: Bye.\n"
    assert dialogues([put(tmp_path, "a.txt", text)]) == [
        (Exchange("Hi. A room?", "For whom? for how long?"),)
    ]


def test_personas_beside_a_chat_are_no_talk(tmp_path: Path) -> None:
    chat = '"I bake a lot of cookies.\nI have two dogs.","User 1: Do you like tea?\nUser 2: I do indeed."'
    found = dialogues([put(tmp_path, "a.csv", f"persona,chat\n{chat}\n")])
    assert found == [(Exchange("Do you like tea?", "I do indeed."),)]


@pytest.mark.parametrize("text", ["Hi.\nHello.\nTea?\nYes.\n", "Hi.\n\nHello.\n\nTea?\n\nYes.\n\nBye.\n"])
def test_without_marks_lines_alternate(tmp_path: Path, text: str) -> None:
    assert dialogues([put(tmp_path, "a.txt", text)]) == [
        (Exchange("Hi.", "Hello."), Exchange("Tea?", "Yes."))
    ]


def test_lines_of_one_length_are_lines_still(tmp_path: Path) -> None:
    talk = "".join(f"User: {'a' * 60}\nSystem: {'b' * 60}\n\n" for _ in range(9))
    assert dialogues([put(tmp_path, "a.txt", talk)]) == [(Exchange("a" * 60, "b" * 60),)] * 9


def test_a_long_chat_is_cut(tmp_path: Path) -> None:
    found = dialogues([put(tmp_path, "a.txt", "User: a\nSystem: b\n" * 50)])
    assert [len(talk) for talk in found] == [24, 24, 2]


# ---- what a text tells -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "told"),
    [
        ("Level 7 it is", "7", True),
        ("at 17:30", "7", False),
        ("MOTHS!", "moths", True),
        ("mammoths", "moths", False),
    ],
)
def test_an_answer_is_told_as_a_word(text: str, answer: str, told: bool) -> None:
    assert tells(text, answer) is told


def test_facts_that_tell_each_other_are_left_out() -> None:
    one, two = Fact("It is in Bruges.", "Where?", "Bruges"), Fact("Bruges has 9 mills.", "How many?", "9")
    assert untold([one, two], "") == [two]


@settings(max_examples=20)
@given(st.lists(st.integers(10_000, 99_999), max_size=20), st.integers(1, 50), st.integers(0, 99))
def test_numbers_are_new(taken: list[int], count: int, seed: int) -> None:
    found = numbers(np.random.default_rng(seed), count, " ".join(map(str, taken)))
    assert len(set(found)) == count
    assert not {int(n) for n in found} & set(taken)
    assert all(re.fullmatch(r"[1-9]\d{4}", n) for n in found)
