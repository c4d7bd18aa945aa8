# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A run's state on disk: written aside, synced, renamed; a kill leaves the old one or the new one.

Knows files. Must not know models or what the tensors mean.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from haloweave.errors import InvalidInput, ModelCorrupt, ModelError

_STATE, _TENSORS = "state.json", "tensors.safetensors"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Named tensors, and what is told of them in JSON."""

    tensors: Mapping[str, Tensor]
    told: Mapping[str, Any]


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Put a checkpoint in the place of the one in `folder`. Raises ModelError if that cannot be written."""
    aside, old = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(dict(checkpoint.tensors), aside / _TENSORS)
        (aside / _STATE).write_text(json.dumps(checkpoint.told), encoding="utf-8")
        sync(aside / _TENSORS, aside / _STATE, aside)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise ModelError(
            f"{folder}: cannot be written ({error}); the one before is kept: make room"
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None; the one before, if a kill came between two renames.

    Raises ModelCorrupt for one that is damaged.
    """
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    if not folder.exists():
        return None
    try:
        told = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        return Checkpoint(load_file(folder / _TENSORS), dict(told))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ModelCorrupt(f"{folder}: damaged ({error}); remove it to start from the beginning") from error


def sync(*paths: Path) -> None:
    """Have files and folders on disk for good."""
    for path in paths:
        if path.is_dir() and os.name == "nt":
            continue  # a directory cannot be synced there
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else trains in `folder` meanwhile; the system lets go of it when a process dies.

    Raises InvalidInput if somebody does.
    """
    if os.name == "nt":  # no advisory locks there: a file that is open cannot be renamed away anyway
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidInput(f"{folder}: another run is at work there; choose another --out") from error
        yield
