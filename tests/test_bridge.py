# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The way between two vocabularies: offsets, holes, and answers that are taken only if they fit in place."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import tiny_mlm
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from haloweave.errors import ModelUnsupported
from haloweave.repair.masked.align import Alignment
from haloweave.repair.masked.bridge import Bridge, BridgeCounts, Crossing, Hole, Outcome
from haloweave.repair.masked.subwords import Subwords
from haloweave.repair.masked.wording import cased, fits, opens_sentence
from haloweave.text import Codec, spell

CODEC = tiny_mlm.host_codec()
METASPACE = tiny_mlm.metaspace_codec()
TOKENIZERS = {
    "wordpiece": tiny_mlm.wordpiece(),
    "roberta": tiny_mlm.roberta_tokenizer(),
    "modernbert": tiny_mlm.modernbert_tokenizer(),
    "sentencepiece": tiny_mlm.sentencepiece(),
}
SUBWORDS = {name: Subwords(t, tiny_mlm.mask_id(t)) for name, t in TOKENIZERS.items()}
BRIDGES = {name: Bridge(CODEC, s) for name, s in SUBWORDS.items()}
START = min(CODEC.control_ids)


def host(text: str) -> np.ndarray:
    return np.array(CODEC.encode([text])[0], np.int32)


def mlm(name: str, *tokens: str) -> list[int]:
    ids = [TOKENIZERS[name].token_to_id(t) for t in tokens]
    assert None not in ids
    return ids


def at(alignment: Alignment, text: str) -> int:
    """Index of the host token with this text."""
    return [p.decode("utf-8", "replace") for p in alignment.pieces].index(text)


def hole(name: str, text: str, token: str, *, join_words: bool = True) -> tuple[Alignment, Hole]:
    """The hole that asking about one token of a text makes; there must be exactly one."""
    bridge = Bridge(CODEC, SUBWORDS[name], join_words=join_words)
    alignment = bridge.align(host(text))
    asked = np.zeros(len(alignment), np.bool_)
    asked[at(alignment, token)] = True
    (found,), _ = bridge.holes(alignment, asked, np.zeros_like(asked))
    return alignment, found


def crossed(name: str, text: str, token: str, *predicted: str, join_words: bool = True) -> Crossing:
    """What becomes of a prediction for one token of a text."""
    alignment, found = hole(name, text, token, join_words=join_words)
    return BRIDGES[name].cross(alignment, found, mlm(name, *predicted))


def asked_all(name: str, text: str) -> tuple[Alignment, tuple[Hole, ...], BridgeCounts]:
    alignment = BRIDGES[name].align(host(text))
    every = np.ones(len(alignment), np.bool_)
    return alignment, *BRIDGES[name].holes(alignment, every, ~every)


# ---- what can be asked -------------------------------------------------------------------------------


def test_words_of_one_token_on_both_sides_are_holes_of_one() -> None:
    alignment, holes, counts = asked_all("wordpiece", "the cat sat on the mat")
    assert [(h.host.start, h.host.stop, h.mlm.start, h.masks) for h in holes] == [
        (n, n + 1, n, 1) for n in range(6)
    ]
    assert [alignment.text[h.start : h.stop] for h in holes] == ["the", "cat", "sat", "on", "the", "mat"]
    assert counts == BridgeCounts()


@pytest.mark.parametrize(("join", "masks"), [(True, 1), (False, 2)])
def test_one_host_token_that_is_a_word_of_two(join: bool, masks: int) -> None:
    _, found = hole("wordpiece", "the old garden", " garden", join_words=join)
    assert (found.width, found.masks, found.room) == (2, masks, 1)
    assert found.joined is join


def test_two_host_tokens_that_share_one_are_asked_about_together_or_not_at_all() -> None:
    alignment = BRIDGES["wordpiece"].align(host("the lovely cat"))
    love = at(alignment, " love")
    both = np.zeros(len(alignment), np.bool_)
    both[love : love + 2] = True
    (found,), counts = BRIDGES["wordpiece"].holes(alignment, both, ~both & False)
    assert (found.host, found.masks, found.room) == (slice(love, love + 2), 1, 2)
    assert counts.impossible_position == 0
    half = both.copy()
    half[love] = False
    assert BRIDGES["wordpiece"].holes(alignment, half, ~both & False) == (
        (),
        BridgeCounts(impossible_position=1),
    )


def test_marks_stay_as_many_masks_as_they_are_tokens() -> None:
    text = 'the cat."'
    alignment, holes, _ = asked_all("wordpiece", text)
    assert alignment.text == text
    assert all(h.masks == h.width for h in holes)


def test_spaces_control_tokens_and_what_the_model_cannot_see_are_impossible() -> None:
    ids = np.array([START, *host("the\n\ncat \U0001f600\0 on")], np.int32)
    alignment = BRIDGES["wordpiece"].align(ids)
    every = np.ones(len(ids), np.bool_)
    holes, counts = BRIDGES["wordpiece"].holes(alignment, every & ~alignment.control, ~every)
    assert [alignment.text[h.start : h.stop] for h in holes] == ["the", "cat", "on"]
    assert counts.impossible_position == len(ids) - 1 - sum(h.host.stop - h.host.start for h in holes)


def test_a_token_of_which_the_model_sees_half_is_impossible() -> None:
    """A joiner that clings to a mark: BERT's normaliser drops it, and a new mark would drop it for good."""
    alignment, holes, counts = asked_all("wordpiece", "the cat!\u200d")
    assert alignment.pieces[-1] == "!\u200d".encode()
    assert [alignment.text[h.start : h.stop] for h in holes] == ["the", "cat"]
    assert counts == BridgeCounts(impossible_position=1)


def test_a_word_that_loses_its_marks_on_the_model_is_impossible() -> None:
    """What the model reads there is another word: some vowels of Devanagari are such marks."""
    _, holes, _ = asked_all("wordpiece", "the lo\u0301vely cat")
    assert [(h.host.start, h.masks) for h in holes] == [(0, 1), (len(host("the lo\u0301vely")), 1)]


def test_a_word_that_is_unknown_to_the_model_is_impossible() -> None:
    """WordPiece gives up on words of more than a hundred letters: no change could be reckoned."""
    text = "the " + "big" * 40 + " cat"
    alignment, holes, _ = asked_all("wordpiece", text)
    assert [alignment.text[h.start : h.stop] for h in holes] == ["the", "cat"]
    doomed = np.ones(len(alignment), np.bool_)
    doomed[0] = False
    assert BRIDGES["wordpiece"].holes(alignment, doomed, doomed)[0] == ()


def test_a_doomed_run_is_one_hole_with_room_for_less() -> None:
    alignment = BRIDGES["wordpiece"].align(host("the big red dog ran on"))
    doomed = np.array([0, 1, 1, 1, 0, 0], np.bool_)
    (found,), counts = BRIDGES["wordpiece"].holes(alignment, doomed, doomed)
    assert (found.host, found.width, found.masks, found.room) == (slice(1, 4), 3, 1, 2)
    assert counts == BridgeCounts(doomed=1)
    alone = np.array([0, 0, 1, 0, 0, 0], np.bool_)
    (found,), _ = BRIDGES["wordpiece"].holes(alignment, alone, alone)
    assert (found.host, found.room) == (slice(2, 3), 1)


def test_a_doomed_run_lets_go_of_half_a_word() -> None:
    """`ly` of `lovely` is doomed, `love` is not: the masked LM has one token for both."""
    alignment = BRIDGES["wordpiece"].align(host("the lovely old cat"))
    doomed = np.zeros(len(alignment), np.bool_)
    ly = at(alignment, "ly")
    doomed[ly : ly + 2] = True
    (found,), counts = BRIDGES["wordpiece"].holes(alignment, doomed, doomed)
    assert found.host == slice(ly + 1, ly + 2)
    assert counts == BridgeCounts(doomed=1, impossible_position=1)


def test_a_doomed_run_lets_go_of_half_a_character() -> None:
    alignment = BRIDGES["wordpiece"].align(host("the \U0001f600 cat sat"))
    doomed = np.zeros(len(alignment), np.bool_)
    doomed[at(alignment, " cat") - 1 : at(alignment, " cat") + 1] = True
    (found,), counts = BRIDGES["wordpiece"].holes(alignment, doomed, doomed)
    assert found.host == slice(at(alignment, " cat"), at(alignment, " cat") + 1)
    assert counts == BridgeCounts(doomed=1, impossible_position=1)


# ---- what is taken -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "token", "predicted", "written"),
    [
        ("the cat sat", " cat", "dog", " dog"),
        ("The cat sat", "The", "a", "A"),
        ("the cat,\r\nAlice ran", "Alice", "she", "She"),
        ("old dog.\n\n the cat", " the", "a", " a"),
        ("and I ran", " I", "he", " he"),
        ("ran. I sat", " I", "he", " He"),
        ("the cat and Alice. on a mat", " a", "alice", " Alice"),
        ("the lovely garden", " garden", "house", " house"),
    ],
)
def test_a_word_takes_over_space_and_casing(text: str, token: str, predicted: str, written: str) -> None:
    crossing = crossed("wordpiece", text, token, predicted)
    assert crossing.outcome is Outcome.SINGLE
    assert spell(CODEC, crossing.new_ids) == written


def test_a_shared_word_shrinks_to_one_host_token() -> None:
    alignment, holes, _ = asked_all("wordpiece", "the lovely cat")
    crossing = BRIDGES["wordpiece"].cross(alignment, holes[1], mlm("wordpiece", "big"))
    assert (crossing.outcome, spell(CODEC, crossing.new_ids)) == (Outcome.MULTI, " big")
    assert len(crossing.new_ids) == 1


def test_answers_of_several_tokens_are_joined() -> None:
    text = "the old garden was"
    taken = crossed("wordpiece", text, " garden", "talk", "##ing", join_words=False)
    assert (taken.outcome, spell(CODEC, taken.new_ids)) == (Outcome.SINGLE, " talking")
    torn = crossed("wordpiece", text, " garden", "talk", "big", join_words=False)
    assert torn == Crossing(Outcome.IMPOSSIBLE_PREDICTION)
    long = crossed("wordpiece", text, " garden", "walk", "##ing", join_words=False)
    assert long == Crossing(Outcome.TOO_LONG)


def test_a_host_token_of_two_words_keeps_the_space_between_them() -> None:
    class Phrases:
        """Whole phrases are tokens."""

        tokens = ("the cat", " sat", " on", "a dog")
        frame, control_ids, end_ids = None, frozenset[int](), frozenset[int]()

        def encode(self, texts: Sequence[str]) -> list[list[int]]:
            return [[self.tokens.index(t) for t in re.findall("|".join(self.tokens), x)] for x in texts]

        def piece(self, token_id: int) -> bytes:
            return self.tokens[token_id].encode()

    bridge = Bridge(Phrases(), SUBWORDS["wordpiece"])
    alignment = bridge.align(np.array([0, 1, 2], np.int32))
    (found,), _ = bridge.holes(alignment, np.array([True, False, False]), np.zeros(3, np.bool_))
    assert (found.host, found.masks) == (slice(0, 1), 2)
    assert bridge.cross(alignment, found, mlm("wordpiece", "a", "dog")) == Crossing(Outcome.SINGLE, (3,))


def test_a_doomed_run_becomes_one_word_between_its_spaces() -> None:
    alignment = BRIDGES["wordpiece"].align(host("The big red dog\n ran"))
    doomed = np.array([p.strip() in (b"The", b"big", b"red", b"dog", b"") for p in alignment.pieces])
    (found,), _ = BRIDGES["wordpiece"].holes(alignment, doomed, doomed)
    crossing = BRIDGES["wordpiece"].cross(alignment, found, mlm("wordpiece", "alice"))
    assert (crossing.outcome, spell(CODEC, crossing.new_ids)) == (Outcome.MULTI, "Alice\n")


@pytest.mark.parametrize("name", ["roberta", "modernbert"])
def test_byte_level_answers_bring_their_own_space_and_casing(name: str) -> None:
    assert spell(CODEC, crossed(name, "the cat sat", " cat", "Ġdog").new_ids) == " dog"
    assert spell(CODEC, crossed(name, "the cat sat", " cat", "ĠAlice").new_ids) == " Alice"
    assert spell(CODEC, crossed(name, "the\ncat sat", "cat", "dog").new_ids) == "dog"
    assert crossed(name, "the cat sat", " cat", "dog").outcome is Outcome.IMPOSSIBLE_PREDICTION
    assert crossed(name, "the\ncat sat", "cat", "Ġdog").outcome is Outcome.IMPOSSIBLE_PREDICTION


def test_sentencepiece_answers_bring_their_own_space() -> None:
    assert spell(CODEC, crossed("sentencepiece", "the cat sat", " cat", "▁dog").new_ids) == " dog"
    assert crossed("sentencepiece", "the cat sat", " cat", "d").outcome is Outcome.IMPOSSIBLE_PREDICTION


@pytest.mark.parametrize(
    ("text", "token", "predicted", "written"),
    [
        ("the cat sat", " cat", "dog", " dog"),
        ("Alice ran", "Alice", "she", "She"),
        ("the cat", "the", "a", "a"),
    ],
)
def test_a_host_whose_spaces_are_letters(text: str, token: str, predicted: str, written: str) -> None:
    bridge = Bridge(METASPACE, SUBWORDS["wordpiece"])
    alignment = bridge.align(np.array(METASPACE.encode([text])[0], np.int32))
    asked = np.arange(len(alignment)) == at(alignment, token)
    (found,), _ = bridge.holes(alignment, asked, ~asked & False)
    crossing = bridge.cross(alignment, found, mlm("wordpiece", predicted))
    assert (crossing.outcome, spell(METASPACE, crossing.new_ids)) == (Outcome.SINGLE, written)


# ---- what is not -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "token", "predicted"),
    [
        ("the cat sat", " cat", "cat"),
        ("the CAT sat", "C", None),
        ("Cat sat", "Cat", "cat"),
        ("the café was", " café", "cafe"),
    ],
)
def test_the_same_but_for_casing_or_accents_is_no_change(
    text: str, token: str, predicted: str | None
) -> None:
    if predicted is None:  # CAT is several host tokens and one MLM token
        alignment, holes, _ = asked_all("wordpiece", text)
        found = next(h for h in holes if alignment.text[h.start : h.stop] == "CAT")
        crossing = BRIDGES["wordpiece"].cross(alignment, found, mlm("wordpiece", "cat"))
    else:
        crossing = crossed("wordpiece", text, token, predicted)
    assert crossing == Crossing(Outcome.UNCHANGED)


def test_a_cased_model_may_not_change_casing_alone() -> None:
    assert crossed("roberta", "the cat sat", " cat", "ĠCat").outcome is Outcome.UNCHANGED


@pytest.mark.parametrize(
    "predicted", ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "##s", "##ing", ",", "!"]
)
def test_what_is_no_word_cannot_stand_for_a_word(predicted: str) -> None:
    assert crossed("wordpiece", "the cat sat", " cat", predicted).outcome is Outcome.IMPOSSIBLE_PREDICTION


def test_a_word_cannot_begin_inside_a_word_nor_stand_for_a_mark() -> None:
    impossible = Outcome.IMPOSSIBLE_PREDICTION
    assert crossed("wordpiece", "she was walking", "ing", "dog").outcome is impossible
    assert crossed("wordpiece", "she was walking", "ing", "##s").outcome is not impossible
    assert crossed("wordpiece", "the cat, the dog", ",", "and").outcome is impossible
    assert crossed("wordpiece", "the cat, the dog", ",", "(").outcome is impossible
    assert spell(CODEC, crossed("wordpiece", "the cat, the dog", ",", ";").new_ids) == ";"


def test_an_id_beyond_the_tokenizer_is_impossible() -> None:
    alignment, found = hole("wordpiece", "the cat sat", " cat")
    beyond = SUBWORDS["wordpiece"].size + 3
    assert BRIDGES["wordpiece"].cross(alignment, found, [beyond]) == Crossing(Outcome.IMPOSSIBLE_PREDICTION)


def test_a_control_token_is_no_mark() -> None:
    assert crossed("roberta", "the < cat", "<", "<s>") == Crossing(Outcome.IMPOSSIBLE_PREDICTION)
    assert crossed("roberta", "the < cat", "<", ">").taken


def test_a_byte_that_is_no_character_is_impossible() -> None:
    (half,) = mlm("roberta", "ð")
    alignment, found = hole("roberta", "the\ncat sat", "cat")
    assert BRIDGES["roberta"].cross(alignment, found, [half]) == Crossing(Outcome.IMPOSSIBLE_PREDICTION)


def test_a_word_that_would_merge_with_its_neighbour_disturbs_it() -> None:
    """`walk` + `ing` are two host tokens, `talking` is one, and `mating` is `matin` + `g`."""
    assert crossed("wordpiece", "she was walking", " walk", "talk").outcome is Outcome.DISTURBS_NEIGHBOURS
    assert crossed("wordpiece", "she was walking", " walk", "mat").outcome is Outcome.DISTURBS_NEIGHBOURS
    assert crossed("wordpiece", "she was walking", " walk", "cat").outcome is Outcome.SINGLE


def test_a_scar_nearby_is_not_held_against_a_replacement() -> None:
    """`c` + `a` + `t` is no encoding of `cat`: the window as a whole does not encode to itself."""
    letters = [i for c in "cat" for i in CODEC.encode([c])[0]]
    ids = np.array([*host("the "), *letters, *host(" sat on the mat")], np.int32)
    bridge = BRIDGES["wordpiece"]
    alignment = bridge.align(ids)
    assert CODEC.encode([alignment.text])[0] != ids.tolist()
    asked = np.arange(len(ids)) == at(alignment, " on")
    (found,), _ = bridge.holes(alignment, asked, ~asked & False)
    crossing = bridge.cross(alignment, found, mlm("wordpiece", "in"))
    assert spell(CODEC, crossing.new_ids) == " in"


def test_broken_bytes_beside_a_word_cannot_be_verified() -> None:
    (orphan,) = CODEC.encode(["\u00e9"])[0][1:]
    ids = np.array([*host("the"), orphan, *host(" cat sat")], np.int32)
    bridge = BRIDGES["wordpiece"]
    alignment = bridge.align(ids)
    asked = np.arange(len(ids)) == at(alignment, " cat")
    (found,), _ = bridge.holes(alignment, asked, ~asked & False)
    assert bridge.cross(alignment, found, mlm("wordpiece", "dog")).outcome is Outcome.DISTURBS_NEIGHBOURS
    asked = np.arange(len(ids)) == at(alignment, " sat")
    (found,), _ = bridge.holes(alignment, asked, ~asked & False)
    assert bridge.cross(alignment, found, mlm("wordpiece", "ran")).outcome is Outcome.SINGLE


def test_a_token_that_ends_a_broken_character_is_no_hole() -> None:
    ids = np.array([*host("the"), *CODEC.encode(["\U0001f600"])[0][:2], *host(" cat sat")], np.int32)
    alignment = BRIDGES["wordpiece"].align(ids)
    every = np.ones(len(ids), np.bool_)
    holes, _ = BRIDGES["wordpiece"].holes(alignment, every, ~every)
    assert [alignment.text[h.start : h.stop] for h in holes] == ["the", "sat"]


def test_control_tokens_end_the_surroundings() -> None:
    ids = np.array([START, *host("the cat"), START, *host("and")], np.int32)
    bridge = BRIDGES["wordpiece"]
    alignment = bridge.align(ids)
    asked = np.arange(len(ids)) == at(alignment, " cat")
    (found,), _ = bridge.holes(alignment, asked, ~asked & False)
    assert spell(CODEC, bridge.cross(alignment, found, mlm("wordpiece", "dog")).new_ids) == " dog"
    asked = np.arange(len(ids)) == at(alignment, "and")
    (found,), _ = bridge.holes(alignment, asked, ~asked & False)
    assert spell(CODEC, bridge.cross(alignment, found, mlm("wordpiece", "but")).new_ids) == "but"
    assert "im_start" not in alignment.text


# ---- text that pretends, and all of Unicode -----------------------------------------------------------

PIECES = st.sampled_from(
    [
        *(
            "the",
            " cat",
            " lovely",
            " garden",
            "Alice",
            " walking",
            " talking",
            " I",
            ",",
            ".",
            '"',
            "!",
            "don't",
        ),
        *(
            "[MASK]",
            "[SEP]",
            "[CLS]",
            "[UNK]",
            "[PAD]",
            "<mask>",
            "</s>",
            "<s>",
            "<unk>",
            "<|im_end|>",
            "##ing",
        ),
        *(" café", "cafe\u0301", " ÉCOLE", "ﬁ", "İ", "ß", "Å"),
        *("\U0001f600", "\U0001f469\u200d\U0001f4bb", "\u200d", "\u0915\u0941", "\u0915\u094d\u0937\u092e"),
        *("\r\n", "\n\n", "\0", "\t", "\u00a0", "\u200f", "\u3000", "中文", "\ufffd", "a\u0300\u0301"),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(PIECES, max_size=14).map("".join),
    st.lists(PIECES, max_size=9).map(" ".join),
)
NAMES = st.sampled_from(sorted(BRIDGES))


@given(TEXTS, NAMES)
@example("[MASK]", "wordpiece")
@example("a <mask></s>", "roberta")
@example("a [MASK][SEP]", "modernbert")
def test_no_text_becomes_a_control_token(text: str, name: str) -> None:
    ids, spans = SUBWORDS[name].encode(text)
    subwords = SUBWORDS[name]
    assert not set(ids.tolist()) & (subwords.special - {subwords.unknown})
    assert ((spans >= 0) & (spans <= len(text))).all()


def test_a_tokenizer_that_splits_nothing_cannot_forge_one_either() -> None:
    """Without rules that split brackets off, the vocabulary itself holds `[MASK]` as a word."""
    careless = tiny_mlm.wordpiece()
    careless.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    careless.normalizer = normalizers.NFC()
    subwords = Subwords(careless, tiny_mlm.mask_id(careless))
    ids, _ = subwords.encode("the [MASK] cat [SEP]")
    unknown = careless.token_to_id("[UNK]")
    assert ids.tolist() == [careless.token_to_id("the"), unknown, careless.token_to_id("cat"), unknown]


def test_a_tokenizer_that_forges_and_has_no_unknown_is_refused() -> None:
    forger = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    forger.decoder = decoders.ByteLevel()
    forger.add_special_tokens([AddedToken("ab", special=True)])
    with pytest.raises(ModelUnsupported, match="control token"):
        Subwords(forger, 2).encode("ab")


def test_a_tokenizer_that_marks_no_words_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"[MASK]": 0, "a": 1}, unk_token="[MASK]"))
    with pytest.raises(ModelUnsupported, match="WordPiece"):
        Subwords(words, 0)


@given(TEXTS, NAMES)
@example("\U0001f469\u200d\U0001f4bb cat", "roberta")
@example("a\r\n\0b", "wordpiece")
def test_every_character_belongs_to_one_host_token_and_blocks_are_in_order(text: str, name: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    alignment = BRIDGES[name].align(host(text))
    assert alignment.text == text
    assert alignment.spans.flatten().tolist() == [
        *itertools.chain.from_iterable(itertools.pairwise([0, *alignment.spans[:, 1].tolist()]))
    ]
    for before, after in itertools.pairwise(alignment.blocks):
        assert before.stop <= after.start
        assert before.host.stop <= after.host.start
        assert before.mlm.stop <= after.mlm.start
    for block in alignment.blocks:
        said = alignment.text[block.start : block.stop]
        assert said == said.strip()
        assert said
        if block.usable:
            spelt = alignment.spell(block.host)
            assert spelt is not None
            assert spelt.strip() == said


@given(TEXTS)
@example("the café cafe\u0301 ÉCOLE")
@example("\u0915\u0941\u0915 lovely")
def test_offsets_stay_right_under_normalisation(text: str) -> None:
    """The MLM tokens of a usable block, joined, are the block's own text, lower-cased and without accents."""
    alignment = BRIDGES["wordpiece"].align(host(text))
    tokenizer = TOKENIZERS["wordpiece"]
    for block in alignment.blocks:
        if block.usable:
            tokens = [tokenizer.id_to_token(int(i)) for i in alignment.mlm_ids[block.mlm]]
            said = tokenizer.normalizer.normalize_str(alignment.text[block.start : block.stop])
            assert "".join(t.removeprefix("##") for t in tokens) == "".join(said.split())


@given(TEXTS, st.sampled_from(["roberta", "modernbert"]))
def test_offsets_of_bytes_stay_right(text: str, name: str) -> None:
    alignment = BRIDGES[name].align(host(text))
    for block in alignment.blocks:
        if block.usable:
            ids = alignment.mlm_ids[block.mlm].tolist()
            assert SUBWORDS[name].spell(ids, [""] * len(ids)) == alignment.text[block.start : block.stop]


@pytest.mark.parametrize("codec", [CODEC, METASPACE], ids=["byte level", "metaspace"])
@given(TEXTS, NAMES, st.booleans(), st.data())
def test_what_is_taken_stands_in_place(
    codec: Codec, text: str, name: str, join: bool, data: st.DataObject
) -> None:
    """Against an independent reading: the text with the words exchanged, encoded whole by the host."""
    bridge = Bridge(codec, SUBWORDS[name], join_words=join)
    ids = np.array(codec.encode([text])[0], np.int32)
    alignment = bridge.align(ids)
    heat = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(ids), max_size=len(ids))), np.int64)
    holes, counts = bridge.holes(alignment, heat > 0, heat > 1)
    reached = sum(h.host.stop - h.host.start for h in holes)
    assert counts.impossible_position == int((heat > 0).sum()) - reached
    words = st.one_of(st.sampled_from(tiny_mlm.COMMON), st.sampled_from(["##s", "##ing", ",", ";", "!"]))
    for found in holes:
        assert (heat[found.host] > 0).all()
        asked = [_any_spelling(name, data.draw(words)) for _ in range(found.masks)]
        crossing = bridge.cross(alignment, found, asked)
        if not crossing.taken:
            assert crossing.new_ids == ()
            continue
        assert 0 < len(crossing.new_ids) <= found.room
        new = [*ids[: found.host.start], *crossing.new_ids, *ids[found.host.stop :]]
        assert new != ids.tolist()
        assert not codec.control_ids.intersection(crossing.new_ids)
        if codec.encode([alignment.text])[0] == ids.tolist():
            assert codec.encode([spell(codec, new)])[0] == new
        first = alignment.spans[found.host.start, 0]
        assert spell(codec, new)[:first] == alignment.text[:first]
        assert spell(codec, new).endswith(alignment.text[found.stop :])


def _any_spelling(name: str, word: str) -> int:
    """A word as the tokenizer writes it, in whichever way it knows."""
    tokenizer = TOKENIZERS[name]
    ways = (word, f"Ġ{word}", f"▁{word}", word.removeprefix("##"), "a")
    return next(int(i) for w in ways if (i := tokenizer.token_to_id(w)) is not None)


# ---- words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "like", "text", "expected"),
    [
        ("dog", "CAT", "CAT", "DOG"),
        ("dog", "Cat", "a Cat", "Dog"),
        ("dog", "cat", "cat", "dog"),
        ("he", "I", "and I", "he"),
        ("he", "I", "I", "He"),
        ("he", "I", 'she said, "I', "He"),
        ("he", "I", 'she said "no" I', "he"),
        ("he", "I", "ran.) I", "He"),
        ("alice", "she", "and Alice ran, she", "Alice"),
        ("alice", "she", "and Alice ran, alice, she", "alice"),
        ("the", "a", "cat. The dog ran on a", "the"),
        ("i", "she", "and she", "I"),
        ("i", "gli", "e i cani e gli", "i"),
        ("élan", "Été", "Été", "Élan"),
        ("12", "Cat", "Cat", "12"),
    ],
)
def test_casing(word: str, like: str, text: str, expected: str) -> None:
    assert cased(word, like, text, text.rindex(like)) == expected


def test_a_sentence_opens_at_the_start_and_after_its_end() -> None:
    assert all(opens_sentence(t, len(t)) for t in ("", "ran. ", "ran?\n", '"', "ran!” "))
    assert not any(opens_sentence(t, len(t)) for t in ("ran ", "ran, ", "the “cat” "))


def test_a_word_may_end_what_a_space_follows() -> None:
    assert fits("dog", "cat,", " ")
    assert fits("dog", "cat,", "")
    assert not fits("dog", "cat-", "b")
    assert not fits("dog,", "cat", " ")


class Rewriting:
    """A host whose tokenizer writes something else than the text says."""

    frame, control_ids, end_ids, piece = None, CODEC.control_ids, CODEC.end_ids, CODEC.piece

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return CODEC.encode([t.replace(self.old, self.new) for t in texts])


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("dog", "cat", Outcome.UNCHANGED),
        ("dog sat on the", "dog sat on a", Outcome.DISTURBS_NEIGHBOURS),
        ("cat sat on the", "cat sat on a", Outcome.SINGLE),
        ("mat", "rug", Outcome.SINGLE),
    ],
)
def test_a_host_that_rewrites_text(old: str, new: str, outcome: Outcome) -> None:
    """A change taken back is none; one that changes a token further away disturbs it; what the old text would
    not have kept either is not held against the new one."""
    bridge = Bridge(Rewriting(old, new), SUBWORDS["wordpiece"])
    alignment = bridge.align(host("the cat sat on the mat"))
    asked = np.arange(6) == 1
    (found,), _ = bridge.holes(alignment, asked, ~asked & False)
    assert bridge.cross(alignment, found, mlm("wordpiece", "dog")).outcome is outcome


def test_the_bridge_loads_no_model_library() -> None:
    code = (
        "import sys, haloweave.repair.masked.bridge, haloweave.repair.masked.draft, haloweave.repair.batch\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_counts_add() -> None:
    some = BridgeCounts(single=1, multi=2, unchanged=3, doomed=4)
    assert some + BridgeCounts.of(Outcome.MULTI) + BridgeCounts(waiting=5) == BridgeCounts(
        single=1, multi=3, unchanged=3, doomed=4, waiting=5
    )
    assert all(BridgeCounts.of(o) != BridgeCounts() for o in Outcome)
