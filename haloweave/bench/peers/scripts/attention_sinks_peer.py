# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""attention-sinks 0.4.0 (StreamingLLM, arXiv 2309.17453): four sinks and the most recent rows, positions
counted inside the cache.

It cuts its cache after each forward pass, so it is given the rows less one chunk: then no pass sees more
than the budget. Axes: Q tokens fed, V vocabulary.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from .context import Arm, Context, fed, share, timed
from .measure import check, run, too_long
from .protocol import Out, read_job
from .weights import load

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

NAME, SINKS = "attention_sinks", 4
_ALL = 1 << 30


class Sinks(Context):
    """Rows of the peer's cache, and which tokens they are of."""

    def __init__(self, model: Any, rows: int, held: list[int], read: int = 0, past: Any = None) -> None:
        self._model, self._rows, self._held, self._read, self._past = model, rows, held, read, past

    def feed(self, ids: list[int]) -> Float[Tensor, "Q V"]:
        cache = self._model.model.attention_sink_kv_cache
        cache.attention_sink_size = SINKS
        cache.attention_sink_window_size, cache.cache_size = self._rows - SINKS, self._rows
        told = self._model(input_ids=torch.tensor([ids]), past_key_values=self._past, use_cache=True)
        self._past = told.past_key_values
        held = [*self._held, *range(self._read, self._read + len(ids))]
        self._held = held if len(held) <= self._rows else held[:SINKS] + held[SINKS - self._rows :]
        self._read += len(ids)
        logits: Tensor = told.logits[0]
        return logits.float().log_softmax(-1)

    def fork(self) -> Sinks:
        """Every pass makes new tensors, so nothing needs copying."""
        return Sinks(self._model, self._rows, self._held, self._read, self._past)

    def close(self) -> None:
        pass

    def alive(self, spans: list[list[int]]) -> float:
        return share(torch.tensor(self._held), spans)

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for layer in self._past or () for t in layer)

    def seconds(self, last: Float[Tensor, " V"], count: int) -> list[float]:
        return timed(self, last, count)


class Recent(Arm):
    """Sinks and recent rows; all rows at a budget of 0."""

    def __init__(self, model: Any, rows: int, chunk: int) -> None:
        self._model, self.name, self.rows, self._chunk = model, NAME, rows, chunk

    def start(self) -> Sinks:
        return Sinks(self._model, self.rows - self._chunk if self.rows else _ALL, [])

    def read(self, ids: list[int], before: Context | None, known: int, room: int) -> Context:
        context = before or self.start()
        if len(ids) > known:
            fed(context, ids[known:], self._chunk)
        return context


def main() -> None:
    from attention_sinks import LlamaForCausalLM  # type: ignore[import-not-found, unused-ignore]

    out, job = Out(), read_job()
    model = load(job, LlamaForCausalLM)
    plain = Recent(model, 0, job["chunk"])
    names = ("attention-sinks", "transformers", "torch")
    out.check(
        check(plain.start(), job["check"]), len(job["check"]) - 1, {name: version(name) for name in names}
    )
    longest = model.config.max_position_embeddings

    def why_not(arm: Arm, case: dict[str, Any]) -> str:
        if not arm.rows:
            return too_long(case, longest)
        if arm.rows <= job["chunk"] + SINKS:
            return f"{arm.rows} rows are not more than a chunk of {job['chunk']} and {SINKS} sinks"
        return ""

    run(job, [Recent(model, rows, job["chunk"]) for rows in job["rows"]], plain, out, why_not)


if __name__ == "__main__":
    main()
