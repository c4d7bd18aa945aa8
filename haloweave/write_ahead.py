# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A context of which every change is journalled before it happens (write-ahead logging).

Knows contexts, the journal, where rows of the culled are kept, and a speller. Must not know turns, policies
that choose, or when to weave. Whatever is interrupted or fails, mirror and KV agree whenever a call returns,
and the journal tells how it came about: so after a crash the same records lead to the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from haloweave.context import Context
from haloweave.engine.base import Engine, Forward
from haloweave.errors import InvalidInput
from haloweave.history import History, Step
from haloweave.journal.base import (
    Aborted,
    Born,
    Checkpoint,
    Committed,
    Journal,
    Pieces,
    Rebuilt,
    Record,
    Reread,
    State,
    Totals,
    Turn,
    Vault,
)
from haloweave.memory.brightness import BrightnessPolicy
from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.rows import SavedRows
from haloweave.memory.tokens import Tokens, View


class WriteAhead:
    """One context, its journal, and what was begun and not yet finished."""

    def __init__(
        self,
        engine: Engine,
        brightness: BrightnessPolicy,
        journal: Journal,
        spell: Callable[[int], bytes],
        vault: Vault | None,
    ) -> None:
        self._engine, self._journal, self._spell, self._vault = engine, journal, spell, vault
        self._context = Context(engine, brightness)
        self.goal = 0
        """Rows that a weave which was broken off still has to come down to; 0 if none was."""

    @property
    def view(self) -> View:
        return self._context.view

    @property
    def totals(self) -> Totals:
        return self._context.totals

    @property
    def history(self) -> History:
        return self._context.history

    @property
    def empty(self) -> bool:
        """Nothing was read yet that a token could follow from."""
        return self._context.logits is None and not self._context.stale

    def check(self, edit: Edit) -> None:
        """Raises EditConflict or InvalidEdit where `edit` does not fit the context."""
        self._context.check(edit)

    # ---- changes -----------------------------------------------------------------------------------

    def tick(
        self,
        tokens: Tokens,
        turn: Turn,
        *,
        sampled: bool = False,
        scored: bool = False,
        origin: int = 0,
    ) -> Forward:
        """One forward pass: journal, KV, mirror, brightness. The chat frame then stands at `turn`."""
        self._mend()
        self._check_ids(tokens.token_id)
        born = Born(tokens, self._spelt(tokens.token_id), turn, sampled, scored, origin)
        with self._journalled(born):
            forward = self._context.take_in(born)
        self.goal = 0
        return forward

    def commit(
        self,
        edit: Edit,
        *,
        goal: int | None = None,
        takes_back: int | None = None,
        redacts: tuple[int, ...] = (),
        rows: int = 0,
    ) -> Edit:
        """Law 3: validate, journal, KV, mirror. The edit as it was carried out.

        For the other arguments see `Committed`; without a `goal`, what a weave under way has to reach stays.
        Raises InvalidInput if the `rows` of a RESTORE are not kept any more.
        """
        goal = self.goal if goal is None else goal
        if edit.surgery not in self._engine.kv.surgeries:
            edit = replace(edit, surgery=Surgery.RECOMPUTE)
        edit = edit.stamped(self.view.next_uid)
        self._context.check(edit)
        for s in edit.splices:
            self._check_ids(s.new.token_id)
        saved = self._kept(rows, edit) if rows else None
        self._mend()
        if not redacts:
            self._save_dying(edit)
        done = Committed(edit, self._spelt(edit.born_ids), takes_back, redacts, goal, rows)
        with self._journalled(done):
            self._context.carry_out(done, saved)
        self.goal = goal
        return edit

    def logits(self) -> np.ndarray | None:
        """Logits for the next token, in the context as it is now; None if nothing was read yet."""
        if self._context.stale:
            self._mend()
            self._journal.write(Reread())
            self._context.reread()
        return self._context.logits

    def _spelt(self, ids: np.ndarray) -> Pieces:
        return tuple(self._spell(i) for i in ids.tolist())

    def _check_ids(self, ids: Sequence[int] | np.ndarray) -> None:
        """Refuse ids that the model has no embedding for, before anything is written."""
        wide = np.asarray(ids, np.int64)
        last = self._engine.capabilities.vocabulary - 1
        if len(wide) and not (wide.min() >= 0 and wide.max() <= last):
            raise InvalidInput(f"token ids: expected 0..{last}, got {wide.min()}..{wide.max()}")

    @contextmanager
    def _journalled(self, record: Record) -> Iterator[None]:
        """Write a record, then do it. If that fails: it did not happen, and KV, if it is torn, is put back in
        step with the mirror."""
        self._journal.write(record)
        try:
            yield
        except BaseException as err:
            self._journal.write(Aborted(f"{type(err).__name__}: {err}"))
            self._mend()
            raise

    def _mend(self) -> None:
        if self._context.torn:
            self._journal.write(Rebuilt())
            self._context.rebuild()

    # ---- rows of the culled ------------------------------------------------------------------------

    def _save_dying(self, edit: Edit) -> None:
        """Put the rows of what is about to leave into the vault."""
        if self._vault is None or Surgery.RESTORE not in self._engine.kv.surgeries:
            return
        rows = len(self.view.tokens)
        slots = np.setdiff1d(np.arange(rows), edit.gather(rows))
        if len(slots):
            self._vault.put(self.view.tokens.take(slots), self._engine.kv.save(slots))

    def _kept(self, number: int, edit: Edit) -> SavedRows:
        """The rows of what is born in `edit`, kept under a number."""
        kept = self._vault.get(number) if self._vault is not None else None
        uids = np.sort(edit.born_uids)
        if kept is None or not np.array_equal(kept[0], uids):
            raise InvalidInput(f"the rows kept as number {number} are not there (any more)")
        return kept[1].take(np.searchsorted(uids, edit.born_uids))

    # ---- ending and going on -----------------------------------------------------------------------

    def state(self, turn: Turn) -> State:
        """All there is, for a snapshot; quick, but it copies every row."""
        self._mend()
        return self._context.state(turn)

    def resume(
        self, state: State, steps: Iterable[Step], records: Iterable[Record], last: Record | None = None
    ) -> Turn:
        """Become what a snapshot tells, and do again what the journal tells since then, in passes of the same
        shapes. Aborts must be resolved. `last` is the birth or edit before the snapshot: a weave may have
        been on its way. Where the chat frame stands.

        Raises JournalCorrupt, ModelCorrupt, InvalidInput or an EngineError if it cannot be done.
        """
        self.goal = 0
        self._context.restore(state, steps)
        turn = state.checkpoint.turn
        if last is not None:
            self._after(last, turn)
        for record in records:
            if isinstance(record, Committed) and record.rows:
                self._context.replay(record, self._kept(record.rows, record.edit))
            else:
                self._context.replay(record)
            turn = self._after(record, turn)
        return turn

    def reread(self, told: Checkpoint, steps: Iterable[Step], last: Record | None) -> Turn:
        """Become what the journal tells, its tokens prefilled afresh. Where the chat frame stands."""
        rows, most = len(told.view.tokens), self._engine.capabilities.max_rows
        if rows > most:
            raise InvalidInput(f"{rows} tokens to read again, the budget is {most}: raise it")
        self._check_ids(told.view.tokens.token_id)
        self.goal = 0
        self._context.reread_all(told, steps)
        if len(told.view.tokens):
            for record in (Rebuilt(), Reread()):
                self._journal.write(record)
        return told.turn if last is None else self._after(last, told.turn)

    def _after(self, record: Record, turn: Turn) -> Turn:
        """What a record says beside what it does to the context."""
        if isinstance(record, Born):
            self.goal = 0
            return record.turn or turn
        if isinstance(record, Committed):
            self.goal = record.goal
        return turn
