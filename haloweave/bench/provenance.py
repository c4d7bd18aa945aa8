# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What has to be known to repeat a measurement, and to believe it: command, date, commit, seeds, versions,
machine.

Knows the interpreter, the machine and how the process was called. Must not know what was measured.
"""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from haloweave.bench.stats import facts

_PATIENCE = 20
"""Seconds that git may take."""


def provenance(seeds: Mapping[str, int | None], **more: object) -> dict[str, Any]:
    """Everything by name. `seeds`: by what they decide; `more`: dtype, device and what else matters here."""
    now = datetime.now(UTC)
    told = {"command": command(), "date": now.strftime("%Y-%m-%d %H:%M UTC"), "seeds": dict(seeds)}
    return told | {"commit": commit(), "cpu": cpu()} | facts() | more


def command() -> str:
    """As somebody would type it."""
    return shlex.join(["halo", *sys.argv[1:]])


def cpu(described: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as its maker spells it; where nobody tells, its architecture."""
    try:
        lines = described.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.processor() or platform.machine())


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """Of the checkout that this package runs from, "+" behind it where files differ from it; None elsewhere,
    as for an installed wheel that happens to lie within somebody else's repository."""
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if not head else f"{head}+" if changed else head


def _git(folder: Path, *asked: str) -> str | None:
    try:
        told = subprocess.run(  # no lock is taken: others may be at work in the checkout
            ["git", "--no-optional-locks", "-C", str(folder), *asked],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return told.stdout.strip() if told.returncode == 0 else None
