# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The bench of warm starts: equal time, costs that are charged, words that are counted, and its verdict."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bert
import tiny_denoiser as tiny
import torch
from tiny_host import host
from typer.testing import CliRunner

from haloweave import models
from haloweave.bench import warm, warm_plan, warm_report
from haloweave.bench.words import Exam
from haloweave.cli import bench as shelf
from haloweave.diffusion.denoisers.base import Hidden
from haloweave.diffusion.errors import BadInput, TooLittleText
from haloweave.diffusion.judging.held import blocks_of, held_out
from haloweave.diffusion.tokenizer import Tokenizer, borrowed_tokenizer
from haloweave.diffusion.training import curves

SMALL = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 64}


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return host(tmp_path_factory.mktemp("models") / "host")


@pytest.fixture(scope="module")
def words(lender: Path) -> Tokenizer:
    return borrowed_tokenizer(lender / "tokenizer.json")


# ---- words -------------------------------------------------------------------------------------------


def exam(words: Tokenizer, texts: list[str], share: float = 0.5) -> Exam:
    rows, documents = blocks_of([words.encode(text) for text in texts], 24, pad_id=words.pad_id)
    held = held_out(
        rows, words.bytes_per_token.numpy(), words.decode, pad_id=words.pad_id, documents=documents
    )
    return Exam.of(held, words, share)


class Knowing:
    """A denoiser that knows the text but for some bytes, which it takes for another."""

    def __init__(self, x0: torch.Tensor, mistaken: int, vocab_size: int) -> None:
        self._x0, self._mistaken, self._size = x0, mistaken, vocab_size
        self.seen: list[torch.Tensor] = []

    def hidden(self, xt: torch.Tensor) -> Hidden:
        at = sum(len(one) for one in self.seen)
        self.seen.append(xt)
        truth = self._x0[at : at + len(xt)]
        return Hidden(torch.where(truth == self._mistaken, 1, truth)[..., None].float())

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(states[..., 0].long(), self._size).float()


def test_a_word_is_right_if_all_its_letters_are(words: Tokenizer) -> None:
    lines = ["a cat saw the old dog and a cow", "12 cats - and no dogs at all"]
    found = exam(words, lines, share=1.0)
    # In rows of 24 bytes, "dog an|d" and "at| all" are cut; numbers and dashes are no words.
    shown = ("cat saw the old dog", "a cow", "cats and no dogs", "all")
    expected = [len(row.split()) for row in shown]
    assert found.words.tolist() == expected
    for letter, wrong in (("t", 2), ("d", 2), ("z", 0)):
        denoiser: Any = Knowing(found.x0, words.encode(letter)[0], words.vocab_size)
        right = found.right(denoiser)
        assert right[0] == expected[0] - wrong, letter
    holes = torch.cat(denoiser.seen) == words.mask_id
    assert torch.equal(holes, found.word >= 0)
    assert words.decode(found.x0[0][holes[0]]) == " cat saw the old dog"


def test_the_same_words_for_the_same_seed(words: Tokenizer) -> None:
    lines = [" the cat sees a bird and sings"] * 40
    one, other = exam(words, lines), exam(words, lines)
    assert torch.equal(one.word, other.word)
    assert 0.3 < one.words.sum() / exam(words, lines, 1.0).words.sum() < 0.7
    with pytest.raises(TooLittleText, match="expected some to mask"):
        exam(words, ["1 2 3"])


# ---- the bench ---------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path, lender: Path, monkeypatch: pytest.MonkeyPatch) -> warm_plan.Plan:
    encoder = tiny_bert.encoder(tmp_path / "encoder")
    lent = {"host": "", "projection_rank": 4}
    starts = {
        "own": {"arch": "transformer", **SMALL},
        "taught": {"arch": "transformer", **SMALL, **lent, "distil": 0.5, "distil_top": 4},
        "begun": {"arch": "encoder", **SMALL, **lent, "initialiser": str(encoder)},
    }
    monkeypatch.setattr(warm_plan, "STARTS", starts)
    monkeypatch.setattr(warm_plan, "POINTS", 2)
    monkeypatch.setattr(warm, "POINTS", 2)
    monkeypatch.setattr(warm, "_PROBE", 4)
    monkeypatch.setattr(models, "resolve", lambda name, **more: lender)
    monkeypatch.setattr(curves, "_picture", lambda columns, path: None)
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(tiny.texts(40)):
        (tmp_path / "texts" / f"{number:02}.txt").write_text(text.text, encoding="utf-8")
    apart = (tmp_path / "texts" / "00.txt", tmp_path / "texts" / "01.txt")
    return warm_plan.Plan(
        files=(tmp_path / "texts",),
        held_out=apart,
        minutes=0.01,
        out=tmp_path / "out",
        seq_len=24,
        distil_blocks=8,
        blocks=12,
        dtype="float32",
    )


def test_every_start_has_its_minutes(plan: warm_plan.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    here = warm_plan.common(plan, lambda done: None)
    assert len(here.held.rows) == 12
    found = [
        warm.measure(plan, here, name, start, lambda done: None) for name, start in warm_plan.STARTS.items()
    ]
    for one in found:
        assert one.before < one.minutes
        assert one.minutes == pytest.approx(plan.minutes, rel=0.7)  # a busy machine's steps differ
        assert [x for x, _ in one.curve] == sorted(x for x, _ in one.curve)
        assert one.curve[-1][0] == pytest.approx(60 * one.minutes)
        assert one.curve[0][0] > 60 * one.before
        assert one.curve[-1][1] < one.curve[0][1] + 0.1
        assert len(one.nats) == len(one.right) == 12
    assert [one.teacher > 0 for one in found] == [False, True, False]
    assert found[1].before > found[1].teacher
    monkeypatch.setattr(warm, "_trained", None)
    again = warm.measure(plan, here, "own", warm_plan.STARTS["own"], lambda done: None)
    assert (again.steps, again.curve) == (found[0].steps, found[0].curve), "not trained twice"
    assert (again.nats == found[0].nats).all()


def test_what_a_bench_that_was_killed_left_is_not_taken_for_its_own(
    plan: warm_plan.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its probe is over and its run half done: neither tells how long a step takes, nor what was spent."""
    here, start = warm_plan.common(plan, lambda done: None), warm_plan.STARTS["own"]
    with monkeypatch.context() as patch:
        patch.setattr(warm, "_judged", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            warm.measure(plan, here, "own", start, lambda done: None)
    found = warm.measure(plan, here, "own", start, lambda done: None)
    assert found.steps >= 2
    assert found.minutes > found.before
    assert len(found.curve) >= 2


def test_other_held_out_text_is_another_bench(plan: warm_plan.Plan) -> None:
    """Under the same name: nothing that was measured before is worth anything then."""
    first = warm_plan.common(plan, lambda done: None)
    text = plan.held_out[0].read_text(encoding="utf-8")
    plan.held_out[0].write_text(text.replace("cat", "dog"), encoding="utf-8")
    with pytest.raises(BadInput, match="holds other text"):
        warm_plan.common(plan, lambda done: None)
    shutil.rmtree(plan.out / "data")  # as the message says
    again = warm_plan.common(plan, lambda done: None)
    assert again.corpus.fingerprint != first.corpus.fingerprint
    start = warm_plan.STARTS["own"]
    found = [warm.measure(plan, here, "own", start, lambda done: None) for here in (first, again)]
    assert (found[0].nats != found[1].nats).any()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seed": 2**70}, "seed should be in"),
        ({"held_out": (Path("nowhere.txt"),)}, "no such file to hold out"),
        ({"files": (Path("texts/00.txt"),), "held_out": (Path("texts/00.txt"),)}, "every file is held out"),
        ({"files": (Path("."),)}, "lies in the data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_texts_and_numbers_that_are_none_are_told_at_once(
    plan: warm_plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=told):
        warm_plan.common(replace(plan, **given), lambda done: None)


def test_too_little_time_is_told(plan: warm_plan.Plan) -> None:
    here = warm_plan.common(plan, lambda done: None)
    with pytest.raises(BadInput, match="own: expected time for 2 steps, got"):
        warm.measure(replace(plan, minutes=1e-5), here, "own", warm_plan.STARTS["own"], lambda done: None)
    for bad in ({"minutes": 0.0}, {"minutes": math.nan}, {"minutes": math.inf}, {"host": ""}):
        with pytest.raises(BadInput, match="minutes above 0 and a host"):
            replace(plan, **bad)


@pytest.mark.parametrize("numbers", ["0", "4", "1,1", "x", ""])
def test_starts_by_number(numbers: str) -> None:
    names = list(warm_plan.STARTS)
    assert list(warm_plan.chosen("2,1")) == [names[1], names[0]]
    assert list(warm_plan.chosen(None)) == names
    with pytest.raises(BadInput, match="expected some of these numbers, each once"):
        warm_plan.chosen(numbers if numbers != "4" else "40")


def test_what_the_starts_are_told_are_settings_of_a_run() -> None:
    plan = warm_plan.Plan(files=(Path("texts"),))
    for start in warm_plan.STARTS.values():
        told = plan.settings(start, Path("out"), 60)
        assert (told.around.host is None) == ("host" not in start)
        assert told.recipe.evaluate_every == 10


def test_the_command(plan: warm_plan.Plan, tmp_path: Path) -> None:
    shelf.load()
    given = ["warm", "--data", plan.files[0], "--held-out", plan.held_out[0], "--minutes", 0.005]
    given += ["--out", tmp_path / "bench", "--report", tmp_path / "report", "--seq-len", 24, "--blocks", 4]
    given += ["--distil-blocks", 8, "--starts", "1,3", "--json"]
    done = CliRunner().invoke(shelf.app, [str(part) for part in given])
    assert done.exit_code == 0, done.output
    first, second, facts = [json.loads(line) for line in done.stdout.splitlines()]
    assert (first["start"], second["start"]) == ("own", "begun")
    assert (first["gain"], len(second["gain"])) == (None, 3)
    assert facts["facts"]["threads"] == 1
    assert done.stderr.count("most per minute: ") == 1
    kept = json.loads((tmp_path / "report" / warm_report.FIGURES).read_text())
    assert [line["start"] for line in kept["starts"]] == ["own", "begun"]
    assert kept["verdict"] in done.stderr
    assert f"by the tokens' frequencies alone: {kept['facts']['by_frequency'][0]:.3f} bits" in done.stderr
    assert (tmp_path / "report" / warm_report.PICTURE).read_bytes()[:4] == b"\x89PNG"


# ---- the report --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nats", "minutes"),
    [(7.5, 1.5), (8.0, 1.0), (9.0, 1.0), (6.0, 3.0), (5.9, None)],
)
def test_when_a_curve_is_as_low_as_that(nats: float, minutes: float | None) -> None:
    curve = ((60.0, 8.0), (120.0, 7.0), (150.0, 7.2), (180.0, 6.0))
    assert warm_report.reached(curve, nats) == (None if minutes is None else pytest.approx(minutes))


def test_what_frequencies_alone_are_worth(plan: warm_plan.Plan) -> None:
    """Against counting by hand."""
    here = warm_plan.common(plan, lambda done: None)
    train = here.corpus.train.rows(range(len(here.corpus.train))).flatten().tolist()
    total = len(train) + here.tokenizer.vocab_size
    for row, nats in zip(here.held.rows[:3].tolist(), warm_plan.by_frequency(here), strict=False):
        real = [token for token in row if token != here.held.pad_id]
        expected = -sum(math.log((train.count(token) + 1) / total) for token in real)
        assert nats == pytest.approx(expected)


def test_gains_and_the_verdict_are_of_pairs(plan: warm_plan.Plan) -> None:
    """Rows differ by far more than two starts do: only in pairs is there anything to be seen."""
    here = warm_plan.common(plan, lambda done: None)
    rows = np.linspace(50, 500, 12)
    start = warm.Found("a", 1, 9, 1.0, 0.0, 0.0, ((60.0, 7.0),), rows, np.zeros(12))
    better = replace(start, name="b", nats=rows - 5, right=np.minimum(1.0, here.exam.words))
    lines = warm_report.lines([start, better], here)
    gain = lines[1].gain
    assert gain is not None
    assert gain.value == pytest.approx(12 * 5 / math.log(2) / here.held.bytes.sum())
    assert gain.low > 0
    assert lines[0].gain is lines[0].more is None
    assert warm_report.verdict([start, better], here).startswith("most per minute: b; after 1.0 CPU minutes")
    alike = replace(start, name="c", nats=rows + np.tile([3.0, -3.0], 6))
    assert "which chance could explain" in warm_report.verdict([start, alike], here)
