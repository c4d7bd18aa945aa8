# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Minds that have lived, kept on disk: by a log alone, or whole over the fakes.

Knows the journal and the fakes. Must not know what is tested with them.
"""

from __future__ import annotations

from fakes import fake_mind
from journalled import Life

from haloweave.journal.archive import Archive
from haloweave.journal.copies import Copies
from haloweave.journal.keeper import Keeper
from haloweave.journal.log import Log
from haloweave.journal.snapshot import Shelf
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.minds import Minds, Place
from haloweave.resume import resume

SECRET = "xylophone77"
LOGGED = "the boiler in the cellar reported a pressure of nine bars at dawn. " * 3


def opened(place: Place) -> Log:
    log = Log(place.database)
    Archive(log)
    return log


def lived(minds: Minds, name: str = "ada") -> Life:
    """A mind with a past: births, culls, a repair, an undo, an abort, checkpoints. The log is left open."""
    log = opened(minds.make(name))
    for key, value in {"model": "fake", "budget": "512", "created": "2026-01-02T03:04:05+00:00"}.items():
        log.put(key, value)
    life = Life(log)
    first = life.feed("Remember the boiler, and mind the gap between the train and the platform.")
    life.checkpoint()
    lines = life.feed(LOGGED, Source.LOG, unit=1)
    life.say("I will remember it.")
    life.cull(lines)
    life.abort("this never happened")
    life.undo(life.cull(first[4:6]))
    life.repair(first[2], "kettle")
    life.feed(f"The word is {SECRET} and nobody must know.")
    life.checkpoint()
    life.say("It is safe with me.")
    return life


def asleep_mind(minds: Minds, name: str = "ada") -> Life:
    life = lived(minds, name)
    life.log.close()
    return life


class Kept:
    """A fake mind whose journal, archive and snapshots are on disk."""

    def __init__(self, place: Place) -> None:
        self.log = Log(place.database)
        self.keeper = Keeper(
            self.log,
            Shelf(place.snapshots),
            Archive(self.log),
            {"model": "fake"},
            copies=Copies(place.backups),
            background=False,
        )
        self.mind: Mind = fake_mind(budget=160, journal=self.keeper)
        self.how = resume(self.mind, self.keeper).how

    def hear(self, text: str, source: Source = Source.USER) -> None:
        for _ in self.mind.listen(text, source):
            pass

    def snapshot(self) -> None:
        self.keeper.snapshot(self.mind.state())

    def close(self) -> None:
        self.keeper.close(None)
