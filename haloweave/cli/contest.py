# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Who takes part in a comparison: folders of trained denoisers, or config files that are trained first.

Knows folders, configs and what training leaves there. Must not know how denoisers are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from haloweave import denoising
from haloweave.cli import denoisers
from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.cli.denoiser_run import Watch
    from haloweave.diffusion.checkpoint import Loaded
    from haloweave.diffusion.compare import Contestant
    from haloweave.diffusion.training.settings import Settings
    from haloweave.progress import Progress

CONFIGS = (".toml", ".yaml", ".yml")


@dataclass(frozen=True, eq=False)
class Entrant:
    """One trained denoiser and where it lives."""

    folder: Path
    loaded: Loaded
    contestant: Contestant


def trained(
    paths: Sequence[Path], out: Path, watch_of: Callable[[bool], Watch], *, unmatched: bool = False
) -> list[Path]:
    """The folder of each; configs are trained into a folder of their name below `out`.

    Raises InvalidInput for what is neither folder nor config, for a config whose folder is there twice
    and, unless `unmatched`, for configs that would not be comparable.
    """
    for path in paths:
        if not path.is_dir() and not (path.is_file() and path.suffix.lower() in CONFIGS):
            raise InvalidInput(
                f"{path}: expected a folder that `halo train` wrote, or a config (.toml, .yaml)"
            )
    settings = {path: _settings(path, out) for path in paths if path.is_file()}
    folders = [settings[path].around.output_dir if path in settings else path for path in paths]
    if settings and len({folder.resolve() for folder in folders}) < len(folders):
        raise InvalidInput("two of these are one folder, or would be trained into one; rename one")
    if not unmatched:
        _alike(settings)
    return [_train(settings[path], watch_of) if path in settings else path for path in paths]


def _settings(path: Path, out: Path) -> Settings:
    """As `halo train --config` reads it, but for the output folder."""
    from haloweave.diffusion.training import config_file
    from haloweave.diffusion.training.settings import known, settled

    made = settled(config_file.merged({}, config_file.read(path), known(), str(path)))
    return replace(made, around=replace(made.around, output_dir=out / path.stem))


def _alike(settings: dict[Path, Settings]) -> None:
    """What would be a mismatch afterwards is told before hours of training."""
    from haloweave.diffusion.compare import PARAMETERS

    runs = {
        path: {
            "tokens": s.recipe.rows(1) * s.recipe.max_steps * s.around.seq_len,
            "seq_len": s.around.seq_len,
            "vocab_size": s.around.vocab_size,
            "seed": s.recipe.seed,
            "data_dir": sorted(map(str, s.around.data_dir)),
        }
        for path, s in settings.items()
    }
    for path, run in list(runs.items())[1:]:
        first, base = next(iter(runs.items()))
        odd = [f"{name} {run[name]} and {base[name]}" for name in run if run[name] != base[name]]
        mine, its = _size(settings[path]), _size(settings[first])
        if abs(mine - its) > PARAMETERS * its:
            odd.append(f"about {mine:,} and {its:,} parameters")
        if odd:
            raise InvalidInput(f"{path} and {first} are not comparable: {'; '.join(odd)}; make them alike")


def _size(settings: Settings) -> int:
    """Parameters, if the vocabulary comes out as large as was asked, and without a host's embeddings."""
    import torch

    from haloweave.diffusion import build

    with torch.device("meta"):
        return build.denoiser(settings.config(settings.around.vocab_size, 0, 1, None)).parameters_trained


def _train(settings: Settings, watch_of: Callable[[bool], Watch]) -> Path:
    from haloweave.cli.denoiser_run import train

    return train(settings, watch_of).folder


def entrants(folders: Sequence[Path], progress: Progress, device: str = "auto") -> list[Entrant]:
    """Loaded, under the names of their folders, or their whole paths where two are called the same."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_entrant(folder, name, progress, device) for folder, name in zip(folders, names, strict=True)]


def _entrant(folder: Path, name: str, progress: Progress, device: str) -> Entrant:
    from haloweave.diffusion.compare import Contestant, Facts, stability
    from haloweave.diffusion.training.curves import CSV, read

    loaded = denoisers.placed(denoising.load(folder, progress), device)
    recipe = denoisers.recipe_of(folder)
    curves = read(folder / CSV)
    losses, tokens = curves.get("loss", []), curves.get("tokens", [])
    facts = Facts(
        parameters=loaded.denoiser.parameters_trained,
        tokens=int(tokens[-1]) if tokens else None,
        corpus=loaded.told.get("corpus"),
        tokenizer=loaded.tokenizer.fingerprint,
        seq_len=loaded.denoiser.config.max_len,
        seed=denoisers.seed_of(folder),
    )
    finished = loaded.told.get("step") == recipe.get("max_steps", -1)
    return Entrant(folder, loaded, Contestant(name, loaded.denoiser, facts, stability(losses, finished)))
