# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a run is made from: a denoiser, its tokenizer, a corpus, and where it starts warm.

Knows that they have to belong together. Must not know steps or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from haloweave.diffusion import checkpoint
from haloweave.diffusion.data import Corpus
from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.errors import TooLittleText
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.training.teacher import Answers


@dataclass(frozen=True, eq=False)
class Material:
    """What is trained, on what, and what is told of it in the model's folder (`told["host"]`, for one)."""

    denoiser: Denoiser
    tokenizer: Tokenizer
    corpus: Corpus
    told: Mapping[str, Any] = field(default_factory=dict)
    answers: Answers | None = None
    """A teacher's, where the recipe asks for some."""
    initialiser: str | None = None
    """Stands for the weights that the denoiser begins with, where they are not drawn by lot."""
    prior: bool = False
    """Whether its head begins at the tokens' frequencies in the corpus."""

    def __post_init__(self) -> None:
        checkpoint.fits(self.denoiser, self.tokenizer)
        if not len(self.corpus.train):
            raise TooLittleText("training: expected at least one block of text, got none; give more text")

    @property
    def warm(self) -> dict[str, Any]:
        """What decides the weights besides shape, recipe and corpus; nothing for a cold start."""
        teacher = None if self.answers is None else self.answers.mark
        marks = {"teacher": teacher, "initialiser": self.initialiser, "prior": self.prior or None}
        return {name: mark for name, mark in marks.items() if mark is not None}
