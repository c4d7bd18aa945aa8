# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What happened in a mind, as values: for screens, logs and servers. Knows memory values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from haloweave.memory.edit import Edit
from haloweave.memory.tokens import Source


@dataclass(frozen=True)
class Fed:
    """One forward pass over text that came in."""

    source: Source
    tokens: int
    rows: int
    logprob: float | None = None
    """Sum over the pass's tokens (nats), where scoring was asked for."""


@dataclass(frozen=True)
class Spoke:
    """One token of the model's own. `text` is what may be shown now (may be empty, may lag)."""

    token_id: int
    text: str
    rows: int


@dataclass(frozen=True)
class Edited:
    """One edit was carried out."""

    edit: Edit
    rows: int


@dataclass(frozen=True)
class Recalled:
    """A culled passage is in the context again."""

    passage: int
    """Its number in the archive."""
    text: str
    source: Source
    """Who wrote it."""
    tick: int
    """When."""
    score: float
    """0..1, how much it is like what called for it."""
    tokens: int
    rows: int


@dataclass(frozen=True)
class TurnEnded:
    """The model's turn is over: "end" (it said so), "stop" (a stop text), "length", "interrupted"."""

    reason: str
    tokens: int


@dataclass(frozen=True)
class Notice:
    """Something a person should know of: nothing is dropped or changed silently."""

    text: str


Event: TypeAlias = Fed | Spoke | Edited | Recalled | TurnEnded | Notice
