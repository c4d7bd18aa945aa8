# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Flat settings, from a command line or a file, to what a run is made of: its shape, recipe and surroundings.

Knows the names and types of every setting, and which architecture or corruption has which. Must not know
files, text or torch models: those are made elsewhere. Each name is spelt here as in a config file; on the
command line it has dashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from haloweave.diffusion import build
from haloweave.diffusion.denoisers.base import DenoiserConfig
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.training.config_file import nearest
from haloweave.diffusion.training.recipe import Recipe

_FROM_TOKENIZER = {"vocab_size", "mask_id", "pad_id", "max_len", "borrowed_dim"}
"""Of a denoiser's config: follows from the tokenizer, the host or `seq_len`, and is no setting."""
INGREDIENTS = {
    *("mask_id", "pad_id", "vocab_size", "information", "specials", "protected", "untouched"),
    *("starts", "continues", "unfinished", "scripts"),
}
"""Of a corruption: follows from the tokenizer and the corpus."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Everything but the denoiser's shape and the recipe. Raises BadInput."""

    arch: str = "transformer"
    data_dir: tuple[Path, ...] = ()
    output_dir: Path = Path("denoiser")
    cache: Path | None = None
    """Where tokenizer and tokens of the corpus are kept; None: `data` in the output folder."""
    seq_len: int = 256
    vocab_size: int = 8192
    """Of a tokenizer trained on the data; others bring their own size."""
    tokenizer: Path | None = None
    host: str | None = None
    initialiser: str | None = None
    """An encoder whose blocks the denoiser begins with: a known name or a folder; None: weights by lot."""
    exclude: tuple[str, ...] = ()
    held_out: tuple[Path, ...] = ()
    valid_share: float = 0.01
    prior: bool = False
    """Begin the head's bias at the tokens' frequencies in the corpus."""
    device: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.arch not in build.ARCHITECTURES:
            raise BadInput(f"arch {self.arch!r}{nearest(self.arch, build.ARCHITECTURES)}")
        if not self.data_dir:
            raise BadInput("data_dir: expected a file or folder of texts, got none; give --data-dir")
        if self.tokenizer is not None and self.host is not None:
            raise BadInput("tokenizer and host: a host brings its tokenizer; give one of the two")
        if self.initialiser is not None and not _starts_warm(self.arch):
            others = ", ".join(name for name in build.ARCHITECTURES if _starts_warm(name))
            raise BadInput(f"initialiser: {self.arch} takes over no weights; those that do: {others}")
        for name, least in (("seq_len", 2), ("vocab_size", 2), ("threads", 0)):
            if getattr(self, name) < least:
                raise BadInput(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if not 0 <= self.valid_share < 1:
            raise BadInput(f"valid_share: expected a share in [0, 1), got {self.valid_share}")


def _starts_warm(arch: str) -> bool:
    return hasattr(build.ARCHITECTURES[arch][1], "start_from")


@dataclass(frozen=True)
class Settings:
    """A run, before anything is read."""

    around: Surroundings
    recipe: Recipe
    shape: Mapping[str, Any]
    """Fields of the architecture's config that were given."""

    def config(self, vocab_size: int, mask_id: int, pad_id: int, borrowed_dim: int | None) -> DenoiserConfig:
        """The denoiser's config over these tokens. Raises BadInput."""
        tokens = {"vocab_size": vocab_size, "mask_id": mask_id, "pad_id": pad_id}
        more = {"max_len": self.around.seq_len, "borrowed_dim": borrowed_dim}
        return build.config_of({"arch": self.around.arch, **self.shape, **tokens, **more})


def known() -> dict[str, Any]:
    """Every setting by name, with its type."""
    found: dict[str, Any] = {}
    for config, _ in build.ARCHITECTURES.values():
        found |= _own(config, _FROM_TOKENIZER)
    for corruption in build.CORRUPTIONS.values():
        found |= _own(corruption, INGREDIENTS)
    recipe = _own(Recipe, {"corruption_options"})
    return found | recipe | _own(Surroundings, set())


def settled(given: Mapping[str, Any]) -> Settings:
    """Settings by name, each of its type, to a run. Raises BadInput for one that this run has no use for."""
    arch = str(given.get("arch", Surroundings.arch))
    around = Surroundings(**_taken(given, Surroundings))
    corruption = str(given.get("corruption", Recipe.corruption))
    if corruption not in build.CORRUPTIONS:
        raise BadInput(f"corruption {corruption!r}{nearest(corruption, build.CORRUPTIONS)}")
    recipe_names = _own(Recipe, {"corruption_options"})
    shape_names = _own(build.ARCHITECTURES[arch][0], _FROM_TOKENIZER)
    noise_names = _own(build.CORRUPTIONS[corruption], INGREDIENTS)
    for name in given.keys() - shape_names.keys() - noise_names.keys() - recipe_names.keys():
        if name not in _own(Surroundings, set()):
            raise BadInput(_useless(name, arch, corruption))
    _check_told(given, corruption)
    options = {name: given[name] for name in noise_names if name in given}
    recipe = Recipe(**{n: given[n] for n in recipe_names if n in given}, corruption_options=options)
    if recipe.distil and around.host is None:
        raise BadInput("distil: the teacher is the host, and there is none; give --host, or set distil to 0")
    if recipe.schedule not in build.SCHEDULES:
        raise BadInput(f"schedule {recipe.schedule!r}{nearest(recipe.schedule, build.SCHEDULES)}")
    return Settings(around, recipe, {name: given[name] for name in shape_names if name in given})


def _check_told(given: Mapping[str, Any], corruption: str) -> None:
    """Raise BadInput where noise tells each token its own level, and nobody would listen, or no bound is."""
    kind, objective = build.CORRUPTIONS[corruption], given.get("objective", Recipe.objective)
    told = getattr(kind, "told_per_token", False)
    if told and not given.get("time_conditioning", False):
        raise BadInput(
            f"corruption {corruption!r}: heat reaches a denoiser as the noise level of each token, and this "
            f"one reads no levels; set time_conditioning = true (--set time_conditioning=true)"
        )
    if (told or not getattr(kind, "bounded", True)) and objective != Recipe.objective:
        raise BadInput(
            f"corruption {corruption!r}: it has no likelihood bound; leave objective at {Recipe.objective}"
        )


def _useless(name: str, arch: str, corruption: str) -> str:
    option = f"--{name.replace('_', '-')}"
    archs = [a for a, (config, _) in build.ARCHITECTURES.items() if name in _own(config, _FROM_TOKENIZER)]
    if archs:
        return f"{option}: {arch} has none; the architectures that do: {', '.join(archs)}"
    noises = [c for c, kind in build.CORRUPTIONS.items() if name in _own(kind, INGREDIENTS)]
    if noises:
        return f"{option}: the corruption {corruption!r} has none; those that do: {', '.join(noises)}"
    return f"unknown setting {name!r}{nearest(name, known())}"


def _own(kind: Any, away: set[str]) -> dict[str, Any]:
    """The fields of a dataclass and their types."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind) if f.name not in away}


def _taken(given: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    return {name: given[name] for name in _own(kind, set()) if name in given}
