# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Redaction: no byte of the files says it any more, whatever broke it off; all else is as it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import numpy as np
import pytest
from journalled import Life, cut

from haloweave.bench.crash.vfs import FaultyVFS, faulty
from haloweave.errors import JournalFailed
from haloweave.journal.base import Aborted, Born, Checkpoint, Committed, Record
from haloweave.journal.connection import leave
from haloweave.journal.fold import fold
from haloweave.journal.log import Log
from haloweave.journal.scrub import REDACTED
from haloweave.memory.tokens import COLUMNS, Source, Tokens

SECRET = " Zauberlehrling heißt Xanthippe, Quittung 4711-Rhabarber"
WORDS = ["Zauberlehrling", "heißt", "Xanthippe", "Quittung", "4711-Rhabarber"]


@pytest.fixture
def vfs() -> Iterator[FaultyVFS]:
    with faulty() as made:
        yield made


def lived(log: Log) -> tuple[Life, list[int]]:
    """A life in which a secret was told, read again word by word, culled, brought back, repaired, pinned."""
    life = Life(log)
    life.feed("A long story, of which nobody knows the end.")
    first = life.feed(SECRET)
    said = life.say(" you said" + SECRET + " indeed")
    life.checkpoint()
    life.pin(first[:2])
    life.undo(life.cull([*first[2:5], said[0]]))
    gone = life.cull([first[3], said[2], said[5]])
    life.undo(gone)
    mended = life.repair(first[-1], SECRET + "-und-mehr")
    life.abort(SECRET + " (the engine failed)")
    life.feed(" And so on.\n", Source.LOG, unit=7)
    life.checkpoint()
    life.cull(said[4:7])
    life.feed(" Nothing else was said.")
    return life, [*first, *said[1:-1], *mended]


def raw(path: Path) -> bytes:
    """All bytes of the database, beside one another."""
    files = [path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-journal")]
    return b"\n".join(f.read_bytes() for f in files if f.exists())


def traces(path: Path) -> list[str]:
    """Words of the secret, whole or as the tokens cut them, that are in the files."""
    pieces = [p.decode("utf-8", "replace").strip() for p in cut(SECRET)]
    data = raw(path)
    return [w for w in [SECRET, *WORDS, *(p for p in pieces if len(p) > 4)] if w.encode() in data]


def runs(record: Record) -> list[Tokens]:
    if isinstance(record, Born):
        return [record.tokens]
    if isinstance(record, Committed):
        return [run for s in record.edit.splices for run in (s.old, s.new)]
    return [record.view.tokens] if isinstance(record, Checkpoint) else []


def assert_forgotten(path: Path, uids: Iterable[int]) -> None:
    """Neither the bytes of the files nor what can be decoded of them tells of it."""
    assert traces(path) == []
    gone = np.array(sorted(uids), np.int64)
    log = Log(path, create=False)
    for _, record in log.records():
        for run in runs(record):
            assert np.all(run.token_id[np.isin(run.uid, gone)] == REDACTED)
    assert all(log.pieces([u]) == {u: b""} for u in gone.tolist())
    for word in WORDS:
        assert log.occurrences(word, any_case=True) == ()
        assert all(word not in line.text for line in log.transcript())
    assert log.pending() == ()
    log.close()


def told(log: Log) -> Checkpoint:
    return fold(None, (r for _, r in log.records()))


def assert_same_but_for(before: Checkpoint, after: Checkpoint, uids: Iterable[int]) -> None:
    a, b = before.view.tokens, after.view.tokens
    gone = np.isin(a.uid, np.array(sorted(uids), np.int64))
    for name in COLUMNS:
        if name != "token_id":
            assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    assert np.array_equal(a.token_id[~gone], b.token_id[~gone])
    assert np.all(b.token_id[gone] == REDACTED)
    assert replace(before.view, tokens=b) == after.view
    assert (before.turn, before.totals) == (after.turn, after.totals)


def test_the_secret_is_there_before(tmp_path: Path) -> None:
    """Or else these tests would not see it go."""
    log = Log(tmp_path / "mind.db")
    lived(log)
    assert len(traces(log.path)) >= 8
    assert len(log.occurrences("Xanthippe")) == 3
    log.close()


def test_after_a_redaction_nothing_tells_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    log = Log(tmp_path / "mind.db")
    life, secret = lived(log)
    life.redact(secret)
    assert set(log.pending()) == set(secret)
    before, lines = told(log), list(log.transcript())
    assert before.view.tokens == life.mirror.view.tokens
    others = {u: p for u, p in log.pieces(range(400)).items() if u not in secret}
    log.scrub()
    assert traces(log.path) == [], "while the log is open, -wal and -shm included"
    assert_same_but_for(before, told(log), secret)
    assert {u: p for u, p in log.pieces(range(400)).items() if u not in secret} == others
    assert [s for s, _ in log.records()] == list(range(1, log.last + 1))
    assert len(list(log.transcript())) < len(lines)
    life.feed(" Life goes on.")
    log.scrub()
    log.close()
    assert_forgotten(log.path, secret)


def test_every_edit_can_still_be_folded_from_every_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path / "mind.db")
    life, secret = lived(log)
    life.redact(secret)
    life.checkpoint()
    log.scrub()
    records = list(log.records())
    for seq, record in records:
        if isinstance(record, Checkpoint):
            end = fold(record, (r for s, r in records if s > seq))
            assert end.view.tokens == life.mirror.view.tokens
    log.close()


def test_a_part_of_a_text_can_be_redacted(tmp_path: Path) -> None:
    log = Log(tmp_path / "mind.db")
    life = Life(log)
    uids = life.feed("my name is Xanthippe and I like tea")
    found = [u for place in log.occurrences("Xanthippe") for u in place]
    life.redact(found)
    log.scrub()
    assert "".join(line.text for line in log.transcript()) == "my name is and I like tea"
    assert log.pieces(uids)[uids[0]] == b"my"
    assert b"anthippe" not in raw(log.path)
    log.close()


def test_killed_at_every_operation_the_next_scrub_goes_on(tmp_path: Path, vfs: FaultyVFS) -> None:
    whole = tmp_path / "whole.db"
    log = Log(whole)
    life, secret = lived(log)
    life.redact(secret)
    before = told(log)
    log.close()
    at, died, done = 0, 0, False
    while not done:
        at += 1
        path = tmp_path / f"{at}.db"
        shutil.copy(whole, path)
        log = Log(path, vfs=vfs.name)
        vfs.fail(at, torn=bool(at % 2))
        try:
            log.scrub()
            done = True
        except JournalFailed:
            died += 1
            assert log.failed
        leave(log.db)
        again = Log(path)
        assert set(again.pending()) in (set(secret), set())
        again.scrub()
        assert_same_but_for(before, told(again), secret)
        again.close()
        assert_forgotten(path, secret)
        path.unlink()
    assert died >= 15


@pytest.mark.parametrize("step", ["rewrite", "vacuum", "empty the wal", "take the mark away"])
def test_killed_between_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    log = Log(tmp_path / "mind.db")
    life, secret = lived(log)
    life.redact(secret)
    before = told(log)
    real = {"transaction": Log.transaction, "outside": Log.outside}
    calls: list[str] = []

    def dying(name: str, when: int):  # type: ignore[no-untyped-def]
        def call(self: Log):  # type: ignore[no-untyped-def]
            calls.append(name)
            if calls.count(name) == when:
                raise KeyboardInterrupt
            return real[name](self)

        return call

    if step == "empty the wal":
        monkeypatch.setattr(
            "haloweave.journal.scrub._empty_wal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
    elif step == "vacuum":
        monkeypatch.setattr(Log, "outside", dying("outside", 1))
    else:
        monkeypatch.setattr(Log, "transaction", dying("transaction", 1 if step == "rewrite" else 2))
    with pytest.raises(KeyboardInterrupt):
        log.scrub()
    leave(log.db)
    monkeypatch.undo()
    again = Log(log.path)
    assert set(again.pending()) == set(secret)
    again.scrub()
    assert_same_but_for(before, told(again), secret)
    again.close()
    assert_forgotten(log.path, secret)


def test_a_promise_survives_a_crash_right_after_the_record(tmp_path: Path) -> None:
    log = Log(tmp_path / "mind.db")
    life, secret = lived(log)
    life.redact(secret)
    leave(log.db)
    again = Log(log.path)
    assert set(again.pending()) == set(secret)
    again.close()


def test_a_redaction_that_was_aborted_is_no_longer_promised(tmp_path: Path) -> None:
    log = Log(tmp_path / "mind.db")
    life, secret = lived(log)
    before = log.pieces(secret)
    life.redact(secret)
    life.write(Aborted("EngineFault: told to fail"))
    assert log.pending() == ()
    log.scrub()
    assert log.pieces(secret) == before
    log.close()


def test_what_never_happened_is_forgotten_with_it(tmp_path: Path) -> None:
    """Nobody can name the tokens of an aborted birth: their uids went to others."""
    log = Log(tmp_path / "mind.db")
    life = Life(log)
    life.abort(SECRET)
    uids = life.feed("plain words")
    life.redact(uids[:1])
    log.scrub()
    assert traces(log.path) == []
    assert log.pieces(uids) == {0: b"", 1: b" words"}
    log.close()


def test_a_backup_is_scrubbed_by_naming_the_uids(tmp_path: Path) -> None:
    log = Log(tmp_path / "mind.db")
    _, secret = lived(log)
    log.db.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    early = tmp_path / "early.db"
    shorter = Log(early)
    Life(shorter).feed("A long story")
    shorter.scrub([*secret, 10**6])  # most were not born yet
    assert shorter.pending() == ()
    shorter.close()
    log.close()
    backup = Log(tmp_path / "backup.db", create=False)
    backup.scrub(secret)
    backup.close()
    assert_forgotten(tmp_path / "backup.db", secret)


def test_scrubbing_again_changes_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path / "mind.db")
    life, secret = lived(log)
    life.redact(secret)
    log.scrub()
    records = list(log.records())
    log.scrub()
    log.scrub(secret)
    assert list(log.records()) == records
    log.close()


def test_two_redactions_one_after_the_other(tmp_path: Path) -> None:
    log = Log(tmp_path / "mind.db")
    life, secret = lived(log)
    life.redact(secret[:4])
    log.scrub()
    life.redact(secret[4:])
    log.scrub()
    log.close()
    assert_forgotten(log.path, secret)


class Shadow:
    """Keeps a copy of every birth's text, as an archive would."""

    def __init__(self, log: Log) -> None:
        with log.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS shadow (uid INTEGER PRIMARY KEY, text BLOB)")
        self.told: list[set[int]] = []
        log.followers.append(self)

    def follow(self, db: apsw.Connection, seq: int, record: Record) -> None:
        if isinstance(record, Born):
            rows = zip(record.tokens.uid.tolist(), record.pieces, strict=True)
            db.executemany("INSERT OR REPLACE INTO shadow VALUES (?, ?)", list(rows))

    def scrubbed(self, db: apsw.Connection, uids: set[int]) -> None:
        self.told.append(uids)
        db.executemany("DELETE FROM shadow WHERE uid = ?", [(u,) for u in uids])


def test_followers_forget_within_the_same_transaction(tmp_path: Path) -> None:
    log = Log(tmp_path / "mind.db")
    follower = Shadow(log)
    life = Life(log)
    life.feed("A long story.")
    secret = life.feed(SECRET)
    life.redact(secret)
    assert len(traces(log.path)) >= 5
    log.scrub()
    assert follower.told == [set(secret)]
    log.close()
    assert_forgotten(log.path, secret)


def test_a_reader_that_holds_old_pages_is_named_and_the_log_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("haloweave.journal.connection.PATIENCE", 10)
    log = Log(tmp_path / "mind.db")
    life, secret = lived(log)
    life.redact(secret)
    reader = apsw.Connection(str(log.path))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM records").fetchall()
    with pytest.raises(JournalFailed, match="another program is reading it"):
        log.scrub()
    assert not log.failed
    assert set(log.pending()) == set(secret)
    reader.close()
    log.scrub()
    log.close()
    assert_forgotten(log.path, secret)
