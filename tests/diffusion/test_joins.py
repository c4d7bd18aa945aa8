# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Sampling that cannot break text: whatever the denoiser says, whichever way masks become tokens."""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import dataclass, replace

import pytest
import tiny_denoiser
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.guidance import Guided
from haloweave.diffusion.judging import broken as judging
from haloweave.diffusion.sampling.blockwise import unmask_long
from haloweave.diffusion.sampling.draw import GumbelMax
from haloweave.diffusion.sampling.joins import Joins
from haloweave.diffusion.sampling.orders import (
    Certainty,
    Confidence,
    Entropy,
    LeftToRight,
    Margin,
    Order,
    Random,
)
from haloweave.diffusion.sampling.plan import Unmasked, Unmasking
from haloweave.diffusion.sampling.remask import Cap, Doubtful
from haloweave.diffusion.schedule import Linear
from haloweave.diffusion.text.characters import automaton, broken
from haloweave.diffusion.text.clusters import HANGING
from haloweave.diffusion.text.joining import joining
from haloweave.diffusion.tokenizer import Tokenizer, borrowed_tokenizer
from haloweave.diffusion.unmask import unmask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- characters and bytes --------------------------------------------------------------------------------

LETTERS = st.one_of(
    st.sampled_from("कािी्ंॉनख aZé \u0301\u200d\u200c\n1,।தமிழ்ابَ👍🏽\ufe0f\ufffd॑ก่"),
    st.characters(codec="utf-8"),
)


@given(text=st.text(LETTERS, max_size=12))
def test_bytes_and_characters_agree_on_what_is_broken(text: str) -> None:
    found = automaton()
    assert (found.after(text.encode()) < found.between) == (broken(text) == [])


@given(data=st.binary(max_size=10))
def test_bytes_are_admitted_only_if_they_are_utf_8(data: bytes) -> None:
    found = automaton()
    try:
        whole = broken(data.decode()) == []
    except UnicodeDecodeError:
        whole = False
    assert (found.after(data) < found.between) == whole


def test_every_character_is_one_and_nothing_else_is() -> None:
    """Against Python's own encoder, for every code point: as first of a text, and behind a letter."""
    found = automaton()
    for point in [*range(0xD800), *range(0xE000, 0x110000, 7), 0xFFFD, 0x10FFFF]:
        hangs = bool(HANGING.match(chr(point)))
        data = chr(point).encode()
        assert (found.after(data) < found.between) == (not hangs and point != 0xFFFD), hex(point)
        assert found.after(data[:-1]) >= found.between or len(data) == 1


@pytest.mark.parametrize(
    "text",
    [
        "नमस्ते, दुनिया! Kya haal hai? जगत् है",
        "र्‍य क्षत्रिय ऑफ़िस शक्‍ति \u0915\u093c",
        "தமிழ் বাংলা తెలుగు ಕನ್ನಡ മലയാളം ગુજરાતી ਪੰਜਾਬੀ ଓଡ଼ିଆ සිංහල",
        "العَرَبِيَّة עִבְרִית ภาษาไทย བོད་ မြန်မာ ខ្មែរ e\u0301 가각 が",
        "👨‍👩‍👧 👍🏽 1\ufe0f\u20e3 ❤\ufe0f 🇮🇳\r\n\t",
        "",
    ],
)
def test_real_text_is_whole(text: str) -> None:
    assert broken(text) == []
    assert broken(unicodedata.normalize("NFD", text)) == []


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("\u093e", [0]),  # a matra at the start
        ("क \u093f", [2]),  # behind a space
        ("a\u093f", [1]),  # behind a letter of another script
        ("க\u093f", [1]),
        ("1\u094d", [1]),
        (",\u0902", [1]),
        ("\u093e\u0902", [0]),  # it hangs on what hangs on nothing: one mistake
        (" \u0301", [1]),
        ("\n\u200d", [1]),
        (" \u0301\u093f", [1]),  # an accent of no script: whichever script's mark comes next, one mistake
        (" \u0301\u064e", [1]),
        (" \u0951\u09bf", [1]),  # and so with an accent of several
        (" \u0951\u064e", [1, 2]),
        ("a\udc00", [1]),  # no UTF-8 spells it
        ("x\ufffdy", [1]),
    ],
)
def test_what_hangs_on_nothing_is_found(text: str, places: list[int]) -> None:
    assert broken(text) == places


@given(text=st.text(st.sampled_from("कखािी्ं़ऽअ १।aé1, \nதிকিಕೆ್\ufffd"), max_size=8))
def test_what_sampling_will_not_write_is_broken_to_the_judge(text: str) -> None:
    """Of Indic scripts, but on a dotted circle or a no-break space, where the judge lets marks be shown. It
    counts more: it knows how a syllable of Devanagari is spelt."""
    text = unicodedata.normalize("NFC", text)
    if broken(text):
        assert judging.broken(text)


# ---- tokenizers ------------------------------------------------------------------------------------------


def byte_level() -> Tokenizer:
    host = tokenizers.Tokenizer(models.BPE())
    host.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    host.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    host.train_from_iterator([t.text for t in tiny_denoiser.texts()], trainer)
    return borrowed_tokenizer(host)


KINDS = {"learned": lambda: tiny_denoiser.tokenizer(900), "byte level": byte_level}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def words(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


@given(ids=st.lists(st.integers(0, 357), max_size=8))
def test_a_table_of_tokens_says_what_the_text_says(words: Tokenizer, ids: list[int]) -> None:
    ids = [i for i in ids if i < words.vocab_size and i not in words.special_ids]
    text = words.decode(ids)
    assert words.joining.fits(ids) == (broken(text) == [])


def test_special_tokens_end_a_text_and_the_pad_is_nothing(words: Tokenizer) -> None:
    base, end, pad = words.encode("न"), words.eos_id, words.pad_id
    matra = [i for value in "ी".encode() for i in _byte(words, value)]
    fits = words.joining.fits
    assert fits([*base, *matra])
    assert fits([*base, pad, *matra])
    assert not fits([*base, end, *matra])
    assert not fits([*matra])
    assert not fits([matra[0], end])
    assert fits([*base, end])
    assert words.joining.needed
    assert not joining([b"", b"a", b" b", b"."], 0).needed


def _byte(words: Tokenizer, value: int) -> list[int]:
    return [i for i, piece in enumerate(words._pieces) if piece == bytes([value])][:1]


# ---- what fits, against all that could be -----------------------------------------------------------------


PIECES = [
    b"",
    b"a",
    "क".encode(),
    "ी".encode(),
    b" ",
    b"\xe0",
    b"\xa4\x95",
    b"\xa5\x80",
    b"\xa5",
    b"\x80 ",
    b"",
]
SMALL_MASK, SMALL_PAD = 10, 0
SMALL = joining(PIECES, SMALL_PAD)


@given(row=st.lists(st.integers(1, SMALL_MASK), min_size=1, max_size=4), never=st.sets(st.integers(1, 9)))
def test_a_token_fits_just_where_the_text_can_be_filled_with_it(row: list[int], never: set[int]) -> None:
    allowed = [i for i in range(1, SMALL_MASK) if i not in never]
    joins = Joins(SMALL, torch.tensor([row]), SMALL_MASK, (SMALL_PAD, *never))
    filled = [
        filling
        for filling in itertools.product(*[allowed if i == SMALL_MASK else [i] for i in row])
        if SMALL.fits(filling)
    ]
    for place in [i for i, token in enumerate(row) if token == SMALL_MASK]:
        possible = joins.possible(torch.tensor([0]), torch.tensor([place]), len(PIECES))[0]
        found = {i for i in allowed if possible[i]}
        if filled:
            assert found == {filling[place] for filling in filled}
        elif any(SMALL.fits([i]) or i in (5, 8) for i in allowed):
            assert found, "there is always a way on"


@given(
    row=st.lists(st.integers(1, SMALL_MASK), min_size=1, max_size=6),
    wanted=st.lists(st.integers(1, 9), min_size=6, max_size=6),
    chosen=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_together_they_fit_as_from_left_to_right(
    row: list[int], wanted: list[int], chosen: list[bool]
) -> None:
    """One at a time, each asked again whether it fits: the slow way."""
    places = [i for i, token in enumerate(row) if token == SMALL_MASK and chosen[i]]
    joins = Joins(SMALL, torch.tensor([row]), SMALL_MASK, (SMALL_PAD,))
    at, column = torch.zeros(len(places)).long(), torch.tensor(places).long()
    taken = joins.admitted(at, column, torch.tensor(wanted)[column])
    slow = torch.tensor([row])
    for place, one in zip(places, taken.tolist(), strict=True):
        possible = Joins(SMALL, slow, SMALL_MASK, (SMALL_PAD,)).possible(at[:1], torch.tensor([place]), 11)
        assert bool(possible[0, wanted[place]]) == one
        if one:
            slow[0, place] = wanted[place]
    joins.follow(slow)
    holes = [i for i, token in enumerate(slow[0].tolist()) if token == SMALL_MASK]
    rows, columns = torch.zeros(len(holes)).long(), torch.tensor(holes).long()
    fresh = Joins(SMALL, slow, SMALL_MASK, (SMALL_PAD,))
    assert torch.equal(joins.possible(rows, columns, 11), fresh.possible(rows, columns, 11))


@given(rows=st.lists(st.lists(st.integers(1, SMALL_MASK), min_size=5, max_size=5), min_size=2, max_size=6))
def test_following_a_text_is_as_reading_it_anew(rows: list[list[int]]) -> None:
    joins = Joins(SMALL, torch.tensor([rows[0]]), SMALL_MASK, (SMALL_PAD,))
    for row in rows:
        joins.follow(torch.tensor([row]))
        fresh = Joins(SMALL, torch.tensor([row]), SMALL_MASK, (SMALL_PAD,))
        at, place = (torch.tensor([row]) == SMALL_MASK).nonzero(as_tuple=True)
        assert torch.equal(joins.possible(at, place, 11), fresh.possible(at, place, 11))


# ---- sampling --------------------------------------------------------------------------------------------


@dataclass
class Babble:
    """Logits from a table, chosen by all that the row holds: it likes bytes and marks as much as words."""

    vocab: int
    seed: int = 0
    sharpness: float = 2.0

    def __post_init__(self) -> None:
        self.table = torch.randn(211, self.vocab, generator=seeded(self.seed)) * self.sharpness

    def __call__(self, xt: Tensor, t: Tensor | None = None) -> Tensor:
        place = torch.arange(xt.shape[1])
        return self.table[(xt.cumsum(1) * 31 + xt.sum(1, keepdim=True) + place * 13) % 211]


PLANS = {
    "default": Unmasking(),
    "greedy": Unmasking(temperature=0.0),
    "one by one": Unmasking(steps=40, schedule=Linear(), order=Random()),
    "left to right": Unmasking(steps=40, schedule=Linear(), order=LeftToRight()),
    "one step": Unmasking(steps=1),
    "threshold": Unmasking(threshold=0.05),
    "stop": Unmasking(confidence_stop=0.05),
    "nucleus": Unmasking(temperature=1.5, top_p=0.5, order=Margin()),
    "gumbel": Unmasking(draw=GumbelMax(), order=Certainty()),
    "entropy": Unmasking(order=Entropy()),
    "noisy": Unmasking(order=Confidence(4.5)),
    "ancestral": Unmasking(ancestral=True, steps=20),
    "remask": Unmasking(remask=Cap(0.3), steps=8),
    "remask by chance": Unmasking(remask=Doubtful(Cap(0.3)), ancestral=True, steps=8),
    "uncached": Unmasking(cache=False),
}


def run(words: Tokenizer, xt: Tensor, plan: Unmasking, seed: int = 0, **more: object) -> Unmasked:
    never = tuple(i for i in words.special_ids if i != words.eos_id)
    return unmask(
        Babble(words.vocab_size, seed),
        xt,
        mask_id=words.mask_id,
        generator=seeded(seed),
        plan=replace(plan, joining=words.joining),
        never=never,
        **more,  # type: ignore[arg-type]
    )


def until_end(words: Tokenizer, row: Tensor) -> list[int]:
    ids: list[int] = row.tolist()
    return ids[: ids.index(words.eos_id)] if words.eos_id in ids else ids


@given(name=st.sampled_from([*PLANS]), seed=st.integers(0, 10**6), length=st.integers(1, 30))
def test_nothing_is_broken_from_nothing_but_masks(
    words: Tokenizer, name: str, seed: int, length: int
) -> None:
    plan = PLANS[name]
    done = run(words, torch.full((2, length), words.mask_id), plan, seed)
    assert not bool((done.tokens == words.mask_id).any())
    assert done.calls <= plan.steps + 1
    for row in done.tokens:
        assert broken(words.decode(row)) == []
        assert broken(words.decode(until_end(words, row))) == []


@given(name=st.sampled_from([*PLANS]), data=st.data(), seed=st.integers(0, 10**6))
def test_nothing_is_broken_in_the_holes_of_a_text(
    words: Tokenizer, name: str, data: st.DataObject, seed: int
) -> None:
    """Holes anywhere, inside clusters and characters too: what stands beside them counts as written."""
    text = data.draw(st.sampled_from(["नमस्ते दुनिया the cat", "क्षत्रिय ஸ்தி é 👍🏽 sees", "a bird नी"]))
    given_ = torch.tensor([words.encode(text)])
    holes = torch.tensor(
        [data.draw(st.lists(st.booleans(), min_size=given_.shape[1], max_size=given_.shape[1]))]
    )
    done = run(words, given_.masked_fill(holes, words.mask_id), PLANS[name], seed)
    assert torch.equal(done.tokens[~holes], given_[~holes])
    assert broken(words.decode(done.tokens[0])) == []


@given(
    seed=st.integers(0, 10**6),
    length=st.integers(20, 60),
    max_len=st.integers(6, 16),
    share=st.floats(0, 1),
)
def test_nothing_is_broken_across_the_edges_of_blocks(
    words: Tokenizer, seed: int, length: int, max_len: int, share: float
) -> None:
    given_ = torch.tensor([words.encode("क्षत्रिय नमस्ते दुनिया the cat ஸ்தி 👍🏽 " * 4)[:length]])
    while broken(words.decode(given_[0])):
        given_ = given_[:, :-1]
    holes = torch.rand(given_.shape, generator=seeded(seed)) < share
    done = unmask_long(
        Babble(words.vocab_size, seed),
        given_.masked_fill(holes, words.mask_id),
        max_len=max_len,
        mask_id=words.mask_id,
        generator=seeded(seed),
        plan=Unmasking(steps=3, joining=words.joining),
        never=words.special_ids,
    )
    assert torch.equal(done.tokens[~holes], given_[~holes])
    assert broken(words.decode(done.tokens[0])) == []


@given(ids=st.lists(st.integers(3, 357), min_size=1, max_size=16), seed=st.integers(0, 10**6))
def test_what_was_broken_stays_and_no_more_is_added(words: Tokenizer, ids: list[int], seed: int) -> None:
    """Given text that is broken has as many broken joints afterwards as the automaton must accept in it."""
    ids = [i for i in ids if i < words.vocab_size and i not in words.special_ids]
    known = torch.tensor([ids or words.encode("a")])
    holes = torch.rand(known.shape, generator=seeded(seed)) < 0.5
    xt = known.masked_fill(holes, words.mask_id)
    done = run(words, xt, Unmasking(steps=3), seed)
    assert not bool((done.tokens == words.mask_id).any())
    before, after = (Joins(words.joining, x, words.mask_id, words.special_ids) for x in (xt, done.tokens))
    assert int(after._cut.sum()) <= int(before._cut.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_a_denoiser_that_wants_nothing_but_broken_text_is_not_heard(kind: str) -> None:
    """All its probability is on one byte that can begin nothing: what fits is drawn by lot."""
    words = KINDS[kind]()
    wanted = _byte(words, 0x80)[0]

    def predict(xt: Tensor, t: Tensor | None) -> Tensor:
        logits = torch.full((*xt.shape, words.vocab_size), -torch.inf)
        logits[..., wanted] = 0.0
        return logits

    xt = torch.full((3, 20), words.mask_id)
    plan = Unmasking(steps=4, joining=words.joining)
    done = unmask(predict, xt, mask_id=words.mask_id, generator=seeded(), plan=plan, never=words.special_ids)
    assert bool(done.filled.all())
    assert all(broken(words.decode(row)) == [] for row in done.tokens)
    assert len({tuple(row) for row in done.tokens.tolist()}) == 3
    free = unmask(
        predict,
        xt,
        mask_id=words.mask_id,
        generator=seeded(),
        plan=Unmasking(steps=4),
        never=words.special_ids,
    )
    assert "\ufffd" in words.decode(free.tokens[0]), "or the test shows nothing"


ORDERS: list[Order] = [
    Confidence(),
    Confidence(4.5),
    Certainty(),
    Margin(),
    Entropy(),
    Random(),
    LeftToRight(),
]


@pytest.mark.parametrize("gap", [90.0, 200.0, 1e6])
@pytest.mark.parametrize(
    "plan", [Unmasking(steps=3), Unmasking(steps=3, draw=GumbelMax())], ids=["cdf", "gumbel"]
)
def test_what_fits_is_found_however_unlikely_it_is(words: Tokenizer, gap: float, plan: Unmasking) -> None:
    """exp makes 0 of all that fits: it was never drawn, and sampling never came to an end."""
    wanted, never = _hopeless(words)
    liked = words.encode("a")[0]

    def predict(xt: Tensor, t: Tensor | None) -> Tensor:
        logits = torch.zeros((*xt.shape, words.vocab_size))
        logits[..., wanted], logits[..., liked] = gap, 12.0
        return logits

    for order in ORDERS:
        done = unmask(
            predict,
            torch.full((2, 24), words.mask_id),
            mask_id=words.mask_id,
            generator=seeded(),
            plan=replace(plan, joining=words.joining, order=order),
            never=never,
        )
        assert all(broken(words.decode(row)) == [] for row in done.tokens)
        assert float((done.tokens == liked).double().mean()) > 0.9, "of what fits, by far the likeliest"


def test_an_order_by_entropy_puts_last_what_hardly_fits(words: Tokenizer) -> None:
    """The mean surprise of what fits, however little that is: no NaN, which would come first."""
    wanted, never = _hopeless(words)

    def predict(xt: Tensor, t: Tensor | None) -> Tensor:
        logits = torch.zeros((*xt.shape, words.vocab_size))
        logits[:, 1, wanted] = 500.0
        return logits

    seen: list[Tensor] = []
    unmask(
        predict,
        torch.full((1, 3), words.mask_id),
        mask_id=words.mask_id,
        generator=seeded(),
        plan=Unmasking(steps=3, schedule=Linear(), order=Entropy(), joining=words.joining),
        never=never,
        progress=lambda step: seen.append(step.revealed[0]),
    )
    assert [int(revealed.nonzero()) for revealed in seen] == [0, 2, 1]


def _hopeless(words: Tokenizer) -> tuple[int, list[int]]:
    """A token that may be written and never fits, and all others that are no text by themselves."""
    whole = {i for i in range(words.vocab_size) if words.joining.fits([i])} - {*words.special_ids}
    wanted = _byte(words, 0x80)[0]
    return wanted, [i for i in range(words.vocab_size) if i not in {*whole, wanted}]


def test_where_no_token_can_begin_a_text_there_is_an_end_all_the_same() -> None:
    """Only bytes inside characters may be written: nothing fits, and everything is let in."""
    allowed = [6, 7, 8]
    xt = torch.full((2, 5), SMALL_MASK)
    done = unmask(
        Babble(len(PIECES)),
        xt,
        mask_id=SMALL_MASK,
        generator=seeded(),
        plan=Unmasking(joining=SMALL),
        never=[i for i in range(SMALL_MASK) if i not in allowed],
    )
    assert set(done.tokens.flatten().tolist()) <= {*allowed}


def test_guidance_and_batches_change_nothing_of_it(words: Tokenizer) -> None:
    prompt = words.encode("नमस्ते ")
    xt = torch.tensor([[*prompt, *[words.mask_id] * 24]] * 3)
    plan = Unmasking(steps=5, joining=words.joining)
    guided = Guided(Babble(words.vocab_size), xt[0] != words.mask_id, 1.0, words.mask_id)
    done = unmask(guided, xt, mask_id=words.mask_id, generator=seeded(), plan=plan, never=words.special_ids)
    assert all(broken(words.decode(row)) == [] for row in done.tokens)
    whole, part = run(words, xt, plan), run(words, xt[:2], plan)
    assert torch.equal(whole.tokens[:2], part.tokens)
    assert torch.equal(whole.tokens, run(words, xt, plan).tokens)
    assert not torch.equal(whole.tokens[0], whole.tokens[1])


def test_a_denoiser_that_breaks_nothing_is_left_alone(words: Tokenizer) -> None:
    """Where every token fits everywhere the constraint changes no draw, under any plan."""
    whole = [i for i in range(words.vocab_size) if words.joining.fits([i]) and i not in words.special_ids]
    never = [i for i in range(words.vocab_size) if i not in whole]
    xt = torch.full((2, 24), words.mask_id)
    for plan in PLANS.values():
        one, two = (
            unmask(
                Babble(words.vocab_size),
                xt,
                mask_id=words.mask_id,
                generator=seeded(),
                plan=replace(plan, joining=table),
                never=never,
            )
            for table in (None, words.joining)
        )
        assert torch.equal(one.tokens, two.tokens)
        assert one.calls == two.calls


def test_tables_of_another_vocabulary_are_refused(words: Tokenizer) -> None:
    xt = torch.full((1, 4), words.mask_id)
    with pytest.raises(BadInput, match="another tokenizer"):
        unmask(
            Babble(words.vocab_size + 5),
            xt,
            mask_id=words.mask_id,
            generator=seeded(),
            plan=Unmasking(joining=words.joining),
        )
    with pytest.raises(BadInput, match="another tokenizer"):
        Joins(words.joining, torch.tensor([[words.vocab_size + 3]]), words.mask_id)
