# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""An encoder's weights in a denoiser: the same states as transformers makes, and nothing half taken over."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_bert
import torch
from denoisers import tiny
from jaxtyping import Float
from torch import Tensor
from transformers import BertForMaskedLM, BertModel

from haloweave.diffusion.denoisers.encoder import Encoder, EncoderConfig
from haloweave.diffusion.errors import BadInput

SHAPE = {"d_model": 32, "n_heads": 2, "d_ff": 64, "max_len": 24}


def bert(seed: int = 1, kind: Any = BertModel, **more: Any) -> Any:
    """With norms and biases by lot as well: new ones are 1 and 0, as ours are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = kind(tiny_bert.config(**more)).eval()
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        return made


def denoiser(**more: Any) -> Encoder:
    made = tiny("encoder", **{**SHAPE, **more})
    assert isinstance(made, Encoder)
    return made


def words(rows: int = 3, length: int = 12) -> Float[Tensor, "B T D"]:
    return torch.randn(rows, length, 32, generator=torch.Generator().manual_seed(3))


def states(mine: Encoder, given: Tensor, present: Tensor | None = None) -> Tensor:
    """Ours, of word vectors that somebody else looked up."""
    placed = mine.embedding.norm(given + mine.embedding.position[: given.shape[1]])
    return mine.trunk(placed, present)


@torch.no_grad()
def test_the_blocks_make_the_states_that_transformers_makes() -> None:
    theirs, mine, given = bert(), denoiser(), words()
    mine.start_from(theirs.state_dict(), heads=2)
    mine.embedding.norm.eps = 1e-12  # BERT's; with ours, 1e-5, inputs differ by that much
    expected = theirs(inputs_embeds=given).last_hidden_state
    torch.testing.assert_close(states(mine, given), expected, atol=1e-5, rtol=0)
    assert (states(denoiser(seed=5), given) - expected).abs().max() > 0.1, "other weights, other states"


@torch.no_grad()
def test_so_do_they_where_tokens_are_missing() -> None:
    theirs, mine, given = bert(), denoiser(), words()
    mine.start_from(theirs.state_dict(), heads=2)
    mine.embedding.norm.eps = 1e-12
    present = torch.arange(12) < torch.tensor([12, 7, 1])[:, None]
    expected = theirs(inputs_embeds=given, attention_mask=present.long()).last_hidden_state
    torch.testing.assert_close(states(mine, given, present)[present], expected[present], atol=1e-5, rtol=0)


@torch.no_grad()
def test_fewer_layers_are_the_first_ones() -> None:
    theirs, mine, given = bert(), denoiser(n_layers=1), words()
    mine.start_from(theirs.state_dict(), heads=2)
    mine.embedding.norm.eps = 1e-12
    expected = theirs(inputs_embeds=given, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states(mine, given), expected[1], atol=1e-5, rtol=0)


def test_a_masked_lm_lends_its_encoder_too() -> None:
    theirs, mine, other = bert(kind=BertForMaskedLM), denoiser(), denoiser()
    mine.start_from(theirs.state_dict(), heads=2)
    other.start_from(theirs.bert.state_dict(), heads=2)
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), other.parameters(), strict=True))


def test_words_head_and_transform_stay_as_they_were() -> None:
    cold, mine = denoiser(), denoiser()
    mine.start_from(bert().state_dict(), heads=2)
    before = dict(cold.named_parameters())
    kept = {n for n, p in mine.named_parameters() if torch.equal(p, before[n])}
    mine_alone = ("embedding.token.weight", "embedding.bias", "transform.weight", "transform.bias")
    assert kept == {*mine_alone, "norm.weight", "norm.bias"}


@pytest.mark.parametrize(
    ("shape", "heads", "told"),
    [
        ({}, 4, "it has 4 heads, got n_heads 2"),
        ({"d_model": 16}, 2, r"expected \(24, 16\), got \(24, 32\); set d_model"),
        ({"d_ff": 48}, 2, r"blocks.0.up.weight: expected \(48, 32\), got \(64, 32\)"),
        ({"n_layers": 3}, 2, "it has no encoder.layer.2"),
        ({"max_len": 161}, 2, "seq_len to its positions at most"),
    ],
    ids=str,
)
def test_an_encoder_of_another_shape_is_refused_and_nothing_changes(
    shape: dict[str, int], heads: int, told: str
) -> None:
    mine = denoiser(**shape)
    before = {name: p.detach().clone() for name, p in mine.named_parameters()}
    with pytest.raises(BadInput, match=told):
        mine.start_from(bert().state_dict(), heads)
    assert all(torch.equal(p, before[name]) for name, p in mine.named_parameters())


def test_the_shape_it_has_by_itself_is_minilms() -> None:
    config = EncoderConfig(vocab_size=9, mask_id=1)
    assert (config.d_model, config.n_layers, config.n_heads, config.d_ff) == (384, 6, 12, 1536)
    with pytest.raises(BadInput, match="norm_eps"):
        EncoderConfig(vocab_size=9, mask_id=1, norm_eps=0.0)
