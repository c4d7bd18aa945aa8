# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The arena: preallocated K/V rows of every layer, written and edited in place.

Knows tensors and the shape of a transformers cache. Must not know tokens, policies, or how a key is
rotated. All layers hold all rows, sliding-window layers too (the mask limits what they see), so no
edit ever needs a row that is gone. One sequence, no batch. Axes: L layers, H key/value heads,
C capacity, S rows, Q fed, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from haloweave.errors import CapacityExceeded

Turn = Callable[[Tensor], None]
"""Rotates keys [1, H, N, D] in place."""


@dataclass
class Pass:
    """Where one forward pass reads and writes, shared by all layers of it."""

    slots: Int64[Tensor, " Q"]
    """Row and RoPE position of each query, ascending."""
    rows: int
    """Rows visible to the pass once its own are written."""
    tail: bool
    """The queries are the last rows, in order."""
    observe: bool = False
    _masks: dict[int | None, Bool[Tensor, "Q S"] | None] = field(default_factory=dict)

    def mask(self, window: int | None) -> Bool[Tensor, "Q S"] | None:
        """Which rows each query may see: those not after it, and not `window` or more before it.

        None if every query may see every row.
        """
        if window not in self._masks:
            self._masks[window] = self._build(window)
        return self._masks[window]

    def _build(self, window: int | None) -> Bool[Tensor, "Q S"] | None:
        width = window if window is not None and window < self.rows else None
        if self.tail and len(self.slots) == 1 and width is None:
            return None
        row = torch.arange(self.rows, device=self.slots.device)
        seen = row[None, :] <= self.slots[:, None]
        if width is not None:
            seen &= row[None, :] > self.slots[:, None] - width
        return seen


class ArenaLayer(CacheLayerMixin):  # type: ignore[misc]
    """K and V of one layer: [1, H, C, D], C even. Allocated at the first write, when shapes are known.

    Where the model computes in less than fp32, keys are held in fp32 as well (`master`), so that being
    rotated a thousand times costs no bits; the model reads the copy in its own dtype.
    """

    is_sliding = False

    def __init__(self, capacity: int, arena: Arena) -> None:
        super().__init__()
        self.capacity = capacity
        self.arena = arena
        self.master: Tensor
        self.norms: Float[Tensor, "H C"]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        heads, width = key_states.shape[1], key_states.shape[3]
        shape = (1, heads, self.capacity, width)
        self.keys = torch.zeros(shape, dtype=key_states.dtype, device=key_states.device)
        self.values = torch.zeros(
            (*shape[:3], value_states.shape[3]), dtype=value_states.dtype, device=value_states.device
        )
        low = key_states.dtype in (torch.float16, torch.bfloat16)
        self.master = self.keys.float() if low else self.keys
        self.norms = self.arena.norms_of(self, heads, key_states.device)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the rows of the present pass; return all rows it may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self.arena.current
        if at.tail:
            rows: Any = slice(at.rows - len(at.slots), at.rows)
        else:
            rows = at.slots
        self.put(rows, key_states, value_states)
        return self.keys[:, :, : at.rows], self.values[:, :, : at.rows]

    def put(self, rows: Any, keys: Tensor, values: Tensor) -> None:
        """Write rows (slice or index tensor) of keys, already rotated, and values: [1, H, N, D]."""
        self.write(rows, keys, values, torch.linalg.vector_norm(values[0].float(), dim=-1))

    def write(self, rows: Any, keys: Tensor, values: Tensor, norms: Float[Tensor, "H N"]) -> None:
        """The same, where the norms of the values are known."""
        self.keys[:, :, rows] = keys.to(self.keys.dtype)
        if self.master is not self.keys:
            self.master[:, :, rows] = keys.float()
        self.values[:, :, rows] = values
        self.norms[:, rows] = norms

    def wipe(self, rows: Any) -> None:
        """Zeros in these rows (slice or index tensor)."""
        for part in (self.keys, self.master, self.values):
            part[:, :, rows] = 0
        self.norms[:, rows] = 0

    def parts(self) -> tuple[Float[Tensor, "H C D"], Float[Tensor, "H C D"], Float[Tensor, "H C"]]:
        """All that a row is in this layer: keys at full precision, values and their norms."""
        return self.master[0], self.values[0], self.norms

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.arena.current.rows, 0

    def get_seq_length(self) -> int:
        return self.arena.rows

    def get_max_length(self) -> int:
        return self.capacity


class Arena(Cache):  # type: ignore[misc]
    """The rows of all layers, as the cache object that a transformers model writes through."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.capacity = capacity
        """Rows that may be held."""
        self.room = capacity + capacity % 2
        """Rows that are allocated: an even number, so that they can be read as two banks."""
        super().__init__(layers=[ArenaLayer(self.room, self) for _ in range(layers)])
        self.rows = 0
        self.current = Pass(torch.empty(0, dtype=torch.int64), 0, True)
        self.norms: Float[Tensor, "L H C"] | None = None
        """Norms of all value rows in one piece, where all layers have as many heads, so that a pass pays for
        one operation over them and not for one in each layer."""

    def norms_of(self, layer: ArenaLayer, heads: int, device: torch.device) -> Float[Tensor, "H C"]:
        """Room for the norms of one layer's values."""
        if self.norms is None:
            shape = (len(self.layers), heads, self.room)
            self.norms = torch.zeros(shape, dtype=torch.float32, device=device)
        if self.norms.shape[1] == heads and self.norms.device == device:
            room: Tensor = self.norms[self.layers.index(layer)]
            return room
        return torch.zeros((heads, self.room), dtype=torch.float32, device=device)

    def begin(self, slots: Int64[Tensor, " Q"], *, rows: int, tail: bool, observe: bool = False) -> Pass:
        """Announce a forward pass. Rows are taken over only by `commit`, once it has succeeded."""
        if rows > self.capacity:
            raise CapacityExceeded(f"{rows} rows needed, the arena holds {self.capacity}: cull first")
        self.current = Pass(slots, rows, tail, observe)
        return self.current

    def commit(self) -> None:
        """The pass succeeded: its rows count."""
        self.rows = self.current.rows

    def abandon(self) -> None:
        """The pass failed: what it wrote is wiped, so that no NaN stays where later passes may read."""
        at = self.current
        self._wipe(slice(at.rows - len(at.slots), at.rows) if at.tail else at.slots)

    @torch.inference_mode()
    def _wipe(self, rows: Any) -> None:
        for layer in self.layers:
            if layer.is_initialized:
                layer.wipe(rows)

    @torch.inference_mode()
    def move(
        self,
        source: Int64[Tensor, " N"],
        target: Int64[Tensor, " N"],
        turns: Sequence[Turn | None],
        rows: int,
    ) -> None:
        """Rows `source` become rows `target` (both ascending), each layer's keys turned in place by
        `turns[l]` (None: a layer without rotary positions). Afterwards there are `rows` rows.
        """
        if rows > self.capacity:
            raise CapacityExceeded(f"{rows} rows needed, the arena holds {self.capacity}: cull first")
        run = as_slice(target)
        for layer, turn in zip(self.layers, turns, strict=True):
            keys = layer.master[:, :, source]
            if turn is not None:
                turn(keys)
            layer.write(run, keys, layer.values[:, :, source], layer.norms[:, source])
        self.rows = rows

    def truncate(self, rows: int) -> None:
        """Forget the rows from `rows` on, with what is left of others behind them."""
        self.rows = min(self.rows, rows)
        self._wipe(slice(self.rows, None))


def as_slice(target: Int64[Tensor, " N"]) -> Any:
    """The same rows as a slice where they are one unbroken run: writes without an index are faster."""
    first, last = int(target[0]), int(target[-1])
    return slice(first, last + 1) if last - first + 1 == len(target) else target
