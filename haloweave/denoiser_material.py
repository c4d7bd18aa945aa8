# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a run of training is made from: texts found and read, their tokens, a denoiser where it starts, and
what a teacher says.

The one place that makes them, for `halo train` and for benches alike, part by part or all at once. Knows
folders of texts, hosts and encoders by name. Must not know steps, processes or screens. Axes: V vocabulary,
E a host's width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from haloweave import corpus as texts
from haloweave import models, warm_starts
from haloweave.corpus import Document
from haloweave.diffusion import build, data, room
from haloweave.diffusion import tokenizer as tokenizers
from haloweave.diffusion.checkpoint import CONFIG, TOKENIZER
from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.disk import write_text
from haloweave.diffusion.errors import BadCheckpoint, BadInput, CannotWrite
from haloweave.diffusion.text.host_table import embedding_table
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.training.material import Material
from haloweave.diffusion.training.noise import counts
from haloweave.diffusion.training.settings import Settings, Surroundings
from haloweave.diffusion.training.teacher import Answers, recorded
from haloweave.progress import Progress, silent

_MADE = "made.json"
_SPLIT = 0
"""Seed of what is held out: of every run, so that none is measured on what another was trained on."""


def material(
    settings: Settings, paths: Sequence[Path], place: torch.device, progress: Progress = silent
) -> Material:
    """Everything read and made, the dearest last: what does not fit together is told before a teacher is
    asked. Raises DiffusionError or HaloError."""
    around = settings.around
    words, host = tokenizer(around, paths, progress)
    read = corpus(around, paths, words, progress)
    denoiser, start = begun(settings, words, host, read, place, progress)
    answers = taught(settings, words, host, read, place, progress)
    return Material(denoiser, words, read, _told(settings, read), answers, start, around.prior)


def found(around: Surroundings) -> list[Path]:
    """The files to train on. Raises an error if there are none, or a name leads nowhere."""
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
        raise BadInput("every file is held out; give more texts")
    return kept


# ---- tokens ------------------------------------------------------------------------------------------


def tokenizer(
    around: Surroundings, paths: Sequence[Path], progress: Progress = silent
) -> tuple[Tokenizer, Path | None]:
    """The tokenizer, and the folder of the host that lends it with its embedding table, if one does."""
    if around.host is not None:
        folder = models.resolve(around.host, progress=progress)
        return tokenizers.borrowed_tokenizer(folder / "tokenizer.json"), folder
    if around.tokenizer is not None:
        return _given(around.tokenizer), None
    return _trained(around, paths, progress), None


def lent(words: Tokenizer, host: Path | None) -> Float[Tensor, "V E"] | None:
    """A host's embedding table, with rows for the denoiser's own tokens; None without a host."""
    return None if host is None else words.extended(embedding_table(host))


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


def _mark(paths: Sequence[Path], *more: object) -> str:
    """Stands for texts: size and time of change speak for a file's content."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([stats, *more]).encode()).hexdigest()


# ---- texts -------------------------------------------------------------------------------------------


def corpus(
    around: Surroundings, paths: Sequence[Path], words: Tokenizer, progress: Progress = silent
) -> data.Corpus:
    """The texts as tokens. The split is the same for every seed, so that runs can be compared; whole files
    held out by name take the place of documents held out by lot."""

    def made(paths: Sequence[Path], folder: Path, share: float) -> data.Corpus:
        documents = _documents(paths, progress)  # tells files, of which the number is known
        return data.prepare(documents, words, folder, seq_len=around.seq_len, valid_share=share, seed=_SPLIT)

    if not around.held_out:
        return made(paths, _cache(around), around.valid_share)
    read, apart = (
        made(these, _cache(around) / name, 0.0)
        for these, name in ((paths, "trained"), (around.held_out, "apart"))
    )
    marks = f"{read.fingerprint}:{apart.fingerprint}"
    mark = hashlib.sha256(marks.encode()).hexdigest()
    return replace(
        read, valid=apart.train, fingerprint=mark, held_out_by="files", held_out_tokens=apart.tokens
    )


def _documents(paths: Sequence[Path], progress: Progress) -> Iterator[Document]:
    for done, path in enumerate(paths):
        progress("reading and tokenising", done, len(paths))
        yield from texts.documents([path])
    progress("reading and tokenising", len(paths), len(paths))


def _cache(around: Surroundings) -> Path:
    return around.cache or around.output_dir / "data"


# ---- the denoiser, and its teacher -------------------------------------------------------------------


def begun(
    settings: Settings,
    words: Tokenizer,
    host: Path | None,
    read: data.Corpus,
    place: torch.device,
    progress: Progress = silent,
) -> tuple[Denoiser, str | None]:
    """A denoiser before its first step, and what stands for the weights that it begins with, where they are
    another model's. Raises BadInput for one that has no room, or for warm starts that it cannot have."""
    around, table = settings.around, lent(words, host)
    width = None if table is None else table.shape[1]
    config = settings.config(words.vocab_size, words.mask_id, words.pad_id, width)
    room.check_weights(config, trained=True)
    if place.type == "cpu":
        room.check_rows(config, settings.recipe.batch_size, around.seq_len)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.recipe.seed)
        denoiser = build.denoiser(config, table)
    if around.prior:
        denoiser.begin_at(counts(read, words.vocab_size))
    if around.initialiser is None:
        return denoiser, None
    return denoiser, warm_starts.initialise(denoiser, around.initialiser, progress)


def taught(
    settings: Settings,
    words: Tokenizer,
    host: Path | None,
    read: data.Corpus,
    place: torch.device,
    progress: Progress = silent,
) -> Answers | None:
    """What the host, as a teacher, says of part of the corpus; None where the recipe asks for none."""
    recipe = settings.recipe
    if not recipe.distil or host is None:
        return None
    teacher, folder = warm_starts.HostTeacher(host, words, place), _cache(settings.around) / "answers"
    return recorded(read, teacher, folder, recipe.distil_blocks, recipe.distil_top, progress)


def _told(settings: Settings, read: data.Corpus) -> dict[str, Any]:
    """What the model's folder says of its making."""
    around = settings.around
    cache = None if around.cache is None else str(around.cache.resolve())
    told = {"host": around.host, "corruption": settings.recipe.corruption}
    split = {"cache": cache, "valid_share": around.valid_share, "split_seed": _SPLIT}
    return {**told, **split, "data": [str(p) for p in around.data_dir], "held_out_by": read.held_out_by}
