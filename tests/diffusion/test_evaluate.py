# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Evaluation against languages of which everything is known: bound, calibration, generation, the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from denoisers import MASK, PAD, V
from denoisers import tiny as small
from exact_lm import ExactLM, Scribbler, Tabled
from far_away import FAR, away, elsewhere
from torch import Tensor

from haloweave.diffusion.denoisers.transformer import Transformer, TransformerConfig
from haloweave.diffusion.errors import BadInput, TooLittleText, TooLong
from haloweave.diffusion.evaluate import Measures, bound, evaluate, row_nats
from haloweave.diffusion.guidance import Guided
from haloweave.diffusion.judging.calibration import calibration, confidences
from haloweave.diffusion.judging.footprint import peak_bytes
from haloweave.diffusion.judging.generation import alike, generation, real_rows, samples, until
from haloweave.diffusion.judging.held import Held, blocks_of, held_out, script
from haloweave.diffusion.judging.mixing import words
from haloweave.diffusion.sampling.blockwise import unmask_long
from haloweave.diffusion.schedule import Linear
from haloweave.diffusion.unmask import Unmasking


def letters(ids: list[int]) -> str:
    return "".join(" abcdefghijklmnopqrstuvwxyz"[i % 27] for i in ids)


def held_of(rows: Tensor, *, vocab: int = 32, pad_id: int | None = None, documents: bool = True) -> Held:
    """One byte a token; a document a row."""
    which = np.arange(len(rows)) if documents else None
    size = np.array([0 if i == pad_id else 1 for i in range(vocab)])
    return held_out(rows, size, letters, pad_id=pad_id, documents=which)


def drawn(language: ExactLM, count: int, seed: int = 0) -> Held:
    """Texts as often as the language says."""
    g = torch.Generator().manual_seed(seed)
    return held_of(language.texts[torch.multinomial(language.probability, count, True, generator=g)])


def tiny(**changes: int | None) -> Transformer:
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "mask_id": 11, "pad_id": 10, "max_len": 24} | changes
    return Transformer(TransformerConfig(**sizes, d_model=16, n_layers=1, n_heads=2, d_ff=16))  # type: ignore[arg-type]


def padded(rows: int = 20, length: int = 24, least: int = 12) -> Held:
    g = torch.Generator().manual_seed(1)
    text = torch.randint(0, 10, (rows, length), generator=g)
    for i, n in enumerate(torch.randint(least, length + 1, (rows,), generator=g).tolist()):
        text[i, n:] = 10
    return held_of(text, pad_id=10)


PLAN = Unmasking(steps=3, schedule=Linear())


# ---- the bound ------------------------------------------------------------------------------------------


def test_the_bound_of_the_exact_model_is_the_entropy() -> None:
    language = ExactLM.random(vocab=3, length=4)
    held = drawn(language, 3000)
    found = bound(row_nats(language.denoiser(), held, Measures(draws=8, batch=500)), held)
    true = language.entropy / 4
    assert found.nats.low < true < found.nats.high
    assert found.nats.value == pytest.approx(true, abs=0.02)
    assert found.perplexity.value == pytest.approx(math.exp(found.nats.value))
    assert found.bits_per_byte.value == pytest.approx(found.nats.value / math.log(2))
    assert (found.blocks, found.unit, found.units) == (3000, "documents", 3000)


def test_a_wrong_model_is_bounded_above_the_entropy() -> None:
    language, wrong = ExactLM.random(vocab=3, length=4), Scribbler.random(vocab=3, length=4)
    held = drawn(language, 1000)
    found = bound(row_nats(Tabled(wrong), held, Measures(batch=500)), held)
    assert found.nats.low > language.entropy / 4


def test_more_draws_narrow_and_do_not_move_it() -> None:
    language = ExactLM.random(vocab=3, length=4)
    held, one = drawn(language, 400), []
    for draws in (1, 16):
        nats = np.stack(
            [row_nats(language.denoiser(), held, Measures(draws=draws, seed=s)) for s in range(8)]
        )
        one.append((nats.mean(), nats.std(axis=0).mean()))
    assert one[0][0] == pytest.approx(one[1][0], abs=0.06)
    assert one[1][1] < 0.5 * one[0][1]


def test_padding_costs_nothing_and_each_script_has_its_own_bits() -> None:
    model, text = tiny(), torch.full((9, 24), 10)
    text[:, :6] = 3
    short = held_of(text, pad_id=10)
    alone = held_of(text[:, :6], pad_id=10)
    plan = Measures(seed=3)
    assert short.tokens.tolist() == [6] * 9
    one, two = (bound(row_nats(model, h, plan), h) for h in (short, alone))
    assert one.bits_per_byte.value == pytest.approx(two.bits_per_byte.value, rel=0.2)
    assert set(one.scripts) == {"latin"}
    mixed = Held(
        text.clone(), short.bytes * np.where(np.arange(9) < 4, 3, 1), ("devanagari",) * 4 + ("latin",) * 5
    )
    found = bound(np.ones(9), mixed)
    assert found.scripts["devanagari"].value == pytest.approx(found.scripts["latin"].value / 3)
    assert list(found.scripts) == ["latin", "devanagari"]


def test_few_documents_leave_the_doubt_to_blocks() -> None:
    rows = torch.zeros(20, 4, dtype=torch.int64)
    size, scripts = np.full(20, 4), ("latin",) * 20
    many = Held(rows, size, scripts, np.arange(20) // 2)
    few = Held(rows, size, scripts, np.arange(20) // 10)
    assert (many.unit, len(np.unique(many.units()))) == ("documents", 10)
    assert (few.unit, len(np.unique(few.units()))) == ("blocks", 20)
    assert len(np.unique(many.units(np.arange(6)))) == 6


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("नमस्ते दुनिया, कैसे हो?", "devanagari"),
        ("kya haal hai 42", "latin"),
        ("मैं office जा रहा हूँ meeting hai", "mixed"),
        ("Привет", "other"),
        ("1234 ...", "none"),
        ("२०२४-२५ में ...", "devanagari"),
        ("The year २०२४-२५ १२३४५", "latin"),
        ("Ⅷ १२३", "none"),
    ],
)
def test_scripts_are_told_by_letters_and_signs(text: str, name: str) -> None:
    assert script(text) == name


def test_blocks_never_mix_documents() -> None:
    rows, documents = blocks_of([[1, 2, 3, 4, 5], [], [6]], 3, pad_id=9)
    assert rows.tolist() == [[1, 2, 3], [4, 5, 9], [6, 9, 9]]
    assert documents.tolist() == [0, 0, 2]
    whole, documents = blocks_of([[1, 2, 3, 4, 5], [6]], 3, pad_id=None)
    assert whole.tolist() == [[1, 2, 3]]
    with pytest.raises(TooLittleText):
        blocks_of([[6]], 3, pad_id=None)


def test_no_text_is_refused() -> None:
    with pytest.raises(TooLittleText):
        held_of(torch.full((3, 4), 10), pad_id=10)
    with pytest.raises(TooLittleText):
        held_of(torch.zeros(0, 4, dtype=torch.int64))


# ---- calibration ----------------------------------------------------------------------------------------


def test_the_exact_model_knows_what_it_knows_and_an_overconfident_one_does_not() -> None:
    language = ExactLM.random(vocab=4, length=5, sharpness=2.5)
    held = drawn(language, 4000)
    honest = calibration(*confidences(language, held, mask_id=4, batch=1000))
    boastful = calibration(*confidences(lambda xt, t: 3 * language(xt), held, mask_id=4, batch=1000))
    assert honest.error < 0.02
    assert boastful.error > 0.1
    assert honest.accuracy == pytest.approx(boastful.accuracy)
    assert boastful.confidence > honest.confidence
    assert sum(b.count for b in honest.bins) == honest.count >= 4000


def test_calibration_by_hand() -> None:
    found = calibration(np.array([0.9, 0.9, 0.3, 1.0]), np.array([True, False, False, True]), bins=10)
    assert found.error == pytest.approx((2 * 0.4 + 0.3 + 0) / 4)
    with pytest.raises(BadInput):
        calibration(np.array([]), np.array([], dtype=bool))


def test_something_stays_visible_where_it_can() -> None:
    seen: list[Tensor] = []

    def watch(xt: Tensor, t: Tensor | None) -> Tensor:
        seen.append(xt)
        return torch.zeros(*xt.shape, 12)

    held = padded(rows=200)
    confidences(watch, held, mask_id=11)
    masked = (torch.cat(seen) == 11).sum(1).numpy()
    assert (masked >= 1).all()
    assert (masked < held.tokens).all()
    assert len(np.unique(masked)) > 15
    one = held_of(torch.tensor([[3, 10]]), pad_id=10)
    assert len(confidences(watch, one, mask_id=11)[0]) == 1


# ---- generation -----------------------------------------------------------------------------------------


def test_generation_counts_calls_and_sets_real_text_beside() -> None:
    language = ExactLM.random(vocab=4, length=6)
    held = drawn(language, 50)
    found = generation(language, held, letters, mask_id=4, plan=PLAN, count=5, length=6)
    assert found.latency.calls_per_sample == 3
    assert found.latency.calls_per_token == 0.5
    assert (found.made.texts, found.real.texts) == (5, 5)
    assert found.made.perplexity is None
    assert 0 < found.made.variety.entropy <= math.log(6)
    assert found.latency.p50 <= found.latency.p99


def test_samples_have_seeds_of_their_own_and_never_pads() -> None:
    model, plan = tiny(), Unmasking(steps=4)
    one, two = (samples(model, 12, 6, mask_id=11, pad_id=10, plan=plan, seed=7) for _ in range(2))
    texts = [tuple(m.tokens[0].tolist()) for m in one]
    assert texts == [tuple(m.tokens[0].tolist()) for m in two]
    assert len(set(texts)) == 6
    assert not {10, 11} & {i for t in texts for i in t}


def test_texts_longer_than_the_denoiser_reads_are_made_block_by_block() -> None:
    plan = Unmasking(steps=2, schedule=Linear())
    made = samples(tiny(), 60, 1, mask_id=11, pad_id=10, plan=plan, max_len=24)
    assert made[0].tokens.shape == (1, 60)
    assert made[0].calls == 2 * 5  # blocks of 12
    assert not bool(torch.isin(made[0].tokens, torch.tensor([10, 11])).any())


def test_real_text_is_cut_to_length_the_longest_first_where_it_is_short() -> None:
    held = padded(least=3)
    rows = real_rows(held, 24, 4)
    assert [len(r) for r in rows] == sorted(held.tokens.tolist(), reverse=True)[:4]
    assert all(10 not in r for r in rows)
    assert {len(r) for r in real_rows(held, 3, 20)} == {3}


# ---- the whole ------------------------------------------------------------------------------------------


def test_everything_is_measured_repeats_and_leaves_the_denoiser_as_it_was() -> None:
    model, held = tiny().train(), padded()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    noise = torch.random.get_rng_state()
    plan = Measures(draws=2, infills=3, samples=2, length=8)
    one, two = (evaluate(model, held, letters, plan) for _ in range(2))
    assert one.bound == two.bound
    assert one.calibration == two.calibration
    assert {k: v.exact for k, v in one.infill.items()} == {k: v.exact for k, v in two.infill.items()}
    assert set(one.infill) == {"1", "3", "8", "several"}
    assert one.generation is not None
    assert one.generation.length == 8
    assert one.parameters == model.parameters_trained
    assert one.weight_bytes >= 4 * one.parameters
    assert one.call_bytes == two.call_bytes > 0
    assert len(one.nats) == len(held.rows)
    assert model.training
    assert torch.equal(noise, torch.random.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_is_not_asked_for_is_not_done() -> None:
    found = evaluate(tiny(), padded(), letters, Measures(draws=1, infills=0, samples=0))
    assert found.generation is None
    assert found.infill == {}


def test_rows_longer_than_the_denoiser_are_refused() -> None:
    with pytest.raises(TooLong):
        evaluate(tiny(max_len=8), padded(), letters, Measures(samples=0))


@pytest.mark.parametrize(
    "wrong", [{"draws": 0}, {"batch": 0}, {"length": 0}, {"infills": -1}, {"samples": -1}]
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        Measures(**wrong)


# ---- specials, lengths, scripts ---------------------------------------------------------------------------


def with_specials(rows: Tensor) -> Held:
    """Of 12 ids: 8 a host's control token, 9 the end of a document, 10 padding, 11 the mask."""
    size = np.array([1] * 8 + [0] * 4)
    return held_out(rows, size, letters, pad_id=10, eos_id=9, documents=np.arange(len(rows)))


class Wanting:
    """A predict that wants one token above all, then the others, from the first on."""

    def __init__(self, *first: int) -> None:
        self._first = first

    def __call__(self, xt: Tensor, t: Tensor | None) -> Tensor:
        logits = torch.zeros(*xt.shape, 12) - torch.arange(12)
        for n, i in enumerate(self._first):
            logits[..., i] = 100.0 - 20 * n
        return logits


ENDING = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 9] * 1 + [10] * 4] * 9)


def test_generated_texts_end_where_their_denoiser_ends_them_and_hold_no_other_special_token() -> None:
    held = with_specials(ENDING)
    assert held.specials == (8, 9, 10, 11)
    assert held.text.tolist() == [7] * 9
    plan = Unmasking(steps=2, temperature=0.0)
    found = generation(Wanting(8, 11, 10, 9), held, letters, mask_id=11, plan=plan, count=3, length=8)
    assert (found.ended, found.tokens) == (3, 0.0), "the end was what it wanted most of what is allowed"
    assert found.made.variety.entropy == 0
    assert not found.believable
    made = samples(Wanting(8, 11, 10, 9), 8, 2, mask_id=11, never=held.never(11), pad_id=10, plan=plan)
    assert {i for m in made for i in m.tokens[0].tolist()} == {0}
    assert until([1, 9, 2, 9], 9) == [1]
    assert until([1, 9], None) == [1, 9]


def test_holes_lie_in_text_and_no_special_token_fills_them() -> None:
    from haloweave.diffusion.judging.infill import filled_in, puzzles

    held = with_specials(ENDING)
    tasks = puzzles(held, 30, lengths=(1, 3))
    assert all(start + n <= 7 for p in tasks for start, n in p.spans)
    texts: list[list[int]] = []
    plan = Unmasking(steps=2, temperature=0.0)

    def heard(ids: list[int]) -> str:
        texts.append(ids)
        return letters(ids)

    filled_in(Wanting(9, 8, 10, 11), held, tasks[:4], heard, mask_id=11, plan=plan)
    assert {0} == {i for ids in texts[1::2] for i in ids}


def test_longer_texts_are_not_more_varied_for_being_longer() -> None:
    """A long text that repeats itself has more entropy than a short real one, and still less variety."""
    real = [list(range(12)) for _ in range(4)]
    made = [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, *range(6, 40)] for _ in range(4)]
    one, other = alike(made, real)
    assert [len(r) for r in one] == [len(r) for r in other] == [12] * 4
    held = held_of(torch.arange(12).repeat(9, 1))

    def repeating(xt: Tensor, t: Tensor | None) -> Tensor:
        ids = torch.tensor(made[0]).expand(xt.shape)
        return torch.nn.functional.one_hot(ids, 41).double().log()

    plan = Unmasking(steps=2)
    found = generation(repeating, held, letters, mask_id=40, plan=plan, count=4, length=46)
    assert found.made.variety.entropy == pytest.approx(math.log(6))
    assert found.real.variety.entropy == pytest.approx(math.log(12))
    assert not found.believable


def test_pairs_of_equal_length_are_made_longest_first() -> None:
    one, other = alike([[1], [1, 2, 3], []], [[5, 6], [5, 6, 7, 8]])
    assert (one, other) == ([[1, 2, 3], [1]], [[5, 6, 7], [5]])


def test_words_that_mix_two_scripts_are_counted_beside_the_real_ones() -> None:
    found = words(["मैं office जाता हूँ", "घरhouse में dogs 42", ""])
    assert (found.count, found.devanagari, found.latin, found.mixed) == (7, 4, 2, 1)
    assert found.mixing is not None
    assert found.mixing.value == pytest.approx(1 / 7)
    assert found.mixing.low <= 1 / 7 <= found.mixing.high
    assert words(["क्\u200dष"]).count == 1, "a joiner is inside of a word"
    assert words(["дом"]).devanagari == words(["дом"]).latin == 0
    assert words(["1 2", ""]).mixing is None


# ---- another device ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["transformer", "hierarchical"])
def test_a_denoiser_elsewhere_is_measured_like_one_at_home(arch: str) -> None:
    g = torch.Generator().manual_seed(3)
    text = torch.randint(PAD + 1, V, (10, 16), generator=g)
    held = held_of(text, vocab=V, pad_id=PAD)
    plan = Measures(draws=2, infills=2, samples=2, length=30, batch=4, sampling=PLAN)
    near = evaluate(small(arch), held, letters, plan)
    with elsewhere():
        denoiser = small(arch)
        away(denoiser)
        with pytest.raises(RuntimeError, match="one device"):
            denoiser(text)
        far = evaluate(denoiser, held, letters, plan)
    assert np.allclose(far.nats, near.nats)
    assert far.calibration.accuracy == near.calibration.accuracy
    assert [f.exact for f in far.filled] == [f.exact for f in near.filled]
    assert far.generation is not None
    assert near.generation is not None
    assert far.generation.made == near.generation.made


def test_a_long_text_is_filled_elsewhere_with_guidance_as_at_home() -> None:
    xt, prompt = torch.full((2, 20), MASK), torch.arange(20) < 3
    xt[:, :3] = 7

    def done(device: torch.device) -> Tensor:
        denoiser = small("transformer", self_conditioning=True)
        if device == FAR:
            away(denoiser)
        g, plan = torch.Generator().manual_seed(0), Unmasking(steps=3, threshold=0.5, top_p=0.9)
        guided = Guided(denoiser, prompt, 1.0, MASK)
        kinds = {"mask_id": MASK, "generator": g, "plan": plan}
        whole = unmask_long(guided, xt.to(device), max_len=24, **kinds).tokens
        return torch.cat([whole, unmask_long(denoiser, xt.to(device), max_len=12, **kinds).tokens]).cpu()

    near = done(torch.device("cpu"))
    with elsewhere():
        assert torch.equal(done(FAR), near)


# ---- memory -----------------------------------------------------------------------------------------------


def test_measuring_never_holds_the_logits_of_every_place_at_once() -> None:
    vocab, rows, length = 24_000, 8, 256
    g = torch.Generator().manual_seed(0)
    held = held_of(torch.randint(0, vocab - 2, (rows, length), generator=g), vocab=vocab)
    model = tiny(vocab_size=vocab, mask_id=vocab - 1, pad_id=None, max_len=length)
    whole = 4 * rows * length * vocab
    plan = Measures(draws=1, batch=rows, seed=4)
    assert peak_bytes(lambda: row_nats(model, held, plan)) < 0.55 * whole
    assert peak_bytes(lambda: confidences(model, held, mask_id=vocab - 1, batch=rows)) < 0.55 * whole
