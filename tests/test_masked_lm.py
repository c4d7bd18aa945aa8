# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A masked LM as a repairer: what it reads, what it is asked, what becomes of it, and what is refused.

Where logic is tested, a scripted stand-in takes the model's place and shows the rows it was given.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_mlm
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertModel, LlamaConfig, LlamaForCausalLM

from haloweave.errors import (
    EngineFault,
    InvalidInput,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    ModelUnsafe,
    ModelUnsupported,
)
from haloweave.repair.base import Proposal, RepairWindow
from haloweave.repair.masked.bridge import BridgeCounts
from haloweave.repair.masked.rows import Guess, Row, batches, cut
from haloweave.repair.masked.softmask import Noise, mixed
from haloweave.repair.masked.subwords import Subwords
from haloweave.repair.masked_lm import MaskedLM, MaskedLMRepairer, load
from haloweave.text import spell

CODEC = tiny_mlm.host_codec()
WORDPIECE = tiny_mlm.wordpiece()
EVERY = pytest.mark.parametrize("name", sorted(tiny_mlm.ARCHITECTURES))


def host(text: str) -> np.ndarray:
    return np.array(CODEC.encode([text])[0], np.int32)


def window(
    text: str, heat: float | Sequence[float], doomed: Sequence[int] = (), uid: int = 0
) -> RepairWindow:
    ids = host(text)
    flags = np.isin(np.arange(len(ids)), doomed)
    heats = np.broadcast_to(np.array(heat, np.float32), len(ids))
    return RepairWindow.of(ids, heats, uid=np.arange(uid, uid + len(ids)), doomed=flags)


def row(ids: Sequence[int], heat: float = 0.0) -> Row:
    plain = np.array(ids, np.int64)
    return Row(plain, np.full(len(plain), heat, np.float32), np.arange(len(plain)), plain)


def written(proposals: Sequence[Proposal], shown: RepairWindow) -> str:
    """The window's text with the proposals in it."""
    ids = shown.token_id.tolist()
    for p in sorted(proposals, key=lambda p: -int(p.uid[0])):
        run = shown.run(p)
        assert run is not None
        ids[run] = p.new_ids.tolist()
    return spell(CODEC, ids)


class ScriptedLM:
    """Answers with the words it was told to, most likely first, and remembers the rows it was shown.

    What stands there has log p `old`, its first choice `best`, each further choice one nat less.
    """

    def __init__(self, *words: str, best: float = -1.0, old: float = -3.0) -> None:
        self.subwords = Subwords(WORDPIECE, tiny_mlm.mask_id(WORDPIECE))
        self.words, self.best, self.old = words, best, old
        self.rows: list[Row] = []

    def predict(self, rows: Sequence[Row], *, top: int = 1, noise: Noise | None = None) -> list[Guess]:
        self.rows += rows
        return [self._guess(r, top) for r in rows]

    def _guess(self, shown: Row, top: int) -> Guess:
        size = len(shown.at)
        ids = np.array([WORDPIECE.token_to_id(w) for w in self.words[:top]], np.int64)
        nats = self.best - np.arange(len(ids))
        return Guess(
            np.tile(ids, (size, 1)),
            np.tile(nats, (size, 1)).astype(np.float32),
            np.full(size, self.old, np.float32),
        )

    def read(self, n: int) -> list[str]:
        """What row `n` said, a hot token in brackets."""
        tokens = [WORDPIECE.id_to_token(int(i)) for i in self.rows[n].ids]
        return [f"<{t}>" if h else t for t, h in zip(tokens, self.rows[n].heat, strict=True)]


def scripted(*words: str, **options: Any) -> tuple[ScriptedLM, MaskedLMRepairer]:
    told = {k: options.pop(k) for k in ("best", "old") if k in options}
    model = ScriptedLM(*words, **told)
    return model, MaskedLMRepairer(model, CODEC, **options)  # type: ignore[arg-type]


# ---- the model reads embeddings as it reads ids ------------------------------------------------------


@EVERY
def test_cold_rows_say_what_the_model_says_of_the_ids(name: str) -> None:
    """Against the stock model fed with ids, padded and alone: positions, types and norms are added once."""
    model, tokenizer = tiny_mlm.ARCHITECTURES[name](3)
    lm = MaskedLM(model, tokenizer, tiny_mlm.mask_id(tokenizer))
    opening, closing = list(lm.subwords.opening), list(lm.subwords.closing)
    texts = [lm.subwords.encode(t)[0].tolist() for t in ("the cat sat on the mat", "a dog", "she")]
    told = lm.predict([row(t) for t in texts], top=3)
    for ids, guess in zip(texts, told, strict=True):
        logits = model(input_ids=torch.tensor([opening + ids + closing])).logits[0]
        expected = logits.log_softmax(-1)[len(opening) : len(opening) + len(ids)]
        best = expected.topk(3)
        assert guess.ids.tolist() == best.indices.tolist()
        np.testing.assert_allclose(guess.nats, best.values, atol=1e-4)
        np.testing.assert_allclose(guess.old, expected[range(len(ids)), ids], atol=1e-4)


@EVERY
def test_heat_mixes_word_embeddings_with_the_mask(name: str) -> None:
    """Against the formula written out, embeddings handed to the stock model."""
    model, tokenizer = tiny_mlm.ARCHITECTURES[name](4)
    lm = MaskedLM(model, tokenizer, tiny_mlm.mask_id(tokenizer))
    ids, _ = lm.subwords.encode("the cat sat on the mat")
    heat = np.array([0, 0.25, 1, 0.75, 0, 0.5], np.float32)
    framed = torch.tensor([[*lm.subwords.opening, *ids.tolist(), *lm.subwords.closing]])
    words = model.get_input_embeddings()(framed).clone()
    mask = model.get_input_embeddings().weight[lm.subwords.mask_id]
    for n, h in enumerate(heat.tolist(), len(lm.subwords.opening)):
        words[0, n] = (1 - h) * words[0, n] + h * mask
    expected = model(inputs_embeds=words, attention_mask=torch.ones_like(framed)).logits[0].log_softmax(-1)
    (guess,) = lm.predict([Row(ids, heat, np.array([1, 2, 5]), ids[[1, 2, 5]])], top=1)
    at = np.array([1, 2, 5]) + len(lm.subwords.opening)
    assert guess.ids[:, 0].tolist() == expected[at].argmax(-1).tolist()
    np.testing.assert_allclose(guess.old, expected[at, ids[[1, 2, 5]]], atol=1e-4)


def test_at_heat_zero_an_embedding_stays_itself_bit_for_bit_and_at_one_it_is_the_masks() -> None:
    words, mask = torch.randn(2, 5, 8), torch.randn(8)
    heat = torch.tensor([[0.0, 1, 0, 0.5, 1], [1, 0, 0.3, 0, 0]])
    made = mixed(words, mask, heat)
    assert torch.equal(made[heat == 0], words[heat == 0])
    assert torch.equal(made[heat == 1], mask.expand_as(made[heat == 1]))
    assert not torch.equal(made[0, 3], words[0, 3])


def test_noise_is_the_rows_own_and_spares_what_is_cold() -> None:
    some = Row(np.arange(5), np.array([0, 1, 0.5, 0, 1], np.float32), np.arange(5), np.arange(5))
    drawn = Noise(2.0, seed=1).draw(some, 64)
    assert not drawn[[0, 3]].any()
    assert np.array_equal(drawn, Noise(2.0, seed=1).draw(some, 64))
    assert not np.array_equal(drawn, Noise(2.0, seed=2).draw(some, 64))
    assert drawn[1].std() == pytest.approx(2.0, rel=0.3)
    assert drawn[2].std() == pytest.approx(1.0, rel=0.3)


@EVERY
def test_noise_moves_the_answer_by_its_scale_and_the_seed_decides_how(name: str) -> None:
    lm = tiny_mlm.masked_lm(name)
    ids, _ = lm.subwords.encode("the cat sat on the mat")
    hot, cold = row(ids, 0.5), row(ids, 0.0)
    told = [lm.predict([hot], noise=Noise(s, seed))[0].old for s, seed in ((0, 0), (1, 0), (1, 0), (1, 1))]
    assert np.array_equal(told[1], told[2])
    assert not np.allclose(told[0], told[1])
    assert not np.allclose(told[1], told[3])
    assert np.array_equal(lm.predict([cold], noise=Noise(5.0, 0))[0].old, lm.predict([cold])[0].old)


@EVERY
def test_what_a_row_says_does_not_depend_on_its_company(name: str) -> None:
    lm = tiny_mlm.masked_lm(name, batch_tokens=40)
    texts = ["the cat sat", "a", "she was walking on the old mat and the dog ran", "big red house", "he"]
    rows = [row(lm.subwords.encode(t)[0], 0.7) for t in texts]
    together = lm.predict(rows, noise=Noise(0.5))
    for alone, guess in zip([lm.predict([r], noise=Noise(0.5))[0] for r in rows], together, strict=True):
        np.testing.assert_allclose(alone.nats, guess.nats, atol=1e-4)
        assert np.array_equal(alone.ids, guess.ids)


# ---- rows longer than the model, and batches ---------------------------------------------------------


@given(st.integers(1, 60), st.integers(2, 20), st.data())
def test_a_long_row_is_cut_so_that_each_position_is_asked_once_where_it_has_most_context(
    size: int, room: int, data: st.DataObject
) -> None:
    at = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1)))), np.int64)
    ids = np.arange(size) + 100
    whole = Row(ids, np.zeros(size, np.float32), at, ids[at])
    pieces = cut(whole, room)
    asked = np.concatenate([mine for _, mine in pieces]) if pieces else np.empty(0)
    assert sorted(asked.tolist()) == list(range(len(at)))
    offsets = sorted({int(p.ids[0]) - 100 for p, _ in pieces}) if len(at) else []
    for piece, mine in pieces:
        assert len(piece) <= room
        assert np.array_equal(piece.ids[piece.at], whole.old[mine])
        assert np.array_equal(piece.old, whole.old[mine])
        start = int(piece.ids[0]) - 100
        for position in at[mine].tolist():
            best = max(_context(position, o, room, size) for o in offsets)
            assert _context(position, start, room, size) == best
            assert size <= room or best >= min((room - 1) // 4, room // 2 - 1)


def _context(position: int, start: int, room: int, size: int) -> int:
    """Tokens on the poorer side; a side where the text ends is not poor."""
    stop = min(start + room, size)
    if not start <= position < stop:
        return -1
    left = room if start == 0 else position - start
    right = room if stop == size else stop - 1 - position
    return min(left, right)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 100))
def test_batches_hold_every_row_once_and_no_more_than_their_bound(lengths: list[int], tokens: int) -> None:
    made = list(batches(lengths, tokens))
    assert sorted(n for batch in made for n in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) == 1 or max(lengths[n] for n in batch) * len(batch) <= tokens


@EVERY
def test_a_window_longer_than_the_model_is_repaired_to_its_end(name: str) -> None:
    """A model that says `dog` everywhere: each word but `dog` itself gets its proposal."""
    model, tokenizer = tiny_mlm.ARCHITECTURES[name](0)
    lm = MaskedLM(model, tokenizer, tiny_mlm.mask_id(tokenizer))
    (dog,) = (int(i) for w in ("dog", "Ġdog") if (i := tokenizer.token_to_id(w)) and lm.subwords.begins(i))
    model.get_output_embeddings().bias.data[dog] = 100.0
    shown = window("\n" + " cat sat on the mat and the dog ran" * 20, 1.0)
    assert len(shown) > 3 * lm.limit == 3 * tiny_mlm.LIMIT
    repairer = MaskedLMRepairer(lm, CODEC, spacing=0)
    assert written(repairer.propose([shown]), shown) == "\n" + " dog" * 180
    assert repairer.counts == BridgeCounts(single=160, unchanged=20, impossible_position=1)


def test_positions_of_roberta_begin_behind_its_padding_index() -> None:
    assert tiny_mlm.masked_lm("roberta").limit == tiny_mlm.LIMIT
    assert tiny_mlm.masked_lm("bert", longest=20).limit == 20


# ---- when nothing is asked, nothing is computed ------------------------------------------------------


@EVERY
def test_nothing_hot_costs_no_forward_pass(name: str) -> None:
    model, tokenizer = tiny_mlm.ARCHITECTURES[name](0)
    repairer = MaskedLMRepairer(MaskedLM(model, tokenizer, tiny_mlm.mask_id(tokenizer)), CODEC)

    def forbidden(*_: Any) -> None:
        raise AssertionError("a forward pass")

    model.base_model.register_forward_pre_hook(forbidden)
    empty = RepairWindow.of([], [])
    assert repairer.propose([]) == ()
    assert repairer.propose([empty, window("the cat", 0.0), window("a dog", 0.3, doomed=())]) == ()
    assert repairer.propose([window("the cat", 0.0, doomed=(0, 1))]) == ()
    assert repairer.propose([window("\n\n \n", 1.0)]) == ()
    with pytest.raises(AssertionError, match="forward pass"):
        repairer.propose([window("the cat", 1.0)])


@EVERY
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_a_fault(name: str, poison: float) -> None:
    model, tokenizer = tiny_mlm.ARCHITECTURES[name](0)
    lm = MaskedLM(model, tokenizer, tiny_mlm.mask_id(tokenizer))
    model.get_output_embeddings().bias.data[5] = poison
    with pytest.raises(EngineFault, match="not finite"):
        MaskedLMRepairer(lm, CODEC).propose([window("the cat sat", 1.0)])


def test_a_model_broken_from_the_start_is_refused() -> None:
    model, tokenizer = tiny_mlm.bert()
    model.get_output_embeddings().bias.data[5] = float("nan")
    with pytest.raises(ModelCorrupt, match="not finite"):
        MaskedLM(model, tokenizer, tiny_mlm.mask_id(tokenizer))


def test_a_model_that_reads_embeddings_otherwise_than_ids_is_refused() -> None:
    model, tokenizer = tiny_mlm.bert()
    model.cls = torch.nn.Sequential(model.cls)
    head = model.cls[0]
    model.cls.forward = lambda hidden: head(hidden) * (1 + hidden.ndim)
    with pytest.raises(ModelUnsupported, match="logits differ"):
        MaskedLM(model, tokenizer, tiny_mlm.mask_id(tokenizer))


# ---- what is asked -----------------------------------------------------------------------------------


def test_soft_mode_shows_heat_and_asks_from_the_cutoff_on() -> None:
    model, repairer = scripted("dog", cutoff=0.5)
    shown = window("the cat sat on the mat", [0.0, 0.5, 0.25, 0.125, 0.75, 0.0])
    proposals = repairer.propose([shown])
    (seen,) = model.rows
    assert seen.heat.tolist() == [0.0, 0.5, 0.25, 0.125, 0.75, 0.0]
    assert seen.at.tolist() == [1, 4]
    assert written(proposals, shown) == "the dog sat on dog mat"


def test_hard_mode_masks_what_it_asks_and_shows_the_rest_clean() -> None:
    model, repairer = scripted("dog", cutoff=0.5, hard=True)
    repairer.propose([window("the cat sat on the mat", [0.0, 0.5, 0.25, 0.125, 0.75, 0.0])])
    assert model.read(0) == ["the", "<cat>", "sat", "on", "<the>", "mat"]
    assert model.rows[0].heat.tolist() == [0, 1, 0, 0, 1, 0]


def test_a_cutoff_above_one_asks_about_the_doomed_alone() -> None:
    model, repairer = scripted("dog", cutoff=2.0)
    repairer.propose([window("the cat sat on", [0.5, 1.0, 0.5, 0.5], doomed=[1])])
    (seen,) = model.rows
    assert seen.heat.tolist() == [0.5, 1.0, 0.5, 0.5]
    assert seen.at.tolist() == [1]


def test_an_mlm_token_is_as_cold_as_its_coldest_host_token() -> None:
    """`lovely` is two host tokens: the locked half keeps the whole word clean."""
    model, repairer = scripted("dog", "big")
    heat = [0.9, 0.9, 0.0, 0.9]
    repairer.propose([window("the lovely cat", heat)])
    assert model.rows[0].heat.tolist() == pytest.approx([0.9, 0.0, 0.9])
    assert repairer.counts.impossible_position == 1


def test_holes_of_one_pass_stand_apart_and_those_that_wait_are_shown_as_they_are() -> None:
    model, repairer = scripted("dog", spacing=1, hard=True)
    shown = window("the cat sat on the mat", [0.8, 0.9, 0.7, 0.0, 0.6, 0.6])
    assert written(repairer.propose([shown]), shown) == "the dog sat on dog mat"
    assert model.read(0) == ["the", "<cat>", "sat", "on", "<the>", "mat"]
    assert repairer.counts.waiting == 3


def test_a_second_pass_asks_what_had_to_wait_and_sees_the_first_ones_answers() -> None:
    model, repairer = scripted("dog", spacing=1, hard=True, passes=2)
    shown = window("the cat sat on the mat", [0.8, 0.9, 0.7, 0.0, 0.6, 0.6])
    assert written(repairer.propose([shown]), shown) == "dog dog dog on dog dog"
    assert model.read(1) == ["<the>", "dog", "<sat>", "on", "dog", "<mat>"]
    assert repairer.counts.waiting == 0


def test_later_passes_ask_the_least_sure_again_with_the_others_in_place() -> None:
    class Unsure(ScriptedLM):
        def _guess(self, shown: Row, top: int) -> Guess:
            guess = super()._guess(shown, top)
            sure = -0.5 - 0.25 * (shown.at % 3)
            return Guess(guess.ids, sure[:, None].astype(np.float32), guess.old)

    model = Unsure("dog")
    repairer = MaskedLMRepairer(model, CODEC, spacing=0, passes=2)  # type: ignore[arg-type]
    repairer.propose([window("the cat sat on", 0.75)])
    assert model.read(0) == ["<the>", "<cat>", "<sat>", "<on>"]
    assert model.rows[0].heat.tolist() == [0.75] * 4
    assert model.read(1) == ["dog", "<cat>", "<sat>", "dog"]
    assert model.rows[1].heat.tolist() == [0, 1, 1, 0]
    assert repairer.counts == BridgeCounts(single=4)


def test_an_answer_that_cannot_be_written_is_not_shown_to_later_passes() -> None:
    model, repairer = scripted("[UNK]", spacing=1, hard=True, passes=2)
    assert repairer.propose([window("the cat sat", [0.8, 0.9, 0.8])]) == ()
    assert model.read(1) == ["<the>", "cat", "<sat>"]
    assert repairer.counts == BridgeCounts(impossible_prediction=3)


# ---- doomed runs, words of several tokens, and gains -------------------------------------------------


def test_a_doomed_run_is_one_mask_and_loses_at_least_a_token() -> None:
    model, repairer = scripted("dog", best=-1.0, old=-3.0)
    shown = window("the big red cat sat on", 0.2, doomed=[1, 2, 3])
    (proposal,) = repairer.propose([shown])
    assert model.read(0)[:4] == ["<the>", "<big>", "<sat>", "<on>"]
    assert model.rows[0].heat.tolist() == pytest.approx([0.2, 1.0, 0.2, 0.2])
    assert model.rows[0].at.tolist() == [1]
    assert model.rows[1].heat.tolist() == pytest.approx([0.2, 1, 1, 1, 0.2, 0.2])
    assert model.rows[1].at.tolist() == [1, 2, 3]
    assert written([proposal], shown) == "the dog sat on"
    assert proposal.gain == pytest.approx(3 * -1.0 - 3 * -3.0)
    assert repairer.counts == BridgeCounts(multi=1, doomed=1)


def test_a_doomed_token_alone_is_substituted_whatever_the_cutoff() -> None:
    model, repairer = scripted("dog")
    shown = window("the cat sat", 0.1, doomed=[1])
    (proposal,) = repairer.propose([shown])
    assert written([proposal], shown) == "the dog sat"
    assert len(model.rows) == 1
    assert proposal.gain == pytest.approx(2.0)


def test_the_doomed_are_asked_before_their_neighbours() -> None:
    model, repairer = scripted("dog", spacing=1)
    shown = window("the cat sat", [0.9, 0.1, 0.9], doomed=[1])
    assert written(repairer.propose([shown]), shown) == "the dog sat"
    assert model.rows[0].heat.tolist() == [0, 1, 0]
    assert repairer.counts == BridgeCounts(single=1, doomed=1, waiting=2)


def test_doomed_tokens_can_be_asked_about_like_any_other() -> None:
    model, repairer = scripted("dog", join_doomed=False, spacing=0)
    shown = window("the big red cat", [0.0, 0.9, 0.9, 0.1], doomed=[1, 2, 3])
    assert written(repairer.propose([shown]), shown) == "the dog dog cat"
    assert len(model.rows) == 1
    assert repairer.counts == BridgeCounts(single=2)


def test_a_word_of_several_tokens_is_asked_about_as_one_unless_told_otherwise() -> None:
    shown = window("the old garden was", [0, 0, 0.9, 0])
    model, repairer = scripted("house", best=-1.0, old=-2.5)
    (proposal,) = repairer.propose([shown])
    assert model.read(0) == ["the", "old", "<gar>", "was"]
    assert model.read(1) == ["the", "old", "<gar>", "<##den>", "was"]
    assert written([proposal], shown) == "the old house was"
    assert proposal.gain == pytest.approx(2 * -1.0 - 2 * -2.5)
    model, repairer = scripted("house", join_words=False)
    assert repairer.propose([shown]) == ()
    assert model.read(0) == ["the", "old", "<gar>", "<##den>", "was"]
    assert repairer.counts == BridgeCounts(impossible_prediction=1)


def test_an_answer_without_a_gain_is_none() -> None:
    _, repairer = scripted("dog", best=-3.0, old=-3.0)
    assert repairer.propose([window("the cat", [0, 1.0])]) == ()
    assert repairer.counts == BridgeCounts(no_gain=1)


def test_choices_are_offered_side_by_side_down_to_what_stands_there() -> None:
    _, repairer = scripted("dog", "[UNK]", "mat", "red", best=-1.0, old=-3.5, choices=4)
    proposals = repairer.propose([window("the cat sat", [0, 1.0, 0])])
    assert [(spell(CODEC, p.new_ids.tolist()), p.gain) for p in proposals] == [(" dog", 2.5), (" mat", 0.5)]
    assert repairer.counts == BridgeCounts(single=2, impossible_prediction=1, no_gain=1)


def test_the_same_word_is_no_proposal() -> None:
    _, repairer = scripted("cat", spacing=0)
    assert repairer.propose([window("the Cat\ncat sat", [0, 1.0, 0, 1.0, 0])]) == ()
    assert repairer.counts == BridgeCounts(unchanged=2)


def test_control_tokens_are_never_asked_about() -> None:
    _, repairer = scripted("dog")
    start = min(CODEC.control_ids)
    shown = RepairWindow.of([start, *host("the cat")], [1.0, 0.0, 1.0], doomed=np.array([True, False, False]))
    (proposal,) = repairer.propose([shown])
    assert proposal.uid.tolist() == [2]
    assert repairer.counts.impossible_position == 1


@EVERY
def test_a_real_gain_is_the_difference_of_the_models_own_log_probabilities(name: str) -> None:
    """Against the stock model, its mask token in the place of the word."""
    model, tokenizer = tiny_mlm.ARCHITECTURES[name](1)
    lm = MaskedLM(model, tokenizer, tiny_mlm.mask_id(tokenizer))
    repairer = MaskedLMRepairer(lm, CODEC, hard=True)
    found = 0
    text = "the cat sat on the mat and the dog ran in the house"
    for n in range(1, len(host(text))):
        shown = window(text, np.eye(len(host(text)))[n])
        for proposal in repairer.propose([shown]):
            ids, _ = lm.subwords.encode(text)
            masked = [*lm.subwords.opening, *ids, *lm.subwords.closing]
            masked[n + len(lm.subwords.opening)] = lm.subwords.mask_id
            log_p = model(input_ids=torch.tensor([masked])).logits[0, n + len(lm.subwords.opening)]
            log_p = log_p.log_softmax(-1)
            assert proposal.gain == pytest.approx(float(log_p.max() - log_p[ids[n]]), abs=1e-4)
            said = spell(CODEC, proposal.new_ids.tolist())
            assert said.strip() == (tokenizer.decode([int(log_p.argmax())])).strip()
            found += 1
    assert found


@EVERY
def test_a_proposal_does_not_depend_on_the_order_of_windows(name: str) -> None:
    repairer = MaskedLMRepairer(tiny_mlm.masked_lm(name), CODEC, noise=0.3, passes=2)
    shown = [window(t, 0.8, uid=100 * n) for n, t in enumerate(("the cat sat on", "she ran", tiny_mlm.TEXT))]
    forth, back = repairer.propose(shown), repairer.propose(shown[::-1])
    assert {(*p.uid.tolist(), -1, *p.new_ids.tolist()) for p in forth} == {
        (*p.uid.tolist(), -1, *p.new_ids.tolist()) for p in back
    }
    assert forth


def test_counts_grow_from_call_to_call() -> None:
    _, repairer = scripted("dog")
    for n in (1, 2):
        repairer.propose([window("the cat", [0, 1.0])])
        assert repairer.counts == BridgeCounts(single=n)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cutoff": float("nan")},
        {"cutoff": -0.1},
        {"noise": float("inf")},
        {"noise": -1.0},
        {"seed": -1},
        {"passes": 0},
        {"spacing": -1},
        {"choices": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="masked LM"):
        scripted("dog", **wrong)


# ---- loading -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mlm.save(tmp_path_factory.mktemp("mlm"))


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@EVERY
def test_a_saved_model_loads_and_says_the_same(name: str, tmp_path: Path) -> None:
    loaded, made = load(tiny_mlm.save(tmp_path, name), device="cpu"), tiny_mlm.masked_lm(name)
    ids, _ = made.subwords.encode("the lovely cat sat on the mat")
    assert np.array_equal(loaded.subwords.encode("the lovely cat sat on the mat")[0], ids)
    assert loaded.limit == made.limit
    assert loaded.subwords.mask_id == made.subwords.mask_id
    for ours, theirs in zip(loaded.predict([row(ids, 0.5)]), made.predict([row(ids, 0.5)]), strict=True):
        np.testing.assert_allclose(ours.nats, theirs.nats, atol=1e-6)
    assert loaded.architecture == type(tiny_mlm.ARCHITECTURES[name](0)[0]).__name__


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _truncated(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _without_mask(folder: Path) -> None:
    told = json.loads((folder / "tokenizer.json").read_text())
    told["added_tokens"] = [t for t in told["added_tokens"] if t["content"] != "[MASK]"]
    (folder / "tokenizer.json").write_text(json.dumps(told))


def _headless(folder: Path) -> None:
    model, _ = tiny_mlm.bert()
    BertModel(model.config, add_pooling_layer=False).save_pretrained(folder)


def _causal(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=200, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)


REFUSED: dict[str, tuple[Callable[[Path], Any], type[ModelError], str]] = {
    "no folder": (shutil.rmtree, ModelNotFound, "no such folder"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ModelNotFound, "safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), ModelNotFound, "config.json is missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ModelNotFound, "tokenizer.json is missing"),
    "pickle": (_pickled, ModelUnsafe, "pickle"),
    "code": (
        lambda f: _change(f / "config.json", auto_map={"AutoModelForMaskedLM": "evil.Model"}),
        ModelUnsafe,
        "auto_map",
    ),
    "code of the tokenizer": (
        lambda f: _change(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}),
        ModelUnsafe,
        "auto_map",
    ),
    "code from the hub": (
        lambda f: _change(f / "config.json", attn_implementation="someone/kernels"),
        ModelUnsafe,
        "code from the hub",
    ),
    "broken config": (lambda f: (f / "config.json").write_text("{"), ModelCorrupt, "unreadable JSON"),
    "config that is a list": (lambda f: (f / "config.json").write_text("[]"), ModelCorrupt, "JSON object"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), ModelCorrupt, "cannot be loaded"),
    "half a download": (_truncated, ModelCorrupt, "unreadable weights"),
    "another shape": (lambda f: _change(f / "config.json", hidden_size=16), ModelCorrupt, "shape"),
    "too few embeddings": (
        lambda f: _change(f / "config.json", vocab_size=50),
        ModelCorrupt,
        "shape|no row",
    ),
    "no mask token": (_without_mask, ModelUnsupported, "no mask token"),
    "an encoder without a head": (_headless, ModelUnsupported, "weights missing"),
    "a causal model": (_causal, ModelUnsupported, "not a masked LM"),
    "a decoder": (lambda f: _change(f / "config.json", is_decoder=True), ModelUnsupported, "one direction"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_what_cannot_be_used_is_refused_with_the_reason(folder: Path, what: str) -> None:
    spoil, error, reason = REFUSED[what]
    spoil(folder)
    with pytest.raises(error, match=reason):
        load(folder, device="cpu")


def test_a_tokenizer_larger_than_the_embeddings_is_refused() -> None:
    model, _ = tiny_mlm.bert()
    with pytest.raises(ModelCorrupt, match="no row"):
        MaskedLM(model, tiny_mlm.roberta_tokenizer(), 4)


def test_an_unknown_device_or_dtype_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="device"):
        load(tmp_path, device="abacus")
    with pytest.raises(InvalidInput, match="dtype"):
        load(tmp_path, device="cpu", dtype="int3")


def test_a_loaded_model_computes_in_the_dtype_asked_for(pristine: Path) -> None:
    lm = load(pristine, device="cpu", dtype="bfloat16")
    proposals = MaskedLMRepairer(lm, CODEC, noise=0.1).propose([window(tiny_mlm.TEXT, 0.9)])
    assert lm._words.weight.dtype is torch.bfloat16
    assert all(np.isfinite(p.gain) for p in proposals)
