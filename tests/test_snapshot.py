# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Snapshots: whole or not there, whatever happens meanwhile; and refused if anything is wrong with them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haloweave.bench.faults import Died, Fault, FaultyDisk, Kind, Loss
from haloweave.errors import Interrupted, InvalidInput, JournalFailed
from haloweave.journal.base import Checkpoint, State, Totals, Turn
from haloweave.journal.manifest import VERSION, FileMark, Manifest, digest_of
from haloweave.journal.snapshot import Kept, Shelf, Snapshot, SnapshotRefused
from haloweave.memory.tokens import Source, Tokens, View

MAKER = {"model": "tiny", "tokenizer": "bytes", "dtype": "float32"}
PART = 2048
"""Bytes in a file: so a snapshot here has several."""


def state_of(seq: int, *, logits: bool = True, stale: bool = False) -> State:
    """A state that tells which snapshot it is in every number."""
    rng = np.random.default_rng(seq)
    image = {
        "keys.0.float32": rng.standard_normal((2, 20, 8), np.float32),
        "values.0.bfloat16": rng.integers(0, 2**16, (2, 20, 8), np.uint16),
        "norms.0.float32": rng.standard_normal((2, 20), np.float32)[:, ::-1],
        "keys.1.float32": rng.standard_normal((2, 20, 8), np.float32),
        "count": np.array(seq, np.int64),
        "none": np.empty((2, 0, 8), np.float16),
    }
    tokens = Tokens.make(
        rng.integers(0, 256, 20).tolist(), first_uid=0, source=Source.USER, brightness=9.0, tick=1
    )
    checkpoint = Checkpoint(View(tokens, revision=seq + 3, tick=seq + 1, next_uid=20), Turn(), Totals())
    return State(checkpoint, image, rng.standard_normal(50).astype(np.float32) if logits else None, stale)


def put(shelf: Shelf, seq: int, **given: Any) -> Snapshot:
    return shelf.put(seq, state_of(seq, **given), MAKER)


def assert_is(kept: Kept, state: State) -> None:
    assert kept.image.keys() == state.image.keys()
    for name, array in state.image.items():
        got = kept.image[name]
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert kept.stale == state.stale
    if state.logits is None:
        assert kept.logits is None
    else:
        assert kept.logits is not None
        assert kept.logits.tobytes() == state.logits.tobytes()


def refusal(shelf: Shelf, snapshot: Snapshot, maker: dict[str, str] = MAKER) -> str:
    with pytest.raises(SnapshotRefused) as caught:
        shelf.read(snapshot, maker)
    assert f"snapshot {snapshot.folder.name}: " in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module", autouse=True)
def _no_waiting() -> Iterator[None]:
    """What a power cut takes is simulated: nothing here has to reach a platter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "snapshots", part_bytes=PART)


# ---- put, all, read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("stale", [True, False])
def test_what_is_put_comes_back_to_the_last_bit(shelf: Shelf, logits: bool, stale: bool) -> None:
    state = state_of(7, logits=logits, stale=stale)
    before = {name: array.copy() for name, array in state.image.items()}
    snapshot = shelf.put(7, state, MAKER)
    assert (snapshot.seq, snapshot.tick, snapshot.revision, snapshot.rows) == (7, 8, 10, 20)
    assert shelf.all() == [snapshot]
    assert_is(shelf.read(snapshot, MAKER, state.checkpoint), state)
    for name, array in before.items():
        assert np.array_equal(state.image[name], array)


def test_a_snapshot_lies_in_several_files_and_nothing_else_is_left(shelf: Shelf, tmp_path: Path) -> None:
    snapshot = put(shelf, 1)
    names = sorted(p.name for p in snapshot.folder.iterdir())
    assert names[-2:] == ["logits.safetensors", "manifest.json"]
    assert len(names) >= 4
    assert [p.name for p in (tmp_path / "snapshots").iterdir()] == ["1"]
    assert snapshot.size == sum((snapshot.folder / n).stat().st_size for n in names if n != "manifest.json")


@pytest.mark.parametrize("part", [1, 300, 10**9])
def test_the_size_of_the_parts_changes_nothing(tmp_path: Path, part: int) -> None:
    writing = Shelf(tmp_path / "s", part_bytes=part)
    snapshot = put(writing, 1)
    assert_is(Shelf(tmp_path / "s").read(snapshot, MAKER), state_of(1))


def test_an_empty_image_is_an_image(shelf: Shelf) -> None:
    snapshot = shelf.put(1, replace(state_of(1, logits=False), image={}), MAKER)
    assert shelf.read(snapshot, MAKER) == ({}, None, False)


def test_the_newest_come_first_and_only_so_many_are_kept(tmp_path: Path) -> None:
    for keep in (1, 2, 3):
        shelf = Shelf(tmp_path / str(keep), keep=keep, part_bytes=PART)
        for seq in (3, 9, 10, 200):
            put(shelf, seq)
        assert [s.seq for s in shelf.all()] == [200, 10, 9, 3][:keep]
        assert sorted(p.name for p in (tmp_path / str(keep)).iterdir()) == sorted(
            str(s) for s in [200, 10, 9, 3][:keep]
        )


def test_snapshots_of_an_undone_future_go_and_the_new_one_stays(shelf: Shelf) -> None:
    """A journal put back from a backup has fewer records than its snapshots know of."""
    for seq in (100, 500):
        put(shelf, seq)
    put(shelf, 120)
    assert [s.seq for s in shelf.all()] == [120, 100]


def test_a_snapshot_of_the_same_number_takes_the_place_of_the_first(shelf: Shelf) -> None:
    first = put(shelf, 5)
    second = shelf.put(5, replace(state_of(5), stale=True), MAKER)
    third = shelf.put(5, replace(state_of(5), logits=None), MAKER)
    assert [s.folder.name for s in shelf.all()] == ["5.2", "5.1"]
    assert shelf.read(third, MAKER).logits is None
    assert shelf.read(second, MAKER).stale
    assert "not there" in refusal(shelf, first)
    shelf.clear(5)
    assert shelf.all() == [third]


def test_unreadable_ones_do_not_count_among_the_kept(shelf: Shelf) -> None:
    good, bad = put(shelf, 1), put(shelf, 2)
    (bad.folder / "manifest.json").write_bytes(b"")
    put(shelf, 3)
    assert [s.seq for s in shelf.all()] == [3, 1]
    assert_is(shelf.read(good, MAKER), state_of(1))
    assert not bad.folder.exists()


def test_all_lists_what_is_named_by_a_number_and_has_a_manifest(shelf: Shelf, tmp_path: Path) -> None:
    put(shelf, 4)
    snapshots = tmp_path / "snapshots"
    for name in ("notes", "-3", "04", "4.0", "1e3", "٤", "99999999999999999999", "4x"):
        shutil.copytree(snapshots / "4", snapshots / name)
    (snapshots / "5").mkdir()
    (snapshots / "6").write_bytes(b"a file")
    shutil.copytree(snapshots / "4", snapshots / "7")
    assert [s.seq for s in shelf.all()] == [4]
    told = shelf.complaints()
    assert [t.split(":")[0] for t in told] == ["snapshot 7", "snapshot 6", "snapshot 5"]
    assert "it says that it is 4" in told[0]
    assert "not there" in told[2]


def test_peek_makes_and_sweeps_nothing(shelf: Shelf, tmp_path: Path) -> None:
    assert Shelf.peek(tmp_path / "no") == []
    assert not (tmp_path / "no").exists()
    snapshot = put(shelf, 4)
    (tmp_path / "snapshots" / ".new-5").mkdir()
    assert Shelf.peek(tmp_path / "snapshots") == [snapshot]
    assert (tmp_path / "snapshots" / ".new-5").exists()


def test_opening_sweeps_what_dead_writers_left_and_nothing_else(tmp_path: Path) -> None:
    put(Shelf(tmp_path / "s"), 4)
    for name in (".new-5", ".gone-3", ".new-6", "notes"):
        shutil.copytree(tmp_path / "s" / "4", tmp_path / "s" / name)
    Shelf(tmp_path / "s")
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["4", "notes"]


def test_clear_leaves_one_or_none(shelf: Shelf, tmp_path: Path) -> None:
    for seq in (1, 2):
        put(shelf, seq)
    (tmp_path / "snapshots" / ".new-3").mkdir()
    (tmp_path / "snapshots" / "stray").write_bytes(b"x")
    shelf.clear(2)
    assert [p.name for p in (tmp_path / "snapshots").iterdir()] == ["2"]
    assert_is(shelf.read(shelf.all()[0], MAKER), state_of(2))
    shelf.clear(None)
    assert list((tmp_path / "snapshots").iterdir()) == []
    shelf.clear(9)
    assert shelf.all() == []


def test_a_put_may_be_broken_off_between_files(shelf: Shelf, tmp_path: Path) -> None:
    put(shelf, 1)
    asked = 0

    def after(n: int) -> Callable[[], bool]:
        def cancelled() -> bool:
            nonlocal asked
            asked += 1
            return asked > n

        return cancelled

    broken_off = 0
    for n in range(100):
        asked = 0
        try:
            shelf.put(2, state_of(2), MAKER, after(n))
            break
        except Interrupted:
            broken_off += 1
        assert [p.name for p in (tmp_path / "snapshots").iterdir()] == ["1"]
    assert broken_off == len(_files_of(shelf.all()[0])) * 2 - 1, (
        "asked once for each file written and read back"
    )
    assert [s.seq for s in shelf.all()] == [2, 1]


def test_a_put_runs_on_another_thread(shelf: Shelf) -> None:
    done: list[Snapshot] = []
    thread = threading.Thread(target=lambda: done.append(put(shelf, 3)))
    thread.start()
    thread.join()
    assert_is(shelf.read(done[0], MAKER), state_of(3))


@pytest.mark.parametrize(
    "image",
    [{"a": np.array(["text"])}, {"a": np.array([object()])}, {"__metadata__": np.zeros(3)}],
    ids=["text", "object", "reserved"],
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(
    shelf: Shelf, tmp_path: Path, image: dict[str, np.ndarray]
) -> None:
    put(shelf, 1)
    with pytest.raises(InvalidInput):
        shelf.put(2, replace(state_of(2), image=image), MAKER)
    assert [p.name for p in (tmp_path / "snapshots").iterdir()] == ["1"]


@pytest.mark.parametrize("given", [{"keep": 0}, {"part_bytes": 0}])
def test_a_shelf_without_room_is_refused(tmp_path: Path, given: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        Shelf(tmp_path / "s", **given)  # type: ignore[arg-type]


# ---- whose it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (MAKER | {"dtype": "bfloat16"}, ["dtype was float32, is bfloat16"]),
        (
            MAKER | {"model": "big", "tokenizer": "bpe"},
            ["model was tiny, is big", "tokenizer was bytes, is bpe"],
        ),
        (MAKER | {"template": "chatml"}, ["template was not known, is chatml"]),
        ({"model": "tiny", "tokenizer": "bytes"}, ["dtype was float32, is not known"]),
    ],
)
def test_each_difference_in_what_made_it_is_named(
    shelf: Shelf, now: dict[str, str], words: list[str]
) -> None:
    told = refusal(shelf, put(shelf, 1), now)
    for word in words:
        assert word in told
    assert told.count(" was ") == len(words)


def test_a_snapshot_of_another_past_is_refused(shelf: Shelf) -> None:
    """The same number in another history: a journal was restored from a backup, and went on differently."""
    state = state_of(5)
    snapshot = shelf.put(5, state, MAKER)
    view = state.checkpoint.view
    dimmer = view.tokens.replace(brightness=view.tokens.brightness - np.float32(1e-5))
    for other in (replace(view, tick=view.tick + 1), replace(view, tokens=dimmer)):
        with pytest.raises(SnapshotRefused, match="another past"):
            shelf.read(snapshot, MAKER, replace(state.checkpoint, view=other))
    shelf.read(snapshot, MAKER, state.checkpoint)


def test_a_snapshot_that_was_replaced_since_it_was_listed_is_refused(shelf: Shelf) -> None:
    old = put(shelf, 5)
    shelf.clear(None)
    shelf.put(5, replace(state_of(5), logits=None), MAKER)
    assert "another one has taken its place" in refusal(shelf, old)


# ---- damage ------------------------------------------------------------------------------------------


def _files_of(snapshot: Snapshot) -> list[Path]:
    return sorted(snapshot.folder.iterdir())


def test_truncated_longer_and_empty_files_are_refused(shelf: Shelf) -> None:
    snapshot = put(shelf, 1)
    for path in _files_of(snapshot):
        data = path.read_bytes()
        for damaged in (
            b"",
            data[:1],
            data[:-1],
            data[: len(data) // 2],
            data + b"\0",
            data + b" ",
            data * 2,
        ):
            path.write_bytes(damaged)
            refusal(shelf, snapshot)
        path.write_bytes(data)
        shelf.read(snapshot, MAKER)


def test_missing_and_foreign_files_are_refused(shelf: Shelf) -> None:
    snapshot = put(shelf, 1)
    for path in _files_of(snapshot):
        path.rename(path.with_name("elsewhere"))
        assert path.name in refusal(shelf, snapshot)
        path.with_name("elsewhere").rename(path)
    (snapshot.folder / "extra").write_bytes(b"")
    assert "extra" in refusal(shelf, snapshot)
    (snapshot.folder / "extra").unlink()
    shelf.read(snapshot, MAKER)


def test_files_that_changed_places_are_refused(shelf: Shelf) -> None:
    one, two = put(shelf, 1), put(shelf, 2)
    shutil.copy(one.folder / "kv-000.safetensors", two.folder / "kv-000.safetensors")
    assert "changed since" in refusal(shelf, two)
    shutil.copy(one.folder / "manifest.json", two.folder / "manifest.json")
    assert "it says that it is 1" in refusal(shelf, two)


def test_a_file_that_cannot_be_read_is_a_reason(shelf: Shelf, tmp_path: Path) -> None:
    snapshot = put(shelf, 1)
    reads = FaultyDisk()
    Shelf(tmp_path / "snapshots", disk=reads).read(snapshot, MAKER)
    first = reads.log.index(("read", snapshot.folder / "kv-000.safetensors"))
    broken = Shelf(tmp_path / "snapshots", disk=FaultyDisk(Fault(first)))
    assert "cannot read" in refusal(broken, snapshot)


@given(data=st.data())
def test_any_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flip")
    shelf = Shelf(folder / "s", part_bytes=PART)
    snapshot = put(shelf, 1)
    path = data.draw(st.sampled_from(_files_of(snapshot)))
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))
    refusal(shelf, snapshot)
    shutil.rmtree(folder)


@given(
    junk=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_junk_is_taken_for_a_manifest(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("junk")
    (folder / "1").mkdir()
    (folder / "1" / "manifest.json").write_bytes(junk)
    shelf = Shelf(folder)
    assert shelf.all() == []
    assert len(shelf.complaints()) == 1
    refusal(shelf, Snapshot(1, 1, 1, 1, folder / "1", 1))
    shutil.rmtree(folder)


def _forge(snapshot: Snapshot, **changes: Any) -> None:
    """A manifest with a hash that is right, by somebody who knows how."""
    path = snapshot.folder / "manifest.json"
    body = json.loads(path.read_bytes())
    del body["sha256"]
    body.update(changes)

    def dumped() -> bytes:
        return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"

    body["sha256"] = hashlib.sha256(dumped()).hexdigest()
    path.write_bytes(dumped())


@pytest.mark.parametrize("version", [0, VERSION + 1, 10**30, "1", None, [1], 1.0, True])
def test_another_version_is_refused_by_name(shelf: Shelf, version: Any) -> None:
    snapshot = put(shelf, 1)
    _forge(snapshot, version=version)
    told = refusal(shelf, snapshot)
    if version not in (1.0, True):
        assert f"written as version {version!r}, this program reads {VERSION}" in told
    assert shelf.all() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": "1"},
        {"stale": 0},
        {"rows": True},
        {"rows": None},
        {"mirror": 1},
        {"fingerprint": []},
        {"fingerprint": {"model": 1}},
        {"files": 3},
        {"files": [{}]},
        {"files": [{"name": "../../secret", "size": 1, "sha256": ""}]},
        {"files": [{"name": "/etc/passwd", "size": 1, "sha256": ""}]},
        {"files": [{"name": 1, "size": 1, "sha256": ""}]},
        {"format": "something else"},
        {"more": 1},
    ],
)
def test_forged_manifests_are_refused(shelf: Shelf, changes: dict[str, Any]) -> None:
    snapshot = put(shelf, 1)
    _forge(snapshot)
    shelf.read(snapshot, MAKER)
    _forge(snapshot, **changes)
    refusal(shelf, snapshot)
    assert shelf.all() == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 0xFFFFFFF0) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 2) + b"{}" + b"trailing",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 63) + b'{"a":{"dtype":"F32","shape":[9999999],"data_offsets":[0,4]}}   ' + b"1234",
        struct.pack("<Q", 59) + b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}    ' + b"1234",
    ],
    ids=["empty", "short", "4 GB header", "2**64 header", "trailing", "list", "lying shape", "no such dtype"],
)
def test_a_bad_safetensors_file_is_refused_even_with_the_right_hash(shelf: Shelf, data: bytes) -> None:
    snapshot = put(shelf, 1)
    path = snapshot.folder / "kv-000.safetensors"
    path.write_bytes(data)
    files = json.loads((snapshot.folder / "manifest.json").read_bytes())["files"]
    files[0] = vars(FileMark.of(path.name, data))
    _forge(snapshot, files=files)
    (listed,) = shelf.all()
    assert "is no safetensors file" in refusal(shelf, listed)


def test_manifest_and_bytes_are_one() -> None:
    view = state_of(1).checkpoint.view
    made = Manifest(1, 2, 3, 4, True, digest_of(view), {"model": "ü"}, (FileMark.of("a", b"abc"),))
    assert Manifest.from_bytes(made.to_bytes()) == made
    assert made.size == 3
    assert made.files[0].misfit(b"abc") is None
    assert made.files[0].misfit(b"abd") is not None


# ---- crashes, at every operation -----------------------------------------------------------------------


OLD, NEW = 10, 20
FAULTS = [
    *[(Kind.DEATH, 0, False, loss) for loss in (Loss.NOTHING, Loss.BYTES, Loss.NAMES, Loss.ALL)],
    *[(Kind.TORN_DEATH, 0, False, loss) for loss in (Loss.NOTHING, Loss.ALL)],
    *[(Kind.ERROR, errno.EIO, False, loss) for loss in (Loss.NOTHING, Loss.ALL)],
    (Kind.TORN, errno.ENOSPC, True, Loss.NOTHING),
    (Kind.ERROR, errno.EROFS, True, Loss.NOTHING),
    (Kind.SILENT, 0, False, Loss.NOTHING),
]


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shelf with two snapshots, so that a third makes one go."""
    folder = tmp_path_factory.mktemp("stocked")
    shelf = Shelf(folder / "s", part_bytes=PART)
    for seq in (5, OLD):
        put(shelf, seq)
    return folder / "s"


def attempt(disk: FaultyDisk, folder: Path, act: Callable[[Shelf], Any]) -> str:
    """How it went; a power cut if it ended in death."""
    try:
        act(Shelf(folder, disk=disk, part_bytes=PART))
    except Died:
        return "died"
    except JournalFailed:
        return "failed"
    return "done"


@pytest.mark.parametrize(("kind", "code", "lasting", "loss"), FAULTS)
def test_wherever_it_stops_the_new_one_is_whole_or_the_old_one(
    stocked: Path, tmp_path: Path, kind: Kind, code: int, lasting: bool, loss: Loss
) -> None:
    outcomes = set()
    at = 0
    while True:
        folder = tmp_path / f"{at}"
        shutil.copytree(stocked, folder)
        disk = FaultyDisk(Fault(at, kind, code, lasting))
        outcome = attempt(disk, folder, lambda shelf: put(shelf, NEW))
        if disk.operations <= at:
            break
        if loss or outcome == "died":
            disk.power_cut(loss)
        shelf = Shelf(folder, part_bytes=PART)
        newest = shelf.all()[0]
        assert newest.seq in (OLD, NEW), f"operation {at}, {disk.log[at]}"
        if outcome == "done":
            assert newest.seq == NEW, f"operation {at}, {disk.log[at]}: acknowledged, and lost"
        assert_is(shelf.read(newest, MAKER), state_of(newest.seq))
        for other in shelf.all()[1:]:
            try:
                kept = shelf.read(other, MAKER)
            except SnapshotRefused:
                assert loss & Loss.NAMES, "nothing half removed is ever listed, unless names come back"
                assert newest.seq == NEW, "only what had to go may be damaged"
            else:
                assert_is(kept, state_of(other.seq))
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
        put(shelf, NEW + 1)
        assert shelf.all()[0].seq == NEW + 1
        outcomes.add((outcome, newest.seq))
        shutil.rmtree(folder)
        at += 1
    assert at > 30
    expected = {
        Kind.DEATH: {("died", OLD), ("died", NEW)},
        Kind.TORN_DEATH: {("died", OLD), ("died", NEW)},
        Kind.ERROR: {("failed", OLD), ("failed", NEW)},
        Kind.TORN: {("failed", OLD), ("failed", NEW)},
        Kind.SILENT: {("failed", OLD), ("done", NEW)},
    }[kind]
    assert outcomes == expected


@pytest.mark.parametrize("loss", [Loss.NOTHING, Loss.BYTES, Loss.NAMES, Loss.ALL])
def test_the_first_snapshot_is_whole_or_not_there(tmp_path: Path, loss: Loss) -> None:
    at, seen = 0, set()
    while True:
        folder = tmp_path / f"{at}" / "s"
        folder.parent.mkdir()
        disk = FaultyDisk(Fault(at, Kind.TORN_DEATH))
        outcome = attempt(disk, folder, lambda shelf: put(shelf, 1))
        if outcome == "done":
            disk.power_cut(loss)
            assert [s.seq for s in Shelf.peek(folder)] == [1], "done, and not for good"
            break
        disk.power_cut(loss)
        shelf = Shelf(folder, part_bytes=PART)
        seen.add(len(shelf.all()))
        for snapshot in shelf.all():
            assert_is(shelf.read(snapshot, MAKER), state_of(1))
        at += 1
    assert seen == {0, 1}


@pytest.mark.parametrize("loss", [Loss.NOTHING, Loss.ALL])
def test_a_second_snapshot_of_one_number_never_costs_the_first(tmp_path: Path, loss: Loss) -> None:
    first, second = state_of(1), replace(state_of(1), stale=True)
    at, seen = 0, set()
    while True:
        folder = tmp_path / f"{at}"
        Shelf(folder, part_bytes=PART).put(1, first, MAKER)
        disk = FaultyDisk(Fault(at, Kind.TORN_DEATH))
        outcome = attempt(disk, folder, lambda shelf: shelf.put(1, second, MAKER))
        if outcome == "done":
            break
        disk.power_cut(loss)
        shelf = Shelf(folder, part_bytes=PART)
        kept = shelf.read(shelf.all()[0], MAKER)
        assert_is(kept, second if kept.stale else first)
        seen.add(kept.stale)
        at += 1
    assert seen == {True, False}


def test_a_sync_that_fails_once_costs_the_snapshot_and_is_not_tried_again(
    stocked: Path, tmp_path: Path
) -> None:
    """After a failed sync the kernel calls the lost bytes clean: the file may never be synced again."""
    trial = FaultyDisk()
    attempt(trial, Path(shutil.copytree(stocked, tmp_path / "trial")), lambda shelf: put(shelf, NEW))
    syncs = [n for n, (doing, _) in enumerate(trial.log) if doing == "sync"]
    assert len(syncs) >= 4
    for at in syncs:
        folder = Path(shutil.copytree(stocked, tmp_path / f"{at}"))
        disk = FaultyDisk(Fault(at))
        shelf = Shelf(folder, disk=disk, part_bytes=PART)
        with pytest.raises(JournalFailed, match="cannot sync"):
            put(shelf, NEW)
        path = disk.log[at][1]
        assert ("sync", path) not in disk.log[at + 1 :]
        assert [s.seq for s in shelf.all()] == [OLD, 5]
        assert sorted(p.name for p in folder.iterdir()) == ["10", "5"]
        put(shelf, NEW)
        disk.power_cut()
        assert_is(Shelf(folder).read(Shelf(folder).all()[0], MAKER), state_of(NEW))


def test_a_full_disk_costs_the_snapshot_and_the_half_is_removed(stocked: Path, tmp_path: Path) -> None:
    trial = FaultyDisk()
    attempt(trial, Path(shutil.copytree(stocked, tmp_path / "trial")), lambda shelf: put(shelf, NEW))
    writes = [n for n, (doing, _) in enumerate(trial.log) if doing in ("write", "make_folder")]
    for at in writes:
        folder = Path(shutil.copytree(stocked, tmp_path / f"{at}"))
        shelf = Shelf(
            folder, disk=FaultyDisk(Fault(at, Kind.TORN, errno.ENOSPC, lasting=True)), part_bytes=PART
        )
        for _ in range(2):
            with pytest.raises(JournalFailed, match="the disk is full; free some space"):
                put(shelf, NEW)
        assert sorted(p.name for p in folder.iterdir()) == ["10", "5"]
        assert_is(shelf.read(shelf.all()[0], MAKER), state_of(OLD))


@pytest.mark.parametrize("kind", [Kind.DEATH, Kind.ERROR])
@pytest.mark.parametrize("loss", [Loss.NOTHING, Loss.NAMES])
def test_a_clearing_that_stops_anywhere_is_finished_by_the_next(
    stocked: Path, tmp_path: Path, kind: Kind, loss: Loss
) -> None:
    at = 0
    while True:
        folder = Path(shutil.copytree(stocked, tmp_path / f"{at}"))
        disk = FaultyDisk(Fault(at, kind))
        outcome = attempt(disk, folder, lambda shelf: shelf.clear(OLD))
        if outcome == "done":
            disk.power_cut()
            assert [p.name for p in folder.iterdir()] == [f"{OLD}"], "done, and not for good"
            break
        disk.power_cut(loss)
        shelf = Shelf(folder, part_bytes=PART)
        assert shelf.all()[0].seq == OLD
        assert_is(shelf.read(shelf.all()[0], MAKER), state_of(OLD))
        shelf.clear(OLD)
        assert [p.name for p in folder.iterdir()] == [f"{OLD}"]
        at += 1
    assert at > 5
