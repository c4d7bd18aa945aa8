# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The log: what is written is there after reopening, whatever happened in between, or it says why not."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import apsw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journalled import Life

from haloweave.bench.crash.vfs import FaultyVFS, faulty
from haloweave.errors import InvalidInput, JournalCorrupt, JournalFailed, MindNotFound
from haloweave.journal import schema
from haloweave.journal.base import Aborted, Born, Checkpoint, Committed, Rebuilt, Record, Reread
from haloweave.journal.connection import leave
from haloweave.journal.fold import fold
from haloweave.journal.log import Log
from haloweave.journal.records import Kind, pack
from haloweave.memory.mirror import Mirror
from haloweave.memory.tokens import Source, Tokens


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "mind.db")
    yield made
    made.close()


@pytest.fixture
def vfs() -> Iterator[FaultyVFS]:
    with faulty() as made:
        yield made


def reopened(log: Log) -> Log:
    log.close()
    return Log(log.path, create=False)


def lived(log: Log) -> Life:
    """A life with every kind of record in it."""
    life = Life(log)
    first = life.feed("It was a dark and stormy night; the rain fell in torrents.")
    life.say(" Except at occasional intervals")
    life.write(Reread())
    life.cull(first[3:6])
    life.checkpoint()
    life.abort(" when it was checked")
    new = life.repair(first[7], " drizzle came down")
    life.pin(new)
    life.undo(life.cull(first[8:10]))
    life.write(Rebuilt())
    life.feed(" by a violent gust of wind\n", Source.LOG, unit=5)
    return life


# ---- writing and reading -----------------------------------------------------------------------------


def test_what_is_written_is_read_back_now_and_after_reopening(log: Log) -> None:
    records = lived(log).records
    assert log.last == len(records)
    assert list(log.records()) == list(enumerate(records, 1))
    again = reopened(log)
    assert list(again.records()) == list(enumerate(records, 1))
    assert again.last == len(records)
    again.close()


def test_numbers_go_on_after_reopening(log: Log) -> None:
    life = lived(log)
    life.log = reopened(log)
    assert life.log.write(Reread()) == log.last + 1
    life.feed(" which swept up the streets")
    life.log.close()


@settings(max_examples=15)
@given(after=st.integers(0, 22), until=st.none() | st.integers(0, 22))
def test_any_stretch_can_be_read_in_either_direction(
    tmp_path_factory: pytest.TempPathFactory, after: int, until: int | None
) -> None:
    log = Log(tmp_path_factory.mktemp("log") / "mind.db")
    numbered = list(enumerate(lived(log).records, 1))
    stretch = [(s, r) for s, r in numbered if after < s and (until is None or s <= until)]
    assert list(log.records(after, until)) == stretch
    assert list(log.backwards(after)) == [(s, r) for s, r in reversed(numbered) if s < after]
    log.close()


def test_reading_goes_on_while_the_log_is_written(log: Log) -> None:
    life = Life(log)
    log.db.pragma("synchronous", "OFF")
    life.say(" word" * 300)
    seen = []
    for seq, _ in log.records():
        seen.append(seq)
        if seq % 50 == 0:
            life.say(" more")
    assert seen == list(range(1, 301))
    assert log.last == 306


def test_the_newest_checkpoint_is_found(log: Log) -> None:
    life = Life(log)
    assert log.checkpoint() is None
    life.feed("one two")
    first = life.checkpoint()
    life.feed(" three")
    second = life.checkpoint()
    assert log.checkpoint() == (second, life.records[second - 1])
    assert log.checkpoint(at=second - 1) == (first, life.records[first - 1])
    assert log.checkpoint(at=first - 1) is None


def test_rare_records_are_found_without_reading_all_of_them(log: Log) -> None:
    """An opening and a snapshot's thinning would else grow with the past: 5 ms for each million tokens."""
    for kind in (Kind.CHECKPOINT, Kind.ABORTED):
        asked = f"EXPLAIN QUERY PLAN SELECT seq FROM records WHERE {schema.LANDMARK}"
        (plan,) = [row[3] for row in log._query(asked, (int(kind),))]
        assert "USING" in plan
        assert "landmarks" in plan


def test_a_tick_leads_to_its_newest_record(log: Log) -> None:
    life = lived(log)
    ticks = []
    for record in life.records:  # of the mirror as each record was written, an abort's being its victim's
        before = ticks[-1] if ticks else 0
        if isinstance(record, Born):
            ticks.append(int(record.tokens.born[0]))
        elif isinstance(record, Aborted):
            ticks.append(before)
        else:
            ticks.append(max(before + isinstance(life.records[len(ticks) - 1], Born), before))
    for tick in range(-1, life.mirror.view.tick + 2):
        expected = max((s for s, t in enumerate(ticks, 1) if t <= tick), default=0)
        assert log.seq_at_tick(tick) == expected, (tick, ticks)


def test_meta_is_kept(log: Log) -> None:
    assert log.get("name") is None
    log.put("name", "Ada")
    log.put("name", "Bob; DROP TABLE records")
    again = reopened(log)
    assert again.get("name") == "Bob; DROP TABLE records"
    assert again.get("' OR 1=1 --") is None
    again.close()


def test_a_record_that_cannot_come_next_is_refused_and_changes_nothing(log: Log) -> None:
    life = Life(log)
    life.feed("one two three")
    before = list(log.records())
    late = Tokens.make([1], first_uid=1, source=Source.USER)
    torn = life.born([b"a", b"b"], Source.USER)
    for record in (
        Born(late),
        Born(Tokens.empty()),
        Born(torn.tokens.take(np.array([1, 0]))),
        Born(torn.tokens, (b"a",)),
    ):
        with pytest.raises(InvalidInput):
            log.write(record)
    assert not log.failed
    assert list(log.records()) == before
    life.take(torn)


def test_an_abort_takes_back_one_birth_or_edit(log: Log) -> None:
    life = Life(log)
    with pytest.raises(InvalidInput, match="abort"):
        log.write(Aborted("nothing was there"))
    life.feed("one two")
    life.abort(" three")
    assert log.aborted == {2}
    with pytest.raises(InvalidInput, match="abort"):
        log.write(Aborted("again"))
    life.feed(" four")  # takes the uids of what did not happen
    life.checkpoint()
    with pytest.raises(InvalidInput, match="abort"):
        log.write(Aborted("too late"))
    again = reopened(log)
    assert again.aborted == {2}
    with pytest.raises(InvalidInput, match="abort"):
        again.write(Aborted("too late"))
    assert again.pieces(range(9)) == {0: b"one", 1: b" two", 2: b" four"}
    assert again.occurrences("three") == ()
    again.close()


def test_a_birth_that_a_crash_left_undecided_may_be_aborted_after_reopening(log: Log) -> None:
    life = Life(log)
    life.feed("one two")
    again = reopened(log)
    again.write(Aborted("it was not fed"))
    assert again.aborted == {1}
    assert fold(None, (r for _, r in again.records())).view.next_uid == 0
    again.close()


# ---- followers ---------------------------------------------------------------------------------------


class Notes:
    """Keeps a table of its own; fails when told to."""

    def __init__(self, log: Log) -> None:
        with log.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS notes (seq INTEGER, what TEXT)")
        self.fails: BaseException | None = None
        log.followers.append(self)

    def follow(self, db: apsw.Connection, seq: int, record: Record) -> None:
        db.execute("INSERT INTO notes VALUES (?, ?)", (seq, type(record).__name__))
        if self.fails is not None:
            raise self.fails

    def scrubbed(self, db: apsw.Connection, uids: set[int]) -> None:
        db.execute("INSERT INTO notes VALUES (0, ?)", (repr(sorted(uids)),))


def notes(log: Log) -> list[tuple[int, str]]:
    return [(seq, what) for seq, what in log.db.execute("SELECT seq, what FROM notes ORDER BY rowid")]


def test_followers_write_with_the_record(log: Log) -> None:
    Notes(log)
    records = lived(log).records
    assert notes(log) == [(n, type(r).__name__) for n, r in enumerate(records, 1)]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (apsw.FullError("x"), JournalFailed),
        (InvalidInput("x"), InvalidInput),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_follower_that_fails_takes_the_record_with_it(
    log: Log, error: BaseException, raised: type[BaseException]
) -> None:
    follower = Notes(log)
    life = Life(log)
    life.feed("one")
    follower.fails = error
    with pytest.raises(raised):
        life.feed(" two")
    assert log.failed
    with pytest.raises(JournalFailed):
        list(log.records())
    again = reopened(log)
    assert [s for s, _ in again.records()] == [1]
    assert notes(again) == [(1, "Born")]
    again.close()


# ---- text --------------------------------------------------------------------------------------------


def test_the_transcript_says_everything_in_the_order_of_birth(log: Log) -> None:
    life = Life(log)
    life.feed("Guten Tag, schöne Welt", Source.USER)
    spoken = life.say(" Grüße zurück")
    life.feed(" END", Source.CONTROL)
    new = life.repair(spoken[0], " Hallo")
    life.undo(life.cull([0, 1]))
    lines = list(log.transcript())
    assert [(line.source, line.text) for line in lines] == [
        (Source.USER, "Guten Tag, schöne Welt"),
        (Source.MODEL, " Grüße zurück"),
        (Source.CONTROL, " END"),
        (Source.MODEL, " Hallo"),
    ]
    assert [(line.uid, line.last_uid) for line in lines][1] == (spoken[0], spoken[-1])
    assert (lines[-1].uid, lines[0].tick, lines[1].tick) == (new[0], 0, 1)
    assert [line.text for line in log.transcript(limit=2)] == [line.text for line in lines[:2]]
    assert list(log.transcript(after_uid=lines[1].last_uid)) == lines[2:]
    assert "".join(line.text for line in log.transcript(after_uid=spoken[1])).startswith(" zurück")
    assert list(log.transcript(after_uid=10**9)) == []


def test_long_speech_is_cut_into_lines_between_characters(log: Log) -> None:
    life = Life(log)
    log.db.pragma("synchronous", "OFF")
    life.say(" wörtchen" * 1200)
    lines = list(log.transcript())
    assert "".join(line.text for line in lines) == " wörtchen" * 1200
    assert 3 <= len(lines) <= 4
    assert all(a.last_uid + 1 == b.uid for a, b in pairwise(lines))


def test_pieces_of_any_uid(log: Log) -> None:
    life = lived(log)
    expected: dict[int, bytes] = {}
    happened = [r for r, after in pairwise([*life.records, None]) if not isinstance(after, Aborted)]
    for record in happened:
        if isinstance(record, Born):
            expected.update(zip(record.tokens.uid.tolist(), record.pieces, strict=True))
        elif isinstance(record, Committed):
            expected.update(zip(record.edit.born_uids.tolist(), record.pieces, strict=True))
    assert log.pieces(range(-3, 200)) == expected
    for uid, piece in expected.items():
        assert log.pieces([uid]) == {uid: piece}


def test_an_unspelt_birth_has_empty_pieces(log: Log) -> None:
    log.write(Born(Tokens.make([1, 2], first_uid=0, source=Source.USER)))
    assert log.pieces([0, 1, 2]) == {0: b"", 1: b""}
    assert list(log.transcript()) == []
    assert log.occurrences("a") == ()


def test_a_text_is_found_across_records_and_within_tokens(log: Log) -> None:
    life = Life(log)
    life.feed("the quick bro")
    life.cull([0])  # an edit in between does not cut the text
    life.feed("wn fox")
    spoken = life.say(" jumpsover it")
    assert log.occurrences("brown") == ((2, 3),)
    assert log.occurrences("x jum") == ((4, spoken[0]),)
    assert log.occurrences("the") == ((0,),)
    assert log.occurrences("dog") == ()
    assert log.occurrences("QUICK") == ()
    assert log.occurrences("QUICK", any_case=True) == ((1,),)
    with pytest.raises(InvalidInput):
        log.occurrences("")


def test_control_tokens_cut_a_text_and_are_never_found(log: Log) -> None:
    life = Life(log)
    life.feed("one")
    life.feed(" <|im_end|>", Source.CONTROL)
    life.feed(" two")
    assert log.occurrences("im_end") == ()
    assert log.occurrences("one two") == ()
    life.feed(" <|im_end|>", Source.USER)
    assert len(log.occurrences("im_end")) == 1


def test_a_marker_born_in_between_does_not_hide_a_text(log: Log) -> None:
    life = Life(log)
    life.feed("one two three pass")
    marker = life.repair(1, "[...]", Source.MARKER)
    life.feed("word four")
    assert life.log.occurrences("password") == ((3, 5),)
    assert life.log.occurrences("[...]") == (tuple(marker),)
    life.undo(life.cull([2, 3, 5]))
    assert life.log.occurrences("password") == ((3, 5),)


def test_folding_case_finds_what_lower_case_does_not(log: Log) -> None:
    life = Life(log)
    uids = life.feed("Die STRASSE und die Straße, ÉLODIE İstanbul")
    text = b"".join(life.records[0].pieces).decode()  # type: ignore[union-attr]
    assert log.occurrences("straße", any_case=True) == (tuple(uids[1:3]), tuple(uids[5:7]))
    assert len(log.occurrences("Élodie", any_case=True)) == 1
    assert len(log.occurrences("i\u0307stanbul", any_case=True)) == 1, text
    assert len(log.occurrences("s", any_case=True)) == 5


def test_overlapping_occurrences_are_all_touched(log: Log) -> None:
    log.write(Born(Tokens.make([1] * 6, first_uid=0, source=Source.USER), (b"ab",) * 6))
    assert log.occurrences("abab") == (tuple(range(6)),)
    assert log.occurrences("ba") == (tuple(range(6)),)


@settings(max_examples=25)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "ß", "S", " ", "\U0001f984", "É"]), min_size=1, max_size=9),
        max_size=9,
    ),
    st.lists(st.sampled_from(["a", "b", "ß", "s", "é", "\U0001f984"]), min_size=1, max_size=3).map("".join),
    st.booleans(),
    st.integers(1, 5),
)
def test_searching_agrees_with_a_slow_search(
    tmp_path_factory: pytest.TempPathFactory, passes: list[list[str]], wanted: str, any_case: bool, width: int
) -> None:
    """One token for every `width` bytes; the slow search tries every run of characters."""
    log = Log(tmp_path_factory.mktemp("log") / "mind.db")
    life = Life(log)
    for text in passes:
        data = "".join(text).encode()
        life.take(life.born([data[n : n + width] for n in range(0, len(data), width)], Source.USER))
    text = "".join("".join(p) for p in passes)
    owner = [u for u, p in sorted(log.pieces(range(400)).items()) for _ in p]
    ends = np.cumsum([0, *(len(c.encode()) for c in text)]).tolist()
    touched: set[int] = set()
    for a in range(len(text)):
        for b in range(a + 1, len(text) + 1):
            here = text[a:b].casefold() if any_case else text[a:b]
            inside = wanted.casefold() if any_case else wanted
            smaller = [text[a + 1 : b], text[a : b - 1]]
            if inside in here and not any(inside in (s.casefold() if any_case else s) for s in smaller):
                touched |= set(owner[ends[a] : ends[b]])
    found = log.occurrences(wanted, any_case=any_case)
    assert {u for uids in found for u in uids} == touched
    assert all(a[-1] < b[0] for a, b in pairwise(found))
    log.close()


def test_windows_of_a_long_text_hide_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haloweave.journal.transcript._WINDOW", 64)
    life = Life(log)
    for n in range(200):
        life.feed(f" some words and then needle{n:03}haystack")
    for wanted in ("needle", "le123hay", "d then"):
        for any_case in (False, True):
            assert len(log.occurrences(wanted, any_case=any_case)) == (1 if "123" in wanted else 200)
    assert len(log.occurrences(" some words and then needle003haystack some words and")) == 1


def test_a_great_many_matches_take_linear_time(log: Log) -> None:
    n = 60_000
    log.write(Born(Tokens.make(np.ones(n, np.int32), first_uid=0, source=Source.USER), (b"a",) * n))
    assert log.occurrences("aa") == (tuple(range(n)),)
    assert log.occurrences("aa", any_case=True) == (tuple(range(n)),)


# ---- thinning ----------------------------------------------------------------------------------------


def checkpoint_ticks(log: Log) -> list[int]:
    return [r.view.tick for _, r in log.records() if isinstance(r, Checkpoint)]


def test_thinning_keeps_the_newest_and_some_of_the_old(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haloweave.journal.log._APART", 10)
    life = Life(log)
    for _ in range(40):
        life.feed("one two")
        life.cull([int(life.mirror.view.tokens.uid[0])])
        life.checkpoint()
    before = [(s, r) for s, r in log.records() if not isinstance(r, Checkpoint)]
    log.thin()
    assert checkpoint_ticks(log) == [1, 11, 21, 31, *range(33, 41)]
    log.thin()
    assert checkpoint_ticks(log) == [1, 11, 21, 31, *range(33, 41)]
    assert [(s, r) for s, r in log.records() if not isinstance(r, Checkpoint)] == before
    for _ in range(9):
        life.feed("three")
        life.checkpoint()
    log.thin()
    assert checkpoint_ticks(log) == [1, 11, 21, 31, *range(41, 50)]
    again = reopened(log)
    assert fold(None, (r for _, r in again.records())).view.tokens == life.mirror.view.tokens
    assert [s for s, _ in again.backwards(again.last + 1)] == [s for s, _ in again.records()][::-1]
    again.close()


# ---- failing disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (apsw.FullError, "disk is full: free some space"),
        (apsw.IOError, "disk failed"),
        (apsw.ReadOnlyError, "read-only"),
    ],
)
def test_a_write_that_fails_ends_the_log_and_says_what_to_do(
    tmp_path: Path, vfs: FaultyVFS, error: type[Exception], remedy: str
) -> None:
    log = Log(tmp_path / "mind.db", vfs=vfs.name)
    life = Life(log)
    life.feed("one two")
    vfs.fail(1, error, recovers=True)
    with pytest.raises(JournalFailed, match=f"{remedy}.*open the mind again; nothing that was shown is lost"):
        life.feed(" three")
    assert log.failed
    count = vfs.count
    for call in (
        lambda: log.write(Reread()),
        lambda: list(log.records()),
        lambda: list(log.backwards(9)),
        lambda: log.checkpoint(),
        lambda: log.put("a", "b"),
        lambda: log.get("a"),
        lambda: log.thin(),
        lambda: log.scrub([0]),
        lambda: log.pending(),
        lambda: log.pieces([0]),
        lambda: log.occurrences("one"),
        lambda: list(log.transcript()),
        lambda: log.seq_at_tick(1),
    ):
        with pytest.raises(JournalFailed):
            call()
    log.close()
    log.close()
    assert vfs.count == count, "nothing may be written any more, not even on closing"
    again = Log(log.path)
    assert [s for s, _ in again.records()] == [1]
    again.close()


def test_killed_at_every_operation_nothing_acknowledged_is_lost(tmp_path: Path, vfs: FaultyVFS) -> None:
    """From before the file exists to after it is closed; torn writes too."""
    at, alive, died = 0, False, 0
    while not alive:
        at += 1
        path = tmp_path / f"{at}.db"
        vfs.fail(at, torn=bool(at % 2))
        wrote: list[Record] = []
        log = None
        try:
            log = Log(path, vfs=vfs.name)
            life = Life(log)
            for n in range(3):
                life.feed(f"this is pass {n}")
                wrote.append(life.records[-1])
            alive = True
        except JournalFailed:
            died += 1
        if log is not None:
            leave(log.db)
        again = Log(path)
        found = [r for _, r in again.records()]
        assert found[: len(wrote)] == wrote
        assert len(found) <= len(wrote) + 1
        life = Life(again, mirror=Mirror(fold(None, found).view))
        life.feed(" and then it goes on")
        assert again.last == len(found) + 1
        again.close()
    assert died > 20


def test_a_sync_that_fails_once_is_not_tried_again(tmp_path: Path, vfs: FaultyVFS) -> None:
    log = Log(tmp_path / "mind.db", vfs=vfs.name)
    life = Life(log)
    life.feed("one")
    vfs.calm()
    life.feed(" two")
    sync = vfs.names.index("sync mind.db-wal") + 1
    vfs.fail(sync, recovers=True)
    with pytest.raises(JournalFailed):
        life.feed(" three")
    count = vfs.count
    with pytest.raises(JournalFailed):
        life.feed(" three")
    log.close()
    assert vfs.count == count
    again = Log(log.path)
    assert again.last in (2, 3)
    assert fold(None, (r for _, r in again.records())).view.next_uid == again.last
    again.close()


def test_a_record_is_synced_before_it_is_acknowledged(tmp_path: Path, vfs: FaultyVFS) -> None:
    log = Log(tmp_path / "mind.db", vfs=vfs.name)
    life = Life(log)
    life.feed("one")
    vfs.calm()
    life.feed(" two")
    assert vfs.names[-1] == "sync mind.db-wal"
    assert any(n == "write mind.db-wal" for n in vfs.names)
    log.close()


# ---- files that are no logs --------------------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(MindNotFound):
        Log(tmp_path / "mind.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(JournalFailed, match="folder is there and writable"):
        Log(tmp_path / "nowhere" / "mind.db")


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "mind.db").mkdir()
    for create in (True, False):
        with pytest.raises(JournalCorrupt, match="a folder"):
            Log(tmp_path / "mind.db", create=create)


@pytest.mark.parametrize(
    "content", [b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000, b"SQLite format 3\0", b"{}"]
)
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mind.db"
    path.write_bytes(content)
    for create in (True, False):
        with pytest.raises(JournalCorrupt, match="backup"):
            Log(path, create=create)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_log_or_none_at_all(tmp_path: Path) -> None:
    path = tmp_path / "mind.db"
    path.touch()
    with pytest.raises(JournalCorrupt, match="empty"):
        Log(path, create=False)
    Log(path).close()
    Log(path, create=False).close()


def test_truncated_to_nothing_beside_its_wal(tmp_path: Path, vfs: FaultyVFS) -> None:
    log = Log(tmp_path / "mind.db", vfs=vfs.name)
    lived(log)
    leave(log.db)
    log.path.write_bytes(b"")
    for create in (True, False):
        with pytest.raises(JournalCorrupt, match="truncated"):
            Log(log.path, create=create)


def test_truncated_anywhere(log: Log) -> None:
    lived(log)
    log.close()
    whole = log.path.read_bytes()
    for end in range(100, len(whole), 1777):
        log.path.write_bytes(whole[:end])
        with pytest.raises(JournalCorrupt, match="backup"):
            Log(log.path)


def test_trailing_bytes(log: Log) -> None:
    lived(log)
    log.close()
    whole = log.path.read_bytes()
    for more in (b"x", b"\0" * 4096, b"y" * 10_000):
        log.path.write_bytes(whole + more)
        with pytest.raises(JournalCorrupt, match=f"expected {len(whole)}: cut it to"):
            Log(log.path)
    log.path.write_bytes(whole)
    Log(log.path).close()


def test_a_newer_release_wrote_it(log: Log) -> None:
    log.put("a", "b")
    log.db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    log.close()
    before = log.path.read_bytes()
    with pytest.raises(JournalCorrupt, match=r"newer release.*upgrade"):
        Log(log.path)
    assert log.path.read_bytes() == before


def test_an_older_release_wrote_it(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    records = lived(log).records
    log.close()
    more = (*schema.MIGRATIONS, "CREATE TABLE later (a) STRICT;", "CREATE TABLE latest (a INTEGER) STRICT;")
    monkeypatch.setattr(schema, "MIGRATIONS", more)
    with pytest.raises(JournalFailed):  # the first of these two is wrong, so neither is carried out
        Log(log.path)
    more = (*more[:-2], "CREATE TABLE later (a ANY) STRICT;", more[-1])
    monkeypatch.setattr(schema, "MIGRATIONS", more)
    again = Log(log.path)
    assert again.db.pragma("user_version") == len(more)
    assert [r for _, r in again.records()] == records
    again.db.execute("INSERT INTO later VALUES (1); INSERT INTO latest VALUES (2)")
    again.close()


def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "mind.db"
    for number in (0, 77):
        other = sqlite3.connect(path)
        other.execute(f"PRAGMA application_id = {number}")
        other.execute("CREATE TABLE IF NOT EXISTS accounts (id INTEGER)")
        other.close()
        before = path.read_bytes()
        for create in (True, False):
            with pytest.raises(JournalCorrupt, match="another program"):
                Log(path, create=create)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["mind.db"]


def test_a_table_is_missing(log: Log) -> None:
    log.db.execute("DROP TABLE pending")
    log.close()
    with pytest.raises(JournalCorrupt, match="pending"):
        Log(log.path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(log: Log) -> None:
    log.put("a", "b")
    log.close()
    for path, mode in ((log.path, 0o400), (log.path.parent, 0o500)):
        path.chmod(mode)
    try:
        with pytest.raises(JournalFailed, match="writable"):
            Log(log.path)
    finally:
        log.path.parent.chmod(0o700)


class _ReadOnly(apsw.VFS):
    """A file system on which nothing can be opened for writing."""

    def __init__(self) -> None:
        super().__init__("read-only", "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        readable = (
            flags[0] & ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) | apsw.SQLITE_OPEN_READONLY
        )
        asked = [readable, flags[1]]
        made = apsw.VFSFile("", name, asked)
        flags[1] = asked[1]
        return made


def test_a_read_only_file_system(log: Log) -> None:
    log.put("a", "b")
    log.close()
    before = log.path.read_bytes()
    system = _ReadOnly()
    with pytest.raises(JournalFailed, match="writable"):
        Log(log.path, vfs="read-only")
    system.unregister()
    assert log.path.read_bytes() == before


def test_somebody_else_is_writing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haloweave.journal.connection.PATIENCE", 10)
    again = Log(log.path)
    log.db.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalFailed, match="another program is writing"):
        again.write(Reread())
    again.close()


# ---- damage within -----------------------------------------------------------------------------------


def everything(path: Path) -> object:
    """All that a log tells."""
    log = Log(path, create=False)
    try:
        return (
            list(log.records()),
            list(log.backwards(log.last + 1)),
            log.checkpoint(),
            log.pieces(range(60)),
            list(log.transcript()),
            log.get("name"),
            log.pending(),
        )
    finally:
        log.close()


def test_a_torn_page_is_noticed_or_makes_no_difference(log: Log) -> None:
    """Half of any page is lost, or another page's half is in its place."""
    log.put("name", "Ada")
    life = lived(log)
    for n in range(30):
        life.feed(f" and so it went on and on, {n} times and more")
    life.redact([1])
    log.close()
    whole, told = log.path.read_bytes(), everything(log.path)
    page = 4096
    assert len(whole) >= 6 * page
    noticed = 0
    for start in range(0, len(whole), page):
        for a, b in ((start, start + page // 2), (start + page // 2, start + page)):
            for half in (bytes(page // 2), whole[-page // 2 :], b"\xff" * (page // 2)):
                log.path.write_bytes(whole[:a] + half + whole[b:])
                try:
                    assert everything(log.path) == told
                except JournalCorrupt:
                    noticed += 1
    assert noticed > 10


def test_a_lost_record_is_noticed(log: Log) -> None:
    lived(log)
    log.db.execute("DELETE FROM records WHERE seq = 4")
    with pytest.raises(JournalCorrupt, match="lost"):
        list(log.records())
    with pytest.raises(JournalCorrupt, match="lost"):
        list(log.backwards(log.last))


def test_a_record_in_anothers_place_is_noticed(log: Log) -> None:
    lived(log)
    log.db.execute("UPDATE records SET seq = -seq WHERE seq IN (1, 2)")
    log.db.execute("UPDATE records SET seq = CASE seq WHEN -1 THEN 2 ELSE 1 END WHERE seq < 0")
    with pytest.raises(JournalCorrupt, match="record 1: its checksum"):
        list(log.records())


def test_a_damaged_record_is_named(log: Log) -> None:
    lived(log)
    log.db.execute("UPDATE records SET body = zeroblob(length(body)) WHERE seq = 3")
    with pytest.raises(JournalCorrupt, match="record 3"):
        list(log.records())


def test_settings_that_make_it_durable_and_forgetful(log: Log) -> None:
    told = {
        name: log.db.pragma(name)
        for name in ("journal_mode", "synchronous", "secure_delete", "cell_size_check")
    }
    assert told == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "cell_size_check": 1}


def test_plain_text_can_be_read_by_any_sqlite_tool(log: Log) -> None:
    life = Life(log)
    life.feed("Grüß Gott")
    rows = [str(bytes(t), "utf-8") for (t,) in log.db.execute("SELECT text FROM records")]
    assert rows == ["Grüß Gott"]
    assert log.size() > 0


def test_decode_ticks_stay_small_on_disk(log: Log) -> None:
    life = Life(log)
    log.db.pragma("synchronous", "OFF")
    life.feed("a few words to begin with")
    sizes = []
    for _ in range(2):
        words = len(life.say(" and so it goes on word by word" * 150))
        log.db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        sizes.append(log.size())
    assert (sizes[1] - sizes[0]) / words <= 60


def test_pack_is_what_the_log_writes(log: Log) -> None:
    life = lived(log)
    first = life.records[0]
    assert next(log.rows()) == pack(first, seq=1, tick=0, next_uid=0)
