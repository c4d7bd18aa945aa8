# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One process has a mind: tested with two."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from haloweave.bench.faults import Fault, FaultyDisk
from haloweave.errors import JournalFailed, MindLocked, MindNotFound
from haloweave.journal.lock import MindLock

OWNER = """
import sys
from pathlib import Path
from haloweave.errors import MindLocked
from haloweave.journal.lock import MindLock
try:
    with MindLock(Path(sys.argv[1])):
        print("has it", flush=True)
        sys.stdin.read()
except MindLocked as err:
    print(err, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ada").mkdir()
    return tmp_path / "ada"


@pytest.fixture
def other() -> Iterator[Callable[[Path], tuple[subprocess.Popen[str], str]]]:
    """Starts another process that wants the mind; the process, and the first thing that it says."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", OWNER, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert started[-1].stdout is not None
        return started[-1], started[-1].stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refusal(folder: Path) -> str:
    with pytest.raises(MindLocked) as caught:
        MindLock(folder).acquire()
    return str(caught.value)


def test_another_process_is_refused_and_told_who_has_it(folder: Path, other: Callable) -> None:
    process, said = other(folder)
    assert said == "has it"
    told = refusal(folder)
    since = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    assert re.fullmatch(
        rf"mind 'ada' is in use by process {process.pid} on {re.escape(socket.gethostname())} since {since}; "
        "close it there, or use another mind",
        told,
    )
    process.communicate("")
    with MindLock(folder) as lock:
        assert lock.held
        assert f"in use by process {os.getpid()} on" in other(folder)[1]
    assert other(folder)[1] == "has it"


def test_the_lock_of_a_killed_process_is_taken_over_at_once(folder: Path, other: Callable) -> None:
    process, said = other(folder)
    assert said == "has it"
    process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    process.wait()
    assert json.loads((folder / "owner.json").read_bytes())["pid"] == process.pid
    with MindLock(folder):
        assert json.loads((folder / "owner.json").read_bytes())["pid"] == os.getpid()


def test_the_same_process_is_refused_as_well(folder: Path) -> None:
    with MindLock(folder) as lock:
        assert f"process {os.getpid()}" in refusal(folder)
        with pytest.raises(MindLocked):
            lock.acquire()
        assert lock.held
        refusal(folder)
    with MindLock(folder):
        pass


def test_a_refusal_leaves_the_owner_in_peace(folder: Path, other: Callable) -> None:
    process, _ = other(folder)
    before = (folder / "owner.json").read_bytes()
    lock = MindLock(folder)
    for _ in range(2):
        with pytest.raises(MindLocked):
            lock.acquire()
        lock.release()
    assert (folder / "owner.json").read_bytes() == before
    assert f"process {process.pid}" in refusal(folder)


def test_another_thread_may_let_go(folder: Path) -> None:
    lock = MindLock(folder)
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert not lock.held
    with MindLock(folder):
        pass


def test_letting_go_leaves_no_owner_and_may_be_done_twice(folder: Path) -> None:
    lock = MindLock(folder)
    with lock:
        assert (folder / "owner.json").exists()
    lock.release()
    assert not (folder / "owner.json").exists()
    with lock:
        refusal(folder)


@pytest.mark.parametrize(
    "owner",
    [
        None,
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"3",
        b"{}",
        b'{"pid": "x", "host": "h", "since": "s"}',
        b'{"pid": 1e999, "host": "h", "since": "s"}',
        b'{"pid": 1, "host": "h\\u001b[31m", "since": "s"}',
        b"[" * 100_000,
    ],
)
def test_where_the_owner_cannot_be_read_less_is_said(folder: Path, owner: bytes | None) -> None:
    with MindLock(folder):
        (folder / "owner.json").unlink()
        if owner is not None:
            (folder / "owner.json").write_bytes(owner)
        assert refusal(folder) == "mind 'ada' is in use; close it there, or use another mind"


def test_what_others_wrote_is_cut_short(folder: Path) -> None:
    with MindLock(folder):
        (folder / "owner.json").write_text(
            json.dumps({"pid": 1, "host": "h" * 10_000, "since": "s" * 10_000})
        )
        assert len(refusal(folder)) < 250


def test_a_full_disk_keeps_nobody_from_his_mind(folder: Path, other: Callable) -> None:
    """Only the note of who it is is missing."""
    disk = FaultyDisk(Fault(1, errno=errno.ENOSPC, lasting=True))
    with MindLock(folder, disk=disk):
        assert other(folder)[1] == "mind 'ada' is in use; close it there, or use another mind"
    assert ("write", folder / "owner.json") in disk.log


def test_no_folder_no_mind(tmp_path: Path) -> None:
    with pytest.raises(MindNotFound, match="'nobody'"):
        MindLock(tmp_path / "nobody").acquire()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_made_is_told_in_words(folder: Path) -> None:
    (folder / "lock").mkdir()
    with pytest.raises(JournalFailed, match="cannot lock"):
        MindLock(folder).acquire()
