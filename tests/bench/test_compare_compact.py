# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Compact beside full: nothing lost is no drift, same seed same records, figures counted by hand."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import ByteCodec
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tiny_host import host
from tiny_models import gpt2
from typer import Typer
from typer.testing import CliRunner

from haloweave import build
from haloweave.bench.compact import commands
from haloweave.bench.compact.drift import kl
from haloweave.bench.compact.generation import speech, spoken
from haloweave.bench.compact.judge import Judge
from haloweave.bench.compact.records import by_host, records
from haloweave.bench.compact.run import Arm, Contest, Outcome, Plan
from haloweave.bench.compact.side import Side
from haloweave.bench.compact.sources import texts
from haloweave.bench.compact.tables import PERCENT, cell, means, side_by_side, tables
from haloweave.bench.compact.text_figures import alike, distinct, grams, repeats
from haloweave.bench.compact.told import Told, by_judge
from haloweave.bench.memory.record import Record, read
from haloweave.engine.hf.engine import HFEngine
from haloweave.engine.hf.model import load
from haloweave.engine.sampling import Sampling, log_softmax
from haloweave.errors import InvalidInput, ModelUnsupported
from haloweave.events import Edited
from haloweave.memory.edit import Surgery
from haloweave.memory.tokens import Source
from haloweave.settings import settings

TEXT = "The lamp in the tower was lit at six, and nobody had climbed the stairs since noon. " * 3
BEGIN = "ÿ"
ONE, TWO = "one line that is long enough", "another that is long enough"
SMALL = {"chunk": 8, "sinks": 2, "temperature": 1.0, "system": ""}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(host(tmp_path_factory.mktemp("host")))


def contest(loaded: Any, plan: Plan, **more: Any) -> Contest:
    s = settings(**{**SMALL, **more})
    return Contest(loaded, s, build.sampling(s), plan)


def outcomes(loaded: Any, plan: Plan, tokens: int = 120, **more: Any) -> list[Outcome]:
    made = contest(loaded, plan, **more)
    return list(made.run({"tower": made.encoded(TEXT, tokens)}))


TIGHT = Plan((Arm("halo", 64), Arm("window", 64)), 12, (3, 4, 5))


@pytest.fixture(scope="module")
def tight(loaded: Any) -> list[Outcome]:
    return outcomes(loaded, TIGHT)


# ---- nothing lost, nothing changed -----------------------------------------------------------------------


def test_with_room_for_all_there_is_no_drift(loaded: Any) -> None:
    found = outcomes(loaded, Plan((Arm("halo", 200), Arm("h2o", 132)), 12, (1,)))
    assert len(found) == 2
    for outcome in found:
        assert outcome.culled == 0
        assert max(outcome.on_own.kl.max(), outcome.on_full.kl.max()) < 1e-6
        assert outcome.on_own.top1.all()
        assert outcome.on_full.top1.all()
        assert outcome.own.ids == outcome.full.ids
        assert alike(outcome.own.ids, outcome.full.ids) == 12


def test_what_forgets_drifts(tight: list[Outcome]) -> None:
    for outcome in tight:
        assert outcome.culled >= 120 + 12 - 64 - 1
        assert outcome.on_own.kl.max() > 1e-4
        assert len(outcome.on_own.kl) == len(outcome.full.ids) == len(outcome.own.ids) == 12
    assert [(o.seed, o.arm.policy) for o in tight[:2]] == [(3, "halo"), (3, "window")]
    assert any(o.own.ids != o.full.ids for o in tight)
    assert any(a.own.ids != b.own.ids for a, b in zip(tight[::2], tight[1::2], strict=True))


def test_full_says_the_same_whoever_hears_it(loaded: Any, tight: list[Outcome]) -> None:
    alone = outcomes(loaded, Plan((Arm("tova", 72),), 12, (3,)))
    assert alone[0].full.ids == tight[0].full.ids


def test_the_first_expectation_is_the_same_along_either_text(tight: list[Outcome]) -> None:
    for outcome in tight:
        assert outcome.on_own.kl[0] == outcome.on_full.kl[0]


def test_same_seed_same_records(loaded: Any, tight: list[Outcome]) -> None:
    again = outcomes(loaded, TIGHT)
    lines = [[r.line() for o in each for r in records(o, by_host, first=True)] for each in (tight, again)]
    assert lines[0] == lines[1]
    other = outcomes(loaded, Plan(TIGHT.arms, TIGHT.say, (6,)))
    assert other[0].full.ids != tight[0].full.ids


# ---- an independent reference ----------------------------------------------------------------------------


def test_full_is_the_stock_model(loaded: Any, tight: list[Outcome]) -> None:
    """Stock transformers, one pass over text and speech: its loss is the judge's figure."""
    ids = contest(loaded, TIGHT).encoded(TEXT, 120)
    stock = load(loaded.path).model
    for outcome in tight[:2]:
        with torch.inference_mode():
            logits = stock(torch.tensor([[*ids, *outcome.own.ids]])).logits[0].double()
        rows = logits[len(ids) - 1 : -1].log_softmax(-1)
        nats = [-float(row[token]) for row, token in zip(rows, outcome.own.ids, strict=True)]
        assert np.allclose(nats, outcome.own.nats, atol=1e-3)


def test_kl_of_a_compact_mind_step_by_step(loaded: Any, tight: list[Outcome]) -> None:
    """The same two minds led by hand along the arm's text, through `feed_ids` alone."""
    outcome = tight[0]
    s = settings(**SMALL, budget=64)
    compact = build.mind_of(s, loaded)
    full = build.mind_of(s.model_copy(update={"budget": 140, "policy": "window"}), loaded)
    ids = contest(loaded, TIGHT).encoded(TEXT, 120)
    for start in range(0, len(ids), 8):
        pair = [m.feed_ids(ids[start : start + 8], Source.TEXT).logits for m in (full, compact)]
    for n, token in enumerate(outcome.own.ids):
        p, q = (torch.tensor(x).double().softmax(-1) for x in pair)
        slow = sum(float(a * (math.log(a) - math.log(b))) for a, b in zip(p, q, strict=True) if a > 0)
        assert outcome.on_own.kl[n] == pytest.approx(slow, abs=1e-9)
        assert outcome.on_own.top1[n] == bool(p.argmax() == q.argmax())
        pair = [m.feed_ids([token], Source.MODEL).logits for m in (full, compact)]


def test_the_draw_is_the_minds_own(loaded: Any) -> None:
    """A mind left to itself says the same: the tick is the one that it would have used, weaves or not."""
    s = settings(**SMALL, budget=64, repetition_penalty=1.0)
    mind, side = build.mind_of(s, loaded), Side(build.mind_of(s, loaded))
    ids = mind.codec.encode([TEXT])[0][:120]
    how = speech(build.sampling(s), mind.codec, seed=7)
    side.read(ids, 8, lambda: None)
    for start in range(0, len(ids), 8):
        mind.feed_ids(ids[start : start + 8], Source.TEXT)
    told = [step.token_id for step in spoken(side, [], how, 12, after=ids, tick=15)]
    alone = []
    for _ in range(12):
        list(mind.make_room(1))
        alone.append(mind.speak_once(how))
    assert told == alone
    assert side.mind.view.tick == 15 + 11
    assert side.mind.totals.culled > 0


def test_going_back_is_exact(loaded: Any) -> None:
    side = Side(build.mind_of(settings(**SMALL, budget=64), loaded))
    ids = side.mind.codec.encode([TEXT])[0][:120]
    side.read(ids, 8, lambda: None)
    how = Sampling(seed=2)
    twice = [
        [(step.token_id, step.logits[0].tobytes()) for step in spoken(side, [], how, 9, after=ids, tick=15)]
        for _ in range(2)
    ]
    assert twice[0] == twice[1]


def test_where_rows_cannot_move_logits_follow_the_weave() -> None:
    """GPT-2 computes every row again: what is expected next is read afresh, not remembered."""
    s = settings(**SMALL, budget=64)
    model = gpt2(0)
    codec = ByteCodec(chat=False)
    side = Side(build.assemble(s, HFEngine(model, capacity=64), codec))
    assert side.mind.engine.kv.surgeries == {Surgery.RECOMPUTE}
    side.read([i % 256 for i in codec.encode([TEXT])[0][:64]], 8, lambda: None)
    assert side.mind.rows == 64
    got = side.logits()
    assert side.mind.rows < 64
    with torch.inference_mode():
        right = model_alone(side).logits[0, -1].numpy()
    assert np.allclose(got, right, atol=1e-4)


def model_alone(side: Side) -> Any:
    fresh = gpt2(0)
    return fresh(torch.tensor([side.mind.view.tokens.token_id.tolist()]))


def test_a_side_wants_a_text_first(loaded: Any) -> None:
    side = Side(build.mind_of(settings(**SMALL, budget=64), loaded))
    with pytest.raises(InvalidInput, match="read a text first"):
        side.logits()
    with pytest.raises(InvalidInput, match="read to its end"):
        side.back()


# ---- figures by hand -------------------------------------------------------------------------------------


def test_figures_counted_by_hand() -> None:
    said = [1, 2, 3, 1, 2, 3, 1, 2]
    assert distinct(said, 1) == 3 / 8
    assert distinct(said, 2) == 3 / 7
    assert distinct(said, 3) == 3 / 6
    assert repeats(said) == 2 / 5  # 1231 2312 3123 | 1231 2312
    assert repeats([5] * 6) == 2 / 3
    assert (repeats([1, 2]), distinct([], 1)) == (0.0, 1.0)
    assert alike([1, 2, 3], [1, 2, 4]) == 2
    assert alike([1], [1]) == 1
    assert kl(np.log([0.5, 0.5]), np.log([0.25, 0.75])) == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    )


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_distinct_and_repeats_are_two_sides_of_one_count(said: list[int], n: int) -> None:
    found = [said[i : i + n] for i in range(max(len(said) - n + 1, 0))]
    before = [gram in found[:i] for i, gram in enumerate(found)]
    assert repeats(said, n) == (sum(before) / len(found) if found else 0.0)
    assert distinct(said, n) == pytest.approx(1 - repeats(said, n))
    assert len(grams(said, n)) == len(found)
    # said twice over, nothing of it is new the second time but what crosses the seam
    assert repeats(said * 2, n) >= repeats(said, n) or not found


_logits = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12)


@given(st.data())
def test_kl_is_a_divergence(data: st.DataObject) -> None:
    a = np.array(data.draw(_logits), np.float32)
    b = np.array(
        data.draw(st.lists(st.floats(-30, 30, width=32), min_size=len(a), max_size=len(a))), np.float32
    )
    p, q = log_softmax(a), log_softmax(b)
    assert np.exp(p).sum() == pytest.approx(1)
    assert kl(p, q) >= 0
    assert kl(p, p) == 0
    assert kl(p, log_softmax(a + np.float32(4))) == pytest.approx(0, abs=1e-5)
    by_torch = torch.nn.functional.kl_div(torch.tensor(q), torch.tensor(p), reduction="sum", log_target=True)
    assert kl(p, q) == pytest.approx(float(by_torch), rel=1e-6, abs=1e-9)


# ---- records and tables ----------------------------------------------------------------------------------


def test_records_tell_all_and_full_once(tight: list[Outcome]) -> None:
    told = Told([])
    assert told.follow(iter(tight), by_host)
    count: dict[tuple[str, str], int] = {}
    for r in told.records:
        count[r.arm, r.metric] = count.get((r.arm, r.metric), 0) + 1
    assert count["halo", "kl"] == count["window", "top1"] == 3 * 2 * 12
    assert count["halo", "diverges"] == count["full", "judge"] == count["full", "distinct3"] == 3
    assert ("full", "kl") not in count
    judged = [r for r in told.records if (r.arm, r.metric) == ("full", "judge")]
    assert judged[0].value == pytest.approx(tight[0].full.nats.mean())
    assert (judged[0].rows, judged[0].case, judged[0].weight) == (0, "tower seed 3", 12)
    diverged = [r.value for r in told.records if (r.arm, r.metric) == ("halo", "diverges")]
    assert diverged == [alike(o.own.ids, o.full.ids) for o in tight[::2]]


def record(value: float, case: str, document: str = "d", weight: float = 1.0) -> Record:
    return Record("compare", "halo", 64, case, document, "kl", value, weight)


def test_means_are_over_documents_or_else_over_seeds() -> None:
    one = means([record(1, "a", weight=3), record(5, "a"), record(2, "b")])
    assert one.names == ("a", "b")
    assert one.values.tolist() == [2.0, 2.0]
    two = means([record(1, "a", "x"), record(3, "b", "x"), record(9, "c", "y")])
    assert two.names == ("x", "y")
    assert two.values.tolist() == [2.0, 9.0]
    assert two.beside(one_like(two, 1.0)).mean == 4.5
    with pytest.raises(InvalidInput, match="pairs"):
        one.beside(two)


def one_like(found: Any, value: float) -> Any:
    return type(found)(found.names, np.full(len(found.values), value))


def test_two_units_have_no_interval() -> None:
    assert cell(means([record(1, "a"), record(2, "b")]), 3) == "1.500"
    three = means([record(1, "a"), record(2, "b"), record(3, "c")])
    assert cell(three, PERCENT).startswith("200 [1")
    assert cell(three, 3, one_like(three, 1.0)).startswith("+1.000 [+")


def test_tables_and_texts_for_people(tight: list[Outcome]) -> None:
    told = Told([])
    told.follow(iter(tight), by_host)
    console = Console(record=True, width=80, file=io.StringIO())
    for table in tables(told.records, Arm("halo", 64), 5):
        console.print(table)
    console.print(side_by_side(tight[:2], "read \x1b[2Jthis", 400))
    shown = console.export_text()
    assert all(span in shown for span in ("1-5", "6-10", "11-12", "all"))
    assert "repeat 4-grams, %" in shown
    assert "judge, nats/token" in shown
    assert "…" not in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_ctrl_c_leaves_what_is_whole(tight: list[Outcome], tmp_path: Path) -> None:
    def broken() -> Iterator[Outcome]:
        yield from tight[:3]
        raise KeyboardInterrupt

    path = tmp_path / "r.jsonl"
    with path.open("w") as file:
        told = Told([file])
        told.begin({"say": 12})
        assert not told.follow(broken(), by_host)
    found, facts = read([path])
    assert found == told.records
    assert facts == [{"say": 12}]
    assert len(told.found) == 3
    for arm in TIGHT.arms:  # one arm has a case less than full: it is compared where both are
        for table in tables(told.records, arm, 16):
            assert table.row_count


# ---- a judge ---------------------------------------------------------------------------------------------


def test_another_model_judges_in_bits_a_byte(loaded: Any, tight: list[Outcome]) -> None:
    judge = judged_by(loaded)
    judged = by_judge(judge, {"tower": TEXT}, 12, pytest.fail)
    value, size, name = judged("tower", tight[0].own)
    ids, said = list(TEXT.encode()), tight[0].own.text
    assert (size, name) == (len(said.encode()), "other")
    table = loaded.tokenizer.get_vocab()
    spelt = judge._codec.encode([TEXT + said])[0]
    assert len(spelt) == len(ids) + size
    with torch.inference_mode():
        rows = (
            load(loaded.path).model(torch.tensor([[table[BEGIN], *spelt]])).logits[0].double().log_softmax(-1)
        )
    nats = -sum(float(rows[n][spelt[n]]) for n in range(len(ids), len(spelt)))
    assert value == pytest.approx(nats / math.log(2) / size, rel=1e-4)


def test_a_judge_hears_the_end_of_what_it_cannot_hold(loaded: Any, tight: list[Outcome]) -> None:
    judge = judged_by(loaded)
    notes: list[str] = []
    by_judge(judge, {"tower": TEXT * 3}, 12, notes.append)("tower", tight[0].own)
    assert notes == [
        f"tower: other cannot hold all of it; the first {3 * len(TEXT) - (511 - 96)} tokens are left out"
    ]
    with pytest.raises(InvalidInput, match="are to be said"):
        judge.hears(TEXT, 600)
    with pytest.raises(InvalidInput, match="heard before"):
        judged_by(loaded).bits_per_byte("x")


def judged_by(loaded: Any) -> Judge:
    """The tiny host as a judge. It has no special tokens: a byte that is in no UTF-8 begins its texts."""
    own = load(loaded.path)
    own.tokenizer.eos_token = BEGIN
    return Judge("other", own)


# ---- bad input -------------------------------------------------------------------------------------------


def test_more_than_the_model_was_trained_on_is_refused(loaded: Any) -> None:
    made = contest(loaded, Plan((Arm("halo", 64),), 12, (0,)))
    with pytest.raises(InvalidInput, match=r"more than the 512 .* lower --tokens or --say"):
        made.encoded(TEXT * 5, 501)
    assert len(made.encoded(TEXT * 5, 500)) == 500


def test_a_budget_no_mind_can_have_is_told_before_anything_is_read(loaded: Any) -> None:
    with pytest.raises(InvalidInput, match="budget 16 is too small"):
        contest(loaded, Plan((Arm("halo", 64), Arm("halo", 16)), 12, (0,)))


def test_texts_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "a" / "x.txt", tmp_path / "x.txt", tmp_path / "odd.log"):
        path.write_text(f"in {path.parent.name}\n")
    (tmp_path / "rows.jsonl").write_text(f'{{"text": "{ONE}"}}\n{{"text": "{TWO}"}}\n')
    names = [str(tmp_path / n) for n in ("a", "x.txt", "odd.log", "rows.jsonl")]
    found = texts(names, 100)
    assert [Path(n).name for n in found] == ["x.txt", "x.txt", "odd.log", "rows.jsonl"]
    assert found["rows.jsonl"] == f"{ONE}\n\n{TWO}"
    assert texts(names[3:], 2)["rows.jsonl"] == ONE


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["missing.txt"], "no such file"),
        (["a\0b"], "no such file"),
        (["a" * 5000], "no path|no such file"),
        (["empty.txt"], "empty or blank"),
        (["x.txt", "x.txt"], "twice"),
    ],
)
def test_texts_that_cannot_be_read(
    names: Sequence[str], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n\n")
    Path("x.txt").write_text("x")
    with pytest.raises(InvalidInput, match=match):
        texts(names, 100)


# ---- the command -----------------------------------------------------------------------------------------


@pytest.fixture
def halo(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    Path("tower.txt").write_text(TEXT)
    app = Typer()
    commands.register(app)
    given = f"--model {loaded.path} --tokens 120 --budget 64 --say 6 --set chunk=8".split()
    return lambda *more, **how: CliRunner().invoke(app, [*given, *more], **how)


def test_the_command_is_repeatable_and_writes_what_it_prints(halo: Callable[..., Any]) -> None:
    more = (
        "tower.txt",
        "--seed",
        "5",
        "--runs",
        "2",
        "--policy",
        "halo,window",
        "--json",
        "--out",
        "r.jsonl",
    )
    lines = [halo(*more).stdout.splitlines() for _ in range(2)]
    assert lines[0][1:] == lines[1][1:]
    assert Path("r.jsonl").read_text().splitlines() == lines[1]
    facts = json.loads(lines[0][0])["facts"]
    assert (facts["say"], facts["seeds"], facts["settings"]["chunk"]) == (6, {"first": 5, "last": 6}, 8)
    found, _ = read([Path("r.jsonl")])
    assert {r.arm for r in found} == {"full", "halo", "window"}
    assert {r.case for r in found} == {"tower.txt seed 5", "tower.txt seed 6"}


def test_the_command_reads_a_pipe_and_tells_people(halo: Callable[..., Any]) -> None:
    done = halo("-", "--temperature", "0", input=TEXT)
    assert done.exit_code == 0
    assert "halo, 64 rows: what was said" in done.stdout
    assert "stdin, seed 0" in done.stdout
    assert "so there is one run" in done.stderr
    assert "nothing was culled" in halo("tower.txt", "--budget", "126", "--runs", "1").stdout


def test_the_command_takes_a_judge(halo: Callable[..., Any], loaded: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="beginning"):
        raise halo("tower.txt", "--judge", str(loaded.path)).exception
    other = host(tmp_path / "other", seed=1)
    tokenizer = load(other).tokenizer
    tokenizer.eos_token = BEGIN
    tokenizer.save_pretrained(other)
    done = halo("tower.txt", "--judge", str(other), "--runs", "1", "--say", "3", "--json")
    judged = [json.loads(line) for line in done.stdout.splitlines() if '"judge", "value"' in line]
    assert [(r["arm"], r["group"]) for r in judged] == [("halo", str(other)), ("full", str(other))]
    assert all(r["value"] > 1 for r in judged)


def test_old_records_survive_a_mistake(halo: Callable[..., Any]) -> None:
    Path("r.jsonl").write_text("yesterday")
    assert "too small" in str(halo("tower.txt", "--budget", "9", "--out", "r.jsonl").exception)
    assert Path("r.jsonl").read_text() == "yesterday"


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (("--policy", "none"), "policy"),
        (("--set", "recall=ask"), "unknown setting 'recall'"),
        (("--set", "chunk=many"), "chunk: expected int"),
        (("--out", "no/such/folder.jsonl"), "cannot be written"),
        (("--tokens", "510"), "more than the 512"),
    ],
)
def test_bad_options_are_told(halo: Callable[..., Any], more: Sequence[str], match: str) -> None:
    Path("tower.txt").write_text(TEXT * 3)
    done = halo("tower.txt", *more)
    assert match in str(done.exception)


def test_ctrl_c_shows_what_there_is(halo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run = Contest.run

    def pressed(self: Contest, read: Any) -> Iterator[Outcome]:
        for n, outcome in enumerate(run(self, read)):
            if n == 2:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr(Contest, "run", pressed)
    done = halo("tower.txt", "--runs", "3")
    assert done.exit_code == 130
    assert "what was said" in done.stdout
    assert "interrupted: 2 of 3 runs" in done.stderr


def test_edits_are_what_a_weave_tells(loaded: Any) -> None:
    """`make_room` yields only what changed rows: a side counts on it."""
    mind = build.mind_of(settings(**SMALL, budget=64), loaded)
    mind.feed_ids(list(range(64)), Source.TEXT)
    events = list(mind.make_room(1))
    assert events
    assert all(isinstance(e, Edited) for e in events)
