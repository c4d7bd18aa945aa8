# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo bench halting`: passes saved against the bound, chosen on one half, confirmed on the other."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_denoiser
import torch
from denoisers import MASK, PAD, V, tiny
from terminal import Screens

from haloweave.bench import halting, halting_report, markdown
from haloweave.bench.halting import Halted, Mark, bounded, choice, find, halves
from haloweave.diffusion.denoisers.hierarchical import Hierarchical
from haloweave.diffusion.errors import BadInput, TooLittleText
from haloweave.diffusion.evaluate import Measures, row_nats
from haloweave.diffusion.judging.held import Held
from haloweave.diffusion.judging.intervals import Interval

MARK = Mark()


def held(rows: int = 12, documents: int = 12) -> Held:
    g = torch.Generator().manual_seed(2)
    x0 = torch.randint(PAD + 1, V, (rows, 16), generator=g)
    x0[1, 10:] = PAD
    return Held(x0, np.full(rows, 64), ("latin",) * rows, np.arange(rows) * documents // rows, PAD)


def thinker(**more: object) -> Hierarchical:
    made = tiny("hierarchical", **{"passes": 4, "halting": "divergence", "halt_threshold": 1e-3, **more})
    assert isinstance(made, Hierarchical)
    return made


def halted(threshold: float, saved: float, high: float) -> Halted:
    worse = Interval(high / 2, 0.0, high)
    return Halted(threshold, Interval(saved, saved, saved), worse, 1.0)


# ---- measuring -------------------------------------------------------------------------------------------


def test_without_halting_all_passes_are_made_and_the_bound_is_that_of_evaluation() -> None:
    text, denoiser = held(), thinker()
    full = bounded(denoiser, text, None, draws=3, seed=5, batch=4)
    assert full.passes.tolist() == [3 * 4 * 2] * 12
    plain = thinker(halting="never")
    plan = Measures(draws=3, infills=0, samples=0, seed=5, batch=4)
    np.testing.assert_allclose(full.nats, row_nats(plain, text, plan), rtol=1e-5)


def test_halting_is_the_denoisers_own() -> None:
    """The same bound as that of a denoiser made with the threshold, and fewer passes."""
    text, denoiser = held(), thinker()
    found = bounded(denoiser, text, 10.0, draws=2, seed=0, batch=4)
    assert found.passes.tolist() == [2 * 2 * 2] * 12, "two readings are the least that tell a change"
    other = thinker(halt_threshold=10.0)
    plan = Measures(draws=2, infills=0, samples=0, seed=0, batch=4)
    np.testing.assert_allclose(found.nats, row_nats(other, text, plan), rtol=1e-5)
    assert denoiser.config.halt_threshold == 1e-3, "the denoiser itself stays as it was"


@pytest.mark.parametrize("borrows", [{}, {"projection_rank": 4, "reads_fully": True}])
def test_borrowed_embeddings_stay_borrowed(borrows: dict[str, Any]) -> None:
    table = torch.randn(V, 6, generator=torch.Generator().manual_seed(0))
    denoiser = tiny("hierarchical", table, passes=3, **borrows)
    assert isinstance(denoiser, Hierarchical)
    noise = torch.random.get_rng_state()
    found = bounded(denoiser, held(4, 4), None, draws=1, seed=0, batch=4)
    assert np.isfinite(found.nats).all()
    assert torch.equal(noise, torch.random.get_rng_state())


def test_the_sweep_saves_more_the_higher_the_threshold() -> None:
    found = find(thinker(), held(), thresholds=(1e-9, 10.0), mark=Mark(worse=math.inf), draws=1)
    low, high = found.sweep
    assert (low.threshold, high.threshold) == (1e-9, 10.0)
    assert (low.saved.value, high.saved.value) == (0.0, 0.5)
    assert (low.worse.value, low.worse.low, low.worse.high) == (0, 0, 0)
    assert found.chosen == 10.0
    assert found.confirmed is not None
    assert found.confirmed.saved.value == 0.5
    assert found.rows == (6, 6)


# ---- choosing --------------------------------------------------------------------------------------------


def test_the_threshold_that_saves_most_among_those_that_keep_the_bound() -> None:
    sweep = [halted(0.1, 0.2, 0.001), halted(0.2, 0.4, 0.009), halted(0.3, 0.6, 0.011)]
    assert choice(sweep, MARK) == 0.2
    assert choice(sweep[2:], MARK) is None
    assert [h.reaches(MARK) for h in sweep] == [False, True, False]


def test_where_nothing_keeps_the_bound_nothing_is_confirmed() -> None:
    found = find(thinker(), held(), thresholds=(10.0,), mark=Mark(worse=-1.0), draws=1)
    assert (found.chosen, found.confirmed) == (None, None)
    assert "No threshold keeps the bound" in halting_report.verdict(found, MARK)


@pytest.mark.parametrize("documents", [12, 4, 1])
def test_halves_share_no_row_and_no_document(documents: int) -> None:
    text = held(24, documents)
    one, other = halves(text)
    assert len(one.rows) + len(other.rows) == 24
    rows = {tuple(r) for r in one.rows.tolist()} & {tuple(r) for r in other.rows.tolist()}
    assert not rows
    if documents == 12 and one.documents is not None and other.documents is not None:
        assert not set(one.documents) & set(other.documents)


def test_too_little_and_what_is_no_threshold() -> None:
    with pytest.raises(TooLittleText, match="four rows"):
        halves(held(3, 3))
    for none in ((), (0.0,), (-1.0, 1.0)):
        with pytest.raises(BadInput, match="thresholds above 0"):
            find(thinker(), held(), thresholds=none)


def test_the_verdict_says_what_the_other_half_said() -> None:
    good, poor = halted(0.2, 0.4, 0.009), halted(0.2, 0.2, 0.009)
    found = halting.Found((good,), 0.2, good, (6, 6))
    assert "is reached" in halting_report.verdict(found, MARK)
    assert "is not reached" in halting_report.verdict(replace(found, confirmed=poor), MARK)


# ---- the command -----------------------------------------------------------------------------------------


def test_the_command_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tiny_denoiser.tokenizer()
    corpus = tiny_denoiser.corpus(tmp_path / "tokens", words)
    for name, arch in (("thinks", "hierarchical"), ("plain", "transformer")):
        material = tiny_denoiser.Material(tiny_denoiser.denoiser(words, arch), words, corpus)
        tiny_denoiser.losses(tiny_denoiser.trainer(material, tmp_path / name))
    text = tmp_path / "held.jsonl"
    lines = (json.dumps({"text": t.text}, ensure_ascii=False) for t in tiny_denoiser.texts(12, seed=9))
    text.write_text("\n".join(lines), encoding="utf-8")
    few = ("--data", text, "--threshold", "1e-9", "--threshold", 5, "--draws", 1, "--blocks", 12)
    screens, report = Screens(width=160), tmp_path / "report"
    asked = ("bench", "halting", tmp_path / "thinks", *few, "--json", "--report", report)
    assert screens.halo(*asked) == 0, screens.err
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(f["part"], f["threshold"]) for f in found if f.get("bench")][:2] == [
        ("sweep", 1e-9),
        ("sweep", 5),
    ]
    assert {p.name for p in report.iterdir()} == {
        markdown.README,
        markdown.RESULTS,
        halting_report.PICTURE,
    }
    kept = json.loads((report / markdown.RESULTS).read_text(encoding="utf-8"))
    assert [s["threshold"] for s in kept["sweep"]] == [1e-9, 5]
    assert kept["mark"] == {"saved": 0.3, "worse": 0.01}
    refused = Screens()
    assert refused.halo("bench", "halting", tmp_path / "plain", *few) == 2
    assert "hierarchical" in refused.err


def test_masks_are_never_predicted_by_what_counts() -> None:
    """The counting predict is the denoiser: same logits, mask ruled out."""
    denoiser, text = thinker(halting="never"), held(4, 4)
    counting = halting._Counting(denoiser)
    xt = text.rows.clone()
    xt[:, ::2] = MASK
    with torch.no_grad():
        assert torch.equal(counting(xt), denoiser(xt))
    assert counting.taken().tolist() == [8.0] * 4
