# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What the doctor looks at: one function a line, each of which says what it found.

Knows the machine and the libraries. Must not know consoles. Nothing is downloaded or changed.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

GIGA, MEGA = 1_000_000_000, 1_000_000


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    says: str


def checks() -> Iterator[Check]:
    """All of them, the quick ones first."""
    yield _python()
    yield _machine()
    yield _memory()
    yield _torch()
    yield _library("transformers", "5.1")
    yield _library("tokenizers", "0.22")
    yield _cache()
    yield from _models()
    yield _surgery()


def _python() -> Check:
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    says = f"{platform.python_version()} at {sys.executable}"
    return Check("python", "ok" if good else "warn", says if good else f"{says}: 3.11 to 3.13 are tested")


def _machine() -> Check:
    return Check("machine", "ok", f"{platform.platform()}, {platform.machine()}, {_cores()} cores")


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    says = f"{memory.available / GIGA:.1f} GB free of {memory.total / GIGA:.1f} GB"
    if memory.available < 1.5 * GIGA:
        return Check("memory", "warn", f"{says}: the default model wants about 1.5 GB")
    return Check("memory", "ok", says)


def _torch() -> Check:
    try:
        import torch
    except (ImportError, OSError) as err:
        return Check("torch", "fail", f"cannot be imported ({err}); reinstall it with: make install")
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    says = f"{torch.__version__}, {torch.get_num_threads()} threads, runs on {device}"
    if torch.get_num_threads() > _cores():
        return Check("torch", "warn", f"{says}: more threads than cores; set HALO_THREADS={_cores()}")
    return Check("torch", "ok", says)


def _library(name: str, least: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "fail", f"is not installed; expected {least} or newer")
    good = _numbers(found) >= _numbers(least)
    return Check(name, "ok" if good else "fail", found if good else f"{found}: expected {least} or newer")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _cache() -> Check:
    from haloweave.models import cache_directory

    path = cache_directory()
    held = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else 0
    free = shutil.disk_usage(_existing(path)).free
    says = f"{path}: {held / MEGA:,.0f} MB held, {free / GIGA:.1f} GB free"
    if not os.access(_existing(path), os.W_OK):
        return Check("cache", "fail", f"{says}, but not writable; set HALO_CACHE to a directory that is")
    if free < GIGA:
        return Check("cache", "warn", f"{says}: fetching a model needs about 1 GB")
    return Check("cache", "ok", says)


def _existing(path: Path) -> Path:
    return path if path.exists() or path == path.parent else _existing(path.parent)


def _models() -> Iterator[Check]:
    from haloweave.models import DEFAULT, known, status

    for spec in known():
        state = status(spec).state
        if state == "ready":
            yield Check("model", "ok", f"{spec.name} is ready")
        elif spec.name == DEFAULT or state == "damaged":
            remedy = f"fetch it with: halo models pull {spec.name}"
            yield Check("model", "warn", f"{spec.name} is {state}; {remedy}")


def _surgery() -> Check:
    """The surgery contract on a model of two layers, made here from nothing."""
    started = time.perf_counter()
    try:
        worst, edits = tiny_contract()
    except Exception as err:  # noqa: BLE001  (whatever goes wrong here is what the doctor is asked to find)
        return Check("surgery", "fail", f"the self-check broke off: {type(err).__name__}: {err}")
    took = time.perf_counter() - started
    says = f"{edits} edits of a tiny model, off by at most {worst:.0e}, in {took:.1f} s"
    return Check("surgery", "ok" if worst <= 1e-4 else "fail", says)


def tiny_contract(sequences: int = 4) -> tuple[float, int]:
    """The worst difference and the number of edits."""
    from haloweave.engine.contract import examine
    from haloweave.engine.hf.engine import HFEngine
    from haloweave.engine.hf.tiny import tiny_llama

    model = tiny_llama(128, sharpness=6.0)
    verdicts = examine(HFEngine(model, capacity=128), model, sequences=sequences)
    return max(max(v.logits, v.keys, v.values) for v in verdicts), sum(v.edits for v in verdicts)
