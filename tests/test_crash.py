# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Nothing that was acknowledged is lost, whatever the disk does and whenever the process dies: the benchmark,
shortened; and the benchmark would notice if it were otherwise."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
import typer
from fakes import FakeEngine, fake_mind
from typer.testing import CliRunner

from haloweave.bench.crash import command
from haloweave.bench.crash.cases import HARMS, Harm
from haloweave.bench.crash.report import Tallies, killed, swept
from haloweave.bench.crash.sweep import Lab, laboratory, share
from haloweave.bench.crash.trace import leaks
from haloweave.bench.crash.vfs import FaultyVFS, faulty
from haloweave.bench.crash.work import Job, carried_out
from haloweave.bench.crash.world import BUDGET, Bytes, Kit, tiny_kit
from haloweave.bench.faults import Died
from haloweave.errors import EngineFault
from haloweave.journal import connection
from haloweave.journal.archive import Archive
from haloweave.journal.keeper import Keeper, Keeping
from haloweave.journal.log import Log
from haloweave.journal.snapshot import Shelf


def fake_kit() -> Kit:
    return Kit("fake", lambda: FakeEngine(max_rows=BUDGET, says=None), Bytes(260), ending=23.0)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with laboratory(tmp_path, fake_kit()) as made:
        yield made


# ---- every operation -------------------------------------------------------------------------------------


def test_whatever_the_disk_does_nothing_is_lost(lab: Lab) -> None:
    assert {step.kind for step in lab.steps} >= {"say", "cull", "substitute", "snapshot", "recall", "redact"}
    tallies = swept()
    for _, _, came in share(lab, stride=229, far=30):
        assert not came.wrong, came
        tallies.add(
            {
                "layer": came.case.layer,
                "harm": came.case.harm.name,
                "act": came.case.act,
                "ended": came.ended,
                "back": came.back,
                "notes": came.notes,
                "wrong": came.wrong,
            }
        )
    assert {name[0] for name in tallies.by_name} == set(HARMS)
    assert tallies.total.ended.keys() == {"died", "stopped", "went on"}
    assert tallies.total.back["replayed"] > tallies.total.back["snapshot"] > 0


def test_every_operation_of_every_act_is_a_case_for_every_harm(lab: Lab) -> None:
    cases = list(lab.cases())
    assert {case.harm for case in cases} == set(Harm)
    writes = [c for c in cases if c.layer == "database" and c.what == "write" and c.harm is Harm.DEATH]
    for act in {c.act for c in writes}:
        starts = {c.start for c in writes if c.act == act}
        assert starts, act
    for start, act in {(c.start, c.act) for c in cases}:
        mine = sorted({c.at for c in cases if (c.start, c.act, c.layer) == (start, act, "database")})
        assert mine == list(range(len(mine))), (start, act)


@pytest.mark.slow
def test_whatever_the_disk_does_a_real_model_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    with laboratory(tmp_path, tiny_kit()) as lab:
        for _, _, came in share(lab, stride=9, far=25):
            assert not came.wrong, came


# ---- kills -----------------------------------------------------------------------------------------------


def slain(tmp_path: Path, kills: int, cycles: int) -> Tallies:
    tallies = killed()
    job = Job("kills", str(tmp_path / "minds"), kills=kills, far=2, seed=3, cycles=cycles)

    def hear(line: dict[str, Any]) -> None:
        assert not line["wrong"], line
        tallies.add(line)

    carried_out([job], hear)
    return tallies


@pytest.mark.skipif(not hasattr(os, "fork"), reason="minds are forked")
def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    total = slain(tmp_path, kills=8, cycles=1).total
    assert total.cases == 8
    assert total.compared >= 4 * 200


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="minds are forked")
def test_killed_a_hundred_times(tmp_path: Path) -> None:
    tallies = slain(tmp_path, kills=100, cycles=4)
    assert tallies.total.cases == 100
    assert tallies.total.found["snapshot being written"]
    assert {"redact", "backup"} <= {name[0] for name in tallies.by_name}


# ---- what it has found -----------------------------------------------------------------------------------


def test_a_snapshot_by_hand_waits_for_the_one_that_is_being_written(tmp_path: Path) -> None:
    """Else the older one, once written, would take the newer for one of an undone past."""
    log = Log(tmp_path / "mind.db")
    slow = Slow(tmp_path / "snapshots")
    keeper = Keeper(log, slow, Archive(log), {}, how=Keeping(every=1))
    mind = fake_mind(journal=keeper)
    list(mind.listen("words"))
    assert keeper.tend(mind.state) == []
    keeper.snapshot(mind.state())
    assert slow.most == 1
    assert [kept.seq for kept in slow.shelf.all()] == [log.last, log.last - 1]
    keeper.close(None)


class Slow:
    """A shelf that takes its time, and counts how many are at it at once."""

    def __init__(self, folder: Path) -> None:
        self.shelf = Shelf(folder)
        self.now = self.most = 0

    def put(self, *what: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.05)
        try:
            return self.shelf.put(*what)
        finally:
            self.now -= 1

    def all(self) -> Any:
        return self.shelf.all()


# ---- it would be noticed ---------------------------------------------------------------------------------


def test_a_log_that_does_not_sync_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection._SETTINGS, "synchronous", "OFF")
    with laboratory(tmp_path, fake_kit()) as lab:
        cuts = [c for c in lab.cases() if c.act == "say" and c.harm is Harm.POWER and c.layer == "database"]
        found = [wrong for case in cuts[::25] for wrong in lab.run(case).wrong]
    assert any("acknowledged" in wrong for wrong in found), found


def test_a_redaction_that_leaves_a_byte_is_found_out(lab: Lab) -> None:
    ((text, _),) = lab.trace.secrets
    lab.home.joinpath("left.bin").write_bytes(b"xx" + text.encode() + b"yy")
    assert leaks(lab.trace, 0, lab.home) == []
    assert any("left.bin" in where for where in leaks(lab.trace, 1, lab.home))


def test_a_worker_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("no folder")
    with pytest.raises(EngineFault, match="broke off"):
        carried_out([Job("kills", str(tmp_path / "file" / "minds"), kills=1)], lambda line: None)


# ---- the faulty file system ------------------------------------------------------------------------------


def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with faulty("cutting") as vfs:
        vfs.watch = True
        db = opened(path, vfs)
        db.execute("CREATE TABLE t (n); INSERT INTO t VALUES (1)")
        db.pragma("synchronous", "OFF")
        db.execute("INSERT INTO t VALUES (2)")
        connection.leave(db)
        vfs.power_cut()
    again = apsw.Connection(str(path))
    assert again.execute("SELECT n FROM t").fetchall() == [(1,)]
    again.close()


def test_a_dead_process_does_nothing_more(tmp_path: Path) -> None:
    with faulty("dying") as vfs:
        db = opened(tmp_path / "a.db", vfs)
        db.execute("CREATE TABLE t (n)")
        vfs.fail(2, Died)
        with pytest.raises(Died):
            db.execute("INSERT INTO t VALUES (1)")
        assert not vfs.power.on
        before = [path.read_bytes() for path in sorted(tmp_path.glob("a.db*")) if path.suffix != ".db-shm"]
        db.execute("INSERT INTO t VALUES (2)")
        db.close()
        after = [path.read_bytes() for path in sorted(tmp_path.glob("a.db*")) if path.suffix != ".db-shm"]
        assert after == before


def test_part_of_what_was_not_synced_may_survive(tmp_path: Path) -> None:
    seen = set()
    with faulty("parting") as vfs:
        for luck in range(12):
            path = tmp_path / f"{luck}"
            path.write_bytes(b"0" * 8)
            vfs.watch = True
            for at in (0, 4):
                vfs.changed(path, at, b"1111")
            path.write_bytes(b"1" * 8)
            vfs.power_cut(random.Random(luck))
            seen.add(path.read_bytes())
    assert {b"00000000", b"11110000", b"00001111"} <= seen
    assert any(data.count(b"1") in (2, 6) for data in seen)


def opened(path: Path, vfs: FaultyVFS) -> apsw.Connection:
    db = apsw.Connection(str(path), vfs=vfs.name)
    db.pragma("journal_mode", "WAL")
    db.pragma("synchronous", "FULL")
    return db


# ---- the command -----------------------------------------------------------------------------------------


def line(wrong: Sequence[str], **more: Any) -> dict[str, Any]:
    told = {"part": 0, "done": 1, "of": 1, "act": "say", "back": "replayed", "notes": []}
    return {**told, "wrong": list(wrong), **more}


@pytest.mark.parametrize("wrong", [[], ["3 tokens are lost or changed, the first is 7"]])
def test_the_command_counts_and_says(monkeypatch: pytest.MonkeyPatch, wrong: list[str]) -> None:
    jobs: list[Job] = []

    def fake(given: Sequence[Job], hear: Callable[[dict[str, Any]], None]) -> None:
        jobs.extend(given)
        for job in given:
            if job.what == "sweep":
                hear(line(wrong, layer="database", harm="DEATH", ended="died", at=3, what="write", start="1"))
            else:
                hear(line([], found=["snapshot being written"], compared=200))

    monkeypatch.setattr(command, "carried_out", fake)
    app = typer.Typer()
    app.command()(command.crash)
    done = CliRunner().invoke(app, ["--json", "--kills", "3", "--stride", "2", "--workers", "2"])
    assert done.exit_code == (1 if wrong else 0)
    told = [json.loads(one) for one in done.stdout.splitlines()]
    sweep = next(one for one in told if one.get("class") == ["database", "death"])
    assert (sweep["cases"], sweep["wrong"]) == (2, 2 * len(wrong))
    kill = next(one for one in told if one.get("part") == "kill")
    assert kill["half_done"] == {"snapshot being written": 2}
    assert [job.kills for job in jobs if job.what == "kills"] == [1, 2]
    shown = CliRunner().invoke(app, ["--kills", "1", "--stride", "40"])
    assert "being" in shown.stdout
