# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Two real processes over gloo: the losses of one process at the same global batch, one writer, one end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_bert
import tiny_denoiser as tiny
import tiny_host
import torch
from terminal import Screens
from tiny_denoiser import RECIPE, losses, trainer
from torch import nn

from haloweave import denoiser_material
from haloweave.cli import denoiser_run
from haloweave.diffusion.checkpoint import from_pretrained
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.parcel import read
from haloweave.diffusion.train import CHECKPOINT, Material
from haloweave.diffusion.training import curves
from haloweave.diffusion.training.hardware import Machine, machine
from haloweave.diffusion.training.processes import Alone, Several, align, exchange, launched
from haloweave.diffusion.training.recipe import Recipe
from haloweave.diffusion.training.settings import settled

SHAPE = {"dropout": 0.1, "time_conditioning": True, "self_conditioning": True}
TWO = replace(RECIPE, batch_size=2, grad_accum=2)
"""What each of two processes does; one does the same with four microbatches. They are the same ones: under
dropout, or with a balance of the rows at hand, another split of the global batch would be another run."""

PROGRAM = """
import json, math, sys
from pathlib import Path
import test_two_processes as shared
import tiny_denoiser as tiny
import torch
from haloweave.diffusion import data
from haloweave.diffusion.errors import DiffusionError
from haloweave.diffusion.training.hardware import machine
from haloweave.diffusion.training.processes import launched

sys.modules["matplotlib"] = None  # a picture takes a third of a second
out, what, archs = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
with launched("cpu") as processes:
    here = machine("cpu", "float32", processes)
    words = tiny.tokenizer()
    corpus = data.opened(out / "data", words, seq_len=tiny.SEQ_LEN, valid_share=0.1)
    for arch in archs:
        # Weights of its own in each process: the first one's are to win.
        denoiser = tiny.denoiser(words, arch, seed=here.processes.index, **shared.SHAPE)
        told = []

        def tell(report):
            told.append((report.step, report.loss, report.gradient, report.valid and report.valid.nats))

        run = tiny.trainer(tiny.Material(denoiser, words, corpus), out / arch, shared.TWO, here)
        steps = iter(range(1, 99))
        wants = lambda: what == "stop" and here.processes.index == 1 and next(steps) == 4
        try:
            if what == "spoil" and here.processes.index == 1:
                next(denoiser.parameters()).register_hook(lambda grad: grad * math.inf)
            run.run(tell, wants)
            ended = "done"
        except DiffusionError as error:
            ended = f"{type(error).__name__}: {error}"
        print(json.dumps([here.processes.index, arch, ended, run.step, told]), flush=True)
left = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in left), f"threads that abort a process as it exits: {left}"
"""


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_picture", lambda columns, path: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    tiny.corpus(out / "data", tiny.tokenizer())
    return out


def together(*arguments: str) -> list[str]:
    """What two Python processes print, which know of each other as torchrun would tell them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tests = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | common | {"RANK": str(i), "LOCAL_RANK": str(i), "PYTHONPATH": tests},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, err) in zip(started, outputs, strict=True):
        assert process.returncode == 0, err
    return [out for out, _ in outputs]


def launch(folder: Path, what: str, archs: Sequence[str]) -> list[list[Any]]:
    """What two processes tell, a line for each of them and each architecture."""
    told = together("-c", PROGRAM, str(folder), what, *archs)
    return [json.loads(line) for out in told for line in out.splitlines()]


def alone(place: Path, folder: Path, arch: str, recipe: Recipe) -> list[Any]:
    words = tiny.tokenizer()
    corpus = tiny.corpus(place / "data", words)
    return losses(trainer(Material(tiny.denoiser(words, arch, **SHAPE), words, corpus), folder, recipe))


def compare(place: Path, folder: Path, arch: str, told: Sequence[Any]) -> None:
    """What the first of two processes told, against one process at the same global batch."""
    one = alone(place, folder / arch, arch, replace(TWO, grad_accum=4))
    assert [step for step, *_ in told] == [r.step for r in one]
    for (_, loss, gradient, valid), report in zip(told, one, strict=True):
        assert loss == pytest.approx(report.loss, abs=1e-4)
        assert gradient == pytest.approx(report.gradient, rel=1e-3)
        assert valid == (report.valid and pytest.approx(report.valid.nats, abs=1e-4))


def test_two_processes_train_as_one(place: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(place / "data")
    first, second = launch(tmp_path, "train", ["transformer"])
    assert first[:4] == [0, "transformer", "done", 12]
    assert second == [1, "transformer", "done", 12, []], "one of them talks"
    assert curves.read(tmp_path / "transformer" / curves.CSV)["step"] == [*range(1, 13)], "one of them writes"
    assert from_pretrained(tmp_path / "transformer").told["step"] == 12
    compare(place, tmp_path / "one", "transformer", first[4])


@pytest.mark.slow
def test_stopped_by_the_second_they_go_on_as_one(place: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(place / "data")
    stopped = launch(tmp_path, "stop", tiny.ARCHS)
    assert [(i, arch) for i, arch, *_ in stopped] == [(i, arch) for i in (0, 1) for arch in tiny.ARCHS]
    assert all(ended == "Stopped: stopped after step 4 of 12" for _, _, ended, *_ in stopped)
    done = launch(tmp_path, "train", tiny.ARCHS)
    assert all((ended, step) == ("done", 12) for _, _, ended, step, _ in done)
    for arch in tiny.ARCHS:
        lines = [told for i, a, _, _, told in [*stopped, *done] if (i, a) == (0, arch)]
        compare(place, tmp_path / "one", arch, [*lines[0], *lines[1]])
        assert curves.read(tmp_path / arch / curves.CSV)["step"] == [*range(1, 13)]


@pytest.mark.slow
def test_both_stop_when_one_diverges(place: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(place / "data")
    ended = launch(tmp_path, "spoil", tiny.ARCHS)
    assert len(ended) == 6
    assert all(e.startswith("Diverged: step 1: the loss is") and step == 0 for _, _, e, step, _ in ended)
    assert not any((tmp_path / arch / CHECKPOINT).exists() for arch in tiny.ARCHS)


@pytest.mark.slow
def test_the_command_in_two_processes(tmp_path: Path) -> None:
    """Tokenizer, tokens and model are made once; `--device auto` finds the CPU for both."""
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": t.text}) for t in tiny.texts()))
    shape = "--seq-len 24 --d-model 16 --n-layers 1 --n-heads 2 --d-ff 32 --vocab-size 400 --max-steps 5"
    given = ["train", "--data-dir", "text.jsonl", "--output-dir", "out", "--json", *shape.split()]
    program = f"import os, sys; os.chdir({str(tmp_path)!r}); from haloweave.cli import main; main()"
    first, second = together("-c", program, *given)
    lines = [json.loads(line) for line in first.splitlines()]
    assert (lines[0]["event"], lines[0]["processes"], lines[-1]["event"]) == ("started", 2, "done")
    assert second == ""
    assert curves.read(tmp_path / "out" / curves.CSV)["step"] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_warm_starts_in_two_processes_are_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first asks the teacher for both; rows with answers and without are dealt out as in one process."""
    host, encoder = tiny_host.host(tmp_path / "host"), tiny_bert.encoder(tmp_path / "encoder")
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": t.text}) for t in tiny.texts()))
    shape = "--arch encoder --seq-len 24 --d-model 32 --n-layers 2 --n-heads 2 --d-ff 64 --max-steps 6"
    warm = f"distil=0.5 distil_blocks=20 distil_top=4 distil_rows=0.5 prior=true initialiser={encoder}"
    given = ["train", "--data-dir", "text.jsonl", "--host", str(host), "--json", *shape.split()]
    given += ["--dtype", "float32", "--batch-size", "2", *(f"--set={part}" for part in warm.split())]
    program = (
        f"import os; os.chdir({str(tmp_path)!r})\n"
        "from haloweave import warm_starts\n"
        "if os.environ['RANK'] == '1':\n"
        "    warm_starts.HostTeacher.answers = None  # whoever calls it fails\n"
        "from haloweave.cli import main; main()"
    )
    first, second = together("-c", program, *given, "--output-dir", "two")
    assert json.loads(first.splitlines()[0])["processes"] == 2
    assert second == ""
    monkeypatch.chdir(tmp_path)
    assert Screens().halo(*given, "--output-dir", "one", "--grad-accum", "2") == 0
    two, one = (curves.read(Path(name) / curves.CSV) for name in ("two", "one"))
    assert all(value > 0 for value in two["loss_teacher"])
    for name in ("loss", "loss_ce", "loss_teacher", "gradient"):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name
    states = [read(Path(name) / CHECKPOINT) for name in ("two", "one")]
    both, alone_ = (state.tensors for state in states if state is not None)
    for name, value in both.items():
        if name.startswith("model/"):
            torch.testing.assert_close(value, alone_[name], atol=2e-4, rtol=0)


# ---- the exchange, without processes -----------------------------------------------------------------


class Other:
    """Another process, whose numbers are known."""

    index, count = 0, 2

    def __init__(self, numbers: Sequence[float]) -> None:
        self._numbers = torch.tensor(numbers)

    def total(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers + self._numbers

    def wait(self) -> None:
        """Nobody is waiting."""


def test_gradients_are_summed_and_those_that_nobody_has_stay_away() -> None:
    both, mine, theirs, nobodys = (nn.Parameter(torch.zeros(2)) for _ in range(4))
    both.grad, mine.grad = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    other = Other([0.5, *(1, 0, 1, 0), *(10, 20), *(0, 0), *(5, 6), *(0, 0)])
    told = exchange([both, mine, theirs, nobodys], torch.tensor([0.25]), other)
    assert told.tolist() == [0.75]
    assert both.grad.tolist() == [11, 22]
    assert mine.grad.tolist() == [3, 4]
    assert theirs.grad is not None
    assert theirs.grad.tolist() == [5, 6]
    assert nobodys.grad is None


@pytest.mark.parametrize(("index", "expected"), [(0, ["made", "waited"]), (1, ["waited", "made"])])
def test_what_is_fetched_is_fetched_by_the_first_alone(
    monkeypatch: pytest.MonkeyPatch, index: int, expected: list[str]
) -> None:
    """Texts, host, encoder and a teacher's answers: all is there before another process looks."""
    done: list[str] = []
    monkeypatch.setattr(denoiser_material, "material", lambda *given: done.append("made"))
    other: Any = Other([])
    other.index, other.wait = index, lambda: done.append("waited")
    settings = settled({"data_dir": (Path("texts"),)})
    denoiser_run._material(settings, [], Machine(processes=other), lambda *told: None)
    assert done == expected


def test_one_process_exchanges_nothing() -> None:
    weight = nn.Parameter(torch.zeros(2))
    told = torch.tensor([1.0])
    assert exchange([weight], told, Alone()) is told
    assert weight.grad is None
    align(nn.Linear(1, 1), Alone())


def test_one_process_needs_no_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with launched() as found:
        assert isinstance(found, Alone)


def test_an_accelerator_of_ones_own_may_be_passed_in() -> None:
    class Accelerator:
        process_index, num_processes, device = 1, 3, torch.device("cpu")

        def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
            assert reduction == "sum"
            return tensor * 3

    found = machine("auto", "float32", Several(Accelerator()))
    assert (found.processes.index, found.processes.count, found.place, found.leads) == (
        1,
        3,
        torch.device("cpu"),
        False,
    )
    assert found.processes.total(torch.ones(2)).tolist() == [3, 3]


def test_a_checkpoint_knows_the_global_batch_not_the_processes(place: Path, tmp_path: Path) -> None:
    alone(place, tmp_path, "transformer", replace(TWO, grad_accum=4))
    found = read(tmp_path / CHECKPOINT)
    assert found is not None
    told = TWO.decisive(2, together=True) | {"dtype": "float32"}
    assert found.told["run"]["recipe"] == json.loads(json.dumps(told))


def test_a_launcher_that_starts_one_of_several_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch --cpu --num_processes 2` sets the address and starts a single process."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(BadInput, match=r"starts one process.*torchrun --nproc_per_node 2"), launched("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(BadInput, match="WORLD_SIZE, got 'two'"), launched("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with launched("cpu") as processes:
        assert processes.count == 1
