# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Looking into a mind that is kept, without waking it: what it is, what was said, what its context was.

Knows a mind's folder and its journal, which it opens for reading only; so the mind may be awake meanwhile, in
another process. Must not know engines, tokenizers or screens: the journal itself tells what each token spelt.
"""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil

from haloweave.errors import InvalidInput, JournalError
from haloweave.journal.archive import Archive
from haloweave.journal.base import Totals, Turn
from haloweave.journal.copies import Copies
from haloweave.journal.copies import reading as read
from haloweave.journal.fold import context_at, seq_at
from haloweave.journal.log import Log
from haloweave.journal.scrub import REDACTED
from haloweave.journal.snapshot import Shelf, Snapshot
from haloweave.journal.transcript import Line
from haloweave.memory.tokens import Source, View
from haloweave.minds import Place
from haloweave.text import ChatFrame

STRUCK = b"[redacted]"
_RECENT = 2048
"""Tokens whose text is read to find the last few lines."""


@dataclass(frozen=True)
class Owner:
    """The process that has a mind awake, as far as it tells."""

    pid: int
    host: str
    since: str


@dataclass(frozen=True)
class Summary:
    """What is known of a mind at a glance."""

    name: str
    folder: Path
    size: int = 0
    """Bytes on disk, snapshots and backups included."""
    model: str = ""
    created: str = ""
    tick: int = 0
    rows: int = 0
    budget: int = 0
    records: int = 0
    owner: Owner | None = None
    fault: str = ""
    """Why it cannot be read."""


@dataclass(frozen=True)
class Details:
    """All that can be told of a mind while it sleeps."""

    totals: Totals = field(default_factory=Totals)
    turn: Turn = field(default_factory=Turn)
    """Which turn is open."""
    snapshots: tuple[Snapshot, ...] = ()
    """Newest first."""
    backups: tuple[Path, ...] = ()
    """Oldest first."""
    archive: Mapping[str, int] = field(default_factory=dict)
    """What the archive holds, by name."""
    unfinished: int = 0
    """Tokens whose redaction is not finished; waking the mind finishes it."""


@dataclass(frozen=True)
class Moment:
    """The context as it was at one tick."""

    view: View
    speller: Speller
    newest: int
    """The mind's newest tick."""
    lit: int | None
    """Tick of the checkpoint that the brightness comes from; None: all have that of their birth."""
    budget: int


class Speller:
    """A codec that can only spell, and only the tokens it was told of."""

    def __init__(self, pieces: Mapping[int, bytes]) -> None:
        self._pieces = {**pieces, REDACTED: STRUCK}

    @property
    def frame(self) -> ChatFrame | None:
        return None

    @property
    def control_ids(self) -> frozenset[int]:
        return frozenset()

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Raises InvalidInput."""
        raise InvalidInput("a journal can spell what was said; to read more, wake the mind with its model")

    def piece(self, token_id: int) -> bytes:
        """Empty for what nobody spelt."""
        return self._pieces.get(token_id, b"")


@contextmanager
def reading(place: Place) -> Iterator[Log]:
    """The journal of a mind, for reading only. Raises JournalError."""
    with read(place.database) as log:
        yield log


# ---- what it is ------------------------------------------------------------------------------------------


def summary(place: Place) -> Summary:
    """What a mind is; one that cannot be read has a `fault`."""
    told = Summary(place.name, place.folder)
    if place.folder.is_symlink():
        return replace(told, fault="a link, and those are not followed: move it elsewhere")
    told = replace(told, size=_size(place.folder), owner=_owner(place.folder))
    try:
        with reading(place) as log:
            return _told(told, log)
    except JournalError as err:
        return replace(told, fault=str(err))


def details(place: Place) -> Details:
    """The rest. Raises JournalError."""
    with reading(place) as log:
        told = context_at(log)
        return Details(
            totals=told.totals,
            turn=told.turn,
            snapshots=tuple(Shelf.peek(place.snapshots)),
            backups=Copies(place.backups).all(),
            archive=Archive.peek(log),
            unfinished=len(log.pending()),
        )


def _told(told: Summary, log: Log) -> Summary:
    view = context_at(log).view
    return replace(
        told,
        model=log.get("model") or "",
        created=log.get("created") or "",
        tick=view.tick,
        rows=len(view.tokens),
        budget=_budget(log),
        records=log.last,
    )


def _budget(log: Log) -> int:
    """0 if it does not tell."""
    told = log.get("budget") or ""
    return int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0


def _size(folder: Path) -> int:
    """Bytes of all files in it; what vanishes meanwhile counts for nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:
            continue
    return total


def _owner(folder: Path) -> Owner | None:
    """Who has it awake; None if nobody says so, or a process of this machine that is no more."""
    try:
        told = json.loads((folder / "owner.json").read_bytes())
        owner = Owner(int(told["pid"]), str(told["host"])[:64], str(told["since"])[:32])
        return owner if _lives(owner) else None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _lives(owner: Owner) -> bool:
    if owner.host != socket.gethostname():
        return True  # nobody here can tell
    try:
        begun = psutil.Process(owner.pid).create_time()
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError, OverflowError):
        return False
    since = datetime.fromisoformat(owner.since).timestamp()
    return bool(begun <= since + 2)  # else another process has its number now


# ---- what was said ---------------------------------------------------------------------------------------


def recent(log: Log, lines: int = 8) -> list[Line]:
    """The last lines that were said."""
    newest = context_at(log).view.next_uid - 1
    return list(deque(spoken(log.transcript(max(newest - _RECENT, -1))), maxlen=lines))


def spoken(said: Iterable[Line]) -> Iterator[Line]:
    """A transcript as a person reads it: line by line, blank ones left out, without the chat's frame and the
    markers that stand for what was culled."""
    held: Line | None = None
    for part in said:
        if part.source == Source.MARKER:
            continue
        if held is not None and held.source != part.source:
            yield held
            held = None
        if part.source == Source.CONTROL:
            continue
        whole = part if held is None else replace(held, text=held.text + part.text, last_uid=part.last_uid)
        *lines, rest = whole.text.split("\n")
        yield from (replace(whole, text=line) for line in lines if line.strip())
        held = replace(whole, text=rest) if rest.strip() else None
    if held is not None:
        yield held


# ---- what its context was --------------------------------------------------------------------------------


def moment(log: Log, tick: int | None = None) -> Moment:
    """The context at that tick, edits of that tick included (default: as it is now).

    Raises InvalidInput for a tick that never was, JournalCorrupt.
    """
    newest = context_at(log).view
    seq = log.last if tick is None else seq_at(log, tick)
    view = newest if seq == log.last else context_at(log, seq).view
    found = log.checkpoint(at=seq)
    spelt = log.pieces(view.tokens.uid.tolist())
    pairs = zip(view.tokens.uid.tolist(), view.tokens.token_id.tolist(), strict=True)
    speller = Speller({token_id: spelt.get(uid, b"") for uid, token_id in pairs})
    return Moment(view, speller, newest.tick, found[1].view.tick if found else None, _budget(log))


def struck_once(view: View) -> View:
    """The same, with one token left of each run of redacted ones: enough to show."""
    ids = view.tokens.token_id
    again = (ids[1:] == REDACTED) & (ids[:-1] == REDACTED)
    keep = np.concatenate([np.ones(min(len(ids), 1), np.bool_), ~again])
    return replace(view, tokens=view.tokens.take(keep))
