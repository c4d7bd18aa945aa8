# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a training run is made of. Knows numbers and their ranges. Must not know models, text or devices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from haloweave.diffusion.errors import BadInput

DTYPES = ("auto", "float32", "bfloat16")
OBJECTIVES = ("masked_mean", "elbo")
_IN_PLACE = ("absorb", "hybrid", "frequency", "clusters")
"""Corruptions that leave every token where it was; to others a teacher's answers would be of other places."""
_COUNTS = (
    "max_steps",
    "batch_size",
    "grad_accum",
    "sample_steps",
    "checkpoint_every",
    "evaluate_every",
    "evaluate_rows",
    "evaluate_draws",
    "distil_blocks",
    "distil_top",
)
_NOT_DECISIVE = (
    "batch_size",  # but see `decisive`
    "grad_accum",
    "sample_steps",
    "checkpoint_every",
    "evaluate_every",
    "evaluate_rows",
    "evaluate_draws",
)
"""Two runs that differ in these alone take the same steps, at the same global batch."""
_OF_TEACHER = ("distil", "distil_blocks", "distil_top", "distil_rows")
"""Without a teacher they decide nothing; runs from before there were any can go on, too."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Two runs of one recipe on one machine, with as many threads, give the same weights.

    `schedule` and `corruption` are names of `haloweave.diffusion.build`. Raises BadInput.
    """

    max_steps: int = 5000
    batch_size: int = 16
    """Rows that one process reads at once; the global batch is this x grad_accum x processes."""
    grad_accum: int = 1
    lr: float = 1e-3
    """The highest learning rate, after warm-up."""
    warmup: float = 0.04
    """Share of the steps in which the rate grows from nothing."""
    lr_floor: float = 0.05
    """What is left of the rate at the end, as a share of the highest: a cosine leads there."""
    decay: float = 0.01
    """Decoupled weight decay (AdamW, 1711.05101), of matrices alone."""
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0
    """Longest gradient (2-norm over everything); longer ones are scaled down."""
    ema: float = 0.999
    """Decay of the average of the weights, which is evaluated and shipped; 0: the weights themselves."""
    timesteps: int = 0
    """Noise levels of a discrete chain; 0: time is continuous."""
    sample_steps: int = 12
    """Not used in training: how many steps whoever samples from the model should take by default."""
    schedule: str = "cosine"
    corruption: str = "absorb"
    corruption_options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the corruption that are not its defaults."""
    objective: str = "masked_mean"
    """masked_mean: the mean CE of what is masked; elbo: weighted to be the exact bound, and noisier;
    with absorb alone."""
    seed: int = 0
    dtype: str = "auto"
    """auto, float32 or bfloat16: what is multiplied in. Weights and their averages stay float32."""
    compile: bool = False
    distil: float = 0.0
    """a in (1 - a) CE(true token) + a CE(host's prediction), at masked places of blocks that the host, as a
    teacher, was asked about; 0: no teacher."""
    distil_blocks: int = 1024
    """Blocks it is asked about, once, before training; at most all there are."""
    distil_top: int = 16
    """Of its prediction, the likeliest tokens that are kept; the rest is one lump."""
    distil_rows: float = 0.25
    """Share of each batch that is read from these blocks, again and again, under other masks each time."""
    checkpoint_every: int = 250
    evaluate_every: int = 250
    evaluate_rows: int = 64
    """Held-out blocks that are judged on the way, at most."""
    evaluate_draws: int = 4
    """Masks that each of them is judged under; the same ones every time."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise BadInput(f"recipe: {name} should be >= 1, got {getattr(self, name)}")
        if not (0 < self.lr < math.inf and self.clip > 0):
            raise BadInput(f"recipe: expected lr and clip above 0, got lr {self.lr}, clip {self.clip}")
        shares = {n: getattr(self, n) for n in ("warmup", "lr_floor", "decay", "beta1", "beta2", "ema")}
        for name, share in shares.items():
            if not 0 <= share < 1 and (name, share) != ("lr_floor", 1):
                raise BadInput(f"recipe: {name} should be in [0, 1), got {share}")
        if self.timesteps < 0:
            raise BadInput(f"recipe: timesteps should be >= 0, got {self.timesteps}; 0 is any noise level")
        if not 0 <= self.seed < 2**63:
            raise BadInput(f"recipe: seed should be in 0..2^63-1, got {self.seed}")
        self._check_bound()
        self._check_teacher()
        for name, among in (("dtype", DTYPES), ("objective", OBJECTIVES)):
            if getattr(self, name) not in among:
                raise BadInput(
                    f"recipe: {name} should be one of {', '.join(among)}, got {getattr(self, name)!r}"
                )

    def _check_bound(self) -> None:
        """Of independent masks alone is the weighted loss a bound on the likelihood (MDLM, 2406.07524)."""
        if self.objective != "elbo":
            return
        if self.corruption != "absorb":
            raise BadInput(
                f"recipe: objective elbo is a bound with corruption absorb alone, got {self.corruption}; set "
                f"corruption to absorb, or objective to masked_mean"
            )
        if self.corruption_options.get("at_least"):
            raise BadInput(
                "recipe: objective elbo is no bound where rows are made to have a mask; leave at_least at 0, "
                "or set objective to masked_mean"
            )

    def _check_teacher(self) -> None:
        if not (0 <= self.distil <= 1 and 0 < self.distil_rows <= 1):
            raise BadInput(
                f"recipe: expected distil in [0, 1] and distil_rows in (0, 1], got {self.distil} and "
                f"{self.distil_rows}"
            )
        if self.distil and self.objective != "masked_mean":
            raise BadInput(
                f"recipe: objective {self.objective} is no bound with a teacher's targets; set distil to 0, "
                f"or objective to masked_mean"
            )
        if self.distil and self.corruption not in _IN_PLACE:
            raise BadInput(
                f"recipe: corruption {self.corruption} moves tokens, and a teacher's answers are of their "
                f"places; set distil to 0, or corruption to one of {', '.join(_IN_PLACE)}"
            )

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a half cosine down to the floor (SGDR, 1608.03983, without restarts)."""
        up = max(1, round(self.warmup * self.max_steps))
        if step < up:
            return self.lr * (step + 1) / up
        gone = (step - up) / max(1, self.max_steps - up)
        return self.lr * (self.lr_floor + (1 - self.lr_floor) * (1 + math.cos(math.pi * gone)) / 2)

    def decisive(self, processes: int, *, together: bool = False) -> dict[str, Any]:
        """Whatever decides how the weights turn out, for a comparison of two runs.

        `together`: it matters which rows are read at once, as to dropout, whose numbers are drawn for all of
        them, and to a loss of the batch at hand. Else any split of the global batch is the same run.
        """
        untold = _NOT_DECISIVE if self.distil else (*_NOT_DECISIVE, *_OF_TEACHER)
        told = {name: value for name, value in asdict(self).items() if name not in untold}
        split = {"batch_size": self.batch_size} if together else {}
        return told | {"global_batch": self.rows(processes)} | split

    def rows(self, processes: int) -> int:
        """Rows of the global batch."""
        return self.batch_size * self.grad_accum * processes
