# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The judge reads as the model reads, costs no weights, and disturbs nobody."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, VOCAB

from haloweave.engine.hf.engine import HFEngine
from haloweave.engine.hf.scoring import HostScorer, twin
from haloweave.errors import EngineFault, InvalidInput

OPENING = 1


def ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, VOCAB, count)


@torch.inference_mode()
def plainly(model: torch.nn.Module, text: np.ndarray) -> np.ndarray:
    """Log p of each token after the opening, by one pass of the model itself."""
    tokens = torch.from_numpy(np.concatenate([[OPENING], text]).astype(np.int64))[None]
    logits = model(input_ids=tokens).logits[0, :-1].double()
    found: np.ndarray = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0].numpy()
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reading_and_scoring_give_what_the_model_gives(name: str) -> None:
    model = ARCHITECTURES[name](0)
    scorer = HostScorer(model, opening=OPENING, batch=3)
    text = ids(60)
    expected = plainly(model, text)
    reading = scorer.read(text[:20])
    more = [text[20:], text[20:21], text[20:20], text[20:35], np.concatenate([text[20:24], ids(9, 5)])]
    scores = reading.score(more)
    assert [len(s) for s in scores] == [len(m) for m in more]
    for score, m in zip(scores, more, strict=True):
        same = plainly(model, np.concatenate([text[:20], m]))[20:]
        np.testing.assert_allclose(score, same, atol=2e-4)
    assert reading.rows == 21
    np.testing.assert_allclose(reading.extend(text[20:40]), expected[20:40], atol=2e-4)
    np.testing.assert_allclose(reading.extend(text[40:]), expected[40:], atol=2e-4)
    assert reading.rows == 61
    assert len(reading.extend([])) == 0


def test_the_beginning_of_a_text_is_scored_too() -> None:
    model = ARCHITECTURES["llama"](0)
    text = ids(12)
    reading = HostScorer(model, opening=OPENING).read([])
    np.testing.assert_allclose(reading.extend(text), plainly(model, text), atol=2e-4)
    assert reading.logits.shape == (VOCAB,)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_twin_shares_every_weight_and_changes_nothing(name: str) -> None:
    model = ARCHITECTURES[name](0)
    before = model.config._attn_implementation
    engine = HFEngine(model, capacity=64)
    taken = model.config._attn_implementation
    double = twin(model)
    ours = {n: p.data_ptr() for n, p in double.named_parameters()}
    assert ours == {n: p.data_ptr() for n, p in model.named_parameters()}
    assert not any(t.is_meta for t in [*double.parameters(), *double.buffers()])
    assert (model.config._attn_implementation, double.config._attn_implementation) == (taken, "sdpa")
    assert engine.feed(ids(5)).attention is not None
    assert before != taken


def test_a_judge_may_work_beside_a_living_engine() -> None:
    model = ARCHITECTURES["llama"](0)
    text = ids(40)
    alone = [HFEngine(model, capacity=128).feed(text[:i]).logits for i in (8, 16)]
    scorer = HostScorer(model, opening=OPENING)
    expected = scorer.read(text[:10]).score([text[10:]])[0]
    found: list[np.ndarray] = []

    def judge() -> None:
        for _ in range(20):
            found.append(scorer.read(text[:10]).score([text[10:]])[0])

    thread = threading.Thread(target=judge)
    thread.start()
    for _ in range(20):
        for count, logits in zip((8, 16), alone, strict=True):
            np.testing.assert_array_equal(HFEngine(model, capacity=128).feed(text[:count]).logits, logits)
    thread.join()
    assert len(found) == 20
    assert all(np.array_equal(f, expected) for f in found)


def test_what_cannot_be_read_is_refused_and_nothing_has_changed() -> None:
    scorer = HostScorer(ARCHITECTURES["llama"](0), opening=OPENING, limit=10)
    reading = scorer.read(ids(5))
    with pytest.raises(InvalidInput, match="trained on 10"):
        reading.extend(ids(5))
    with pytest.raises(InvalidInput, match="trained on 10"):
        reading.score([ids(5)])
    with pytest.raises(InvalidInput, match="token ids"):
        reading.extend([VOCAB])
    assert reading.rows == 6
    assert scorer.vocabulary == VOCAB
    assert (scorer.limit, scorer.opening) == (10, OPENING)


def test_numbers_that_are_not_finite_are_an_error() -> None:
    model = ARCHITECTURES["llama"](0)
    model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(EngineFault, match="not finite"):
        HostScorer(model, opening=OPENING).read(ids(3))
