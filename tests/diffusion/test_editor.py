# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The editor decides before it names a token; and denoisers made ready for use answer as before.

What every denoiser must do is in test_denoisers."""

from __future__ import annotations

import math

import pytest
import torch
from denoisers import EACH, MASK, PAD, V, texts, tiny
from torch.nn import functional as F

from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.denoisers.borrowed import SettledTable
from haloweave.diffusion.denoisers.editor import DELETE, KEEP, SUBSTITUTE, Editor, decisions
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.loss import masked_mean_ce
from haloweave.diffusion.scars import Scars


def editor(**options: object) -> Editor:
    made = tiny("editor", **options)
    assert isinstance(made, Editor)
    return made


def test_decisions_say_how_the_noisy_row_becomes_the_clean_one() -> None:
    xt = torch.tensor([[5, 6, MASK, MASK, PAD, 9]])
    x0 = torch.tensor([[5, 7, 8, PAD, PAD, PAD]])
    assert decisions(xt, x0, PAD).tolist() == [[KEEP, SUBSTITUTE, SUBSTITUTE, DELETE, KEEP, DELETE]]
    assert decisions(xt, x0, None).tolist() == [[KEEP, SUBSTITUTE, SUBSTITUTE, SUBSTITUTE, KEEP, SUBSTITUTE]]


def test_a_mask_is_never_kept_and_decisions_are_probabilities() -> None:
    denoiser, xt = editor(), texts()
    told = denoiser.edits(denoiser.hidden(xt).tokens, xt)
    assert told.shape == (*xt.shape, 3)
    assert torch.allclose(told.exp().sum(-1), torch.ones(xt.shape))
    assert bool((told[..., KEEP] == -math.inf)[xt == MASK].all())
    assert bool((told[..., KEEP] > -math.inf)[xt != MASK].all())


def test_the_head_is_asked_only_for_what_is_substituted() -> None:
    xt = torch.tensor([[5, 6, MASK, MASK, 9]])
    x0 = torch.tensor([[5, 7, 8, PAD, PAD]])
    weight = torch.tensor([[0.5, 0.5, 1.0, 1.0, 0.5]])
    assert editor().head_weight(xt, x0, weight).tolist() == [[0.0, 0.5, 1.0, 0.0, 0.0]]


def test_the_loss_is_that_of_tokens_and_that_of_decisions_each_over_its_own_places() -> None:
    denoiser = editor(lambda_edit=2.0)
    xt = torch.tensor([[5, 6, MASK, MASK, 9], [5, 6, 7, 8, 9]])
    x0 = torch.tensor([[5, 7, 8, PAD, PAD], [5, 6, 7, 8, 9]])
    weight = torch.tensor([[0.5, 0.5, 1.0, 1.0, 0.5], [0.0, 0.5, 0.5, 0.0, 0.0]])
    found = masked_mean_ce(denoiser, Corrupted(xt, x0, torch.zeros(2, 5), weight))
    states = denoiser.hidden(xt, torch.zeros(2, 5)).tokens
    token = denoiser.logits(states).log_softmax(-1)
    edit = denoiser.edits(states, xt)
    ce = -(0.5 * token[0, 1, 7] + 1.0 * token[0, 2, 8]) / 1.5 / 2  # the second row asks for none
    rows: list[float] = []
    for row in range(2):
        right = decisions(xt, x0, PAD)[row]
        terms = torch.stack([edit[row, i, right[i]] for i in range(5) if weight[row, i] > 0])
        counted = weight[row][weight[row] > 0]
        rows.append(float((-(terms * counted).sum() / counted.sum()).detach()))
    assert float(found.parts["ce"]) == pytest.approx(float(ce.detach()), rel=1e-5)
    assert float(found.parts["edit"].detach()) == pytest.approx(2.0 * sum(rows) / 2, rel=1e-5)


def test_a_mask_as_a_target_asks_for_nothing() -> None:
    xt = torch.tensor([[5, MASK]])
    batch = Corrupted(xt, xt, torch.zeros(1, 2), torch.ones(1, 2))
    assert math.isfinite(float(masked_mean_ce(editor(), batch).parts["edit"]))


def test_a_weight_of_the_decisions_that_is_none_is_refused() -> None:
    for weight in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(BadInput, match="lambda_edit"):
            editor(lambda_edit=weight)


def test_it_learns_to_find_what_is_wrong() -> None:
    """In an alternation of two tokens anything else is wrong."""
    torch.manual_seed(0)
    denoiser = tiny("editor", d_model=32, d_ff=64, time_conditioning=True).train()
    assert isinstance(denoiser, Editor)
    noise = Scars(MASK, PAD, V, culled=0.0, wrong=0.3, spurious=0.0, locked=0.0, near=0.0, specials=(0, 1, 2))
    optimizer, generator = torch.optim.AdamW(denoiser.parameters(), 4e-3), torch.Generator().manual_seed(0)

    def batch() -> Corrupted:
        x0 = torch.tensor([[5, 6] * 10]).repeat(32, 1)
        return noise(x0, torch.ones(32), generator)

    for _ in range(150):
        loss = masked_mean_ce(denoiser, batch()).total
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    denoiser.eval()
    seen = batch()
    with torch.no_grad():
        states = denoiser.hidden(seen.xt, seen.rate).tokens
        said, token = denoiser.edits(states, seen.xt).argmax(-1), denoiser.logits(states).argmax(-1)
    wrong = seen.xt != seen.x0
    assert float((said == SUBSTITUTE)[wrong].float().mean()) > 0.95
    assert float((token == seen.x0)[wrong].float().mean()) > 0.95
    assert float((said == KEEP)[~wrong].float().mean()) > 0.95


# ---- ready for use -----------------------------------------------------------------------------------

TABLE = torch.randn(V, 12, generator=torch.Generator().manual_seed(1))


def borrowing(arch: str, rank: int | None) -> Denoiser:
    return tiny(arch, TABLE, projection_rank=rank, time_conditioning=True)


@EACH
@pytest.mark.parametrize("rank", [None, 4])
def test_settled_it_answers_as_before(arch: str, rank: int | None) -> None:
    before, ready = borrowing(arch, rank), borrowing(arch, rank).settled()
    xt, level = texts(), torch.rand(3, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(ready(xt, level), before(xt, level), atol=1e-5)
        some = before(xt, level)
        assert torch.allclose(ready.embed_prediction(some), before.embed_prediction(some), atol=1e-5)
    tables = [m for m in ready.modules() if isinstance(m, SettledTable)]
    assert [tuple(t.thin.shape) for t in tables] == [(V, rank or 16)]
    assert not any(p.requires_grad for p in ready.parameters())


@EACH
def test_settled_in_16_bits_it_answers_nearly_as_before(arch: str) -> None:
    before, ready = borrowing(arch, 4), borrowing(arch, 4).settled(torch.bfloat16)
    xt = texts(masked=0.3)
    with torch.no_grad():
        for level in (
            torch.full((3, 12), 0.5),
            torch.full((3, 12), 0.503),
        ):  # 16 bits cannot tell these apart
            p, q = (F.softmax(d(xt, level).float(), -1) for d in (before, ready))
            assert float((p - q).abs().max()) < 0.02


def test_settling_vectors_of_ones_own_changes_nothing() -> None:
    before, ready = tiny("transformer"), tiny("transformer").settled()
    assert torch.equal(ready(texts()), before(texts()))
