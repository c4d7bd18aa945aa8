# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A whole training run: base and texts in; a folder for transformers, its card and its parcel out.

Knows the order of things. Must not know screens: whoever watches is handed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from haloweave.corpus import credit
from haloweave.errors import InvalidInput
from haloweave.progress import Progress
from haloweave.repair.mlm import base as bases
from haloweave.repair.mlm import hardware, parcel, saving
from haloweave.repair.mlm.base import Base
from haloweave.repair.mlm.card import Facts, Measured, card, origin
from haloweave.repair.mlm.checkpoint import alone
from haloweave.repair.mlm.recipe import Recipe
from haloweave.repair.mlm.score import Score, score
from haloweave.repair.mlm.texts import CACHE, Sources, Texts, texts
from haloweave.repair.mlm.train import Tell, Trainer


@dataclass(frozen=True)
class Plan:
    """What to train, from what, into which folder; and how."""

    base: Path
    base_name: str
    sources: Sources
    out: Path
    recipe: Recipe = field(default_factory=Recipe)
    parcel: Path | None = None
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class Started:
    """What a run is about to do."""

    tokens: int
    steps: int
    device: str
    dtype: str


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    folder: Path
    parcel: Path | None
    parcel_bytes: int
    seconds: float
    measured: Measured


class Watch(Protocol):
    """Whoever looks on."""

    progress: Progress

    def started(self, started: Started) -> None:
        """Everything is read; scoring of the base comes next."""

    def measured(self, when: str, scores: Mapping[str, Score]) -> None:
        """Told at the start, at the end, and when packed."""

    def training(self) -> AbstractContextManager[Tell]:
        """Around the steps; what it gives is told of each, and may raise Interrupted."""


def train(plan: Plan, watch: Watch) -> Outcome:
    """Train, score, save and pack; a run that was stopped goes on where it was.

    Raises InvalidInput or a ModelError for what cannot be done, Interrupted if whoever watches wants an end.
    """
    _check(plan)
    plan.out.mkdir(parents=True, exist_ok=True)
    with alone(plan.out):
        return _train(plan, watch)


def _check(plan: Plan) -> None:
    out = plan.out.resolve()
    if out == plan.base.resolve() or (plan.parcel is not None and out == plan.parcel.resolve()):
        raise InvalidInput(f"--out {plan.out}: is the base or the parcel; choose another folder")
    for root in plan.sources.data:
        if root.is_dir() and out.is_relative_to(root.resolve()):
            raise InvalidInput(
                f"--out {plan.out}: lies in the data, and would be read as such; choose another"
            )


def _train(plan: Plan, watch: Watch) -> Outcome:
    place = hardware.device(plan.device)
    bf16 = hardware.bf16(plan.dtype, place)
    watch.progress("loading the base", 0, None)
    base = bases.load(plan.base, plan.recipe.seed)
    _check_positions(base, plan.recipe)
    base.model.to(place)
    read = _read(plan, base, watch.progress)
    held_out = next(iter(read.scored.values()))
    trainer = Trainer(base.model, base.vocabulary, read.train, held_out, plan.recipe, bf16=bf16)
    dtype = "bfloat16" if bf16 else "float32"
    watch.started(Started(read.tokens, plan.recipe.steps, str(place), dtype))
    before = _measure("start", base.model, base, read, watch)
    with watch.training() as tell:
        trainer.run(plan.out, tell)
    measured = Measured(before, _measure("end", base.model, base, read, watch))
    text = card(_facts(plan, base, read, dtype, trainer.seconds, measured))
    saving.save(base, plan.out, text)
    if plan.parcel is None:
        return Outcome(plan.out, None, 0, trainer.seconds, measured)
    parcel.pack(plan.out, plan.parcel)
    packed = parcel.load_parcel(plan.parcel).model.to(place)
    measured = Measured(before, measured.after, _measure("packed", packed, base, read, watch))
    text = card(_facts(plan, base, read, dtype, trainer.seconds, measured))
    saving.save_card(plan.out, text)
    size = parcel.recard(plan.parcel, text)
    return Outcome(plan.out, plan.parcel, size, trainer.seconds, measured)


def _check_positions(base: Base, recipe: Recipe) -> None:
    if max(recipe.lengths) > bases.positions(base):
        raise InvalidInput(f"blocks of {max(recipe.lengths)} tokens: the base takes {bases.positions(base)}")


def _read(plan: Plan, base: Base, progress: Progress) -> Texts:
    mark = hashlib.sha256(base.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    return texts(
        plan.sources,
        base.encode,
        base.vocabulary,
        plan.recipe.lengths,
        cache=plan.out / CACHE,
        fingerprint=mark,
        progress=progress,
    )


def _measure(when: str, model: Any, base: Base, read: Texts, watch: Watch) -> Mapping[str, Score]:
    """In fp32, whatever the run computes in, so that before, after and packed can be compared."""
    found = {}
    for done, (name, blocks) in enumerate(read.scored.items()):
        watch.progress(f"scoring ({when})", done, len(read.scored))
        found[name] = score(model, base.vocabulary, blocks)
    watch.measured(when, found)
    return found


def _facts(plan: Plan, base: Base, read: Texts, dtype: str, seconds: float, measured: Measured) -> Facts:
    readme = plan.base / "README.md"
    own_card = readme.read_text("utf-8", errors="replace") if readme.is_file() else ""
    small, large = base.encode(["a"]), base.encode(["A"])
    return Facts(
        title=f"{plan.base_name.rpartition('/')[2]}, trained to fill masks",
        origin=origin(plan.base_name, own_card),
        recipe=plan.recipe,
        dtype=dtype,
        parameters=sum(p.numel() for p in base.model.parameters()),
        positions=bases.positions(base),
        uncased=small == large,
        tokens=read.tokens,
        hours=seconds / 3600,
        data=[(credit(Path(volume.folder)), volume) for volume in read.volumes],
        measured=measured,
    )
