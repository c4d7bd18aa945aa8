# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The benchmark of decisions: scores by hand, an oracle at the top, margins that hold, the fast maximum."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from denoisers import MASK, MAX_LEN, PAD, WIDTH, V, config_for, tiny
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from haloweave.bench import edits as bench
from haloweave.bench.answers import Asking
from haloweave.bench.edits import RESTRAINT, Bench, f1, macro
from haloweave.bench.edits_commands import _lines
from haloweave.bench.windows import rows_of
from haloweave.diffusion.corrupt import Corrupted
from haloweave.diffusion.denoisers.base import Hidden
from haloweave.diffusion.denoisers.editor import DELETE, KEEP, SUBSTITUTE, Editor, TransformerEditor
from haloweave.diffusion.scars import Scars
from haloweave.errors import EngineFault, InvalidInput
from haloweave.repair.verdicts import _argmax, judgement


def noise() -> Scars:
    return Scars(MASK, PAD, V, specials=(0, 1, 2), starts=None)


def rows(count: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(PAD + 1, V, (count, MAX_LEN), generator=generator)


class Oracle(TransformerEditor):
    """Was shown the answers beforehand: looks up what it is given among them."""

    answers: Mapping[tuple[int, ...], list[int]]

    def hidden(self, xt: Tensor, t: Tensor | None = None, previous: Tensor | None = None) -> Hidden:
        right = torch.tensor([self.answers.get(tuple(row), row) for row in xt.tolist()])
        return Hidden(torch.nn.functional.one_hot(right, V).float())

    def logits(self, states: Tensor) -> Tensor:
        return states * 20

    def edits(self, states: Tensor, shown: Tensor) -> Tensor:
        right = states.argmax(-1)
        best = torch.where(right == shown, KEEP, torch.where(right == PAD, DELETE, SUBSTITUTE))
        return (torch.nn.functional.one_hot(best, 3) * 9.0).log_softmax(-1)


def test_who_knows_the_answers_scores_full_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for("editor", time_conditioning=True)
    oracle = Oracle(config)  # type: ignore[arg-type]
    oracle.answers = {}
    made = Bench(oracle, noise(), torch.tensor([0, 1, 2, MASK, PAD]))
    worn = made._worn

    def remembered(text: Tensor, seed: int) -> Corrupted:
        found = worn(text, seed)
        oracle.answers |= {tuple(a): b for a, b in zip(found.xt.tolist(), found.x0.tolist(), strict=True)}
        return found

    monkeypatch.setattr(Bench, "_worn", lambda self, text, seed: remembered(text, seed))
    found = made.measure(rows())
    assert found.f1 == {"keep": 1.0, "substitute": 1.0, "delete": 1.0, "macro": 1.0}
    assert (found.hits, found.clean, found.precision, found.recall) == (1.0, 0.0, 1.0, 1.0)
    assert found.f1_hard < 1.0
    assert found.gain.low > 0


def test_untrained_it_is_measured_and_the_margin_leaves_clean_text_alone() -> None:
    editor = tiny("editor", time_conditioning=True)
    with torch.no_grad():
        assert isinstance(editor, Editor)
        last = editor.decide[-1]
        last.weight.mul_(0.2)
        last.bias.copy_(torch.tensor([0.0, 0.3, 0.0]))
    found = Bench(editor, noise(), torch.tensor([0, 1, 2, MASK, PAD])).measure(rows(64))
    assert found.margin > 0
    assert found.clean <= 3 * RESTRAINT
    assert 0 <= found.f1_hard <= 1
    assert found.places > 0


def test_any_denoiser_that_hears_heat_can_be_asked() -> None:
    found = Bench(tiny("transformer", time_conditioning=True), noise(), torch.tensor([0, 1, 2, MASK, PAD]))
    assert 0 <= found.measure(rows()).f1["macro"] < 0.7


def test_another_denoiser_is_calibrated_as_repair_uses_it_untempered() -> None:
    """Tempered, it would need a smaller margin than repair, which does not temper it."""
    asked = tiny("transformer", time_conditioning=True)
    made = Bench(asked, noise(), torch.tensor([0, 1, 2, MASK, PAD]))
    found = made.measure(rows(64))
    assert found.temperature == 1.0
    clean = Asking(asked, made.barred).soft(bench._clean(rows(64)[:32]))
    assert found.margin == made._margin(clean) > made._margin(clean.tempered(2.0))


def decided_alike(bias: list[float]) -> Bench:
    """An editor that decides the same everywhere."""
    editor = tiny("editor", time_conditioning=True)
    with torch.no_grad():
        assert isinstance(editor, Editor)
        last = editor.decide[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor(bias))
    return Bench(editor, noise(), torch.tensor([0, 1, 2, MASK, PAD]))


def test_one_that_substitutes_nothing_is_measured_all_the_same() -> None:
    found = decided_alike([5.0, 0.0, 1.0]).measure(rows())
    assert found.f1["substitute"] == 0
    assert found.token_ece is None
    assert "none was put" in dict(_lines(found)).values()


def test_numbers_that_are_not_finite_are_a_fault() -> None:
    with pytest.raises(EngineFault, match="not finite"):
        decided_alike([float("nan")] * 3).measure(rows())
    broken = tiny("transformer", time_conditioning=True)
    with torch.no_grad():
        next(p for p in broken.parameters() if p.dim() > 1).fill_(float("nan"))
    with pytest.raises(EngineFault, match="not finite"):
        Bench(broken, noise(), torch.tensor([0, 1, 2, MASK, PAD])).measure(rows())


def test_one_row_cannot_calibrate_and_be_reported() -> None:
    with pytest.raises(InvalidInput, match="two rows or more"):
        decided_alike([0.0, 0.0, 0.0]).measure(rows(1))


def test_what_is_put_there_is_what_repair_puts_there() -> None:
    editor = tiny("editor", time_conditioning=True)
    barred = torch.tensor([0, 1, 2, MASK, PAD])
    allowed = torch.ones(V, dtype=torch.bool).index_fill(0, barred, False)
    with torch.inference_mode():
        states = torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(2))
        shown = rows(13).flatten()[:300]
        log_p, best, _ = Asking(editor, barred)._some(states, shown)
        told = judgement(editor, allowed)(states, shown)
    put = log_p.argmax(-1) == SUBSTITUTE
    assert 0 < put.sum() < len(put)
    assert torch.equal(told.best[put], best[put])
    assert torch.equal(told.before, log_p[:, KEEP])


def test_scores_by_hand() -> None:
    right = np.array([KEEP, KEEP, SUBSTITUTE, DELETE])
    said = np.array([KEEP, SUBSTITUTE, SUBSTITUTE, KEEP])
    assert f1(said, right) == pytest.approx((2 / 4, 2 / 3, 0.0))
    assert macro(said, right) == pytest.approx((0.5 + 2 / 3) / 3)


@given(st.lists(st.integers(0, 2), min_size=6, max_size=40), st.integers(0, 99))
def test_counts_of_rows_give_the_same_scores(right: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, row = rng.integers(0, 3, len(right)), np.sort(rng.integers(0, 4, len(right)))
    counts = bench._counts(said, np.array(right), row).sum(0)
    present = bench._macro_of(counts[None])[0]
    assert present == pytest.approx(macro(said, np.array(right)))


@given(st.integers(0, 5), st.integers(1, 1100), st.integers(0, 99))
def test_the_fast_maximum_is_the_maximum(count: int, size: int, seed: int) -> None:
    logits = torch.rand(count, size, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(_argmax(logits), logits.argmax(-1))


def test_rows_are_spread_over_each_text_and_short_texts_are_told(tmp_path: Path) -> None:
    from tiny_denoiser import tokenizer

    words, (long, short) = tokenizer(), (tmp_path / "long.txt", tmp_path / "short.txt")
    long.write_text("the cat sees a bird and the dog sings to me. " * 40)
    short.write_text("the cat")
    found = rows_of([long, long], words, 24, 6)
    assert found.shape == (6, 24)
    assert words.decode(found[0]).startswith("the cat sees")
    with pytest.raises(InvalidInput, match="at least a row of 24"):
        rows_of([short], words, 24, 6)
