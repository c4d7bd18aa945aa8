# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The only place where a name, out of a config file or a command line, chooses a class.

Knows every architecture, schedule, corruption and order. Must not know files or training. Axes: V vocabulary,
E a host's width.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxtyping import Float
from torch import Tensor

from haloweave.diffusion.corrupt import Absorb, Corruption, FrequencyAware, Hybrid
from haloweave.diffusion.denoisers.base import Denoiser, DenoiserConfig
from haloweave.diffusion.denoisers.eco_hybrid import EcoHybrid, EcoHybridConfig
from haloweave.diffusion.denoisers.editor import (
    EcoEditor,
    EcoEditorConfig,
    TransformerEditor,
    TransformerEditorConfig,
)
from haloweave.diffusion.denoisers.encoder import Encoder, EncoderConfig
from haloweave.diffusion.denoisers.hierarchical import Hierarchical, HierarchicalConfig
from haloweave.diffusion.denoisers.transformer import Transformer, TransformerConfig
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.sampling.draw import Draw, GumbelMax, InverseCdf
from haloweave.diffusion.sampling.orders import (
    Certainty,
    Confidence,
    Entropy,
    LeftToRight,
    Margin,
    Order,
    Random,
    Strategic,
)
from haloweave.diffusion.sampling.remask import Cap, Doubtful, Remask, Rescale
from haloweave.diffusion.scars import Scars
from haloweave.diffusion.schedule import Cosine, Linear, LogLinear, Schedule
from haloweave.diffusion.script_noise import WholeUnits
from haloweave.diffusion.spans import CullSpans

ARCHITECTURES: Mapping[str, tuple[type[DenoiserConfig], type[Denoiser]]] = {
    "transformer": (TransformerConfig, Transformer),
    "eco_hybrid": (EcoHybridConfig, EcoHybrid),
    "hierarchical": (HierarchicalConfig, Hierarchical),
    "encoder": (EncoderConfig, Encoder),
    "editor": (TransformerEditorConfig, TransformerEditor),
    "eco_editor": (EcoEditorConfig, EcoEditor),
}
SCHEDULES: Mapping[str, Schedule] = {"cosine": Cosine(), "linear": Linear(), "log_linear": LogLinear()}
CORRUPTIONS: Mapping[str, type[Corruption]] = {
    "absorb": Absorb,
    "hybrid": Hybrid,
    "frequency": FrequencyAware,
    "spans": CullSpans,
    "scars": Scars,
    "clusters": WholeUnits,
}
ORDERS: Mapping[str, Order] = {
    "random": Random(),
    "left_to_right": LeftToRight(),
    "confidence": Confidence(),
    "certainty": Certainty(),
    "margin": Margin(),
    "entropy": Entropy(),
    "strategic": Strategic(),
}
DRAWS: Mapping[str, Draw] = {"inverse_cdf": InverseCdf(), "gumbel": GumbelMax()}
REMASKS: Mapping[str, Callable[[float], Remask]] = {
    "cap": Cap,
    "rescale": Rescale,
    "doubtful": lambda eta: Doubtful(Cap(eta)),
}

_T = TypeVar("_T")


def denoiser(config: DenoiserConfig, borrowed: Float[Tensor, "V E"] | None = None) -> Denoiser:
    """A new denoiser, its weights drawn from torch's global generator: seed that first. Raises BadInput."""
    kind = ARCHITECTURES.get(getattr(type(config), "arch", ""))
    if kind is None or not isinstance(config, kind[0]):
        raise BadInput(
            f"denoiser: expected the config of {_names(ARCHITECTURES)}, got {type(config).__name__}"
        )
    made: Any = kind[1]
    built: Denoiser = made(config, borrowed)
    return built


def config_of(told: Mapping[str, Any]) -> DenoiserConfig:
    """A config from its fields and `arch`, as JSON or TOML has them: {"arch": c.arch, **asdict(c)} gives c.

    Raises BadInput for an unknown architecture, a field that is unknown, missing or of another type, or
    values that the config refuses.
    """
    if "arch" not in told:
        raise BadInput(f"denoiser: expected arch = one of {_names(ARCHITECTURES)}, got none")
    config, _ = named("architecture", told["arch"], ARCHITECTURES)
    given = {name: value for name, value in told.items() if name != "arch"}
    return _made(told["arch"], config, given)


def schedule(name: str) -> Schedule:
    """Raises BadInput for an unknown name."""
    return named("schedule", name, SCHEDULES)


def order(name: str) -> Order:
    """Raises BadInput for an unknown name."""
    return named("order", name, ORDERS)


def draw(name: str) -> Draw:
    """Raises BadInput for an unknown name."""
    return named("draw", name, DRAWS)


def remask(told: str) -> Remask:
    """`kind:share`, such as cap:0.1. Raises BadInput for an unknown kind or a share that cannot be."""
    name, _, share = told.partition(":")
    kind = named("remask", name, REMASKS)
    try:
        return kind(float(share))
    except ValueError as error:  # BadInput too, which says less here
        raise BadInput(f"remask {told!r}: expected {name} and a share in (0, 1], as {name}:0.1") from error


def corruption(name: str, known: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Corruption:
    """A corruption by name.

    `known`: what tokenizer and corpus know, the same for all (mask_id, pad_id, vocab_size, specials,
    information, starts, and so on); each takes what it has a field for. `options`: what somebody asked for,
    each a field of it. Raises BadInput for an unknown name or option, or where something needed is missing.
    """
    kind = named("corruption", name, CORRUPTIONS)
    taken = {field.name: known[field.name] for field in _fields(kind) if field.name in known}
    return _made(name, kind, taken | dict(options or {}))


def named(what: str, name: object, table: Mapping[str, _T]) -> _T:
    """The entry of that name. Raises BadInput with the names there are."""
    if not isinstance(name, str) or name not in table:
        raise BadInput(f"{what}: expected one of {_names(table)}, got {name!r}")
    return table[name]


def _names(table: Mapping[str, object]) -> str:
    return ", ".join(table)


def _fields(kind: type) -> tuple[Field[Any], ...]:
    return fields(kind)


def _made(name: str, kind: type[_T], given: Mapping[str, Any]) -> _T:
    """An instance, its fields checked by name and type; what the class itself refuses is its own BadInput."""
    there = {field.name: field for field in _fields(kind)}
    if unknown := sorted(given.keys() - there.keys()):
        raise BadInput(f"{name}: expected fields among {_names(there)}, got {', '.join(unknown)}")
    needed = {n for n, f in there.items() if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(needed - given.keys()):
        raise BadInput(f"{name}: expected {', '.join(missing)} as well; it cannot do without")
    hints = get_type_hints(kind)
    for field, value in given.items():
        if not _fits(value, hints[field]):
            raise BadInput(f"{name}: {field} should be {there[field].type}, got {value!r}")
    return kind(**given)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of the plain type that a field asks for; of tensors and the like anything is."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, types.NoneType) else True
