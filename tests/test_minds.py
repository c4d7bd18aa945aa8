# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Minds on disk: names, copies, forks and ends, whatever lies in the way and wherever it is broken off."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from journalled import Life
from minds_on_disk import SECRET, Kept, asleep_mind, lived, opened

from haloweave import asleep
from haloweave.bench.faults import Died, Fault, FaultyDisk, Kind
from haloweave.errors import (
    InvalidInput,
    JournalCorrupt,
    JournalError,
    JournalFailed,
    MindExists,
    MindLocked,
    MindNotFound,
)
from haloweave.journal.archive import Archive
from haloweave.journal.base import Aborted, Born, Checkpoint, State
from haloweave.journal.copies import Copies
from haloweave.journal.fold import context_at, fold, seq_at
from haloweave.journal.log import Log
from haloweave.journal.snapshot import Shelf
from haloweave.memory.mirror import Mirror
from haloweave.memory.tokens import Source
from haloweave.minds import Minds, Place


@pytest.fixture
def minds(tmp_path: Path) -> Minds:
    return Minds(tmp_path / "minds")


def everything(folder: Path) -> dict[str, str]:
    """Every file below, and what is in it; apart from locks, and what SQLite keeps beside a file it reads:
    its shared memory, and a -wal while it is empty."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(("-shm", "lock")))
    told = {str(p.relative_to(folder)): p.read_bytes() for p in files}
    return {name: hashlib.sha256(b).hexdigest() for name, b in told.items() if b or not name.endswith("-wal")}


def said(folder: Path, text: str) -> bool:
    """Whether any byte on disk below says it."""
    return any(text.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())


def past(place: Place) -> tuple[Checkpoint, list[str]]:
    with asleep.reading(place) as log:
        return context_at(log), [line.text for line in log.transcript()]


TABLES = ("passages", "runs", "recalls", "unembedded", "vectors", "terms")


def archived(place: Place) -> dict[str, list[object]]:
    """Every row of the archive, and every word of its index."""
    log = opened(place)
    try:
        return {t: sorted(log.db.execute(f"SELECT * FROM {t}")) for t in TABLES}
    finally:
        log.close()


def same_tokens(a: Checkpoint, b: Checkpoint) -> bool:
    return a.view == b.view and a.turn == b.turn and a.totals == b.totals


# ---- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        ".hidden",
        "-x",
        "_x",
        "x" * 65,
        "x" * 100,
        "äda",
        "a b",
        "a\n",
        "a\0",
        "ada.",
        "con",
        "NUL.txt",
        "Com1",
        "lpt9.log",
        "\ud800",
        "~",
        "C:x",
    ],
)
def test_what_cannot_be_a_name(minds: Minds, name: str) -> None:
    for act in (minds.place, minds.find, minds.make, minds.backup, minds.delete):
        with pytest.raises(InvalidInput, match="cannot be one"):
            act(name)
    for fork in (lambda: minds.fork("ada", name), lambda: minds.bring_in(Path("x"), name)):
        with pytest.raises((InvalidInput, MindNotFound)):
            fork()
    assert not minds.folder.exists()


@pytest.mark.parametrize("name", ["a", "0", "Ada", "a.b-c_d", "console", "x" * 64, "com10", "a" + "-" * 63])
def test_what_can_be_a_name(minds: Minds, name: str) -> None:
    assert minds.make(name).folder.parent == minds.folder
    assert minds.names() == (name,)


def test_no_folder_means_no_minds(minds: Minds) -> None:
    assert minds.names() == ()
    with pytest.raises(MindNotFound, match="there is none yet; halo chat --mind NAME makes one"):
        minds.find("ada")


def test_only_folders_are_minds_and_the_missing_are_told_of_them(minds: Minds, tmp_path: Path) -> None:
    minds.make("bob")
    minds.make("ada")
    (minds.folder / "notes.txt").write_text("x")
    (minds.folder / ".new-eve").mkdir()
    (minds.folder / "not a mind").mkdir()
    assert minds.names() == ("ada", "bob")
    with pytest.raises(MindNotFound, match=r"no mind 'eve' in .*minds \(ada, bob\)"):
        minds.find("eve")
    with pytest.raises(MindNotFound, match="is a file; move it elsewhere"):
        minds.find("notes.txt")
    with pytest.raises(MindNotFound, match="is a file"):
        minds.make("notes.txt")


def test_the_folders_above_are_made_too(tmp_path: Path) -> None:
    place = Minds(tmp_path / "not" / "yet" / "there").make("ada")
    assert place.folder.is_dir()
    assert place.folder.stat().st_mode & 0o777 == 0o700


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(JournalFailed, match="it is no folder"):
        Minds(tmp_path / "file").names()
    with pytest.raises(JournalFailed):
        Minds(tmp_path / "file").make("ada")


def test_a_link_is_seen_and_never_followed(minds: Minds, tmp_path: Path) -> None:
    asleep_mind(minds)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(minds.folder / "ada", elsewhere)
    (minds.folder / "ada").symlink_to(elsewhere)
    before = everything(elsewhere)
    assert minds.names() == ("ada",)
    assert "a link" in asleep.summary(minds.place("ada")).fault
    for act in (minds.find, minds.make, minds.delete, minds.backup, minds.whole):
        with pytest.raises(MindNotFound, match="is a link, and those are not followed"):
            act("ada")
    with pytest.raises(MindExists):
        minds.bring_in(elsewhere / "mind.db", "ada")
    assert everything(elsewhere) == before


# ---- looking -----------------------------------------------------------------------------------------


def test_a_summary(minds: Minds) -> None:
    life = asleep_mind(minds)
    told = asleep.summary(minds.find("ada"))
    view = life.mirror.view
    assert (told.name, told.model, told.budget, told.fault, told.owner) == ("ada", "fake", 512, "", None)
    assert (told.tick, told.rows, told.records) == (view.tick, len(view.tokens), len(life.records))
    assert told.created == "2026-01-02T03:04:05+00:00"
    assert told.size >= minds.place("ada").database.stat().st_size


def test_details(minds: Minds) -> None:
    life = asleep_mind(minds)
    first = minds.backup("ada")
    second = minds.backup("ada")
    more = asleep.details(minds.find("ada"))
    assert more.totals == life.totals
    assert more.turn == life.turn
    assert more.backups == (first, second)
    assert (more.snapshots, more.unfinished) == ((), 0)
    assert more.archive["passages"] >= 1


def garbage(place: Place) -> None:
    place.database.write_bytes(b"this is not a database, however long one looks at it" * 100)


def cut_in_half(place: Place) -> None:
    data = place.database.read_bytes()
    place.database.write_bytes(data[: len(data) // 2])


def of_the_future(place: Place) -> None:
    db = apsw.Connection(str(place.database))
    db.pragma("user_version", 999)
    db.close()


def of_another(place: Place) -> None:
    db = apsw.Connection(str(place.database))
    db.pragma("application_id", 7)
    db.close()


FAULTS: dict[Callable[[Place], object], str] = {
    garbage: "damaged, or not the database of a mind",
    cut_in_half: "damaged|bytes long|lost",
    of_the_future: "written by a newer release",
    of_another: "another program's",
    lambda p: p.database.write_bytes(b""): "empty",
    lambda p: p.database.unlink(): "no such file|missing",
    lambda p: (p.database.unlink(), p.database.mkdir()): "a folder, expected the database of a mind",
}


@pytest.mark.parametrize("damage", FAULTS)
def test_what_cannot_be_read_says_why_and_harms_nobody_else(
    minds: Minds, damage: Callable[[Place], object]
) -> None:
    asleep_mind(minds, "whole")
    asleep_mind(minds)
    place = minds.find("ada")
    damage(place)
    before = everything(minds.folder)
    told = {m.name: m for m in (asleep.summary(minds.place(n)) for n in minds.names())}
    assert not told["whole"].fault
    assert told["ada"].fault
    assert re.search(FAULTS[damage], told["ada"].fault), told["ada"].fault
    for act in (
        lambda: minds.backup("ada"),
        lambda: minds.export("ada", minds.folder.parent / "out"),
        lambda: minds.fork("ada", "new"),
    ):
        with pytest.raises(JournalError):
            act()
    assert everything(minds.folder) == before
    assert not (minds.folder.parent / "out").exists()
    minds.delete("ada")
    assert minds.names() == ("whole",)


def test_a_missing_database_points_to_the_backup(minds: Minds) -> None:
    asleep_mind(minds)
    backup = minds.backup("ada")
    minds.place("ada").database.unlink()
    with pytest.raises(MindNotFound, match=f"its newest backup is {backup}"):
        minds.whole("ada")
    minds.bring_in(backup, "again")
    assert past(minds.find("again"))[0].view.tick > 0


def test_hostile_figures_are_no_figures(minds: Minds) -> None:
    life = lived(minds)
    life.log.put("budget", "9" * 5000)
    life.log.close()
    assert asleep.summary(minds.find("ada")).budget == 0


@pytest.mark.parametrize("awake", [False, True])
def test_reading_changes_no_byte(minds: Minds, awake: bool) -> None:
    life = lived(minds)
    if not awake:
        life.log.close()
    place = minds.find("ada")
    before = everything(place.folder)
    asleep.summary(place)
    asleep.details(place)
    with asleep.reading(place) as log:
        asleep.moment(log, 3)
        assert list(log.transcript())
        with pytest.raises(JournalError):
            log.put("model", "another")
    assert everything(place.folder) == before
    life.log.close()
    Log(place.database, create=False).close()
    assert [p.name for p in place.folder.iterdir()] == ["mind.db"]


def test_a_killed_mind_is_read_with_all_it_had_written(minds: Minds) -> None:
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[2]); from pathlib import Path;"
        "from minds_on_disk import lived; from haloweave.minds import Minds;"
        "lived(Minds(Path(sys.argv[1]))); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(minds.folder), str(Path(__file__).parent)])
    assert done.returncode == 9
    place = minds.find("ada")
    wal = place.folder / "mind.db-wal"
    before = wal.read_bytes()
    assert before
    assert asleep.summary(place).records > 20
    assert wal.read_bytes() == before


def test_the_writer_does_not_notice_readers(minds: Minds, tmp_path: Path) -> None:
    life = lived(minds)
    place = minds.find("ada")
    with asleep.reading(place) as log:
        lines = log.transcript()
        next(lines)
        seen = log.last
        for n in range(300):
            life.feed(f"and on it goes, {n} times over", Source.USER)
            if n == 100:
                life.redact([int(u) for u in life.mirror.view.tokens.uid[:2]])
                minds.export("ada", tmp_path / "middle")
                minds.backup("ada")
            if n == 200:
                life.log.scrub()
        assert sum(1 for _ in lines) > 3
        assert log.last == seen
    life.log.close()
    assert same_tokens(past(place)[0], fold(None, life.records))
    minds.bring_in(tmp_path / "middle", "middle")


def test_who_has_it(minds: Minds) -> None:
    asleep_mind(minds)
    place = minds.find("ada")
    assert asleep.summary(place).owner is None
    with minds.lock("ada"):
        owner = asleep.summary(place).owner
        assert owner is not None
        assert (owner.pid, owner.host) == (os.getpid(), socket.gethostname())
    assert asleep.summary(place).owner is None


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"{",
        b"[]",
        b'{"pid": 1}',
        b'{"pid": "x", "host": "h", "since": "s"}',
        b'{"pid": 1e999, "host": "h", "since": "s"}',
        b'{"pid": 99999999999999999999999, "host": "%s", "since": "2026-01-01T00:00:00+00:00"}'
        % socket.gethostname().encode(),
        b'{"pid": -4, "host": "%s", "since": "2026-01-01T00:00:00+00:00"}' % socket.gethostname().encode(),
        b'{"pid": %d, "host": "%s", "since": "1990-01-01T00:00:00+00:00"}'
        % (os.getpid(), socket.gethostname().encode()),
        b'{"pid": %d, "host": "%s", "since": "soon"}' % (os.getpid(), socket.gethostname().encode()),
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=range(12),
)
def test_an_owner_who_is_none(minds: Minds, told: bytes) -> None:
    asleep_mind(minds)
    place = minds.find("ada")
    (place.folder / "owner.json").write_bytes(told)
    assert asleep.summary(place).owner is None
    assert not asleep.summary(place).fault


def test_an_owner_elsewhere_is_believed(minds: Minds) -> None:
    asleep_mind(minds)
    place = minds.find("ada")
    (place.folder / "owner.json").write_text('{"pid": 1, "host": "far.away", "since": "2026-01-01"}')
    assert asleep.summary(place).owner == asleep.Owner(1, "far.away", "2026-01-01")


# ---- any time of its life ----------------------------------------------------------------------------


def test_the_context_at_every_tick(minds: Minds) -> None:
    """Against a plain replay: all that happened before the birth that ended the tick."""
    life = asleep_mind(minds)
    with asleep.reading(minds.find("ada")) as log:
        newest = life.mirror.view.tick
        for tick in range(newest + 1):
            then = [r for seq, r in log.records(until=seq_at(log, tick))]
            view = fold(None, then).view
            found = asleep.moment(log, tick)
            assert found.view.tick == view.tick == tick
            assert found.view.tokens.uid.tolist() == view.tokens.uid.tolist()
            assert found.newest == newest
            after = [r for _, r in log.records(after=seq_at(log, tick))]
            assert tick == newest or isinstance(after[0], Born)
        assert asleep.moment(log).view == asleep.moment(log, newest).view
        lit = [r.view.tick for r in life.records if isinstance(r, Checkpoint)]
        assert asleep.moment(log, 0).lit is None
        assert asleep.moment(log, lit[1] - 1).lit == lit[0]
        assert asleep.moment(log).lit == asleep.moment(log, lit[1]).lit == lit[1]


@pytest.mark.parametrize("tick", [-1, 10**6, 2**80])
def test_a_tick_that_never_was(minds: Minds, tick: int) -> None:
    asleep_mind(minds)
    with asleep.reading(minds.find("ada")) as log, pytest.raises(InvalidInput, match=r"tick: expected 0\.\."):
        asleep.moment(log, tick)
    with pytest.raises(InvalidInput, match=r"tick: expected 0\.\."):
        minds.fork("ada", "eve", tick=tick)
    assert minds.names() == ("ada",)


def test_it_spells_without_a_tokenizer(minds: Minds) -> None:
    life = lived(minds)
    uids = life.log.occurrences(SECRET)[0]
    tick = life.mirror.view.tick
    life.redact(uids)
    life.log.scrub()
    life.feed("Later.")
    life.log.close()
    with asleep.reading(minds.find("ada")) as log:
        then, now = asleep.moment(log, tick - 1), asleep.moment(log)
    spelt = b"".join(then.speller.piece(int(i)) for i in asleep.struck_once(then.view).tokens.token_id)
    assert b"The word is[redacted] and nobody must know." in spelt
    assert b"mind the gap" in spelt
    spelt = b"".join(now.speller.piece(int(i)) for i in now.view.tokens.token_id)
    assert b"[redacted]" not in spelt
    assert spelt.endswith(b"Later.")
    with pytest.raises(InvalidInput, match="wake the mind"):
        now.speller.encode(["more"])


# ---- copies ------------------------------------------------------------------------------------------


def test_there_and_back(minds: Minds, tmp_path: Path) -> None:
    asleep_mind(minds)
    minds.export("ada", tmp_path / "ada.halo")
    assert (tmp_path / "ada.halo").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ada.halo", "minds"]
    before = everything(tmp_path / "minds")
    minds.bring_in(tmp_path / "ada.halo", "eve")
    assert {n: h for n, h in everything(tmp_path / "minds").items() if n in before} == before
    a, eve = past(minds.find("ada")), past(minds.find("eve"))
    assert same_tokens(a[0], eve[0])
    assert a[1] == eve[1]
    with asleep.reading(minds.find("eve")) as log:
        assert log.get("model") == "fake"


def test_an_export_overwrites_only_by_force(minds: Minds, tmp_path: Path) -> None:
    asleep_mind(minds)
    (tmp_path / "out").write_text("precious")
    with pytest.raises(MindExists, match="there is a file of that name already"):
        minds.export("ada", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"
    minds.export("ada", tmp_path / "out", force=True)
    minds.bring_in(tmp_path / "out", "eve")
    (tmp_path / "folder").mkdir()
    for force in (False, True):
        with pytest.raises(MindExists, match="a folder of that name"):
            minds.export("ada", tmp_path / "folder", force=force)
    with pytest.raises(JournalFailed):
        minds.export("ada", tmp_path / "not there" / "out")


def test_a_mind_is_not_made_of_just_anything(minds: Minds, tmp_path: Path) -> None:
    asleep_mind(minds)
    whole = tmp_path / "whole"
    minds.export("ada", whole)
    data = whole.read_bytes()
    bad = {
        "empty": b"",
        "text": b"hello\n" * 1000,
        "half": data[: len(data) // 2],
        "one page": data[:4096],
        "longer": data + b"x" * 4096,
        "torn": data[: len(data) // 2] + bytes(4096) + data[len(data) // 2 + 4096 :],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises((JournalCorrupt, JournalFailed)):
            minds.bring_in(tmp_path / name, "eve")
        assert (tmp_path / name).read_bytes() == content
    with pytest.raises(MindNotFound, match="no such file"):
        minds.bring_in(tmp_path / "nothing", "eve")
    with pytest.raises(JournalCorrupt, match="a folder"):
        minds.bring_in(tmp_path, "eve")
    with pytest.raises(JournalCorrupt, match="no ordinary file"):
        minds.bring_in(Path(os.devnull), "eve")
    with pytest.raises(MindExists, match="choose another name, or delete it first"):
        minds.bring_in(whole, "ada")
    assert minds.names() == ("ada",)
    assert [n for n in os.listdir(minds.folder) if n.startswith(".new")] == []


def test_every_flipped_byte_is_noticed_or_harmless(minds: Minds, tmp_path: Path) -> None:
    """A record's bytes are sealed: an import is refused, or gives the very same past."""
    life = asleep_mind(minds)
    minds.export("ada", tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    whole, refused = past(minds.find("ada")), 0
    said_at = data.find(b"mind the gap")
    for at in [said_at, *range(100, len(data), len(data) // 60)]:
        (tmp_path / "bad").write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        try:
            minds.bring_in(tmp_path / "bad", "eve")
        except JournalError:
            refused += 1
        else:
            told = past(minds.find("eve"))
            assert same_tokens(told[0], fold(None, life.records))
            assert told[1] == whole[1]
            minds.delete("eve")
        assert minds.names() == ("ada",)
    assert refused


def test_a_foreign_trigger_is_not_taken_in(minds: Minds, tmp_path: Path) -> None:
    asleep_mind(minds)
    minds.export("ada", tmp_path / "out")
    db = apsw.Connection(str(tmp_path / "out"))
    db.execute("CREATE TRIGGER sly AFTER INSERT ON records BEGIN DELETE FROM meta; END")
    db.close()
    with pytest.raises(JournalCorrupt, match="sly"):
        minds.bring_in(tmp_path / "out", "eve")


# ---- forks -------------------------------------------------------------------------------------------


def test_a_fork_at_every_tick(minds: Minds) -> None:
    life = asleep_mind(minds)
    before = everything(minds.folder)
    for tick in range(life.mirror.view.tick + 1):
        last = minds.fork("ada", "eve", tick=tick)
        with asleep.reading(minds.find("ada")) as log:
            then = asleep.moment(log, tick).view
        with asleep.reading(minds.find("eve")) as log:
            assert log.last == last
            assert context_at(log).view == then
        eve = opened(minds.find("eve"))  # and it goes on from there
        on = Life(eve, mirror=Mirror(then))
        on.feed("A different life from here.")
        eve.close()
        minds.delete("eve")
    assert everything(minds.folder) == before


def test_a_fork_has_an_archive_of_its_own_past(minds: Minds) -> None:
    """Whatever it follows since is what a mind would have that had lived just so long."""
    life = asleep_mind(minds)
    for tick in range(0, life.mirror.view.tick + 1, 3):
        last = minds.fork("ada", "eve", tick=tick)
        fresh = opened(minds.make("fresh"))
        for record in life.records[:last]:
            fresh.write(record)
        fresh.close()
        assert archived(minds.find("eve")) == archived(minds.find("fresh"))
        minds.delete("eve")
        minds.delete("fresh")


def test_a_fork_holds_nothing_of_what_came_later(minds: Minds) -> None:
    life = lived(minds)
    later = life.feed(" ".join(f"unheard{n:04}" for n in range(3000)), Source.LOG)
    life.cull(later)
    life.log.close()
    minds.fork("ada", "eve", tick=1)
    assert said(minds.place("ada").folder, "unheard0")
    assert not said(minds.place("eve").folder, "unhear")
    assert not said(minds.place("eve").folder, "pressur")


def test_a_fork_takes_the_snapshots_of_its_past_along(minds: Minds) -> None:
    kept = Kept(minds.make("ada"))
    kept.hear("The first thing. " * 4)
    kept.snapshot()
    tick, ids, trace = kept.mind.view.tick, kept.mind.engine.kv.ids, kept.mind.engine.kv.trace  # type: ignore[attr-defined]
    kept.hear("The second thing, which is longer. " * 8)
    kept.snapshot()
    kept.close()
    minds.fork("ada", "eve", tick=tick)
    eve = Kept(minds.find("eve"))
    assert eve.how == "snapshot"
    engine = eve.mind.engine
    assert engine.kv.ids.tolist() == ids.tolist()  # type: ignore[attr-defined]
    assert engine.kv.trace.tolist() == trace.tolist()  # type: ignore[attr-defined]
    eve.hear("Another second thing.")
    eve.close()
    minds.fork("ada", "all")
    assert len(Shelf.peek(minds.place("all").snapshots)) == 2
    assert Kept(minds.find("all")).how == "snapshot"


def test_what_is_promised_to_be_redacted_goes_into_no_copy(minds: Minds, tmp_path: Path) -> None:
    life = lived(minds)
    place = minds.find("ada")
    seq, told = life.checkpoint(), life.records[-1]
    assert isinstance(told, Checkpoint)
    Shelf(place.snapshots).put(seq, State(told, {}, None, False), {})
    life.redact(life.log.occurrences(SECRET)[0])
    assert life.log.pending()  # promised, and not done
    minds.export("ada", tmp_path / "out")
    minds.fork("ada", "eve")
    backup = minds.backup("ada")
    assert said(place.folder, SECRET)
    assert not said(minds.place("eve").folder, SECRET)
    assert SECRET.encode() not in (tmp_path / "out").read_bytes()
    assert SECRET.encode() not in backup.read_bytes()
    assert Shelf.peek(minds.place("eve").snapshots) == []
    with asleep.reading(minds.find("eve")) as log:
        assert log.pending() == ()


def test_a_redaction_reaches_every_backup_and_half_of_one(minds: Minds) -> None:
    life = lived(minds)
    place = minds.find("ada")
    backups = [minds.backup("ada") for _ in range(3)]
    assert all(SECRET.encode() in b.read_bytes() for b in backups)
    shutil.copy(backups[0], backups[0].with_name("20000101T000000.db.part"))
    uids = life.log.occurrences(SECRET)[0]
    life.redact(uids)
    Copies(place.backups).scrub(uids)
    life.log.scrub()
    life.log.close()
    assert not said(place.folder, SECRET)
    assert Copies(place.backups).all() == tuple(backups)
    for number, backup in enumerate(backups):
        minds.bring_in(backup, f"eve{number}")
    (place.backups / "old.db").write_bytes(b"no database")
    with pytest.raises(JournalCorrupt, match=r"old\.db.*it may hold what was to be redacted"):
        Copies(place.backups).scrub(uids)


def test_backups_are_in_the_order_they_were_made(minds: Minds) -> None:
    from datetime import UTC, datetime

    asleep_mind(minds)
    place = minds.find("ada")
    copies = Copies(place.backups, now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    with asleep.reading(place) as log:
        made = [copies.make(log) for _ in range(12)]
    assert [p.name for p in made[:3]] == [
        "20260102T030405.db",
        "20260102T030405-1.db",
        "20260102T030405-2.db",
    ]
    assert copies.all() == tuple(made)


# ---- shortened ---------------------------------------------------------------------------------------


def copy_of(place: Place, to: Place) -> Log:
    to.folder.mkdir(parents=True)
    shutil.copy(place.database, to.database)
    return opened(to)


def test_cut_after_every_record(minds: Minds) -> None:
    """Against a log that was never longer; or refused, where an abort would be lost, and nothing changed."""
    life = asleep_mind(minds)
    place, refused = minds.find("ada"), []
    for seq in range(len(life.records) + 1):
        cut = copy_of(place, minds.place(f"cut{seq}"))
        if seq < len(life.records) and isinstance(life.records[seq], Aborted):
            with pytest.raises(InvalidInput, match=f"after record {seq} comes an abort"):
                cut.cut(seq)
            refused.append(seq)
            assert cut.last == len(life.records)
        else:
            cut.cut(seq)
            assert cut.last == seq
        told = [record for _, record in cut.records()]
        cut.close()
        fresh = opened(minds.make(f"fresh{seq}"))
        for record in life.records[: len(told)]:
            fresh.write(record)
        assert len(told) in (seq, len(life.records))
        assert [fold(None, told[:n]) for n in range(len(told) + 1)] == [
            fold(None, life.records[:n]) for n in range(len(told) + 1)
        ]
        fresh.close()
        assert archived(minds.find(f"cut{seq}")) == archived(minds.find(f"fresh{seq}"))
    assert len(refused) == 1


def test_a_log_that_was_cut_goes_on(minds: Minds) -> None:
    life = asleep_mind(minds)
    log = copy_of(minds.find("ada"), minds.place("eve"))
    log.cut(3)
    eve = Life(log, mirror=Mirror(context_at(log).view))
    eve.feed("Another life. It goes elsewhere from here on.")
    eve.abort("or not")
    eve.cull([int(u) for u in eve.mirror.view.tokens.uid[-4:]])
    log.close()
    told = past(minds.find("eve"))
    assert told[0].view.tokens.uid.tolist() == eve.mirror.view.tokens.uid.tolist()
    assert told[1][-1].endswith("Another life. It goes elsewhere from here on.")
    assert len(life.records) > 8


def test_a_cut_breaks_no_promise(minds: Minds) -> None:
    """The record that redacts is forgotten; what it redacted all the same."""
    life = lived(minds)
    life.redact(life.log.occurrences(SECRET)[0])
    log, before = life.log, len(life.records) - 1
    assert log.pending()
    log.cut(before)
    assert log.pending() == ()
    assert log.last == before
    log.close()
    assert not said(minds.place("ada").folder, SECRET)


@pytest.mark.parametrize("seq", [-1, 10**6])
def test_there_is_no_such_record_to_cut_after(minds: Minds, seq: int) -> None:
    life = lived(minds)
    with pytest.raises(InvalidInput, match=r"cut: expected a record 0\.\."):
        life.log.cut(seq)
    assert life.log.last == len(life.records)
    life.log.close()


def test_a_cut_that_is_broken_off_has_not_happened(minds: Minds) -> None:
    class Failing:
        def cut(self, db: apsw.Connection, seq: int) -> None:
            raise ZeroDivisionError

    life = lived(minds)
    life.log.followers.append(Failing())  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        life.log.cut(2)
    assert life.log.failed
    life.log.close()
    before = archived(minds.find("ada"))
    log = opened(minds.find("ada"))
    assert log.last == len(life.records)
    log.cut(log.last)
    log.close()
    assert archived(minds.find("ada")) == before


def test_a_damaged_index_is_made_anew(minds: Minds) -> None:
    asleep_mind(minds)
    place = minds.find("ada")
    before = archived(place)
    assert before["runs"]
    assert before["terms"]
    db = apsw.Connection(str(place.database))
    db.execute("DELETE FROM passages; DELETE FROM runs; DELETE FROM unembedded")
    db.execute("INSERT INTO words (words) VALUES ('delete-all')")
    db.close()
    assert archived(place) != before
    log = Log(place.database)
    archive = Archive(log)
    archive.rebuild()
    assert archive.search("boiler pressure")
    log.close()
    assert archived(place) == before


# ---- the end -----------------------------------------------------------------------------------------


def test_deleted_is_gone(minds: Minds) -> None:
    asleep_mind(minds)
    minds.backup("ada")
    minds.delete("ada")
    assert [n for n in os.listdir(minds.folder) if n != ".lock"] == []
    with pytest.raises(MindNotFound):
        minds.delete("ada")


def test_a_mind_in_use_is_not_deleted(minds: Minds) -> None:
    asleep_mind(minds)
    with minds.lock("ada"):
        with pytest.raises(MindLocked, match=f"in use by process {os.getpid()}"):
            minds.delete("ada")
        assert asleep.summary(minds.find("ada")).fault == ""
        minds.export("ada", minds.folder.parent / "out")
        minds.backup("ada")
        minds.fork("ada", "eve")
    minds.delete("ada")


def test_one_at_a_time(minds: Minds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haloweave.minds._PATIENCE", 0.1)
    asleep_mind(minds)
    with minds._alone():
        for act in (
            lambda: Minds(minds.folder).delete("ada"),
            lambda: Minds(minds.folder).fork("ada", "eve"),
        ):
            with pytest.raises(MindLocked, match="another command is at work"):
                act()
    assert minds.names() == ("ada",)


# ---- broken off --------------------------------------------------------------------------------------


def acts(minds: Minds, disk: FaultyDisk, out: Path) -> dict[str, Callable[[], object]]:
    faulty = Minds(minds.folder, disk=disk)
    return {
        "import": lambda: faulty.bring_in(minds.folder.parent / "file", "eve"),
        "fork": lambda: faulty.fork("ada", "eve", tick=1),
        "delete": lambda: faulty.delete("old"),
        "export": lambda: faulty.export("ada", out),
        "backup": lambda: faulty.backup("ada"),
    }


@pytest.mark.parametrize("kind", [Kind.DEATH, Kind.TORN_DEATH, Kind.ERROR], ids=lambda k: k.name)
@pytest.mark.parametrize("what", ["import", "fork", "delete", "export", "backup"])
def test_all_or_nothing_wherever_it_is_broken_off(tmp_path: Path, what: str, kind: Kind) -> None:
    start = Minds(tmp_path / "start" / "minds")
    kept = Kept(start.make("ada"))
    kept.hear("The first thing. " * 3)
    kept.snapshot()
    kept.hear("The second.")
    kept.close()
    asleep_mind(start, "old")
    start.export("old", tmp_path / "start" / "file")
    for k in range(1000):
        shutil.copytree(tmp_path / "start", tmp_path / "now")
        minds, out = Minds(tmp_path / "now" / "minds"), tmp_path / "now" / "out"
        ada = past(minds.find("ada"))
        old = everything(minds.place("old").folder)
        disk = FaultyDisk(Fault(k, kind, errno.ENOSPC))
        try:
            acts(minds, disk, out)[what]()
        except (Died, JournalFailed):
            done = False
        else:
            done = True
        assert past(minds.find("ada"))[1] == ada[1]
        if what in ("import", "fork"):
            assert minds.names() in (("ada", "old"), ("ada", "eve", "old"))
            if "eve" in minds.names():
                past(minds.find("eve"))
                if what == "fork":
                    Kept(minds.find("eve")).close()
                minds.delete("eve")
            elif done:
                pytest.fail("done, and not there")
        if what == "delete" and "old" in minds.names():
            assert not done
            assert everything(minds.place("old").folder) == old
        if what == "export" and out.exists():
            minds.bring_in(out, "eve")
            minds.delete("eve")
        elif what == "export":
            assert not done
        for backup in Copies(minds.place("ada").backups).all():
            minds.bring_in(backup, "eve")
            minds.delete("eve")
        minds.fork("ada", "next")  # which sweeps
        minds.backup("ada")
        left = [
            p.name
            for p in minds.folder.rglob("*")
            if p.name.startswith((".new-", ".gone-")) or "part" in p.name
        ]
        assert left == []
        shutil.rmtree(tmp_path / "now")
        if done and disk.operations <= k:
            break
    else:
        pytest.fail("it never came to its end")
    assert k > 10


def test_what_is_done_outlasts_a_power_cut(minds: Minds, tmp_path: Path) -> None:
    kept = Kept(minds.make("ada"))
    kept.hear("The first thing.")
    kept.snapshot()
    kept.close()
    asleep_mind(minds, "old")
    minds.export("old", tmp_path / "file")
    for what in ("import", "backup", "export", "delete", "fork"):
        disk = FaultyDisk()
        acts(minds, disk, tmp_path / "out")[what]()
        disk.power_cut()
        if what in ("import", "fork"):
            assert past(minds.find("eve"))[0].view.tick > 0
            minds.delete("eve")
    assert minds.names() == ("ada",)
    assert len(Copies(minds.place("ada").backups).all()) == 1
    minds.bring_in(tmp_path / "out", "again")


def test_a_full_disk_is_told_in_words(minds: Minds, tmp_path: Path) -> None:
    asleep_mind(minds)
    faulty = Minds(minds.folder, disk=FaultyDisk(Fault(4, Kind.ERROR, errno.ENOSPC, lasting=True)))
    with pytest.raises(JournalFailed, match="the disk is full; free some space"):
        faulty.fork("ada", "eve")
    assert minds.names() == ("ada",)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_read(minds: Minds, tmp_path: Path) -> None:
    asleep_mind(minds)
    place = minds.find("ada")
    place.database.chmod(0o400)
    place.folder.chmod(0o500)
    minds.folder.chmod(0o500)
    try:
        assert not asleep.summary(place).fault
        minds.export("ada", tmp_path / "out")
        for act in (
            lambda: minds.backup("ada"),
            lambda: minds.fork("ada", "eve"),
            lambda: minds.delete("ada"),
        ):
            with pytest.raises(JournalFailed, match="permission denied"):
                act()
        assert os.listdir(place.folder) == ["mind.db"]
    finally:
        minds.folder.chmod(0o700)
        place.folder.chmod(0o700)


def test_a_fork_passes_over_a_snapshot_that_goes_away(minds: Minds) -> None:
    """The mind is awake, and takes a new one."""
    kept = Kept(minds.make("ada"))
    kept.hear("The first thing. " * 3)
    kept.snapshot()
    kept.hear("The second.")
    kept.snapshot()
    oldest = Shelf.peek(minds.place("ada").snapshots)[-1].folder

    class Vanishing(FaultyDisk):
        def read(self, path: Path) -> bytes:
            if path.parent == oldest and path.name != "manifest.json":
                shutil.rmtree(oldest, ignore_errors=True)
            return super().read(path)

    Minds(minds.folder, disk=Vanishing()).fork("ada", "eve")
    kept.close()
    assert not oldest.exists()
    assert len(Shelf.peek(minds.place("eve").snapshots)) == 1
    assert len(os.listdir(minds.place("eve").snapshots)) == 1
    assert Kept(minds.find("eve")).how == "snapshot"
