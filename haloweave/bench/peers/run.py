# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A job to a peer's process; its lines back as records.

Knows processes and the lines of `scripts.protocol`. Must not know what a peer does.
"""

from __future__ import annotations

import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from haloweave.bench.memory.record import Record
from haloweave.bench.peers.errors import PeerDiffers, PeerFailed
from haloweave.bench.peers.job import Job
from haloweave.bench.peers.venvs import Peer, environment

CLOSE = {"float32": 1e-3}
"""Nats a token by which a peer's loss of the check may differ from ours; other dtypes round in their
own order."""
_CLOSE = 0.05
_LAST = 1500
"""Characters of what a peer said last, in an error."""
_JOIN = 10.0
"""Seconds that a killed process may take to close its output."""
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Cannot:
    """An arm that cannot do a task."""

    arm: str
    task: str
    why: str


@dataclass(eq=False)
class Run:
    """One peer's process."""

    peer: Peer
    python: Path
    """Interpreter that has the peer."""
    job: Job
    nats: float
    """Our own mean loss of the check, nats a token."""
    silence: float = 3600.0
    """Seconds without a line after which it counts as stuck."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of its packages, once it has begun."""

    def records(self) -> Iterator[Record | Cannot]:
        """As they come. Raises PeerFailed, PeerDiffers. Whoever stops early ends the process."""
        with tempfile.TemporaryDirectory(prefix="halo-peer-") as folder:
            told = Path(folder) / "job.json"
            told.write_text(json.dumps(self.job.json()), "utf-8")
            with (Path(folder) / "stderr").open("w+b") as complaints:
                yield from self._spoken(told, complaints)

    def _spoken(self, told: Path, complaints: IO[bytes]) -> Iterator[Record | Cannot]:
        command = [str(self.python), "-m", f"scripts.{self.peer.script}", str(told)]
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        quiet |= {"OMP_NUM_THREADS": str(self.job.threads), "CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "1"}
        quiet |= {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
        quiet |= {"TMPDIR": str(told.parent), "TEMP": str(told.parent), "TMP": str(told.parent)}
        with subprocess.Popen(
            command,
            cwd=_FOLDER,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment(**quiet),
            text=True,
        ) as process:
            try:
                with closing(self._lines(process)) as lines:
                    yield from self._understood(lines)
                if process.wait(timeout=self.silence):
                    raise PeerFailed(f"{self.peer.name}: it ended with {process.returncode}")
            except (PeerFailed, subprocess.TimeoutExpired) as err:
                raise PeerFailed(f"{err}; it said last:\n{_tail(complaints)}") from err
            finally:
                process.kill()

    def _lines(self, process: subprocess.Popen[str]) -> Generator[str, None, None]:
        """As they are said. Whoever stops early ends the process."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def listen() -> None:
            for line in process.stdout or ():
                lines.put(line)
            lines.put(None)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        line: str | None = ""
        try:
            while (line := self._next(lines)) is not None:
                yield line
        finally:
            if line is not None:
                process.kill()
            thread.join(_JOIN)  # before its pipe is closed

    def _next(self, lines: queue.SimpleQueue[str | None]) -> str | None:
        try:
            return lines.get(timeout=self.silence)
        except queue.Empty:
            raise PeerFailed(f"{self.peer.name}: not a word for {self.silence:.0f} s") from None

    def _understood(self, lines: Iterator[str]) -> Iterator[Record | Cannot]:
        for line in lines:
            try:
                found = self._line(json.loads(line))
            except (ValueError, TypeError, LookupError, AttributeError) as err:
                raise PeerFailed(f"{self.peer.name}: expected a record, got {line[:200]!r}") from err
            if found is not None:
                yield found
        if not self.versions:
            raise PeerFailed(f"{self.peer.name}: it ended before it had told the check")

    def _line(self, told: dict[str, Any]) -> Record | Cannot | None:
        if "check" in told:
            self._checked(told["check"])
            return None
        if not self.versions:
            raise PeerFailed(f"{self.peer.name}: expected the check first, got {told}")
        if "cannot" in told:
            return Cannot(**told["cannot"])
        return Record(**told)

    def _checked(self, told: dict[str, Any]) -> None:
        most = CLOSE.get(self.job.dtype, _CLOSE)
        if not abs(told["nats"] - self.nats) <= most:
            raise PeerDiffers(
                f"{self.peer.name}: loss of the check: expected {self.nats:.5f} nats a token, got "
                f"{told['nats']:.5f}, more than {most} apart: it reads the config otherwise, so none of "
                f"its numbers count ({told['versions']})"
            )
        self.versions.update(told["versions"])


def _tail(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    return complaints.read().decode("utf-8", "replace")[-_LAST:].strip()
