# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What is counted in texts of several languages, by hand and on random text; and the suite on oracles and
fools of which it is known what they do wrong."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import regex
import tiny_denoiser
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from haloweave.diffusion.evaluate import Measures
from haloweave.diffusion.indic import ALL, Rows, suite
from haloweave.diffusion.judging.broken import breakage, broken
from haloweave.diffusion.judging.continuing import continuations, edits, whole_words, words_at
from haloweave.diffusion.judging.held import Held, blocks_of, held_out
from haloweave.diffusion.judging.infill import filled_in, puzzles
from haloweave.diffusion.judging.languages import (
    ENGLISH,
    ROMANISED,
    code_mixing,
    language,
    share_of_scripts,
    word_language,
    word_script,
)
from haloweave.diffusion.judging.mixing import words
from haloweave.diffusion.judging.overlap import RUN, Passages, overlap, spoken
from haloweave.diffusion.judging.rendering import CANDIDATES, Lexicon, questions, rendering
from haloweave.diffusion.judging.scripts import FAR, distance, edited, mix, off_mix, script_of
from haloweave.diffusion.text.clusters import clusters
from haloweave.diffusion.tokenizer import Tokenizer, train_tokenizer
from haloweave.diffusion.unmask import Unmasking

HINDI = "यह एक छोटा घर है और नदी के पास एक बड़ा पेड़ है। बिल्ली पेड़ पर सोती है, क्षत्रिय ने कहा।"
ENGLISH_TEXT = "The cat sat on the mat and it was not happy with what the dog had done to his bed."
HINGLISH = "Mujhe yeh restaurant bahut accha lagta hai, lekin price thoda zyada hai aur parking nahi hai."
MIXED = "React में आप JavaScript के साथ state को manage करते हैं और props को pass करते हैं।"
TEXT = st.text(st.sampled_from("abz घरकि्षी़ंँःअआ\u200c\u200d .1\ufffd◌😀é\u0301"), max_size=40)


# ---- languages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (HINDI, "hindi"),
        (ENGLISH_TEXT, "english"),
        (HINGLISH, "hinglish"),
        (MIXED, "mixed"),
        ("Le chat était assis sur la chaise et le chien dormait dans le jardin.", None),
        ("Нет ничего нового под солнцем", None),
        ("日本語のテキスト", None),
        ("12 + 34 = 46 !!", None),
        ("", None),
    ],
)
def test_a_text_is_in_the_language_that_it_is_written_in(text: str, name: str | None) -> None:
    assert language(text) == name


def test_the_two_closed_lists_share_no_word_and_are_in_small_latin_letters() -> None:
    assert not ROMANISED & ENGLISH
    assert all(word.isascii() and word.isalpha() and word.islower() for word in ROMANISED | ENGLISH)


def test_the_code_mixing_index_by_hand() -> None:
    assert code_mixing("घर है") == 0
    assert code_mixing("hai nahi घर") == 0  # one language in two scripts
    assert code_mixing("घर के पास parking") == pytest.approx(25)
    assert code_mixing("घर parking") == pytest.approx(50)
    assert code_mixing("घर parking 12 ... घरing") == pytest.approx(50)  # of no language: not counted
    assert code_mixing("... 12") == 0
    assert word_language("घरing") is None
    assert [word_language(w) for w in ("Nahi", "house", "घर", "дом")] == ["hindi", "english", "hindi", None]


@given(st.lists(st.sampled_from(["घर", "nahi", "house", "дом", "12"]), max_size=30))
def test_the_index_is_at_most_half_of_two_languages_and_knows_no_order(parts: list[str]) -> None:
    found = code_mixing(" ".join(parts))
    assert 0 <= found <= 50
    assert found == code_mixing(" ".join(reversed(parts)))
    assert found == pytest.approx(code_mixing(" ".join(parts * 2)))


@given(TEXT)
def test_shares_of_scripts_are_shares(text: str) -> None:
    assert share_of_scripts(f"{text} Ⅷ१२३") == share_of_scripts(text)  # numerals are no letters
    hindi, latin = share_of_scripts(text)
    assert 0 <= hindi <= 1
    assert 0 <= latin <= 1
    assert hindi + latin <= 1 + 1e-9


# ---- broken clusters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        HINDI,
        ENGLISH_TEXT,
        MIXED,
        "अर्थात् क्‍या श‍िप चिट्‌ठी ॐ हूँ दुःख ऋषि ज़रूर फ़्फ़ कॉफ़ी स्त्री र‍्य अ़ ऽ",
        "café naïve Ελλάδα e\u0301 👩‍👩‍👧 🇮🇳 👍🏽",
        "தமிழ் కన్నడ ಕನ್ನಡ മലയാളം বাংলা ਪੰਜਾਬੀ ગુજરાતી ශ්‍රී عَرَبِيّ",
        "◌ा \u00a0ि",
    ],
)
def test_what_people_write_has_no_broken_cluster(text: str) -> None:
    assert broken(unicodedata.normalize("NFC", text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "ा",  # nothing before it
        "घर ी",
        "cाt",
        "1ं",
        "काा",
        "के्",
        "कंा",
        "क्ा",
        "डि़",
        "घर\ufffd",
        "क्‍ ",
        "मेंं",
        "अा",
        "aா",
        "xি",
        "घি",
    ],
)
def test_what_nobody_writes_is_one_broken_cluster(text: str) -> None:
    assert len(broken(text)) == 1


def test_breakage_is_per_thousand_clusters_over_texts() -> None:
    found = breakage(["घर " * 10, "ा" + "a" * 29])
    assert found.clusters == sum(1 for text in ("घर " * 10, "ा" + "a" * 29) for _ in clusters(text))
    assert found.broken == 1
    assert found.per_thousand is not None
    assert found.per_thousand.value == pytest.approx(1000 / found.clusters)
    assert breakage(["", ""]).per_thousand is None


@given(TEXT)
def test_a_text_breaks_no_more_when_words_are_added_behind_a_space(text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    assert len(broken(f"{text}. घर है")) == len(broken(f"{text}. "))
    assert len(broken(f"घर {text}")) >= len(broken(text)) - 1  # a mark at the beginning hangs on the space


# ---- scripts --------------------------------------------------------------------------------------------


def test_scripts_of_words_by_hand() -> None:
    found = [script_of(w) for w in ("घर", "house", "घरing", "дом", "12", "", "।", "ि")]
    assert found == ["devanagari", "latin", "mixed", "other", None, None, None, None]


@given(TEXT)
def test_a_word_has_one_script_by_whatever_measure(text: str) -> None:
    for word in text.split():
        own, counted = script_of(word), words([word])
        if own in ("devanagari", "latin", "mixed") and counted.count == 1:
            assert getattr(counted, own) == 1
        hindi, latin = share_of_scripts(word)
        assert (
            word_script(word)
            == {(0, 0): None, (1, 0): "devanagari", (0, 1): "latin", (1, 1): "mixed"}[hindi > 0, latin > 0]
        )


def test_the_distance_of_mixes_by_hand() -> None:
    assert distance("abcd", "घर") == 1
    assert distance("abcd", "wxyz") == 0
    assert distance("abcd", "ab कख") == pytest.approx(0.5)
    assert distance("abcd", "12") == 1
    assert distance("12", "abcd") is None


@given(TEXT, TEXT, TEXT)
def test_the_distance_of_mixes_is_a_distance(a: str, b: str, c: str) -> None:
    if mix(a) and mix(b) and mix(c):
        ab, ba, bc, ac = distance(a, b), distance(b, a), distance(b, c), distance(a, c)
        assert ab is not None
        assert bc is not None
        assert ac is not None
        assert distance(a, a) == 0
        assert ab == pytest.approx(ba)
        assert ac <= ab + bc + 1e-9
        assert 0 <= ab <= 1 + 1e-9


def test_edits_and_texts_off_the_mix_are_counted() -> None:
    found = edited(["घर", "घर", "house", "house"], ["घर", "house", "।", "дом"], [0, 0, 1, 1])
    assert (found.count, found.wordless) == (4, 1)
    assert found.other_script is not None
    assert found.exact is not None
    assert found.other_script.value == pytest.approx(2 / 3)
    assert found.exact.value == pytest.approx(0.25)
    assert edited(["घर", "घर"], [",", ""], [0, 1]).other_script is None
    assert edited([], [], []).other_script is None
    off = off_mix(["abc", "abc", "12", "घर"], ["abd", "घर", "x", ""], [0, 1, 2, 3])
    assert off is not None
    assert off.value == pytest.approx(2 / 3)
    assert off_mix(["12"], ["a"], [0]) is None
    assert 0 < FAR < 1


# ---- overlap --------------------------------------------------------------------------------------------

WORDS = [f"w{i}" for i in range(500)]


def story(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def test_a_passage_is_found_however_it_is_set() -> None:
    there = story(1)
    loud = there.upper().replace(" ", ",\n ")
    found = overlap([loud, story(2)], [story(3), f"{story(4)} {there}"])
    assert (found.documents, found.seen) == (2, 1)
    assert found.most == 1
    assert overlap([story(2)], [there]).seen == 0


def test_it_takes_eight_words_in_a_row() -> None:
    for length, shared in ((RUN - 1, 0), (RUN, RUN), (RUN + 3, RUN + 3)):
        passage = " ".join(f"p{i}" for i in range(length))
        covered = Passages([f"{story(1)} {passage}"]).shared(spoken(f"{story(2)} {passage} {story(3)}"))
        assert int(covered.sum()) == shared


def test_a_passage_with_other_joiners_is_the_same_passage() -> None:
    there = "क्\u200dया चिट्\u200cठी कल ही co\u00adoperate " * 4
    bare = there.replace("\u200d", "").replace("\u200c", "").replace("\u00ad", "")
    assert spoken(there) == spoken(bare)
    assert overlap([there], [bare]).most == 1


@given(st.lists(st.sampled_from("abc"), max_size=40), st.lists(st.sampled_from("abc"), max_size=40))
def test_shared_passages_are_those_that_a_slow_search_finds(one: list[str], other: list[str]) -> None:
    run = 4
    known = {tuple(one[i : i + run]) for i in range(len(one) - run + 1)}
    slow = np.zeros(len(other), bool)
    for i in range(len(other) - run + 1):
        slow[i : i + run] |= tuple(other[i : i + run]) in known
    assert Passages([" ".join(one)], run).shared(other).tolist() == slow.tolist()


# ---- writing on, writing anew ---------------------------------------------------------------------------


def mixed_up(seed: int) -> str:
    """The words of real sentences, thrice, in an order that no other text has."""
    words = (f"{HINDI} {MIXED}" if seed % 2 else f"{ENGLISH_TEXT} {HINGLISH}").split() * 3
    return " ".join(random.Random(seed).sample(words, len(words)))


SENTENCES = [mixed_up(n) for n in range(40)]
WORDY = train_tokenizer(SENTENCES, vocab_size=800)
GREEDY = Unmasking(steps=3, temperature=0.0)


def held_of(texts: Sequence[str], length: int = 48) -> Held:
    rows, documents = blocks_of((WORDY.encode(t) for t in texts), length, pad_id=WORDY.pad_id)
    table = WORDY.bytes_per_token.numpy()
    return held_out(rows, table, WORDY.decode, pad_id=WORDY.pad_id, eos_id=WORDY.eos_id, documents=documents)


class Oracle:
    """Knows the rows by heart, and writes what stood there; `swap` changes what it wants to write."""

    def __init__(
        self, rows: Tensor, swap: dict[int, int] | None = None, tokenizer: Tokenizer = WORDY
    ) -> None:
        self.rows, self.swap, self.tokenizer = rows, swap or {}, tokenizer

    def __call__(self, xt: Tensor, t: Tensor | None) -> Tensor:
        logits = torch.zeros(*xt.shape, self.tokenizer.vocab_size)
        for i, row in enumerate(xt):
            seen = row != self.tokenizer.mask_id
            fits = ((self.rows[:, : len(row)] == row) | ~seen).all(1)
            true = self.rows[int(fits.int().argmax()), : len(row)].tolist()
            wanted = torch.tensor([self.swap.get(x, x) for x in true])
            logits[i, torch.arange(len(row)), wanted] = 50.0
        return logits


def test_an_oracle_writes_on_what_stood_there_from_word_to_word() -> None:
    held = held_of(SENTENCES)
    rows = np.arange(12)
    found = continuations(
        Oracle(held.rows), held, rows, WORDY.decode, mask_id=WORDY.mask_id, plan=GREEDY, length=48
    )
    assert [c.row for c in found] == [r for r in rows.tolist() if held.text[r] >= 16]
    for one in found:
        text = WORDY.decode(held.rows[one.row, : int(held.text[one.row])])
        assert one.made == one.true
        assert text.startswith(one.prompt + one.true)
        assert one.prompt.endswith(one.joint)
        assert one.true[:1].isspace()
        assert not one.prompt[-1:].isspace()


def test_no_cut_through_a_character_is_taken_for_a_broken_one() -> None:
    latin = train_tokenizer([ENGLISH_TEXT] * 4, vocab_size=400)  # three tokens a Devanagari letter
    texts = ["क्षत्रियविश्वविद्यालय" * 4 + HINDI, HINDI * 3]
    rows, documents = blocks_of((latin.encode(text) for text in texts), 40, pad_id=latin.pad_id)
    held = held_out(
        rows, latin.bytes_per_token.numpy(), latin.decode, pad_id=latin.pad_id, documents=documents
    )
    given_: dict[str, Any] = {"mask_id": latin.mask_id, "plan": GREEDY, "length": 40}
    found = continuations(Oracle(held.rows, {}, latin), held, np.arange(len(rows)), latin.decode, **given_)
    assert any(not c.prompt.split(" ")[1:] for c in found)  # some have no space before the cut
    assert breakage([c.joint + c.made for c in found]).broken == 0
    assert breakage([c.joint + c.true for c in found]).broken == 0


def test_whole_words_end_before_the_last_one() -> None:
    assert whole_words("one two thr") == "one two "
    assert whole_words("one two ") == "one two "
    assert whole_words("one") == "one"
    assert whole_words("on\ufffd") == "on"


def test_words_are_found_where_they_lie() -> None:
    ids = WORDY.encode("the cat sat, on 12 बिल्ली mats.")
    found = [WORDY.decode(ids[a:b]) for a, b in words_at(ids, WORDY.decode)]
    assert set(found) <= {" cat", " sat", " on", " बिल्ली", " mats"}
    assert " cat" in found
    assert all(b - a <= 8 for a, b in words_at(ids, WORDY.decode))


def test_an_oracle_edits_nothing_and_a_fool_writes_the_other_script() -> None:
    held = held_of(SENTENCES)
    given_: dict[str, Any] = {"mask_id": WORDY.mask_id, "plan": GREEDY}
    same = edits(Oracle(held.rows), held, np.arange(12), WORDY.decode, **given_)
    assert len(same) >= 12
    assert all(e.true == e.made for e in same)
    latin = next(i for i in range(WORDY.vocab_size) if regex.fullmatch(" [a-z]{3}", WORDY.decode([i])))
    swap = {i: latin for i in range(WORDY.vocab_size) if script_of(WORDY.decode([i])) == "devanagari"}
    odd = edits(Oracle(held.rows, swap), held, np.arange(12), WORDY.decode, **given_)
    scores = edited([e.true for e in odd], [e.made for e in odd], [e.row for e in odd])
    hindi = [e for e in odd if script_of(e.true) == "devanagari" and script_of(e.made) == "latin"]
    assert scores.other_script is not None
    assert scores.other_script.value == pytest.approx(len(hindi) / len(odd))
    assert hindi


def test_the_words_of_a_row_end_before_its_end() -> None:
    ids = WORDY.encode("the cat sat on the mat")
    assert all(end < len(ids) for _, end in words_at(ids, WORDY.decode))
    assert words_at(ids, WORDY.decode)


class Unsure:
    """Thinks a comma likeliest everywhere, and Latin and Devanagari words as likely as each other."""

    def __call__(self, xt: Tensor, t: Tensor | None) -> Tensor:
        logits = torch.full((*xt.shape, WORDY.vocab_size), -40.0)
        comma, latin, hindi = (WORDY.encode(text)[0] for text in (",", " the", " और"))
        for token, weight in ((comma, 0.4), (latin, 0.3), (hindi, 0.3)):
            logits[..., token] = np.log(weight)
        return logits


def test_who_writes_commas_still_has_a_script_when_sampled() -> None:
    length = tiny_denoiser.SEQ_LEN
    held = held_of(SENTENCES, length)
    given_: dict[str, Any] = {"mask_id": WORDY.mask_id, "seed": 1}
    scores = {}
    for temperature in (0.0, 1.0):
        plan = Unmasking(steps=1, temperature=temperature)  # in more, the likeliest draws come first: commas
        found = edits(Unsure(), held, np.arange(len(held.rows)), WORDY.decode, plan=plan, **given_)
        scores[temperature] = edited([e.true for e in found], [e.made for e in found], [e.row for e in found])
    greedy, sampled = scores[0.0], scores[1.0]
    assert greedy.count == sampled.count > 100
    assert greedy.other_script is None
    assert greedy.wordless == greedy.count
    assert sampled.other_script is not None
    assert sampled.wordless < 0.5 * sampled.count
    assert 0.4 < sampled.other_script.value < 0.7


def test_a_hole_may_be_left_empty_where_that_was_learnt() -> None:
    held = held_of(SENTENCES)
    empty = dict.fromkeys(range(WORDY.vocab_size), WORDY.pad_id)
    given_: dict[str, Any] = {"mask_id": WORDY.mask_id, "plan": GREEDY}
    said = edits(Oracle(held.rows, empty), held, np.arange(4), WORDY.decode, nothing=True, **given_)
    assert {e.made for e in said} == {""}
    made = edits(Oracle(held.rows, empty), held, np.arange(4), WORDY.decode, **given_)
    assert any(e.made for e in made)  # the pad is ruled out, and nothing else is likelier


# ---- one word in two scripts ----------------------------------------------------------------------------

NATIVE = ["घर", "नदी", "पेड़", "पानी", "रात", "दिन", "हाथ", "बात", "आंख", "किताब", "लड़का", "सड़क"]
LATIN = ["ghar", "nadi", "ped", "paani", "raat", "din", "haath", "baat", "aankh", "kitaab", "ladka", "sadak"]
LEXICON = Lexicon(dict.fromkeys(zip(NATIVE, LATIN, strict=True), 1))


class Pieces:
    """One token a word, a space before it or not."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {"MASK": 0}

    def __call__(self, text: str) -> list[int]:
        parts = text.replace("(", " ( ").replace(")", " ) ").split()
        return [self.known.setdefault(part, len(self.known)) for part in parts]


def asked() -> tuple[list[str], Pieces]:
    texts = [f"और यह {word} है तो" for word in NATIVE * 3]
    return texts, Pieces()


class Translator:
    """Says of a hole what stands in brackets, in the other script; else nothing in particular."""

    def __init__(self, encode: Pieces) -> None:
        self.encode = encode

    def __call__(self, xt: Tensor, t: Tensor | None) -> Tensor:
        logits = torch.zeros(*xt.shape, 4000)
        for native, latin in zip(NATIVE, LATIN, strict=True):
            there = (xt == self.encode(latin)[0]).any(1)
            logits[there, :, self.encode(native)[0]] = 9.0
        return logits


def test_who_knows_nothing_has_chance_and_a_translator_is_right_when_told() -> None:
    texts, encode = asked()
    made = questions(texts, LEXICON.romanised, encode, count=24, max_len=64)
    assert len(made) == 24
    assert all(
        len({len(c) for c in q.candidates}) == 1 and len(set(q.candidates)) == CANDIDATES for q in made
    )
    groups = np.arange(len(texts))
    found = rendering(Translator(encode), made, groups, mask_id=0)
    assert found is not None
    assert found.alone.value == pytest.approx(1 / CANDIDATES) == found.chance
    assert found.told.value == 1
    assert found.gain.value == pytest.approx(0.75)
    assert rendering(Translator(encode), [], groups, mask_id=0) is None


def test_questions_are_of_words_in_the_text_and_the_same_for_the_same_seed() -> None:
    texts, encode = asked()
    made = questions(texts, LEXICON.romanised, encode, count=10, max_len=64, seed=3)
    assert made == questions(texts, LEXICON.romanised, encode, count=10, max_len=64, seed=3)
    spelt = {number: word for word, number in encode.known.items()}
    for q in made:
        true = spelt[q.candidates[0][0]]
        assert f" {true} " in texts[q.text]
        assert spelt[q.told[1]] in LEXICON.romanised[true]
        assert len(q.before) + len(q.behind) + len(q.told) + 1 <= 64
    assert questions(texts, {}, encode, count=10, max_len=64) == []
    assert questions(texts, LEXICON.romanised, encode, count=10, max_len=4) == []
    assert LEXICON.native["ghar"] == ("घर",)


@pytest.mark.parametrize("first", ["दिन", "डिन"])
def test_the_best_attested_comes_first_both_ways(first: str) -> None:
    other = "डिन" if first == "दिन" else "दिन"
    found = Lexicon({(other, "din"): 1, (first, "din"): 3, (first, "deen"): 2, (first, "dyn"): 4})
    assert found.native["din"] == (first, other)
    assert found.romanised[first] == ("dyn", "din", "deen")


# ---- the whole ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> Rows:
    held = held_of(SENTENCES[:16], length=tiny_denoiser.SEQ_LEN)
    assert held.documents is not None
    return Rows(held, tuple("mixed" if d % 2 else "hinglish" for d in held.documents.tolist()))


def test_the_suite_measures_every_language_and_all_of_them(rows: Rows) -> None:
    model = tiny_denoiser.denoiser(WORDY)
    plan = Measures(draws=1, infills=3, samples=2, filling=GREEDY, sampling=Unmasking(steps=3), seed=1)
    pairs = ("छोटा chhota", "बड़ा bada", "पेड़ ped", "नदी nadi", "पास paas")
    lexicon = Lexicon({(native, latin): 1 for native, _, latin in (pair.partition(" ") for pair in pairs)})
    found = suite(model, rows, WORDY.encode, WORDY.decode, plan, lexicon)
    assert list(found.languages) == ["hinglish", "mixed", ALL]
    whole = found.languages[ALL]
    assert whole.rows == len(rows.languages)
    assert whole.scripts.texts == 4
    for tongue in found.languages.values():
        bits = tongue.bits_per_byte
        assert bits.low <= bits.value <= bits.high
        assert tongue.scripts.real_broken.broken == 0
        assert tongue.scripts.edits.count > 0
        assert tongue.scripts.sampled_edits.count == tongue.scripts.edits.count
    assert found.languages["mixed"].documents == 8
    assert set(found.bits_by_script) == set(rows.held.scripts)
    assert set(found.tokens_per_character) == set(rows.held.scripts)
    again = suite(model, rows, WORDY.encode, WORDY.decode, plan, lexicon)
    assert again == found


def test_the_suite_without_samples_fills_or_lexicon(rows: Rows) -> None:
    plan = Measures(draws=1, infills=0, samples=0)
    found = suite(tiny_denoiser.denoiser(WORDY), rows, WORDY.encode, WORDY.decode, plan)
    own = found.languages[ALL].scripts
    assert (own.texts, own.mixing, own.edits.count, own.made_off) == (0, None, 0, None)
    assert found.renderings == {}


def test_only_who_learnt_it_may_write_the_pad_into_a_puzzle() -> None:
    held = held_of(SENTENCES)
    pad = WORDY.pad_id
    assert pad in held.never(WORDY.mask_id)
    assert set(held.never(WORDY.mask_id)) - {pad} == set(held.never(WORDY.mask_id, nothing=True))
    empty = Oracle(held.rows, dict.fromkeys(range(WORDY.vocab_size), pad))
    tasks = puzzles(held, 4)
    for nothing in (True, False):
        seen: list[list[int]] = []

        def decode(ids: list[int], seen: list[list[int]] = seen) -> str:
            seen.append(ids)
            return WORDY.decode(ids)

        filled_in(empty, held, tasks, decode, mask_id=WORDY.mask_id, plan=GREEDY, nothing=nothing)
        assert any(set(ids) == {pad} for ids in seen) == nothing
