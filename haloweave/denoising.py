# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A denoiser out of the folder of its training, with the embeddings it borrows; and whose tokens it speaks.

Knows folders, hosts by name, and codecs. Must not know commands, repair or minds. Axes: V vocabulary, E a
host's width.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haloweave.errors import ModelCorrupt, ModelUnsupported
from haloweave.progress import Progress, silent

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from haloweave.diffusion.checkpoint import Loaded
    from haloweave.diffusion.tokenizer import Tokenizer
    from haloweave.text import Codec

_PROBES = (
    "The rain fell, and nobody saw it.",
    "  two  spaces\n\tand a line: don't 1234.",
    "café naïve Straße 日本",
    "क्षत्रिय ने कहा। \U0001f9ff",
)
"""Texts that two vocabularies which differ hardly write alike."""
_REMEDY = "train one for this model: halo train --host MODEL --corruption scars --set time_conditioning=true"


CALIBRATION = "calibration.json"
"""In a denoiser's folder: what was measured of its decisions, for repair to use."""


@dataclass(frozen=True)
class Calibration:
    """Of a repairing denoiser. Raises ModelCorrupt for numbers that cannot be."""

    temperature: float = 1.0
    """By which the decisions' log probabilities are divided."""
    margin: float = 0.0
    """Nats that a change must win."""

    def __post_init__(self) -> None:
        for name, value, least in (("temperature", self.temperature, 1e-3), ("margin", self.margin, 0.0)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not least <= value < math.inf:
                raise ModelCorrupt(f"{name} should be a number >= {least}, got {value!r}")


def calibrate(folder: Path, found: Calibration) -> None:
    """Note it in a denoiser's folder. Raises CannotWrite."""
    from haloweave.diffusion.disk import write_text

    write_text(folder / CALIBRATION, json.dumps(asdict(found), indent=2) + "\n")


def calibration(folder: Path) -> Calibration:
    """What was noted there; nothing special if nothing was. Raises ModelCorrupt for a note that is none."""
    try:
        told = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
        return Calibration(**told)
    except FileNotFoundError:
        return Calibration()
    except (OSError, ValueError, TypeError, RecursionError, ModelCorrupt) as error:
        raise ModelCorrupt(
            f"{folder / CALIBRATION}: cannot be used ({error}); remove it, or measure anew: halo bench edits"
        ) from error


def load(folder: Path, progress: Progress = silent) -> Loaded:
    """The denoiser in a folder, with its host's embeddings where it borrows them.

    Raises BadCheckpoint for a folder without one, a ModelError if the host cannot be had.
    """
    from haloweave.diffusion.checkpoint import from_pretrained

    progress(f"loading {folder}", 0, None)
    return from_pretrained(folder, _table(folder, progress))


def _table(folder: Path, progress: Progress) -> Float[Tensor, "V E"] | None:
    """What the weights' own note says is borrowed, with rows for the tokens that the host has not."""
    from haloweave import models
    from haloweave.diffusion.checkpoint import MODEL, TOKENIZER
    from haloweave.diffusion.parcel import note
    from haloweave.diffusion.text.host_table import embedding_table
    from haloweave.diffusion.tokenizer import Tokenizer

    told = note(folder / MODEL) or {}
    host, shape = told.get("host"), (told.get("identity") or {}).get("config") or {}
    if not host or not shape.get("borrowed_dim"):
        return None
    table = embedding_table(models.resolve(str(host), progress=progress))
    return Tokenizer.load(folder / TOKENIZER).extended(table)


def speaks(tokenizer: Tokenizer, codec: Codec, rows: int) -> int:
    """How many tokens a host and a denoiser's tokenizer share: all of the host's own.

    `rows`: what the host has embeddings for. Raises ModelUnsupported if the denoiser speaks another
    vocabulary; each token's text is compared, and how texts are cut.
    """
    size = tokenizer.host_size
    if size is None:
        raise ModelUnsupported(f"this denoiser has a vocabulary of its own; {_REMEDY}")
    if size > rows:
        raise ModelUnsupported(f"this denoiser's host has {size} tokens, this one {rows}; {_REMEDY}")
    text = set(range(size)).difference(codec.control_ids, tokenizer.special_ids)
    odd = (i for i in sorted(text) if codec.piece(i).decode("utf-8", "replace") != tokenizer.decode([i]))
    if (i := next(odd, None)) is not None:
        raise ModelUnsupported(f"token {i} is {codec.piece(i)!r} here, another to the denoiser; {_REMEDY}")
    if beyond := next((i for i in range(size, rows) if codec.piece(i)), None):
        raise ModelUnsupported(f"this host has tokens that the denoiser lacks, from {beyond} on; {_REMEDY}")
    if tokenizer.encode_batch(_PROBES) != codec.encode(_PROBES):
        raise ModelUnsupported(f"this denoiser's host cuts texts into other tokens; {_REMEDY}")
    return size
