# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Blocks and masks: nothing lost, nothing leaked, whole words hidden, and all of it from (seed, step)."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tiny_bert
from hypothesis import given
from hypothesis import strategies as st

from haloweave.corpus import Document
from haloweave.errors import InvalidInput
from haloweave.repair.mlm.blocks import Streams, framed, order, pieces, rank, step_blocks, streams
from haloweave.repair.mlm.masking import Masking, Vocabulary
from haloweave.repair.mlm.recipe import Recipe

MASK, SPECIAL = 4, frozenset(range(5))
CONTINUES = np.array([word.startswith("##") for word in tiny_bert.VOCABULARY])
WORDS = Vocabulary(len(CONTINUES), MASK, (2,), (3,), SPECIAL, CONTINUES)
BARE = Vocabulary(0x110000, 0, (), (), frozenset(), np.zeros(1, np.bool_))


def characters(texts: object) -> list[list[int]]:
    """A code point for a token: what a block holds can be read."""
    return [[ord(c) for c in text] for text in texts]  # type: ignore[attr-defined]


def read(texts: list[str], least: int = 0) -> Streams:
    return streams([Document(Path(f"{i}"), text) for i, text in enumerate(texts)], characters, least)


def spelled(ids: np.ndarray) -> str:
    return "".join(map(chr, ids))


# ---- pieces and what is held out ---------------------------------------------------------------------


@given(
    parts=st.lists(
        st.tuples(st.sampled_from(["a", "b ", "word\n", "\n"]), st.integers(1, 30_000)), max_size=6
    )
)
def test_pieces_are_the_text_and_some_pages_long(parts: list[tuple[str, int]]) -> None:
    text = "".join(part * count for part, count in parts)
    cut = pieces(text)
    assert "".join(cut) == text
    assert all(20_000 <= len(piece) <= 40_001 for piece in cut[:-1])


def test_pieces_end_at_lines_then_at_words() -> None:
    lines = pieces(("x" * 99 + "\n") * 1000)
    assert all(piece.startswith("\n") for piece in lines[1:])
    words = pieces("word " * 40_000)
    assert all(piece.startswith(" word") for piece in words[1:])
    assert len(pieces("x" * 1_000_000)) == 49, "a megabyte without a single space"
    assert pieces("") == []


def test_what_is_held_out_is_never_trained_on() -> None:
    texts = [f"document {i} of many, all of them short; " for i in range(3000)]
    found = read(texts)
    train, held = spelled(found.train), spelled(found.held_out)
    out = [text for text in texts if rank(text) % 100 == 0]
    assert 10 < len(out) < 60
    assert held == "".join(out)
    assert train == "".join(text for text in texts if rank(text) % 100)
    assert not any(text in train for text in out)


def test_what_is_held_out_depends_on_content_alone() -> None:
    texts = [f"document {i}; " for i in range(2000)]
    once, again = read(texts), read([*texts[::-1], *(f"another {i}; " for i in range(500))])
    assert set(spelled(once.held_out).split("; ")) <= set(spelled(again.held_out).split("; "))


@given(count=st.integers(2, 40), least=st.integers(1, 60), copies=st.integers(1, 3))
def test_a_small_text_holds_out_enough_and_no_twin_of_it_is_trained_on(
    count: int, least: int, copies: int
) -> None:
    texts = [f"<{i}>" for i in range(count)] * copies
    found = read(texts, least)
    train, held = spelled(found.train), spelled(found.held_out)
    assert len(held) >= min(least, len(train + held))
    assert not any(f"{part}>" in train for part in held.split(">") if part)
    assert sorted(train + held) == sorted("".join(texts))


def test_nothing_to_read_gives_nothing() -> None:
    found = read(["", ""], 10)
    assert len(found.train) == len(found.held_out) == 0
    assert framed(found.train, WORDS, 16).shape == (0, 16)


def test_half_a_character_is_no_stumbling_block() -> None:
    assert rank("a\ud83d") != rank("a")


# ---- blocks ------------------------------------------------------------------------------------------


def test_blocks_are_framed_and_in_order() -> None:
    found = framed(np.arange(10, 33, dtype=np.int32), WORDS, 8)
    assert found.dtype == np.int32
    assert found.tolist() == [[2, *range(10, 16), 3], [2, *range(16, 22), 3], [2, *range(22, 28), 3]]
    with pytest.raises(InvalidInput, match="at least 3"):
        framed(np.arange(9, dtype=np.int32), WORDS, 2)


@given(
    seed=st.integers(0, 2**32 - 1),
    step=st.integers(0, 300),
    batch=st.integers(1, 9),
    count=st.integers(1, 20),
)
def test_a_step_reads_the_next_of_an_endless_row_of_epochs(
    seed: int, step: int, batch: int, count: int
) -> None:
    endless = itertools.chain.from_iterable(order(seed, epoch, count) for epoch in itertools.count())
    expected = list(itertools.islice(endless, step * batch, (step + 1) * batch))
    assert step_blocks(seed, step, batch, count).tolist() == expected


def test_each_epoch_reads_every_block_once_and_in_its_own_order() -> None:
    first, second = order(7, 0, 50), order(7, 1, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()
    assert order(8, 0, 50).tolist() != first.tolist()
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


# ---- masks -------------------------------------------------------------------------------------------


def rows(sentences: int) -> np.ndarray:
    ids = tiny_bert.tokenizer().encode(tiny_bert.toy_text(sentences), add_special_tokens=False).ids
    return framed(np.array(ids, np.int32), WORDS, 32)


def rng(step: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[0, step]))


def in_words(row: np.ndarray) -> list[list[int]]:
    """Positions of each word, read off the text by hand."""
    found: list[list[int]] = []
    for i, token in enumerate(row):
        if token in SPECIAL:
            continue
        if CONTINUES[token] and found and found[-1][-1] == i - 1:
            found[-1].append(i)
        else:
            found.append([i])
    return found


@pytest.mark.parametrize("masking", [Masking(), Masking(rate=0.15, random=0, soft=0)])
def test_words_are_hidden_whole_and_at_about_the_rate(masking: Masking) -> None:
    there = rows(800)
    batch = masking.batch(there, WORDS, rng())
    picked = batch.target >= 0
    words = [(r, word) for r, row in enumerate(there) for word in in_words(row)]
    assert any(len(word) > 1 for _, word in words)
    hidden = [picked[r, word].all() for r, word in words]
    assert [picked[r, word].any() for r, word in words] == hidden, "all pieces of a word or none"
    assert np.mean(hidden) == pytest.approx(masking.rate, rel=0.1)
    assert (batch.target[picked] == there[picked]).all()
    assert not picked[np.isin(there, list(SPECIAL))].any()


def test_the_three_ways_of_hiding() -> None:
    there = rows(2000)
    batch = Masking(rate=0.5, random=0.2, soft=0.3).batch(there, WORDS, rng())
    picked = batch.target >= 0
    masked, soft = batch.heat == 1, (batch.heat > 0) & (batch.heat < 1)
    assert (batch.ids[masked] == MASK).all()
    assert (batch.ids[~masked & ~picked] == there[~masked & ~picked]).all(), "what is not hidden is untouched"
    assert (batch.ids[soft] == there[soft]).all(), "a soft mask keeps the word and mixes embeddings"
    assert 0.3 <= batch.heat[soft].min() < batch.heat[soft].max() <= 0.9
    assert not batch.heat[~picked].any()
    random = picked & ~masked & ~soft
    shares = [part.sum() / picked.sum() for part in (random, soft, masked)]
    assert shares == pytest.approx([0.2, 0.3, 0.5], abs=0.03)
    assert (batch.ids[random] != there[random]).mean() > 0.9


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    there = rows(60)
    once, again, other = (Masking().batch(there, WORDS, rng(step)) for step in (5, 5, 6))
    for name in ("ids", "heat", "target"):
        assert (getattr(once, name) == getattr(again, name)).all()
    assert (once.target != other.target).any()


@given(step=st.integers(0, 500))
def test_something_is_hidden_wherever_there_is_a_word(step: int) -> None:
    row = np.array([[2, 1, 30, CONTINUES.argmax(), 1, 3]], np.int32)
    batch = Masking(rate=0.001).batch(row, WORDS, rng(step))
    assert (batch.target[0] >= 0).tolist() == [False, False, True, True, False, False]


def test_a_block_without_words_is_left_alone() -> None:
    row = np.array([[2, 1, 1, 3]], np.int32)
    batch = Masking(rate=1.0).batch(row, WORDS, rng())
    assert (batch.ids == row).all()
    assert (batch.target < 0).all()


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"rate": 1.1}, {"random": 0.6, "soft": 0.5}, {"soft": -0.1}]
)
def test_masking_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        Masking(**wrong)


# ---- recipe ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"phases": ((0.7, 64), (0.2, 128))}, "sum to 1"),
        ({"phases": ((1.5, 64), (-0.5, 128))}, "sum to 1"),
        ({"phases": ()}, "sum to 1"),
        ({"phases": ((1.0, 8192),)}, "blocks <= batch"),
        ({"tokens": 4095}, "give more tokens"),
        ({"rate": 0.0}, "rate in"),
        ({"rate": float("nan")}, "rate in"),
        ({"warmup": 1.0}, "warm-up"),
        ({"seed": -1}, "seed"),
        ({"checkpoint_every": 0}, "checkpoints"),
    ],
)
def test_recipes_that_cannot_be(wrong: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_the_course_of_a_run() -> None:
    recipe = Recipe(tokens=4096 * 100)
    assert [recipe.length(step) for step in (0, 69, 70, 99)] == [64, 64, 128, 128]
    rates = [recipe.learning_rate(step) for step in range(recipe.steps)]
    assert max(rates) == pytest.approx(recipe.rate)
    assert rates.index(max(rates)) == 2
    assert 0 < rates[-1] < 0.02 * recipe.rate
    one = Recipe(tokens=4096)
    assert (one.steps, one.learning_rate(0)) == (1, one.rate)


def test_least_is_about_all_lengths_at_once() -> None:
    """What is held out must not depend on the length, or one length would be trained on another's pages."""
    found = read([f"<{i}>" for i in range(50)], 30)
    short, long = (framed(found.held_out, BARE, length) for length in (10, 30))
    assert len(long) >= 1
    assert spelled(short.ravel()).startswith(spelled(long.ravel()))
