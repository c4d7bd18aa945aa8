# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Options to a plan of unmasking: every way in which masks may become tokens has a name here.

Knows options, and what a denoiser was trained to do by default. Must not know screens or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.diffusion.checkpoint import Loaded
    from haloweave.diffusion.sampling.orders import Order
    from haloweave.diffusion.unmask import Unmasking

ConfidenceStop = Annotated[
    float | None,
    typer.Option(
        "--confidence-stop", metavar="P", help="Write the rest once it is likelier than this on average."
    ),
]
ScheduleName = Annotated[
    str,
    typer.Option("--schedule", metavar="NAME", help="How fast to reveal: cosine, linear, log_linear."),
]
Ancestral = Annotated[
    bool, typer.Option("--ancestral", help="Reveal by chance, as the reverse process does; no order.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="More of the plan: draw=inverse_cdf|gumbel, remask=cap:0.1|rescale:0.1|doubtful:0.1, "
        "cache=true|false, block=N, joins=false (write broken characters too), order_noise=X (confidence), "
        "order_weight=X (strategic).",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What somebody asked for; None: as the denoiser was trained, or nothing."""

    steps: int | None = None
    order: str = "confidence"
    temperature: float = 1.0
    top_p: float = 1.0
    threshold: float | None = None
    confidence_stop: float | None = None
    schedule: str = "cosine"
    ancestral: bool = False
    remask: float = 0.0
    """As remask=cap:SHARE."""
    sets: Sequence[str] = ()


@dataclass(frozen=True)
class Planned:
    """A plan, and how long the blocks of a long text are."""

    unmasking: Unmasking
    block: int | None


def plan_of(loaded: Loaded, asked: Asked) -> Planned:
    """How masks become tokens. Raises BadInput for values that cannot be, with the names there are,
    InvalidInput for settings that are none."""
    from haloweave.diffusion import build
    from haloweave.diffusion.sampling.remask import Cap
    from haloweave.diffusion.unmask import Unmasking

    more = _set(asked.sets)
    if asked.remask and "remask" in more:
        raise InvalidInput("--remask and --set remask: give one of the two")
    block = more.pop("block", None)
    if block is not None and not 1 <= block <= loaded.denoiser.config.max_len:
        raise InvalidInput(f"--set block: expected 1..{loaded.denoiser.config.max_len} tokens, got {block}")
    order = _order(asked.order, more.pop("order_noise", None), more.pop("order_weight", None))
    joined = more.pop("joins", True) and loaded.tokenizer.joining.needed
    joining = loaded.tokenizer.joining if joined else None
    plan: dict[str, Any] = {"remask": Cap(asked.remask) if asked.remask else None, **more}
    unmasking = Unmasking(
        steps=asked.steps or int(loaded.told.get("sample_steps") or Unmasking.steps),
        order=order,
        temperature=asked.temperature,
        top_p=asked.top_p,
        schedule=build.schedule(asked.schedule),
        threshold=asked.threshold,
        confidence_stop=asked.confidence_stop,
        ancestral=asked.ancestral,
        joining=joining,
        **plan,
    )
    return Planned(unmasking, block)


def _order(name: str, noise: float | None, weight: float | None) -> Order:
    """An order with its settings. Raises InvalidInput for one that this order has not."""
    from haloweave.diffusion import build
    from haloweave.diffusion.sampling.orders import Confidence, Strategic

    order = build.order(name)
    if noise is not None and not isinstance(order, Confidence):
        raise InvalidInput(f"--set order_noise: --order {name} has none; confidence has")
    if weight is not None and not isinstance(order, Strategic):
        raise InvalidInput(f"--set order_weight: --order {name} has none; strategic has")
    if noise is not None:
        return Confidence(noise)
    return order if weight is None else Strategic(weight)


def _set(sets: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, each name once."""
    kinds, found = _kinds(), dict[str, Any]()
    for one in sets:
        name, equals, value = one.partition("=")
        if name not in kinds or not equals or name in found:
            raise InvalidInput(f"--set {one}: expected NAME=VALUE, each name once, of {', '.join(kinds)}")
        found[name] = kinds[name](value)
    return found


def _kinds() -> Mapping[str, Callable[[str], Any]]:
    from haloweave.diffusion import build

    named = {"draw": build.draw, "remask": build.remask, "block": _count}
    switches = {"cache": partial(_switch, "cache"), "joins": partial(_switch, "joins")}
    numbers = {name: partial(_number, name) for name in ("order_noise", "order_weight")}
    return named | switches | numbers


def _switch(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise InvalidInput(f"--set {name}={value[:20]}: expected true or false")
    return value == "true"


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InvalidInput(f"--set {name}={value[:20]}: expected a number") from error


def _count(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or len(value) > 9:
        raise InvalidInput(f"--set block={value[:20]}: expected a number of tokens")
    return int(value)
