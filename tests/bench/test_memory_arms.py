# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Arms read and are asked as they say they do: against the bare model, against each other, and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_host import host
from typer import Typer
from typer.testing import CliRunner

from haloweave import build
from haloweave.bench.memory import commands, plan, speed
from haloweave.bench.memory.arms import ARMS, Studio, arm
from haloweave.bench.memory.cases import Case, Piece, Question
from haloweave.bench.memory.plan import Part
from haloweave.bench.memory.reader import MindReader
from haloweave.bench.memory.record import Record, read
from haloweave.bench.memory.run import Session, readings
from haloweave.bench.memory.shelf import Shelf, for_tuning, shelf
from haloweave.bench.memory.words import RandomWords
from haloweave.engine.hf.model import load
from haloweave.engine.sampling import log_softmax
from haloweave.errors import InvalidInput
from haloweave.memory.brightness import TYPICAL
from haloweave.memory.tokens import Source
from haloweave.repair.base import Proposal, RepairWindow
from haloweave.settings import settings

FRAMED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SMALL = {"chunk": 8, "sinks": 2, "system": "", "embedder": ""}
TEXT = "The lamp in the tower was lit at six, and nobody had climbed the stairs since noon. " * 4
KEY = "The pass key of the red door is 71432."
ASKED = Question(2, "What is the pass key of the red door?", "71432", KEY, 60, lead="It is")
CASE = Case("keys", "one", "one", (Piece(KEY), Piece(TEXT[:60]), Piece(TEXT[:30])), (ASKED,), tokens=150)
PROSE = Case("books", "tower", "tower", (Piece(TEXT),), raw=True)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = load(host(tmp_path_factory.mktemp("host")))
    made.tokenizer.chat_template = FRAMED
    return made


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same weights, in which no engine ever took over the attention."""
    return load(host(tmp_path_factory.mktemp("bare"))).model


@pytest.fixture(scope="module")
def studio(loaded: Any) -> Studio:
    return Studio(loaded, settings(**SMALL), 512)


@pytest.fixture(scope="module")
def raw(loaded: Any) -> Studio:
    return Studio(loaded, settings(**SMALL), 512, raw=True)


@contextmanager
def reading(studio: Studio, spec: str, rows: int, *pieces: Piece) -> Iterator[MindReader]:
    with studio.reader(spec, rows) as reader:
        for piece in pieces:
            reader.read(piece)
        yield reader


def ids_of(studio: Studio, text: str) -> np.ndarray:
    return np.array(studio.codec.encode([text])[0], np.int32)


def losses(studio: Studio, spec: str, rows: int, text: str = TEXT) -> np.ndarray:
    with studio.reader(spec, rows) as reader:
        return np.array([chunk.nats for chunk in reader.score(ids_of(studio, text))])


# ---- reading -----------------------------------------------------------------------------------------


@torch.inference_mode()
def test_full_context_loses_what_the_bare_model_loses(bare: Any, raw: Studio) -> None:
    ids = torch.tensor(ids_of(raw, TEXT[:160]))[None]
    log_p = bare(ids, use_cache=False).logits[0].log_softmax(-1)
    expected = -log_p[:-1].gather(1, ids[0, 1:, None].long()).sum()
    assert losses(raw, "full", 0, TEXT[:160]).sum() == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("spec", ["window", "h2o", "tova", "snapkv", "random", "halo", "truncate", "redact"])
def test_with_room_for_all_every_arm_is_full_context(raw: Studio, spec: str) -> None:
    np.testing.assert_allclose(losses(raw, spec, 400), losses(raw, "full", 0), atol=1e-3)


@pytest.mark.parametrize("spec", ["window", "h2o", "halo", "truncate", "redact", "halo:smooth=5"])
def test_no_arm_ever_holds_more_than_its_rows(raw: Studio, spec: str) -> None:
    with raw.reader(spec, 64) as reader:
        for _ in reader.score(ids_of(raw, TEXT)):
            assert reader.mind.rows <= 64


def test_what_is_read_again_is_as_if_read_for_the_first_time(raw: Studio) -> None:
    with raw.reader("truncate", 64) as reader:
        for _ in reader.score(ids_of(raw, TEXT)):
            pass
        ids = reader.mind.view.tokens.token_id
        engine: Any = reader.mind.engine
        held = [[t.clone() for t in layer] for layer in engine.inner.layer_rows()]
    with raw.engine(raw.settings("truncate", 64)) as fresh:
        fresh.kv.rebuild(ids)
        for old, new in zip(held, fresh.layer_rows(), strict=True):
            for a, b in zip(old, new, strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_culled_live_the_rows_are_others(raw: Studio) -> None:
    """Or the test above could not fail."""
    with raw.reader("window", 64) as reader:
        for _ in reader.score(ids_of(raw, TEXT)):
            pass
        ids = reader.mind.view.tokens.token_id
        engine: Any = reader.mind.engine
        held = engine.layer_rows()[-1][0].clone()
    with raw.engine(raw.settings("window", 64)) as fresh:
        fresh.kv.rebuild(ids)
        assert (held - fresh.layer_rows()[-1][0]).abs().max() > 1e-2


def test_the_least_surprising_goes(raw: Studio) -> None:
    ids, nats = ids_of(raw, TEXT)[:56], [TYPICAL]
    with raw.reader("full", 0) as reader:
        for token in ids.tolist():
            if (logits := reader.mind.logits()) is not None:
                nats.append(-float(log_softmax(logits)[token]))
            reader.mind.feed_ids([token], Source.USER)
    with raw.reader("redact:smooth=1", 64) as reader:
        mind = reader.mind
        for at in range(0, len(ids), 8):
            mind.feed_ids(ids[at : at + 8], Source.USER)
        for _ in mind.weave(50):
            pass
        left = mind.view.tokens.uid.tolist()
    dead = [uid for uid in range(56) if uid not in left]
    alive = [uid for uid in left if 2 <= uid < 56 - 16]  # neither sinks nor tail
    assert dead
    assert max(nats[uid] for uid in dead) <= min(nats[uid] for uid in alive) + 1e-4


def test_an_old_half_becomes_a_summary(studio: Studio) -> None:
    with reading(studio, "summary", 352, *[Piece(TEXT[:90]) for _ in range(4)]) as reader:
        assert reader.mind.text().count(TEXT[:90]) == 2
        assert Source.CONTROL in reader.mind.view.tokens.source
        assert reader.mind.rows <= 352


def test_lines_become_a_summary_too_and_markers_stay(studio: Studio) -> None:
    lines = [Piece(f"{n} is well\n" * 4, Source.TOOL) for n in range(14)]
    with reading(studio, "summary", 256, *lines) as reader:
        assert reader.mind.rows <= 256
        assert "13 is well" in reader.mind.text()


def test_markers_stand_where_lines_died_or_not_at_all(studio: Studio) -> None:
    lines = [Piece(f"{n} is well\n" * 4, Source.LOG) for n in range(12)]
    with reading(studio, "halo", 256, *lines) as marked, reading(studio, "cull", 256, *lines) as bare:
        assert "[...]" in marked.mind.text()
        assert "[...]" not in bare.mind.text()


# ---- asking ------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_an_answer_costs_what_the_bare_model_says(bare: Any, studio: Studio) -> None:
    with reading(studio, "full", 0, *CASE.pieces[:2]) as reader:
        answer = reader.ask(ASKED)
    text = "".join(f"<user>{p.text}</>" for p in CASE.pieces[:2])
    text += f"<user>{ASKED.asked}</><assistant>{ASKED.lead}"
    before, said = list(text.encode()), list(f" {ASKED.answer}".encode())
    byte_ids = {studio.codec.piece(i): i for i in range(256)}
    ids = torch.tensor([[byte_ids[bytes([b])] for b in (*before, *said)]])
    log_p = bare(ids, use_cache=False).logits[0].log_softmax(-1)
    told = log_p[len(before) - 1 : -1].gather(1, ids[0, len(before) :, None]).sum()
    assert answer.nats == pytest.approx(float(told), rel=1e-4)
    assert answer.alive == 1.0


def test_who_is_asked_does_not_change(studio: Studio) -> None:
    with reading(studio, "halo", 256, *CASE.pieces[:2]) as reader:
        before = reader.mind.state()
        first, second = reader.ask(ASKED), reader.ask(ASKED)
        assert first == second
        assert reader.mind.view.tokens.uid.tolist() == list(before.checkpoint.view.tokens.uid)
        reader.read(CASE.pieces[2])


def test_evidence_is_counted_token_by_token(studio: Studio) -> None:
    with reading(studio, "window", 256, Piece(f"Well. {KEY} Indeed.")) as reader:
        tokens = reader.mind.view.tokens
        spelt = b"".join(studio.codec.piece(i) for i in tokens.token_id.tolist())
        start = spelt.index(KEY.encode())
        of_key = tokens.uid[start : start + len(KEY)]
        told = reader._told.where(KEY)
        assert told.tolist() == of_key.tolist()
        assert reader._told.where("never said").tolist() == []


def test_a_dead_evidence_is_dead(studio: Studio) -> None:
    pieces = [Piece(KEY), *[Piece(TEXT[:100]) for _ in range(5)]]
    with reading(studio, "window", 256, *pieces) as reader:
        assert reader.ask(ASKED).alive == 0.0


def test_recall_brings_it_back(studio: Studio) -> None:
    pieces = [Piece(KEY), *[Piece(f"{n} {TEXT[:90]}") for n in range(5)]]
    with reading(studio, "halo+recall:recall_strong=0.05", 320, *pieces) as reader:
        answer = reader.ask(ASKED)
    assert answer.brought >= 1
    assert answer.alive == 1.0


def test_engines_are_lent_empty_and_come_back(raw: Studio) -> None:
    s = raw.settings("halo", 72)
    with raw.engine(s) as first:
        first.feed([1, 2, 3])
    with raw.engine(s) as again, raw.engine(s) as other:
        assert again is first
        assert other is not first
        assert again.kv.rows == 0


# ---- names, plans, shelves ---------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["haló", "halo:half_life", "halo:=3", "halo:half_life=", ""])
def test_what_is_no_arm_is_refused(spec: str) -> None:
    with pytest.raises(InvalidInput, match=r"arm|expected"):
        arm(spec)


@pytest.mark.parametrize("told", ["no_such=3", "half_life=-1", "policy=none"])
def test_what_is_no_setting_is_refused(studio: Studio, told: str) -> None:
    with pytest.raises(InvalidInput, match="settings"), studio.reader(f"halo:{told}", 256):
        pass


def test_an_arm_brings_its_own_settings(studio: Studio) -> None:
    s = studio.settings("halo:half_life=256,smooth=5", 300)
    assert (s.half_life, s.smooth, s.budget, s.policy) == (256, 5, 300, "halo")


def test_every_arm_of_every_plan_is_known() -> None:
    for part in (*plan.QUICK, *plan.FULL):
        for name in part.arms:
            assert arm(name)[0] is ARMS[name]


@pytest.mark.parametrize(("told", "layers"), [("", None), ("1", {1}), ("0-2", {0, 1, 2}), ("0, 2", {0, 2})])
def test_observed_layers(told: str, layers: set[int] | None) -> None:
    assert build.observed(told, 3) == (None if layers is None else frozenset(layers))


@pytest.mark.parametrize("told", ["3", "2-1", "a", "0-9", "-1", "0,,1"])
def test_layers_that_are_not_there_are_refused(told: str) -> None:
    with pytest.raises(InvalidInput, match="observed_layers"):
        build.observed(told, 3)


def test_the_one_that_pays_most_or_all_on_average(loaded: Any) -> None:
    """By the weights themselves: a head's shares, times squared relative norms of its values."""
    samples = {}
    for pooling in ("mean", "max"):
        engine = build.engine_of(settings(budget=64, head_pooling=pooling, observed_layers="1"), loaded)
        told = engine.feed(list(range(40, 60))).attention
        assert told is not None
        samples[pooling] = told
    assert np.all(samples["max"].value_mass >= samples["mean"].value_mass - 1e-6)
    assert not np.allclose(samples["max"].value_mass, samples["mean"].value_mass)
    np.testing.assert_allclose(samples["max"].mass, samples["mean"].mass)


def test_texts_are_for_tuning_or_for_judging(tmp_path: Path) -> None:
    for kind in ("books", "logs", "talks"):
        (tmp_path / kind).mkdir()
        for n in range(8):
            (tmp_path / kind / f"{kind}{n}.{'log' if kind == 'logs' else 'txt'}").write_text("x")
    (tmp_path / "books" / "SOURCE.txt").write_text("x")
    sides = [shelf([tmp_path], [], [], [], tuning=t) for t in (True, False)]
    for kind in ("books", "logs", "talks"):
        one, other = (set(getattr(side, kind)) for side in sides)
        assert one
        assert other
        assert not one & other
        assert len(one | other) == 8
        assert all(for_tuning(path) for path in one)


def test_a_shelf_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="give --data"):
        Shelf().of("books")
    assert Shelf().of("lines") == ()
    with pytest.raises(InvalidInput, match="no such file"):
        shelf([tmp_path / "gone"], [], [], [], tuning=False)


# ---- whole runs --------------------------------------------------------------------------------------


def test_a_run_tells_of_every_arm_and_budget_and_is_repeatable(studio: Studio, raw: Studio) -> None:
    session = Session(studio, raw, Shelf())
    prose = Part("books", ("full", "window", "halo", "halo+recall"), (64, 96), tokens=120, count=1)
    asked = Part("keys", ("none", "full", "halo"), (256,), count=1)
    told = [[*session.measure(prose, [PROSE]), *session.measure(asked, [CASE])] for _ in range(2)]
    assert told[0] == told[1]
    books = {(one.arm, one.rows) for one in told[0] if one.task == "books"}
    assert books == {("full", 0), *((a, n) for a in ("window", "halo") for n in (64, 96))}
    assert {one.metric for one in told[0] if one.arm == "halo" and one.task == "books"} == {
        "nats",
        "kl",
        "top1",
    }
    assert {one.metric for one in told[0] if one.arm == "none"} == {"answer", "exact"}
    assert sum(one.weight for one in told[0] if (one.arm, one.metric) == ("full", "nats")) == 119
    assert readings(prose) == 7


def test_cases_of_generators_are_run(studio: Studio, raw: Studio) -> None:
    session = Session(studio, raw, Shelf())
    part = Part("lines", ("none",), tokens=6000, count=1, more={"every": 50, "back": (60,)})
    cases = session.cases(part)
    records = list(session.measure(part, cases))
    assert len(records) == 2 * len(cases[0].questions) > 0


def test_what_cannot_be_made_is_told_before_anything_is_read(studio: Studio, raw: Studio) -> None:
    session = Session(studio, raw, Shelf())
    session.check(Part("keys", ("none", "full", "halo", "halo+recall"), (256,)))
    session.check(Part("books", ("full", "halo", "halo+recall"), (64,)))
    with pytest.raises(InvalidInput, match="budget 48"):
        session.check(Part("keys", ("halo",), (256, 48)))


def test_rows_that_are_different_parts_of_different_cases_have_no_name() -> None:
    same = [Part("books", (), (512, 256), tokens=2048), Part("talks", (), (256,), tokens=2048)]
    assert plan.facts(settings(**SMALL), same[:0], Shelf(), 0)["budgets"] == {}
    assert plan._budgets(same) == {"512": "1/4", "256": "1/8"}
    assert plan._budgets([*same, Part("books", (), (256, 128), tokens=1024)]) == {"512": "1/4", "128": "1/8"}
    assert plan._budgets([Part("stream", (), (512,), tokens=51_200)]) == {}


def test_speed_is_told_along_the_way(raw: Studio) -> None:
    found = list(speed.measure(raw, PROSE, ("full", "window", "truncate"), 64, 200, 5))
    for name in ("full", "window", "truncate"):
        of = {one.metric: one.value for one in found if one.arm == name}
        assert {"tokens_per_s", "p50_ms", "p95_ms", "p99_ms", "said_per_s", "kv_mb", "rss_mb"} == set(of)
        assert of["p50_ms"] <= of["p95_ms"] <= of["p99_ms"]
    row = 3 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, bytes
    held = {one.arm: one.value for one in found if one.metric == "kv_mb"}
    assert held["full"] == pytest.approx(205 * row / 1e6)
    assert held["window"] <= 64 * row / 1e6


def test_other_words_stand_where_repair_would_change_some() -> None:
    class Fixed:
        def propose(self, windows: Any) -> tuple[Proposal, ...]:
            return (Proposal(np.array([3, 4]), np.array([7], np.int32), 2.0),)

    window = RepairWindow.of([10, 11, 12, 13, 14, 15], [0.5] * 6)
    one, again = (RandomWords(Fixed(), seed=1).propose([window]) for _ in range(2))
    assert one[0].uid.tolist() == [3, 4]
    assert len(one[0].new_ids) == 1
    assert one[0].new_ids[0] in window.token_id
    assert one[0].new_ids.tolist() == again[0].new_ids.tolist()


def test_the_command_writes_records_and_tables(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "load_model", lambda s: loaded)
    book = next(p for n in range(9) if not for_tuning(p := tmp_path / f"book{n}.txt"))
    book.write_text((TEXT + "\n\n") * 40)
    app = Typer()
    commands.register(app)
    app.command()(lambda: None)
    out = tmp_path / "r.jsonl"
    monkeypatch.setenv("HALO_CHUNK", "8")
    words = [
        "memory",
        "--books",
        str(book),
        "--task",
        "books",
        "--arms",
        "window;halo:smooth=3",
        "--rows",
        "64",
    ]
    done = CliRunner().invoke(app, [*words, "--tokens", "120", "--count", "1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    records, facts = read([out])
    assert {one.arm for one in records} == {"window", "halo:smooth=3"}
    assert facts[0]["plan"][0]["tokens"] == 120
    assert "window" in done.output


def test_a_record_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for wrong in ("{", "[]", '{"task": "x"}', '{"task": "x", "arm": "y", "colour": 3}'):
        path.write_text(wrong)
        with pytest.raises(InvalidInput, match="line 1"):
            read([path])
    one = Record("a", "b", 1, "c", "d", "e", 0.5, x=2)
    path.write_text(f"{one.line()}\n\n{replace(one, group='g').line()}\n")
    assert read([path])[0] == [one, replace(one, group="g")]


def test_a_case_asks_of_what_was_said() -> None:
    with pytest.raises(InvalidInput, match="asked before it was said"):
        replace(CASE, questions=(replace(ASKED, after=0),))
