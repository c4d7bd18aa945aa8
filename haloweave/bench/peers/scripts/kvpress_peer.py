# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""kvpress 0.5.5: presses that score keys and values, head by head, and drop the lowest.

    questions      as its pipeline does: the whole context is prefilled in one pass, then pressed to the rows;
                   question and answer come on top. So memory is not bounded while reading, and whoever scores
                   has seen all there is.
    running text   DecodingPress after each chunk, down to the rows less one chunk, so that no pass sees more
                   than the budget. Positions grow for ever, as they do in its pipeline.

Presses return their rows in the order of their scores. What a press knows by place in the cache is therefore
wrong from the second time on, and such presses are left out of running text. Axes: Q tokens fed, V
vocabulary, H heads, K rows kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from .context import Arm, Context, share, timed
from .held import Everything, cache_bytes
from .measure import check, run, too_long
from .protocol import Out, read_job
from .weights import load

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_ORDER = "kept rows come back in the order of their scores, and "
_WINDOW = 64
"""Late queries that vote in SnapKV (arXiv 2404.14469)."""


@dataclass(frozen=True)
class Method:
    """One press."""

    press: Callable[[], Any]
    again: Callable[[], Any] | None = None
    """For pressing again and again, where it differs."""
    no_stream: str = ""
    """Why it cannot press again and again."""
    attention: str = "sdpa"


def methods(chunk: int) -> dict[str, Method]:
    """The presses by the name of their arm. Those that vote by late queries have one chunk of them in a
    stream, and what they pool over places does not apply there."""
    import kvpress as k  # type: ignore[import-not-found, unused-ignore]

    late = max(min(_WINDOW, chunk // 2), 1)
    return {
        "streaming_llm": Method(
            k.StreamingLLMPress, no_stream=_ORDER + "this press takes the first four for the sinks"
        ),
        "tova": Method(k.TOVAPress),
        "observed": Method(
            k.ObservedAttentionPress,
            no_stream=_ORDER + "this press divides by place in the cache",
            attention="eager",
        ),
        "snapkv": Method(
            lambda: k.SnapKVPress(window_size=_WINDOW), lambda: k.SnapKVPress(window_size=late, kernel_size=1)
        ),
        "expected": Method(
            k.ExpectedAttentionPress,
            no_stream="it takes the number of buffered states for the position of the next query",
        ),
        "keydiff": Method(k.KeyDiffPress),
        "knorm": Method(k.KnormPress),
    }


class Hooks:
    """DecodingPress on a model: after each chunk read, and after as many tokens decoded."""

    def __init__(self, model: Any, rows: int, chunk: int, again: Callable[[], Any]) -> None:
        self._model, self._rows, self._chunk, self._again = model, rows, chunk, again
        self._hooks, self._every = ExitStack(), 0

    def before(self, tokens: int) -> None:
        """A pass over so many tokens comes next."""
        every = 1 if tokens > 1 else self._chunk
        if every != self._every:
            self.close()
            self._hooks.enter_context(self._press(every)(self._model))
            self._every = every

    def _press(self, every: int) -> Any:
        import kvpress  # type: ignore[import-not-found, unused-ignore]

        target = self._rows - self._chunk
        return kvpress.DecodingPress(self._again(), compression_interval=every, target_size=target)

    def close(self) -> None:
        """Take them off again."""
        self._hooks.close()
        self._every = 0


class Pressed(Context):
    """A cache that was pressed, with the tokens that each layer and head `kept`, or, with hooks, one that is
    pressed as it grows."""

    def __init__(
        self,
        model: Any,
        read: int,
        cache: Any,
        kept: dict[int, Int[Tensor, "H K"]],
        hooks: Hooks | None = None,
    ) -> None:
        self._model, self._read, self._cache, self._kept, self._hooks = model, read, cache, kept, hooks

    def feed(self, ids: list[int]) -> Float[Tensor, "Q V"]:
        if self._hooks is not None:
            self._hooks.before(len(ids))
        position = torch.arange(self._read, self._read + len(ids))[None]
        told = self._model(
            input_ids=torch.tensor([ids]), past_key_values=self._cache, position_ids=position, use_cache=True
        )
        self._read += len(ids)
        logits: Tensor = told.logits[0]
        return logits.float().log_softmax(-1)

    def fork(self) -> Pressed:
        if self._hooks is not None:
            raise RuntimeError("its hooks are on the model: there is one at a time")
        return Pressed(self._model, self._read, copy.deepcopy(self._cache), self._kept)

    def close(self) -> None:
        if self._hooks is not None:
            self._hooks.close()

    def alive(self, spans: list[list[int]]) -> float:
        """A mean over layers and heads: each keeps rows of its own."""
        if not self._kept:
            return 1.0
        return sum(share(kept, spans) for kept in self._kept.values()) / len(self._kept)

    def bytes(self) -> int:
        return cache_bytes(self._cache)

    def seconds(self, last: Float[Tensor, " V"], count: int) -> list[float]:
        return timed(self, last, count)


class Press(Arm):
    """One method at one budget."""

    def __init__(self, model: Any, name: str, method: Method, rows: int, chunk: int) -> None:
        self._model, self._method, self._chunk = model, method, chunk
        self.name, self.rows = f"kvpress:{name}", rows

    def start(self) -> Pressed:
        hooks = Hooks(self._model, self.rows, self._chunk, self._method.again or self._method.press)
        return Pressed(self._model, 0, DynamicCache(), {}, hooks)

    def read(self, ids: list[int], before: Context | None, known: int, room: int) -> Context:
        """Everything again in one pass, since a press wants to see the whole."""
        if before is not None and known == len(ids):
            return before
        self._model.set_attn_implementation(self._method.attention)
        kept: dict[int, Int[Tensor, "H K"]] = {}
        cache, press = DynamicCache(), self._method.press()
        if len(ids) > self.rows:
            press.compression_ratio = 1 - (self.rows + 0.5) / len(ids)  # half a row: int() rounds down
            _watch(press, kept)
            with press(self._model):
                self._model.model(input_ids=torch.tensor([ids]), past_key_values=cache)
        else:
            self._model.model(input_ids=torch.tensor([ids]), past_key_values=cache)
        self._model.set_attn_implementation("sdpa")
        return Pressed(self._model, len(ids), cache, kept)


def _watch(press: Any, kept: dict[int, Int[Tensor, "H K"]]) -> None:
    """Note which rows a press keeps: it takes the highest of its scores, head by head."""
    from kvpress.utils import compute_n_kept  # type: ignore[import-not-found, unused-ignore]

    score = press.score

    def seen(module: Any, hidden: Any, keys: Any, values: Any, attentions: Any, kwargs: Any) -> Any:
        scores = score(module, hidden, keys, values, attentions, kwargs)
        count = compute_n_kept(keys.shape[2], press.compression_ratio)
        kept[module.layer_idx] = scores.topk(count, dim=-1).indices[0]
        return scores

    press.score = seen


def main() -> None:
    out, job = Out(), read_job()
    model = load(job)
    found = methods(job["chunk"])
    plain = Everything(model, "kvpress", job["chunk"])
    names = ("kvpress", "transformers", "torch")
    out.check(
        check(plain.start(), job["check"]), len(job["check"]) - 1, {name: version(name) for name in names}
    )
    wanted = [name.partition(":")[2] for name in job["arms"]] or list(found)
    arms = [Press(model, name, found[name], rows, job["chunk"]) for name in wanted for rows in job["rows"]]
    longest = model.config.max_position_embeddings

    def why_not(arm: Arm, case: dict[str, Any]) -> str:
        if why := too_long(case, longest):
            return why + "; positions grow for ever here"
        if case["kind"] == "ask" or not isinstance(arm, Press):
            return ""
        if arm.rows <= 2 * job["chunk"]:
            return f"{arm.rows} rows are not more than two chunks of {job['chunk']}"
        return found[arm.name.partition(":")[2]].no_stream

    run(job, list(arms), plain, out, why_not)


if __name__ == "__main__":
    main()
