# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One of the minds that are compared: what it has read, and its logits for what comes next.

Knows minds. Must not know policies, text, or that there is another mind. Axes: Q tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

from haloweave.errors import InvalidInput
from haloweave.journal.base import State
from haloweave.memory.tokens import Source
from haloweave.mind import Mind


class Side:
    """A mind that is fed ids as they are, outside any turn."""

    def __init__(self, mind: Mind) -> None:
        self.mind = mind
        self._kept: State | None = None

    def read(self, ids: Sequence[int], chunk: int, tell: Callable[[], None]) -> None:
        """Read ids in passes of `chunk`, weaving between them; then `back` leads here."""
        for start in range(0, len(ids), chunk):
            self.mind.feed_ids(ids[start : start + chunk], Source.TEXT)
            tell()
        self._kept = self.mind.state() if len(ids) else None

    def logits(self) -> Float32[np.ndarray, " V"]:
        """For the next token, once there is room for it."""
        for _ in self.mind.make_room(1):
            pass
        logits = self.mind.logits()
        if logits is None:
            raise InvalidInput("expected something to go on from: read a text first")
        return logits

    def hear(self, token_id: int) -> None:
        """Take in one token of the model's own voice, whoever chose it."""
        self.mind.feed_ids([token_id], Source.MODEL)

    def back(self) -> None:
        """Be again what reading left behind, to the last bit."""
        if self._kept is None:
            raise InvalidInput("expected a text that was read to its end")
        self.mind.resume(self._kept, (), ())
