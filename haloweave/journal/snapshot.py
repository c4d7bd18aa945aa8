# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Snapshots of a KV cache: put on a shelf so that a crash at any moment leaves the new one whole, or the old
one.

Knows images (arrays of an engine's own naming) and files. Must not know engines, minds or the journal's
database.

    snapshots/.new-SEQ/    being written: kv-NNN.safetensors, logits.safetensors, and manifest.json last
    snapshots/SEQ/         synced and proved (read back and compared), then renamed; SEQ.1: written once more
    snapshots/.gone-SEQ/   on its way out

Whatever is `.new-` or `.gone-` when a shelf is opened belongs to nobody and is swept. A shelf has no lock:
one thread at a time (any thread) may put, clear or read. Arrays of an image go to disk in parts, so that
beside the image only one part is ever in memory. Bytes are hashed and read from the same copy: nothing can
change in between.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load, save

from haloweave.errors import Interrupted, InvalidInput, JournalCorrupt, JournalError, JournalFailed
from haloweave.journal.base import Checkpoint, State
from haloweave.journal.disk import Disk, Files
from haloweave.journal.manifest import FileMark, Manifest, digest_of
from haloweave.memory.rows import Image

PART_BYTES = 1 << 24
"""Of an image in one file, where its arrays allow: so much is copied at a time, while decoding goes on."""

_NEW, _GONE = ".new-", ".gone-"
_MANIFEST, _LOGITS = "manifest.json", "logits.safetensors"
_PLACE = re.compile(r"(0|[1-9][0-9]{0,17})(?:\.([1-9][0-9]{0,3}))?")


class SnapshotRefused(JournalError):
    """Damaged, or of another model, tokenizer, template, dtype or library. The message names what."""


@dataclass(frozen=True)
class Snapshot:
    """One on the shelf; its files are not read yet."""

    seq: int
    tick: int
    revision: int
    rows: int
    folder: Path
    size: int
    """Bytes on disk."""


class Kept(NamedTuple):
    """What a snapshot holds."""

    image: Image
    logits: Float32[np.ndarray, " V"] | None
    stale: bool


def _never() -> bool:
    return False


class Shelf:
    """The snapshots of one mind, newest last to go. Opening makes the folder and sweeps what a dead writer
    left."""

    def __init__(
        self, folder: Path, *, disk: Files | None = None, keep: int = 2, part_bytes: int = PART_BYTES
    ) -> None:
        if keep < 1 or part_bytes < 1:
            raise InvalidInput(f"shelf: expected keep and part_bytes from 1 on, got {keep}, {part_bytes}")
        self._folder, self._disk = folder, disk or Disk()
        self._keep, self._part_bytes = keep, part_bytes
        if not self._disk.exists(folder):
            self._disk.make_folder(folder)
            self._disk.sync_folder(folder.parent)
        for name in self._disk.names(folder):
            if name.startswith((_NEW, _GONE)):
                self._disk.remove_folder(folder / name)

    def put(
        self,
        seq: int,
        state: State,
        fingerprint: Mapping[str, str],
        cancelled: Callable[[], bool] = _never,
    ) -> Snapshot:
        """Keep what the Checkpoint record `seq` belongs to, then remove snapshots beyond `keep`.

        Raises JournalFailed where a file could not be written, synced or read back as it was: the snapshot is
        given up, those before it stay. (Or it is whole and in its place, but perhaps not for good, or an old
        one could not be removed: the next `put` does that.) Raises Interrupted once `cancelled()`, which is
        asked between files; InvalidInput for arrays that cannot be kept.
        """
        temp = self._folder / f"{_NEW}{seq}"
        try:
            made = self._written(temp, seq, state, fingerprint, cancelled)
            self._prove(temp, made, cancelled)
            place = self._free_place(seq)
            self._disk.rename(temp, place)
            self._disk.sync_folder(self._folder)
        except Exception:
            with suppress(JournalFailed):  # the first failure is the one to tell; the next opening sweeps
                self._discard(temp)
            raise
        self._thin(place)
        return _snapshot(made, place)

    def all(self) -> list[Snapshot]:
        """Those with a manifest that can be read, newest first. What they hold is checked by `read`."""
        return _listed(self._folder, self._disk)

    @staticmethod
    def peek(folder: Path, disk: Files | None = None) -> list[Snapshot]:
        """`all` of a shelf that somebody else may have open: nothing is made or swept."""
        disk = disk or Disk()
        return _listed(folder, disk) if disk.exists(folder) else []

    def complaints(self) -> list[str]:
        """Why some of what lies on the shelf is not in `all`."""
        told = []
        for _, _, folder in _places(self._folder, self._disk):
            try:
                _manifest(folder, self._disk)
            except SnapshotRefused as err:
                told.append(str(err))
        return told

    def read(
        self, snapshot: Snapshot, fingerprint: Mapping[str, str], checkpoint: Checkpoint | None = None
    ) -> Kept:
        """What it holds, every byte checked. Raises SnapshotRefused, with the reason.

        Given the checkpoint that the journal has under the snapshot's number, it must be of that very mirror.
        """
        folder = snapshot.folder
        made = _manifest(folder, self._disk)
        _same_past(made, snapshot, checkpoint)
        _same_maker(folder, made.fingerprint, fingerprint)
        self._check_names(folder, made)
        arrays = {file.name: self._arrays(folder, file) for file in made.files}
        logits = arrays.pop(_LOGITS, {}).get("logits")
        image = {name: array for part in arrays.values() for name, array in part.items()}
        return Kept(image, logits, made.stale)

    def clear(self, keep_seq: int | None) -> None:
        """Remove all but the newest snapshot of that number; durable on return, and to be called again if it
        raises.

        Names go, and files with no name left; what becomes of the blocks they lay in is the file system's
        business (and the drive's). Where that matters, the disk has to be encrypted.
        """
        spared = [folder.name for seq, _, folder in _places(self._folder, self._disk) if seq == keep_seq][:1]
        for name in self._disk.names(self._folder):
            if name not in spared:
                self._remove(name)
        self._disk.sync_folder(self._folder)

    # ---- writing -----------------------------------------------------------------------------------------

    def _written(
        self,
        temp: Path,
        seq: int,
        state: State,
        fingerprint: Mapping[str, str],
        cancelled: Callable[[], bool],
    ) -> Manifest:
        self._discard(temp)
        self._disk.make_folder(temp)
        marks = []
        for name, data in _files(state, self._part_bytes):
            _stop_if(cancelled)
            self._keep_file(temp / name, data)
            marks.append(FileMark.of(name, data))
        view = state.checkpoint.view
        made = Manifest(
            seq=seq,
            tick=view.tick,
            revision=view.revision,
            rows=len(view.tokens),
            stale=state.stale,
            mirror=digest_of(view),
            fingerprint=dict(fingerprint),
            files=tuple(marks),
        )
        self._keep_file(temp / _MANIFEST, made.to_bytes())
        self._disk.sync_folder(temp)
        return made

    def _keep_file(self, path: Path, data: bytes) -> None:
        self._disk.write(path, data)
        self._disk.sync(path)

    def _prove(self, folder: Path, made: Manifest, cancelled: Callable[[], bool]) -> None:
        """Read all of it back. Raises JournalFailed where it is not what was written."""
        data = made.to_bytes()
        for file in (*made.files, FileMark.of(_MANIFEST, data)):
            _stop_if(cancelled)
            if why := file.misfit(self._disk.read(folder / file.name)):
                raise JournalFailed(f"{folder}: just written, and already another: {why}. Check the disk")

    def _free_place(self, seq: int) -> Path:
        """A name that nothing has: a snapshot of the same number is not given up before this one is in its
        place."""
        taken = [again for other, again, _ in _places(self._folder, self._disk) if other == seq]
        return self._folder / (f"{seq}.{taken[0] + 1}" if taken else f"{seq}")

    # ---- removing ----------------------------------------------------------------------------------------

    def _thin(self, newest: Path) -> None:
        """Keep the one just put and the sound ones before it. Numbers after it are of a past that a restored
        backup has undone."""
        places = [folder for _, _, folder in _places(self._folder, self._disk)]
        kept = [newest]
        for folder in places[places.index(newest) + 1 :]:
            if len(kept) < self._keep and self._sound(folder):
                kept.append(folder)
        for folder in places:
            if folder not in kept:
                self._remove(folder.name)

    def _sound(self, folder: Path) -> bool:
        """Whether its manifest is one. Raises JournalFailed if that cannot be seen now: it may be, later."""
        if not self._disk.exists(folder / _MANIFEST):
            return False
        with suppress(JournalCorrupt):
            Manifest.from_bytes(self._disk.read(folder / _MANIFEST))
            return True
        return False

    def _remove(self, name: str) -> None:
        """Out of the way in one step, then file by file: no half is ever taken for a snapshot."""
        gone = self._folder / name
        if not name.startswith((_NEW, _GONE)):
            gone = self._folder / f"{_GONE}{name}"
            self._discard(gone)
            self._disk.rename(self._folder / name, gone)
        self._disk.remove_folder(gone)

    def _discard(self, folder: Path) -> None:
        if self._disk.exists(folder):
            self._disk.remove_folder(folder)

    # ---- reading -----------------------------------------------------------------------------------------

    def _check_names(self, folder: Path, made: Manifest) -> None:
        expected = {_MANIFEST, *(file.name for file in made.files)}
        odd = sorted(expected ^ set(self._disk.names(folder)))
        if odd:
            raise SnapshotRefused(f"snapshot {folder.name}: files missing or not its own: {odd[:4]}")

    def _arrays(self, folder: Path, file: FileMark) -> dict[str, np.ndarray]:
        try:
            data = self._disk.read(folder / file.name)
        except JournalFailed as err:
            raise SnapshotRefused(f"snapshot {folder.name}: {err}") from err
        if why := file.misfit(data):
            raise SnapshotRefused(f"snapshot {folder.name}: {why}")
        try:
            arrays: dict[str, np.ndarray] = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as err:
            raise SnapshotRefused(
                f"snapshot {folder.name}: {file.name} is no safetensors file: {err}"
            ) from err
        return arrays


def _listed(shelf: Path, disk: Files) -> list[Snapshot]:
    found = []
    for _, _, folder in _places(shelf, disk):
        with suppress(SnapshotRefused):  # `complaints` tells
            found.append(_snapshot(_manifest(folder, disk), folder))
    return found


def _places(shelf: Path, disk: Files) -> list[tuple[int, int, Path]]:
    """Number, how often it was written before, and folder of all that is named so; newest first."""
    matches = (_PLACE.fullmatch(name) for name in disk.names(shelf))
    return sorted(((int(m[1]), int(m[2] or 0), shelf / m[0]) for m in matches if m), reverse=True)


def _manifest(folder: Path, disk: Files) -> Manifest:
    try:
        made = Manifest.from_bytes(disk.read(folder / _MANIFEST))
    except (JournalCorrupt, JournalFailed) as err:
        raise SnapshotRefused(f"snapshot {folder.name}: {err}") from err
    if folder.name.partition(".")[0] != str(made.seq):
        raise SnapshotRefused(f"snapshot {folder.name}: it says that it is {made.seq}")
    return made


def _files(state: State, part_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of what is to be kept, one file at a time."""
    for number, part in enumerate(_parts(state.image, part_bytes)):
        yield f"kv-{number:03}.safetensors", _packed(part)
    if state.logits is not None:
        yield _LOGITS, _packed({"logits": state.logits})


def _parts(image: Image, part_bytes: int) -> Iterator[Image]:
    """The image's arrays in order, in parts of so many bytes, or of one array that is larger."""
    part: dict[str, np.ndarray] = {}
    size = 0
    for name, array in image.items():
        if part and size + array.nbytes > part_bytes:
            yield part
            part, size = {}, 0
        part[name] = array
        size += array.nbytes
    if part:
        yield part


def _packed(arrays: Image) -> bytes:
    try:
        data: bytes = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    except SafetensorError as err:
        raise InvalidInput(f"snapshot: an array cannot be kept: {err}") from err
    if "__metadata__" in arrays:
        raise InvalidInput("snapshot: __metadata__ is no name for an array: safetensors uses it itself")
    return data


def _stop_if(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Interrupted("the snapshot was given up; the one before it stays")


def _snapshot(made: Manifest, folder: Path) -> Snapshot:
    return Snapshot(made.seq, made.tick, made.revision, made.rows, folder, made.size)


def _same_past(made: Manifest, snapshot: Snapshot, checkpoint: Checkpoint | None) -> None:
    if _snapshot(made, snapshot.folder) != snapshot:
        raise SnapshotRefused(f"snapshot {snapshot.folder.name}: another one has taken its place")
    if checkpoint is not None and made.mirror != digest_of(checkpoint.view):
        raise SnapshotRefused(
            f"snapshot {snapshot.folder.name}: it belongs to another past of this mind than the journal's"
        )


def _same_maker(folder: Path, was: Mapping[str, str], now: Mapping[str, str]) -> None:
    changes = [
        f"{name} was {was.get(name, 'not known')}, is {now.get(name, 'not known')}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    if changes:
        raise SnapshotRefused(f"snapshot {folder.name}: {'; '.join(changes)}")
