# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The baseline against a slow, plain version of itself."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny_denoiser
import torch
from denoisers import PAD, config_for, texts, tiny
from jaxtyping import Float
from torch import Tensor, nn

from haloweave.diffusion import build
from haloweave.diffusion.checkpoint import config_told, save
from haloweave.diffusion.denoisers.transformer import Block, Transformer
from haloweave.diffusion.errors import BadCheckpoint, BadInput


def attention(block: Block, states: Float[Tensor, "T D"], seen: Tensor) -> Float[Tensor, "T D"]:
    """One row, one head at a time, over the tokens that are there."""
    width = states.shape[1]
    q, k, v = (states @ w.t() + b for w, b in zip(block.qkv.weight.split(width), _thirds(block), strict=True))
    depth, heads = width // block.heads, []
    for first in range(0, width, depth):
        cut = slice(first, first + depth)
        scores = q[:, cut] @ k[seen][:, cut].t() / math.sqrt(depth)
        heads.append(scores.softmax(1) @ v[seen][:, cut])
    mixed: Tensor = block.out(torch.cat(heads, dim=1))
    return mixed


def _thirds(block: Block) -> tuple[Tensor, ...]:
    return block.qkv.bias.split(len(block.qkv.bias) // 3)


def slow(denoiser: Transformer, row: Tensor) -> Float[Tensor, "T D"]:
    states, seen = denoiser.embedding(row[None])[0], row != PAD
    for block in [*denoiser.blocks] * denoiser.config.loops:
        assert isinstance(block, Block)
        states = states + attention(block, block.norm_attention(states), seen)
        inner = block.up(block.norm_ff(states))
        states = states + block.down(inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))
    normed: Tensor = denoiser.norm(states)
    return normed


@pytest.mark.parametrize("loops", [1, 3])
@pytest.mark.parametrize("pads", [0, 4])
def test_blocks_are_attention_and_feed_forward(pads: int, loops: int) -> None:
    denoiser, xt = tiny("transformer", loops=loops), texts(3, 12)
    assert isinstance(denoiser, Transformer)
    for module in denoiser.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(1))
    xt[1, 12 - pads :] = PAD
    hidden = denoiser.hidden(xt)
    for row in range(3):
        torch.testing.assert_close(hidden.tokens[row], slow(denoiser, xt[row]), atol=1e-5, rtol=1e-4)
    assert (hidden.strategy, hidden.passes, hidden.trail) == (None, None, ())


# ---- loops -----------------------------------------------------------------------------------------------


def test_loops_cost_passes_and_no_parameters() -> None:
    once, thrice = tiny("transformer"), tiny("transformer", loops=3)
    assert once.parameters_trained == thrice.parameters_trained
    assert once.state_dict().keys() == thrice.state_dict().keys()
    xt = texts(2, 12)
    once.load_state_dict(thrice.state_dict())
    assert not torch.allclose(once(xt)[..., 5:], thrice(xt)[..., 5:])


def test_what_a_pass_adds_is_smaller_where_there_are_more_of_them() -> None:
    once, many = tiny("transformer", d_model=64, n_layers=2), tiny("transformer", d_model=64, loops=16)
    for one, other in zip(once.blocks, many.blocks, strict=True):
        for name in ("out", "down"):
            torch.testing.assert_close(getattr(one, name).weight, 16 * getattr(other, name).weight)
            assert torch.equal(one.qkv.weight, other.qkv.weight)


@pytest.mark.parametrize("loops", [1, 4, 16])
def test_the_scale_of_the_states_does_not_grow_with_loops(loops: int) -> None:
    denoiser = tiny("transformer", d_model=64, n_heads=4, d_ff=128, loops=loops)
    seen: list[Tensor] = []
    denoiser.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        denoiser.hidden(texts(4, 24))
    assert 0.95 < float(seen[0].std()) < 1.05


def test_every_loop_is_trained_through() -> None:
    """A weight's gradient is that of all loops together: the slope of the loss, by differences."""
    denoiser, xt = tiny("transformer", loops=2).double(), texts(1, 6)
    weight, place, step = denoiser.blocks[0].down.weight, (3, 5), 1e-5

    def loss() -> Tensor:
        return (denoiser.hidden(xt).tokens * torch.arange(1.0, 17.0)).square().mean()

    loss().backward()
    values = []
    for move in (step, -2 * step):
        with torch.no_grad():
            weight[place] += move
            values.append(float(loss()))
    assert float(weight.grad[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("loops", [0, -1, 1025])
def test_loops_that_cannot_be(loops: int) -> None:
    with pytest.raises(BadInput, match=r"loops should be in 1\.\.1024"):
        tiny("transformer", loops=loops)


def test_one_loop_is_the_model_of_before(tmp_path: Path) -> None:
    """Configs and identities saved before there were loops are those of one loop, and no others."""
    one, two = config_for("transformer"), config_for("transformer", loops=2)
    assert "loops" not in config_told(one)
    assert config_told(two)["loops"] == 2
    assert build.config_of(config_told(one)) == one
    assert build.config_of(config_told(two)) == two
    words = tiny_denoiser.tokenizer()
    save(tmp_path, tiny_denoiser.denoiser(words), words, {"step": 1})
    save(tmp_path, tiny_denoiser.denoiser(words, loops=1), words, {"step": 2})
    with pytest.raises(BadCheckpoint, match="loops"):
        save(tmp_path, tiny_denoiser.denoiser(words, loops=2), words, {"step": 3})
