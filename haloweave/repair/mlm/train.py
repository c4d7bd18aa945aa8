# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Training a masked LM: a model, blocks of text and a recipe go in; the same model comes out, better.

Knows torch, one model and its optimiser. Must not know screens, text or where weights come from. Everything
that decides a step (order, masks, learning rate) follows from (seed, step); a run that was killed goes on
from its last checkpoint and ends with the weights it would have had.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor
from torch.nn.functional import cross_entropy

from haloweave.errors import Interrupted, InvalidInput, ModelCorrupt
from haloweave.repair.mlm import checkpoint
from haloweave.repair.mlm.blocks import step_blocks
from haloweave.repair.mlm.checkpoint import Checkpoint
from haloweave.repair.mlm.masking import Vocabulary
from haloweave.repair.mlm.recipe import Recipe
from haloweave.repair.mlm.score import Score, head, predict, score

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Report:
    """How far a run has come."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    score: Score | None = None


Tell = Callable[[Report], None]
"""Told after every step; may raise Interrupted, and the run ends there with a checkpoint."""


class Trainer:
    """One run. `texts` maps a block length to its training blocks; `held_out` is scored, never trained on."""

    def __init__(
        self,
        model: Any,
        vocabulary: Vocabulary,
        texts: Mapping[int, Int32[np.ndarray, "B T"]],
        held_out: Int32[np.ndarray, "H T"],
        recipe: Recipe,
        *,
        bf16: bool = False,
    ) -> None:
        _check(texts, held_out, recipe)
        head(model)  # rather now than in the first step
        self._model, self._vocabulary, self._texts, self._held_out = model, vocabulary, texts, held_out
        self._recipe, self._bf16, self._step = recipe, bf16, 0
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(texts[n]).data for n in sorted(texts)))
        self._mark = f"{digest.hexdigest()}:{json.dumps(asdict(recipe))}"
        self._origin = f"{_digest(model)}:{'bfloat16' if bf16 else 'float32'}"
        self._optimizer = torch.optim.AdamW(_groups(model, recipe.decay), betas=(0.9, 0.98), fused=True)
        self._mean = self._seconds = 0.0
        self._saved = -1

    @property
    def step(self) -> int:
        return self._step

    @property
    def seconds(self) -> float:
        """Time spent training, resumed parts included."""
        return self._seconds

    def run(self, folder: Path, tell: Tell, evaluate_every: int = 500) -> Score:
        """Train to the end, with checkpoints in `folder`; goes on from one that is there."""
        self._resume(folder / CHECKPOINT)
        try:
            for report in self._steps(evaluate_every):
                tell(report)
                if self._step % self._recipe.checkpoint_every == 0:
                    self._checkpoint(folder / CHECKPOINT)
        except Interrupted:
            self._checkpoint(folder / CHECKPOINT)
            raise
        self._checkpoint(folder / CHECKPOINT)
        return self.score()

    def _steps(self, evaluate_every: int) -> Iterator[Report]:
        first, started, spent, steps = self._step, time.perf_counter(), self._seconds, self._recipe.steps
        while self._step < steps:
            loss = self._one_step()
            self._mean = 0.98 * self._mean + 0.02 * loss if self._mean else loss
            self._seconds = spent + time.perf_counter() - started
            each = (self._seconds - spent) / (self._step - first)
            due = self._step % evaluate_every == 0 and self._step < steps
            found = self.score() if due else None
            pace, left = self._recipe.batch_tokens / each, (steps - self._step) * each
            yield Report(self._step, steps, self._mean, pace, left, found)

    def _one_step(self) -> float:
        recipe, step = self._recipe, self._step
        length = recipe.length(step)
        texts = self._texts[length]
        chosen = texts[step_blocks(recipe.seed, step, recipe.batch_tokens // length, len(texts))]
        rng = np.random.Generator(np.random.Philox(key=[recipe.seed, 1 << 32 | step]))
        self._model.train()
        batch = recipe.masking.batch(chosen, self._vocabulary, rng)
        loss = cross_entropy(*predict(self._model, self._vocabulary, batch, bf16=self._bf16))
        if not torch.isfinite(loss):
            why = (
                "no word of it is in the vocabulary" if batch.target.max() < 0 else "a smaller rate may help"
            )
            raise InvalidInput(
                f"step {step}: the loss is {float(loss.detach())} ({why}); the rate is {recipe.rate}"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        return float(loss.detach())

    def score(self) -> Score:
        """Top-1, top-5 and nats on what was held out; the same positions at every call."""
        return score(self._model, self._vocabulary, self._held_out, bf16=self._bf16)

    # ---- checkpoints -----------------------------------------------------------------------------

    def _checkpoint(self, folder: Path) -> None:
        if self._saved == self._step:
            return
        tensors = {f"model.{k}": v for k, v in own(self._model).items()}
        for i, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v.contiguous() for k, v in state.items()}
        told = {"step": self._step, "seconds": self._seconds, "mark": self._mark}
        told |= {"origin": self._origin, "loss": self._mean}
        checkpoint.write(folder, Checkpoint(tensors, told))
        self._saved = self._step

    def _resume(self, folder: Path) -> None:
        found = checkpoint.read(folder)
        if found is None:
            return
        told = found.told
        if told.get("mark") != self._mark or told.get("origin", self._origin) != self._origin:
            raise InvalidInput(
                f"{folder}: a run of another recipe, text, base or dtype; remove it or choose another --out"
            )
        self._take(folder, found.tensors)
        self._step, self._seconds = int(told["step"]), float(told["seconds"])
        self._mean, self._saved = float(told.get("loss", 0.0)), self._step

    def _take(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Put weights and the optimiser's averages in place; tied weights share what is written once."""
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        expected = {name: value.shape for name, value in own(self._model).items()}
        if {name: value.shape for name, value in weights.items()} != expected:
            raise ModelCorrupt(f"{folder}: its tensors are not those of this model; remove it to start anew")
        self._model.load_state_dict(weights, strict=False)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def _check(texts: Mapping[int, np.ndarray], held_out: np.ndarray, recipe: Recipe) -> None:
    for length in recipe.lengths:
        there, needed = len(texts.get(length, ())), recipe.batch_tokens // length
        if there < needed:
            raise InvalidInput(
                f"too little text: {there} blocks of {length} tokens, a batch needs {needed}; add --data"
            )
    if not len(held_out):
        raise InvalidInput("too little text: nothing is left to be held out; give more --data")


def own(model: Any) -> dict[str, Tensor]:
    """Each parameter once: tied ones share memory, which safetensors refuses."""
    seen: set[tuple[int, torch.Size]] = set()
    found = {}
    for name, value in model.state_dict().items():
        place = (value.data_ptr(), value.shape)
        if not value.numel() or place not in seen:
            seen.add(place)
            found[name] = value.detach().contiguous()
    return found


def _digest(model: Any) -> str:
    """Of the weights a run starts from."""
    digest = hashlib.sha256()
    for name, value in own(model).items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.cpu().numpy().data)
    return digest.hexdigest()


def _groups(model: Any, decay: float) -> Sequence[dict[str, Any]]:
    """Weight decay on matrices, none on biases and norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
