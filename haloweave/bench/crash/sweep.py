# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Every operation on disk of a whole life, each going wrong in every way it can.

Knows the life, its trace and the faulty disk. Must not know how results are shown. Each act is played from a
copy of the files as they were when it began; operation k of it fails, is torn, or is where the process dies
or the power goes. Then the mind is woken from what is left, judged, and goes on.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from haloweave.bench.crash.cases import CUTS, HARMS, WAKING, Case, Harm, Outcome
from haloweave.bench.crash.script import Place, Step, life, play, secret
from haloweave.bench.crash.trace import Trace, traced
from haloweave.bench.crash.trial import Trial
from haloweave.bench.crash.vfs import FaultyVFS, faulty
from haloweave.bench.crash.world import Alive, Kit, World
from haloweave.bench.faults import Died, Fault, FaultyDisk, Kind, Loss, Power
from haloweave.events import Event

ON = 200
"""Tokens said at the end of a life: a mind that was brought back has to say the same."""
_BORN, _BEGUN = "birth", "redaction begun"


@dataclass
class Lab:
    """One life, its images, and a disk to spoil."""

    root: Path
    kit: Kit
    vfs: FaultyVFS
    power: Power
    steps: tuple[Step, ...] = field(default_factory=lambda: life(1, ON))
    trace: Trace = field(default_factory=Trace)
    disk: FaultyDisk = field(default_factory=FaultyDisk)

    # ---- preparing -------------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        return self.root / "mind"

    def live(self) -> None:
        """The life that nothing interrupts: its trace, and what is on disk where an act begins."""
        self._lay_out(None)
        alive = self.wake()
        self.trace = traced(alive, self.steps, lambda n: self._keep(str(n)), secret)
        alive.die()
        self._break_off_redaction()

    def _break_off_redaction(self) -> None:
        n = next(n for n, step in enumerate(self.steps) if step.kind == "redact")
        self._lay_out(str(n))
        alive = self.wake()
        self.disk.fault = Fault(at=self.disk.operations, kind=Kind.DEATH)
        with suppress(Died):
            play(alive, self.steps, Place(n), _unheard, n + 1)
        alive.die()
        self._keep(_BEGUN)

    def _keep(self, name: str) -> None:
        shutil.copytree(self.home, self.root / name, ignore=shutil.ignore_patterns("*-shm"))

    def _lay_out(self, name: str | None) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        if name is None:
            self.home.mkdir(parents=True)
        else:
            shutil.copytree(self.root / name, self.home)
        self.mend()
        self.vfs.forget()

    def mend(self) -> None:
        """The disk is sound, the power is on; all there is is safe."""
        self.power.on, self.power.full = True, False
        self.vfs.calm()
        self.disk.fault = None

    def wake(self) -> Alive:
        """On a disk that knows nothing of the past."""
        self.disk = FaultyDisk(self.disk.fault, power=self.power)
        return World(self.home, self.kit, self.disk).wake()

    # ---- cases -----------------------------------------------------------------------------------------

    def cases(self) -> Iterator[Case]:
        """All that can go wrong, act by act; waking is an act, too."""
        for n, step in enumerate(self.steps[:-1]):
            self._lay_out(str(n))
            alive = self.wake()
            self._count()
            play(alive, self.steps, Place(n), _unheard, n + 1)
            yield from self._found(str(n), step.kind)
            alive.die()
        for start in (_BORN, _BEGUN, str(len(self.steps) // 2), str(len(self.steps) - 1)):
            self._lay_out(None if start == _BORN else start)
            self._count()
            alive = self.wake()
            yield from self._found(start, WAKING)
            alive.die()

    def _count(self) -> None:
        self.vfs.calm()
        self.disk.log.clear()

    def _found(self, start: str, act: str) -> Iterator[Case]:
        database, files = [name.split()[0] for name in self.vfs.names], [what for what, _ in self.disk.log]
        for layer, names in (("database", database), ("files", files)):
            for at, what in enumerate(names):
                for harm in HARMS[layer][what]:
                    yield Case(start, act, layer, at, what, harm)

    def run(self, case: Case, *, far: bool = False) -> Outcome:
        """Let it happen, and judge what is left; `far`: to the end of the life."""
        self._lay_out(None if case.start == _BORN else case.start)
        trial = Trial(self, case)
        trial.suffer()
        return trial.judged(far)

    def arm(self, case: Case) -> None:
        """Have it happen from now on."""
        self._count()
        self.vfs.watch = case.harm in CUTS
        if case.layer == "files":
            self.disk.fault = _file_fault(case)
            return
        error = {Harm.ERROR: apsw.IOError, Harm.FULL: apsw.FullError}.get(case.harm, Died)
        recovers = case.harm is Harm.ERROR
        self.vfs.fail(case.at + 1, error, recovers=recovers, torn=case.harm is Harm.TORN_DEATH)

    def cut_power(self, case: Case) -> None:
        """Of what was not synced, nothing is left, or some."""
        if case.harm is Harm.POWER:
            self.disk.power_cut()
            self.vfs.power_cut()
        elif case.harm is Harm.PART:
            luck = random.Random(f"{case.start} {case.layer} {case.at}")
            self.disk.power_cut(luck.choice([Loss.BYTES, Loss.NAMES, Loss.NOTHING]))
            self.vfs.power_cut(luck)
        self.vfs.watch = False


def _file_fault(case: Case) -> Fault:
    kinds = {
        Harm.ERROR: Kind.ERROR,
        Harm.FULL: Kind.ERROR,
        Harm.TORN: Kind.TORN,
        Harm.SILENT: Kind.SILENT,
        Harm.TORN_DEATH: Kind.TORN_DEATH,
    }
    full = case.harm is Harm.FULL
    number = errno.ENOSPC if full else errno.EIO
    return Fault(case.at, kinds.get(case.harm, Kind.DEATH), number, lasting=full)


def _unheard(event: Event) -> None:
    """Nobody listens."""


@contextmanager
def laboratory(root: Path, kit: Kit) -> Iterator[Lab]:
    """Ready for cases. All databases that are opened meanwhile are on the faulty disk."""
    power = Power()
    with faulty("halo-crash", power=power, everywhere=True) as vfs:
        vfs.reads = True
        lab = Lab(root, kit, vfs, power)
        lab.live()
        yield lab


def share(
    lab: Lab, *, part: int = 0, of: int = 1, stride: int = 1, far: int = 25
) -> Iterator[tuple[int, int, Outcome]]:
    """Every `stride`-th case, and of those what falls to one of several workers; every `far`-th is followed
    to the end of its life. How many are done, of how many, and what came of the newest."""
    mine = [case for n, case in enumerate(lab.cases()) if n % stride == 0 and n // stride % of == part]
    for n, case in enumerate(mine):
        yield n + 1, len(mine), lab.run(case, far=n % far == 0)
