# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A teacher is asked once, its answers survive a kill, and a run that learns of them goes on bit for bit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_denoiser as tiny
import torch
from tiny_denoiser import RECIPE, losses, trainer
from torch import Tensor

from haloweave.diffusion import build
from haloweave.diffusion.data import Corpus
from haloweave.diffusion.errors import BadCheckpoint, BadInput, Stopped
from haloweave.diffusion.parcel import read
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.train import CHECKPOINT, Material, Report
from haloweave.diffusion.training import curves, teacher
from haloweave.diffusion.training.noise import noise_of
from haloweave.diffusion.training.recipe import Recipe
from haloweave.diffusion.training.teacher import Answers, recorded

TAUGHT = replace(RECIPE, distil=0.5, distil_blocks=6, distil_top=3)


class Fake:
    """Holds the true token likely, and some others; counts what it is asked."""

    def __init__(self, name: str = "fake", fails_after: int | None = None) -> None:
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        self.asked: list[Tensor] = []
        self._left = fails_after

    def answers(self, rows: Tensor, top: int) -> tuple[Tensor, Tensor]:
        if self._left is not None and not self._left:
            raise KeyboardInterrupt
        self._left = None if self._left is None else self._left - 1
        self.asked.append(rows)
        tokens = torch.where(torch.arange(top) == 0, rows[..., None], 300 + torch.arange(top))
        probabilities = torch.full(tokens.shape, 0.9 / top)
        probabilities[:, 0] = 0
        return tokens, probabilities


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def corpus(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny.corpus(tmp_path_factory.mktemp("corpus"), words)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "SHARD", 4)
    monkeypatch.setattr(curves, "_picture", lambda columns, path: None)


def ask(corpus: Corpus, folder: Path, who: Fake, blocks: int = 10, top: int = 3) -> Answers:
    return recorded(corpus, who, folder, blocks, top)


# ---- asking ------------------------------------------------------------------------------------------


def test_each_block_is_asked_once_and_its_answer_is_its_own(corpus: Corpus, tmp_path: Path) -> None:
    who = Fake()
    first, again = ask(corpus, tmp_path, who), ask(corpus, tmp_path, who)
    assert [len(rows) for rows in who.asked] == [4, 4, 2]
    assert len({*first.blocks.tolist()}) == 10
    assert torch.equal(first.tokens[..., 0].long(), corpus.train.rows(first.blocks))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.probabilities, again.probabilities)
    assert (first.mark, first.seconds) == (again.mark, again.seconds)
    assert first.seconds > 0


def test_asking_more_goes_on_where_fewer_ended(corpus: Corpus, tmp_path: Path) -> None:
    few, who = ask(corpus, tmp_path, Fake(), blocks=8), Fake()
    more = ask(corpus, tmp_path, who, blocks=12)
    assert [len(rows) for rows in who.asked] == [4]
    assert torch.equal(more.tokens[:8], few.tokens)


def test_there_are_no_more_answers_than_blocks(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "SHARD", 200)
    found = ask(corpus, tmp_path, Fake(), blocks=10**6)
    assert sorted(found.blocks.tolist()) == [*range(len(corpus.train))]


def test_a_kill_costs_one_shard(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(corpus, tmp_path, Fake(fails_after=2))
    who = Fake()
    found = ask(corpus, tmp_path, who)
    assert [len(rows) for rows in who.asked] == [2]
    assert torch.equal(found.tokens, ask(corpus, tmp_path / "other", Fake()).tokens)


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_shard_is_asked_anew(corpus: Corpus, tmp_path: Path, damage: bytes | None) -> None:
    ask(corpus, tmp_path, Fake())
    (path,) = tmp_path.glob("*/00001.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!" if damage is None else damage)
    who = Fake()
    ask(corpus, tmp_path, who)
    assert [len(rows) for rows in who.asked] == [4]


def test_another_teacher_number_or_corpus_has_answers_of_its_own(
    corpus: Corpus, words: Tokenizer, tmp_path: Path
) -> None:
    other = tiny.corpus(tmp_path / "corpus", words, tiny.texts(40, seed=1))
    marks = [
        ask(corpus, tmp_path / "a", Fake()).mark,
        ask(corpus, tmp_path / "a", Fake("another")).mark,
        ask(corpus, tmp_path / "a", Fake(), top=2).mark,
        ask(other, tmp_path / "a", Fake()).mark,
    ]
    assert len({*marks}) == 4
    assert len([*(tmp_path / "a").iterdir()]) == 4


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (lambda t, p: (t[:, 1:], p[:, 1:]), "expected answers of shape"),
        (lambda t, p: (t, p * 3), "expected probabilities"),
        (lambda t, p: (t, p.fill_(torch.nan)), "expected probabilities"),
        (lambda t, p: (t, -p), "expected probabilities"),
    ],
)
def test_answers_that_are_none_are_refused_and_not_kept(
    corpus: Corpus, tmp_path: Path, spoilt: Any, told: str
) -> None:
    who = Fake()
    told_well = who.answers
    who.answers = lambda rows, top: spoilt(*told_well(rows, top))  # type: ignore[method-assign]
    with pytest.raises(BadInput, match=told):
        ask(corpus, tmp_path, who)
    assert not [*tmp_path.glob("*/*.safetensors")]


# ---- reading -----------------------------------------------------------------------------------------


def test_a_share_of_each_batch_has_answers(corpus: Corpus, tmp_path: Path) -> None:
    found = ask(corpus, tmp_path, Fake())
    rows = np.full(16, -1)
    for share, count in ((0.25, 4), (0.5, 8), (1.0, 16), (0.01, 0)):
        read_ = found.read(rows, 0, 3, share)
        assert np.isin(read_, found.blocks).sum() == count
        assert (read_ == found.read(rows, 0, 3, share)).all()
    assert (rows == -1).all()
    halves = [np.isin(part, found.blocks).sum() for part in np.split(found.read(rows, 0, 3, 0.5), 4)]
    assert halves == [2, 2, 2, 2], "spread evenly over microbatches"
    seen = np.concatenate([found.read(rows, 0, step, 0.25) for step in range(5)])
    assert sorted(seen[seen >= 0].tolist()) == sorted([*found.blocks] * 2), "each as often as any other"
    assert (found.read(rows, 1, 3, 0.5) != found.read(rows, 0, 3, 0.5)).any()


def test_targets_are_those_of_the_blocks_asked_for(corpus: Corpus, tmp_path: Path) -> None:
    found = ask(corpus, tmp_path, Fake())
    never = next(i for i in range(len(corpus.train)) if i not in found.blocks)
    rows = np.array([found.blocks[7], never, found.blocks[2], found.blocks[7]])
    soft = found.soft(rows, 0.5)
    x0 = corpus.train.rows(rows)
    assert soft.answered[:, 1:].all(1).tolist() == [True, False, True, True]
    assert not soft.answered[1].any()
    assert not soft.answered[:, 0].any()
    assert torch.equal(soft.tokens[[0, 2, 3], :, 0].long(), x0[[0, 2, 3]])


# ---- training ----------------------------------------------------------------------------------------


def material(
    words: Tokenizer, corpus: Corpus, folder: Path, who: Fake | None = None, **more: Any
) -> Material:
    answers = recorded(corpus, who or Fake(), folder / "answers", TAUGHT.distil_blocks, TAUGHT.distil_top)
    return Material(tiny.denoiser(words, "transformer", **more), words, corpus, {}, answers)


def state(folder: Path) -> dict[str, Tensor]:
    found = read(folder / CHECKPOINT)
    assert found is not None
    return dict(found.tensors)


@pytest.mark.parametrize("split", [{}, {"batch_size": 2, "grad_accum": 2}], ids=str)
def test_stopped_it_goes_on_bit_for_bit(
    words: Tokenizer, corpus: Corpus, tmp_path: Path, split: dict[str, Any]
) -> None:
    recipe = replace(TAUGHT, **split)
    whole = losses(trainer(material(words, corpus, tmp_path), tmp_path / "whole", recipe))
    told: list[Report] = []
    with pytest.raises(Stopped):
        trainer(material(words, corpus, tmp_path), tmp_path / "parts", recipe).run(
            told.append, lambda: len(told) == 3
        )
    told += losses(trainer(material(words, corpus, tmp_path, seed=9), tmp_path / "parts", recipe))
    assert [r.parts for r in told] == [r.parts for r in whole]
    assert all(r.parts["teacher"] > 0 for r in whole)
    one, other = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_decides_the_weights_and_its_time_is_the_runs(
    words: Tokenizer, corpus: Corpus, tmp_path: Path
) -> None:
    plain = Material(tiny.denoiser(words), words, corpus)
    losses(trainer(plain, tmp_path / "plain"))
    taught = material(words, corpus, tmp_path)
    slow = replace(taught, answers=replace(taught.answers, seconds=1000.0))  # type: ignore[type-var]
    done = trainer(slow, tmp_path / "taught", TAUGHT).run(lambda report: None)
    assert done.seconds > 1000
    assert all(x > 1000 for x in curves.read(tmp_path / "taught" / curves.CSV)["seconds"])
    one, other = state(tmp_path / "plain"), state(tmp_path / "taught")
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"who": Fake("another")}, "teacher"),
        ({"recipe": replace(TAUGHT, distil=0.4)}, "recipe.distil 0.5 there, 0.4 here"),
        ({"recipe": replace(TAUGHT, distil_rows=0.5)}, "recipe.distil_rows 0.25 there, 0.5 here"),
    ],
    ids=["another teacher", "another share", "other rows"],
)
def test_a_run_goes_on_with_its_own_teacher_alone(
    words: Tokenizer, corpus: Corpus, tmp_path: Path, other: dict[str, Any], told: str
) -> None:
    losses(trainer(material(words, corpus, tmp_path), tmp_path / "run", TAUGHT))
    again = material(words, corpus, tmp_path, other.get("who"))
    with pytest.raises(BadCheckpoint, match=told):
        losses(trainer(again, tmp_path / "run", other.get("recipe", TAUGHT)))


def test_without_a_teacher_a_recipe_decides_what_it_ever_did() -> None:
    """So that runs from before there were teachers go on."""
    assert not [name for name in Recipe().decisive(1) if name.startswith("distil")]
    assert Recipe(distil_rows=0.5).decisive(1) == Recipe().decisive(1)
    with_one = Recipe(distil=0.5).decisive(1)
    assert {"distil", "distil_blocks", "distil_top", "distil_rows"} <= with_one.keys()


def test_answers_and_recipe_belong_together(words: Tokenizer, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="got none and distil"):
        trainer(Material(tiny.denoiser(words), words, corpus), tmp_path / "a", TAUGHT)
    with pytest.raises(BadInput, match="got some and distil"):
        trainer(material(words, corpus, tmp_path), tmp_path / "a", RECIPE)


def test_a_batch_too_small_to_learn_of_the_teacher_is_refused(
    words: Tokenizer, corpus: Corpus, tmp_path: Path
) -> None:
    """A quarter of two rows is none: the run would be one without a teacher, and nobody would know."""
    taught = material(words, corpus, tmp_path)
    with pytest.raises(BadInput, match=r"distil_rows 0.25 of 2 rows a step is none"):
        trainer(taught, tmp_path / "a", replace(TAUGHT, batch_size=2))
    trainer(taught, tmp_path / "a", replace(TAUGHT, batch_size=2, distil_rows=0.5))
    trainer(taught, tmp_path / "a", replace(TAUGHT, batch_size=2, grad_accum=2))


@pytest.mark.parametrize("name", build.CORRUPTIONS)
def test_a_teacher_goes_with_every_corruption_that_leaves_tokens_in_their_places(
    words: Tokenizer, corpus: Corpus, name: str
) -> None:
    """By what each does to text, not by its name: masks and wrong tokens may be, moved ones not."""
    x0 = corpus.train.rows(range(16))
    given = {"deleted": 0.9} if name == "spans" else {}
    noise = noise_of(replace(RECIPE, corruption=name, corruption_options=given), words, corpus)
    moves = any(not torch.equal(noise.draw(x0, 0, step).batch.x0, x0) for step in range(8))
    if not moves:
        assert Recipe(distil=0.5, corruption=name).corruption == name
        return
    with pytest.raises(BadInput, match=f"corruption {name} moves tokens"):
        Recipe(distil=0.5, corruption=name)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"distil": 1.5}, "distil in"),
        ({"distil": float("nan")}, "distil in"),
        ({"distil": 0.5, "distil_rows": 0.0}, "distil_rows in"),
        ({"distil": 0.5, "distil_blocks": 0}, "distil_blocks should be >= 1"),
        ({"distil": 0.5, "objective": "elbo"}, "objective elbo is no bound with a teacher"),
        ({"distil": 0.5, "corruption": "spans"}, "corruption spans moves tokens"),
        ({"distil": 0.5, "corruption": "scars"}, "corruption scars moves tokens"),
    ],
    ids=str,
)
def test_recipes_that_a_teacher_does_not_fit(given: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        Recipe(**given)
