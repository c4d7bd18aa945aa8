# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What the mind asks of any engine, and nothing of how one is built.

Knows memory values. Must not know torch, a backend, policies or the journal. Axes: Q tokens fed,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.rows import Image, SavedRows
from haloweave.memory.tokens import AttentionSample


@dataclass(frozen=True)
class Capabilities:
    """What a loaded model can do, measured on itself at load."""

    architecture: str
    surgeries: frozenset[Surgery]
    max_rows: int
    """Rows the arena holds; positions never pass the trained range."""
    vocabulary: int
    layers: int
    device: str
    dtype: str
    notes: tuple[str, ...] = ()
    """Why something is missing."""


@dataclass(frozen=True)
class Forward:
    """What one forward pass tells."""

    logits: Float32[np.ndarray, " V"]
    """For the token after the last one fed."""
    attention: AttentionSample | None
    logprobs: Float32[np.ndarray, " Q-1"] | None = None
    """Where asked for: log-probability (nats) of the 2nd..last fed token, each given all before it."""


class KVStore(Protocol):
    """The KV cache. Row i holds the token of mirror slot i at RoPE position i."""

    @property
    def rows(self) -> int: ...

    @property
    def surgeries(self) -> frozenset[Surgery]: ...

    def apply(self, edit: Edit, rows: SavedRows | None = None) -> None:
        """Carry out an edit with the surgery it names. Raises SurgeryUnsupported, CapacityExceeded,
        EngineFault; after a fault the rows are undefined until `rebuild`.

        RESTORE: `rows` are those of `edit.born_uids`, in that order. Raises InvalidInput if they are not.
        """
        ...

    def rebuild(self, ids: Sequence[int] | np.ndarray) -> None:
        """Forget everything and prefill these ids."""
        ...

    def save(self, slots: Sequence[int] | np.ndarray) -> SavedRows:
        """Copies of some rows, to be restored one day. Raises SurgeryUnsupported without RESTORE."""
        ...

    def dump(self) -> Image:
        """A copy of all there is (rows, ids, what is known of them): `load` brings it back, and then every
        number comes out as it would have, to the last bit."""
        ...

    def load(self, image: Image) -> None:
        """Inverse of `dump`. Raises ModelCorrupt if the image does not fit this engine."""
        ...


class Engine(Protocol):
    """A model and its KV cache."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def kv(self) -> KVStore: ...

    def feed(self, ids: Sequence[int] | np.ndarray, *, score: bool = False) -> Forward:
        """Append tokens in one forward pass. Raises CapacityExceeded before anything changes, EngineFault
        if the numbers are not finite; then no row has been added."""
        ...

    def reread(self) -> Forward:
        """The last row again, in its present context: fresh logits after an edit. Adds no row."""
        ...
