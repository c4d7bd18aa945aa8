# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The work of `halo bench crash`, shared out among processes that tell of each result in a line of JSON.

Knows sweeps and kills, and processes. Must not know tables. A worker is `python -m haloweave.bench.crash.work
JOB`: of its own, since it puts a faulty file system under every database, or forks.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from haloweave.errors import EngineFault

Line = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A share of the work."""

    what: str
    """sweep or kills."""
    folder: str
    """Of its own, to be filled."""
    part: int = 0
    of: int = 1
    stride: int = 1
    """Of the cases of a sweep, every so many."""
    kills: int = 0
    far: int = 25
    """After every so many, the life is followed on."""
    cycles: int = 5
    """How long the life is whose mind is killed."""
    seed: int = 0


def carried_out(jobs: Sequence[Job], hear: Callable[[Line], None]) -> None:
    """Have every job done by a process of its own, all at once. Raises EngineFault if one of them breaks."""
    started = [_started(job) for job in jobs]
    try:
        with selectors.DefaultSelector() as waiting:
            for process in started:
                if process.stdout is not None:
                    waiting.register(process.stdout, selectors.EVENT_READ)
            while waiting.get_map():
                for key, _ in waiting.select():
                    line = key.fileobj.readline()  # type: ignore[union-attr]
                    if line:
                        hear(json.loads(line))
                    else:
                        waiting.unregister(key.fileobj)
        if broken := [p.wait() for p in started if p.wait()]:
            raise EngineFault(f"a worker of the crash benchmark broke off ({broken}); see what it said above")
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _started(job: Job) -> subprocess.Popen[str]:
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    mine = {name: value for name, value in os.environ.items() if not name.startswith("HALO_")}
    return subprocess.Popen(
        [sys.executable, "-m", "haloweave.bench.crash.work", json.dumps(asdict(job))],
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1 << 20,
        env={**mine, **one_thread},
    )


# ---- in the worker ---------------------------------------------------------------------------------------


def lines(job: Job) -> Iterator[Line]:
    """What comes of a job, one by one."""
    from haloweave.bench.crash.world import tiny_kit

    kit, folder = tiny_kit(), Path(job.folder)
    if job.what == "kills":
        from haloweave.bench.crash.kills import NEXT, Nursery
        from haloweave.bench.crash.script import life

        nursery = Nursery(folder, kit, random.Random(job.seed), life(job.cycles, NEXT + 50))
        for n, killed in enumerate(nursery.kills(job.kills, job.far)):
            yield {"part": job.part, "done": n + 1, "of": job.kills, **asdict(killed)}
        return
    from haloweave.bench.crash.sweep import laboratory, share

    with laboratory(folder, kit) as lab:
        for done, of, came in share(lab, part=job.part, of=job.of, stride=job.stride, far=job.far):
            case = {**asdict(came.case), "harm": came.case.harm.name}
            result = {"ended": came.ended, "back": came.back, "wrong": came.wrong, "notes": came.notes}
            yield {"part": job.part, "done": done, "of": of, **case, **result}


def main() -> None:
    """Do the job that the command line names."""
    for line in lines(Job(**json.loads(sys.argv[1]))):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
