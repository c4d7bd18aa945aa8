# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The batch interface: checked dictionaries in, diffs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny_mlm
import torch

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, RepairWindow
from haloweave.repair.batch import CulledToken, diffs
from haloweave.repair.masked_lm import MaskedLM, MaskedLMRepairer

CODEC = tiny_mlm.host_codec()
NEW = 7


class Told:
    """Answers what it is told to, and remembers the windows."""

    def __init__(self, *answers: tuple[int, int, list[int], float]) -> None:
        self.answers = answers
        """Window, index of its first token, new ids, gain; one token is replaced."""
        self.asked: list[RepairWindow] = []

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        self.asked += windows
        return tuple(
            Proposal(windows[w].uid[at : at + 1].copy(), np.array(new, np.int32), gain)
            for w, at, new, gain in self.answers
        )


def entry(**changes: Any) -> dict[str, Any]:
    """A good entry, or one with something wrong."""
    whole: dict[str, Any] = {
        "global_cull_position": 42,
        "window_token_ids": [10, 11, 12, 13],
        "window_attention_mask": [1, 1, 1, 1],
        "window_brightness_map": [255.0, 0.0, 51.0, 204.0],
        "masked_position_local": 2,
        "original_token_id_at_mask": 12,
    }
    return whole | changes


def test_a_diff_names_the_global_position_and_both_ids() -> None:
    assert diffs([entry()], Told((0, 2, [NEW], 1.0))) == [(42, 12, NEW)]


def test_the_masked_position_is_hot_and_doomed_and_brightness_is_heat_elsewhere() -> None:
    repairer = Told()
    assert diffs([entry()], repairer) == []
    (window,) = repairer.asked
    np.testing.assert_allclose(window.heat, [0.0, 1.0, 1.0, 0.2], atol=1e-6)
    assert window.doomed.tolist() == [False, False, True, False]
    assert window.token_id.tolist() == [10, 11, 12, 13]


@pytest.mark.parametrize(
    "answer",
    [
        (0, 1, [NEW], 1.0),  # another position
        (0, 2, [12], 1.0),  # no change
        (0, 2, [], 1.0),  # a deletion
        (0, 2, [NEW, NEW], 1.0),  # two for one
    ],
)
def test_what_is_no_real_change_of_the_masked_token_is_no_diff(
    answer: tuple[int, int, list[int], float],
) -> None:
    assert diffs([entry()], Told(answer)) == []


def test_the_greatest_gain_wins() -> None:
    told = Told((0, 2, [5], 1.0), (0, 2, [NEW], 3.0), (0, 2, [6], 2.0))
    assert diffs([entry()], told) == [(42, 12, NEW)]


def test_diffs_come_in_the_order_of_the_inputs_each_from_its_own_window() -> None:
    inputs = [entry(global_cull_position=n) for n in (9, 3, 6)]
    assert diffs(inputs, Told((2, 2, [5], 1.0), (0, 2, [NEW], 1.0))) == [(9, 12, NEW), (6, 12, 5)]


def test_padding_is_cut_off_on_either_side() -> None:
    padded = entry(
        window_token_ids=[0, 0, *[10, 11, 12, 13], -100],
        window_attention_mask=np.array([0, 0, 1, 1, 1, 1, 0], np.float32),
        window_brightness_map=[float("nan"), 0, 255, 0, 51, 204, 999],
        masked_position_local=4,
    )
    repairer, plain = Told((0, 2, [NEW], 1.0)), Told()
    assert diffs([padded], repairer) == [(42, 12, NEW)]
    diffs([entry()], plain)
    assert repairer.asked[0].token_id.tolist() == plain.asked[0].token_id.tolist()
    assert np.array_equal(repairer.asked[0].heat, plain.asked[0].heat)


@pytest.mark.parametrize(
    "make",
    [list, tuple, np.array, torch.tensor, lambda v: torch.tensor(v, requires_grad=isinstance(v[0], float))],
)
def test_columns_may_be_lists_arrays_or_tensors(make: Any) -> None:
    whole = {k: make(v) if isinstance(v, list) else torch.tensor(v) for k, v in entry().items()}
    assert diffs([whole], Told((0, 2, [NEW], 1.0))) == [(42, 12, NEW)]
    assert all(type(i) is int for i in diffs([whole], Told((0, 2, [NEW], 1.0)))[0])


def test_the_typed_entry_says_the_same() -> None:
    assert diffs([CulledToken(**entry())], Told((0, 2, [NEW], 1.0))) == [(42, 12, NEW)]


def test_no_inputs_ask_nobody() -> None:
    class Nobody:
        def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
            raise AssertionError("asked")

    assert diffs([], Nobody()) == []


NAN = float("nan")
WRONG: dict[str, tuple[str, Any]] = {
    "beyond the window": ("masked_position_local", 4),
    "before the window": ("masked_position_local", -1),
    "no whole number": ("masked_position_local", 1.5),
    "on padding": ("window_attention_mask", [1, 1, 0, 1]),
    "another id there": ("original_token_id_at_mask", 11),
    "an id that is none": ("original_token_id_at_mask", "12"),
    "negative position": ("global_cull_position", -3),
    "no position": ("global_cull_position", None),
    "short mask": ("window_attention_mask", [1, 1, 1]),
    "mask of halves": ("window_attention_mask", [1, 1, 1, 0.5]),
    "mask with a hole in it": ("window_attention_mask", [1, 1, 1, NAN]),
    "long brightness": ("window_brightness_map", [0.0] * 5),
    "brightness that is not a number": ("window_brightness_map", [0.0, NAN, 0.0, 0.0]),
    "brightness beyond 255": ("window_brightness_map", [0.0, 256.0, 0.0, 0.0]),
    "negative brightness": ("window_brightness_map", [0.0, -1.0, 0.0, 0.0]),
    "infinite brightness": ("window_brightness_map", [0.0, float("inf"), 0.0, 0.0]),
    "words for brightness": ("window_brightness_map", ["dim", "dim", "dim", "dim"]),
    "two rows": ("window_token_ids", [[10, 11, 12, 13]]),
    "ragged rows": ("window_token_ids", [[10], [11, 12]]),
    "half an id": ("window_token_ids", [10, 11.5, 12, 13]),
    "a negative id": ("window_token_ids", [-10, 11, 12, 13]),
    "an id too large": ("window_token_ids", [2**40, 11, 12, 13]),
    "nothing": ("window_token_ids", None),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_what_is_wrong_is_named_by_entry_and_field(what: str) -> None:
    field, value = WRONG[what]
    blamed = "masked_position_local" if what == "on padding" else field
    repairer = Told()
    with pytest.raises(InvalidInput, match=rf"input 1, {blamed}"):
        diffs([entry(), entry(**{field: value})], repairer)
    assert repairer.asked == []


def test_an_empty_window_has_no_masked_position() -> None:
    nothing = entry(window_token_ids=[], window_attention_mask=[], window_brightness_map=[])
    with pytest.raises(InvalidInput, match="input 0, masked_position_local"):
        diffs([nothing], Told())


@pytest.mark.parametrize("field", sorted(entry()))
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(InvalidInput, match=rf"input 0: {field} is missing"):
        diffs([{k: v for k, v in entry().items() if k != field}], Told())


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(InvalidInput, match="input 0: expected a mapping"):
        diffs([[1, 2, 3]], Told())  # type: ignore[list-item]


@pytest.mark.parametrize("name", sorted(tiny_mlm.ARCHITECTURES))
def test_a_masked_lm_in_one_pass_changes_the_masked_token_alone(name: str) -> None:
    """Words all made `dog`: one diff an entry, though every token of the windows is dim."""
    model, tokenizer = tiny_mlm.ARCHITECTURES[name](0)
    lm = MaskedLM(model, tokenizer, tiny_mlm.mask_id(tokenizer))
    (dog,) = (int(i) for w in ("dog", "Ġdog") if (i := tokenizer.token_to_id(w)) and lm.subwords.begins(i))
    model.get_output_embeddings().bias.data[dog] = 100.0
    repairer = MaskedLMRepairer(lm, CODEC, cutoff=2.0)
    passes: list[int] = []
    model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    ids = CODEC.encode(["the cat sat on the mat and the dog ran"])[0]
    inputs = [
        entry(
            global_cull_position=1000 + n,
            window_token_ids=torch.tensor(ids),
            window_attention_mask=torch.ones(len(ids)),
            window_brightness_map=torch.zeros(len(ids)),
            masked_position_local=n,
            original_token_id_at_mask=ids[n],
        )
        for n in (1, 4, 8)
    ]
    (new,) = CODEC.encode([" dog"])[0]
    assert diffs(inputs, repairer) == [(1001, ids[1], new), (1004, ids[4], new)]
    assert ids[8] == new
    assert len(passes) == 1
    assert repairer.counts.single == 2
    assert repairer.counts.unchanged == 1
