# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Finding: queries are data, words of every script, vectors against brute force, scores that mean it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest
from archived import Hashing
from hypothesis import given, settings
from hypothesis import strategies as st
from journalled import Life

from haloweave.errors import InvalidInput
from haloweave.journal import schema
from haloweave.journal.archive import Archive
from haloweave.journal.fold import fold
from haloweave.journal.log import Log
from haloweave.journal.search import TOKENIZER, Vectors, Words, packed, score, unpacked
from haloweave.memory.mirror import Mirror
from haloweave.memory.tokens import Source

SAID = (
    "My sister Tamsin keeps bees in Lerwick.",
    "The deploy failed: memory:safe was pre-edit at 12.5 percent.",
    "We ate in a café near the Gare du Nord and talked about thunderstorms.",
    "मेरी बहन किताबें पढ़ती है और क़लम से लिखती है।",
    "The NEAR operator and the word AND are OR not syntax here.",
    "Nothing of note happened on that day, it rained.",
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "mind.db")
    yield log
    log.close()


WATER = tuple(f"Turn {n}: it is what it is, and so on and on." for n in range(400))


def tell(life: Life, *texts: str) -> None:
    for n, text in enumerate(texts):
        life.cull(life.feed(text, (Source.USER, Source.MODEL)[n % 2]))


def told(log: Log, *texts: str, embedder: Hashing | None = None) -> Archive:
    """An archive in which each text was said in a turn of its own, and culled."""
    archive = Archive(log, embedder)
    tell(Life(log), *texts)
    while archive.embed_pending(3):
        pass
    return archive


def best(archive: Archive, query: str) -> str:
    found = archive.search(query)
    return found[0].passage.text if found else ""


@pytest.mark.parametrize(
    ("query", "nth"),
    [
        ("bees", 0),
        ("Who kept a bee in LERWICK?", 0),
        ("memory:safe", 1),
        ("pre-edit", 1),
        ("12.5", 1),
        ("cafe", 2),
        ("CAFE\u0301", 2),
        ("Thunderstorm", 2),
        ("किताबें", 3),
        ("प\u095dती", 3),
        ("पढ\u093cती", 3),
        ("\u0958लम", 3),
        ("NEAR(", 4),
        ("AND OR NOT", 4),
    ],
)
def test_words_of_every_kind_are_found(log: Log, query: str, nth: int) -> None:
    assert best(told(log, *SAID), query) == SAID[nth]


def test_a_hindi_word_is_whole(log: Log) -> None:
    """unicode61 by itself takes vowel signs for gaps: then `किताबें` would be found by `क` and by `त`."""
    archive = told(log, *SAID)
    assert [archive.search(part) for part in ("क", "त", "ब", "किताब")] == [()] * 4


HOSTILE = [
    *("", " ", '"', '""', '"""', "*", "NEAR(", "NEAR(a b, 5", "(", ")", "a AND", "OR", "NOT x", "-", "^bees"),
    *("{text}:", "text:bees", "+", "bees*", '"bees', "bees AND (", "'; DROP TABLE x; --", "!?.,;:"),
    *("\0", "bees\0Lerwick", "\ud800", "bees \udfff", "\u202e\u200f", "👩\u200d👩\u200d👧"),
    *("a" * 100_000, "bees " * 20_000, "x y z " * 16_000, " ".join(f"w{n}" for n in range(17_000))),
]


@pytest.mark.parametrize("query", HOSTILE, ids=lambda q: ascii(q)[:20])
@pytest.mark.parametrize("embedder", [None, Hashing()], ids=["words", "both"])
def test_no_query_is_syntax(log: Log, query: str, embedder: Hashing | None) -> None:
    archive = told(log, *SAID, embedder=embedder)
    found = archive.search(query)
    assert all(0 <= f.score <= 1 for f in found)
    if "bees" in query:
        assert found[0].passage.text == SAID[0]
    if not any(c.isalnum() for c in query):
        assert found == ()


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_any_text_is_a_query(query: str) -> None:
    db = apsw.Connection(":memory:")
    schema.migrate(db, 0)
    words = Words(db)
    words.enter(1, query)
    question = words.question(query, 1)
    assert words.best(question, None).keys() == ({1} if question.words else set()), "each text finds itself"
    words.leave(1, query)
    assert words.best(question, None) == {}


def test_the_index_and_we_split_words_alike(log: Log) -> None:
    (sql,) = log.db.execute("SELECT sql FROM sqlite_schema WHERE name = 'words'").fetchone()
    name, inner, *options = TOKENIZER
    quoted = [f"'{o}'" if " " in o else o for o in options]
    assert f'tokenize = "{" ".join([name, inner, *quoted])}"' in sql
    told(log, *SAID)
    held = {t for (t,) in log.db.execute("SELECT term FROM terms")}
    assert held == {t for text in SAID for t in Words(log.db).terms(text)}


def test_limits_and_sources(log: Log) -> None:
    archive = told(log, *["bees here"] * 5, embedder=Hashing())
    assert len(archive.search("bees", 2)) == 2
    newest = [f.passage.id for f in archive.search("bees")]
    assert newest == sorted(newest, reverse=True), "equals: the newest first"
    spoke = [
        {f.passage.source for f in archive.search("bees", sources=s)}
        for s in ([Source.MODEL], [Source.LOG], [])
    ]
    assert spoke == [{Source.MODEL}, set(), set()]
    for limit in (0, -1):
        with pytest.raises(InvalidInput, match="limit"):
            archive.search("bees", limit)
        with pytest.raises(InvalidInput, match="limit"):
            archive.pending(limit)


# -- scores ---------------------------------------------------------------------------------------------


def test_a_score_says_the_same_in_an_archive_of_any_size(log: Log) -> None:
    archive = told(log, *SAID)
    small = [archive.search(q)[0].score for q in ("bees Lerwick", "what is it", "bees and hippogriffs")]
    tell(Life(log, mirror=Mirror(fold(None, (r for _, r in log.records())).view)), *WATER)
    large = [archive.search(q)[0].score for q in ("bees Lerwick", "what is it", "bees and hippogriffs")]
    for rare, common, half in (small, large):
        assert rare > 0.5 > half > common
        assert rare > 0.7
        assert common < 0.3


def test_how_words_and_meaning_add_up() -> None:
    assert score(None, 0.3) == 0.3
    assert score(0.0, 1.0) == score(-0.5, 1.0) == 0.5
    assert score(1.0, 0.0) == 1.0
    assert score(0.4, 0.5) == pytest.approx(1 - 0.6 * 0.75)
    assert score(1.0000001, 1.0) == 1.0
    grid = [[score(c / 10, e / 10) for e in range(11)] for c in range(11)]
    assert np.all(np.diff(grid, axis=0) >= 0)
    assert np.all(np.diff(grid, axis=1) >= 0)


def test_what_was_matched_is_told(log: Log) -> None:
    (found, *_) = told(log, *SAID, embedder=Hashing()).search("Does your sister keep any bees?")
    assert found.matched == ("bees", "keep", "sister")
    assert found.bm25 is not None
    assert found.bm25 > 0
    assert found.cosine is not None
    assert 0 < found.cosine < 1


# -- vectors --------------------------------------------------------------------------------------------


def test_meaning_finds_what_words_do_not(log: Log) -> None:
    archive = told(log, *SAID, embedder=Hashing())
    (found, *_) = archive.search("apiarist sibling")
    assert (found.passage.text, found.bm25, found.matched) == (SAID[0], None, ())
    other = Log(log.path.with_name("other.db"))
    assert told(other, *SAID).search("apiarist sibling") == ()
    other.close()


def test_a_byte_a_number_is_enough() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[7] = 0
    blobs = [packed(v) for v in vectors]
    back = unpacked(blobs, 384)
    assert {len(b) for b in blobs} == {384}
    assert np.abs(back @ back.T - vectors @ vectors.T).max() < 0.01
    assert not back[7].any()
    assert np.allclose(np.linalg.norm(np.delete(back, 7, 0), axis=1), 1, atol=1e-6)


def test_the_nearest_against_brute_force() -> None:
    rng = np.random.default_rng(1)
    vectors, held, kinds = Vectors(16), {}, {}
    for start in range(1, 3000, 700):
        ids = list(range(start, start + 700))
        fresh = rng.normal(size=(700, 16)).astype(np.float32)
        sources = rng.integers(0, 3, 700).tolist()
        vectors.add(ids, sources, fresh)
        held |= dict(zip(ids, fresh, strict=True))
        kinds |= dict(zip(ids, sources, strict=True))
        for number in rng.choice(ids, 50, replace=False).tolist():
            vectors.drop(number)
            del held[number]
        query = rng.normal(size=16).astype(np.float32)
        cosines = vectors.cosines(query)
        for sources in (None, [Source.USER], [Source.SYSTEM, Source.MODEL], []):
            wanted = [n for n in held if sources is None or kinds[n] in sources]
            wanted.sort(key=lambda n: -float(held[n] @ query))
            assert sorted(vectors.best(cosines, sources)) == sorted(wanted[:64])
        assert len(vectors) == len(held)
        assert all(
            vectors.cosine(cosines, n) == pytest.approx(float(held[n] @ query), abs=1e-5) for n in held
        )
    assert vectors.cosine(cosines, 10**6) is None
    vectors.drop(10**6)
