# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The values everything else speaks in: tokens as columns, a view of them, what attention saw.

Knows numpy. Must not know text, models, files, threads or time. All arrays are read-only; a
changed context is a new value. Axes: S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from haloweave.errors import InvalidInput

FULL = 255.0
"""Brightness is a float in 0..FULL."""

NO_UNIT = -1
"""`Tokens.unit` of a token that lives and dies alone."""


SINKS = 4
"""The first tokens soak up attention that means nothing (StreamingLLM, arXiv 2309.17453): they are kept, and
left out of every mean."""


class Source(IntEnum):
    """Who wrote a token. (A chat template knows fewer of these, and calls them roles.)"""

    SYSTEM = 0
    USER = 1
    MODEL = 2
    TOOL = 3
    LOG = 4
    MEMORY = 5
    MARKER = 6
    """`[...]`, left where units died."""
    CONTROL = 7
    """The chat template's own tokens; those of one turn share a unit."""
    TEXT = 8
    """What is read, and nobody said to the model: a book, an article."""


COLUMNS: dict[str, Any] = {
    "uid": np.int64,
    "token_id": np.int32,
    "brightness": np.float32,
    "source": np.uint8,
    "unit": np.int32,
    "pinned": np.bool_,
    "born": np.int64,
}


@dataclass(frozen=True, eq=False)
class Tokens:
    """A run of tokens, one row per slot, stored as seven read-only columns."""

    uid: Int64[np.ndarray, " S"]
    """Identity: never given to another token, survives edits of others."""
    token_id: Int32[np.ndarray, " S"]
    brightness: Float32[np.ndarray, " S"]
    source: UInt8[np.ndarray, " S"]
    unit: Int32[np.ndarray, " S"]
    """Tokens that live and die together (a log line); NO_UNIT if alone."""
    pinned: Bool[np.ndarray, " S"]
    born: Int64[np.ndarray, " S"]
    """Tick of birth."""

    def __post_init__(self) -> None:
        rows = self.uid.shape
        for name, dtype in COLUMNS.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != rows or column.ndim != 1:
                raise InvalidInput(
                    f"column {name}: expected {np.dtype(dtype)} {rows}, got {column.dtype} {column.shape}"
                )
            column.flags.writeable = False

    @classmethod
    def make(
        cls,
        token_id: Sequence[int] | np.ndarray,
        *,
        first_uid: int,
        source: Source,
        brightness: float = FULL,
        tick: int = 0,
        unit: int = NO_UNIT,
        pinned: bool = False,
    ) -> Tokens:
        """New tokens of one source, with consecutive uids from `first_uid`."""
        try:
            ids = np.array(token_id, dtype=np.int32)
        except OverflowError as err:
            raise InvalidInput(f"token ids: expected numbers below 2**31, {err}") from err
        if not 0 <= brightness <= FULL:
            raise InvalidInput(f"brightness: expected 0..{FULL}, got {brightness}")
        if not NO_UNIT <= unit < 2**31:
            raise InvalidInput(f"unit: expected {NO_UNIT}..{2**31 - 1}, got {unit}")
        return cls(
            uid=np.arange(first_uid, first_uid + len(ids), dtype=np.int64),
            token_id=ids,
            brightness=np.full(len(ids), brightness, np.float32),
            source=np.full(len(ids), int(source), np.uint8),
            unit=np.full(len(ids), unit, np.int32),
            pinned=np.full(len(ids), pinned, np.bool_),
            born=np.full(len(ids), tick, np.int64),
        )

    @classmethod
    def empty(cls) -> Tokens:
        return cls(**{name: np.empty(0, dtype) for name, dtype in COLUMNS.items()})

    @classmethod
    def concat(cls, parts: Sequence[Tokens]) -> Tokens:
        """The parts, one after another."""
        if not parts:
            return cls.empty()
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in COLUMNS})

    def __len__(self) -> int:
        return len(self.uid)

    def __getitem__(self, rows: slice) -> Tokens:
        """A copy of some rows: a slice kept in a journal must not keep the whole context alive."""
        return Tokens(**{name: getattr(self, name)[rows].copy() for name in COLUMNS})

    def take(self, rows: np.ndarray) -> Tokens:
        """The rows at the given slots (integer indices or a boolean mask)."""
        return Tokens(**{name: getattr(self, name)[rows] for name in COLUMNS})

    def replace(self, **columns: np.ndarray) -> Tokens:
        """The same tokens with some columns exchanged."""
        return Tokens(**{name: columns.get(name, getattr(self, name)) for name in COLUMNS})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def slots_of(self, uids: Sequence[int] | np.ndarray) -> Int64[np.ndarray, " N"]:
        """Slots of these uids, ascending. Raises InvalidInput if one is not in the context."""
        wanted = np.unique(np.array(uids, dtype=np.int64))
        slots = np.flatnonzero(np.isin(self.uid, wanted))
        if len(slots) != len(wanted):
            missing = sorted(set(wanted.tolist()) - set(self.uid[slots].tolist()))
            raise InvalidInput(f"not in the context (culled, or never born): uid {missing[:8]}")
        return slots.astype(np.int64)


@dataclass(frozen=True)
class View:
    """The context at one moment."""

    tokens: Tokens
    revision: int
    """Counts changes of rows (appends and edits); an edit names the revision it was made for."""
    tick: int
    """Counts forward passes."""
    next_uid: int
    """The uid the next token will get; `next_uid - uid` is a token's age in tokens."""


@dataclass(frozen=True)
class AttentionSample:
    """Attention that one forward pass paid to each slot; its queries are the last `queries` slots.

    All three are already averaged over the observed layers and heads, on the device.
    """

    mass: Float32[np.ndarray, " S"]
    """Attention weights, summed over the queries."""
    value_mass: Float32[np.ndarray, " S"]
    """What a slot gave to the queries: their attention, as a share of what each did not pay to the sinks,
    times the norm of the value row over the head's mean; summed over the queries. Sinks get 0."""
    last: Float32[np.ndarray, " S"]
    """Attention weights of the last query alone."""
    queries: int
    nats: Float32[np.ndarray, " Q"] | None = None
    """Surprisal of the tokens that were fed, for policies that ask for it."""

    def __post_init__(self) -> None:
        if not 1 <= self.queries <= len(self.mass):
            raise InvalidInput(f"queries: expected 1..{len(self.mass)}, got {self.queries}")
        if not len(self.mass) == len(self.value_mass) == len(self.last):
            raise InvalidInput("attention: mass, value_mass and last differ in length")
        if self.nats is not None and len(self.nats) != self.queries:
            raise InvalidInput(f"nats: expected one of each of {self.queries} queries, got {len(self.nats)}")

    def of(self, view: View) -> AttentionSample:
        """Itself. Raises InvalidInput if it was taken from another context than `view`."""
        if len(self.mass) != len(view.tokens):
            raise InvalidInput(f"attention: {len(self.mass)} slots, the context has {len(view.tokens)}")
        return self
