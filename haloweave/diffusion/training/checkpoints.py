# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A run's checkpoints: what it needs to go on, and beside them the model as it is.

Knows files, and what has to be the same for a run to go on. Must not know how a step is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from haloweave.diffusion import checkpoint
from haloweave.diffusion.checkpoint import differences, identity
from haloweave.diffusion.errors import BadCheckpoint, Diverged
from haloweave.diffusion.parcel import Parcel, as_json, read, whole, write
from haloweave.diffusion.sampling.reader import at_rest
from haloweave.diffusion.training.hardware import Machine
from haloweave.diffusion.training.material import Material
from haloweave.diffusion.training.recipe import Recipe
from haloweave.diffusion.training.state import State
from haloweave.diffusion.training.validation import Valid

CHECKPOINT = Path("checkpoint") / "state.safetensors"


@dataclass
class Standing:
    """Where a run is."""

    step: int = 0
    """Steps taken."""
    seconds: float = 0.0
    """Spent on them, by earlier parts of the run as well, and CPU time of its teacher."""
    valid: Valid | None = None
    judged: int = -1
    """Step of the last evaluation."""


@final
class Checkpoints:
    """Those of one run into `folder`; `standing` is the run's own, read and set here."""

    def __init__(
        self,
        folder: Path,
        material: Material,
        recipe: Recipe,
        state: State,
        machine: Machine,
        standing: Standing,
    ) -> None:
        self._folder, self._material, self._recipe = folder, material, recipe
        self._state, self._machine, self._standing = state, machine, standing
        self._denoiser = material.denoiser
        self._saved = self._told = -1  # steps: of the last checkpoint, and of the evaluation in it

    def resume(self) -> None:
        """Go on from the checkpoint in the folder, if there is one.

        Raises BadCheckpoint for one that is damaged, or of another run, and for a model that was trained for
        longer than the checkpoint: nothing would be left of it.
        """
        path = self._folder / CHECKPOINT
        if self._saved >= 0:
            return
        if (found := read(path)) is not None:
            self._take(found, path)
        self._refuse_older()

    def begin(self) -> None:
        """Write what never changes, and mend what a kill left."""
        if not self._machine.leads:
            return
        if self._saved >= 0 and whole(self._folder / checkpoint.MODEL) is None:
            (self._folder / checkpoint.MODEL).unlink(missing_ok=True)  # what is damaged is made anew
        told = asdict(self._recipe) | {"processes": self._machine.processes.count}
        checkpoint.begin(self._folder, self._denoiser, self._material.tokenizer, told)
        self._mend()

    def _mend(self) -> None:
        """The state is written first: a kill between the two leaves a model that is older, or none."""
        if self._saved < 0:
            return
        there = checkpoint.shipped(self._folder, self._denoiser)
        if there is None or there.get("step") != self._standing.step:
            self._ship()

    def keep(self) -> None:
        """What a run needs to go on, and the model as it is; raises Diverged rather than keep rubbish."""
        at = self._standing
        if (self._saved, self._told) == (at.step, at.judged):
            return
        self._check_weights()
        if self._machine.leads:
            told = {"step": at.step, "seconds": at.seconds, "run": self._mark()}
            told |= {"valid": None if at.valid is None else asdict(at.valid), "judged": at.judged}
            write(self._folder / CHECKPOINT, Parcel(self._state.tensors(), told))
            self._ship()
        self._saved, self._told = at.step, at.judged

    def diverged(self, step: int, found: str) -> Diverged:
        """The error to raise, which says what is left."""
        kept = "there is no checkpoint yet"
        if self._saved >= 0:
            kept = f"the last good checkpoint, of step {self._saved}, is kept in {self._folder / CHECKPOINT}"
        return Diverged(
            f"step {step}: {found}; {kept}; a smaller lr than {self._recipe.lr} may help: it is another run, "
            f"for another folder, or for this one after it is removed"
        )

    def _check_weights(self) -> None:
        """Weights that are numbers, and one block of text to which they answer with numbers."""
        if not self._state.finite():
            raise self.diverged(self._standing.step, "a weight is not finite")
        block = self._material.corpus.train.rows([0]).to(self._machine.place)
        with at_rest(self._denoiser):
            if not bool(self._denoiser(block).logsumexp(dim=-1).isfinite().all()):
                raise self.diverged(self._standing.step, "a text gets no finite answer")

    def _ship(self) -> None:
        at = self._standing
        told = {"step": at.step, "sample_steps": self._recipe.sample_steps, **self._material.told}
        told["corpus"] = self._material.corpus.fingerprint
        told["valid"] = None if at.valid is None else asdict(at.valid)
        with self._state.average.in_place():
            checkpoint.save(self._folder, self._denoiser, self._material.tokenizer, told)

    def _mark(self) -> dict[str, Any]:
        """What has to be the same for a run to go on."""
        count = self._machine.processes.count
        return {
            **identity(self._denoiser, self._material.tokenizer),
            "corpus": self._material.corpus.fingerprint,
            "recipe": self._recipe.decisive(count, together=self._together) | {"dtype": self._machine.dtype},
            **self._material.warm,
        }

    @property
    def _together(self) -> bool:
        """Whether the rows that are read at once decide the weights, and not the global batch alone."""
        return self._denoiser.batchwise or self._denoiser.config.dropout > 0

    def _refuse_older(self) -> None:
        there = checkpoint.shipped(self._folder, self._denoiser)
        step = 0 if there is None else there.get("step")
        if not isinstance(step, int) or step > self._standing.step:
            raise BadCheckpoint(
                f"{self._folder}: holds a model of step {step}, and this run would begin after step "
                f"{self._standing.step} and replace it: remove the folder to train anew, or choose another"
            )

    def _take(self, found: Parcel, path: Path) -> None:
        mark, told, at = self._mark(), found.told, self._standing
        if told.get("run") != as_json(mark):
            raise BadCheckpoint(f"{path}: {_unlike(told.get('run') or {}, mark)}")
        self._state.take(found.tensors, path)
        at.step, at.seconds = int(told["step"]), float(told["seconds"])
        at.judged = int(told.get("judged", at.step))
        at.valid = None if told.get("valid") is None else Valid(**told["valid"])
        self._saved, self._told = at.step, at.judged


def _unlike(there: Mapping[str, Any], mark: Mapping[str, Any]) -> str:
    """Why a checkpoint does not belong to this run, and what to do."""
    found = f"{differences(there, mark)}; remove the folder to start anew, or choose another"
    rows = (there.get("recipe") or {}).get("batch_size")
    steps, wanted = ((side.get("recipe") or {}).get("max_steps") for side in (there, mark))
    if steps != wanted:
        return (
            f"{found}; a run of {steps} steps cannot be made one of {wanted}: its learning rate follows a "
            f"course that depends on its length"
        )
    if rows in (None, mark["recipe"].get("batch_size")):
        return found
    return (
        f"{found}; or go on with batch_size {rows}: with dropout, or a loss of all rows read at once such as "
        f"the router's balance, another split of the global batch is another run"
    )
