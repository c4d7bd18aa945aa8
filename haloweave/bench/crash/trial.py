# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""One fault in one act: what the living mind makes of it, and what comes back.

Knows the laboratory, the life and its trace. Must not know which faults there are to try.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from haloweave.bench.crash.cases import DEATHS, WAKING, Case, Harm, Outcome
from haloweave.bench.crash.script import Place, play
from haloweave.bench.crash.trace import key_of, state_of, verdict
from haloweave.bench.crash.world import Alive
from haloweave.bench.faults import Died
from haloweave.errors import InvalidInput, JournalError
from haloweave.events import Event, Spoke

if TYPE_CHECKING:
    from haloweave.bench.crash.sweep import Lab

_FIRST = ("redact", WAKING)
"""Acts in which a snapshot is taken with none before it: if that cannot be written, the next start says that
it has to read the context again."""


class Trial:
    """One case, from its fault to its verdict."""

    def __init__(self, lab: Lab, case: Case) -> None:
        self.lab, self.case = lab, case
        self.step = None if case.act == WAKING else int(case.start)
        self.alive: Alive | None = None
        self.acknowledged = 0
        self.ended = "went on"
        self.again = False
        """An act was begun a second time."""
        self.said: list[int] = []
        self.wrong: list[str] = []
        self.notes: list[str] = []

    def suffer(self) -> None:
        """The fault, and what the living mind makes of it; afterwards nobody is awake."""
        try:
            self._act()
        except Died:
            self.ended = "died"
        except JournalError:
            self.ended = "stopped"
        except InvalidInput as err:
            self._without_rows(err)
        if not self.lab.power.on:
            self.ended = "died"
            self._bury()
            self.lab.cut_power(self.case)
            self.lab.mend()
            return
        self._reopen_when_full()
        self.lab.mend()
        if self.case.harm in DEATHS:
            self.wrong.append(f"the operation never came: {self.case}")
        self._go_on_living()
        self._bury()

    def _act(self) -> None:
        if self.step is None:
            self.lab.arm(self.case)
            self.alive = self.lab.wake()
            return
        self.alive = self.lab.wake()
        self.acknowledged = self.alive.mind.view.revision
        self.lab.arm(self.case)
        play(self.alive, self.lab.steps, Place(self.step), self._heard, self.step + 1)

    def _heard(self, event: Event) -> None:
        if not self.lab.power.on:
            raise Died
        if self.alive is not None:
            self.acknowledged = self.alive.mind.view.revision
        if isinstance(event, Spoke) and event.token_id >= 0:
            self.said.append(event.token_id)

    def _reopen_when_full(self) -> None:
        """As long as there is no room, opening may fail, but only by saying so."""
        if self.case.harm is not Harm.FULL or self.ended != "stopped":
            return
        self._bury()
        try:
            self.lab.wake().die()
        except JournalError:
            return

    def _go_on_living(self) -> None:
        """A mind that still works is asked again for what failed, and has to be as if it never had."""
        alive = self.alive
        if alive is None or alive.keeper.log.failed:
            return
        alive.told += alive.keeper.tend(alive.mind.state)
        self.notes += [f"told: {text}" for text in alive.told]
        at = self.lab.trace.place(alive)
        if at is None:
            self.wrong.append(f"while awake: never was at revision {key_of(alive)}")
            return
        self.again = again = self.ended == "stopped"
        unfinished = again or any("it is tried again" in note for note in self.notes)
        if unfinished and self._unredacted(alive):
            return
        if again and self.step is not None and at.step <= self.step:
            try:
                play(alive, self.lab.steps, at, self._heard, self.step + 1)
            except (JournalError, InvalidInput) as err:
                self._tried_again(err)
                return
        self.wrong += [
            f"while awake: {w}" for w in verdict(alive, self.lab.trace, 0, self.lab.home, again=again)
        ]

    def _unredacted(self, alive: Alive) -> bool:
        """A redaction that failed is asked for again; whether it failed again."""
        try:
            alive.keeper.finish_redaction(alive.mind.state)
        except JournalError as err:
            self._tried_again(err)
            return True
        return False

    def _tried_again(self, err: JournalError | InvalidInput) -> None:
        if isinstance(err, InvalidInput):
            self._without_rows(err)
        elif self.alive is None or not self.alive.keeper.log.failed:
            self.wrong.append(f"failed again on a sound disk: {err}")

    def _without_rows(self, err: InvalidInput) -> None:
        """Rows of the culled are a convenience: where they could not be kept, that is said."""
        if "rows" not in str(err):
            raise err
        self.notes.append(f"without rows: {err}")

    def _bury(self) -> None:
        if self.alive is not None:
            self.alive.die()
            self.alive = None

    # ---- judging ---------------------------------------------------------------------------------------

    def judged(self, far: bool) -> Outcome:
        """Wake what is left, and see."""
        back = "not at all"
        try:
            alive = self.alive = self.lab.wake()
            back = alive.resumed.how
            self._judge(alive, far)
        except (JournalError, InvalidInput) as err:
            self.wrong.append(f"{type(err).__name__}: {err}")
        self._bury()
        return Outcome(self.case, self.ended, back, tuple(self.wrong), tuple(self.notes))

    def _judge(self, alive: Alive, far: bool) -> None:
        lab = self.lab
        found = verdict(alive, lab.trace, self.acknowledged, lab.home, again=self.again)
        if alive.resumed.how == "reread" and self.case.harm not in DEATHS and self.case.act in _FIRST:
            self.notes.append(f"read again: {alive.resumed.why}")
            self.wrong += found[1:]
            return
        self.wrong += found
        at = lab.trace.place(alive)
        if at is None or found:
            return
        self._continue(alive, at, len(lab.steps) if far else min(at.step + 1, len(lab.steps)))

    def _continue(self, alive: Alive, at: Place, stop: int) -> None:
        """The same thought: to the end of what it was about, or of its life."""
        trace, key = self.lab.trace, key_of(alive)
        self.said.clear()
        try:
            play(alive, self.lab.steps, at, self._heard, stop)
        except InvalidInput as err:
            self._without_rows(err)
            return
        begun = trace.points[key].spoken
        if self.said != trace.said[begun : begun + len(self.said)]:
            self.wrong.append("other tokens are said than without the fault")
        point = trace.point(alive)
        if point is None or state_of(alive, units=False) != point.likeness:
            self.wrong.append("what follows is not what followed without the fault")
        if stop == len(self.lab.steps):
            self.wrong += verdict(alive, trace, 0, self.lab.home, again=True)
