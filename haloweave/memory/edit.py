# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One immutable value for every change of context, and what can be done with it.

Knows tokens. Must not know why an edit was made, nor how a KV cache applies it. An edit can be
applied, inverted, mapped over a later edit, turned into a gather index for KV rows, and written to
bytes and back (the shape of ProseMirror's steps).

Within a splice a token is the *same* token if `old` and `new` both hold its uid; then its KV row
stays, and the edit carries only the columns in which the two differ. So a pin or a boost is an edit
like any other. All other tokens of `new` are *born* in the edit, and need a row computed.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64

from haloweave.errors import EditConflict, InvalidEdit
from haloweave.memory.tokens import COLUMNS, FULL, Tokens

BORN = -1
"""In a gather index: no old row, this token is born in the edit."""

PROVISIONAL = -(1 << 40)
"""Born tokens of an edit not yet carried out have uids from here on; `stamped` gives them real ones. So an
edit made while the context goes on growing collides with nothing."""

_MAGIC = b"HWE1"
_HEAD = struct.Struct("<4sI")


class Surgery(Enum):
    """How an edit reaches the KV cache."""

    DROP = "drop"
    """Rows leave, later keys re-rotate; survivors keep what they learned from the dead."""
    PATCH = "patch"
    """DROP, and the born rows are computed against their left context, in one pass."""
    RECOMPUTE = "recompute"
    """Exact: every row from the first change on is computed again."""
    RESTORE = "restore"
    """Archived K/V rows come back byte for byte, re-rotated."""


@dataclass(frozen=True)
class Splice:
    """From slot `start` of the base revision, `old` becomes `new`."""

    start: int
    old: Tokens
    new: Tokens

    @property
    def stop(self) -> int:
        return self.start + len(self.old)

    @cached_property
    def kept(self) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """Indices into `new` and into `old` of the tokens present in both."""
        if not len(self.old) or not len(self.new):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        _, in_new, in_old = np.intersect1d(self.new.uid, self.old.uid, return_indices=True)
        order = np.argsort(in_new)
        return in_new[order].astype(np.int64), in_old[order].astype(np.int64)


@dataclass(frozen=True)
class Edit:
    """All splices of one change, sorted and disjoint.

    Raises InvalidEdit where the splices overlap, keep a token out of order, change the id of a kept
    token, use a uid twice, or need a surgery that the edit does not name.
    """

    base: int
    """Revision this edit was made for."""
    tick: int
    reason: str
    surgery: Surgery
    splices: tuple[Splice, ...]

    def __post_init__(self) -> None:
        end = 0
        for s in self.splices:
            if s.start < end:
                raise InvalidEdit(
                    f"splices must be sorted and disjoint: one starts at {s.start}, before {end}"
                )
            end = s.stop
            in_new, in_old = s.kept
            if len(np.unique(s.new.uid)) != len(s.new):
                raise InvalidEdit(f"splice at {s.start}: a uid stands twice in what is new")
            if len(s.new) and not (s.new.brightness.min() >= 0 and s.new.brightness.max() <= FULL):
                raise InvalidEdit(f"splice at {s.start}: expected brightness 0..{FULL}")
            if np.any(np.diff(in_old) < 0):
                raise InvalidEdit(f"splice at {s.start}: a kept token may not change places")
            for column in ("token_id", "source", "unit", "born"):
                if not np.array_equal(getattr(s.new, column)[in_new], getattr(s.old, column)[in_old]):
                    raise InvalidEdit(
                        f"splice at {s.start}: a kept uid has another {column}; give it a new uid"
                    )
        born = self.born_uids
        if len(np.unique(born)) != len(born):
            raise InvalidEdit("a uid is born twice in one edit")
        if len(born) and self.surgery is Surgery.DROP:
            raise InvalidEdit(f"{len(born)} tokens are born: expected PATCH, RECOMPUTE or RESTORE, got DROP")

    @cached_property
    def born_uids(self) -> Int64[np.ndarray, " N"]:
        """Uids whose rows have to be computed."""
        parts = [np.delete(s.new.uid, s.kept[0]) for s in self.splices if len(s.new)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    @property
    def born_ids(self) -> Int32[np.ndarray, " N"]:
        """Token ids of `born_uids`, in that order."""
        parts = [np.delete(s.new.token_id, s.kept[0]) for s in self.splices if len(s.new)]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def stamped(self, next_uid: int) -> Edit:
        """This edit with real uids, from `next_uid` on, for tokens whose uids are provisional."""
        if not np.any(self.born_uids < 0):
            return self
        splices = []
        for s in self.splices:
            wanting = s.new.uid < 0
            uid = s.new.uid.copy()
            uid[wanting] = np.arange(next_uid, next_uid + int(wanting.sum()))
            next_uid += int(wanting.sum())
            splices.append(replace(s, new=s.new.replace(uid=uid)))
        return replace(self, splices=tuple(splices))

    @property
    def first(self) -> int | None:
        """First slot that changes row or position; None if no row does."""
        for s in self.splices:
            n = min(len(s.old), len(s.new))
            differs = np.flatnonzero(s.old.uid[:n] != s.new.uid[:n])
            if len(differs):
                return s.start + int(differs[0])
            if len(s.old) != len(s.new):
                return s.start + n
        return None

    @property
    def growth(self) -> int:
        """Rows gained (negative: lost)."""
        return sum(len(s.new) - len(s.old) for s in self.splices)

    def gather(self, rows: int) -> Int64[np.ndarray, " S2"]:
        """For each slot after the edit, the slot it had in a context of `rows` tokens, or BORN."""
        if self.splices and self.splices[-1].stop > rows:
            raise InvalidEdit(f"edit reaches to slot {self.splices[-1].stop}, the context has {rows}")
        parts: list[np.ndarray] = []
        at = 0
        for s in self.splices:
            parts.append(np.arange(at, s.start, dtype=np.int64))
            if len(s.new):
                index = np.full(len(s.new), BORN, np.int64)
                in_new, in_old = s.kept
                index[in_new] = s.start + in_old
                parts.append(index)
            at = s.stop
        parts.append(np.arange(at, rows, dtype=np.int64))
        return np.concatenate(parts)

    def ids(self, token_id: Int32[np.ndarray, " S"]) -> Int32[np.ndarray, " S2"]:
        """The token ids after this edit, from those before it."""
        parts: list[np.ndarray] = []
        at = 0
        for s in self.splices:
            parts += [token_id[at : s.start], s.new.token_id]
            at = s.stop
        return np.concatenate([*parts, token_id[at:]])

    def apply(self, tokens: Tokens) -> Tokens:
        """The context after this edit. Raises InvalidEdit if `old` is not what is there."""
        index = self.gather(len(tokens))
        self._check_old(tokens)
        out = (
            {name: getattr(tokens, name)[np.maximum(index, 0)] for name in COLUMNS}
            if len(tokens)
            else {name: np.zeros(len(index), dtype) for name, dtype in COLUMNS.items()}
        )
        shift = 0
        for s in self.splices:
            if len(s.new):
                _write(out, s, s.start + shift)
            shift += len(s.new) - len(s.old)
        after = Tokens(**out)
        if len(self.born_uids) and len(np.unique(after.uid)) != len(after.uid):
            raise InvalidEdit("a born uid is already alive in the context")
        return after

    def _check_old(self, tokens: Tokens) -> None:
        parts = [s for s in self.splices if len(s.old)]
        if not parts:
            return
        there = np.concatenate([np.arange(s.start, s.stop) for s in parts])
        uid = np.concatenate([s.old.uid for s in parts])
        ids = np.concatenate([s.old.token_id for s in parts])
        wrong = np.flatnonzero((tokens.uid[there] != uid) | (tokens.token_id[there] != ids))
        if len(wrong):
            slot = int(there[wrong[0]])
            raise InvalidEdit(
                f"slot {slot}: the edit expects uid {int(uid[wrong[0]])}, "
                f"the context holds uid {int(tokens.uid[slot])}"
            )

    def inverse(self) -> Edit:
        """The edit that takes this one back, for the revision right after it.

        It holds no rows, so what DROP or RESTORE took out comes back by PATCH; where nothing comes back,
        RESTORE is taken back by DROP.
        """
        splices: list[Splice] = []
        shift = 0
        for s in self.splices:
            splices.append(Splice(s.start + shift, s.new, s.old))
            shift += len(s.new) - len(s.old)
        born = any(len(s.kept[1]) < len(s.old) for s in self.splices)
        surgery = self.surgery
        if surgery is Surgery.RESTORE and not born:
            surgery = Surgery.DROP
        elif surgery in (Surgery.DROP, Surgery.RESTORE):
            surgery = Surgery.PATCH
        return Edit(self.base + 1, self.tick, f"undo: {self.reason}", surgery, tuple(splices))

    def over(self, later: Edit, rows: int) -> Edit:
        """This edit, made for the same `rows` tokens as `later`, so that it applies after `later`.

        Raises EditConflict where `later` touched what this edit speaks of, or gave birth to the same uid.
        """
        if later.base != self.base:
            raise InvalidEdit(f"edit made for revision {self.base}, the later one for {later.base}")
        if len(np.intersect1d(self.born_uids, later.born_uids)):
            raise EditConflict("both edits give birth to the same uid")
        index = later.gather(rows)
        moved = np.full(rows + 1, BORN, np.int64)
        alive = index >= 0
        moved[index[alive]] = np.flatnonzero(alive)
        moved[rows] = len(index)
        splices = tuple(replace(s, start=_moved_start(s, moved)) for s in self.splices)
        return replace(self, base=self.base + 1, splices=splices)

    def shifted(self, revision: int) -> Edit:
        """This edit for a later revision that only appended to the context."""
        return replace(self, base=revision)

    def to_bytes(self) -> bytes:
        """A self-checking, self-contained record: magic, length, JSON head, columns, CRC-32."""
        head = json.dumps(
            {
                "base": self.base,
                "tick": self.tick,
                "reason": self.reason,
                "surgery": self.surgery.value,
                "splices": [[s.start, len(s.old), len(s.new)] for s in self.splices],
            },
            ensure_ascii=True,
        ).encode()
        runs = [run for s in self.splices for run in (s.old, s.new)]
        all_tokens = Tokens.concat(runs)
        columns = b"".join(
            getattr(all_tokens, name).astype(np.dtype(dtype).newbyteorder("<")).tobytes()
            for name, dtype in COLUMNS.items()
        )
        body = _HEAD.pack(_MAGIC, len(head)) + head + columns
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Edit:
        """Inverse of `to_bytes`. Raises InvalidEdit on anything that is not exactly one whole record."""
        if len(data) < _HEAD.size + 4 or data[:4] != _MAGIC:
            raise InvalidEdit(f"not an edit record: {len(data)} bytes, starting {data[:4]!r}")
        if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise InvalidEdit("edit record: checksum differs, the bytes are damaged or incomplete")
        _, head_len = _HEAD.unpack_from(data)
        columns_at = _HEAD.size + head_len
        try:
            head = json.loads(data[_HEAD.size : columns_at])
            _check_head(head)
            lengths = [n for _, old, new in head["splices"] for n in (old, new)]
            runs = iter(_read_runs(data[columns_at:-4], lengths))
            splices = tuple(Splice(start, next(runs), next(runs)) for start, _, _ in head["splices"])
            return cls(head["base"], head["tick"], head["reason"], Surgery(head["surgery"]), splices)
        except (KeyError, TypeError, ValueError, RecursionError) as err:
            raise InvalidEdit(f"edit record: {err}") from err


def _write(out: dict[str, np.ndarray], s: Splice, at: int) -> None:
    """Put `new` at slot `at`, leaving kept tokens the columns that the edit does not change."""
    in_new, in_old = s.kept
    born = np.ones(len(s.new), np.bool_)
    born[in_new] = False
    for name in COLUMNS:
        new, old = getattr(s.new, name), getattr(s.old, name)
        changed = born.copy()
        changed[in_new] = new[in_new] != old[in_old]
        out[name][at : at + len(s.new)][changed] = new[changed]


def _moved_start(s: Splice, moved: np.ndarray) -> int:
    """Where a splice starts after a later edit; `moved[slot]` is the new slot of each old one."""
    if len(s.old):
        slots = moved[s.start : s.stop]
        if np.any(slots < 0) or np.any(np.diff(slots) != 1):
            raise EditConflict(f"slots {s.start}..{s.stop - 1} were changed by a later edit")
        return int(slots[0])
    if s.start == 0:
        return 0
    if moved[s.start - 1] >= 0:
        return int(moved[s.start - 1]) + 1
    if moved[s.start] >= 0:
        return int(moved[s.start])
    raise EditConflict(f"both neighbours of the insertion at slot {s.start} are gone")


def _check_head(head: Any) -> None:
    """Every number of a record's head is a whole number, every count at least 0."""
    numbers = [head["base"], head["tick"], *(n for splice in head["splices"] for n in splice)]
    if any(type(n) is not int for n in numbers) or any(n < 0 for s in head["splices"] for n in s):
        raise InvalidEdit("edit record: expected whole numbers, and counts of at least 0")
    if not isinstance(head["reason"], str):
        raise InvalidEdit("edit record: the reason is not text")


def _read_runs(data: bytes, lengths: Sequence[int]) -> list[Tokens]:
    total = sum(lengths)
    if len(data) != total * sum(np.dtype(d).itemsize for d in COLUMNS.values()):
        raise InvalidEdit(f"edit record: {total} tokens announced, {len(data)} bytes of columns")
    columns: dict[str, np.ndarray] = {}
    at = 0
    for name, dtype in COLUMNS.items():
        little = np.dtype(dtype).newbyteorder("<")
        columns[name] = np.frombuffer(data, little, total, at).astype(dtype)
        at += total * little.itemsize
    tokens = Tokens(**columns)
    bounds = np.cumsum([0, *lengths])
    return [tokens[a:b] for a, b in pairwise(bounds.tolist())]


def deletion(tokens: Tokens, dead: Bool[np.ndarray, " S"]) -> tuple[Splice, ...]:
    """One splice for each run of slots marked dead."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], dead, [False]]).astype(np.int8)))
    nothing = Tokens.empty()
    return tuple(Splice(int(a), tokens[a:b], nothing) for a, b in edges.reshape(-1, 2).tolist())
