# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The batch interface: culled tokens with their surroundings in, a list of diffs out. For callers that have
no mind.

Knows plain containers (arrays, lists, tensors of any library that has `tolist`), windows and any repairer.
Must not know which repairer it is, nor torch.

    diffs([{"global_cull_position": 42, "window_token_ids": ids, "window_attention_mask": mask,
            "window_brightness_map": brightness, "masked_position_local": 7,
            "original_token_id_at_mask": 7351}], repairer)  ->  [(42, 7351, 198)]

Every entry is judged by itself: its masked position is fully hot and doomed, and nothing else in its window
changes. The brightness of the others says how far the repairer may trust them. A `MaskedLMRepairer` predicts
nothing else, in its one pass, if its `cutoff` is above 1. A `SelfRepairer` works from left to right and would
change hot neighbours on its way: give it a map that is 255 but at the masked position.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, Repairer, RepairWindow

Diff = tuple[int, int, int]
"""Global position, old token id, new token id: both the host's."""

_BRIGHTEST = 255.0
_HIGHEST_ID = int(np.iinfo(np.int32).max)


@dataclass(frozen=True, eq=False)
class CulledToken:
    """One token that is to go, and the text around it: what a mapping with these keys says, typed.

    `window_attention_mask` is 0 where the window is padding. `window_brightness_map` is 0..255.
    """

    global_cull_position: int
    window_token_ids: Any
    window_attention_mask: Any
    window_brightness_map: Any
    masked_position_local: int
    original_token_id_at_mask: int


@dataclass(frozen=True)
class _Entry:
    """An entry that has been checked, without its padding."""

    position: int
    local: int
    old: int
    ids: Int64[np.ndarray, " W"]
    heat: Float32[np.ndarray, " W"]

    def window(self, first_uid: int) -> RepairWindow:
        doomed = np.zeros(len(self.ids), np.bool_)
        doomed[self.local] = True
        uid = np.arange(first_uid, first_uid + len(self.ids))
        return RepairWindow.of(self.ids, self.heat, uid=uid, doomed=doomed)


def diffs(inputs: Sequence[Mapping[str, Any] | CulledToken], repairer: Repairer) -> list[Diff]:
    """What a repairer would put in the place of each culled token: real changes alone, in the order of the
    inputs. A proposal of the greatest gain wins; one that is not one token for one cannot be told as a diff
    and is none.

    Raises InvalidInput, which names the entry and the field, before the repairer is asked anything.
    """
    entries = [_entry(n, entry) for n, entry in enumerate(inputs)]
    firsts = [0, *accumulate(len(e.ids) for e in entries)]
    windows = [e.window(first) for e, first in zip(entries, firsts, strict=False)]
    best = _best(repairer.propose(windows)) if windows else {}
    found = ((e, best.get(first + e.local)) for e, first in zip(entries, firsts, strict=False))
    return [(e.position, e.old, new) for e, new in found if new is not None and new != e.old]


def _best(proposals: Sequence[Proposal]) -> dict[int, int]:
    """For each uid, the new id of the best proposal that is one token for one."""
    best: dict[int, int] = {}
    for p in sorted(proposals, key=lambda p: -p.gain):
        if len(p.uid) == len(p.new_ids) == 1:
            best.setdefault(int(p.uid[0]), int(p.new_ids[0]))
    return best


# ---- checking --------------------------------------------------------------------------------------


def _entry(number: int, entry: Mapping[str, Any] | CulledToken) -> _Entry:
    fields = _Fields(number, vars(entry) if isinstance(entry, CulledToken) else entry)
    ids = fields.column("window_token_ids", np.int64)
    mask = fields.column("window_attention_mask", np.float64, len(ids))
    brightness = fields.column("window_brightness_map", np.float64, len(ids))
    local = fields.whole("masked_position_local")
    old = fields.whole("original_token_id_at_mask")
    position = fields.whole("global_cull_position")
    fields.demand("window_attention_mask", "0 or 1", mask, (mask != 0) & (mask != 1))
    strange = (ids < 0) | (ids > _HIGHEST_ID)
    fields.demand("window_token_ids", "ids of 0 and more", ids, strange & (mask == 1))
    dark = ~((brightness >= 0) & (brightness <= _BRIGHTEST))
    fields.demand("window_brightness_map", "numbers of 0 to 255", brightness, dark & (mask == 1))
    if position < 0:
        raise fields.wrong("global_cull_position", "an index of 0 or more", position)
    if not 0 <= local < len(ids) or not mask[local]:
        expected = f"an index among the {len(ids)} tokens that is not padding"
        raise fields.wrong("masked_position_local", expected, local)
    if ids[local] != old:
        raise fields.wrong("original_token_id_at_mask", f"{ids[local]}, the id at index {local}", old)
    there = mask == 1
    heat = (1 - brightness / _BRIGHTEST).astype(np.float32)
    heat[local] = 1
    return _Entry(position, int(there[:local].sum()), old, ids[there], heat[there])


@dataclass(frozen=True)
class _Fields:
    """One entry's fields, and how to complain about them."""

    number: int
    values: Mapping[str, Any]

    def column(self, name: str, dtype: type[np.generic], size: int | None = None) -> np.ndarray:
        """A field as one row of numbers."""
        value = self._get(name)
        try:
            plain = np.array(value.tolist() if hasattr(value, "tolist") else value)
        except (TypeError, ValueError) as error:
            raise self.wrong(name, "a row of numbers", value) from error
        if plain.ndim != 1 or (size is not None and len(plain) != size):
            raise self.wrong(name, "one row" if size is None else f"{size} values, one a token", plain.shape)
        if len(plain) and not np.can_cast(plain.dtype, dtype, "same_kind"):
            raise self.wrong(name, "whole numbers" if dtype is np.int64 else "numbers", plain.dtype)
        return plain.astype(dtype)

    def whole(self, name: str) -> int:
        """A field as one whole number."""
        try:
            return operator.index(self._get(name))
        except TypeError as error:
            raise self.wrong(name, "a whole number", self.values[name]) from error

    def demand(self, name: str, expected: str, column: np.ndarray, wrong: np.ndarray) -> None:
        """Raises InvalidInput for the first value of a column that is wrong."""
        if wrong.any():
            at = int(wrong.argmax())
            raise self.wrong(name, f"{expected} at index {at}", column[at])

    def wrong(self, name: str, expected: str, got: object) -> InvalidInput:
        told = str(got)
        told = told if len(told) <= 60 else f"{told[:60]}..."
        return InvalidInput(f"input {self.number}, {name}: expected {expected}, got {told}")

    def _get(self, name: str) -> Any:
        if not isinstance(self.values, Mapping):
            raise InvalidInput(
                f"input {self.number}: expected a mapping or a CulledToken, got {self.values!r}"
            )
        if name not in self.values:
            raise InvalidInput(f"input {self.number}: {name} is missing")
        return self.values[name]
