# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Files, one operation at a time; and the disk that fails on demand, which other tests rely on."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from haloweave.bench.faults import Died, Fault, FaultyDisk, Kind, Loss
from haloweave.errors import JournalFailed
from haloweave.journal import disk as disk_module
from haloweave.journal.disk import Disk

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")


def cause_of(caught: pytest.ExceptionInfo[JournalFailed]) -> int | None:
    cause = caught.value.__cause__
    assert isinstance(cause, OSError)
    return cause.errno


# ---- the real one ------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_and_replaced_whole(tmp_path: Path) -> None:
    disk, path = Disk(), tmp_path / "a"
    for data in (b"long content" * 1000, b"", b"short"):
        disk.write(path, data)
        disk.sync(path)
        assert disk.read(path) == data == path.read_bytes()
    disk.sync_folder(tmp_path)


@posix
def test_what_is_made_is_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Disk().make_folder(tmp_path / "folder")
        Disk().write(tmp_path / "folder" / "file", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "folder" / "file").stat().st_mode) == 0o600


def test_a_write_that_the_system_takes_in_bits_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = os.write, []

    def miserly(file: int, data: Any) -> int:
        sizes.append(len(data))
        return real(file, bytes(data[:7]))

    monkeypatch.setattr(os, "write", miserly)
    Disk().write(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))
    assert len(sizes) == 15


def test_a_system_that_takes_nothing_is_an_error_and_no_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda file, data: 0)
    with pytest.raises(JournalFailed) as caught:
        Disk().write(tmp_path / "a", b"x")
    assert cause_of(caught) == errno.EIO


def test_no_file_stays_open_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, closed = [], []
    real_open, real_close = os.open, os.close

    def opens(*args: Any) -> int:
        opened.append(real_open(*args))
        return opened[-1]

    def fails(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    def closes(file: int) -> None:
        closed.append(file)
        real_close(file)

    for name, fake in {"open": opens, "close": closes, "write": fails, "fsync": fails}.items():
        monkeypatch.setattr(os, name, fake)
    monkeypatch.setattr(disk_module, "FULL_SYNC", None)
    for act in (
        lambda: Disk().write(tmp_path / "a", b"x"),
        lambda: Disk().sync(tmp_path / "a"),
        lambda: Disk().sync_folder(tmp_path),
    ):
        with pytest.raises(JournalFailed, match="the disk is full; free some space"):
            act()
    assert len(opened) == 3
    assert closed == opened


def test_failures_are_told_in_words_and_keep_their_number(tmp_path: Path) -> None:
    disk = Disk()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_bytes(b"")
    cases = [
        (lambda: disk.read(tmp_path / "no"), errno.ENOENT, "cannot read .*no: it is not there"),
        (lambda: disk.sync(tmp_path / "no"), errno.ENOENT, "cannot sync"),
        (lambda: disk.remove(tmp_path / "no"), errno.ENOENT, "cannot remove"),
        (lambda: disk.names(tmp_path / "no"), errno.ENOENT, "cannot list"),
        (lambda: disk.rename(tmp_path / "no", tmp_path / "b"), errno.ENOENT, "cannot rename to b"),
        (lambda: disk.make_folder(tmp_path / "folder"), errno.EEXIST, "it is there already"),
        (lambda: disk.remove_empty(tmp_path / "folder"), errno.ENOTEMPTY, "cannot remove"),
        (lambda: disk.write(tmp_path / "no" / "a", b""), errno.ENOENT, "cannot write"),
    ]
    for act, code, words in cases:
        with pytest.raises(JournalFailed, match=words) as caught:
            act()
        assert cause_of(caught) == code


def test_rename_takes_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    Disk().rename(tmp_path / "a", tmp_path / "b")
    assert Disk().names(tmp_path) == ["b"]
    assert (tmp_path / "b").read_bytes() == b"new"


@posix
def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    disk = Disk()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "dear").write_bytes(b"dear")
    doomed = tmp_path / "doomed"
    (doomed / "deep" / "deeper").mkdir(parents=True)
    (doomed / "deep" / "file").write_bytes(b"x")
    (doomed / "deep" / "to_folder").symlink_to(outside, target_is_directory=True)
    (doomed / "to_file").symlink_to(outside / "dear")
    (doomed / "nowhere").symlink_to(tmp_path / "no")
    assert disk.exists(doomed / "nowhere")
    assert not disk.is_folder(doomed / "deep" / "to_folder")
    disk.remove_folder(doomed)
    assert not doomed.exists()
    assert (outside / "dear").read_bytes() == b"dear"
    (tmp_path / "link").symlink_to(outside, target_is_directory=True)
    disk.remove_folder(tmp_path / "link")
    assert disk.names(tmp_path) == ["outside"]
    assert disk.names(outside) == ["dear"]


@posix
def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "dear").write_bytes(b"dear")
    (tmp_path / "link").symlink_to(tmp_path / "dear")
    with pytest.raises(JournalFailed):
        Disk().write(tmp_path / "link", b"x")
    assert (tmp_path / "dear").read_bytes() == b"dear"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_only_a_folder_that_cannot_be_synced_at_all_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuses(file: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuses)
    monkeypatch.setattr(disk_module, "FULL_SYNC", None)
    if code == errno.EINVAL:
        Disk().sync_folder(tmp_path)
    else:
        with pytest.raises(JournalFailed, match="reports a failure"):
            Disk().sync_folder(tmp_path)


# ---- the faulty one ----------------------------------------------------------------------------------


def work(disk: FaultyDisk, root: Path) -> None:
    disk.make_folder(root / "f")
    disk.write(root / "f" / "a", b"0123456789")
    disk.sync(root / "f" / "a")
    disk.rename(root / "f", root / "g")


def test_it_is_a_disk_while_nothing_is_wrong(tmp_path: Path) -> None:
    disk = FaultyDisk()
    work(disk, tmp_path)
    assert [doing for doing, _ in disk.log] == ["make_folder", "write", "sync", "rename"]
    assert disk.read(tmp_path / "g" / "a") == b"0123456789"
    disk.remove_folder(tmp_path / "g")
    assert disk.names(tmp_path) == []
    assert disk.operations == 4 + 1 + 5 + 1


@pytest.mark.parametrize(
    ("kind", "left"),
    [(Kind.ERROR, None), (Kind.TORN, b"01234"), (Kind.DEATH, None), (Kind.TORN_DEATH, b"01234")],
)
def test_a_write_goes_wrong_in_each_way(tmp_path: Path, kind: Kind, left: bytes | None) -> None:
    disk = FaultyDisk(Fault(1, kind, errno.ENOSPC))
    dies = kind in (Kind.DEATH, Kind.TORN_DEATH)
    with pytest.raises(Died if dies else JournalFailed):
        work(disk, tmp_path)
    path = tmp_path / "f" / "a"
    assert (path.read_bytes() if path.exists() else None) == left
    if dies:
        with pytest.raises(Died):
            disk.exists(path)
    else:
        disk.write(path, b"again")
        assert disk.read(path) == b"again"


def test_a_lie_is_told_to_nobody(tmp_path: Path) -> None:
    work(FaultyDisk(Fault(1, Kind.SILENT)), tmp_path)
    assert (tmp_path / "g" / "a").read_bytes() == b"01234"


def test_a_full_disk_stays_full(tmp_path: Path) -> None:
    disk = FaultyDisk(Fault(0, errno=errno.ENOSPC, lasting=True))
    for _ in range(3):
        with pytest.raises(JournalFailed, match="full"):
            disk.write(tmp_path / "a", b"x")
    assert disk.names(tmp_path) == []


@pytest.mark.parametrize(
    ("loss", "left"),
    [
        (Loss.NOTHING, {"g/a": b"0123456789", "g/b": b"unsynced"}),
        (Loss.BYTES, {"g/a": b"0123456789", "g/b": b""}),
        (Loss.NAMES, {}),
        (Loss.ALL, {}),
    ],
)
def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path, loss: Loss, left: dict[str, bytes]) -> None:
    disk = FaultyDisk()
    work(disk, tmp_path)
    disk.write(tmp_path / "g" / "b", b"unsynced")
    disk.power_cut(loss)
    found = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == left
    with pytest.raises(Died):
        disk.names(tmp_path)


def test_a_power_cut_takes_nothing_that_was_synced(tmp_path: Path) -> None:
    disk = FaultyDisk()
    work(disk, tmp_path)
    disk.sync_folder(tmp_path / "g")
    disk.sync_folder(tmp_path)
    disk.power_cut()
    assert (tmp_path / "g" / "a").read_bytes() == b"0123456789"


def test_a_power_cut_undoes_names_in_the_right_order(tmp_path: Path) -> None:
    """Removed, renamed and replaced, none of it synced: all as before."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x").write_bytes(b"x")
    disk = FaultyDisk()
    disk.rename(tmp_path / "a", tmp_path / "b")
    disk.rename(tmp_path / "f", tmp_path / "gone")
    disk.remove_folder(tmp_path / "gone")
    disk.write(tmp_path / "b", b"over")
    assert disk.names(tmp_path) == ["b"]
    disk.power_cut()
    found = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"a": b"a", "b": b"b", "f/x": b"x"}


def test_what_went_with_its_folder_does_not_come_back(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x").write_bytes(b"x")
    disk = FaultyDisk()
    disk.remove_folder(tmp_path / "f")
    disk.sync_folder(tmp_path)
    disk.power_cut()
    assert os.listdir(tmp_path) == []


def test_a_sync_that_failed_once_has_lost_the_bytes_for_good(tmp_path: Path) -> None:
    path = tmp_path / "a"
    disk = FaultyDisk(Fault(1))
    disk.write(path, b"lost")
    with pytest.raises(JournalFailed):
        disk.sync(path)
    disk.sync(path)
    disk.sync_folder(tmp_path)
    disk.power_cut()
    assert path.read_bytes() == b""


def test_written_once_more_they_are_safe(tmp_path: Path) -> None:
    path = tmp_path / "a"
    disk = FaultyDisk(Fault(1))
    disk.write(path, b"lost")
    with pytest.raises(JournalFailed):
        disk.sync(path)
    disk.write(path, b"kept")
    disk.sync(path)
    disk.sync_folder(tmp_path)
    disk.power_cut()
    assert path.read_bytes() == b"kept"
