# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Importing does nothing (law 10), and the core loads no model library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import haloweave

ROOT = Path(haloweave.__file__).parents[1]
MEMORY = sorted(
    f"haloweave.memory.{p.stem}" for p in (ROOT / "haloweave/memory").glob("*.py") if p.stem != "__init__"
)
CORE = ["haloweave", "haloweave.errors", *MEMORY, "haloweave.engine.base", "haloweave.engine.sampling"]
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "gguf", "pydantic", "rich", "typer"}

PROBE = """
import sys, threading, json
touched = []

def watch(event, args):
    if event == "open":
        path, mode, flags = args
        if flags and flags & 0b11 or isinstance(mode, str) and set(mode) & set("wax+"):
            touched.append(f"open {path} {mode}")
    elif event.split(".")[0] in ("socket", "subprocess", "urllib", "ctypes.dlopen") or event in (
        "os.mkdir", "os.rename", "os.remove", "os.fork", "os.posix_spawn", "os.system", "os.putenv"
    ):
        touched.append(f"{event} {args}")

import numpy, jaxtyping  # theirs is theirs
sys.addaudithook(watch)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({
    "modules": sorted({m.split(".")[0] for m in sys.modules}),
    "threads": threading.active_count(),
    "touched": touched,
}))
"""


def imported(names: list[str], home: Path) -> dict:
    """What a fresh interpreter looks like after importing these modules."""
    env = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *names], env=env, cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> dict:
    home = tmp_path_factory.mktemp("home")
    found = imported(CORE, home)
    return found | {"left": [str(p) for p in home.rglob("*")]}


def test_the_core_loads_no_model_library(core: dict) -> None:
    assert "haloweave" in core["modules"]
    assert not HEAVY & set(core["modules"])


def test_importing_starts_no_thread(core: dict) -> None:
    assert core["threads"] == 1


def test_importing_writes_nothing_and_calls_nobody(core: dict) -> None:
    assert core["touched"] == []
    assert core["left"] == []


@pytest.mark.parametrize("name", CORE)
def test_each_module_can_be_imported_first(name: str, tmp_path: Path) -> None:
    assert not HEAVY & set(imported([name], tmp_path)["modules"])


def test_the_probe_sees_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import threading, time, gguf\n"
        "threading.Thread(target=time.sleep, args=(0.5,)).start()\n"
        "open('made', 'w').close()\n"
    )
    found = imported_noisy(tmp_path)
    assert found["threads"] == 2
    assert "gguf" in found["modules"]
    assert any("made" in t for t in found["touched"])


def imported_noisy(home: Path) -> dict:
    """The probe on a module that does all it must not do; its folder is the working directory."""
    return imported(["noisy"], home)
