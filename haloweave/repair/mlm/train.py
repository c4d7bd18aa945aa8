# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Training a masked LM: an encoder without a head, or any masked LM, and text go in; a folder comes out.

Knows torch, one model and its optimiser. Must not know screens or where weights come from. Everything that
decides a step (order, masks, learning rate) follows from (seed, step); a run that was killed goes on from
its last checkpoint and ends with the weights it would have had.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from haloweave.errors import InvalidInput, ModelUnsupported
from haloweave.repair.mlm.blocks import Batch, Masking, Vocabulary, step_blocks

CHECKPOINT = "checkpoint"
_STATE = "state.json"


@dataclass(frozen=True)
class Recipe:
    """What a run is made of; two runs of one recipe and seed on one machine give the same weights."""

    tokens: int = 20_000_000
    batch_tokens: int = 4096
    phases: tuple[tuple[float, int], ...] = ((0.7, 64), (0.3, 128))
    """Share of the run, and length of its blocks: short blocks are cheaper, long ones teach positions."""
    rate: float = 6e-4
    warmup: float = 0.03
    decay: float = 0.01
    seed: int = 0
    checkpoint_every: int = 500
    masking: Masking = field(default_factory=Masking)

    def __post_init__(self) -> None:
        if self.tokens < self.batch_tokens or not 0 < self.rate < 1 or self.checkpoint_every < 1:
            raise InvalidInput(f"recipe: needs at least one batch, a rate in (0, 1), got {self}")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_tokens

    def length(self, step: int) -> int:
        """Length of the blocks of a step."""
        ends = np.cumsum([share for share, _ in self.phases])
        phase = int(np.searchsorted(ends, step / self.steps, side="right"))
        return self.phases[min(phase, len(self.phases) - 1)][1]

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then linear to zero."""
        up = max(1, int(self.warmup * self.steps))
        return self.rate * min((step + 1) / up, (self.steps - step) / max(1, self.steps - up))


@dataclass(frozen=True)
class Score:
    """Held-out quality at masked positions (15 % of the words, all of each word's pieces hidden)."""

    top1: float
    top5: float
    nats: float
    predicted: int


@dataclass(frozen=True)
class Report:
    """How far a run has come."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    score: Score | None = None


class Trainer:
    """One run. `texts` maps a block length to its training blocks; `held_out` is scored, never trained on."""

    def __init__(
        self,
        model: Any,
        vocabulary: Vocabulary,
        texts: dict[int, np.ndarray],
        held_out: np.ndarray,
        recipe: Recipe,
        *,
        bf16: bool = False,
    ) -> None:
        for length in {n for _, n in recipe.phases}:
            if length not in texts or len(texts[length]) < recipe.batch_tokens // length:
                raise InvalidInput(
                    f"too little text: {len(texts.get(length, []))} blocks of {length} tokens, "
                    f"a batch needs {recipe.batch_tokens // length}"
                )
        self._model, self._vocabulary, self._texts, self._held_out = model, vocabulary, texts, held_out
        self._recipe, self._bf16, self._step = recipe, bf16, 0
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(texts[n]).data for n in sorted(texts)))
        self._mark = f"{digest.hexdigest()}:{json.dumps(asdict(recipe))}"
        self._device = next(model.parameters()).device
        self._optimizer = torch.optim.AdamW(_groups(model, recipe.decay), betas=(0.9, 0.98), fused=True)
        self._seconds = 0.0

    @property
    def step(self) -> int:
        return self._step

    @property
    def seconds(self) -> float:
        """Time spent training, resumed parts included."""
        return self._seconds

    def run(self, folder: Path, tell: Callable[[Report], None], evaluate_every: int = 500) -> Score:
        """Train to the end, with checkpoints in `folder`; goes on from one that is there."""
        self._resume(folder / CHECKPOINT)
        mean, before = 0.0, self._step
        started, spent = time.perf_counter(), self._seconds
        while self._step < self._recipe.steps:
            loss = self._one_step()
            mean = loss if not mean else 0.98 * mean + 0.02 * loss
            self._seconds = spent + time.perf_counter() - started
            pace = (self._step - before) * self._recipe.batch_tokens / (self._seconds - spent)
            due = self._step % evaluate_every == 0 and self._step < self._recipe.steps
            score = self.score() if due else None
            tell(Report(self._step, self._recipe.steps, mean, pace, score))
            if self._step % self._recipe.checkpoint_every == 0:
                self._checkpoint(folder / CHECKPOINT)
        self._checkpoint(folder / CHECKPOINT)
        return self.score()

    def _one_step(self) -> float:
        recipe, step = self._recipe, self._step
        length = recipe.length(step)
        texts = self._texts[length]
        chosen = texts[step_blocks(recipe.seed, step, recipe.batch_tokens // length, len(texts))]
        rng = np.random.Generator(np.random.Philox(key=[recipe.seed, 1 << 32 | step]))
        logits, target = self._predict(recipe.masking.batch(chosen, self._vocabulary, rng), train=True)
        loss = cross_entropy(logits, target)
        if not torch.isfinite(loss):
            raise InvalidInput(f"step {step}: the loss is not finite; try a smaller rate than {recipe.rate}")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        return float(loss.detach())

    def _predict(self, batch: Batch, *, train: bool) -> tuple[Tensor, Tensor]:
        """Logits [N V] in fp32 at the N positions that have a target, and those targets [N]."""
        ids, heat, target = (
            torch.from_numpy(a).to(self._device) for a in (batch.ids, batch.heat, batch.target)
        )
        words = self._model.get_input_embeddings()
        mask = words.weight[self._vocabulary.mask]
        self._model.train(train)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16):
            embedded = torch.lerp(words(ids), mask.expand(*ids.shape, -1), heat[..., None])
            hidden = self._model.base_model(inputs_embeds=embedded).last_hidden_state
            there = target >= 0
            logits = head(self._model)(hidden[there])
        return logits.float(), target[there].long()

    @torch.no_grad()
    def score(self) -> Score:
        """Top-1, top-5 and nats on what was held out; the same positions at every call."""
        return score(self._predict, self._held_out, self._vocabulary)

    # ---- checkpoints -----------------------------------------------------------------------------

    def _checkpoint(self, folder: Path) -> None:
        """Written aside and renamed: a kill leaves the old one or the new one."""
        aside = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        tensors = {f"model.{k}": v for k, v in _own(self._model).items()}
        for i, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v.contiguous() for k, v in state.items()}
        save_file(tensors, aside / "tensors.safetensors")
        told = {"step": self._step, "seconds": self._seconds, "mark": self._mark}
        (aside / _STATE).write_text(json.dumps(told), encoding="utf-8")
        for file in aside.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        old = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def _resume(self, folder: Path) -> None:
        old = folder.with_name(f"{folder.name}.old")
        if not folder.exists() and old.exists():
            old.rename(folder)
        if not folder.exists():
            return
        told = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if told["mark"] != self._mark:
            raise InvalidInput(
                f"{folder}: a run of another recipe or other text; remove it or choose another --out"
            )
        tensors = load_file(folder / "tensors.safetensors")
        self._model.load_state_dict(
            {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, strict=False
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        whole = self._optimizer.state_dict()
        self._optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        self._step, self._seconds = told["step"], told["seconds"]


def score(
    predict: Callable[..., tuple[Tensor, Tensor]],
    held_out: np.ndarray,
    vocabulary: Vocabulary,
    batch: int = 32,
) -> Score:
    """Quality at whole-word masks over 15 % of `held_out`."""
    masking, hits, hits5, nats, count = Masking(rate=0.15, random=0, soft=0), 0, 0, 0.0, 0
    for at in range(0, len(held_out), batch):
        rng = np.random.Generator(np.random.Philox(key=[20_406, at]))
        logits, target = predict(masking.batch(held_out[at : at + batch], vocabulary, rng), train=False)
        best = logits.topk(5, dim=-1).indices == target[:, None]
        hits, hits5 = hits + int(best[:, 0].sum()), hits5 + int(best.sum())
        nats, count = nats + float(cross_entropy(logits, target, reduction="sum")), count + len(target)
    count = max(count, 1)
    return Score(hits / count, hits5 / count, nats / count, count)


def head(model: Any) -> Callable[[Tensor], Tensor]:
    """The part of a masked LM that turns hidden states [N D] into logits [N V], whatever it is called.

    Raises ModelUnsupported for a model that has none we know of.
    """
    for name in ("cls", "lm_head"):
        if (found := getattr(model, name, None)) is not None:
            return found  # type: ignore[no-any-return]
    if hasattr(model, "vocab_projector"):  # DistilBERT
        return lambda h: model.vocab_projector(
            model.vocab_layer_norm(model.activation(model.vocab_transform(h)))
        )
    if hasattr(model, "decoder") and hasattr(model, "head"):  # ModernBERT
        return lambda h: model.decoder(model.head(h))
    raise ModelUnsupported(f"{type(model).__name__}: no masked-LM head was found")


def _own(model: Any) -> dict[str, Tensor]:
    """Each parameter once: tied ones share memory, which safetensors refuses."""
    seen: set[int] = set()
    own = {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            own[name] = value.detach().contiguous()
    return own


def _groups(model: Any, decay: float) -> Sequence[dict[str, Any]]:
    """Weight decay on matrices, none on biases and norms."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
