# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Ways to start a denoiser warm, as settings of a run, and the texts on which they are measured.

Knows settings, texts and tokens. Must not know how a run is carried out. Axes: N held-out rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from haloweave import denoiser_material, models
from haloweave.bench.words import Exam
from haloweave.diffusion.data import Corpus
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.judging.held import Held, held_out
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.training.noise import counts
from haloweave.diffusion.training.settings import Settings, settled
from haloweave.progress import Progress

POINTS = 6
"""Evaluations on the way; the fewest steps that are worth a curve."""
_NEVER = 1 << 30
_COUNTED = 20_000
"""Blocks in which tokens are counted."""
_PLAIN = {"arch": "transformer", "d_model": 256, "n_layers": 4, "n_heads": 4, "d_ff": 1024}
_LENT = {"host": "", "projection_rank": 64}  # the host's name is put in by Plan
_KNOWING = {"prior": True, "reads_fully": True}
_BERT = {"arch": "encoder", "n_layers": 4}
STARTS: Mapping[str, Mapping[str, Any]] = {
    "own vectors": _PLAIN,
    "host vectors": _PLAIN | _LENT,
    "host vectors, host teaches": _PLAIN | _LENT | {"distil": 0.5},
    "encoder, 4 blocks, cold": _BERT | _LENT,
    "encoder, 4 blocks of MiniLM": _BERT | _LENT | {"initialiser": "minilm-l6"},
    "encoder, 6 blocks of MiniLM": _BERT | _LENT | {"initialiser": "minilm-l6", "n_layers": 6},
    "host vectors, bias at frequencies": _PLAIN | _LENT | _KNOWING,
    "encoder, 4 blocks of MiniLM, bias at frequencies": _BERT
    | _LENT
    | _KNOWING
    | {"initialiser": "minilm-l6"},
    "eco_hybrid, bias at frequencies": _PLAIN | _LENT | _KNOWING | {"arch": "eco_hybrid"},
}
"""Settings of `halo train`, beside those that all have; the first is the baseline."""

Tell = Callable[[int], None]
"""How far it is, in hundredths."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One bench. Raises BadInput for a host without a name, or no time."""

    files: tuple[Path, ...]
    held_out: tuple[Path, ...] = ()
    """Whole files kept from training; none: documents by lot, one in fifty."""
    minutes: float = 5.0
    host: str = models.DEFAULT
    out: Path = Path("warm")
    seq_len: int = 128
    batch_size: int = 8
    distil_blocks: int = 192
    blocks: int = 160
    """Held-out blocks that are judged in the end."""
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if not (0 < self.minutes < math.inf and self.host):
            raise BadInput(f"warm: expected minutes above 0 and a host, got {self.minutes} and {self.host!r}")

    def settings(self, start: Mapping[str, Any], folder: Path, steps: int) -> Settings:
        """What `halo train` would be told. Nothing is kept on the way but by evaluations."""
        host = {"host": self.host} if "host" in start else {}
        same: dict[str, Any] = {"seq_len": self.seq_len, "batch_size": self.batch_size, "seed": self.seed}
        same |= {"dtype": self.dtype, "distil_blocks": self.distil_blocks, "max_steps": steps}
        same |= {"data_dir": self.files, "held_out": self.held_out, "valid_share": 0.02}
        same |= {"cache": self.out / "data", "output_dir": folder, "checkpoint_every": _NEVER}
        same |= {"evaluate_every": max(1, math.ceil(steps / POINTS)), "evaluate_rows": 16}
        return settled({**start, **host, **same, "evaluate_draws": 2})


@dataclass(frozen=True, eq=False)
class Common:
    """What all starts share: tokens, texts, and what is held out."""

    tokenizer: Tokenizer
    folder: Path | None
    """The host's."""
    corpus: Corpus
    held: Held
    exam: Exam


def by_frequency(here: Common) -> Float[np.ndarray, " N"]:
    """Nats of each held-out row for whoever knows how frequent tokens are, and nothing else: what a denoiser
    learns first. Counted in some thousand blocks; each token once more, so that none is impossible."""
    seen = counts(here.corpus, here.tokenizer.vocab_size, _COUNTED).double() + 1
    cost = -(seen / seen.sum()).log()
    nats: Float[np.ndarray, " N"] = (cost[here.held.rows] * here.held.real).sum(1).numpy()
    return nats


def chosen(numbers: str | None) -> dict[str, Mapping[str, Any]]:
    """The starts of these numbers, from 1, in their order; all of them for None. Raises BadInput."""
    names = list(STARTS)
    wanted = [str(n + 1) for n in range(len(names))] if numbers is None else numbers.split(",")
    if not {*wanted} <= {str(n + 1) for n in range(len(names))} or len({*wanted}) < len(wanted):
        known = ", ".join(f"{n + 1} {name}" for n, name in enumerate(names))
        raise BadInput(f"starts: expected some of these numbers, each once, got {numbers!r}: {known}")
    return {names[int(n) - 1]: STARTS[names[int(n) - 1]] for n in wanted}


def common(plan: Plan, tell: Tell) -> Common:
    """Texts read and tokenised, once for all starts and for later benches in the same folder."""
    around, hear = plan.settings({"host": ""}, plan.out, POINTS).around, heard(tell)
    paths = denoiser_material.found(around)
    tokenizer, folder = denoiser_material.tokenizer(around, paths, hear)
    corpus = denoiser_material.corpus(around, paths, tokenizer, hear)
    count = min(plan.blocks, len(corpus.valid))
    spread = [i * len(corpus.valid) // count for i in range(count)]
    rows, documents = corpus.valid.rows(spread), corpus.valid.documents[spread]
    held = held_out(
        rows,
        tokenizer.bytes_per_token.numpy(),
        tokenizer.decode,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
        documents=documents,
    )
    return Common(tokenizer, folder, corpus, held, Exam.of(held, tokenizer, seed=plan.seed))


def heard(tell: Tell) -> Progress:
    """A listener in hundredths, for those who tell what they do and how much of how much is done."""
    return lambda what, done, total: tell(100 * done // total if total else 0)
