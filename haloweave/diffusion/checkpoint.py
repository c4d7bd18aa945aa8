# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A trained denoiser in a folder: what is written there, and how it is loaded again.

    config.json         architecture, its config and what else is told, for people and other programs
    model.safetensors   the averaged weights; its note holds the same again, and is what is believed
    tokenizer/          what makes ids of text
    recipe.json         how it was trained
    checkpoint/         what a run needs to go on (see train); may be removed when it is over
    curves.csv, .png    how it went

Knows files, denoisers and tokenizers. Must not know training. A folder holds one model ever: config and
tokenizer never change under it, so replacing one file, the weights, is replacing the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from haloweave.diffusion import build, room
from haloweave.diffusion.denoisers.base import Denoiser, DenoiserConfig
from haloweave.diffusion.disk import write_text
from haloweave.diffusion.errors import BadCheckpoint, BadInput
from haloweave.diffusion.parcel import Parcel, as_json, note, read, whole, write
from haloweave.diffusion.quantise import quantise, restore
from haloweave.diffusion.tokenizer import Tokenizer

_BITS = 8
_AT_HOME = ("data", "cache")
"""Where its maker keeps the texts: nobody else's business."""
MODEL, CONFIG, TOKENIZER, RECIPE = "model.safetensors", "config.json", "tokenizer", "recipe.json"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A denoiser in evaluation mode on the CPU, its tokenizer, and what is told of them.

    `told` has at least `arch`, `config`, `step`, `sample_steps`; `host` names whose embeddings are borrowed.
    """

    denoiser: Denoiser
    tokenizer: Tokenizer
    told: Mapping[str, Any] = field(default_factory=dict)


def config_told(config: DenoiserConfig) -> dict[str, Any]:
    """A config as JSON has it; `build.config_of` makes a config of it again. Fields that came after models
    had been saved are left out at their defaults."""
    told = asdict(config)
    for one in fields(config):
        if one.metadata.get("untold") and told[one.name] == one.default:
            del told[one.name]
    return {"arch": config.arch, **told}


def borrowed_digest(denoiser: Denoiser) -> str | None:
    """The sha256 of the embedding table a denoiser borrows, if it does."""
    found = getattr(getattr(denoiser, "embedding", None), "borrowed_digest", None)
    return str(found) if found else None


def identity(denoiser: Denoiser, tokenizer: Tokenizer) -> dict[str, Any]:
    """What tells one model's folder from another's: shape, vocabulary and borrowed table, not weights."""
    return {
        "config": config_told(denoiser.config),
        "tokenizer": tokenizer.fingerprint,
        "borrowed": borrowed_digest(denoiser),
    }


def fits(denoiser: Denoiser, tokenizer: Tokenizer) -> None:
    """Raise BadInput unless denoiser and tokenizer speak of the same tokens."""
    config = denoiser.config
    for name in ("vocab_size", "mask_id", "pad_id"):
        one, other = getattr(config, name), getattr(tokenizer, name)
        if one != other and not (name == "pad_id" and one is None):
            raise BadInput(
                f"vocabulary: the denoiser has {name} {one}, the tokenizer {other}; they should be the same: "
                f"build the config from this tokenizer, or load the tokenizer that belongs to the denoiser"
            )


def begin(folder: Path, denoiser: Denoiser, tokenizer: Tokenizer, recipe: Mapping[str, Any]) -> None:
    """Write all but the weights.

    Raises BadCheckpoint if another model lives there, or one that cannot be read; CannotWrite.
    """
    fits(denoiser, tokenizer)
    mine = identity(denoiser, tokenizer)
    _refuse_other(folder, mine)
    if not _is_there(folder / TOKENIZER, tokenizer):
        tokenizer.save(folder / TOKENIZER)
    write_text(folder / CONFIG, json.dumps(mine["config"] | {"borrowed": mine["borrowed"]}, indent=2) + "\n")
    write_text(folder / RECIPE, json.dumps(recipe, indent=2) + "\n")


def _is_there(folder: Path, tokenizer: Tokenizer) -> bool:
    """Whether a folder holds this tokenizer, whole."""
    try:
        return Tokenizer.load(folder).fingerprint == tokenizer.fingerprint
    except BadCheckpoint:
        return False


def shipped(folder: Path, denoiser: Denoiser) -> Mapping[str, Any] | None:
    """What is told of the model in a folder, if it is whole and has this denoiser's tensors; else None.

    Raises BadCheckpoint for a file that the system does not let us read.
    """
    found = whole(folder / MODEL)
    return None if found is None or _odd(denoiser, found.tensors) is not None else found.told


def save(folder: Path, denoiser: Denoiser, tokenizer: Tokenizer, told: Mapping[str, Any]) -> None:
    """Write the weights as they are now, whole or not at all, and what is told of them.

    `told` is what JSON can hold. Raises as `begin`.
    """
    mine = identity(denoiser, tokenizer)
    _refuse_other(folder, mine)
    write(folder / MODEL, Parcel(own(denoiser), {**told, "identity": mine}))


def pack(folder: Path, target: Path) -> None:
    """Put the model of a folder in 8 bits into another one, without what only training needs.

    Raises BadCheckpoint for a folder without a whole model, BadInput for one that is packed, CannotWrite.
    """
    kept = read(folder / MODEL)
    if kept is None:
        raise BadCheckpoint(f"{folder}: no {MODEL} there; expected a folder that `halo train` wrote")
    if kept.told.get("bits") == _BITS:
        raise BadInput(f"{folder}: is packed already; copy it as it is")
    if folder.resolve() == target.resolve():
        raise BadInput(f"{target}: the model would replace itself; choose another folder")
    Tokenizer.load(folder / TOKENIZER).save(target / TOKENIZER)
    for name in (CONFIG, RECIPE):
        write_text(target / name, (folder / name).read_text(encoding="utf-8"))
    told = {name: value for name, value in kept.told.items() if name not in _AT_HOME}
    write(target / MODEL, Parcel(quantise(kept.tensors), {**told, "bits": _BITS}))


def from_pretrained(folder: Path, borrowed: Float[Tensor, "V E"] | None = None) -> Loaded:
    """A denoiser and its tokenizer from a folder that training wrote.

    `borrowed`: the host's embedding table, if the denoiser was trained on one (`told["host"]` says whose).
    Raises BadCheckpoint for a folder without a whole model or of another vocabulary, BadInput for a table
    that is missing or another, or for a model that this machine has no memory for.
    """
    kept = read(folder / MODEL)
    if kept is None:
        raise BadCheckpoint(f"{folder}: no {MODEL} there; expected a folder that `halo train` wrote")
    told = dict(kept.told)
    try:
        mine = told.pop("identity")
        config, lent, vocabulary = build.config_of(mine["config"]), mine["borrowed"], str(mine["tokenizer"])
    except (KeyError, TypeError, AttributeError, BadInput) as error:
        raise BadCheckpoint(f"{folder}: {MODEL} has no config that is known here ({error})") from error
    denoiser = _denoiser(folder, config, lent, borrowed)
    tensors = restore(kept.tensors) if told.get("bits") == _BITS else kept.tensors
    put(denoiser, tensors, folder / MODEL)
    _refuse_rubbish(tensors, folder / MODEL)
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    if tokenizer.fingerprint != vocabulary:
        raise BadCheckpoint(
            f"{folder}: its weights were trained with the tokenizer {vocabulary[:12]}, the one there "
            f"is {tokenizer.fingerprint[:12]}; put the right one back, or train anew"
        )
    try:
        fits(denoiser, tokenizer)
    except BadInput as error:
        raise BadCheckpoint(f"{folder}: {MODEL} and its tokenizer disagree: {error}") from error
    shown = {"arch": config.arch, "config": {"arch": config.arch, **asdict(config)}}
    return Loaded(denoiser.eval(), tokenizer, {**told, **shown})


def _denoiser(
    folder: Path, config: DenoiserConfig, digest: str | None, borrowed: Float[Tensor, "V E"] | None
) -> Denoiser:
    if (digest is None) != (borrowed is None):
        wanted = "no embedding table" if digest is None else "the embedding table of its host"
        got = "none" if borrowed is None else "one"
        raise BadInput(f"{folder}: expected {wanted}, got {got}; `borrowed` is for models trained with one")
    room.check_weights(config)
    state = torch.random.get_rng_state()
    try:  # what is drawn here is overwritten at once; nobody else's randomness is touched
        denoiser = build.denoiser(config, borrowed)
    finally:
        torch.random.set_rng_state(state)
    found = borrowed_digest(denoiser)
    if found != digest:
        raise BadInput(
            f"{folder}: trained on the embedding table {digest}, got {found}; give that of the same host"
        )
    return denoiser


def own(denoiser: torch.nn.Module) -> dict[str, Tensor]:
    """Each stored tensor once: tied ones share memory, which safetensors refuses."""
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    for name, value in denoiser.state_dict().items():
        place = (value.data_ptr(), value.shape, value.stride())
        if not value.numel() or place not in seen:
            seen.add(place)
            found[name] = value.detach()
    return found


def put(denoiser: torch.nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load what `own` gave. Raises BadCheckpoint, naming what does not fit, and changes nothing then."""
    if (odd := _odd(denoiser, tensors)) is not None:
        expected, got = _kind(own(denoiser).get(odd)), _kind(tensors.get(odd))
        raise BadCheckpoint(f"{where}: tensor {odd}: expected {expected}, got {got}; another model's")
    denoiser.load_state_dict(dict(tensors), strict=False)


def _odd(denoiser: torch.nn.Module, tensors: Mapping[str, Tensor]) -> str | None:
    """The first name under which a denoiser has another kind of tensor, or none."""
    mine = own(denoiser)
    names = sorted(mine.keys() | tensors.keys())
    return next((name for name in names if _kind(mine.get(name)) != _kind(tensors.get(name))), None)


def _kind(tensor: Tensor | None) -> str:
    return "None" if tensor is None else f"shape {tuple(tensor.shape)} of {tensor.dtype}"


def _refuse_rubbish(tensors: Mapping[str, Tensor], where: Path) -> None:
    for name, value in sorted(tensors.items()):
        if not bool(torch.isfinite(value).all()):
            raise BadCheckpoint(
                f"{where}: tensor {name}: expected numbers, got some that are not finite; restore the file, "
                f"or train anew"
            )


def _refuse_other(folder: Path, mine: Mapping[str, Any]) -> None:
    told = note(folder / MODEL) or {}
    if told.get("bits") == _BITS:
        raise BadCheckpoint(
            f"{folder}: holds a packed model, which cannot be trained on; choose another folder"
        )
    there = told.get("identity")
    if there is None or there == as_json(mine):
        return
    raise BadCheckpoint(f"{folder}: {differences(there, mine)}; remove it, or choose another folder")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what two notes differ, in words: the first few things, the architecture before anything else."""
    one, other = _flat(there), _flat(as_json(here))
    names = sorted((n for n in one.keys() | other.keys() if one.get(n) != other.get(n)), key=_rank)
    shown = names[:1] if names[0].endswith("arch") else names[:3]
    told = [f"{n} {_short(one.get(n))} there, {_short(other.get(n))} here" for n in shown]
    return "another model or run: " + "; ".join(told) + (" ..." if len(names) > len(shown) else "")


def _rank(name: str) -> tuple[bool, bool, str]:
    return not name.endswith("arch"), not name.endswith("vocab_size"), name


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in value.items():
        found |= _flat(part, f"{prefix}{name}.") if isinstance(part, Mapping) else {f"{prefix}{name}": part}
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."
