# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What is known without measuring: where counters and formats end, and what rows of larger models take.

Knows the columns of tokens, the formats of the journal and shapes of models as numbers. Must not load any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import apsw
import numpy as np

from haloweave.journal.packing import MOST
from haloweave.memory.tokens import COLUMNS

YEAR = 365.25 * 86_400
RATE = 20.0
"""Tokens a second: about what the small model speaks on two cores."""
_NAME_DIGITS = 18
"""Of a snapshot's number, in the name of its folder (journal/snapshot.py)."""
_FP32 = _ID = 4


@dataclass(frozen=True)
class Limit:
    """A number that ends somewhere."""

    name: str
    most: float
    per_token: float
    """How much of it one token of history takes; 0 where history takes none."""
    then: str
    """What happens there."""

    @property
    def tokens(self) -> float:
        """Tokens of history until it ends."""
        return self.most / self.per_token if self.per_token else float("inf")

    def years(self, rate: float = RATE) -> float:
        """Without pause, at so many tokens a second."""
        return self.tokens / rate / YEAR


def limits(
    *, line: float, page: int, pages: int, bytes_per_token: float, ticks_per_token: float = 1.0
) -> list[Limit]:
    """Every counter and format that history uses up, the first to end first.

    `line`: tokens of a log's line or of a turn, the only things that take a unit; `page`, `pages`: bytes of a
    page of the database and the most there may be, as SQLite says.
    """
    int64 = float(np.iinfo(COLUMNS["uid"]).max)
    found = [
        Limit(
            f"unit ({np.dtype(COLUMNS['unit'])}), one a log line or turn",
            float(np.iinfo(COLUMNS["unit"]).max),
            1 / line,
            "no further unit: each pass over a log, tool or memory, and each turn, is refused",
        ),
        Limit("pages of the database", float(page) * pages, bytes_per_token, "SQLITE_FULL: the mind stops"),
        Limit("record number in a snapshot's name", 10.0**_NAME_DIGITS, ticks_per_token, "not seen any more"),
        Limit("uid (int64)", int64, 1.0, "overflow"),
        Limit("tick, born (int64)", float(np.iinfo(COLUMNS["born"]).max), ticks_per_token, "overflow"),
        Limit("record number (64 bits of SQLite)", int64, ticks_per_token, "SQLITE_FULL"),
        Limit("counter of random draws (64 bits of Philox)", 2.0**64, ticks_per_token, "draws repeat"),
    ]
    fixed = [
        Limit("token_id (int32), of the vocabulary", float(np.iinfo(COLUMNS["token_id"]).max), 0, "refused"),
        Limit("rows of a context, and tokens redacted at once", float(MOST), 0, "refused, typed"),
    ]
    return [*sorted(found, key=lambda limit: limit.tokens), *fixed]


def pages() -> tuple[int, int]:
    """Bytes of a page of a new database, and the most pages there may be: SQLite's own numbers."""
    db = apsw.Connection(":memory:")
    page, most = db.pragma("page_size"), db.pragma("max_page_count")
    db.close()
    return int(str(page)), int(str(most))


# ---- larger models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A decoder, as its public config.json has it."""

    name: str
    layers: int
    kv_heads: int
    head: int
    """Width of a head."""
    parameters: float
    positions: int
    bytes: int
    """Of a weight."""
    source: str

    def row(self) -> int:
        """Bytes of one row of the arena: keys and values as the model computes, keys in fp32 beside them
        where that is less, and a norm for each head of each layer."""
        master = _FP32 if self.bytes < _FP32 else 0
        return self.layers * self.kv_heads * (self.head * (2 * self.bytes + master) + _FP32)

    def kept_row(self) -> int:
        """Bytes of one row in a snapshot: fp32 keys, values as they are, norms, and the token's id."""
        return self.layers * self.kv_heads * (self.head * (_FP32 + self.bytes) + _FP32) + _ID

    def weights(self) -> float:
        return self.parameters * self.bytes

    def tick(self, rows: int, bandwidth: float) -> float:
        """Seconds of one tick, if all it does is read weights and rows once at so many bytes a second: what
        decoding one token at a time is bound by. Never less, on that machine."""
        width = self.layers * self.kv_heads * self.head * 2 * self.bytes
        return (self.weights() + rows * width) / bandwidth


def of_config(config: object, parameters: float, size: int) -> Shape:
    """The shape of a transformers config."""
    heads = int(config.num_attention_heads)  # type: ignore[attr-defined]
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)  # type: ignore[attr-defined]
    return Shape(
        name=str(config.model_type),  # type: ignore[attr-defined]
        layers=int(config.num_hidden_layers),  # type: ignore[attr-defined]
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head=width,
        parameters=parameters,
        positions=int(config.max_position_embeddings),  # type: ignore[attr-defined]
        bytes=size,
        source="its config",
    )


SHAPES: Sequence[Shape] = (
    Shape("SmolLM2-135M", 30, 3, 64, 134.5e6, 8192, 4, "HuggingFaceTB/SmolLM2-135M-Instruct"),
    Shape("Llama-3.2-1B", 16, 8, 64, 1.236e9, 131_072, 2, "meta-llama/Llama-3.2-1B"),
    Shape("Qwen2.5-1.5B", 28, 2, 128, 1.544e9, 32_768, 2, "Qwen/Qwen2.5-1.5B-Instruct"),
    Shape("Llama-3.1-8B", 32, 8, 128, 8.030e9, 131_072, 2, "meta-llama/Llama-3.1-8B"),
    Shape("Qwen3-8B", 36, 8, 128, 8.191e9, 40_960, 2, "Qwen/Qwen3-8B"),
)
"""Layers, key heads, head width, positions: config.json of the repository named; parameters: its card."""


def mirror_row() -> int:
    """Bytes of one row of the mirror."""
    return sum(np.dtype(kind).itemsize for kind in COLUMNS.values())
