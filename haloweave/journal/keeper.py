# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Keeps one mind on disk: the log at every step, a snapshot now and then, the archive's vectors when there
is time, and after a redaction nothing of what was redacted.

Knows the log, the archive, snapshots and saved rows. Must not know engines, minds or settings. It is called
by the one thread that owns the mind; what takes long (writing a snapshot, embedding passages) is done by a
worker thread that never sees the mind, only values.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Event

import numpy as np

from haloweave.errors import HaloError, InvalidInput, JournalError, JournalFailed
from haloweave.journal.archive import Archive
from haloweave.journal.base import Record, State
from haloweave.journal.copies import Copies
from haloweave.journal.log import Log
from haloweave.journal.rows import RowStore
from haloweave.journal.snapshot import Shelf, Snapshot
from haloweave.memory.rows import SavedRows
from haloweave.memory.tokens import COLUMNS, Tokens

_BATCH = 16
"""Passages embedded at once."""
_UNSCRUBBED = "unscrubbed"
"""Name under which the log keeps the uids that backups have yet to forget."""
_LATER = "it is tried again when the mind is next woken"
_TOKEN = "token."
"""Prefix of a token's own columns beside the rows that are kept of it."""


@dataclass(frozen=True)
class Keeping:
    """How often, and how much."""

    every: int = 256
    """Passes and edits after which a new snapshot is taken: a restart after a crash repeats about so many."""
    idle: float = 5.0
    """Seconds without any after which one is taken anyway."""

    def __post_init__(self) -> None:
        if self.every < 1 or not self.idle >= 0:
            raise InvalidInput(f"keeping: expected a number of passes and of seconds, got {self}")


class Keeper:
    """Journal and vault of one mind. `close` it."""

    def __init__(
        self,
        log: Log,
        shelf: Shelf,
        archive: Archive,
        fingerprint: Mapping[str, str],
        *,
        rows: RowStore | None = None,
        copies: Copies | None = None,
        how: Keeping | None = None,
        background: bool = True,
    ) -> None:
        self.log, self.shelf, self.archive = log, shelf, archive
        self.fingerprint = dict(fingerprint)
        self.rows = rows
        self._copies = copies
        self._how = how or Keeping()
        self._since = 0
        """Passes and edits since the newest snapshot."""
        self._last_change = time.monotonic()
        self._notices: list[str] = []
        self._cancelled = Event()
        self._mute = False
        """The embedder has failed: it is not asked again, and passages are found by their words."""
        self._worker = ThreadPoolExecutor(1, "halo-keeper") if background else None
        self._job: Future[Callable[[], None]] | None = None
        """What the worker does; its outcome is something to do on the owner's thread."""

    # ---- Journal -----------------------------------------------------------------------------------

    def write(self, record: Record) -> None:
        """See `Journal.write`."""
        self.log.write(record)
        self._since += 1
        self._last_change = time.monotonic()

    def redact(self, uids: Sequence[int], state: Callable[[], State]) -> None:
        """See `Journal.redact`. The order is what makes a crash harmless: the record that names the uids is
        written; then a snapshot without them; then everything that holds them goes."""
        self.finish_redaction(state)

    def finish_redaction(self, state: Callable[[], State]) -> None:
        """Carry out what was promised to be redacted; nothing if all is done.

        Raises JournalError where something on disk still holds it; it stays promised, and the next start goes
        on. The context no longer holds it in any case.
        """
        uids = self.log.pending()
        if uids:
            self._settle(discard=True)
            try:
                self._redact_here(state, uids)
            except JournalError as err:
                if self.log.failed:
                    raise
                raise JournalFailed(f"gone from the context, not yet from disk: {err}; {_LATER}") from err
        self._redact_copies()

    def _redact_here(self, state: Callable[[], State], uids: Sequence[int]) -> None:
        """In all that is the mind's own; that the backups are still to be done is noted with it."""
        self.log.put(_UNSCRUBBED, json.dumps(sorted({*self._unscrubbed(), *uids})))
        seq, put = self._prepared(state())
        try:
            put()
        except JournalError:
            if self.log.failed:
                raise
            if seq not in [s.seq for s in self.shelf.all()]:  # it was proved before it got there
                self._since = 1  # so that there will be one when nothing happens, or at the end
                raise
        self.shelf.clear(seq)
        if self.rows is not None:
            self.rows.clear()  # what neighbours learned from the redacted is in their rows too
        self.log.scrub()

    def _redact_copies(self) -> None:
        """In the backups."""
        uids = self._unscrubbed()
        if not uids:
            return
        try:
            if self._copies is not None:
                self._copies.scrub(uids)
        except JournalError as err:
            if self.log.failed:
                raise
            raise JournalFailed(f"a backup may still hold what was redacted: {err}; {_LATER}") from err
        self.log.put(_UNSCRUBBED, "[]")

    def _unscrubbed(self) -> list[int]:
        return [int(uid) for uid in json.loads(self.log.get(_UNSCRUBBED) or "[]")]

    # ---- Vault -------------------------------------------------------------------------------------

    def put(self, tokens: Tokens, rows: SavedRows) -> None:
        """See `Vault.put`."""
        if self.rows is None:
            return
        own = {_TOKEN + name: getattr(tokens, name) for name in COLUMNS}
        try:
            self.rows.put(tokens.uid, replace(rows, columns={**rows.columns, **own}))
        except JournalError as err:
            self._notices.append(f"the rows of {len(tokens)} culled tokens are not kept: {err}")

    def get(self, number: int) -> tuple[np.ndarray, SavedRows] | None:
        """See `Vault.get`. From now on they are kept until a snapshot has what is made of them."""
        found = self.rows.get(number) if self.rows is not None else None
        if found is not None and self.rows is not None:
            self.rows.hold(number, self.log.last + 1)
        if found is None:
            return None
        tokens, rows = _parted(found)
        return tokens.uid, rows

    def kept(self, uids: Sequence[int]) -> tuple[int, Tokens] | None:
        """The number under which rows of all these tokens are kept, and the tokens; None if one is not."""
        found = self.rows.fetch(uids) if self.rows is not None else None
        return None if found is None else (found[0], _parted(found[1])[0])

    def note(self, text: str) -> None:
        """Have something told by the next `tend`."""
        self._notices.append(text)

    # ---- now and then ------------------------------------------------------------------------------

    def tend(self, state: Callable[[], State]) -> list[str]:
        """Between two ticks: take over what the worker has done, give it what is due. What is to be told."""
        self._take_over()
        if self._job is None and not self.log.failed:
            if self._since >= self._how.every or (self._since and self._idle()):
                self._begin_snapshot(state())
            else:
                self._begin_embedding()
        told, self._notices = self._notices, []
        if complaint := self.archive.complaint():
            told.append(complaint)
        return told + (self.rows.notices() if self.rows is not None else [])

    def due(self) -> float | None:
        """Seconds after which `tend` should be called even if nothing happens; None if it need not be."""
        if self.log.failed:
            return None
        if self._job is not None:
            return 0.05
        if self._since:
            return max(0.0, self._last_change + self._how.idle - time.monotonic())
        embeds = self.archive.embedder is not None and not self._mute
        return 0.0 if embeds and self.archive.waiting else None

    def resumed(self, passes: int) -> None:
        """A restart has repeated so many passes and edits since the newest snapshot."""
        self._since = passes

    def close(self, state: Callable[[], State] | None) -> None:
        """Take a last snapshot (unless `state` is None, or the newest is current) and let go of all files."""
        try:
            self._settle()
            if state is not None and not self.log.failed:
                if self._since:
                    self._snapshot(state())
                self.log.put("asleep", "yes")
        finally:
            if self._worker is not None:
                self._worker.shutdown()
            if self.rows is not None:
                self.rows.close()
            self.log.close()

    def _idle(self) -> bool:
        return time.monotonic() >= self._last_change + self._how.idle

    # ---- snapshots ---------------------------------------------------------------------------------

    def snapshot(self, state: State) -> None:
        """One, here and now; that it cannot be written is told, and harms nothing."""
        self._settle()  # else the worker's, which is older, would take this one for one too many
        try:
            self._snapshot(state)
        except JournalError as err:
            if self.log.failed:
                raise
            self._since = 1
            self._notices.append(f"no snapshot: {err}")

    def _snapshot(self, state: State) -> int:
        """Here and now. Its number."""
        seq, put = self._prepared(state)
        put()
        return seq

    def _prepared(self, state: State) -> tuple[int, Callable[[], Snapshot]]:
        """A checkpoint in the log, and what is left to do for the snapshot that goes with it."""
        seq = self.log.write(state.checkpoint)
        self._since = 0
        return seq, partial(self.shelf.put, seq, state, self.fingerprint, self._cancelled.is_set)

    def _begin_snapshot(self, state: State) -> None:
        seq, put = self._prepared(state)

        def work() -> Callable[[], None]:
            put()
            return lambda: self._proven(seq)

        self._submit(work)

    def _proven(self, seq: int) -> None:
        self.log.thin()
        if self.rows is not None:
            oldest = min((s.seq for s in self.shelf.all()), default=seq)
            self.rows.release(oldest)

    # ---- the worker --------------------------------------------------------------------------------

    def _begin_embedding(self) -> None:
        embedder = self.archive.embedder
        if embedder is None or self._mute or not (waiting := self.archive.pending(_BATCH)):
            return
        numbers, texts = [n for n, _ in waiting], [text for _, text in waiting]

        def work() -> Callable[[], None]:
            try:
                vectors = embedder.embed(texts)
            except Exception:
                self._mute = True
                raise

            def keep() -> None:
                self.archive.store(dict(zip(numbers, vectors, strict=True)))

            return keep

        self._submit(work)

    def _submit(self, work: Callable[[], Callable[[], None]]) -> None:
        if self._worker is not None:
            self._job = self._worker.submit(work)
            return
        self._job = Future()
        try:
            self._job.set_result(work())
        except Exception as err:  # noqa: BLE001  (as a worker would: told by `_take_over`)
            self._job.set_exception(err)
        self._take_over()

    def _take_over(self, *, discard: bool = False) -> None:
        """What the worker did: carry out the rest of it here. What failed is told, and stops no mind."""
        if self._job is None or not self._job.done():
            return
        job, self._job = self._job, None
        err = job.exception()
        if discard:
            return
        if err is None:
            self._carry_out(job.result())
        elif isinstance(err, HaloError):
            self._notices.append(str(err))
        else:
            self._notices.append(f"failed in the background: {type(err).__name__}: {err}")

    def _carry_out(self, outcome: Callable[[], None]) -> None:
        """What failed here and left the log alive is not what a mind should stop for."""
        try:
            outcome()
        except JournalError as err:
            if self.log.failed:
                raise
            self._notices.append(str(err))

    def _settle(self, *, discard: bool = False) -> None:
        """Wait for the worker; with `discard` its outcome is thrown away, and a snapshot is broken off."""
        if self._job is None:
            return
        if discard:
            self._cancelled.set()
        try:
            self._job.exception()
            self._take_over(discard=discard)
        finally:
            self._cancelled.clear()


def _parted(rows: SavedRows) -> tuple[Tokens, SavedRows]:
    """What was kept together: the tokens, and the engine's own columns."""
    tokens = Tokens(**{name: rows.columns[_TOKEN + name].copy() for name in COLUMNS})
    columns = {name: column for name, column in rows.columns.items() if not name.startswith(_TOKEN)}
    return tokens, replace(rows, columns=columns)
