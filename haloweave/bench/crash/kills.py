# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Real SIGKILLs at random moments of a real process, and what is there afterwards.

Knows how minds are woken, the life and its trace. Must not know how results are shown. One process loads the
model and lives the uninterrupted life; each mind that is to be killed, and each that is woken to be judged,
is a fork of it (POSIX only; of one thread, or a fork may never come to life). What a mind acknowledges it
writes to a pipe, which outlives it. Most are killed at any moment; every fourth in the midst of an act that
is rare and delicate.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from haloweave import build, waking
from haloweave.bench.crash.script import Place, Step, play, secret
from haloweave.bench.crash.trace import Point, Trace, key_of, leaks, state_of, traced, verdict
from haloweave.bench.crash.world import Alive, Kit, recaller
from haloweave.errors import HaloError
from haloweave.events import Event, Spoke
from haloweave.journal.base import Journal, Vault
from haloweave.journal.connection import leave
from haloweave.journal.copies import Copies
from haloweave.journal.log import Log
from haloweave.mind import Mind
from haloweave.minds import Minds
from haloweave.minds import Place as Home
from haloweave.progress import Progress
from haloweave.settings import Settings

NEXT = 200
"""Tokens that have to be the same after a kill."""
_SOON, _LATE = 0.005, 0.4
"""Seconds after its start within which a process is killed."""
_DELICATE = ("redact", "backup", "snapshot", "redact", "weave", "restore")
_WITHIN = 0.06
"""Seconds after such an act has begun within which its process is killed."""
_WAITS = 20.0
"""Seconds to wait for such an act."""
_MESSAGE = struct.Struct("<bq")
_AWAKE, _STEP, _ACK = range(3)


@dataclass(frozen=True)
class Killed:
    """One kill, and what came back."""

    milliseconds: float
    act: str
    """What it was doing, for a person."""
    found: tuple[str, ...]
    """What was half done on disk."""
    acknowledged: int
    """Events, in all of its life."""
    back: str
    passes: int
    """Repeated from the journal."""
    compared: int
    """Tokens said afterwards, and held against those of the uninterrupted life."""
    wrong: tuple[str, ...]


@dataclass
class Nursery:
    """Where minds are born to be killed. `root` is a folder of minds."""

    root: Path
    kit: Kit
    luck: random.Random
    steps: tuple[Step, ...]
    """The last is long enough that the `NEXT` tokens can be said in it, and nobody is killed there."""
    trace: Trace = field(default_factory=Trace)
    lives: int = 0

    def kills(self, count: int, far: int = 1) -> Iterator[Killed]:
        """So many kills; after every `far`-th the next tokens are compared. The same mind is killed again
        and again, until it has come to the end of its life."""
        self._live()
        done = known = before = 0
        while done < count:
            name = f"mind{self.lives}"
            run = self._run_and_kill(name, self.luck.choice(_DELICATE) if done % 4 == 3 else None)
            known = max(known, run.revision)
            if run.ended:
                self.lives, before = self.lives + 1, 0
                shutil.rmtree(self.root / name)
                if run.status:
                    yield Killed(
                        run.after, run.act, (), known, "not at all", 0, 0, (f"ended with {run.status}",)
                    )
                    done += 1
                known = 0
                continue
            yield self._judged(name, run, known, done % far == 0, again=before > 0)
            done, before = done + 1, before + 1

    def _live(self) -> None:
        with self._awake("reference") as alive:
            self.trace = traced(alive, self.steps, lambda n: None, secret)
        shutil.rmtree(self.root / "reference")

    # ---- minds -----------------------------------------------------------------------------------------

    def _awake(self, name: str) -> _Awake:
        return _Awake(self, name)

    def home(self, name: str) -> Home:
        return Minds(self.root).place(name)

    def make(
        self, s: Settings, journal: Journal, vault: Vault, progress: Progress
    ) -> tuple[Mind, dict[str, str]]:
        mind = build.assemble(s, self.kit.engine(), self.kit.codec, journal, vault)
        return mind, {"model": self.kit.name}

    # ---- killing ---------------------------------------------------------------------------------------

    def _run_and_kill(self, name: str, delicate: str | None) -> _Run:
        reader, writer = os.pipe()
        started = time.monotonic()
        pid = _forked(lambda: self._live_on(name, writer), reader)
        os.close(writer)
        run = _Run(self.steps)
        delay = self.luck.uniform(_SOON, _LATE)
        if delicate is not None:
            run.listen(reader, started + _WAITS, delicate)
            started, delay = time.monotonic(), self.luck.uniform(0, _WITHIN)
        run.listen(reader, started + delay)
        run.after = 1e3 * (time.monotonic() - started)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        run.listen(reader, None)
        os.close(reader)
        run.ended = os.WIFEXITED(status)
        run.status = os.waitstatus_to_exitcode(status) if run.ended else 0
        return run

    def _live_on(self, name: str, writer: int) -> None:
        """In the fork: wake, and go on with life until killed, or until its last act."""

        def tell(tag: int, value: int) -> None:
            os.write(writer, _MESSAGE.pack(tag, value))

        with self._awake(name) as alive:
            at = self.trace.place(alive)
            if at is None:
                raise HaloError(f"never was at revision {key_of(alive)}")
            tell(_AWAKE, alive.mind.view.revision)
            for n in range(at.step, len(self.steps) - 1):
                tell(_STEP, n)
                here = at if n == at.step else Place(n)
                play(alive, self.steps, here, lambda e: tell(_ACK, alive.mind.view.revision), n + 1)
            os._exit(0)

    # ---- judging ---------------------------------------------------------------------------------------

    def _judged(self, name: str, run: _Run, known: int, far: bool, *, again: bool) -> Killed:
        """`again`: the same mind was killed before, so some act of it may have been begun twice."""
        reader, writer = os.pipe()
        pid = _forked(lambda: self._judge(name, known, far, again, writer), reader)
        os.close(writer)
        with os.fdopen(reader) as told:
            answer = told.read()
        os.waitpid(pid, 0)
        found: dict[str, Any] = json.loads(answer) if answer else {"wrong": ["it could not be judged"]}
        return Killed(
            round(run.after, 1),
            run.act,
            tuple(found.get("found", ())),
            known,
            found.get("back", "not at all"),
            found.get("passes", 0),
            found.get("compared", 0),
            tuple(found["wrong"]),
        )

    def _judge(self, name: str, known: int, far: bool, again: bool, writer: int) -> None:
        """In a fork: what is left, what comes back of it, and how that goes on."""
        folder = self.home(name).folder
        found: dict[str, Any] = {"found": _half_done(folder), "wrong": []}
        point = self._acknowledged(known)
        if point is not None:
            found["wrong"] += [f"before waking: {w}" for w in leaks(self.trace, point.redacted, folder)]
        copy = f"{name}-copy"
        shutil.rmtree(self.root / copy, ignore_errors=True)
        try:
            if far and folder.exists():  # it may have been killed before it had one
                shutil.copytree(folder, self.root / copy)
            with self._awake(name) as alive:
                found.update(back=alive.resumed.how, passes=alive.resumed.passes)
                found["wrong"] += verdict(alive, self.trace, known, folder, again=again)
                if far and not found["wrong"]:
                    found["compared"] = self._same_thought(copy, found["wrong"])
                os.write(writer, json.dumps(found).encode())
                os._exit(0)
        except HaloError as err:
            found["wrong"].append(f"{type(err).__name__}: {err}")
            os.write(writer, json.dumps(found).encode())

    def _acknowledged(self, revision: int) -> Point | None:
        return self.trace.points.get((revision, False)) or self.trace.points.get((revision, True))

    def _same_thought(self, copy: str, wrong: list[str]) -> int:
        """Wake a copy, and let it go on without another kill. How many tokens it has said."""
        said: list[int] = []

        def heard(event: Event) -> None:
            if isinstance(event, Spoke) and event.token_id >= 0:
                said.append(event.token_id)

        with self._awake(copy) as alive:
            at = self.trace.place(alive)
            begun = self.trace.points[key_of(alive)].spoken
            if at is None:
                return 0
            n = at.step
            while len(said) < NEXT and n < len(self.steps):
                play(alive, self.steps, at if n == at.step else Place(n), heard, n + 1)
                n += 1
            if said != self.trace.said[begun : begun + len(said)]:
                wrong.append("other tokens are said than without the kill")
            point = self.trace.points.get(key_of(alive))
            if point is None or state_of(alive, units=False) != point.likeness:
                wrong.append("what follows is not what followed without the kill")
        shutil.rmtree(self.root / copy)
        return len(said)


class _Awake:
    """A mind of the nursery, woken as any other is."""

    def __init__(self, nursery: Nursery, name: str) -> None:
        s = nursery.kit.settings
        given = {**s.model_dump(), "minds": str(nursery.root)}
        self._woken = waking.wake(name, given, make=nursery.make)
        self._nursery, self._home = nursery, nursery.home(name)

    def __enter__(self) -> Alive:
        awake = self._woken.__enter__()
        return Alive(
            awake.mind,
            awake.keeper,
            recaller(awake.keeper.archive),
            Copies(self._home.backups),
            awake.resumed,
            self._nursery.kit.ending,
        )

    def __exit__(self, *error: Any) -> None:
        self._woken.__exit__(*error)


class _Run:
    """What is heard of a process before it is killed."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = steps
        self._rest = b""
        self.act = "waking"
        self.revision = 0
        """Acknowledged."""
        self.after = 0.0
        self.ended = False
        self.status = 0

    def listen(self, reader: int, until: float | None, wanted: str = "") -> None:
        """Until that moment (None: as long as there is something), or until an act of that kind begins."""
        while True:
            left = None if until is None else max(until - time.monotonic(), 0)
            ready, _, _ = select.select([reader], [], [], left)
            data = os.read(reader, 1 << 16) if ready else b""
            if not data or self._take(data, wanted):
                return

    def _take(self, data: bytes, wanted: str) -> bool:
        data, met = self._rest + data, False
        whole = len(data) // _MESSAGE.size * _MESSAGE.size
        for tag, value in _MESSAGE.iter_unpack(data[:whole]):
            if tag == _STEP:
                self.act = self._steps[value].kind
                met = met or self.act == wanted
            elif tag == _ACK:
                self.revision = max(self.revision, value)
        self._rest = data[whole:]
        return met


def _forked(work: Callable[[], None], unused: int) -> int:
    """A copy of this process that does `work` and is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.close(unused)
        work()
        status = 0
    except BaseException:  # noqa: BLE001  # nothing may get out of a fork
        traceback.print_exc()
    finally:
        os._exit(status)


def _half_done(folder: Path) -> list[str]:
    """What the process was at when it died, as far as its files tell."""
    found = []
    signs = {
        "snapshot being written": "snapshots/.new-*",
        "snapshot being removed": "snapshots/.gone-*",
        "backup being made": "backups/*.part*",
    }
    for what, pattern in signs.items():
        if any(folder.glob(pattern)):
            found.append(what)
    database = folder / "mind.db"
    if not database.exists():
        return [*found, "no database yet"]
    try:
        log = Log(database)
    except HaloError:
        return [*found, "no log yet"]
    pending, rewritten = log.db.execute("SELECT count(*), total(rewritten) FROM pending").fetchall()[0]
    if pending:
        found.append("redaction rewritten, not vacuumed" if rewritten else "redaction promised")
    leave(log.db)
    return found
