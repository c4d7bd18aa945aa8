# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Other packages on the memory benchmark: the ids they get, the lines they give, what may go wrong between.

The scripts of `generate` run in full, in a process of their own, since they need nothing but what is here. Of
the other peers, whose packages are not here, what can be told from ours is tested on stand-ins.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import ByteCodec

from haloweave import build
from haloweave.bench.memory.cases import Case, Piece, Question
from haloweave.bench.memory.record import Record
from haloweave.bench.peers import venvs
from haloweave.bench.peers.errors import PeerDiffers, PeerFailed, PeerUnavailable
from haloweave.bench.peers.job import CHECKED, Ask, Job, Stream, check_ids, job, written
from haloweave.bench.peers.null import NullEngine
from haloweave.bench.peers.run import Cannot, Run
from haloweave.bench.peers.scripts import attention_sinks_peer, context, measure, weights
from haloweave.engine.hf.engine import HFEngine
from haloweave.engine.hf.tiny import tiny_llama
from haloweave.errors import CapacityExceeded, InvalidInput, ModelCorrupt, SurgeryUnsupported
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.settings import settings

ROOM, CHUNK, ROWS = 1024, 16, 96
SCRIPTS = Path(venvs.__file__).parent / "scripts"
SAID = "The north gate opens at 4817."
SETTINGS = settings(system="Remember.", budget=ROOM, chunk=CHUNK, slack=0.0)
TALK = Case(
    "needles",
    "needles 1",
    "harbour",
    (
        Piece("A first remark about the weather, and about what it did to the rope."),
        Piece("started\n\nlistening on 8080\nstopped", Source.LOG),
        Piece(f"By the way. {SAID} Do not forget."),
        Piece("Noted, and thank you.", Source.MODEL),
        Piece("The ferry was late again, and there was nobody on the quay to say why."),
    ),
    (
        Question(5, "When does the north gate open?", "4817", SAID, 90, "far", "It opens at"),
        Question(3, "When does the north gate open?", "4817", SAID, 10, "near", "It opens at"),
    ),
)
TEXT = Case(
    "books", "books 1", "ferry", (Piece("It rained. " * 12), Piece("Then it stopped. " * 9)), raw=True
)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama(ROOM, sharpness=4.0)


def real_mind(model: Any) -> Mind:
    mind = build.assemble(SETTINGS, HFEngine(model, capacity=ROOM), ByteCodec())
    build.introduce(mind, SETTINGS)
    return mind


def ids_of(mind: Mind, first: int = 0) -> list[int]:
    return [int(i) for i in mind.view.tokens.token_id[first:]]


def heard(mind: Mind, text: str, source: Source = Source.USER, *, fresh: bool = True) -> None:
    for _ in mind.listen(text, source, fresh=fresh):
        pass


# ---- cases as ids --------------------------------------------------------------------------------------


def test_ids_are_those_of_a_real_mind_with_room_for_everything(model: Any) -> None:
    asked, mind = written(TALK, ByteCodec(), SETTINGS), real_mind(model)
    assert isinstance(asked, Ask)
    assert asked.opening == ids_of(mind)
    for piece, ids in zip(TALK.pieces, asked.pieces, strict=True):
        before = mind.rows
        heard(mind, piece.text, piece.source)
        assert ids == ids_of(mind, before)
    before = mind.rows
    heard(mind, TALK.questions[0].asked)
    heard(mind, "It opens at", Source.MODEL, fresh=False)
    heard(mind, " 4817", Source.MODEL, fresh=False)
    question = asked.questions[1]
    assert (question.after, question.group, question.distance) == (5, "far", 90)
    assert [*question.asked_ids, *question.answer_ids] == ids_of(mind, before)
    assert bytes(question.answer_ids) == b" 4817"


def test_a_question_in_between_leaves_no_trace() -> None:
    alone = dataclasses.replace(TALK, questions=TALK.questions[:1])
    one, both = (written(case, ByteCodec(), SETTINGS) for case in (alone, TALK))
    assert isinstance(one, Ask)
    assert isinstance(both, Ask)
    assert one.pieces == both.pieces
    assert one.questions[0] == both.questions[1]


def test_spans_spell_the_evidence_where_it_was_last_said() -> None:
    again = dataclasses.replace(TALK, pieces=(*TALK.pieces[:4], Piece(f"Again: {SAID}")))
    for case, count in ((TALK, 1), (again, 2)):
        asked = written(case, ByteCodec(), SETTINGS)
        assert isinstance(asked, Ask)
        ids = [*asked.opening, *(i for piece in asked.pieces for i in piece)]
        ((first, last),) = asked.questions[1].evidence_spans
        assert bytes(ids[first:last]).decode() == SAID
        text = bytes(i for i in ids[:last] if i < 256).decode()
        assert text.count(SAID) == count


def test_evidence_over_two_turns_leaves_their_frame_out() -> None:
    pieces = (Piece("opens at four"), Piece(" and closes at nine"))
    told = dataclasses.replace(TALK, pieces=pieces, questions=())
    asked = Question(2, "When?", "nine", "opens at four and closes", 1, lead="It is")
    object.__setattr__(told, "questions", (asked,))  # a case would not have it, since no piece says it all
    found = written(told, ByteCodec(), SETTINGS)
    assert isinstance(found, Ask)
    ids = [*found.opening, *(i for piece in found.pieces for i in piece)]
    spans = found.questions[0].evidence_spans
    assert [bytes(ids[a:b]) for a, b in spans] == [b"opens at four", b" and closes"]


def test_evidence_that_nobody_reads_is_refused() -> None:
    blank = Piece("one\n\ntwo", Source.LOG)  # blank lines of a log are left out
    case = Case("logs", "l", "d", (blank,), (Question(1, "What?", "two", "one\n\ntwo", 1, lead="It is"),))
    with pytest.raises(InvalidInput, match="never read"):
        written(case, ByteCodec(), SETTINGS)


def test_running_text_is_its_ids_and_no_frame() -> None:
    whole = "".join(piece.text for piece in TEXT.pieces)
    found, cut = written(TEXT, ByteCodec(), SETTINGS), written(TEXT, ByteCodec(), SETTINGS, 50)
    assert isinstance(found, Stream)
    assert isinstance(cut, Stream)
    (same,) = job(ByteCodec(), Path(), [TEXT], SETTINGS, tokens={"books": 50}, rows=[ROWS]).cases
    assert same == cut
    assert bytes(found.ids).decode() == whole
    assert bytes(cut.ids).decode() == whole[:50]


def test_an_engine_that_computes_nothing_keeps_count_and_edits_nothing() -> None:
    engine = NullEngine(10)
    engine.feed([1, 2, 3])
    image = engine.dump()
    with pytest.raises(CapacityExceeded):
        engine.feed([0] * 8)
    engine.feed([0] * 7)
    engine.load(image)
    assert engine.rows == 3
    with pytest.raises(ModelCorrupt):
        engine.load({})
    with pytest.raises(SurgeryUnsupported):
        engine.save([0])


# ---- a whole run: generate needs nothing that is not here --------------------------------------------------


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(place)
    return place


def the_job(folder: Path, **more: Any) -> Job:
    given: dict[str, Any] = {"rows": [ROWS], "threads": 1, "decode": 3} | more
    return job(ByteCodec(), folder, [TEXT, TALK], SETTINGS, **given)


def our_check(model: Any) -> float:
    told = HFEngine(model, capacity=CHECKED).feed(np.array(check_ids(ByteCodec())), score=True).logprobs
    assert told is not None
    return -float(told.astype(np.float64).mean())


@pytest.fixture(scope="module")
def ran(model: Any, folder: Path) -> list[Record]:
    run = Run(venvs.PEERS["generate"], Path(sys.executable), the_job(folder), our_check(model), silence=120)
    found = list(run.records())
    assert run.versions["torch"] == torch.__version__
    assert all(isinstance(record, Record) for record in found)
    return [record for record in found if isinstance(record, Record)]


def picked(ran: list[Record], arm: str, metric: str, task: str = "") -> list[Record]:
    return [r for r in ran if (r.arm, r.metric) == (arm, metric) and (not task or r.task == task)]


def test_losses_of_generate_are_those_of_a_mind_with_room_for_everything(
    model: Any, ran: list[Record]
) -> None:
    stream = written(TEXT, ByteCodec(), SETTINGS)
    assert isinstance(stream, Stream)
    told = HFEngine(model, capacity=ROOM).feed(np.array(stream.ids), score=True).logprobs
    assert told is not None
    losses = picked(ran, "generate", "nats")
    assert [r.weight for r in losses] == [15, *[16] * (len(losses) - 2), (len(stream.ids) % CHUNK) or CHUNK]
    assert losses[-1].x == len(stream.ids) - 1
    assert sum(r.value * r.weight for r in losses) == pytest.approx(-float(told.sum()), rel=1e-5)


def test_answers_of_generate_are_those_of_a_mind_with_room_for_everything(
    model: Any, ran: list[Record]
) -> None:
    for question, record in zip(reversed(TALK.questions), picked(ran, "generate", "answer"), strict=True):
        mind = real_mind(model)
        for piece in TALK.pieces[: question.after]:
            heard(mind, piece.text, piece.source)
        heard(mind, question.asked)
        heard(mind, question.lead, Source.MODEL, fresh=False)
        events = list(mind.listen(f" {question.answer}", Source.MODEL, fresh=False, score=True))
        nats = sum(getattr(event, "logprob", None) or 0.0 for event in events)
        assert record.value == pytest.approx(nats, abs=1e-4)
        assert (record.x, record.group) == (question.distance, question.group)


def test_what_was_cut_is_not_alive_and_costs_something(ran: list[Record]) -> None:
    assert [r.value for r in picked(ran, "generate", "alive")] == [1.0, 1.0]
    near, far = picked(ran, "generate:truncate", "alive")
    assert near.value > far.value == 0.0
    whole, cut = (picked(ran, arm, "nats") for arm in ("generate", "generate:truncate"))
    same = [abs(a.value - b.value) < 1e-4 for a, b in zip(whole, cut, strict=True)]
    first = ROWS // CHUNK
    assert all(same[:first])
    assert not all(same[first:])


def test_divergence_is_from_full_context_and_starts_at_nothing(ran: list[Record]) -> None:
    assert not picked(ran, "generate", "kl")
    kl, top1 = (picked(ran, "generate:truncate", metric) for metric in ("kl", "top1"))
    assert all(abs(r.value) < 1e-5 for r in kl[: ROWS // CHUNK])
    assert max(r.value for r in kl) > 1e-4
    assert {r.value for r in top1} <= {0.0, 1.0}
    assert top1[0].value == 1.0


def test_speed_and_memory_are_told(ran: list[Record]) -> None:
    kv = {arm: picked(ran, arm, "kv_mb", "speed")[0].value for arm in ("generate", "generate:truncate")}
    row = 2 * 2 * 2 * 16 * 4 / 1e6  # K and V, layers, heads, width, bytes
    tokens = len("".join(piece.text for piece in TEXT.pieces))
    assert kv["generate"] == pytest.approx((tokens + 4) * row, rel=0.02)
    assert kv["generate:truncate"] <= ROWS * row + 1e-9
    for arm in kv:
        (decoded,) = picked(ran, arm, "said_per_s")
        (median,) = picked(ran, arm, "p50_ms")
        assert decoded.value > 0
        assert median.value > 0
        assert picked(ran, arm, "tokens_per_s")[-1].x == tokens // CHUNK * CHUNK


def test_a_peer_that_computes_otherwise_is_refused(model: Any, folder: Path) -> None:
    told = the_job(folder, arms=["generate"])
    run = Run(venvs.PEERS["generate"], Path(sys.executable), told, our_check(model) + 0.01, silence=120)
    with pytest.raises(PeerDiffers, match="expected"):
        next(run.records())


# ---- processes that misbehave ------------------------------------------------------------------------------

CHECK = json.dumps({"check": {"nats": 2.0, "tokens": 3, "versions": {"it": "1"}}})
GIVEN: dict[str, Any] = {
    "task": "books",
    "arm": "it",
    "rows": 4,
    "case": "c",
    "document": "d",
    "metric": "nats",
    "value": 1.0,
}


def script(place: Path, *lines: str) -> Path:
    """A program in place of an interpreter."""
    place.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    return place


def a_run(tmp_path: Path, *lines: str, silence: float = 30.0) -> Run:
    given = Job(tmp_path, [], [4], [1, 2, 3])
    return Run(venvs.PEERS["generate"], script(tmp_path / "it", *lines), given, 2.0, silence)


@pytest.fixture(autouse=True)
def posix(request: pytest.FixtureRequest) -> None:
    if os.name == "nt" and "tmp_path" in request.fixturenames:
        pytest.skip("stand-ins for interpreters are shell scripts")


def test_records_and_what_cannot_be_done_come_through(tmp_path: Path) -> None:
    cannot = {"cannot": {"arm": "it", "task": "talks", "why": "too long"}}
    lines = [f"echo '{line}'" for line in (CHECK, json.dumps(cannot), json.dumps(GIVEN))]
    run = a_run(tmp_path, *lines)
    assert list(run.records()) == [Cannot("it", "talks", "too long"), Record(**GIVEN)]
    assert run.versions == {"it": "1"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([f"echo '{json.dumps(GIVEN)}'"], "check first"),
        (["true"], "before it had told the check"),
        ([f"echo '{CHECK}'", "echo Hello"], "expected a record, got 'Hello"),
        ([f"echo '{CHECK}'", 'echo \'{"task": "books"}\''], "expected a record"),
        ([f"echo '{CHECK}'", "echo out of memory >&2", "exit 3"], "(?s)ended with 3.*out of memory"),
    ],
)
def test_what_cannot_be_understood_is_an_error(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(PeerFailed, match=said):
        list(a_run(tmp_path, *lines).records())


def test_nan_is_not_close(tmp_path: Path) -> None:
    with pytest.raises(PeerDiffers):
        list(a_run(tmp_path, f"echo '{CHECK.replace('2.0', 'NaN')}'").records())


def test_silence_ends_a_peer(tmp_path: Path) -> None:
    run = a_run(tmp_path, f"echo '{CHECK}'", "exec sleep 60", silence=0.3)
    began = time.monotonic()
    with pytest.raises(PeerFailed, match="not a word"):
        list(run.records())
    assert time.monotonic() - began < 30


def test_whoever_stops_listening_ends_it(tmp_path: Path) -> None:
    lines = [f"echo $$ > {tmp_path}/pid", f"echo '{CHECK}'", f"echo '{json.dumps(GIVEN)}'", "exec sleep 60"]
    records: Iterator[Any] = a_run(tmp_path, *lines).records()
    next(records)
    pid = int((tmp_path / "pid").read_text())
    records.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# ---- environments ------------------------------------------------------------------------------------------


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that makes environments of copies of itself, and notes what it is told."""
    log = tmp_path / "log"
    lines = [
        f'echo "$@" >> {log}',
        'if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi',
        f'if [ "$2" = pip ] && [ -e {tmp_path}/broken ]; then echo one; echo no such wheel; exit 7; fi',
    ]
    monkeypatch.setattr("haloweave.bench.peers.venvs.sys.executable", str(script(tmp_path / "fake", *lines)))
    return log


def test_an_environment_is_made_once(tmp_path: Path, pretended: Path) -> None:
    told: list[str] = []
    peer = venvs.PEERS["kvpress"]
    for _ in range(2):
        found = venvs.python(peer, cache=tmp_path, progress=lambda what, done, total: told.append(what))
        assert found.is_file()
    assert found.is_relative_to(venvs.folder(peer, tmp_path))
    made, installed = pretended.read_text().splitlines()
    assert made.startswith("-m venv")
    assert installed.endswith(f"-r {peer.requirements}")
    assert len(told) == 1
    assert "kvpress 0.5.5" in told[0]
    assert "1400 MB" in told[0]


def test_a_failed_installation_says_why_and_is_begun_again(tmp_path: Path, pretended: Path) -> None:
    peer = venvs.PEERS["attention_sinks"]
    (tmp_path / "broken").touch()
    with pytest.raises(PeerUnavailable, match=r"(?s)ended with 7.*no such wheel"):
        venvs.python(peer, cache=tmp_path)
    (venvs.folder(peer, tmp_path) / "left over").touch()
    (tmp_path / "broken").unlink()
    venvs.python(peer, cache=tmp_path)
    assert not (venvs.folder(peer, tmp_path) / "left over").exists()


def test_too_little_disk_is_said_before_anything_is_fetched(
    tmp_path: Path, pretended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "haloweave.bench.peers.venvs.shutil.disk_usage", lambda place: SimpleNamespace(free=10**8)
    )
    with pytest.raises(PeerUnavailable, match="100 MB are free"):
        venvs.python(venvs.PEERS["generate"], cache=tmp_path)
    assert not pretended.exists()


def test_other_pins_are_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = venvs.PEERS["generate"]
    before = venvs.folder(peer, tmp_path)
    monkeypatch.setattr(venvs, "_SCRIPTS", tmp_path)
    (tmp_path / "generate.txt").write_text("torch==1\n")
    assert venvs.folder(peer, tmp_path) != before


def test_a_peer_does_not_see_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    told = venvs.environment(HF_HUB_OFFLINE="1")
    assert "PYTHONPATH" not in told
    assert told["HF_HUB_OFFLINE"] == "1"
    assert os.environ["PYTHONPATH"] == "/ours"


@pytest.mark.parametrize("peer", venvs.PEERS.values(), ids=str)
def test_every_requirement_is_pinned_and_torch_is_the_cpu_build(peer: venvs.Peer) -> None:
    lines = [line for line in peer.requirements.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line for line in lines)
    torches = [line for line in lines if line.startswith("torch==")]
    assert len(torches) == 2
    assert torches[0].startswith("torch==2.13.0+cpu ; ")
    assert not [line for line in lines if "nvidia" in line or "://" in line]
    assert (SCRIPTS / f"{peer.script}.py").is_file()


def test_scripts_import_nothing_of_ours() -> None:
    for path in SCRIPTS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            assert not [name for name in names if name.split(".")[0] == "haloweave"], path


# ---- what the scripts share --------------------------------------------------------------------------------


def test_a_config_in_the_words_of_transformers_4() -> None:
    new = {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}, "dtype": "float32", "a": 1}
    assert weights.older(new) == {"rope_theta": 100000.0, "torch_dtype": "float32", "a": 1}
    assert new["dtype"] == "float32"
    scaled = {"rope_parameters": {"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0}}
    wanted = {"rope_theta": 5.0, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}}
    assert weights.older(scaled) == wanted
    assert weights.older({"vocab_size": 3}) == {"vocab_size": 3}


def test_a_translated_folder_links_all_but_the_config(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    (old / "config.json").write_text(json.dumps({"dtype": "float32"}))
    (old / "model.safetensors").write_bytes(b"weights")
    weights.translated(old, new)
    assert json.loads((new / "config.json").read_text()) == {"torch_dtype": "float32"}
    assert (new / "model.safetensors").is_symlink()
    assert json.loads((old / "config.json").read_text()) == {"dtype": "float32"}


def test_the_share_alive_is_a_mean_over_heads() -> None:
    held = torch.tensor([[0, 1, 2, 9], [5, 6, 7, 8]])
    assert context.share(held, [[1, 3], [8, 10]]) == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert context.share(torch.arange(4), [[0, 4]]) == 1.0


def test_the_loss_of_tokens_is_the_sum_over_them() -> None:
    log_p = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    assert measure.nats(log_p, [1, 2]) == pytest.approx(-np.log(0.25) - np.log(0.8))


def test_what_sinks_hold_is_what_their_cache_holds() -> None:
    """On a stand-in whose keys are the numbers of the tokens, cut as attention-sinks cuts."""
    cache = SimpleNamespace(attention_sink_size=0, attention_sink_window_size=0, cache_size=0)
    read = iter(range(1000))

    def forward(input_ids: torch.Tensor, past_key_values: Any, use_cache: bool) -> SimpleNamespace:
        new = torch.tensor([float(next(read)) for _ in range(input_ids.shape[1])])[None, None, :, None]
        keys = new if past_key_values is None else torch.cat([past_key_values[0][0], new], 2)
        if keys.shape[2] > cache.cache_size:
            first, last = keys[:, :, : cache.attention_sink_size], keys.shape[2]
            keys = torch.cat([first, keys[:, :, last - cache.attention_sink_window_size :]], 2)
        logits = torch.zeros(1, input_ids.shape[1], 5)
        return SimpleNamespace(past_key_values=[[keys, keys]], logits=logits)

    class Stand:
        model = SimpleNamespace(attention_sink_kv_cache=cache)
        __call__ = staticmethod(forward)

    sinks = attention_sinks_peer.Recent(Stand(), 40, 16).start()
    for size in (3, 16, 16, 1, 16):
        sinks.feed([1] * size)
        keys = sinks._past[0][0].flatten().tolist()
        assert keys == sinks._held
        assert len(keys) <= 40 - 16
    assert sinks._held == [0, 1, 2, 3, *range(32, 52)]
    assert sinks.alive([[0, 2], [30, 34]]) == pytest.approx(4 / 6)
