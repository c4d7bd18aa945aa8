# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A life that nothing interrupts, noted point by point; and whether a mind that was brought back stands at
one of these points, with nothing lost.

Knows minds and what keeps them. Must not know what went wrong. Between any two records a life is at one
point, which its revision tells, and whether its logits are due to be read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from haloweave.bench.crash.script import Place, Step, play
from haloweave.bench.crash.world import Alive
from haloweave.events import Event, Spoke
from haloweave.journal.base import Born, Committed, Journal, Record, State
from haloweave.journal.fold import context_at
from haloweave.journal.log import Log
from haloweave.journal.scrub import REDACTED
from haloweave.memory.tokens import COLUMNS, View

Key = tuple[int, bool]


@dataclass(frozen=True)
class Point:
    """A mind between two records."""

    place: Place
    state: str
    """Hash of rows, tokens, brightness, logits, turn and counters, to the last bit."""
    likeness: str
    """The same but for the numbers of units, of which some may be skipped where an act was begun again."""
    archive: str
    next_uid: int
    spoken: int
    """Tokens that the model has said."""
    redacted: int
    """Secrets that are gone."""


@dataclass
class Trace:
    """All points of one life."""

    points: dict[Key, Point] = field(default_factory=dict)
    said: list[int] = field(default_factory=list)
    spelt: dict[int, bytes] = field(default_factory=dict)
    """What each uid spelt, told or redacted since."""
    secrets: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    """Texts that were redacted, and their tokens, in order."""

    def place(self, alive: Alive) -> Place | None:
        """Where in its life a mind stands."""
        point = self.point(alive)
        return point.place if point else None

    def point(self, alive: Alive) -> Point | None:
        """The point at which it stands. Reading a context again makes its logits fresh, too."""
        found = self.points.get(key_of(alive))
        if found is None and alive.resumed.how == "reread":
            found = self.points.get((alive.mind.view.revision, True))
        return found


def key_of(alive: Alive) -> Key:
    return alive.mind.view.revision, alive.mind.state().stale


@dataclass
class Watch:
    """A journal that notes the point before each record, and passes on what it is told."""

    inner: Journal
    before: Callable[[Record], None]
    redacts: Callable[[Sequence[int]], None]

    def write(self, record: Record) -> None:
        self.before(record)
        self.inner.write(record)

    def redact(self, uids: Sequence[int], state: Callable[[], State]) -> None:
        self.redacts(uids)
        self.inner.redact(uids, state)


def traced(
    alive: Alive, steps: tuple[Step, ...], at_start: Callable[[int], None], secret: Callable[[int], str]
) -> Trace:
    """Let it live through all steps. `at_start` is called where each begins, and where the last ends."""
    trace = Trace()
    here = {"step": 0, "tick": alive.mind.view.tick}

    def note() -> None:
        passes = alive.mind.view.tick - here["tick"]
        found = _point(alive, Place(here["step"], passes), len(trace.said), len(trace.secrets))
        trace.points.setdefault(key_of(alive), found)

    def before(record: Record) -> None:
        note()
        trace.spelt.update(_births(record))

    def redacts(uids: Sequence[int]) -> None:
        trace.secrets.append((secret(len(trace.secrets)), tuple(uids)))

    def heard(event: Event) -> None:
        if isinstance(event, Spoke) and event.token_id >= 0:
            trace.said.append(event.token_id)

    _watch(alive, Watch(alive.keeper, before, redacts))
    for uid, piece in alive.keeper.log.pieces(range(alive.mind.view.next_uid)).items():
        trace.spelt[uid] = piece
    for n in range(len(steps)):
        here.update(step=n, tick=alive.mind.view.tick)
        note()
        at_start(n)
        play(alive, steps, Place(n), heard, n + 1)
    here.update(step=len(steps), tick=alive.mind.view.tick)
    note()
    at_start(len(steps))
    return trace


def _watch(alive: Alive, watch: Watch) -> None:
    alive.mind._journal = watch
    alive.mind._context._journal = watch


def _births(record: Record) -> Iterator[tuple[int, bytes]]:
    if isinstance(record, Born):
        yield from zip(record.tokens.uid.tolist(), record.pieces, strict=True)
    elif isinstance(record, Committed):
        yield from zip(record.edit.born_uids.tolist(), record.pieces, strict=True)


def _point(alive: Alive, place: Place, spoken: int, redacted: int) -> Point:
    return Point(
        place,
        state_of(alive),
        state_of(alive, units=False),
        archive_of(alive.keeper.log),
        alive.mind.view.next_uid,
        spoken,
        redacted,
    )


def state_of(alive: Alive, *, units: bool = True) -> str:
    """A hash of all that the mind is. How many units were ever given is not part of it: a journal learns of
    one when its first token is born."""
    state = alive.mind.state()
    told, turn = state.checkpoint, state.checkpoint.turn
    digest = hashlib.sha256()
    view = told.view
    for name in COLUMNS:
        column = getattr(view.tokens, name)
        digest.update(_ranks(column).tobytes() if name == "unit" and not units else column.tobytes())
    turn = replace(turn, next_unit=0, unit=turn.unit if units else 0)
    logits = b"" if state.logits is None else state.logits.tobytes()
    digest.update(repr((view.revision, view.tick, view.next_uid, turn, told.totals, state.stale)).encode())
    digest.update(logits)
    for name, array in sorted(state.image.items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def _ranks(unit: np.ndarray) -> np.ndarray:
    """Units numbered in the order in which they appear."""
    seen: dict[int, int] = {-1: -1}
    return np.array([seen.setdefault(int(u), len(seen)) for u in unit], np.int64)


_ARCHIVE = (
    "SELECT id, last_uid, source, first_tick, last_tick, culled IS NULL, holes, text FROM passages "
    "ORDER BY id",
    "SELECT id, runs FROM runs ORDER BY id, seq",
    "SELECT passage, first_uid, last_uid FROM recalls ORDER BY passage, seq",
    "SELECT id FROM vectors UNION SELECT id FROM unembedded ORDER BY id",
)


def archive_of(log: Log) -> str:
    """A hash of what the archive holds, but for the numbers of records."""
    rows: list[Any] = [log.db.execute(sql).fetchall() for sql in _ARCHIVE]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


# ---- judging ---------------------------------------------------------------------------------------------


def verdict(alive: Alive, trace: Trace, acknowledged: int, folder: Path, *, again: bool = False) -> list[str]:
    """What is wrong with a mind that was brought back; `again`: it has begun an act a second time since."""
    wrong = []
    if alive.resumed.how == "reread":
        wrong.append(f"no snapshot could be used: {alive.resumed.why}")
    if alive.mind.view.revision < acknowledged:
        wrong.append(f"acknowledged up to revision {acknowledged}, back at {alive.mind.view.revision}")
    point = trace.point(alive)
    if point is None:
        return [*wrong, f"never was at revision {key_of(alive)}"]
    expected = point.likeness if again else point.state
    if alive.resumed.how != "reread" and state_of(alive, units=not again) != expected:
        wrong.append("rows, tokens, brightness or logits differ")
    if alive.mind.turn.next_unit <= alive.mind.view.tokens.unit.max(initial=-1):
        wrong.append("a unit's number will be given twice")
    wrong += _disk_faults(alive, trace, point)
    wrong += [f"redacted, and still there: {where}" for where in leaks(trace, point.redacted, folder)]
    return wrong


def _disk_faults(alive: Alive, trace: Trace, point: Point) -> Iterator[str]:
    """What the journal and the archive do not agree in, with the mind or with what was."""
    log, view = alive.keeper.log, alive.mind.view
    if (said := log.db.pragma("integrity_check")) != "ok":
        yield f"the database is damaged: {said}"
    if wrong := _difference(context_at(log).view, view):
        yield f"the journal tells other tokens than the mirror has: {wrong}"
    gone = {uid for _, uids in trace.secrets[: point.redacted] for uid in uids}
    pieces = log.pieces(range(view.next_uid))
    lost = [u for u in range(view.next_uid) if pieces.get(u) != (b"" if u in gone else trace.spelt[u])]
    if lost:
        yield f"{len(lost)} tokens are lost or changed, the first is {lost[0]}"
    if archive_of(log) != point.archive:
        yield "the archive differs"
    named = [r for _, r in log.records() if _names(r, gone)]
    if named:
        yield f"{len(named)} records still name redacted tokens"
    if log.pending():
        yield "a redaction was not carried out to its end"


def _difference(here: View, there: View) -> str:
    names = [n for n in ("revision", "tick", "next_uid") if getattr(here, n) != getattr(there, n)]
    columns = [n for n in COLUMNS if n != "brightness"]
    a, b = here.tokens, there.tokens
    return ", ".join([*names, *(n for n in columns if not np.array_equal(getattr(a, n), getattr(b, n)))])


def _names(record: Record, gone: set[int]) -> bool:
    """Whether it still says which tokens these were."""
    runs = []
    if isinstance(record, Born):
        runs = [record.tokens]
    elif isinstance(record, Committed):
        runs = [run for s in record.edit.splices for run in (s.old, s.new)]
    return any(
        int(u) in gone and int(i) != REDACTED
        for run in runs
        for u, i in zip(run.uid.tolist(), run.token_id.tolist(), strict=True)
    )


def leaks(trace: Trace, redacted: int, folder: Path) -> list[str]:
    """Files that still hold a redacted text, as text or as token ids."""
    found = []
    for file in sorted(folder.rglob("*")):
        data = file.read_bytes() if file.is_file() else b""
        for text, _ in trace.secrets[:redacted]:
            ids = np.array(list(text.encode()))
            forms = (text.encode(), ids.astype("<i4").tobytes(), ids.astype("<i8").tobytes())
            if any(form in data for form in forms):
                found.append(f"{file.relative_to(folder)} ({text})")
    return found
