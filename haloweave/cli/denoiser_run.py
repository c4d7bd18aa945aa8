# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A whole run of `halo train`: its material made, trained; a folder out.

Knows the order of things, and that there may be several processes. Must not know screens: whoever watches is
handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from haloweave import denoiser_material
from haloweave.diffusion.train import Material, Report, Trained, Trainer
from haloweave.diffusion.training.hardware import Machine, keep_memory, machine
from haloweave.diffusion.training.noise import noise_of
from haloweave.diffusion.training.processes import launched
from haloweave.diffusion.training.settings import Settings
from haloweave.progress import Progress, silent


@dataclass(frozen=True)
class Started:
    """What a run is about to do."""

    tokens: int
    documents: int
    held_out: int
    """Blocks."""
    held_out_by: str
    """documents, tail (of the largest one), files or nothing."""
    held_out_tokens: int
    vocab_size: int
    parameters: int
    arch: str
    steps: int
    step: int
    """Taken before, by a run that was stopped."""
    device: str
    dtype: str
    processes: int


class Watch(Protocol):
    """Whoever looks on; only the first of several processes has one that shows anything."""

    @property
    def progress(self) -> Progress: ...

    def say(self, text: str) -> None:
        """A word beside the results."""

    def started(self, started: Started) -> None:
        """Everything is read and made."""

    def stepped(self, report: Report) -> None:
        """One step."""

    def asked(self) -> AbstractContextManager[Callable[[], bool]]:
        """Around the steps: whether somebody wants an end."""


def train(settings: Settings, watch_of: Callable[[bool], Watch]) -> Trained:
    """Carry out a run. `watch_of` is told whether this process is the one that talks.

    Raises DiffusionError or HaloError for what cannot be done, Stopped if whoever watches wants an end.
    """
    around, recipe = settings.around, settings.recipe
    if around.threads:
        torch.set_num_threads(around.threads)
    paths = denoiser_material.found(around)  # a wrong name is told before anything is fetched or started
    with launched(around.device) as processes:
        here = machine(around.device, recipe.dtype, processes)
        if here.place.type == "cpu":
            keep_memory()
        return _train(settings, paths, here, watch_of(here.leads))


def _train(settings: Settings, paths: Sequence[Path], here: Machine, watch: Watch) -> Trained:
    around, recipe = settings.around, settings.recipe
    material = _material(settings, paths, here, watch.progress if here.leads else silent)
    noise = noise_of(recipe, material.tokenizer, material.corpus)
    trainer = Trainer(material, recipe, noise, around.output_dir, machine=here, say=watch.say)
    trainer.resume()
    watch.started(_started(settings, material, here, trainer.step))
    with watch.asked() as asked:
        return trainer.run(watch.stepped, asked)


def _material(settings: Settings, paths: Sequence[Path], here: Machine, progress: Progress) -> Material:
    """The first process makes and fetches everything, then the others find it made."""
    if not here.leads:
        here.processes.wait()
    made = denoiser_material.material(settings, paths, here.place, progress)
    if here.leads:
        here.processes.wait()
    return made


def _started(settings: Settings, material: Material, here: Machine, step: int) -> Started:
    return Started(
        tokens=material.corpus.tokens,
        documents=material.corpus.documents,
        held_out=len(material.corpus.valid),
        held_out_by=material.corpus.held_out_by,
        held_out_tokens=material.corpus.held_out_tokens,
        vocab_size=material.tokenizer.vocab_size,
        parameters=material.denoiser.parameters_trained,
        arch=settings.around.arch,
        steps=settings.recipe.max_steps,
        step=step,
        device=str(here.place),
        dtype=here.dtype,
        processes=here.processes.count,
    )
