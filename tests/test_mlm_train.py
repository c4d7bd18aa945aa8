# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Training: it learns, it goes on bit for bit where it was stopped, and it says what it cannot do."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bert
import torch
from safetensors.torch import load_file, save_file
from terminal import Screens
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from haloweave import models
from haloweave.corpus import Document
from haloweave.errors import (
    Interrupted,
    InvalidInput,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    ModelUnsafe,
    ModelUnsupported,
)
from haloweave.progress import silent
from haloweave.repair.mlm import base, card, checkpoint, hardware, run, texts
from haloweave.repair.mlm.base import Base
from haloweave.repair.mlm.blocks import framed, streams
from haloweave.repair.mlm.masking import Masking
from haloweave.repair.mlm.recipe import Recipe
from haloweave.repair.mlm.run import Plan, Started
from haloweave.repair.mlm.score import Score, head, predict, score
from haloweave.repair.mlm.texts import Sources
from haloweave.repair.mlm.train import CHECKPOINT, Report, Trainer, own

RECIPE = Recipe(tokens=64 * 24, batch_tokens=64, phases=((0.5, 16), (0.5, 32)), rate=5e-3, checkpoint_every=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.encoder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def read(folder: Path) -> Mapping[int, np.ndarray]:
    """Blocks to train on by length; those held out under 0."""
    start = base.load(folder)
    both = streams([Document(Path("toy"), tiny_bert.toy_text(3000))], start.encode, 62)
    found = {length: framed(both.train, start.vocabulary, length) for length in (16, 32)}
    return {**found, 0: framed(both.held_out, start.vocabulary, 32)[:64]}


Make = Callable[..., tuple[Base, Trainer]]


@pytest.fixture
def make(folder: Path, read: Mapping[int, np.ndarray]) -> Make:
    """A new trainer over the same base and texts."""

    def made(recipe: Recipe = RECIPE, **more: Any) -> tuple[Base, Trainer]:
        start = base.load(more.pop("folder", folder), recipe.seed)
        blocks = {length: read[length] for length in (16, 32)} | more.pop("texts", {})
        return start, Trainer(start.model, start.vocabulary, blocks, read[0], recipe, **more)

    return made


def nobody(report: Report) -> None:
    """Tells nobody."""


def stop_at(step: int, error: BaseException) -> Callable[[Report], None]:
    def tell(report: Report) -> None:
        if report.step == step:
            raise error

    return tell


def state_of(out: Path) -> dict[str, torch.Tensor]:
    """Weights and the optimiser's averages, as written."""
    return load_file(out / CHECKPOINT / "tensors.safetensors")


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(
    folder: Path, read: Mapping[int, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """What a run that nobody stopped ends with."""
    out, start = tmp_path_factory.mktemp("whole"), base.load(folder)
    Trainer(start.model, start.vocabulary, read, read[0], RECIPE).run(out, nobody)
    return state_of(out)


# ---- learning ----------------------------------------------------------------------------------------


def test_it_learns_more_than_how_frequent_words_are(
    make: Make, tmp_path: Path, read: Mapping[int, np.ndarray]
) -> None:
    told: list[Report] = []
    start, trainer = make(replace(RECIPE, tokens=256 * 120, batch_tokens=256, rate=3e-3))
    before = trainer.score()
    after = trainer.run(tmp_path, told.append, evaluate_every=50)
    assert told[0].loss - told[-1].loss > 1.5
    kept = read[0][~np.isin(read[0], list(start.vocabulary.special))]
    shares = np.bincount(kept) / len(kept)
    frequencies = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    assert after.nats < frequencies - 0.4 < before.nats
    assert after.top1 > shares.max() + 0.2 > before.top1
    assert [(r.step, r.steps) for r in told] == [(i, 120) for i in range(1, 121)]
    assert [r.step for r in told if r.score] == [50, 100]
    assert told[-1].seconds_left == 0 < told[0].seconds_left


def test_a_score_is_what_a_slow_reference_says(folder: Path, read: Mapping[int, np.ndarray]) -> None:
    start = base.load(folder)
    start.model.train()
    found = score(start.model, start.vocabulary, read[0][:5], batch=2)
    assert found == score(start.model, start.vocabulary, read[0][:5], batch=2)
    assert start.model.training, "as it was before"
    ranks, nats = [], []
    start.model.eval()
    for at in (0, 2, 4):
        rng = np.random.Generator(np.random.Philox(key=[20_406, at]))
        batch = Masking(rate=0.15, random=0, soft=0).batch(read[0][:5][at : at + 2], start.vocabulary, rng)
        for ids, target in zip(batch.ids, batch.target, strict=True):
            logits = start.model(input_ids=torch.from_numpy(ids)[None].long()).logits[0].detach().double()
            for i in np.flatnonzero(target >= 0):
                nats.append(-float(logits[i].log_softmax(-1)[target[i]]))
                ranks.append(int((logits[i] > logits[i, target[i]]).sum()))
    assert found.predicted == len(ranks)
    assert found.top1 == pytest.approx(np.mean(np.array(ranks) < 1))
    assert found.top5 == pytest.approx(np.mean(np.array(ranks) < 5))
    assert found.nats == pytest.approx(np.mean(nats), abs=1e-5)


def test_soft_masks_reach_the_embeddings(folder: Path, read: Mapping[int, np.ndarray]) -> None:
    start = base.load(folder)
    blocks = read[0][:2]
    batch = Masking(rate=1.0, random=0, soft=1.0).batch(blocks, start.vocabulary, np.random.default_rng(0))
    seen: list[torch.Tensor] = []
    hook = start.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"].detach()), with_kwargs=True
    )
    predict(start.model, start.vocabulary, batch)
    hook.remove()
    words = start.model.get_input_embeddings().weight.detach()
    heat = torch.from_numpy(batch.heat)[..., None]
    expected = (1 - heat) * words[torch.from_numpy(blocks).long()] + heat * words[start.vocabulary.mask]
    torch.testing.assert_close(seen[0], expected)


def test_nothing_to_score(folder: Path) -> None:
    start = base.load(folder)
    for blocks in (np.zeros((0, 8), np.int32), np.array([[2, 1, 1, 3]], np.int32)):
        with pytest.raises(InvalidInput, match="nothing to score"):
            score(start.model, start.vocabulary, blocks)


# ---- going on ----------------------------------------------------------------------------------------


def test_two_runs_are_one(make: Make, tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    make()[1].run(tmp_path, nobody)
    assert same(state_of(tmp_path), whole)
    make(replace(RECIPE, seed=1))[1].run(tmp_path / "other", nobody)
    assert not same(state_of(tmp_path / "other"), whole)


@pytest.mark.parametrize("step", [1, 7, 12, 18, 24])
def test_asked_to_end_it_ends_with_a_checkpoint_and_goes_on_bit_for_bit(
    make: Make, tmp_path: Path, whole: dict[str, torch.Tensor], step: int
) -> None:
    with pytest.raises(Interrupted):
        make()[1].run(tmp_path, stop_at(step, Interrupted("enough")))
    assert json.loads((tmp_path / CHECKPOINT / "state.json").read_text())["step"] == step
    start, trainer = make()
    told: list[Report] = []
    trainer.run(tmp_path, told.append)
    assert [r.step for r in told] == [*range(step + 1, 25)]
    assert same(state_of(tmp_path), whole)
    ends = {name.removeprefix("model."): v for name, v in whole.items() if name.startswith("model.")}
    assert same(own(start.model), ends)


def test_killed_it_goes_on_from_its_last_checkpoint(
    make: Make, tmp_path: Path, whole: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make()[1].run(tmp_path, stop_at(13, KeyboardInterrupt()))
    assert json.loads((tmp_path / CHECKPOINT / "state.json").read_text())["step"] == 7
    make()[1].run(tmp_path, nobody)
    assert same(state_of(tmp_path), whole)


@pytest.mark.parametrize("call", range(3))
def test_a_crash_in_the_middle_of_a_checkpoint(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, torch.Tensor], call: int
) -> None:
    """Killed before each rename of the second checkpoint, and after the last."""
    renames = 0

    def rename(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == 2 + call:  # the first rename is the first checkpoint's only one
            raise KeyboardInterrupt
        os.rename(self, target)
        return target

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            make()[1].run(tmp_path, nobody)
    told: list[Report] = []
    make()[1].run(tmp_path, told.append)
    assert told[0].step == (8, 8, 15)[call]
    assert same(state_of(tmp_path), whole)
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_full_disk_is_told_and_keeps_the_checkpoint_before(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(Interrupted):
        make()[1].run(tmp_path, stop_at(5, Interrupted("enough")))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ModelError, match="No space left"):
            make()[1].run(tmp_path, nobody)
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]
    make()[1].run(tmp_path, nobody)
    assert same(state_of(tmp_path), whole)


def test_a_run_that_is_over_is_not_run_again(make: Make, tmp_path: Path) -> None:
    _, trainer = make()
    first = trainer.run(tmp_path, nobody)
    written = (tmp_path / CHECKPOINT).stat().st_mtime_ns
    _, again = make()
    told: list[Report] = []
    assert again.run(tmp_path, told.append) == first
    assert told == []
    assert (tmp_path / CHECKPOINT).stat().st_mtime_ns == written
    assert (again.step, again.seconds) == (24, trainer.seconds)


def test_a_checkpoint_of_another_run_is_refused(make: Make, tmp_path: Path, read: Any) -> None:
    make()[1].run(tmp_path, nobody)
    other = tiny_bert.encoder(tmp_path / "base", seed=9)
    for trainer in (
        make(replace(RECIPE, rate=4e-3))[1],
        make(texts={16: read[16][::-1].copy()})[1],
        make(folder=other)[1],
        make(bf16=True)[1],
    ):
        with pytest.raises(InvalidInput, match="another recipe, text, base or dtype"):
            trainer.run(tmp_path, nobody)


def test_a_checkpoint_without_a_note_of_its_origin_is_taken(
    make: Make, tmp_path: Path, whole: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(Interrupted):
        make()[1].run(tmp_path, stop_at(10, Interrupted("enough")))
    file = tmp_path / CHECKPOINT / "state.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({name: told[name] for name in ("step", "seconds", "mark")}))
    make()[1].run(tmp_path, nobody)
    assert same(state_of(tmp_path), whole)


def _torn_state(place: Path) -> None:
    (place / "state.json").write_text('{"step": 1')


def _short_tensors(place: Path) -> None:
    os.truncate(place / "tensors.safetensors", 1000)


def _no_tensors(place: Path) -> None:
    (place / "tensors.safetensors").unlink()


def _a_tensor_less(place: Path) -> None:
    kept = load_file(place / "tensors.safetensors")
    kept.pop("model.cls.predictions.transform.dense.weight")
    save_file(kept, place / "tensors.safetensors")


def _another_shape(place: Path) -> None:
    kept = load_file(place / "tensors.safetensors")
    kept["model.cls.predictions.bias"] = kept["model.cls.predictions.bias"][:-1].clone()
    save_file(kept, place / "tensors.safetensors")


@pytest.mark.parametrize("damage", [_torn_state, _short_tensors, _no_tensors, _a_tensor_less, _another_shape])
def test_a_damaged_checkpoint_is_told(make: Make, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    make()[1].run(tmp_path, nobody)
    damage(tmp_path / CHECKPOINT)
    with pytest.raises(ModelCorrupt, match="remove it"):
        make()[1].run(tmp_path, nobody)


def test_tied_weights_are_written_once_and_stay_tied(make: Make, tmp_path: Path) -> None:
    make()[1].run(tmp_path, nobody)
    written = [name for name, v in state_of(tmp_path).items() if v.shape[:1] == (len(tiny_bert.VOCABULARY),)]
    weights = [name for name in written if name.startswith("model.")]
    assert weights == ["model.bert.embeddings.word_embeddings.weight", "model.cls.predictions.bias"]
    start, trainer = make()
    trainer.run(tmp_path, nobody)
    out = start.model.get_output_embeddings()
    assert out.weight is start.model.get_input_embeddings().weight
    assert out.bias is start.model.cls.predictions.bias


def test_own_keeps_what_only_looks_the_same() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(6.0)
            self.register_buffer("whole", whole)
            self.register_buffer("front", whole[:2].clone())
            self.register_buffer("none", torch.empty(0))
            self.register_buffer("nil", torch.empty(0))

    assert own(Odd()).keys() == {"whole", "front", "none", "nil"}


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    with (
        checkpoint.alone(tmp_path),
        pytest.raises(InvalidInput, match="another run"),
        checkpoint.alone(tmp_path),
    ):
        pass
    with checkpoint.alone(tmp_path):
        pass


# ---- what cannot be trained --------------------------------------------------------------------------


def test_too_little_text(make: Make, read: Mapping[int, np.ndarray], folder: Path) -> None:
    with pytest.raises(InvalidInput, match="3 blocks of 16 tokens, a batch needs 4"):
        make(texts={16: read[16][:3]})
    start = base.load(folder)
    with pytest.raises(InvalidInput, match="held out"):
        Trainer(start.model, start.vocabulary, read, read[0][:0], RECIPE)


def test_a_loss_that_is_not_finite_stops_the_run(make: Make, tmp_path: Path) -> None:
    start, trainer = make()
    with torch.no_grad():
        start.model.cls.predictions.bias[7] = float("nan")
    with pytest.raises(InvalidInput, match=r"step 0: the loss is nan \(a smaller rate"):
        trainer.run(tmp_path, nobody)


def test_a_text_in_an_unknown_script_is_told(make: Make, tmp_path: Path) -> None:
    unknown = np.tile(np.array([2, *[1] * 14, 3], np.int32), (8, 1))
    _, trainer = make(texts={16: unknown})
    with pytest.raises(InvalidInput, match="no word of it is in the vocabulary"):
        trainer.run(tmp_path, nobody)


# ---- bases -------------------------------------------------------------------------------------------


def test_an_encoder_gets_a_tied_head_drawn_from_the_seed(folder: Path) -> None:
    state = torch.random.get_rng_state()
    start, again, other = base.load(folder), base.load(folder), base.load(folder, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's randomness is touched"
    assert same(start.model.state_dict(), again.model.state_dict())
    weight = "cls.predictions.transform.dense.weight"
    assert not torch.equal(start.model.state_dict()[weight], other.model.state_dict()[weight])
    assert start.model.get_output_embeddings().weight is start.model.get_input_embeddings().weight
    kept = load_file(folder / "model.safetensors")
    body = start.model.base_model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in body.items())
    assert (start.model.config.hidden_dropout_prob, start.model.config.attention_probs_dropout_prob) == (0, 0)


def test_a_masked_lm_keeps_its_head(tmp_path: Path) -> None:
    start = base.load(tiny_bert.masked_lm(tmp_path))
    kept = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(start.model.state_dict()[name], value) for name, value in kept.items())
    assert "cls.predictions.transform.dense.weight" in kept


def test_an_encoder_under_another_head(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    kept = load_file(folder / "model.safetensors")
    save_file({f"bert.{name}": value for name, value in kept.items()}, tmp_path / "model.safetensors")
    assert same(base.load(tmp_path).model.state_dict(), base.load(folder).model.state_dict())


def test_the_tokenizer_neither_pads_nor_cuts_nor_believes_in_special_text(folder: Path) -> None:
    start = base.load(folder)
    short, long, special = start.encode(["the cat", "the cat " * 40, "[MASK] the [SEP]"])
    assert (len(short), len(long)) == (2, 80)
    assert not start.vocabulary.special & {*special} - {1}, "[UNK] stands for the brackets, nothing more"
    words = start.vocabulary
    assert (words.size, words.mask, words.opening, words.closing) == (
        len(tiny_bert.VOCABULARY),
        4,
        (2,),
        (3,),
    )
    assert words.special == {0, 1, 2, 3, 4}
    assert [tiny_bert.VOCABULARY[i] for i in np.flatnonzero(words.continues)][:3] == [
        "##it",
        "##its",
        "##leeps",
    ]


def test_where_words_begin_in_other_vocabularies() -> None:
    assert base._continues(["▁the", "cat", ",", "Ġdog", "s", "<s>"]).tolist() == [
        *(False, True, False, False, True, False)
    ]


SIZES = {"vocab_size": 40, "max_position_embeddings": 40, "pad_token_id": 0}
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    "build",
    [
        lambda: DistilBertForMaskedLM(
            DistilBertConfig(**SIZES, dim=16, hidden_dim=32, n_layers=1, n_heads=4)
        ),
        lambda: RobertaForMaskedLM(RobertaConfig(**SIZES, **SMALL)),
        lambda: ModernBertForMaskedLM(ModernBertConfig(**SIZES, **SMALL)),
    ],
    ids=["distilbert", "roberta", "modernbert"],
)
def test_other_families_are_read_as_their_own_forward_reads(build: Callable[[], Any]) -> None:
    model = build().eval()
    words = replace(base.Vocabulary(40, 4, (), (), frozenset(), np.zeros(40, np.bool_)))
    blocks = np.random.default_rng(0).integers(5, 40, (3, 12)).astype(np.int32)
    batch = Masking(rate=0.4, random=0, soft=0).batch(blocks, words, np.random.default_rng(1))
    with torch.no_grad():
        logits, target = predict(model, words, batch)
        expected = model(input_ids=torch.from_numpy(batch.ids).long()).logits[
            torch.from_numpy(batch.target) >= 0
        ]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert (target.numpy() == batch.target[batch.target >= 0]).all()


def test_a_model_whose_head_is_not_known() -> None:
    model = ElectraForMaskedLM(ElectraConfig(**SIZES, **SMALL, embedding_size=16))
    with pytest.raises(ModelUnsupported, match="ElectraForMaskedLM"):
        head(model)


def _edit(file: str, **changes: Any) -> Callable[[Path], None]:
    def edit(place: Path) -> None:
        told = json.loads((place / file).read_text())
        (place / file).write_text(json.dumps(told | changes))

    return edit


def _only_pickle(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def _without_a_layer(place: Path) -> None:
    kept = load_file(place / "model.safetensors")
    kept.pop("encoder.layer.1.output.dense.weight")
    save_file(kept, place / "model.safetensors")


def _torn_weights(place: Path) -> None:
    os.truncate(place / "model.safetensors", 100)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (_only_pickle, ModelNotFound, "model.safetensors is missing"),
        (_without_a_layer, ModelCorrupt, "weights missing: encoder.layer.1"),
        (_torn_weights, ModelCorrupt, "unreadable weights"),
        (_edit("config.json", auto_map={"AutoModel": "x.Y"}), ModelUnsafe, "auto_map"),
        (_edit("config.json", model_type="llama"), ModelUnsupported, "'llama' is no masked LM"),
        (_edit("config.json", vocab_size=50), ModelUnsupported, "the model 50"),
        (_edit("tokenizer_config.json", mask_token=None), ModelUnsupported, "no mask token"),
    ],
)
def test_folders_that_are_refused(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], error: type[ModelError], match: str
) -> None:
    place = tmp_path / "base"
    shutil.copytree(folder, place)
    change(place)
    with pytest.raises(error, match=match):
        base.load(place)


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(InvalidInput, match="use auto or cpu"):
        hardware.device(name)


def test_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert hardware.bf16("bfloat16", cpu)
    assert not hardware.bf16("float32", cpu)
    for has in ({"avx512_bf16": True}, {"amx_bf16": True}, {"avx2": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert hardware.bf16("auto", cpu) == ("avx2" not in has)
    with pytest.raises(InvalidInput, match="float16"):
        hardware.bf16("float16", cpu)


# ---- texts -------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two kinds of text with their notes, and a story of its own."""
    place = tmp_path / "data"
    (place / "tales").mkdir(parents=True)
    (place / "tales" / "SOURCE.txt").write_text(
        "repo: example.org/tales\nlicence: CC0 1.0\nwhat: toy | tales\n"
    )
    (place / "tales" / "one.txt").write_text(tiny_bert.toy_text(1500))
    (place / "tales" / "two.txt").write_text(tiny_bert.toy_text(1500, seed=1))
    (place / "story.txt").write_text(tiny_bert.toy_text(200, seed=2))
    return place


def test_texts_are_read_once_and_again_when_they_change(folder: Path, data: Path, tmp_path: Path) -> None:
    start, reads = base.load(folder), 0

    def encode(some: Any) -> list[list[int]]:
        nonlocal reads
        reads += 1
        return start.encode(some)

    def made(fingerprint: str = "", sources: Sources | None = None) -> texts.Texts:
        given = sources or Sources((data,), apart=(data / "story.txt",))
        return texts.texts(
            given, encode, start.vocabulary, (16, 32), cache=tmp_path / "blocks", fingerprint=fingerprint
        )

    first = made()
    done = reads
    again = made()
    assert reads == done > 0
    assert first.volumes == again.volumes
    for name in ("train", "scored"):
        one, other = getattr(first, name), getattr(again, name)
        assert list(one) == list(other)
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert list(first.scored) == ["held-out pages", "story.txt"]
    assert {Path(v.folder).name: v.documents for v in first.volumes} == {"tales": 2}
    for change in (
        lambda: made("another tokenizer"),
        lambda: made(sources=Sources((data,))),
        lambda: (os.utime(data / "tales" / "one.txt", (1, 1)), made()),
        lambda: (os.truncate(tmp_path / "blocks", 5000), made()),
    ):
        before = reads
        change()
        assert reads > before


def test_what_is_apart_is_never_trained_on(folder: Path, data: Path, tmp_path: Path) -> None:
    (data / "story.txt").write_text("old old old and and " * 500)
    start = base.load(folder)
    sources = Sources((data,), apart=(data / ".." / "data" / "story.txt",))
    found = texts.texts(sources, start.encode, start.vocabulary, (16,), cache=tmp_path / "blocks")
    old = tiny_bert.VOCABULARY.index("old")
    twice = (found.train[16][:, 1:] == old) & (found.train[16][:, :-1] == old)
    assert not twice.any()
    assert (found.scored["story.txt"] == old).mean() > 0.4


def test_sources_that_lead_nowhere(folder: Path, data: Path, tmp_path: Path) -> None:
    start = base.load(folder)
    with pytest.raises(InvalidInput, match="no such file to hold out"):
        Sources((data,), apart=(data / "gone.txt",)).files()
    with pytest.raises(InvalidInput, match="every file is held out"):
        Sources((data / "story.txt",), apart=(data / "story.txt",)).files()
    (data / "story.txt").write_text("the cat")
    with pytest.raises(InvalidInput, match="too short to be scored"):
        texts.texts(
            Sources((data,), apart=(data / "story.txt",)),
            *(start.encode, start.vocabulary, (16,)),
            cache=tmp_path / "blocks",
        )


# ---- a whole run -------------------------------------------------------------------------------------


class Watching:
    """Notes everything; may ask for an end."""

    def __init__(self, stop: int = 0) -> None:
        self.progress, self._stop = silent, stop
        self.scores: dict[str, Mapping[str, Score]] = {}
        self.steps: list[int] = []

    def started(self, started: Started) -> None:
        self.start = started

    def measured(self, when: str, scores: Mapping[str, Score]) -> None:
        self.scores[when] = scores

    @contextmanager
    def training(self) -> Iterator[Callable[[Report], None]]:
        yield self._tell

    def _tell(self, report: Report) -> None:
        self.steps.append(report.step)
        if report.step == self._stop:
            raise Interrupted("enough")


@pytest.fixture
def plan(folder: Path, data: Path, tmp_path: Path) -> Plan:
    recipe = Recipe(tokens=256 * 12, batch_tokens=256, phases=((0.5, 16), (0.5, 32)), rate=5e-3)
    sources = Sources((data,), apart=(data / "story.txt",))
    return Plan(
        folder, "somebody/tiny", sources, tmp_path / "out", recipe, tmp_path / "parcel", "cpu", "float32"
    )


def test_a_whole_run_stopped_and_taken_up_again(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run.train(plan, Watching(stop=5))
    watch = Watching()
    outcome = run.train(plan, watch)
    assert watch.steps == [*range(6, 13)]
    run.train(replace(plan, out=tmp_path / "straight", parcel=None), Watching())
    weights = [load_file(tmp_path / out / "model.safetensors") for out in ("out", "straight")]
    assert same(*weights)
    assert list(watch.scores) == ["start", "end", "packed"]
    names = ["held-out pages", "story.txt"]
    assert [list(found) for found in watch.scores.values()] == [names] * 3
    for name in names:
        start, end, packed = (watch.scores[when][name] for when in ("start", "end", "packed"))
        assert end.nats < start.nats
        assert packed.nats == pytest.approx(end.nats, abs=0.05)
    assert outcome.parcel_bytes == sum(path.stat().st_size for path in (tmp_path / "parcel").iterdir())
    assert watch.start.dtype == "float32"


def test_the_folder_is_one_for_transformers(plan: Plan) -> None:
    run.train(replace(plan, parcel=None), Watching())
    model = AutoModelForMaskedLM.from_pretrained(plan.out)
    tokenizer = AutoTokenizer.from_pretrained(plan.out)
    ids = tokenizer("The cat sits on the [MASK].")["input_ids"]
    assert [tiny_bert.VOCABULARY[i] for i in ids] == [
        "[CLS]",
        "the",
        "cat",
        "s",
        "##its",
        "on",
        "the",
        "[MASK]",
        ".",
        "[SEP]",
    ]
    assert len(tokenizer("the " * 60)["input_ids"]) == 62, "no truncation"
    assert tokenizer.model_max_length == 128
    assert (plan.out / "vocab.txt").read_text().splitlines() == list(tiny_bert.VOCABULARY)
    told = json.loads((plan.out / "tokenizer_config.json").read_text())
    assert not told.keys() & {"max_length", "stride", "local_files_only"}
    logits = model(input_ids=torch.tensor([ids])).logits
    again = base.load(plan.out)
    torch.testing.assert_close(again.model(input_ids=torch.tensor([ids])).logits, logits)
    assert str(plan.base) not in (plan.out / "config.json").read_text()


def test_the_card_tells_where_it_comes_from(plan: Plan) -> None:
    outcome = run.train(plan, Watching())
    text = (plan.out / "README.md").read_text()
    assert plan.parcel is not None
    assert (plan.parcel / "README.md").read_text() == text
    assert card.front_matter(text) == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "language": "en",
        "base_model": "somebody/tiny",
    }
    size = sum(len(tiny_bert.toy_text(1500, seed).strip()) for seed in (0, 1))
    assert f"| tales | toy \\| tales | CC0 1.0 | example.org/tales | 2 | {size:,} |" in text
    assert "(somebody/tiny): mit." in text
    assert "12 steps of 256 tokens: 50% in blocks of 16, then 50% in blocks of 32" in text
    assert "uncased" in text
    found = outcome.measured
    for scores in (found.before, found.after, found.packed or {}):
        for score_ in scores.values():
            assert (
                f"| {score_.top1:.1%} | {score_.top5:.1%} | {score_.nats:.3f} | {score_.predicted:,} |"
                in text
            )
    assert "None" not in text


def test_a_card_without_a_card_to_go_by() -> None:
    for text in ("", "# no front matter\n", "---\nlicense: mit\n", "hello\n---\nlicense: mit\n---\n"):
        assert card.origin("x", text) == card.Origin("x", "not stated", "not stated")
    assert card.front_matter("---\nlicense: mit\ntags:\n- a: b\n---\nno: 1") == {"license": "mit"}


def test_folders_that_would_be_overwritten_or_read(plan: Plan, data: Path) -> None:
    for wrong, match in (
        (replace(plan, out=plan.base), "is the base or the parcel"),
        (replace(plan, parcel=plan.out), "is the base or the parcel"),
        (replace(plan, out=data / "model"), "lies in the data"),
        (replace(plan, recipe=Recipe(tokens=4096, phases=((1.0, 4096),))), "the base takes 128"),
    ):
        with pytest.raises(InvalidInput, match=match):
            run.train(wrong, Watching())


# ---- the command -------------------------------------------------------------------------------------


class Terminal(Screens):
    """One run of `halo`; presses Ctrl-C when `at` is on the screen."""

    def __init__(self, at: str = "") -> None:
        super().__init__(err=Pressing(at), width=200)


class Pressing(io.StringIO):
    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def write(self, text: str) -> int:
        done = super().write(text)
        if self._at and self._at in self.getvalue():
            self._at = ""
            signal.raise_signal(signal.SIGINT)
        return done


@pytest.fixture
def command(folder: Path, tmp_path: Path) -> list[object]:
    """Eight steps of the tiny base on enough toy text."""
    toy = tmp_path / "toy.txt"
    toy.write_text(tiny_bert.toy_text(1500))
    given = ["train-mlm", "--data", toy, "--base", folder, "--tokens", 4096 * 8, "--dtype", "float32"]
    return [*given, "--device", "cpu", "--rate", "0.005", "--out", tmp_path / "out"]


def test_the_command_from_end_to_end_as_json(command: list[object], tmp_path: Path) -> None:
    terminal = Terminal()
    assert terminal.halo(*command, "--parcel", tmp_path / "parcel", "--json") == 0
    events = [line["event"] for line in terminal.lines]
    assert events == ["started", "scores", "step", "step", "scores", "scores", "done"]
    started, start, first, last, end, packed, done = terminal.lines
    assert (started["steps"], started["dtype"]) == (8, "float32")
    assert [line["when"] for line in (start, end, packed)] == ["start", "end", "packed"]
    assert (first["step"], last["step"], last["seconds_left"]) == (1, 8, 0)
    assert done["after"]["held-out pages"]["nats"] < done["before"]["held-out pages"]["nats"]
    assert done["packed"] == packed["scores"]
    assert done["parcel_bytes"] > 0
    AutoModelForMaskedLM.from_pretrained(done["folder"])


def test_ctrl_c_ends_between_two_steps_and_the_same_command_goes_on(
    command: list[object], tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    terminal = Terminal(at="step 1 of 8")
    assert terminal.halo(*command) == 130
    assert "stopped after step 2 of 8; the same command goes on from there" in terminal.err
    assert signal.getsignal(signal.SIGINT) == before
    again = Terminal()
    assert again.halo(*command) == 0
    assert "step 3 of 8" in again.err
    assert "step 8 of 8" in again.err
    assert "step 1 of" not in again.err
    assert "held-out pages" in again.out
    assert str(tmp_path / "out") in again.out
    command[-1] = tmp_path / "straight"
    assert Terminal().halo(*command) == 0
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("out", "straight")]
    assert same(*weights)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--data", "/no/such/place"], "no such file or folder"),
        (["--exclude", "nothing*"], "nothing to exclude matches"),
        (["--held-out", "/no/such/file"], "no such file to hold out"),
        (["--tokens", "100"], "give more tokens"),
        (["--rate", "7"], "rate in (0, 1)"),
        (["--base", "no-such-base"], "minilm-l6"),
        (["--device", "abacus"], "use auto or cpu"),
        (["--dtype", "float8"], "expected auto, float32 or bfloat16"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(
    command: list[object], more: list[str], says: str
) -> None:
    terminal = Terminal()
    assert terminal.halo(*command, *more) == 2
    assert says in terminal.err
    assert "Traceback" not in terminal.err
    assert terminal.out == ""


def test_the_default_base_is_known() -> None:
    spec = models.find_encoder("minilm-l6")
    assert spec is not None
    assert spec.origin == "sentence-transformers/all-MiniLM-L6-v2"
