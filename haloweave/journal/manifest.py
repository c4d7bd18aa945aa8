# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a snapshot says of itself: which moment it is of, what made it, and the hash of each of its files.

Knows JSON and hashes. Must not know where it is kept. The bytes carry their own hash and are read back only
if they are, to the last one, what would be written: so nothing in a manifest can be damaged and still be
believed. SHA-256: with a processor's own instructions for it, 2.0 GB/s against 1.4 for BLAKE2b.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from haloweave.errors import JournalCorrupt
from haloweave.memory.tokens import COLUMNS, View

VERSION = 1
_FORMAT = "halo weave snapshot"
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True)
class FileMark:
    """A file, so that it is known again."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, name: str, data: bytes) -> FileMark:
        return cls(name, len(data), digest(data))

    def misfit(self, data: bytes) -> str | None:
        """Why these are not the file's bytes; None if they are."""
        if len(data) != self.size:
            return f"{self.name}: expected {self.size} bytes, found {len(data)}"
        if digest(data) != self.sha256:
            return f"{self.name}: its bytes have changed since they were written"
        return None


@dataclass(frozen=True)
class Manifest:
    """All that is known of a snapshot without reading it."""

    seq: int
    """Sequence number of the journal's Checkpoint record that it belongs to."""
    tick: int
    revision: int
    rows: int
    stale: bool
    mirror: str
    """Hash of the checkpoint's mirror (see `digest_of`): a journal put back from a backup counts on, and
    comes to the same numbers with another past."""
    fingerprint: Mapping[str, str]
    """What made the rows: model, tokenizer, template, dtype, library..."""
    files: tuple[FileMark, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def to_bytes(self) -> bytes:
        body = {"format": _FORMAT, "version": VERSION, **asdict(self)}
        body["sha256"] = digest(_json(body))
        return _json(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Inverse of `to_bytes`. Raises JournalCorrupt, with the reason, for anything else."""
        try:
            body = json.loads(data)
            _check_version(body)
            made = cls(**_fields(body))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
            raise JournalCorrupt(f"manifest: expected a snapshot's, cannot make sense of it: {err}") from err
        if made.to_bytes() != data:
            raise JournalCorrupt("manifest: its bytes have changed since they were written")
        return made


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of(view: View) -> str:
    """Hash of all that a mirror holds, brightness included."""
    numbers = hashlib.sha256(f"{view.revision} {view.tick} {view.next_uid} {len(view.tokens)}".encode())
    for name, dtype in COLUMNS.items():
        numbers.update(getattr(view.tokens, name).astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    return numbers.hexdigest()


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"


def _check_version(body: Any) -> None:
    if not isinstance(body, dict) or body.get("format") != _FORMAT:
        raise JournalCorrupt("manifest: not one of a snapshot")
    if body.get("version") != VERSION:
        raise JournalCorrupt(
            f"manifest: written as version {body.get('version')!r}, this program reads {VERSION}: update it"
        )


def _fields(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Manifest. Raises ValueError where one is of another kind than it should be."""
    kinds = {"seq": int, "tick": int, "revision": int, "rows": int, "stale": bool, "mirror": str}
    for name, kind in kinds.items():
        if type(body[name]) is not kind:
            raise ValueError(f"{name}: expected {kind.__name__}, got {body[name]!r}")
    fingerprint = body["fingerprint"]
    if not all(isinstance(word, str) for word in (*fingerprint.keys(), *fingerprint.values())):
        raise ValueError("fingerprint: expected words")
    files = tuple(FileMark(**file) for file in body["files"])
    if bad := [file.name for file in files if not _FILE_NAME.fullmatch(file.name)]:
        raise ValueError(f"files: expected plain names, got {bad[:3]}")
    return {**{name: body[name] for name in kinds}, "fingerprint": fingerprint, "files": files}
