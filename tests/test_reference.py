# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The reference is proved by what it must share with a stock full forward, which has no cache to go wrong.

Knows `SlowReference` and the tiny models. Must not know any engine: those are judged elsewhere, by it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence

import pytest
import torch
from tiny_models import ARCHITECTURES, VOCAB, WINDOW
from torch import Tensor
from transformers import CohereConfig, CohereForCausalLM, DynamicCache, PreTrainedModel

from haloweave.engine.reference import Layout, SlowReference, _rotate
from haloweave.errors import InvalidEdit, InvalidInput, ModelUnsupported

ROTARY = sorted(set(ARCHITECTURES) - {"gpt2"})
LENGTH = 60  # several sliding windows
# In float64 what is left is softmax, norms and angles, which stock code computes in float32: up to 2e-6.
# What a wrong row costs is measured in `test_dropping_is_not_recomputing`.
EXACT = 1e-5


@pytest.fixture(scope="module", params=ROTARY)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return ARCHITECTURES[request.param](0).double()


@pytest.fixture(scope="module", params=["mistral", "gemma3"])
def sliding(request: pytest.FixtureRequest) -> PreTrainedModel:
    return ARCHITECTURES[request.param](0).double()


def some_ids(n: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=n)


def holding(model: PreTrainedModel, ids: Sequence[int]) -> SlowReference:
    reference = SlowReference(model)
    reference.feed(ids)
    return reference


def keep(ids: Sequence[int], slots: Sequence[int]) -> Layout:
    return [(slot, ids[slot]) for slot in slots]


def gap(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def same_rows(a: SlowReference, b: SlowReference) -> bool:
    pairs = zip(a.rows(), b.rows(), strict=True)
    return a.ids == b.ids and all(torch.equal(k, j) and torch.equal(v, w) for (k, v), (j, w) in pairs)


# Feeding


@pytest.mark.parametrize("seed", [0, 1])
def test_feeding_in_any_chunks_is_one_full_forward(model: PreTrainedModel, seed: int) -> None:
    ids, reference = some_ids(LENGTH, seed), SlowReference(model)
    cuts = sorted(random.Random(seed).sample(range(1, LENGTH), 6))
    for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        logits = reference.feed(ids[start:stop])
        assert gap(logits, SlowReference.fresh(model, ids[:stop])) <= EXACT
    assert reference.ids == ids


def test_rows_are_what_a_stock_cache_would_hold(model: PreTrainedModel) -> None:
    """Logits know distances only; that slot i stands at position i, not i + 1, shows here."""
    ids, cache = some_ids(LENGTH), DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]), past_key_values=cache)
    for (keys, values), layer in zip(holding(model, ids).rows(), cache.layers, strict=True):
        assert gap(keys, layer.keys[0]) <= EXACT
        assert gap(values, layer.values[0]) <= EXACT


def test_the_window_shows_at_this_length(sliding: PreTrainedModel) -> None:
    wide = copy.deepcopy(sliding)
    wide.config.sliding_window = 10 * LENGTH
    ids = some_ids(LENGTH)
    assert gap(SlowReference.fresh(sliding, ids), SlowReference.fresh(wide, ids)) > 0.01
    assert gap(SlowReference.fresh(sliding, ids[:WINDOW]), SlowReference.fresh(wide, ids[:WINDOW])) == 0


def test_peeking_tells_the_feed_and_changes_nothing(model: PreTrainedModel) -> None:
    ids = some_ids(LENGTH)
    reference, untouched = holding(model, ids[:50]), holding(model, ids[:50])
    peeked = reference.peek(ids[50:])
    assert same_rows(reference, untouched)
    assert torch.equal(peeked, reference.feed(ids[50:]))


def test_recomputing_is_a_fresh_prefill(model: PreTrainedModel) -> None:
    reference, ids = holding(model, some_ids(20)), some_ids(LENGTH, seed=1)
    reference.recompute(ids[:-1])
    assert gap(reference.peek(ids[-1:]), SlowReference.fresh(model, ids)) <= EXACT
    reference.recompute([])
    assert reference.ids == []
    assert gap(reference.feed(ids), SlowReference.fresh(model, ids)) <= EXACT


@pytest.mark.parametrize("name", ROTARY)
def test_single_precision_is_as_good_as_its_rounding(name: str) -> None:
    single, ids = ARCHITECTURES[name](0), some_ids(LENGTH)
    reference = holding(single, ids[:40])
    reference.feed(ids[40:41])
    logits = reference.feed(ids[41:])
    assert logits.dtype == torch.float32
    assert gap(logits, SlowReference.fresh(single, ids)) <= 1e-5 * logits.abs().max()


# Edits that must equal a full forward


def test_keeping_everything_changes_nothing(model: PreTrainedModel) -> None:
    ids = some_ids(LENGTH)
    reference, untouched = holding(model, ids), holding(model, ids)
    reference.edit(keep(ids, range(LENGTH)))
    assert same_rows(reference, untouched)
    assert torch.equal(reference.peek([1, 2]), untouched.peek([1, 2]))


def test_cutting_the_tail_is_never_having_read_it(model: PreTrainedModel) -> None:
    ids = some_ids(LENGTH)
    reference = holding(model, ids)
    reference.edit(keep(ids, range(37)))
    assert gap(reference.peek([7]), SlowReference.fresh(model, [*ids[:37], 7])) <= EXACT


@pytest.mark.parametrize("survivors", [0, 1, 37])
def test_births_right_of_all_survivors_are_a_prefill(model: PreTrainedModel, survivors: int) -> None:
    ids, born = some_ids(LENGTH), some_ids(LENGTH - survivors, seed=1)
    reference = holding(model, ids)
    reference.edit([*keep(ids, range(survivors)), *((None, token_id) for token_id in born)])
    assert reference.ids == [*ids[:survivors], *born]
    assert gap(reference.peek([7]), SlowReference.fresh(model, [*ids[:survivors], *born, 7])) <= EXACT


def test_a_birth_in_the_middle_knows_its_left_and_is_unknown_on_its_right(model: PreTrainedModel) -> None:
    ids, at = some_ids(LENGTH), 30
    before, prefilled = holding(model, ids), holding(model, [*ids[:at], 7])
    reference = holding(model, ids)
    reference.edit([*keep(ids, range(at)), (None, 7), *keep(ids, range(at, LENGTH))])
    for (keys, values), (old_keys, old_values), (left_keys, left_values) in zip(
        reference.rows(), before.rows(), prefilled.rows(), strict=True
    ):
        assert gap(keys[:, : at + 1], left_keys) <= EXACT
        assert gap(values[:, : at + 1], left_values) <= EXACT
        assert torch.equal(values[:, at + 1 :], old_values[:, at:])
        assert gap(keys[:, at + 1 :], old_keys[:, at:]) > 0.01  # one slot further: rotated


def one_layer(model: PreTrainedModel) -> PreTrainedModel:
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    short = type(model)(config).to(model.dtype)
    short.load_state_dict(model.state_dict(), strict=False)
    return short.eval()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_one_layer_every_edit_is_a_prefill(model: PreTrainedModel, seed: int) -> None:
    """A first layer's rows depend on nothing but their tokens, so here DROP and PATCH have nothing in which
    to differ from RECOMPUTE: what is left is rotation, positions and masks, against the model's own."""
    rng, ids, short = random.Random(seed), some_ids(LENGTH, seed), one_layer(model)
    reference = holding(short, ids)
    layout: list[tuple[int | None, int]] = []
    for slot in range(LENGTH):
        layout += [(None, rng.randrange(VOCAB))] * (rng.random() < 0.15)
        layout += keep(ids, [slot]) * (rng.random() < 0.7)
    reference.edit(layout)
    edited = [token_id for _, token_id in layout]
    assert reference.ids == edited != ids
    assert gap(reference.feed([7, 8]), SlowReference.fresh(short, [*edited, 7, 8])) <= EXACT


# Edits that must not


def test_dropping_is_not_recomputing(model: PreTrainedModel) -> None:
    ids, rng = some_ids(LENGTH), random.Random(0)
    kept = sorted(rng.sample(range(LENGTH), 45))
    survivors = [ids[slot] for slot in kept]
    reference = holding(model, ids)
    reference.edit(keep(ids, kept))
    after_drop, fresh = reference.peek([7]), SlowReference.fresh(model, [*survivors, 7])
    assert gap(after_drop, fresh) > 0.05
    reference.recompute(survivors)
    assert gap(reference.peek([7]), fresh) <= EXACT


def test_two_deletions_are_their_union(model: PreTrainedModel) -> None:
    ids, rng = some_ids(LENGTH), random.Random(0)
    first = sorted(rng.sample(range(LENGTH), 45))
    second = sorted(rng.sample(range(45), 30))
    twice, once = holding(model, ids), holding(model, ids)
    twice.edit(keep(ids, first))
    twice.edit(keep(twice.ids, second))
    once.edit(keep(ids, [first[slot] for slot in second]))
    assert same_rows(twice, once)


def test_deleting_the_head_keeps_distances(model: PreTrainedModel) -> None:
    ids, gone = some_ids(LENGTH), 13
    reference = holding(model, ids)
    before = reference.rows()
    reference.edit(keep(ids, range(gone, LENGTH)))
    for (keys, values), (old_keys, old_values) in zip(reference.rows(), before, strict=True):
        old_keys = old_keys[:, gone:]
        assert torch.equal(values, old_values[:, gone:])
        assert gap(keys, old_keys) > 0.01
        assert gap(keys @ keys.mT, old_keys @ old_keys.mT) <= 1e-10


# Rows that come back


def test_rows_put_back_where_they_were_make_the_context_whole(model: PreTrainedModel) -> None:
    ids, gone = some_ids(LENGTH), [0, 7, 8, 30, LENGTH - 1]
    reference, untouched = holding(model, ids), holding(model, ids)
    saved, kept = reference.save(gone), [slot for slot in range(LENGTH) if slot not in gone]
    reference.edit(keep(ids, kept))
    whole = [(None, ids[slot]) if slot in gone else (kept.index(slot), ids[slot]) for slot in range(LENGTH)]
    reference.edit(whole, saved)
    assert same_rows(reference, untouched)


def test_rows_put_back_elsewhere_keep_what_they_knew(model: PreTrainedModel) -> None:
    """The value is the old one, whatever now stands to the left; the key differs by its rotation alone."""
    ids = some_ids(LENGTH)
    reference, computed = holding(model, ids), holding(model, ids)
    saved, rest = reference.save([40, 41]), keep(ids, range(2, 40))
    layout: Layout = [(None, ids[40]), (None, ids[41]), *rest]
    reference.edit(layout, saved)
    computed.edit(layout)
    slots = torch.arange(2)
    here = _rotate(saved.keys, slots, reference._frequencies)
    for n, (keys, values) in enumerate(reference.rows()):
        assert torch.equal(values[:, :2], saved.values[n])
        assert torch.equal(keys[:, :2], here[n])
    assert gap(reference.rows()[-1][1][:, :2], computed.rows()[-1][1][:, :2]) > 0.01


# Rotation


def test_rotation_is_relative_and_can_be_undone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 2, 50, 16, generator=generator, dtype=torch.float64)  # L H S D
    frequencies = torch.rand(3, 4, generator=generator, dtype=torch.float64)  # half of D is left alone
    slots = torch.arange(50)
    here = _rotate(q, slots, frequencies) @ _rotate(k, slots, frequencies).mT
    there = _rotate(q, slots + 400, frequencies) @ _rotate(k, slots + 400, frequencies).mT
    apart = _rotate(q, slots + 1, frequencies) @ _rotate(k, slots, frequencies).mT
    assert gap(here, there) <= 1e-11
    assert gap(here, apart) > 0.1
    assert gap(_rotate(_rotate(k, slots, frequencies), -slots, frequencies), k) <= 1e-14
    assert torch.equal(_rotate(k, slots, frequencies)[..., 8:], k[..., 8:])


# Sliding windows in an edited context


@pytest.mark.parametrize(("slot", "sees_the_first"), [(WINDOW - 1, True), (WINDOW, False)])
def test_a_birth_sees_its_window_of_the_edited_context(
    sliding: PreTrainedModel, slot: int, sees_the_first: bool
) -> None:
    """Two contexts that differ in their first token alone, and the last rows of both, too late to have seen
    it: a row born after them tells the contexts apart exactly if slot 0 is within (slot - WINDOW, slot]."""
    born = []
    for first in (1, 2):
        ids = [first, *some_ids(LENGTH - 1)]
        reference = holding(sliding, ids)
        reference.edit([*keep(ids, [0, *range(LENGTH - slot + 1, LENGTH)]), (None, 7)])
        assert len(reference.ids) == slot + 1
        _, values = reference.rows()[1]  # the second layer shows what the first, a sliding one, saw
        born.append(values[:, slot])
    assert (gap(born[0], born[1]) > 1e-4) == sees_the_first
    assert sees_the_first or torch.equal(born[0], born[1])


# Refusals


@pytest.mark.parametrize(
    "layout",
    [[(1, 1), (0, 0)], [(0, 0), (0, 0)], [(3, 0)], [(-1, 2)], [(0, 9)], [(None, 5), (2, 1)]],
    ids=["backwards", "twice", "past the end", "negative", "another token", "another token after a birth"],
)
def test_an_illegal_layout_raises_and_changes_nothing(layout: Layout) -> None:
    llama = ARCHITECTURES["llama"](0)
    reference, untouched = holding(llama, [0, 1, 2]), holding(llama, [0, 1, 2])
    with pytest.raises(InvalidEdit):
        reference.edit(layout)
    with pytest.raises(InvalidInput):
        reference.feed([])
    with pytest.raises(InvalidInput):
        reference.edit([(0, 0), (None, VOCAB)])
    assert same_rows(reference, untouched)


@pytest.mark.parametrize("layout", [[(0, 0), (None, 2)], [(0, 0), (None, 1), (None, 1)], [(0, 0)]])
def test_saved_rows_of_other_births_raise_and_change_nothing(layout: Layout) -> None:
    llama = ARCHITECTURES["llama"](0)
    reference, untouched = holding(llama, [0, 1, 2]), holding(llama, [0, 1, 2])
    with pytest.raises(InvalidEdit, match="births"):
        reference.edit(layout, reference.save([1]))
    for slot in (-1, 3):
        with pytest.raises(InvalidInput):
            reference.save([slot])
    assert same_rows(reference, untouched)


def test_absolute_positions_have_only_the_full_forward() -> None:
    gpt2 = ARCHITECTURES["gpt2"](0)
    assert SlowReference.fresh(gpt2, [1, 2, 3]).shape == (VOCAB,)
    with pytest.raises(ModelUnsupported, match="fresh"):
        SlowReference(gpt2)


def test_a_layout_the_formula_does_not_describe_is_found_out() -> None:
    interleaved = CohereConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    assert interleaved.rope_parameters["rope_type"] == "default"  # nothing in the config says so
    with pytest.raises(ModelUnsupported, match="spread"):
        SlowReference(CohereForCausalLM(interleaved))


# Independence


def test_the_given_model_and_the_random_state_are_left_alone() -> None:
    llama = ARCHITECTURES["llama"](0)
    before, state = copy.deepcopy(llama.state_dict()), torch.get_rng_state()
    implementation = llama.config._attn_implementation
    holding(llama, [1, 2, 3]).edit([(None, 5), (2, 3)])
    SlowReference.fresh(llama, [1, 2, 3])
    assert llama.config._attn_implementation == implementation != "eager"
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_hooks_on_the_given_model_do_not_come_along() -> None:
    llama = ARCHITECTURES["llama"](0)
    expected = SlowReference.fresh(llama, [1, 2, 3])
    llama.model.layers[0].register_forward_hook(lambda module, args, output: output * 0)
    assert torch.equal(SlowReference.fresh(llama, [1, 2, 3]), expected)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_tiny_models_depend_on_the_seed_alone(name: str) -> None:
    ids = some_ids(LENGTH)
    first, again, other = (SlowReference.fresh(ARCHITECTURES[name](seed), ids) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert gap(first, other) > 0.5
    assert 0.5 < first.std().item() < 5


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_tiny_models_attend_far_from_uniformly(name: str) -> None:
    tiny = ARCHITECTURES[name](0)
    tiny.set_attn_implementation("eager")
    with torch.no_grad():
        layers = tiny(torch.tensor([some_ids(LENGTH)]), output_attentions=True).attentions
    for attention in layers:
        last = attention[0, :, -1]
        seen = int((last > 0).any(0).sum())
        assert last.max(-1).values.mean() > 3 / seen  # uniform would be 1 / seen
