# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Which warm start buys a denoiser most for the same CPU time: ways to begin, trained alike and judged alike.

Every start speaks the host's tokens, reads the same texts, and has so many steps as fit into its minutes: its
learning rate's course spans them. What a start costs before its first step is charged (models read, the
teacher's answers, whenever they were given); tokenising, which is the same for all, and evaluation are not.
Knows how a run is put together. Must not know screens. Axes: N held-out rows.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from haloweave import denoiser_material
from haloweave.bench.warm_plan import POINTS, Common, Plan, Tell, heard
from haloweave.diffusion.checkpoint import from_pretrained
from haloweave.diffusion.disk import write_text
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.evaluate import Measures, row_nats
from haloweave.diffusion.sampling.reader import at_rest
from haloweave.diffusion.text.packing import Apart, Flat
from haloweave.diffusion.train import Material, Report, Trainer
from haloweave.diffusion.training.hardware import Machine, bf16
from haloweave.diffusion.training.noise import noise_of
from haloweave.diffusion.training.settings import Settings

RESULT = "result.json"
_CPU = torch.device("cpu")
_PROBE, _SKIPPED = 8, 2
"""Steps made to see how long one takes, and the first of them, which also warm caches up."""


@dataclass(frozen=True, eq=False)
class Found:
    """What came of one start."""

    name: str
    parameters: int
    steps: int
    minutes: float
    """CPU time, all that is charged included."""
    before: float
    """Of these, before the first step; the teacher's among them."""
    teacher: float
    curve: tuple[tuple[float, float], ...]
    """CPU seconds and held-out nats per token, of a part of what is held out."""
    nats: Float[np.ndarray, " N"]
    """The bound of each held-out row."""
    right: Float[np.ndarray, " N"]
    """Masked words found, of each row."""


def measure(plan: Plan, here: Common, name: str, start: Mapping[str, Any], tell: Tell) -> Found:
    """Train and judge one start, or find that an earlier bench did. Raises BadInput for too little time."""
    folder = plan.out / name.replace(",", "").replace(" ", "-")
    mark = json.dumps([asdict(plan), dict(start), here.corpus.fingerprint], default=str, sort_keys=True)
    if (there := _read(folder / RESULT, mark)) is not None:
        return there
    machine = Machine(_CPU, bf16(plan.dtype, _CPU))
    settings = plan.settings(start, _anew(folder / "probe"), _PROBE)
    material, before = _material(settings, here, tell)
    each = _seconds_per_step(settings, material, machine)
    steps = int((60 * plan.minutes - before) / each)
    if steps < POINTS:
        raise BadInput(
            f"{name}: expected time for {POINTS} steps, got {steps}: it takes {before:.0f} s before the "
            f"first, and {each:.2f} s each; give more minutes"
        )
    settings = plan.settings(start, _anew(folder / "run"), steps)
    material, _ = _material(settings, here, tell)
    curve, spent = _trained(settings, material, machine, before, lambda step: tell(100 * step // steps))
    found = _judged(name, plan, here, settings)
    made = replace(found, steps=steps, minutes=spent / 60, before=before / 60, curve=curve)
    made = replace(made, teacher=0.0 if material.answers is None else material.answers.seconds / 60)
    write_text(folder / RESULT, json.dumps({"mark": mark, "found": _plain(made)}))
    return made


def _anew(folder: Path) -> Path:
    """Without what a bench that was stopped left there: of the time that this took nothing is known."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def _host(settings: Settings, here: Common) -> Path | None:
    """Of whose vectors this start makes use."""
    return here.folder if settings.around.host else None


def _material(settings: Settings, here: Common, tell: Tell) -> tuple[Material, float]:
    """What a run is made from, and the CPU seconds that it takes to have it."""
    words, corpus, host, began = here.tokenizer, here.corpus, _host(settings, here), time.process_time()
    denoiser, start = denoiser_material.begun(settings, words, host, corpus, _CPU)
    spent = time.process_time() - began
    answers = denoiser_material.taught(settings, words, host, corpus, _CPU, heard(tell))
    told = {"host": settings.around.host}
    made = Material(denoiser, words, corpus, told, answers, start, settings.around.prior)
    return made, spent + (0.0 if answers is None else answers.seconds)


def _seconds_per_step(settings: Settings, material: Material, machine: Machine) -> float:
    """CPU seconds, by a few steps of a run of its own that nobody keeps, without what is held out."""
    none, words = np.zeros(0, np.int64), material.tokenizer
    nothing = Apart(Flat(()), none, none, material.corpus.train.seq_len, words.pad_id)
    corpus = replace(material.corpus, valid=nothing)
    seconds: list[float] = []
    _trainer(settings, replace(material, corpus=corpus), machine).run(
        lambda report: seconds.append(report.cpu_seconds)
    )
    return float(np.median(seconds[_SKIPPED:]))


def _trained(
    settings: Settings, material: Material, machine: Machine, before: float, tell: Callable[[int], None]
) -> tuple[tuple[tuple[float, float], ...], float]:
    """The curve of a run to its end, and the CPU seconds charged to it."""
    curve: list[tuple[float, float]] = []
    spent = before

    def hear(report: Report) -> None:
        nonlocal spent
        spent += report.cpu_seconds
        if report.valid is not None:
            curve.append((spent, report.valid.nats))
        tell(report.step)

    _trainer(settings, material, machine).run(hear)
    return tuple(curve), spent


def _trainer(settings: Settings, material: Material, machine: Machine) -> Trainer:
    noise = noise_of(settings.recipe, material.tokenizer, material.corpus)
    return Trainer(material, settings.recipe, noise, settings.around.output_dir, machine=machine)


def _judged(name: str, plan: Plan, here: Common, settings: Settings) -> Found:
    """The weights that the run shipped, on held-out rows: the same masks and words for all."""
    table = denoiser_material.lent(here.tokenizer, _host(settings, here))
    denoiser = from_pretrained(settings.around.output_dir, table).denoiser
    with at_rest(denoiser):
        nats = row_nats(denoiser, here.held, Measures(draws=2, seed=plan.seed, batch=4))
        right = here.exam.right(denoiser)
    return Found(name, denoiser.parameters_trained, 0, 0.0, 0.0, 0.0, (), nats, right)


def _plain(found: Found) -> dict[str, Any]:
    return {**asdict(found), "nats": found.nats.tolist(), "right": found.right.tolist()}


def _read(path: Path, mark: str) -> Found | None:
    """The result of an earlier bench of the same plan."""
    try:
        told = json.loads(path.read_bytes())
        if told["mark"] != mark:
            return None
        found = told["found"]
        curve = tuple((float(x), float(y)) for x, y in found.pop("curve"))
        nats, right = (np.array(found.pop(part), np.float64) for part in ("nats", "right"))
        return Found(**found, curve=curve, nats=nats, right=right)
    except (OSError, ValueError, KeyError, TypeError):
        return None
