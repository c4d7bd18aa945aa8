# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Rows of the arena as numpy arrays, and back, bit for bit: all of them (an image), or some (saved rows).

Knows the arena and numpy. Must not know tokens, edits or files. A row is, in every layer, its key (the fp32
master where there is one: the copy in the model's dtype is its rounding), its value, and the norm of its
value (kept, since computed again in another shape it may end in another last bit). Each is an array with
layer and dtype in its name; numpy has no bfloat16, so floats of two bytes travel as uint16. Layers know their
shapes from the probe, before anything is fed. Axes: H key/value heads, S rows held, N rows saved, D size.

    image        keys.0.float32 [H, S, D]   values.0.bfloat16 [H, S, D]   norms.0.float32 [H, S]   keys.1...
    saved rows   the same names, rows first: [N, H, D], [N, H]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from haloweave.engine.hf.arena import Arena, ArenaLayer, Turn, as_slice

Arrays = Mapping[str, np.ndarray]


def dump(arena: Arena) -> dict[str, np.ndarray]:
    """A copy of all rows. One copy of each layer's, and nothing else: decoding waits for it."""
    return {name: _array(part[:, : arena.rows]) for name, part in _parts(arena)}


def save(arena: Arena, slots: Int64[Tensor, " N"]) -> dict[str, np.ndarray]:
    """Copies of the rows at these slots."""
    return {name: _array(part[:, slots].transpose(0, 1)) for name, part in _parts(arena)}


@torch.inference_mode()
def load(arena: Arena, image: Arrays, rows: int) -> None:
    """Inverse of `dump`, for arrays in which `misfit` finds nothing: the arena holds these rows alone."""
    for layer, (keys, values, norms) in _by_layer(arena, image):
        layer.write(slice(0, rows), keys[None], values[None], norms)
        layer.wipe(slice(rows, None))
    arena.rows = rows


@torch.inference_mode()
def restore(arena: Arena, slots: Int64[Tensor, " N"], saved: Arrays, turns: Sequence[Turn | None]) -> None:
    """Write saved rows, in which `misfit` finds nothing, at these slots, keys turned by each layer's turn."""
    if not len(slots):
        return
    run = as_slice(slots)
    for (layer, parts), turn in zip(_by_layer(arena, saved), turns, strict=True):
        keys, values, norms = (part.transpose(0, 1) for part in parts)
        keys = keys[None].clone()
        if turn is not None:
            turn(keys)
        layer.write(run, keys, values[None], norms)


def misfit(arena: Arena, arrays: Arrays, rows: int, *, rows_first: bool = False) -> str | None:
    """Why these arrays are not `rows` rows of this arena; None if they are."""
    expected = dict(_parts(arena))
    if arrays.keys() != expected.keys():
        odd = sorted(arrays.keys() ^ expected.keys())
        return f"expected arrays for {len(arena.layers)} layers of this model, missing or unknown: {odd[:4]}"
    for name, part in expected.items():
        heads, _, *width = part.shape
        shape = (rows, heads, *width) if rows_first else (heads, rows, *width)
        want, got = _dtype(part.dtype), arrays[name]
        if got.shape != shape or got.dtype != want:
            return f"{name}: expected {want} of shape {shape}, got {got.dtype} of shape {got.shape}"
    return None


def _parts(arena: Arena) -> Iterator[tuple[str, Tensor]]:
    """What the rows are made of, [H, C, ...], under the names that it has outside."""
    for n, layer in enumerate(arena.layers):
        yield from _named(n, layer)


def _named(n: int, layer: ArenaLayer) -> Iterator[tuple[str, Tensor]]:
    for kind, part in zip(("keys", "values", "norms"), layer.parts(), strict=True):
        yield f"{kind}.{n}.{_name(part.dtype)}", part


def _by_layer(arena: Arena, arrays: Arrays) -> Iterator[tuple[ArenaLayer, list[Tensor]]]:
    """Each layer with its three arrays as tensors, one layer after another on its device."""
    for n, layer in enumerate(arena.layers):
        yield layer, [_tensor(arrays[name], part) for name, part in _named(n, layer)]


def _array(part: Tensor) -> np.ndarray:
    """A copy in main memory, without gaps."""
    copy = torch.empty(part.shape, dtype=part.dtype)
    copy.copy_(part)
    carried = copy.view(torch.uint16) if part.dtype.itemsize == 2 else copy
    array: np.ndarray = carried.numpy()
    return array


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    """The array in the dtype and on the device of what it was copied from; not always a copy."""
    carried = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return carried.view(like.dtype).to(like.device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(dtype: torch.dtype) -> np.dtype[np.generic]:
    return np.dtype(np.uint16 if dtype.itemsize == 2 else _name(dtype))
