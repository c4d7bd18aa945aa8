# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Rows of culled tokens: back byte for byte or not at all, within the quota, and never after a redaction."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haloweave.errors import InvalidInput, JournalFailed
from haloweave.journal import rows as rows_module
from haloweave.journal.rows import RowStore
from haloweave.memory.rows import SavedRows

MB = 1 << 20


def rows_of(uids: Sequence[int], version: int = 0) -> SavedRows:
    """Rows that tell in every byte whose they are, and of which time."""
    each = [np.random.default_rng([uid, version]) for uid in uids]
    return SavedRows(
        np.array([uid + 100 * version for uid in uids], np.int64),
        {
            "keys.0.float32": np.stack([r.standard_normal((3, 16), np.float32) for r in each]),
            "values.0.bfloat16": np.stack([r.integers(0, 2**16, (3, 16), np.uint16) for r in each]),
            "norms.0.float32": np.stack([r.standard_normal(3, np.float32) for r in each]),
        },
    )


def same(a: SavedRows | None, b: SavedRows) -> bool:
    return (
        a is not None
        and a.positions.tobytes() == b.positions.tobytes()
        and a.columns.keys() == b.columns.keys()
        and all(
            (a.columns[n].dtype, a.columns[n].shape, a.columns[n].tobytes())
            == (b.columns[n].dtype, b.columns[n].shape, b.columns[n].tobytes())
            for n in a.columns
        )
    )


@pytest.fixture(scope="module", autouse=True)
def _no_waiting() -> Iterator[None]:
    """No test here cuts the power: nothing has to reach a platter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_SETTINGS", rows_module._SETTINGS.replace("NORMAL", "OFF"))
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.db"


@pytest.fixture
def store(path: Path) -> Iterator[RowStore]:
    store = RowStore(path, MB)
    yield store
    store.close()


def one_size(path: Path) -> int:
    """Bytes of an entry of 8 rows."""
    store = RowStore(path.with_name("probe.db"), MB)
    store.put(range(8), rows_of(range(8)))
    size = store.size()
    store.close()
    return size


# ---- put, get, fetch ---------------------------------------------------------------------------------


def test_what_is_put_comes_back_to_the_last_bit(path: Path) -> None:
    uids = [3, 4, 5, 90, 7]
    store = RowStore(path, MB)
    number = store.put(uids, rows_of(uids))
    assert number > 0
    for _ in range(2):
        assert same(store.get(number), rows_of(uids))
        found = store.fetch(uids)
        assert found is not None
        assert found[0] == number
        assert same(found[1], rows_of(uids))
        store.close()
        store = RowStore(path, MB)
    assert store.notices() == []
    store.close()


def test_nothing_is_there_that_was_not_put(store: RowStore) -> None:
    store.put([1, 2], rows_of([1, 2]))
    assert store.get(12345) is None
    assert store.fetch([3]) is None
    assert store.fetch([1, 2, 3]) is None
    assert store.fetch([]) is None


def test_a_part_or_another_order_is_a_new_entry_with_a_number_of_its_own(store: RowStore) -> None:
    first = store.put([1, 2, 3, 4], rows_of([1, 2, 3, 4]))
    for uids in ([2, 3], [4, 3, 2, 1], [3]):
        found = store.fetch(uids)
        assert found is not None
        number, rows = found
        assert number != first
        assert same(rows, rows_of(uids))
        assert same(store.get(number), rows_of(uids))
        assert store.fetch(uids) is not None
        assert store.fetch(uids)[0] == number  # type: ignore[index]


def test_rows_are_gathered_from_where_they_are_newest(store: RowStore) -> None:
    store.put([1, 2, 3], rows_of([1, 2, 3], 0))
    store.put([3, 4], rows_of([3, 4], 1))
    store.put([2], rows_of([2], 2))
    found = store.fetch([4, 2, 1, 3])
    assert found is not None
    expected = SavedRows.concat([rows_of([4], 1), rows_of([2], 2), rows_of([1], 0), rows_of([3], 1)])
    assert same(found[1], expected)
    assert same(store.get(found[0]), expected)


def test_an_entry_with_all_of_them_is_not_taken_for_the_newest_of_each(store: RowStore) -> None:
    for version in range(0, 20, 2):  # numbers are hashes: they come in any order
        store.put([1, 2], rows_of([1, 2], version))
        store.put([1], rows_of([1], version + 1))
        found = store.fetch([1, 2])
        assert found is not None
        expected = SavedRows.concat([rows_of([1], version + 1), rows_of([2], version)])
        assert same(found[1], expected)
        assert same(store.get(found[0]), expected)


@given(data=st.data())
def test_the_newest_rows_of_any_uids_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Against a dictionary."""
    uids = st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True)
    store = RowStore(tmp_path_factory.mktemp("rows") / "rows.db", 64 * MB)
    newest: dict[int, int] = {}
    for version in range(data.draw(st.integers(1, 6))):
        chosen = data.draw(uids)
        store.put(chosen, rows_of(chosen, version))
        newest |= dict.fromkeys(chosen, version)
    wanted = data.draw(uids)
    found = store.fetch(wanted)
    if all(uid in newest for uid in wanted):
        assert found is not None
        expected = SavedRows.concat([rows_of([uid], newest[uid]) for uid in wanted])
        assert same(found[1], expected)
        assert same(store.get(found[0]), expected)
    else:
        assert found is None
    store.close()


def test_the_same_rows_again_are_the_same_entry_and_the_newest(store: RowStore) -> None:
    first = store.put([1, 2], rows_of([1, 2], 0))
    store.put([1, 2], rows_of([1, 2], 1))
    size = store.size()
    assert store.put([1, 2], rows_of([1, 2], 0)) == first
    assert store.size() == size
    found = store.fetch([1, 2])
    assert found is not None
    assert found[0] == first


def test_a_number_never_means_other_rows(path: Path) -> None:
    """Not even where the newest entry was lost, and others came after."""
    store = RowStore(path, MB)
    lost = store.put([1], rows_of([1], 0))
    store.clear()
    for version in range(1, 5):
        assert store.put([1], rows_of([1], version)) != lost
    assert store.get(lost) is None
    assert store.put([1], rows_of([1], 0)) == lost
    store.close()


def test_rows_of_two_engines_are_not_mixed(store: RowStore) -> None:
    store.put([1], rows_of([1]))
    store.put([2], SavedRows(np.array([2]), {"keys.0.float32": np.zeros((1, 3, 16), np.float32)}))
    store.put([3], SavedRows(np.array([3]), {k: v[..., :2] for k, v in rows_of([3]).columns.items()}))
    assert store.fetch([1, 2]) is None
    assert store.fetch([1, 3]) is None
    assert store.fetch([1]) is not None


@pytest.mark.parametrize(
    ("uids", "rows"),
    [
        ([], rows_of([1]).take([])),
        ([1], rows_of([1, 2])),
        ([1, 1], rows_of([1, 1])),
        ([1, 2], SavedRows(np.array([1, 2]), {"keys": np.zeros((3, 2), np.float32)})),
        ([1], SavedRows(np.array([1]), {"keys": np.array(["text"])})),
    ],
    ids=["none", "too many", "twice", "uneven", "no numbers"],
)
def test_what_is_no_row_for_each_uid_is_refused(store: RowStore, uids: list[int], rows: SavedRows) -> None:
    with pytest.raises(InvalidInput):
        store.put(uids, rows)
    assert store.size() == 0


# ---- the quota ---------------------------------------------------------------------------------------


def put_each(store: RowStore, count: int, start: int = 0) -> list[int]:
    """Entries of 8 rows."""
    runs = [range(8 * n, 8 * n + 8) for n in range(start, start + count)]
    return [store.put(run, rows_of(run)) for run in runs]


def there(store: RowStore, numbers: Sequence[int]) -> list[bool]:
    return [store.get(number) is not None for number in numbers]


def test_the_oldest_make_room(path: Path) -> None:
    size = one_size(path)
    store = RowStore(path, 3 * size)
    numbers = put_each(store, 5)
    assert there(store, numbers) == [False, False, True, True, True]
    assert store.size() == 3 * size
    store.close()


def test_the_files_stay_within_the_quota_too(path: Path) -> None:
    """But for what SQLite's log holds before it is taken over: 4 MB, or one entry."""
    store = RowStore(path, 8 * MB)
    for n in range(60):
        store.put([n], SavedRows(np.array([n]), {"keys": np.full((1, MB // 2), n, np.uint8)}))
        on_disk = sum(p.stat().st_size for p in path.parent.glob("rows.db*"))
        assert on_disk < 8 * MB + 5 * MB
    assert 7 * MB < store.size() <= 8 * MB
    store.close()


def test_held_entries_stay_until_they_are_released(path: Path) -> None:
    size = one_size(path)
    store = RowStore(path, 3 * size)
    a, b = put_each(store, 2)
    assert store.hold(a, 10)
    assert store.hold(b, 5)
    assert store.hold(b, 12)
    assert store.hold(b, 7)
    assert not store.hold(123, 5)
    more = put_each(store, 3, start=2)
    assert there(store, [a, b, *more]) == [True, True, False, False, True]
    store.close()
    store = RowStore(path, 3 * size)
    store.release(12)
    more = put_each(store, 2, start=9)
    assert there(store, [a, b, *more]) == [False, True, True, True]
    store.release(13)
    put_each(store, 1, start=20)
    assert there(store, [b]) == [False]
    store.close()


def test_what_does_not_fit_is_not_kept_and_drives_nothing_out(path: Path) -> None:
    size = one_size(path)
    store = RowStore(path, 2 * size)
    a, b = put_each(store, 2)
    large = range(100, 164)
    assert store.put(large, rows_of(large)) == 0
    assert there(store, [a, b]) == [True, True]
    store.hold(a, 1)
    store.hold(b, 1)
    assert put_each(store, 1, start=5) == [0]
    assert there(store, [a, b]) == [True, True]
    assert store.fetch(range(4, 12)) is None, "gathered, and no room to keep it"
    store.close()


def test_no_quota_keeps_nothing(path: Path) -> None:
    store = RowStore(path, 0)
    assert put_each(store, 1) == [0]
    assert store.size() == 0
    store.close()
    with pytest.raises(InvalidInput):
        RowStore(path, -1)


def test_a_smaller_quota_is_kept_from_the_start(path: Path) -> None:
    size = one_size(path)
    store = RowStore(path, 50 * size)
    numbers = put_each(store, 50)
    store.hold(numbers[0], 1)
    store.close()
    before = path.stat().st_size
    store = RowStore(path, 2 * size)
    assert there(store, numbers) == [True, *[False] * 48, True]
    assert path.stat().st_size < before / 5
    store.close()


def test_rows_of_another_model_are_forgotten_and_it_is_told(path: Path) -> None:
    maker = {"model": "tiny", "dtype": "float32"}
    store = RowStore(path, MB, fingerprint=maker)
    (number,) = put_each(store, 1)
    store.hold(number, 3)
    store.close()
    store = RowStore(path, MB, fingerprint=dict(reversed(maker.items())))
    assert there(store, [number]) == [True]
    assert store.notices() == []
    store.close()
    for _ in range(2):
        store = RowStore(path, MB, fingerprint=maker | {"dtype": "bfloat16"})
        assert there(store, [number]) == [False]
        told = store.notices()
        store.close()
    assert told == [], "told once"
    store = RowStore(path, MB, fingerprint=maker)
    (told,) = [store.notices()]
    assert "another model" in told[0]
    assert store.notices() == []
    store.close()


# ---- redaction ---------------------------------------------------------------------------------------


SECRET = b"\xa5\x5aSECRET-ROWS-\x00\x01\xfe"


def secret_rows(uids: Sequence[int]) -> SavedRows:
    """Rows that can be searched for."""
    marked = np.frombuffer((SECRET * 40)[:600], np.uint8)
    return SavedRows(np.array(uids), {"keys": np.stack([marked] * len(uids))})


def bytes_on_disk(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(path.parent.glob(path.name + "*")))


def plain_rows(uids: Sequence[int]) -> SavedRows:
    return SavedRows(np.array(uids), {"keys": np.zeros((len(uids), 600), np.uint8)})


@pytest.mark.parametrize("reopened", [False, True])
def test_after_a_redaction_no_byte_is_left(path: Path, reopened: bool) -> None:
    store = RowStore(path, MB)
    plain = store.put([1, 2], plain_rows([1, 2]))
    for uids in ([10, 11, 12], [11], [40, 10], [13, 14]):
        store.put(uids, secret_rows(uids))
        store.put([100 + uids[0]], plain_rows([100 + uids[0]]))
    assert store.fetch([12, 10]) is not None
    store.hold(store.put([10], secret_rows([10])), 7)
    if reopened:
        store.close()
        store = RowStore(path, MB)
    assert SECRET in bytes_on_disk(path)
    assert store.remove([10, 11, 12, 99]) == 5
    assert SECRET in bytes_on_disk(path), "13 and 14 were not meant"
    assert store.remove([13, 14]) == 1
    assert SECRET not in bytes_on_disk(path)
    assert store.remove([13, 14]) == 0
    for uid in range(10, 15):
        assert store.fetch([uid]) is None
    assert same(store.get(plain), plain_rows([1, 2]))
    store.close()
    assert SECRET not in bytes_on_disk(path)


def test_evicted_and_replaced_rows_are_gone_as_well(path: Path) -> None:
    size = one_size(path)
    store = RowStore(path, 3 * size)
    store.put([1], secret_rows([1]))
    put_each(store, 6, start=3)
    store.remove([])
    assert SECRET not in bytes_on_disk(path)
    store.close()


def test_what_is_evicted_is_overwritten_at_once(path: Path) -> None:
    store = RowStore(path, 3 * one_size(path))
    store.put([1], secret_rows([1]))
    put_each(store, 6, start=3)
    store.close()
    assert SECRET not in bytes_on_disk(path)


def test_a_redaction_that_was_killed_is_finished_by_the_next(path: Path) -> None:
    """Deleted, but not yet written anew: the bytes are still in the log beside the file."""
    code = (
        "import os, sys; from pathlib import Path; import numpy as np;"
        "from haloweave.journal import rows; from haloweave.memory.rows import SavedRows;"
        "rows.RowStore._compact = lambda self: os._exit(9);"
        "store = rows.RowStore(Path(sys.argv[1]), 1 << 20);"
        "secret = np.frombuffer(bytes.fromhex(sys.argv[2]) * 40, np.uint8)[:600];"
        "store.put([5], SavedRows(np.array([5]), {'keys': secret[None]}));"
        "store.remove([5])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), SECRET.hex()], check=False)
    assert done.returncode == 9
    assert SECRET in bytes_on_disk(path)
    store = RowStore(path, MB)
    assert store.fetch([5]) is None
    store.remove([5])
    assert SECRET not in bytes_on_disk(path)
    store.close()


def test_a_redaction_trusts_no_index(path: Path) -> None:
    store = RowStore(path, MB)
    store.put([5, 6], secret_rows([5, 6]))
    store.close()
    with raw(path) as db:
        db.execute("UPDATE runs SET first = 900, last = 901")
        db.execute("DELETE FROM entries")
    store = RowStore(path, MB)
    assert store.remove([6]) == 1
    assert SECRET not in bytes_on_disk(path)
    store.close()


def test_clear_forgets_everything(path: Path) -> None:
    store = RowStore(path, MB, fingerprint={"model": "tiny"})
    number = store.put([5], secret_rows([5]))
    store.hold(number, 10**9)
    store.clear()
    assert store.get(number) is None
    assert store.size() == 0
    assert SECRET not in bytes_on_disk(path)
    assert store.notices() == []
    store.put([5], secret_rows([5]))
    store.close()
    store = RowStore(path, MB, fingerprint={"model": "tiny"})
    assert store.get(number) is not None
    store.close()


def test_somebody_who_still_reads_makes_a_redaction_fail_aloud(path: Path) -> None:
    store = RowStore(path, MB)
    store.put([5], secret_rows([5]))
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM bodies").fetchall()
    with pytest.raises(JournalFailed, match="cannot redact"):
        store.remove([5])
    reader.execute("COMMIT")
    reader.close()
    store.remove([5])
    assert SECRET not in bytes_on_disk(path)
    store.close()


# ---- damage ------------------------------------------------------------------------------------------


@contextmanager
def raw(path: Path) -> Iterator[apsw.Connection]:
    db = apsw.Connection(str(path))
    yield db
    db.close()


def flip(db: apsw.Connection, number: int) -> None:
    body = bytearray(db.execute("SELECT body FROM bodies WHERE id = ?", (number,)).get)
    body[-5] ^= 16
    db.execute("UPDATE bodies SET body = ? WHERE id = ?", (bytes(body), number))


def test_a_damaged_entry_counts_as_absent(path: Path) -> None:
    store = RowStore(path, MB)
    older, newer, other = (
        store.put([1, 2], rows_of([1, 2], 0)),
        store.put([1, 2], rows_of([1, 2], 1)),
        store.put([3], rows_of([3], 1)),
    )
    store.close()
    with raw(path) as db:
        flip(db, newer)
    store = RowStore(path, MB)
    found = store.fetch([2, 3])
    assert found is not None
    assert same(found[1], SavedRows.concat([rows_of([2], 0), rows_of([3], 1)])), "the older ones will do"
    assert store.damaged == 1
    assert there(store, [older, newer, other]) == [True, False, True]
    assert store.damaged == 1
    assert store.put([1, 2], rows_of([1, 2], 1)) == newer
    assert same(store.get(newer), rows_of([1, 2], 1))
    store.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE bodies SET body = x''",
        "UPDATE bodies SET body = NULL",
        "DELETE FROM bodies",
        "UPDATE runs SET first = first + 40, last = last + 40",
        "UPDATE runs SET last = last + 1",
    ],
)
def test_a_damaged_index_brings_no_wrong_rows(path: Path, sql: str) -> None:
    store = RowStore(path, MB)
    store.put([1, 2], rows_of([1, 2]))
    store.close()
    with raw(path) as db:
        db.execute(sql)
    store = RowStore(path, MB)
    for uids in ([1, 2], [2, 3], [41, 42], [3]):
        found = store.fetch(uids)
        assert found is None or (uids == [1, 2] and same(found[1], rows_of([1, 2])))
    assert store.put([1, 2], rows_of([1, 2]))
    assert store.fetch([2]) is not None
    store.close()


def _newer_version(path: Path) -> None:
    with raw(path) as db:
        db.execute("PRAGMA user_version = 7")


def _other_tables(path: Path) -> None:
    with raw(path) as db:
        db.execute("DROP TABLE runs")


def _no_database(path: Path) -> None:
    path.write_bytes(b"this is no database" * 500)


def _first_page_gone(path: Path) -> None:
    path.write_bytes(b"\0" * 4096 + path.read_bytes()[4096:])


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6000])


@pytest.mark.parametrize(
    "damage", [_newer_version, _other_tables, _no_database, _first_page_gone, _cut_short]
)
def test_a_damaged_file_is_begun_anew_and_it_is_told(path: Path, damage: Callable[[Path], None]) -> None:
    store = RowStore(path, MB)
    number = store.put([1, 2], secret_rows([1, 2]))
    store.close()
    damage(path)
    store = RowStore(path, MB)
    assert store.get(number) is None
    (told,) = store.notices()
    assert "rows.db was damaged" in told
    assert SECRET not in bytes_on_disk(path), "not laid aside either: no redaction would find it"
    assert store.put([1, 2], rows_of([1, 2]))
    assert same(store.get(store.put([3], rows_of([3]))), rows_of([3]))
    store.close()


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.write_bytes(b"")
    store = RowStore(path, MB)
    assert put_each(store, 1) != [0]
    assert store.notices() == []
    store.close()


@given(data=st.data())
def test_damage_anywhere_harms_no_mind(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bytes overwritten at random: rows are right or absent, and it goes on."""
    path = tmp_path_factory.mktemp("damage") / "rows.db"
    store = RowStore(path, MB)
    numbers = put_each(store, 12)
    store.close()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        junk = data.draw(st.binary(min_size=1, max_size=64))
        content[at : at + len(junk)] = junk
    path.write_bytes(bytes(content))
    store = RowStore(path, MB)
    for n, number in enumerate(numbers):
        run = range(8 * n, 8 * n + 8)
        rows = store.get(number)
        assert rows is None or same(rows, rows_of(run))
        found = store.fetch(run)
        assert found is None or same(found[1], rows_of(run))
    new = range(900, 908)
    number = store.put(new, rows_of(new))
    assert same(store.get(number), rows_of(new))
    store.release(5)
    store.remove([0])
    assert store.fetch([0]) is None
    store.close()


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may all")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(JournalFailed, match="permission denied"):
        RowStore(tmp_path / "rows.db", MB)
    tmp_path.chmod(0o700)


def test_a_folder_in_its_place_is_told(path: Path) -> None:
    path.mkdir()
    with pytest.raises(JournalFailed, match="it is a folder"):
        RowStore(path, MB)


def test_a_full_disk_is_told_and_what_was_there_stays(path: Path) -> None:
    store = RowStore(path, MB)
    numbers = put_each(store, 3)
    store._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(JournalFailed, match=r"cannot write .*rows\.db.*full"):
        put_each(store, 1, start=7)
    assert there(store, numbers) == [True] * 3
    store._db.execute("PRAGMA max_page_count = 100000")
    assert put_each(store, 1, start=7) != [0]
    store.close()


def test_a_database_that_cannot_be_begun_anew_is_no_endless_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RowStore(path, MB)

    def broken(self: Any) -> None:
        raise apsw.CorruptError("everything is broken")

    monkeypatch.setattr(rows_module.RowStore, "_prepare", broken)
    monkeypatch.setattr(rows_module.RowStore, "_entry", lambda self, number: broken(self))
    with pytest.raises(JournalFailed, match="cannot begin anew"):
        store.get(1)


def test_a_closed_store_says_so(path: Path) -> None:
    store = RowStore(path, MB)
    store.close()
    with pytest.raises(JournalFailed):
        store.put([1], rows_of([1]))
    store.close()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_files_are_for_their_owner_alone(path: Path) -> None:
    store = RowStore(path, MB)
    put_each(store, 1)
    assert {p.stat().st_mode & 0o777 for p in path.parent.glob("rows.db*")} == {0o600}
    store.close()


class _Watched(apsw.VFS):
    """Tells which files are synced."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        super().__init__("watched-rows", "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:
        shown = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return _WatchedFile(name, flags, shown, self.synced)


class _WatchedFile(apsw.VFSFile):
    def __init__(self, name: Any, flags: Any, shown: str, synced: list[str]) -> None:
        super().__init__("", name, flags)
        self._shown, self._synced = shown, synced

    def xSync(self, flags: int) -> None:
        self._synced.append(self._shown.rpartition("/")[2])
        super().xSync(flags)


def test_to_hold_is_durable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_SETTINGS", rows_module._SETTINGS.replace("OFF", "NORMAL"))
    watched = _Watched()
    store = RowStore(path, MB, vfs="watched-rows")
    number = store.put([1], rows_of([1]))
    watched.synced.clear()
    store.put([2], rows_of([2]))
    assert watched.synced == [], "it is only a cache"
    store.hold(number, 5)
    assert watched.synced == ["rows.db-wal"]
    store.put([3], rows_of([3]))
    assert watched.synced == ["rows.db-wal"]
    store.close()
    watched.unregister()


def test_what_is_held_survives_a_kill(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; import numpy as np;"
        "from haloweave.journal.rows import RowStore; from haloweave.memory.rows import SavedRows;"
        "store = RowStore(Path(sys.argv[1]), 1 << 20);"
        "number = store.put([5], SavedRows(np.array([5]), {'keys': np.arange(9)[None]}));"
        "store.hold(number, 3); print(number, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True
    )
    store = RowStore(path, MB)
    rows = store.get(int(done.stdout))
    assert rows is not None
    assert rows.columns["keys"].tolist() == [list(range(9))]
    store.close()
