# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Decode speed with every layer observed, against plain `generate` with DynamicCache and SDPA.

Both sides run the same weights, dtype, threads and number of rows; runs alternate, so that a machine whose
speed drifts slows both. Ours is the whole tick: forward pass, attention pooled, brightness, mirror, journal
and sampling.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from haloweave import build
from haloweave.engine.sampling import Sampling
from haloweave.memory.tokens import Source, Tokens, View
from haloweave.mind import Mind
from haloweave.settings import Settings


@dataclass(frozen=True)
class Pace:
    """Tokens per second of both sides at one number of rows; lists hold one figure a run."""

    rows: int
    ours: list[float]
    plain: list[float]

    @property
    def ratio(self) -> float:
        """Median of the pairwise ratios."""
        return float(np.median(np.array(self.ours) / np.array(self.plain)))


def decode(loaded: Any, settings: Settings, rows: int, *, tokens: int = 24, runs: int = 5) -> Pace:
    """Decode `tokens` tokens after `rows` rows, `runs` times on either side."""
    from transformers import DynamicCache

    stock = copy.deepcopy(loaded.model)
    stock.set_attn_implementation("sdpa")
    room = rows + tokens * (runs + 1) + 1
    mind = build.mind_of(settings.model_copy(update={"budget": room, "tail": 0.0}), loaded)
    ids = np.random.default_rng(0).integers(100, mind.engine.capabilities.vocabulary - 100, rows)
    prefix = torch.from_numpy(ids)[None].to(stock.device)
    cache = _prefill(stock, prefix, DynamicCache(config=stock.config))
    fill(mind, ids)
    ours, plain = [], []
    for run in range(runs + 1):
        a = spoken(mind, tokens)
        b = _plain(stock, prefix, cache, tokens)
        if run:
            ours.append(a)
            plain.append(b)
    return Pace(rows, ours, plain)


def fill(mind: Mind, ids: np.ndarray, chunk: int = 256) -> None:
    """Give a mind these tokens as its context."""
    for start in range(0, len(ids), chunk):
        mind.feed_ids(ids[start : start + chunk], Source.TEXT)


def spoken(mind: Mind, tokens: int) -> float:
    """Greedy, over one token id that never ends a turn, as `generate` is made to do below."""
    how = Sampling(temperature=0.0, logit_bias=dict.fromkeys(mind.codec.end_ids, float("-inf")))
    start = time.perf_counter()
    for _ in range(tokens):
        mind.speak_once(how)
    return tokens / (time.perf_counter() - start)


@torch.inference_mode()
def _prefill(model: Any, ids: torch.Tensor, cache: Any, chunk: int = 256) -> Any:
    for start in range(0, ids.shape[1] - 1, chunk):
        stop = min(start + chunk, ids.shape[1] - 1)
        model(input_ids=ids[:, start:stop], past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _plain(model: Any, ids: torch.Tensor, cache: Any, tokens: int) -> float:
    """`generate` after the same rows. Every run starts from a copy of the prefilled cache (not timed)."""
    fresh = copy.deepcopy(cache)
    start = time.perf_counter()
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=fresh,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    took = time.perf_counter() - start
    return float((out.shape[1] - ids.shape[1]) / took)


@dataclass(frozen=True)
class Bookkeeping:
    """Milliseconds of everything in a tick but the forward pass and sampling, at one number of slots."""

    slots: int
    milliseconds: float
    worst: float


def bookkeeping(settings: Settings, slots: int = 8192, ticks: int = 300) -> Bookkeeping:
    """Journal, mirror and brightness per decoded token, and a weave's choice spread over the tokens it
    makes room for; no model involved."""
    from haloweave.journal.base import Born, MemoryJournal
    from haloweave.memory.mirror import Mirror
    from haloweave.memory.plan import Marker, plan
    from haloweave.memory.tokens import AttentionSample

    rng = np.random.default_rng(0)
    s = settings.model_copy(update={"budget": slots})
    policy, cull, laws = build.brightness_policy(s), build.cull_policy(s), build.laws(s)
    mirror, journal = Mirror(), MemoryJournal()
    first = Tokens.make(
        rng.integers(0, 40_000, slots - ticks), first_uid=0, source=Source.TEXT, brightness=128
    )
    mirror.append(first)
    mass = rng.random(slots).astype(np.float32)
    times = []
    for _ in range(ticks):
        start = time.perf_counter()
        view: View = mirror.view
        born = Tokens.make([7], first_uid=view.next_uid, source=Source.MODEL, brightness=160)
        journal.write(Born(born))
        mirror.append(born)
        now = mass[: mirror.rows]
        mirror.shine(policy.update(mirror.view, AttentionSample(now, now, now, 1)))
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    freed = int(slots * s.slack)
    mirror.apply(plan(mirror.view, cull.choose(mirror.view, freed), laws=laws, marker=Marker()))
    weave = (time.perf_counter() - start) / max(freed, 1)
    return Bookkeeping(slots, 1e3 * (float(np.median(times)) + weave), 1e3 * (max(times) + weave))
