# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Read a GGUF file up to its weights, and believe none of it before it is checked.

Knows the GGUF layout. Must not know architectures, tokenizers or what the tensors are for.

Every count, length and offset is held against the size of the file before anything is allocated
(CVE-2026-7482): a damaged file raises `ModelCorrupt`, never anything else.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from haloweave.errors import ModelCorrupt

# Far above any model, far below an allocation that hurts.
_MAX_COUNT, _MAX_ITEMS, _MAX_NAME, _MAX_TEXT = 1 << 18, 1 << 22, 1 << 16, 1 << 24
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in the file and what it is; `shape` in numpy order."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    size: int


@dataclass(frozen=True)
class Header:
    """All of a GGUF file but its weights, checked."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ModelCorrupt(f"{self.path}: {key} should be a number in {low}..{high}, got {value!r}")
        return value

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = 1 << 24) -> int:
        value = self.number(key, low, high, default)
        if not isinstance(value, int):
            raise ModelCorrupt(f"{self.path}: {key} should be a whole number, got {value!r}")
        return value

    def text(self, key: str) -> str:
        value = self.metadata.get(key)
        if not isinstance(value, str):
            raise ModelCorrupt(f"{self.path}: {key} should be a string, got {type(value).__name__}")
        return value


class _Cursor:
    """Reads forward through a mapped file and never past its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: np.ndarray[Any, np.dtype[np.uint8]] = np.memmap(path, dtype=np.uint8, mode="r")
        self.size = self.data.size
        self.at = 0

    def fail(self, what: str) -> ModelCorrupt:
        return ModelCorrupt(f"{self.path}: at byte {self.at} of {self.size}: {what}; fetch the file again")

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            raise self.fail(f"{what} needs {count} bytes, the file holds {self.size - self.at} more")
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def scalar(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def string(self, what: str, limit: int = _MAX_TEXT) -> str:
        length = self.scalar("Q", what)
        if length > limit:
            raise self.fail(f"{what} claims {length} bytes, expected at most {limit}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8 ({error.reason})") from error

    def value(self, kind: int, what: str) -> Any:
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.array(what)
        if kind not in _SCALARS:
            raise self.fail(f"{what} has unknown type {kind}")
        value = self.scalar(_SCALARS[kind], what)
        return bool(value) if kind == _BOOL else value

    def array(self, what: str) -> list[Any]:
        kind, count = self.scalar("I", what), self.scalar("Q", what)
        if count > min(_MAX_ITEMS, self.size - self.at):
            raise self.fail(f"{what} claims {count} items")
        if kind == _STRING:
            return [self.string(what) for _ in range(count)]
        if kind not in _SCALARS:
            raise self.fail(f"{what} is an array of unknown type {kind}")
        item = np.dtype("<" + _SCALARS[kind])
        return list(np.frombuffer(self.take(count * item.itemsize, what), dtype=item).tolist())


def read_header(path: Path) -> Header:
    """Read and check everything in front of the weights; raises `ModelCorrupt`."""
    if path.stat().st_size < 24:
        raise ModelCorrupt(f"{path}: {path.stat().st_size} bytes are too few for a GGUF file; fetch it again")
    cursor = _Cursor(path)
    magic, version = cursor.take(4, "magic"), cursor.scalar("I", "version")
    if magic != b"GGUF" or version not in (2, 3):
        raise cursor.fail(f"expected GGUF version 2 or 3, got {magic!r} version {version}")
    tensors, keys = cursor.scalar("Q", "tensor count"), cursor.scalar("Q", "key count")
    if not (0 < tensors <= _MAX_COUNT and 0 < keys <= _MAX_COUNT):
        raise cursor.fail(f"absurd counts: {tensors} tensors, {keys} keys")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.string("key", _MAX_NAME)
        if key in metadata:
            raise cursor.fail(f"key {key!r} appears twice")
        metadata[key] = cursor.value(cursor.scalar("I", key), key)
    infos = [_tensor_info(cursor) for _ in range(tensors)]
    return Header(path, metadata, _place(cursor, infos, metadata.get("general.alignment", 32)))


def _tensor_info(cursor: _Cursor) -> TensorInfo:
    name, rank = cursor.string("tensor name", _MAX_NAME), cursor.scalar("I", "tensor rank")
    if not 1 <= rank <= 4:
        raise cursor.fail(f"tensor {name!r} has {rank} axes, expected 1..4")
    shape = tuple(cursor.scalar("Q", name) for _ in range(rank))[::-1]
    kind, offset = cursor.scalar("I", name), cursor.scalar("Q", name)
    if kind not in GGMLQuantizationType.__members__.values():
        raise cursor.fail(f"tensor {name!r} has unknown type {kind}")
    kind = GGMLQuantizationType(kind)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[-1] % block:
        raise cursor.fail(f"tensor {name!r} of shape {shape} does not fill blocks of {block} ({kind.name})")
    return TensorInfo(name, shape, kind, offset, math.prod(shape) // block * block_bytes)


def _place(cursor: _Cursor, infos: list[TensorInfo], alignment: object) -> dict[str, TensorInfo]:
    if not isinstance(alignment, int) or alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
        raise cursor.fail(f"general.alignment should be a power of two in 8..4096, got {alignment!r}")
    start = -(-cursor.at // alignment) * alignment
    placed: dict[str, TensorInfo] = {}
    end = start
    for info in sorted(infos, key=lambda info: info.offset):
        first = start + info.offset
        if first < end or info.offset % alignment or first + info.size > cursor.size or info.name in placed:
            raise cursor.fail(
                f"tensor {info.name!r} lies at {first}..{first + info.size}: overlapping, unaligned, "
                f"named twice or past the end"
            )
        placed[info.name] = TensorInfo(info.name, info.shape, info.kind, first, info.size)
        end = first + info.size
    return placed
