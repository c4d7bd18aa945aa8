# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Soft targets against distributions that are written out in full, and what the loss makes of them."""

from __future__ import annotations

import pytest
import torch
from denoisers import MASK, PAD, V, texts, tiny
from jaxtyping import Float
from torch import Tensor

from haloweave.diffusion.corrupt import Corrupted, absorb, hybrid
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.loss import masked_mean_ce
from haloweave.diffusion.soft_targets import SoftTargets, kept

EVERYWHERE = torch.ones(2, 5, dtype=torch.bool)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def told(seed: int = 0, top: int = 4, share: float = 0.5) -> tuple[Float[Tensor, "B T V"], SoftTargets]:
    """A teacher's logits at 2 x 5 places over 9 tokens, and what is kept of them."""
    logits = 2 * torch.randn(2, 5, 9, generator=seeded(seed), dtype=torch.float64)
    return logits, SoftTargets(*kept(logits, top), share)


def lumped(p: Tensor, soft: SoftTargets) -> Tensor:
    """Probabilities of the kept tokens and of all others together, one by one."""
    rows = []
    for row, tokens in zip(
        p.reshape(-1, p.shape[-1]), soft.tokens.reshape(-1, soft.tokens.shape[-1]), strict=True
    ):
        rest = sum(row[i] for i in range(len(row)) if i not in tokens.tolist())
        rows.append(torch.stack([*(row[i] for i in tokens.tolist()), torch.as_tensor(rest)]))
    return torch.stack(rows)


def test_the_likeliest_are_kept() -> None:
    logits, soft = told()
    p = logits.softmax(-1)
    best = p.topk(4).indices
    assert torch.equal(soft.tokens.long(), best)
    torch.testing.assert_close(soft.probabilities.double(), p.gather(-1, best), atol=1e-6, rtol=0)
    assert bool((soft.probabilities.sum(-1) < 1).all())


@pytest.mark.parametrize("top", [1, 4, 8, 9])
def test_the_cross_entropy_is_that_of_the_lumped_distributions(top: int) -> None:
    logits, soft = told(top=top)
    student = torch.randn(2, 5, 9, generator=seeded(7), dtype=torch.float64)
    p, q = lumped(logits.softmax(-1), soft), lumped(student.softmax(-1), soft)
    expected = -(p * q.clamp(min=1e-12).log()).sum(-1)
    found = soft.cross_entropies(student[EVERYWHERE], EVERYWHERE)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_nobody_does_better_than_the_teacher_itself() -> None:
    logits, soft = told()
    student = logits[EVERYWHERE].clone().requires_grad_()
    soft.cross_entropies(student, EVERYWHERE).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5
    worse = soft.cross_entropies(logits[EVERYWHERE] + torch.randn(10, 9, generator=seeded(2)), EVERYWHERE)
    assert bool((worse > soft.cross_entropies(logits[EVERYWHERE], EVERYWHERE)).all())


@pytest.mark.parametrize("sure", [1e3, 1e4])
def test_a_student_that_is_certain_gets_finite_losses_and_gradients(sure: float) -> None:
    _, soft = told()
    student = torch.zeros(10, 9)
    student[:, 2] = sure
    student.requires_grad_()
    found = soft.cross_entropies(student, EVERYWHERE)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert bool(found.isfinite().all() & student.grad.isfinite().all())


def test_a_token_that_is_never_predicted_disturbs_nothing() -> None:
    """The mask's logit is -inf; no teacher keeps it, for it is no token of a host."""
    _, soft = told()
    student = torch.randn(10, 10, generator=seeded(1))
    student[:, 9] = -torch.inf
    found = soft.cross_entropies(student, EVERYWHERE)
    torch.testing.assert_close(found, soft.cross_entropies(student[:, :9], EVERYWHERE))


def test_where_the_teacher_is_silent_there_is_nothing() -> None:
    _, soft = told()
    probabilities = soft.probabilities.clone()
    probabilities[0, 3] = 0
    quiet = SoftTargets(soft.tokens, probabilities, 0.5)
    student = torch.randn(10, 9, generator=seeded(1))
    student[3] = -torch.inf  # whatever token is named there, were it the mask itself
    student[3, 5] = 0.0
    student.requires_grad_()
    found = quiet.cross_entropies(student, EVERYWHERE)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert (found == 0).nonzero().flatten().tolist() == [3]
    assert (~quiet.answered).nonzero().tolist() == [[0, 3]]


def test_what_is_no_target_is_refused() -> None:
    _, soft = told()
    with pytest.raises(BadInput, match=r"expected tokens and probabilities \[B T K\]"):
        SoftTargets(soft.tokens, soft.probabilities[..., :2], 0.5)
    with pytest.raises(BadInput, match="share"):
        SoftTargets(soft.tokens, soft.probabilities, 1.5)


# ---- in the loss -------------------------------------------------------------------------------------


def batch(seed: int = 0) -> Corrupted:
    x0, rate = texts(4, 12, masked=0), torch.tensor([0.2, 0.5, 0.8, 1.0])
    return absorb(x0, rate, mask_id=MASK, pad_id=PAD, generator=seeded(seed), at_least=1)


def answers(share: float) -> SoftTargets:
    """To the first two rows alone, and not at their first place."""
    logits = torch.randn(4, 12, V, generator=seeded(5)).index_fill(-1, torch.tensor([MASK, PAD]), -9.0)
    tokens, probabilities = kept(logits, 5)
    probabilities[2:] = 0
    probabilities[:, 0] = 0
    return SoftTargets(tokens, probabilities, share)


@torch.no_grad()
def test_masked_places_with_an_answer_weigh_both_and_all_others_count_as_ever() -> None:
    denoiser, noisy, soft = tiny("transformer"), batch(), answers(0.3)
    loss = masked_mean_ce(denoiser, noisy, soft=soft)
    logits, expected = denoiser(noisy.xt, noisy.rate), torch.zeros(4)
    taught = soft.cross_entropies(logits.flatten(0, 1), torch.ones(4, 12, dtype=torch.bool)).view(4, 12)
    for row in range(4):
        places = (noisy.xt[row] == MASK).nonzero().flatten().tolist()
        for i in places:
            ce = -logits[row, i].log_softmax(-1)[noisy.x0[row, i]]
            both = 0.7 * ce + 0.3 * taught[row, i]
            expected[row] += (both if row < 2 and i > 0 else ce) / len(places)
    torch.testing.assert_close(loss.total, expected.mean())
    assert set(loss.parts) == {"ce", "teacher"}
    torch.testing.assert_close(loss.total, loss.parts["ce"] + loss.parts["teacher"])


@torch.no_grad()
def test_a_share_of_nothing_and_a_silent_teacher_are_the_plain_loss() -> None:
    denoiser, noisy, soft = tiny("transformer"), batch(), answers(0.9)
    plain = masked_mean_ce(denoiser, noisy).total
    silent = SoftTargets(soft.tokens, torch.zeros_like(soft.probabilities), 0.9)
    assert torch.equal(masked_mean_ce(denoiser, noisy, soft=answers(0.0)).total, plain)
    assert torch.equal(masked_mean_ce(denoiser, noisy, soft=silent).total, plain)
    assert not torch.isclose(masked_mean_ce(denoiser, noisy, soft=soft).total, plain)


@torch.no_grad()
def test_visible_tokens_are_no_business_of_the_teacher() -> None:
    """Hybrid noise asks about visible tokens too: of them a causal teacher knows less than stands there."""
    denoiser, soft = tiny("transformer"), answers(1.0)
    rate = torch.full((4,), 0.3)
    noisy = hybrid(
        texts(4, 12, masked=0), rate, mask_id=MASK, pad_id=PAD, vocab_size=V, generator=seeded(), uniform=0.2
    )
    part = masked_mean_ce(denoiser, noisy, soft=soft).parts["teacher"]
    moved = soft.tokens.clone()
    moved[noisy.xt != MASK] = PAD + 1
    other = masked_mean_ce(denoiser, noisy, soft=SoftTargets(moved, soft.probabilities, 1.0)).parts["teacher"]
    assert part > 0
    assert torch.equal(part, other)


def test_microbatches_add_up() -> None:
    denoiser, noisy, soft = tiny("transformer"), batch(), answers(0.5)
    whole = masked_mean_ce(denoiser, noisy, soft=soft)
    halves = [
        masked_mean_ce(denoiser, noisy.rows(part), soft=soft.rows(part), divisor=4)
        for part in (slice(0, 2), slice(2, 4))
    ]
    for name, value in whole.parts.items():
        torch.testing.assert_close(sum(h.parts[name] for h in halves), value)
