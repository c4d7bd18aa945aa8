# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The peers there are, and a virtual environment for each, made once and kept in the user's cache.

Knows pip as a program. Must not know jobs or models. pip goes by the person's own configuration.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from haloweave.bench.peers.errors import PeerUnavailable
from haloweave.progress import Progress, silent

_READY = ".ready"
_SCRIPTS = Path(__file__).parent / "scripts"
_LINES = 12
"""Of what pip said last, in an error."""


@dataclass(frozen=True)
class Peer:
    """Another package."""

    name: str
    what: str
    """That is installed, for people."""
    megabytes: int
    """On disk, with all that it needs."""
    notes: tuple[str, ...]
    """What has to be known to read its numbers."""

    @property
    def script(self) -> str:
        return f"{self.name}_peer"

    @property
    def requirements(self) -> Path:
        """What is pinned."""
        return _SCRIPTS / f"{self.name}.txt"


_PEERS = (
    Peer(
        "generate",
        "transformers 5.23.0",
        1200,
        (
            "generate: cache unbounded; decoded by generate().",
            "generate:truncate: the last rows prefilled again; a quarter goes at once in running text, as "
            "many as a question needs before it.",
        ),
    ),
    Peer(
        "kvpress",
        "kvpress 0.5.5",
        1400,
        (
            "Questions: the whole context is prefilled in one pass and pressed to the rows afterwards, so "
            "memory is not bounded while reading; question and answer come on top of the rows.",
            "Running text: DecodingPress after each chunk, to the rows less one chunk; positions grow for "
            "ever.",
            "Rows are kept head by head: alive is a mean over layers and heads.",
            "snapkv in running text: half a chunk of late queries, no pooling over places.",
        ),
    ),
    Peer(
        "attention_sinks",
        "attention-sinks 0.4.0",
        1100,
        (
            "Four sinks and the most recent rows; the cache is cut after each pass, so it is given the rows "
            "less one chunk, and no pass sees more than the budget. Llama only.",
        ),
    ),
)
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in _PEERS}
"""By name."""


def cache_directory() -> Path:
    """Where environments are kept: HALO_CACHE, or the user's cache directory."""
    root = os.environ.get("HALO_CACHE") or platformdirs.user_cache_dir("haloweave")
    return Path(os.path.expanduser(root)) / "peers"


def folder(peer: Peer, cache: Path | None = None) -> Path:
    """Where its environment is or will be: other pins or another Python, another folder."""
    told = peer.requirements.read_bytes() + sys.version.encode()
    return (cache or cache_directory()) / f"{peer.name}-{hashlib.sha256(told).hexdigest()[:12]}"


def python(peer: Peer, *, cache: Path | None = None, progress: Progress = silent) -> Path:
    """The interpreter that has the peer, in an environment made for it unless it is there. Raises
    PeerUnavailable."""
    place = folder(peer, cache)
    found = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not (place / _READY).exists():
                _make(peer, place, found, progress)
    except OSError as err:
        raise PeerUnavailable(f"{place}: {err}; set HALO_CACHE to a folder that can be written") from err
    return found


def _make(peer: Peer, place: Path, found: Path, progress: Progress) -> None:
    if (free := shutil.disk_usage(place.parent).free) < 1.5e6 * peer.megabytes:  # downloads lie beside it
        raise PeerUnavailable(
            f"{place.parent}: {peer.name} needs {1.5 * peer.megabytes:,.0f} MB of disk, {free / 1e6:,.0f} MB "
            "are free; set HALO_CACHE to a folder with more"
        )
    progress(f"installing {peer.what} and what it needs into {place}: {peer.megabytes} MB", 0, None)
    if place.exists():  # somebody was interrupted
        shutil.rmtree(place)
    _called([sys.executable, "-m", "venv", str(place)], peer)
    install = [str(found), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    _called([*install, "-r", str(peer.requirements)], peer)
    (place / _READY).touch()


def _called(command: list[str], peer: Peer) -> None:
    """Run it to its end. Raises PeerUnavailable with the last lines."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(), text=True, check=False
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-_LINES:])
        raise PeerUnavailable(
            f"{peer.name}: expected {' '.join(command[1:4])} to succeed, it ended with {done.returncode}:\n"
            f"{last}\nCheck that pip's index has what {peer.requirements} names, for Python "
            f"{sys.version.split()[0]}, or leave this peer out"
        )


def environment(**more: str) -> dict[str, str]:
    """Of a process that must not see our own packages."""
    told = {**os.environ, **more}
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"):
        with suppress(KeyError):
            del told[name]
    return told
