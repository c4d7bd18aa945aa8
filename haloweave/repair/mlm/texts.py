# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Files to what a run reads: training blocks, pages held out, whole files held out. Cached on disk.

Knows files, a tokenizer by its function, and blocks. Must not know models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from haloweave.corpus import Document, documents, files, home
from haloweave.errors import InvalidInput
from haloweave.progress import Progress, silent
from haloweave.repair.mlm.blocks import Encode, framed, streams
from haloweave.repair.mlm.checkpoint import sync
from haloweave.repair.mlm.masking import Vocabulary

CACHE = "blocks.safetensors"
_LAYOUT = 1  # raise when the same files would give other blocks
_SCORED = 192
"""Blocks of each kind that are scored: a quarter of a minute on two cores."""
HELD_OUT = "held-out pages"


@dataclass(frozen=True)
class Sources:
    """Where text comes from. `apart` are whole files that are scored and never trained on."""

    data: tuple[Path, ...]
    exclude: tuple[str, ...] = ()
    apart: tuple[Path, ...] = ()

    def files(self) -> list[Path]:
        """What is trained on. Raises InvalidInput if that is nothing, or a name leads nowhere."""
        for path in self.apart:
            if not path.is_file():
                raise InvalidInput(f"no such file to hold out: {path}")
        away = {path.resolve() for path in self.apart}
        kept = [path for path in files(self.data, self.exclude) if path.resolve() not in away]
        if not kept:
            raise InvalidInput("every file is held out; give more --data")
        return kept


@dataclass(frozen=True)
class Volume:
    """How much text a folder gave, its own folders included unless they have a note of their own."""

    folder: str
    documents: int
    characters: int


@dataclass(frozen=True, eq=False)
class Texts:
    """All that a run reads. `scored` maps a name to blocks that are never trained on."""

    train: Mapping[int, Int32[np.ndarray, "B T"]]
    scored: Mapping[str, Int32[np.ndarray, "H T"]]
    volumes: tuple[Volume, ...]

    @property
    def tokens(self) -> int:
        """Tokens to train on, once over."""
        return max(blocks.size for blocks in self.train.values())


def texts(
    sources: Sources,
    encode: Encode,
    vocabulary: Vocabulary,
    lengths: Sequence[int],
    *,
    cache: Path,
    fingerprint: str = "",
    progress: Progress = silent,
) -> Texts:
    """Read, encode and cut everything, or take it from `cache` if nothing has changed since.

    `fingerprint` stands for the tokenizer; size and time of change stand for a file's content.
    """
    paths = sources.files()
    mark = _mark([*paths, *sources.apart], [_LAYOUT, sorted(lengths), fingerprint, len(sources.apart)])
    if (found := _load(cache, mark)) is not None:
        return found
    read = _Counted(paths, sources.data, progress)
    both = streams(read, encode, max(lengths))
    train = {length: framed(both.train, vocabulary, length) for length in sorted(set(lengths))}
    scored = {HELD_OUT: _sample(framed(both.held_out, vocabulary, max(lengths)))}
    for path in sources.apart:
        everything = [i for d in documents([path]) for ids in encode([d.text]) for i in ids]
        blocks = framed(np.array(everything, np.int32), vocabulary, max(lengths))
        if not len(blocks):
            raise InvalidInput(f"{path}: too short to be scored; expected {max(lengths)} tokens")
        scored[_name(path, scored)] = _sample(blocks)
    made = Texts(train, scored, read.volumes)
    _save(cache, mark, made)
    return made


class _Counted:
    """Documents, counted as they are read."""

    def __init__(self, paths: Sequence[Path], roots: Sequence[Path], progress: Progress) -> None:
        self._paths, self._roots, self._progress = paths, roots, progress
        self._found: dict[str, tuple[int, int]] = {}

    def __iter__(self) -> Iterator[Document]:
        for done, path in enumerate(self._paths):
            self._progress("reading text", done, len(self._paths))
            folder = str(home(path, self._roots))
            for document in documents([path]):
                count, size = self._found.get(folder, (0, 0))
                self._found[folder] = count + 1, size + len(document.text)
                yield document
        self._progress("cutting blocks", len(self._paths), len(self._paths))

    @property
    def volumes(self) -> tuple[Volume, ...]:
        return tuple(Volume(folder, *counts) for folder, counts in sorted(self._found.items()))


def _sample(blocks: np.ndarray) -> np.ndarray:
    """Enough blocks to score, the same at every run."""
    return blocks[np.random.default_rng(0).permutation(len(blocks))[:_SCORED]]


def _name(path: Path, taken: Mapping[str, object]) -> str:
    return path.name if path.name not in taken else str(path)


# ---- cache -------------------------------------------------------------------------------------------


def _mark(paths: Sequence[Path], more: list[object]) -> str:
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([stats, more]).encode()).hexdigest()


def _save(cache: Path, mark: str, made: Texts) -> None:
    arrays = {f"train.{length}": blocks for length, blocks in made.train.items()}
    arrays |= {f"scored.{i}": blocks for i, blocks in enumerate(made.scored.values())}
    volumes = [asdict(volume) for volume in made.volumes]
    told = {"mark": mark, "names": json.dumps([*made.scored]), "volumes": json.dumps(volumes)}
    aside = cache.with_name(f"{cache.name}.new")
    cache.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, aside, metadata=told)
    sync(aside)
    aside.replace(cache)


def _load(cache: Path, mark: str) -> Texts | None:
    """What was cached under that mark; None where there is nothing, something else, or rubble."""
    try:
        with safe_open(cache, framework="numpy") as file:
            told = file.metadata() or {}
            if told.get("mark") != mark:
                return None
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError):
        return None
    names = json.loads(told["names"])
    return Texts(
        {int(k.removeprefix("train.")): v for k, v in sorted(found.items()) if k.startswith("train.")},
        {name: found[f"scored.{i}"] for i, name in enumerate(names)},
        tuple(Volume(**volume) for volume in json.loads(told["volumes"])),
    )
