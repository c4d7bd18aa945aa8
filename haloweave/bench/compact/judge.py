# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Another model as a judge: how likely it finds what was said, after the same text, with all of it in view.

Knows models and their tokenizers. Must not know minds or sides. Vocabularies differ, so the figure is bits a
byte.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from haloweave import build
from haloweave.engine.hf.scoring import HostScorer
from haloweave.engine.hf.text import HFCodec
from haloweave.errors import InvalidInput
from haloweave.repair.base import Reading, Scorer

_PASS = 128
"""Tokens read at once: logits of a whole text would be gigabytes where the vocabulary is large."""


class Judge:
    """A model loaded (a `LoadedModel`), and a name for it. `hears` a text, then judges what follows it."""

    def __init__(self, name: str, loaded: Any) -> None:
        self.name = name
        self._codec = HFCodec(loaded.tokenizer)
        self._scorer: Scorer = build.scorer(loaded.model, self._codec, loaded.max_positions)
        if begins := opening(loaded.tokenizer):  # Gemma without its own beginning of text is lost
            self._scorer = HostScorer(loaded.model, opening=begins[0], limit=loaded.max_positions)
        self._reading: Reading | None = None

    def hears(self, text: str, room: int) -> int:
        """Read a text, `room` tokens being left for what follows; how many tokens of its beginning had to be
        left out. Raises InvalidInput if there is no room at all."""
        most = self._scorer.limit - 1 - room
        if most < 1:
            raise InvalidInput(f"judge {self.name}: holds {self._scorer.limit} tokens, {room} are to be said")
        ids = self._codec.encode([text])[0]
        kept = ids[-most:]
        self._reading = self._scorer.read(kept[:_PASS])
        for start in range(_PASS, len(kept), _PASS):
            self._reading.extend(kept[start : start + _PASS])
        return len(ids) - len(kept)

    def bits_per_byte(self, said: str) -> tuple[float, int]:
        """Of what follows the text that was heard, and its bytes."""
        if self._reading is None:
            raise InvalidInput("expected a text to be heard before what follows it")
        ids, size = self._codec.encode([said])[0], len(said.encode())
        if not ids:
            return 0.0, 0
        nats = -float(self._reading.score([np.array(ids)])[0].sum(dtype=np.float64))
        return nats / math.log(2) / size, size


def opening(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before a text of its own accord: a beginning-of-text token, or nothing."""
    return [int(i) for i in tokenizer("")["input_ids"][:1] if i == tokenizer.bos_token_id]
