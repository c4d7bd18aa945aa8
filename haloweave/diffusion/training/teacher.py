# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A teacher's answers to blocks of the corpus, asked once and kept: training reads them again and again.

    00000.safetensors   of the first blocks: the likeliest tokens, their probabilities, the CPU time it took

A folder is of one teacher, number of tokens and corpus; which blocks are asked follows from their number
alone, so that asking more of them goes on where fewer ended, and whatever the seed of a run. Each shard is
whole or not there. Knows blocks and files. Must not know who the teacher is. Axes: B rows, T sequence,
K kept tokens, N blocks with answers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Float16, Int, Int32, Int64
from torch import Tensor

from haloweave.diffusion.data import Corpus, batch_rows
from haloweave.diffusion.disk import alone
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.parcel import Parcel, whole, write
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.soft_targets import SoftTargets

SHARD = 64
"""Blocks: what a kill costs at most."""
_ORDER = 20_406
"""Seed of the order in which blocks are asked: of every run, so that runs share their answers."""


class Teacher(Protocol):
    """Whoever knows the denoiser's tokens and has an opinion of what stands at each place."""

    @property
    def fingerprint(self) -> str:
        """Stands for all that decides its answers."""

    def answers(
        self, rows: Int64[Tensor, "B T"], top: int
    ) -> tuple[Int[Tensor, "B T K"], Float[Tensor, "B T K"]]:
        """The likeliest `top` tokens at each place of clean text, and their probabilities; 0 for all of them
        where it has no answer."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a teacher said, in memory."""

    blocks: Int64[np.ndarray, " N"]
    """Which of the corpus's."""
    tokens: Int32[Tensor, "N T K"]
    probabilities: Float16[Tensor, "N T K"]
    mark: str
    """Stands for teacher, number of tokens and corpus."""
    seconds: float
    """CPU time that all these answers took, whenever they were given."""

    def soft(self, rows: Int64[np.ndarray, " B"], share: float) -> SoftTargets:
        """Targets for some blocks of the corpus; those that were never asked have none."""
        order = np.argsort(self.blocks)
        place = np.searchsorted(self.blocks, rows, sorter=order).clip(max=len(order) - 1)
        found = order[place]
        there = torch.from_numpy(self.blocks[found] == rows)
        probabilities = self.probabilities[found].float() * there[:, None, None]
        return SoftTargets(self.tokens[found], probabilities, share)

    def read(
        self, rows: Int64[np.ndarray, " B"], seed: int, step: int, share: float
    ) -> Int64[np.ndarray, " B"]:
        """A step's blocks with a share of them, spread evenly, replaced by blocks that have answers: epochs
        of their own, a function of (seed, step) as the others are."""
        if not (count := taught(share, len(rows))):
            return rows
        made = rows.copy()
        made[np.arange(count) * len(rows) // count] = self.blocks[
            batch_rows(seed, step, count, len(self.blocks))
        ]
        return made


def taught(share: float, rows: int) -> int:
    """How many rows of a batch are read from blocks that have answers."""
    return round(share * rows)


def recorded(
    corpus: Corpus, teacher: Teacher, folder: Path, blocks: int, top: int, progress: Progress = silent
) -> Answers:
    """The teacher's answers to that many blocks (or all there are), those on disk read, the others asked.

    `folder`: where answers of all kinds are kept. Raises BadInput for answers of another shape, or if
    another run is asking at the moment; CannotWrite.
    """
    told = [teacher.fingerprint, corpus.fingerprint, top]
    mark = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    train = corpus.train
    chosen = batch_rows(_ORDER, 0, min(blocks, len(train)), len(train))
    wanted = [
        (folder / mark[:16] / f"{number:05}.safetensors", chosen[at : at + SHARD])
        for number, at in enumerate(range(0, len(chosen), SHARD))
    ]
    parts = [_kept(path, mark, len(rows)) for path, rows in wanted]
    if None in parts:  # many may read what is finished
        with alone(folder / mark[:16]):
            for number, (path, rows) in enumerate(wanted):
                progress("asking the teacher", number * SHARD, len(chosen))
                if parts[number] is None:
                    parts[number] = _asked(path, mark, train.rows(rows), teacher, top)
            progress("asking the teacher", len(chosen), len(chosen))
    return _joined([part for part in parts if part is not None], chosen, mark)


def _joined(parts: Sequence[Parcel], chosen: Int64[np.ndarray, " N"], mark: str) -> Answers:
    tokens, kept = (torch.cat([p.tensors[name] for p in parts]) for name in ("tokens", "probabilities"))
    return Answers(chosen, tokens, kept, mark, sum(float(p.told["seconds"]) for p in parts))


def _kept(path: Path, mark: str, rows: int) -> Parcel | None:
    """The answers in a file, if it is whole and has that many rows; what is damaged is asked anew."""
    there = whole(path)
    fits = there is not None and (there.told.get("mark"), there.told.get("rows")) == (mark, rows)
    return there if fits else None


def _asked(path: Path, mark: str, rows: Int64[Tensor, "B T"], teacher: Teacher, top: int) -> Parcel:
    began = time.process_time()
    tokens, probabilities = teacher.answers(rows, top)
    _check(tokens, probabilities, (*rows.shape, top))
    tensors = {"tokens": tokens.int(), "probabilities": probabilities.half()}
    made = Parcel(tensors, {"mark": mark, "rows": len(rows), "seconds": time.process_time() - began})
    write(path, made)
    return made


def _check(tokens: Tensor, probabilities: Tensor, expected: Sequence[int]) -> None:
    shapes = tuple(tokens.shape), tuple(probabilities.shape)
    if shapes != (tuple(expected),) * 2:
        raise BadInput(f"teacher: expected answers of shape {tuple(expected)}, got {shapes[0]}, {shapes[1]}")
    if not bool((probabilities >= 0).all()) or not bool((probabilities.sum(-1) < 1.001).all()):
        raise BadInput("teacher: expected probabilities, got numbers below 0, above 1 or none: damaged?")
