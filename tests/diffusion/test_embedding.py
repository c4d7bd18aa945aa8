# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Token vectors and the tied head, of one's own and borrowed, against their plain formulas."""

from __future__ import annotations

import pytest
import torch
from denoisers import MASK, PAD, WIDTH, V, config_for, texts
from jaxtyping import Float
from torch import Tensor

from haloweave.diffusion.denoisers.borrowed import INIT, BorrowedTable, digest
from haloweave.diffusion.denoisers.embedding import Embedding, masked_share
from haloweave.diffusion.errors import BadInput

E = 40
RANKS = pytest.mark.parametrize("rank", [None, 5])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def host(scale: float = 1.0) -> Float[Tensor, "V E"]:
    return torch.randn(V, E, generator=generator(5)) * scale


def own(**options: object) -> Embedding:
    return Embedding(config_for("transformer", **options))


def lent(rank: int | None = None, table: Tensor | None = None) -> Embedding:
    config = config_for("transformer", borrowed_dim=E, projection_rank=rank)
    return Embedding(config, host() if table is None else table)


def vectors(embedding: Embedding) -> Float[Tensor, "V D"]:
    """Every token's vector, by the definition of a factorised projection."""
    token = embedding.token
    if not isinstance(token, BorrowedTable):
        return token.weight
    thin = token.table @ token.narrow.t()
    return thin if token.widen is None else thin @ token.widen.t()


def test_states_are_token_plus_position_normed() -> None:
    embedding, xt = own(), texts()
    plain = vectors(embedding)[xt] + embedding.position[:12]
    centred = plain - plain.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(embedding(xt), expected)


@pytest.mark.parametrize("embedding", [own(), lent(), lent(5)], ids=["own", "lent", "factorised"])
@pytest.mark.parametrize("states", [(7, WIDTH), (2, 3, WIDTH), (200, WIDTH), (0, WIDTH)], ids=str)
def test_the_head_is_tied_and_knows_no_mask(embedding: Embedding, states: tuple[int, ...]) -> None:
    with torch.no_grad():
        embedding.bias.copy_(torch.randn(V, generator=generator()))
    given = torch.randn(states, generator=generator(1))
    expected = given @ vectors(embedding).t() + embedding.bias
    expected[..., MASK] = -torch.inf
    torch.testing.assert_close(embedding.logits(given), expected)


def test_the_masks_bias_gets_no_gradient_and_the_others_do() -> None:
    embedding = own()
    embedding.logits(torch.randn(7, WIDTH, generator=generator())).softmax(-1)[:, 5].sum().backward()
    grad = embedding.bias.grad
    assert grad is not None
    assert grad[MASK] == 0
    assert torch.isfinite(grad).all()
    assert (grad[[0, 5, V - 1]] != 0).all()


@pytest.mark.parametrize("embedding", [own(), lent(), lent(5)], ids=["own", "lent", "factorised"])
def test_an_expected_vector_is_the_mean_under_the_prediction(embedding: Embedding) -> None:
    logits = embedding.logits(torch.randn(2, 3, WIDTH, generator=generator()))
    expected = logits.softmax(-1) @ vectors(embedding)
    got = embedding.expected(logits)
    torch.testing.assert_close(got, expected.detach())
    assert not got.requires_grad
    sure = torch.full((1, 1, V), -torch.inf).index_fill(2, torch.tensor([9]), 0.0)
    torch.testing.assert_close(embedding.expected(sure)[0, 0], vectors(embedding)[9].detach())


def test_present_is_none_where_nothing_is_to_be_minded() -> None:
    embedding, xt = own(), texts(2, 5)
    assert embedding.present(xt) is None
    assert own(pad_id=None).present(torch.full((2, 5), PAD)) is None
    xt[0, 3:] = PAD
    present = embedding.present(xt)
    assert present is not None
    assert present.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    xt[1] = PAD
    present = embedding.present(xt)
    assert present is not None
    assert present[1].all()
    assert embedding.present(torch.full((2, 5), PAD)) is None


def test_the_share_of_masks_leaves_pads_out() -> None:
    xt = torch.tensor([[MASK, 7, PAD, PAD], [MASK, MASK, MASK, MASK], [PAD] * 4])
    assert masked_share(xt, MASK, PAD).tolist() == [0.5, 1.0, 0.0]
    assert masked_share(xt, MASK, None).tolist() == [0.25, 1.0, 0.0]


def test_levels_are_apart_and_smooth() -> None:
    level = own(time_conditioning=True).level
    assert level is not None
    at = level(torch.linspace(0, 1, 1001))
    steps = (at[1:] - at[:-1]).norm(dim=-1)
    assert steps.min() > 0
    assert steps.max() < (at[0] - at[-1]).norm()


@RANKS
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_borrowed_vectors_begin_at_the_scale_of_own_ones(rank: int | None, scale: float) -> None:
    torch.manual_seed(0)
    config = config_for(
        "transformer", borrowed_dim=E, projection_rank=rank and 64, d_model=256, vocab_size=1000
    )
    table = torch.randn(1000, E, generator=generator()) * scale
    spread = vectors(Embedding(config, table)).std()
    assert float(spread.detach()) == pytest.approx(INIT, rel=0.15)


def test_the_head_begins_at_frequencies_and_knows_nothing_else() -> None:
    counts = torch.arange(V)
    embedding = own()
    embedding.begin_at(counts)
    p = embedding.logits(torch.zeros(WIDTH)).softmax(-1)
    expected = (counts + 1.0).index_fill(0, torch.tensor([MASK]), 0)
    torch.testing.assert_close(p, expected / expected.sum())


@pytest.mark.parametrize("rank", [None, 5])
def test_read_fully_the_factorised_projection_is_the_heads_alone(rank: int | None) -> None:
    config = config_for("transformer", borrowed_dim=E, projection_rank=rank, reads_fully=True)
    embedding = Embedding(config, host())
    token = embedding.token
    assert isinstance(token, BorrowedTable)
    assert token.read is not None
    torch.testing.assert_close(token.look_up(texts()), token.table[texts()] @ token.read.T)
    states = torch.randn(3, WIDTH, generator=generator())
    head = token.narrow.T if token.widen is None else token.narrow.T @ token.widen.T
    found = token.scores(states, torch.zeros(V))
    torch.testing.assert_close(found, states @ (token.table @ head).T)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert token.read.grad is None


def test_there_is_nothing_to_read_fully_without_a_host() -> None:
    with pytest.raises(BadInput, match="reads_fully are for borrowed embeddings"):
        own(reads_fully=True)


@RANKS
def test_mask_and_pad_have_vectors_that_the_host_does_not_decide(rank: int | None) -> None:
    one, other = lent(rank), host()
    other[[MASK, PAD]] = 99.0
    another = lent(rank, other)
    another.load_state_dict(one.state_dict())
    specials, same = [MASK, PAD], vectors(one)
    torch.testing.assert_close(vectors(another)[specials], same[specials])
    vectors(one)[MASK].sum().backward()
    assert isinstance(one.token, BorrowedTable)
    grad = one.token.narrow.grad
    assert grad is not None
    assert (grad[:, :E] == 0).all()
    assert (grad[:, E] != 0).all()
    assert (same[MASK] - same[PAD]).abs().max() > 1e-3


def test_a_lent_table_is_neither_changed_nor_watched() -> None:
    table = host()
    before, embedding = table.clone(), lent(None, table)
    table += 1
    assert isinstance(embedding.token, BorrowedTable)
    assert torch.equal(embedding.token.table[7, :E], before[7])
    assert not embedding.token.table.requires_grad


def test_half_precision_is_lent_in_full() -> None:
    embedding = lent(None, host().bfloat16())
    assert isinstance(embedding.token, BorrowedTable)
    assert embedding.token.table.dtype == torch.float32
    assert embedding.borrowed_digest == digest(host().bfloat16().float())


def test_the_digest_tells_tables_apart_and_own_vectors_have_none() -> None:
    assert own().borrowed_digest is None
    assert lent().borrowed_digest == digest(host())
    assert len({digest(host()), digest(host().flip(0)), digest(host().reshape(E, V)), digest(host(2))}) == 4
    assert digest(host().t().contiguous().t()) == digest(host())


def test_a_table_of_zeros_is_no_division_by_zero() -> None:
    assert torch.isfinite(lent(None, torch.zeros(V, E))(texts())).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_damaged_table_is_refused(bad: float) -> None:
    table = host()
    table[3, 4] = bad
    with pytest.raises(BadInput, match="finite"):
        lent(None, table)


def test_a_rank_without_a_host_is_refused() -> None:
    with pytest.raises(BadInput, match="projection_rank"):
        own(projection_rank=5)


@RANKS
def test_few_states_go_to_the_host_and_many_fetch_the_table_once(rank: int | None) -> None:
    """Both ways of multiplying are taken, and agree."""
    token = lent(rank).token
    assert isinstance(token, BorrowedTable)
    width = rank or WIDTH
    assert token._few(torch.zeros(1, width))
    assert not token._few(torch.zeros(1000, width))
    states = torch.randn(1000, WIDTH, generator=generator())
    many, bias = token.scores(states, torch.zeros(V)), torch.zeros(V)
    for i in (0, 999):
        torch.testing.assert_close(token.scores(states[i : i + 1], bias)[0], many[i], atol=1e-5, rtol=1e-5)
