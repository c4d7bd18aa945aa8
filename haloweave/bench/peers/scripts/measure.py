# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Contexts to lines: the loss of running text, speed, answers. The same arithmetic for every peer.

Knows contexts and the job. Must not know a peer. Axes: C chunks, V vocabulary, T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import torch

from .context import Arm, Context, fed

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from .protocol import Out

POINTS = 16
"""Figures of pace along a stream."""
Why = Callable[[Arm, dict[str, Any]], str]


@torch.inference_mode()
def check(context: Context, ids: list[int]) -> float:
    """Mean loss of a short text by one plain forward pass, nats a token."""
    return nats(context.feed(ids)[:-1], ids[1:]) / (len(ids) - 1)


@torch.inference_mode()
def run(job: dict[str, Any], arms: list[Arm], plain: Arm, out: Out, why_not: Why) -> None:
    """Every case on every arm. `plain`: holds everything, others are compared with it; `why_not`: why an arm
    cannot do a case, or empty."""
    for case in job["cases"]:
        able = [arm for arm in arms if not _refused(arm, case, out, why_not)]
        if case["kind"] == "ask":
            for arm in able:
                _asked(job, arm, case, out)
            continue
        foreseen = [] if why_not(plain, case) or not able else _foreseen(plain, case["ids"], job["chunk"])
        for arm in able:
            _stream(job, arm, case, foreseen, out)


def _refused(arm: Arm, case: dict[str, Any], out: Out, why_not: Why) -> bool:
    why = why_not(arm, case)
    if why:
        out.cannot(arm.name, case["task"], why)
    return bool(why)


def too_long(case: dict[str, Any], longest: int) -> str:
    """Why everything cannot be held, or empty."""
    if case["kind"] == "stream":
        tokens = len(case["ids"])
    else:
        asked = max((len(q["asked_ids"]) + len(q["answer_ids"]) for q in case["questions"]), default=0)
        tokens = len(case["opening"]) + sum(map(len, case["pieces"])) + asked
    return f"{tokens} tokens, and the model was trained for {longest} positions" if tokens > longest else ""


def nats(log_p: Float[Tensor, "T V"], ids: list[int]) -> float:
    """Loss of these tokens, summed."""
    return -float(log_p.gather(1, torch.tensor(ids)[:, None]).double().sum())


def _named(arm: Arm, case: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The fields that every record of an arm in a case has."""
    told = {"task": case["task"], "arm": arm.name, "rows": arm.rows}
    return told | {"case": case["case"], "document": case["document"]} | more


# ---- running text --------------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """One pass over running text."""

    nats: float
    tokens: int
    """That it is the loss of: the first token of all has none."""
    last: Float[Tensor, " V"]
    """Log-probabilities of what comes next."""
    seconds: float


def _chunks(context: Context, ids: list[int], size: int) -> Iterator[Chunk]:
    last = None
    for at in range(0, len(ids), size):
        part, began = ids[at : at + size], time.perf_counter()
        log_p = context.feed(part)
        took = time.perf_counter() - began
        loss = nats(log_p[:-1], part[1:]) if len(part) > 1 else 0.0
        if last is not None:
            loss -= float(last[part[0]])
        yield Chunk(loss, len(part) - (last is None), log_p[-1], took)
        last = log_p[-1]


def _foreseen(plain: Arm, ids: list[int], size: int) -> list[Float[Tensor, " V"]]:
    return [chunk.last for chunk in _chunks(plain.start(), ids, size)]


def _stream(
    job: dict[str, Any], arm: Arm, case: dict[str, Any], foreseen: list[Float[Tensor, " V"]], out: Out
) -> None:
    context, of, took, read = arm.start(), _named(arm, case), [], 0
    try:
        for number, chunk in enumerate(_chunks(context, case["ids"], job["chunk"])):
            read += chunk.tokens
            took.append(chunk.seconds)
            full = foreseen[number] if arm.rows and foreseen else None
            _loss(chunk, full, of | {"x": read}, out)
        if job["decode"]:
            speed = of | {"task": "speed"}
            _reading(took[: len(case["ids"]) // job["chunk"]], job["chunk"], speed, out)
            _saying(context, chunk.last, job["decode"], speed, out)
    finally:
        context.close()


def _loss(chunk: Chunk, full: Float[Tensor, " V"] | None, of: dict[str, Any], out: Out) -> None:
    """Of one chunk, and how what is foreseen differs from what the full context foresees."""
    out.line(**of, metric="nats", value=chunk.nats / max(chunk.tokens, 1), weight=chunk.tokens)
    if full is not None:
        apart = float((full.exp().double() * (full.double() - chunk.last.double())).sum())
        out.line(**of, metric="kl", value=max(0.0, apart))
        out.line(**of, metric="top1", value=float(full.argmax() == chunk.last.argmax()))


def _reading(took: list[float], size: int, of: dict[str, Any], out: Out) -> None:
    """Pace along the stream."""
    every = max(1, len(took) // POINTS)
    for at in range(every, len(took) + 1, every):
        out.line(**of, metric="tokens_per_s", value=size / median(took[at - every : at]), x=at * size)


def _saying(context: Context, last: Float[Tensor, " V"], count: int, of: dict[str, Any], out: Out) -> None:
    """Pace of decoding after it, and what is held then."""
    took = context.seconds(last, count)
    out.line(**of, metric="said_per_s", value=count / sum(took))
    for percent in (50, 95, 99):
        share = torch.tensor(took, dtype=torch.float64).quantile(percent / 100)
        out.line(**of, metric=f"p{percent}_ms", value=1e3 * float(share))
    out.line(**of, metric="kv_mb", value=context.bytes() / 1e6)
    out.line(**of, metric="rss_mb", value=psutil.Process().memory_info().rss / 1e6)


# ---- questions -----------------------------------------------------------------------------------------


def _asked(job: dict[str, Any], arm: Arm, case: dict[str, Any], out: Out) -> None:
    """Each question on a copy of what has been read by then. A case without questions has nothing to tell."""
    if not case["questions"]:
        return
    ids = [*case["opening"], *(i for piece in case["pieces"] for i in piece)]
    ends = list(accumulate((len(piece) for piece in case["pieces"]), initial=len(case["opening"])))
    room = max(len(question["asked_ids"]) + len(question["answer_ids"]) for question in case["questions"])
    context: Context | None = None
    known = 0
    for question in sorted(case["questions"], key=lambda question: int(question["after"])):
        until = ends[question["after"]]
        context = arm.read(ids[:until], context, known, room)
        known = until
        of = _named(arm, case, x=question["distance"], group=question["group"])
        _answered(job, context.fork(), question, of, out)


def _answered(
    job: dict[str, Any], context: Context, question: dict[str, Any], of: dict[str, Any], out: Out
) -> None:
    """Nats of the answer, and whether greedy decoding would give it: each of its tokens is the likeliest,
    given those before it."""
    last = fed(context, question["asked_ids"], job["chunk"])
    out.line(**of, metric="alive", value=context.alive(question["evidence_spans"]))
    answer = question["answer_ids"]
    log_p = torch.cat([last[None], context.feed(answer)[:-1]])
    out.line(**of, metric="answer", value=-nats(log_p, answer))
    out.line(**of, metric="exact", value=float(log_p.argmax(-1).tolist() == answer))
