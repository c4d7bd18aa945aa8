# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a model can do, found out by trying it on itself, once, at load.

Knows how to run a few tokens in two ways and compare. Must not know names of architectures: a model is
judged by its numbers. Two questions, three short passes:

1. Does the tap compute this model's attention? (Our logits against stock attention without a cache.)
   If not, the model is refused.
2. Does a key depend on its position only through the rotation we know? (The same tokens, fed some slots
   further on: the first rows, saved and restored at those slots, must be the same keys and values.) If not,
   edits are exact only by recomputing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from haloweave.engine.hf.arena import Arena
from haloweave.engine.hf.attention import AttentionTap
from haloweave.engine.hf.image import restore, save
from haloweave.engine.hf.rope import Rotation
from haloweave.errors import ModelUnsupported
from haloweave.memory.edit import Surgery

_TOKENS = 7
_FURTHER = 5


@dataclass(frozen=True)
class Found:
    """Outcome of the probe."""

    rotation: Rotation | None
    surgeries: frozenset[Surgery]
    notes: tuple[str, ...]


@torch.inference_mode()
def probe(model: PreTrainedModel, arena: Arena, tap: AttentionTap) -> Found:
    """Probe the model, and leave it with the tap as its attention and an empty arena.

    Raises ModelUnsupported, with the reason, if it cannot be run on an arena at all.
    """
    count = min(_TOKENS, arena.capacity)
    ids = torch.arange(1, count + 1, device=model.device)[None] % model.get_input_embeddings().num_embeddings
    model.set_attn_implementation("eager")
    stock = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    model.set_attn_implementation(tap.register())
    try:
        ours = _run(model, arena, ids, 0)
    except (TypeError, AttributeError, IndexError, RuntimeError, NotImplementedError) as err:
        raise ModelUnsupported(
            f"{model.config.model_type}: its layers do not use an ordinary KV cache: {err}"
        ) from err
    if any(not layer.is_initialized for layer in arena.layers):
        raise ModelUnsupported(f"{model.config.model_type}: some layers keep no keys and values (recurrent?)")
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    gap = float((ours - stock).abs().max() / stock.abs().max().clamp_min(1.0))
    if not gap <= tolerance:
        raise ModelUnsupported(
            f"{model.config.model_type}: its attention is not the ordinary one, logits differ by {gap:.1e}"
        )
    found = _positions(model, arena, ids, tolerance)
    arena.truncate(0)
    tap.reset()
    return found


def _run(model: Any, arena: Arena, ids: Tensor, first_position: int) -> Tensor:
    """Feed ids as rows 0.., at positions from `first_position` on; the last logits."""
    count = ids.shape[1]
    rows = torch.arange(count, device=ids.device)
    arena.begin(rows, rows=count, tail=True)
    out = model(
        input_ids=ids, position_ids=rows[None] + first_position, past_key_values=arena, use_cache=True
    )
    logits: Tensor = out.logits[0, -1].float()
    return logits


def _positions(model: Any, arena: Arena, ids: Tensor, tolerance: float) -> Found:
    rotation = Rotation.of(model, len(arena.layers))
    exact_only = frozenset({Surgery.RECOMPUTE})
    if rotation is None:
        return Found(None, exact_only, ("no rotary positions: rows cannot move, only be computed again",))
    count = ids.shape[1]
    slots, moved = torch.arange(count, device=ids.device), torch.full((count,), _FURTHER)
    first = save(arena, slots)
    _run(model, arena, ids, _FURTHER)
    expected = _rows(arena, count)
    for candidate in (rotation, replace(rotation, interleaved=True)):
        restore(arena, slots, first, candidate.turns(moved, ids.device))
        gaps = [_gap(got, want) for got, want in zip(_rows(arena, count), expected, strict=True)]
        if max(gaps) <= tolerance:
            return Found(candidate, frozenset(Surgery), ())
    note = f"keys do not follow the rotary module when tokens move (off by {max(gaps):.1e}): rows cannot move"
    return Found(None, exact_only, (note,))


def _rows(arena: Arena, count: int) -> list[Tensor]:
    """Keys and values of the first rows of each layer."""
    return [part[:, :count].clone() for layer in arena.layers for part in layer.parts()[:2]]


def _gap(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number expected."""
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
