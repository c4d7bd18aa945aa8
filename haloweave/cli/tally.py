# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What happened while a mind was reading, added up: rows, the culled, speed, resident memory.

Knows moments and the codec. Must not know consoles. Bounded, however long the stream: of the culled text it
keeps counts and the newest samples, of the memory line every n-th sample.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import psutil

from haloweave.cli.session import Moment
from haloweave.events import Edited, Fed
from haloweave.memory.edit import Splice
from haloweave.memory.plan import REPAIR
from haloweave.memory.tokens import Source, Tokens
from haloweave.text import Codec, spell

_SAMPLES = 400


@dataclass(frozen=True)
class Dead:
    """Neighbouring tokens that died together."""

    source: Source
    tokens: int
    text: str


class Tally:
    """Add each moment of the reading."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._process = psutil.Process()
        self._mark = time.perf_counter()
        self._every, self._seen = 1, 0
        self.tokens = 0
        self.rows = 0
        self.peak_rows = 0
        self.markers = 0
        self.edits = 0
        self.culled: Counter[Source] = Counter()
        self.samples: deque[Dead] = deque(maxlen=200)
        self.memory: list[tuple[int, int]] = []
        """Tokens read, bytes resident."""
        self.seconds = 0.0
        """Spent reading; waiting for more to read does not count."""

    def resume(self) -> None:
        """There is something to read again."""
        self._mark = time.perf_counter()

    def add(self, moment: Moment) -> None:
        """One more moment."""
        event = moment.event
        self.rows = len(moment.view.tokens)
        self.peak_rows = max(self.peak_rows, self.rows)
        if isinstance(event, Fed):
            self.tokens += event.tokens
            self._sample()
        elif isinstance(event, Edited):
            self.edits += 1
            for splice in event.edit.splices if event.edit.reason != REPAIR else ():
                self._bury(splice)
        self.seconds += max(moment.at - self._mark, 0.0)
        self._mark = max(moment.at, self._mark)

    @property
    def speed(self) -> float:
        """Tokens read per second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def dead(self) -> int:
        """Tokens culled."""
        return sum(self.culled.values())

    def line(self, points: int = 10) -> list[int]:
        """Resident bytes at 10 %, 20 % ... 100 % of the stream."""
        if not self.memory:
            return []
        read = np.array([at for at, _ in self.memory])
        wanted = [self.tokens * n / points for n in range(1, points + 1)]
        nearest = [int(np.searchsorted(read, w).clip(0, len(read) - 1)) for w in wanted]
        return [self.memory[i][1] for i in nearest]

    def _sample(self) -> None:
        self._seen += 1
        if self._seen % self._every:
            return
        self.memory.append((self.tokens, self._process.memory_info().rss))
        if len(self.memory) >= _SAMPLES:
            self.memory, self._every = self.memory[1::2], self._every * 2

    def _bury(self, splice: Splice) -> None:
        gone = splice.old.take(~np.isin(splice.old.uid, splice.new.uid))
        self.markers += int((splice.new.source == Source.MARKER).any())
        for run in _by_unit(gone):
            source = Source(int(run.source[0]))
            self.culled[source] += len(run)
            self.samples.append(Dead(source, len(run), spell(self._codec, run.token_id.tolist())))


def _by_unit(tokens: Tokens) -> list[Tokens]:
    """Runs of one source and unit."""
    if not len(tokens):
        return []
    changes = (np.diff(tokens.source.astype(np.int64)) != 0) | (np.diff(tokens.unit) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(tokens)]
    return [tokens[a:b] for a, b in pairwise(bounds)]
