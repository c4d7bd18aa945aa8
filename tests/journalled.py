# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A small life written to a log: words are tokens, edits are made on a mirror beside it.

Knows logs and mirrors. Must not know how a log keeps anything. `records` is what was written, to compare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from haloweave.journal.base import Aborted, Born, Checkpoint, Committed, Record, Totals, Turn
from haloweave.journal.log import Log
from haloweave.memory.edit import Edit, Splice, Surgery
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import delete, pin
from haloweave.memory.tokens import NO_UNIT, Source, Tokens


class Life:
    """Writes to a log as a mind would: first the record, then the mirror."""

    def __init__(self, log: Log, *, mirror: Mirror | None = None) -> None:
        self.log = log
        self.mirror = mirror or Mirror()
        self.records: list[Record] = []
        self.totals = Totals()
        self.turn = Turn()
        self._words: dict[bytes, int] = {}

    def write(self, record: Record) -> int:
        seq = self.log.write(record)
        self.records.append(record)
        return seq

    def born(
        self, pieces: Sequence[bytes], source: Source, *, unit: int = NO_UNIT, sampled: bool = False
    ) -> Born:
        view = self.mirror.view
        ids = [self._words.setdefault(p, 70_000 + len(self._words)) for p in pieces]
        tokens = Tokens.make(
            ids, first_uid=view.next_uid, source=source, brightness=100.0, tick=view.tick, unit=unit
        )
        turn = Turn("user", 3, True, len(self.records))
        return Born(tokens, tuple(pieces), turn, sampled)

    def take(self, born: Born) -> list[int]:
        self.write(born)
        self.mirror.append(born.tokens)
        self.totals = self.totals.after_birth(born)
        self.turn = born.turn or self.turn
        return [int(u) for u in born.tokens.uid]

    def feed(self, text: str, source: Source = Source.USER, *, unit: int = NO_UNIT) -> list[int]:
        """One pass; uids of the words."""
        return self.take(self.born(cut(text), source, unit=unit))

    def say(self, text: str) -> list[int]:
        """One pass for each word."""
        return [u for p in cut(text) for u in self.take(self.born([p], Source.MODEL, sampled=True))]

    def edit(self, edit: Edit, pieces: Sequence[bytes] = (), **more: object) -> Edit:
        edit = edit.stamped(self.mirror.view.next_uid)
        self.write(Committed(edit, tuple(pieces), **more))  # type: ignore[arg-type]
        self.mirror.apply(edit)
        self.totals = self.totals.after_edit(edit)
        return edit

    def cull(self, uids: Sequence[int]) -> Edit:
        return self.edit(delete(self.mirror.view, list(uids)))

    def pin(self, uids: Sequence[int]) -> Edit:
        return self.edit(pin(self.mirror.view, list(uids)))

    def repair(self, uid: int, text: str, source: Source = Source.MODEL) -> list[int]:
        """The token becomes other words."""
        view = self.mirror.view
        slot = int(view.tokens.slots_of([uid])[0])
        pieces = cut(text)
        ids = [self._words.setdefault(p, 70_000 + len(self._words)) for p in pieces]
        new = Tokens.make(ids, first_uid=view.next_uid, source=source, tick=view.tick)
        splice = Splice(slot, view.tokens[slot : slot + 1], new)
        done = self.edit(Edit(view.revision, view.tick, "repair", Surgery.PATCH, (splice,)), pieces)
        return [int(u) for u in done.born_uids]

    def undo(self, edit: Edit) -> None:
        """Take back the newest edit."""
        back = replace(edit.inverse(), base=self.mirror.view.revision)
        spelt = self.log.pieces(int(u) for u in back.born_uids)
        self.edit(back, [spelt[int(u)] for u in back.born_uids], takes_back=edit.base)

    def abort(self, text: str) -> None:
        """Words that were written, and then were not taken in."""
        self.write(self.born(cut(text), Source.USER))
        self.write(Aborted("EngineFault: told to fail"))

    def redact(self, uids: Sequence[int]) -> None:
        """As `Mind.redact`: the living among them leave, all of them are named."""
        alive = [u for u in uids if u in self.mirror.view.tokens.uid]
        edit = delete(self.mirror.view, alive, surgery=Surgery.RECOMPUTE, reason="redact")
        self.edit(edit, redacts=tuple(uids))

    def checkpoint(self) -> int:
        light = np.linspace(1, 200, self.mirror.rows).astype(np.float32)
        self.mirror.shine(light)
        return self.write(Checkpoint(self.mirror.view, self.turn, self.totals))


def cut(text: str) -> list[bytes]:
    """Words with the space before them; long ones in two, even within a character."""
    pieces: list[bytes] = []
    for word in re.findall(r"\s*\S+|\s+$", text):
        data = word.encode()
        at = len(data) // 2 if len(data) > 6 else 0
        pieces += [p for p in (data[:at], data[at:]) if p]
    return pieces
