# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The benchmarks of minds that are kept hold to their own rules: fair streams, whole figures."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from fakes import ByteCodec, FakeEngine, fake_mind
from whole import all_of

from haloweave import build
from haloweave.bench import archive, durable, recalled
from haloweave.bench import recall as bench
from haloweave.bench.commands import register
from haloweave.bench.facts import FACTS
from haloweave.bench.hay import Hay, Piece, planted, sizes
from haloweave.errors import EngineFault, InvalidInput
from haloweave.events import Recalled
from haloweave.journal.archive import Archive, Found
from haloweave.journal.base import Journal, Vault
from haloweave.journal.log import Log
from haloweave.journal.passages import Passage
from haloweave.memory.plan import delete
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.recall import Recaller, Recalling
from haloweave.settings import Settings, settings

SMALL = {"chunk": 16, "system": "", "embedder": "", "seed": 3}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Talk of many words, and a log."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghilmnorstu"), 5)) for _ in range(400)]
    line = lambda: " ".join(rng.choice(words, 6)) + "."  # noqa: E731
    talks = "\n\n".join("\n".join(line() for _ in range(8)) for _ in range(80))
    (tmp_path / "talk.txt").write_text(talks)
    (tmp_path / "box.log").write_text("\n".join(f"12:00:{n:02} unit {n} says {line()}" for n in range(40)))
    return tmp_path


# ---- facts and hay -------------------------------------------------------------------------------------


def test_an_answer_is_said_once_and_not_given_away_by_its_question() -> None:
    assert len(FACTS) == 50 == len({f.said for f in FACTS}) == len({f.asked for f in FACTS})
    for fact in FACTS:
        assert fact.answer.lower() in fact.said.lower(), fact
        assert fact.answer.lower() not in fact.asked.lower(), fact
        assert sum(fact.said in other.said for other in FACTS) == 1


def test_questions_that_stand_apart_share_no_word_of_meaning() -> None:
    small = {"a", "am", "are", "by", "for", "from", "i", "in", "is", "my", "never", "not", "of", "on", "our"}
    small |= {"the", "to", "up", "was", "we", "what", "which", "why"}
    for fact in FACTS:
        said, asked = (set(re.findall(r"\w+", text.lower())) - small for text in (fact.said, fact.asked))
        assert not (fact.apart and said & asked), fact
    assert 10 <= sum(f.apart for f in FACTS) <= 20


def test_hay_is_talk_and_logs_and_the_same_for_the_same_seed(data: Path) -> None:
    first = list(itertools.islice(Hay([data], 1).pieces(), 60))
    assert first == list(itertools.islice(Hay([data], 1).pieces(), 60))
    assert first != list(itertools.islice(Hay([data], 2).pieces(), 60))
    assert {p.source for p in first} == {Source.USER, Source.LOG}
    assert all(("unit" in p.text) == (p.source is Source.LOG) for p in first)


def test_hay_needs_talk(data: Path) -> None:
    (data / "talk.txt").unlink()
    with pytest.raises(InvalidInput, match="nothing to read"):
        Hay([data])
    (data / "short.txt").write_text("Yes.\nNo.\n" * 40)
    with pytest.raises(InvalidInput, match="no talk in"):
        Hay([data])
    with pytest.raises(InvalidInput, match=r"no such file.*gone\.log"):
        Hay([data, data / "gone.log"])


def test_every_fact_is_planted_once_and_evenly(data: Path) -> None:
    def size(piece: Piece) -> int:
        return len(piece.text)

    stream = planted(Hay([data], 0).pieces(), FACTS, 30_000, size, 5)
    at = [sum(map(size, stream[:n])) for n, piece in enumerate(stream) if piece.fact is not None]
    assert sorted(p.fact for p in stream if p.fact is not None) == list(range(50))
    assert max(np.diff(at)) < 3 * 600
    assert min(np.diff(at)) > 0
    for piece in stream:
        if piece.fact is not None:
            assert piece.source is Source.USER
            assert (piece.text == FACTS[piece.fact].said) == piece.alone
            assert FACTS[piece.fact].said in piece.text.splitlines()
    assert sum(p.alone for p in stream) == 25


def test_a_stream_too_short_for_its_facts_is_refused(data: Path) -> None:
    with pytest.raises(InvalidInput, match="too few for 50 facts"):
        planted(Hay([data], 0).pieces(), FACTS, 2_000, lambda p: len(p.text), 0)


def test_lines_that_ask_for_nothing_planted_are_not_in_the_stream(data: Path) -> None:
    hay = Hay([data], 0)
    stream = "\n".join(p.text for p in itertools.islice(hay.pieces(), 50))
    lines = hay.lines(20)
    assert len(lines) == 20
    assert not any(line in stream for line in lines)


# ---- recall --------------------------------------------------------------------------------------------


def fake(s: Settings, journal: Journal | None, vault: Vault | None) -> Mind:
    return build.assemble(s, FakeEngine(max_rows=s.budget), ByteCodec(), journal, vault)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> bench.Recollection:
    folder = tmp_path_factory.mktemp("hay")
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("abcdefghilmnorstu"), 5)) for _ in range(300)]
    text = "\n\n".join("\n".join(" ".join(rng.choice(words, 5)) + "." for _ in range(4)) for _ in range(60))
    (folder / "talk.txt").write_text(text)
    s = settings(budget=512, policy="halo", **SMALL)
    hay, facts = Hay([folder], 0), FACTS[:6]
    stream = planted(hay.pieces(), facts, 5_000, sizes(fake(s, None, None).codec), 0)
    run = bench.Bench(s, hay, stream, fake, {"model": "fake"}, 8_000, facts=facts)
    assert list(run.run(["window"], alarms=6)) == ["none", "recall", "window", "full"]
    return run.found


def test_every_arm_is_asked_everything_from_its_own_state(found: bench.Recollection) -> None:
    assert {a.arm for a in found.answers} == {"none", "halo", "recall", "window", "full"}
    for arm in ("none", "halo", "recall", "window", "full"):
        assert [a.fact for a in found.of(arm)] == list(range(6))
        assert np.isfinite(found.logprobs(arm)).all()
        assert (found.logprobs(arm) < 0).all()
    assert 5_000 <= found.tokens < 6_000


def test_what_is_in_the_context_is_told_apart(found: bench.Recollection) -> None:
    assert not any(a.there for a in found.of("none"))
    assert all(a.there and a.before for a in found.of("full"))
    assert not any(a.brought for arm in ("none", "halo", "window", "full") for a in found.of(arm))
    back = [a for a in found.of("recall") if a.there and not a.before]
    assert len(back) >= 3
    assert all(a.brought > a.wrong for a in back)
    lost = {a.fact for a in found.of("halo") if not a.there}
    assert {a.fact for a in back} <= lost


def test_search_ranks_and_alarms_are_noted(found: bench.Recollection) -> None:
    assert [h.fact for h in found.hits] == list(range(6))
    assert all((h.rank == 0) == (h.score == -1.0) and h.seconds > 0 for h in found.hits)
    assert sum(h.rank == 1 and h.score > h.wrong for h in found.hits) >= 3
    assert len(found.alarms) == 6
    assert not any(a.planted for a in found.alarms)


def test_a_question_does_not_disturb_the_next() -> None:
    mind = fake_mind(budget=256, says=None)
    all_of(mind.listen("The code is 4471, and the moon is new."))
    state = mind.state()
    first = bench.logprob(mind, "4471")
    mind.resume(state, (), ())
    all_of(mind.listen("What else is there to say of the moon?"))
    mind.resume(state, (), ())
    assert bench.logprob(mind, "4471") == first


# ---- its tables ----------------------------------------------------------------------------------------


def test_wilson_intervals() -> None:
    assert np.allclose(recalled.wilson(45, 50), (0.7864, 0.9565), atol=1e-3)
    assert np.allclose(recalled.wilson(0, 10), (0.0, 0.2775), atol=1e-3)
    assert recalled.wilson(0, 0) == (0.0, 1.0)


def told(**arms: list[float]) -> bench.Recollection:
    answers = [
        bench.Answer(arm, n, nats, there=arm != "none", brought=1, wrong=n == 0)
        for arm, line in arms.items()
        for n, nats in enumerate(line)
    ]
    hits = [bench.Hit(n, 1, 0.9, 0.1, 0.02) for n in range(3)]
    alarms = [bench.Alarm("Is it?", 0.5, 1, 0), bench.Alarm("It is.", 0.2, 0, 0)]
    return bench.Recollection(answers, hits, alarms, frozenset({0}), 100)


def test_the_share_of_the_gain_is_between_none_and_full() -> None:
    seen = told(none=[-9.0, -8, -7], halo=[-8.0, -7, -6], recall=[-3.0, -2, -1], full=[-5.0, -4, -3])
    lines = {line.arm: line for line in recalled.lines(seen)}
    assert list(lines) == ["recall", "full", "halo", "none"]
    assert lines["recall"].share is not None
    assert lines["recall"].share.value == pytest.approx(1.5)
    assert lines["halo"].share is not None
    assert lines["halo"].share.value == pytest.approx(0.25)
    assert lines["full"].share is lines["none"].share is lines["recall"].better is None
    assert lines["halo"].better is not None
    assert lines["halo"].better.mean == pytest.approx(5.0)
    assert lines["none"].median == -8
    assert all(len(line.cells()) == 6 for line in lines.values())


def test_without_full_context_there_is_no_share() -> None:
    lines = list(recalled.lines(told(none=[-9.0, -8, -7], recall=[-3.0, -2, -1])))
    assert all(line.share is None and line.cells()[-1] == "" for line in lines)


def test_chances_count_what_they_say() -> None:
    chances = {c.what: (c.right, c.of) for c in recalled.chances(told(none=[-9.0] * 3, recall=[-1.0] * 3))}
    assert chances["planted sentence in the context"] == (3, 3)
    assert chances["... said amid other talk"] == (2, 2)
    assert chances["... of the facts that judge"] == (0, 0)
    assert chances["questions that (also) brought something else"] == (1, 3)
    assert chances["other questions that brought something"] == (1, 1)
    assert chances["other statements that brought something"] == (0, 1)


# ---- when a passage comes back -------------------------------------------------------------------------


class Stub:
    """An archive that always finds the same."""

    def __init__(self, *scores: float, text: str = "My sister keeps bees. ", first: int = 0) -> None:
        self.found = tuple(
            Found(passage(first + 100 * n, f"{text}{n}"), score, None, None, ())
            for n, score in enumerate(scores)
        )

    def search(self, query: str, limit: int = 8) -> tuple[Found, ...]:
        return self.found[:limit]

    def recalls(self, passage: Passage) -> tuple[Any, ...]:
        return ()


def passage(first: int, text: str) -> Passage:
    return Passage(first + 1, first, first + len(text) - 1, Source.USER, -1, 0, 0, text)


def called(text: str, *scores: float, **how: Any) -> list[float]:
    stub: Any = Stub(*scores, first=10_000)
    mind = fake_mind()
    return [f.score for f in Recaller(stub, Recalling(**how)).called(mind, text)]


def test_a_question_needs_only_to_be_answered() -> None:
    crowd = (0.5, 0.48, 0.47, 0.46, 0.46, 0.45)
    assert called("Where are they?", *crowd) == [0.5, 0.48]
    assert called("They are there.", *crowd) == []
    assert called("They are there.", 0.8, *crowd) == [0.8]
    assert called("They are there.", 0.8) == [0.8]
    assert called("Where are they?", 0.39, 0.1) == []


def test_another_comes_along_if_it_is_as_good() -> None:
    assert called("Where?", 0.9, 0.85, 0.82) == [0.9, 0.85]
    assert called("Where?", 0.9, 0.85, 0.82, most=3) == [0.9, 0.85, 0.82]
    assert called("Where?", 0.9, 0.5) == [0.9]
    assert called("Where?", 0.42, 0.39) == [0.42]


def test_nothing_comes_by_itself_where_that_is_not_wanted() -> None:
    assert called("Where?", 1.0, strong=2.0) == []
    for wrong in ({"strong": -1.0}, {"near": -0.1}, {"apart": float("nan")}, {"most": 0}, {"rows": 0}):
        with pytest.raises(InvalidInput, match="recall: expected"):
            Recalling(**wrong)  # type: ignore[arg-type]


def test_a_passage_with_a_hole_is_not_in_the_context() -> None:
    mind = fake_mind(tail=0)
    all_of(mind.listen("The code of the door is 4471. "))
    uid = mind.view.tokens.uid[mind.view.tokens.source == Source.USER]
    whole = Passage(int(uid[0]) + 1, int(uid[0]), int(uid[-1]), Source.USER, -1, 0, 0, "The code")
    stub: Any = Stub(0.9)
    stub.found = (Found(whole, 0.9, None, None, ()),)
    recaller = Recaller(stub)
    assert recaller.search(mind, "code?") == ()
    mind.commit(delete(mind.view, [int(uid[-3])]))
    assert [f.passage for f in recaller.search(mind, "code?")] == [whole]


def test_what_is_asked_for_by_name_comes_whole() -> None:
    stub: Any = Stub(0.9, text="a long tale " * 8, first=10_000)
    mind = fake_mind()
    recaller = Recaller(stub, Recalling(rows=20))
    assert not [e for e in recaller.hear(mind, "A tale?") if isinstance(e, Recalled)]
    assert [e.passage for e in recaller.recall(mind, "tale") if isinstance(e, Recalled)] == [10_001]
    assert "a long tale a long tale" in mind.text()


# ---- archive -------------------------------------------------------------------------------------------


def filled(path: Path, data: Path, tokens: int = 3_000) -> tuple[int, int]:
    s = settings(budget=256, **{**SMALL, "chunk": 64})
    codec = archive.Quarters()
    done: list[int] = []
    culled, fed, seconds = archive.fill(
        path, s, codec, codec.vocabulary, Hay([data]).pieces(), tokens, done.append
    )
    assert culled >= tokens == done[-1]
    assert fed - culled <= 256 + 64
    assert seconds > 0
    return culled, fed


def test_an_archive_fills_and_its_parts_are_the_whole(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "mind.db"
    culled, fed = filled(path, data)
    pace = archive.embed(path, archive.Toy(), lambda _: None)
    size = archive.size(path, culled, fed, 1.0)
    assert pace.passages == size.passages > 50
    assert sum(size.parts.values()) <= size.bytes <= 1.1 * sum(size.parts.values())
    assert size.parts["vectors"] > size.passages * archive.Toy.dim
    assert all(size.parts[kind] > 0 for kind in ("records", "passages", "words"))
    assert 10 < size.per_token < 200


def test_a_filled_archive_is_searched_and_finds(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "mind.db"
    filled(path, data)
    archive.embed(path, archive.Toy(), lambda _: None)
    queries = Hay([data]).lines(5)
    own = archive.search(path, archive.Toy(), queries, None)
    other = archive.search(path, archive.Toy(), queries, Slow())
    assert len(own.plain) == len(own.embedded) == 5
    assert own.first > 0 < own.p(50) <= own.p(95)
    assert all(b - a >= Slow.seconds for a, b in zip(other.plain, other.embedded, strict=True))
    assert archive.sampled(path, archive.Toy(), 10).passages == 10
    log = Log(path)
    first = next(p for p in Hay([data]).pieces()).text.splitlines()[1]
    assert first in "".join(f.passage.text for f in Archive(log, archive.Toy()).search(first, 3))
    log.close()
    with pytest.raises(InvalidInput, match="at least one query"):
        archive.search(path, archive.Toy(), [], None)


class Slow(archive.Toy):
    """An embedder that takes a while."""

    seconds = 0.01

    def embed(self, texts: Any) -> Any:
        time.sleep(self.seconds)
        return super().embed(texts)


def test_the_toy_is_the_same_every_time_and_of_unit_length() -> None:
    texts = ["The bees of Lerwick", "the BEES of lerwick", "", "नमस्ते दुनिया"]
    vectors = archive.Toy().embed(texts)
    assert np.array_equal(vectors, archive.Toy().embed(texts))
    assert np.array_equal(vectors[0], vectors[1])
    assert np.allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1], atol=1e-6)


def test_quarters_spell_what_they_were_given() -> None:
    codec = archive.Quarters()
    text = "Tromsø is far: नमस्ते 🐝"
    ids = codec.encode([text])[0]
    assert b"".join(map(codec.piece, ids)).decode() == text
    assert codec.encode([text])[0] == ids


def test_a_blank_engine_keeps_step_with_its_mind() -> None:
    s = settings(budget=128, **SMALL)
    engine = archive.Blank(128, 1 << 24)
    mind = build.assemble(s, engine, archive.Quarters())
    for n in range(8):
        all_of(mind.listen(f"{n} says a word and another, and then it says nothing any more for good. " * 4))
        assert engine.rows == mind.rows <= 128
    assert mind.totals.culled > 300


# ---- durable -------------------------------------------------------------------------------------------


def made(s: Settings, journal: Journal | None, vault: Vault | None) -> tuple[Mind, Mapping[str, str]]:
    return fake(s, journal, vault), {"model": "fake"}


def test_both_sides_decode_as_many_and_the_kept_one_is_snapshotted() -> None:
    s = settings(snapshot_every=20, **SMALL)
    over = durable.overhead(made, s, 128, tokens=40, blocks=3)
    assert len(over.memory) == len(over.kept) == len(over.ratios) == 3
    assert all(len(block.ticks) == 40 for block in (*over.memory, *over.kept))
    assert over.snapshots == 3
    assert over.slower > 0, "writing to disk before each token takes time"
    low, high = over.interval()
    assert low <= over.slower <= high
    assert over.tick <= over.longest
    assert 0 < over.stop <= over.longest
    assert len(over.cells()) == 9
    assert over.json()["rows"] == 128


def test_a_mind_comes_back_from_sleep_without_a_pass_and_from_a_crash_by_repeating() -> None:
    slept, crashed = durable.returns(made, settings(**SMALL), 96, passes=7)
    assert (slept.how, slept.replayed, slept.passes, slept.tokens, slept.rows) == ("snapshot", 0, 0, 0, 96)
    assert (crashed.how, crashed.replayed, crashed.passes, crashed.tokens) == ("replayed", 7, 7, 7)
    assert crashed.rows == 103
    assert slept.same
    assert crashed.same
    assert slept.per_pass == 0.0
    assert crashed.per_pass == pytest.approx((crashed.seconds - slept.seconds) / 7)


def test_a_mind_that_does_not_come_back_as_it_was_is_no_figure() -> None:
    turn = itertools.count()

    def another(s: Settings, journal: Journal | None, vault: Vault | None) -> tuple[Mind, Mapping[str, str]]:
        return fake(s, journal, vault), {"model": f"fake {next(turn)}"}

    with pytest.raises(EngineFault, match="model was fake"):
        list(durable.returns(another, settings(**SMALL), 96, passes=3))


def test_bits_that_differ_are_told() -> None:
    class Forgetful(FakeEngine):
        def load(self, image: Any) -> None:
            super().load({**image, "trace": image["trace"] ^ np.uint64(1)})

    def forgetful(
        s: Settings, journal: Journal | None, vault: Vault | None
    ) -> tuple[Mind, Mapping[str, str]]:
        engine = Forgetful(max_rows=s.budget)
        return build.assemble(s, engine, ByteCodec(), journal, vault), {"model": "fake"}

    slept, _ = durable.returns(forgetful, settings(**SMALL), 96, passes=3)
    assert not slept.same


def test_what_an_engine_computes_is_counted() -> None:
    engine = durable.Counted(FakeEngine(max_rows=64))
    engine.feed([97, 98, 99])
    engine.reread()
    engine.kv.rebuild([97, 98])
    engine.kv.load(engine.kv.dump())
    assert (engine.passes, engine.tokens) == (3, 6)
    assert engine.rows == 2


def test_the_commands_are_there() -> None:
    app = typer.Typer()
    register(app)
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {"recall", "archive", "durable", "decode", "repair"} <= names
