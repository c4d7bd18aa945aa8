# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A whole run of `halo train`: texts in; tokenizer, corpus and denoiser made; trained; a folder out.

Knows the order of things, where texts come from, and hosts by name. Must not know screens: whoever watches is
handed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from haloweave import corpus as texts
from haloweave import models, warm_starts
from haloweave.corpus import Document
from haloweave.diffusion import build, data, room
from haloweave.diffusion import tokenizer as tokenizers
from haloweave.diffusion.checkpoint import CONFIG, TOKENIZER
from haloweave.diffusion.disk import write_text
from haloweave.diffusion.errors import BadCheckpoint, BadInput, CannotWrite
from haloweave.diffusion.text.host_table import embedding_table
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.train import Material, Report, Trained, Trainer
from haloweave.diffusion.training.hardware import Machine, keep_memory, machine
from haloweave.diffusion.training.noise import counts, noise_of
from haloweave.diffusion.training.processes import launched
from haloweave.diffusion.training.recipe import Recipe
from haloweave.diffusion.training.settings import Settings, Surroundings
from haloweave.diffusion.training.teacher import Answers, recorded
from haloweave.progress import Progress, silent

_MADE = "made.json"
_SPLIT = 0
"""Seed of what is held out: of every run, so that none is measured on what another was trained on."""


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
    paths = _paths(around)  # a wrong name is told before anything is fetched or started
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


def _paths(around: Surroundings) -> list[Path]:
    """What is trained on. Raises an error if that is nothing, or a name leads nowhere."""
    out = around.output_dir.resolve()
    for root in around.data_dir:
        if root.is_dir() and out.is_relative_to(root.resolve()):
            raise BadInput(
                f"{around.output_dir}: lies in the data, and would be read as such; choose another"
            )
    if out.exists() and not out.is_dir():
        raise BadInput(f"{around.output_dir}: expected a folder to write to, got a file; choose another")
    for path in around.held_out:
        if not path.is_file():
            raise BadInput(f"no such file to hold out: {path}")
    away = {path.resolve() for path in around.held_out}
    kept = [p for p in texts.files(around.data_dir, around.exclude) if p.resolve() not in away]
    if not kept:
        raise BadInput("every file is held out; give more --data-dir")
    return kept


def _material(settings: Settings, paths: Sequence[Path], here: Machine, progress: Progress) -> Material:
    """Everything read and made. The first process does it, then the others find it made."""
    if not here.leads:
        here.processes.wait()
    around = settings.around
    tokenizer, table = _tokenizer(around, paths, progress)
    corpus = _corpus(around, paths, tokenizer, progress)
    answers = _answers(around, settings.recipe, corpus, tokenizer, here, progress)
    if here.leads:
        here.processes.wait()
    width = None if table is None else table.shape[1]
    config = settings.config(tokenizer.vocab_size, tokenizer.mask_id, tokenizer.pad_id, width)
    room.check_weights(config, trained=True)
    if here.place.type == "cpu":
        room.check_rows(config, settings.recipe.batch_size, around.seq_len)
    torch.manual_seed(settings.recipe.seed)
    denoiser = build.denoiser(config, table)
    if around.prior:
        denoiser.begin_at(counts(corpus, tokenizer.vocab_size))
    start = around.initialiser and warm_starts.initialise(denoiser, around.initialiser, progress)
    told = {
        "host": around.host,
        "corruption": settings.recipe.corruption,
        "data": [str(path) for path in around.data_dir],
    }
    cache = None if around.cache is None else str(around.cache.resolve())
    split = {"cache": cache, "valid_share": around.valid_share, "split_seed": _SPLIT}
    more = {**told, **split, "held_out_by": corpus.held_out_by}
    return Material(denoiser, tokenizer, corpus, more, answers, start)


def _tokenizer(
    around: Surroundings, paths: Sequence[Path], progress: Progress
) -> tuple[Tokenizer, Float[Tensor, "V E"] | None]:
    """The tokenizer, and the embedding table that comes with it where a host lends one."""
    if around.host is not None:
        folder = models.resolve(around.host, progress=progress)
        tokenizer = tokenizers.borrowed_tokenizer(folder / "tokenizer.json")
        return tokenizer, tokenizer.extended(embedding_table(folder))
    if around.tokenizer is not None:
        return _given(around.tokenizer), None
    return _trained(around, paths, progress), None


def _given(path: Path) -> Tokenizer:
    """A tokenizer's folder, a denoiser's folder, or the tokenizer.json of another model."""
    if (path / CONFIG).is_file() and (path / TOKENIZER).is_dir():
        return Tokenizer.load(path / TOKENIZER)
    if path.is_file():
        return tokenizers.borrowed_tokenizer(path)
    return Tokenizer.load(path)


def _trained(around: Surroundings, paths: Sequence[Path], progress: Progress) -> Tokenizer:
    """A tokenizer of these texts, or the one made of them before."""
    folder, note = _cache(around) / TOKENIZER, _cache(around) / _MADE
    mark = _mark(paths, around.vocab_size)
    if (there := _made_before(note, mark, folder)) is not None:
        return there
    made = tokenizers.train_tokenizer(
        (document.text for document in _documents(paths, silent)), around.vocab_size, progress
    )
    made.save(folder)
    write_text(note, mark)
    return made


def _made_before(note: Path, mark: str, folder: Path) -> Tokenizer | None:
    """The tokenizer there, if it is of these texts and whole; a damaged one is made anew, the same."""
    try:
        if note.is_file() and note.read_bytes() == mark.encode():
            return Tokenizer.load(folder)
        note.unlink(missing_ok=True)
    except BadCheckpoint:
        note.unlink(missing_ok=True)
    except OSError as error:
        raise CannotWrite(
            f"{note}: cannot be used ({error.strerror or error}); choose another folder"
        ) from error
    return None


def _corpus(
    around: Surroundings, paths: Sequence[Path], tokenizer: Tokenizer, progress: Progress
) -> data.Corpus:
    """The texts as tokens. The split is the same for every seed, so that runs can be compared; whole files
    held out by name take the place of documents held out by lot."""

    def made(paths: Sequence[Path], folder: Path, share: float) -> data.Corpus:
        found = _documents(paths, progress)  # tells files, of which the number is known
        return data.prepare(found, tokenizer, folder, seq_len=around.seq_len, valid_share=share, seed=_SPLIT)

    if not around.held_out:
        return made(paths, _cache(around), around.valid_share)
    corpus, apart = (
        made(these, _cache(around) / name, 0.0)
        for these, name in ((paths, "trained"), (around.held_out, "apart"))
    )
    marks = f"{corpus.fingerprint}:{apart.fingerprint}"
    mark = hashlib.sha256(marks.encode()).hexdigest()
    return replace(
        corpus, valid=apart.train, fingerprint=mark, held_out_by="files", held_out_tokens=apart.tokens
    )


def _answers(
    around: Surroundings,
    recipe: Recipe,
    corpus: data.Corpus,
    tokenizer: Tokenizer,
    here: Machine,
    progress: Progress,
) -> Answers | None:
    """What the host, as a teacher, says of part of the corpus; None where the recipe asks for none."""
    if not recipe.distil or around.host is None:
        return None
    teacher = warm_starts.HostTeacher(models.resolve(around.host, progress=progress), tokenizer, here.place)
    folder = _cache(around) / "answers"
    return recorded(corpus, teacher, folder, recipe.distil_blocks, recipe.distil_top, progress)


def _documents(paths: Sequence[Path], progress: Progress) -> Iterator[Document]:
    for done, path in enumerate(paths):
        progress("reading and tokenising", done, len(paths))
        yield from texts.documents([path])
    progress("reading and tokenising", len(paths), len(paths))


def _cache(around: Surroundings) -> Path:
    return around.cache or around.output_dir / "data"


def _mark(paths: Sequence[Path], *more: object) -> str:
    """Stands for texts: size and time of change speak for a file's content."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([stats, *more]).encode()).hexdigest()


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
