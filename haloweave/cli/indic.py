# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo eval --suite indic`: from the folder of an evaluation set to what was measured.

Knows folders, and what a denoiser's own note tells of its training. Must not know screens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.diffusion.checkpoint import Loaded
    from haloweave.diffusion.evaluate import Measures
    from haloweave.diffusion.indic import Rows, Suite
    from haloweave.language_suite import EvaluationSet
    from haloweave.progress import Progress

NAME = "indic"


@dataclass(frozen=True)
class Wanted:
    """What somebody asked for."""

    data: Sequence[Path]
    lexicon: Path | None
    trained_on: Sequence[Path]
    unchecked: bool
    blocks: int

    @property
    def folder(self) -> Path:
        """The one folder. Raises InvalidInput for none or several."""
        if len(self.data) != 1:
            raise InvalidInput(
                f"--suite {NAME}: expected one --data, a folder that halo corpus wrote, got {len(self.data)}"
            )
        return self.data[0]


@dataclass(frozen=True)
class Judged:
    """What was measured, on which set, and what was looked for in training text."""

    suite: Suite = field(repr=False)
    digest: str
    missing: Sequence[str]
    checked: Sequence[str]
    """Training text in which the set was looked for and not found; nothing where nobody looked."""


def judged(loaded: Loaded, wanted: Wanted, plan: Measures, progress: Progress) -> Judged:
    """Read, check, measure. Raises InvalidInput for a set that cannot be had or was trained on."""
    from haloweave.diffusion.indic import suite
    from haloweave.language_suite import evaluation_set, lexicon

    found = evaluation_set(wanted.folder)
    known = None if wanted.lexicon is None else lexicon(wanted.lexicon)
    checked = _checked(loaded.told, found, wanted, progress)
    rows = rows_of(loaded, found, wanted.blocks, plan.seed)
    tokenizer = loaded.tokenizer
    measured = suite(loaded.denoiser, rows, tokenizer.encode, tokenizer.decode, plan, known, progress)
    return Judged(measured, found.digest, found.missing, checked)


def _checked(
    told: Mapping[str, object], found: EvaluationSet, wanted: Wanted, progress: Progress
) -> Sequence[str]:
    from haloweave.language_suite import refuse_overlap

    if wanted.unchecked:
        return ()
    noted = told.get("data")
    own = [Path(str(path)) for path in noted] if isinstance(noted, list) else []
    roots = list(wanted.trained_on) or own
    gone = next((path for path in roots if not path.exists()), None)
    if not roots or gone is not None:
        what = f"{gone} is not there" if gone is not None else "its model does not tell what it was"
        raise InvalidInput(
            f"training text: {what}; say where it is with --trained-on, or measure --unchecked for overlap"
        )
    refuse_overlap(found, roots, progress)
    return [str(path) for path in roots]


def rows_of(loaded: Loaded, found: EvaluationSet, blocks: int, seed: int) -> Rows:
    """Rows of every language, an even part of `blocks` each, by lot; none of two documents.

    Raises TooLittleText where no row is left.
    """
    import numpy as np
    import torch

    from haloweave.diffusion.indic import Rows
    from haloweave.diffusion.judging.held import blocks_of, held_out

    tokenizer, config = loaded.tokenizer, loaded.denoiser.config
    most = max(1, blocks // len(found.documents))
    parts, names, which, before = [], list[str](), list[np.ndarray](), 0
    for name, texts in found.documents.items():
        ids = ([*tokenizer.encode(text), tokenizer.eos_id] for text in texts)
        rows, documents = blocks_of(ids, config.max_len, pad_id=config.pad_id)
        keep = np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])
        parts.append(rows[keep])
        which.append(documents[keep] + before)
        names += [name] * len(keep)
        before += len(texts)
    held = held_out(
        torch.cat(parts),
        tokenizer.bytes_per_token.numpy(),
        tokenizer.decode,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
        documents=np.concatenate(which),
    )
    return Rows(held, tuple(names))
