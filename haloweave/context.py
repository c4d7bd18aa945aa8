# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A live context: KV cache and mirror in step, brightness and the logits that follow from them.

Knows engines, the mirror, brightness and the history of edits. Must not know the journal, text or policies
that choose. Each method does what one record of the journal tells, to both sides; so a mind that lives and
one brought back from its journal go through the same few lines, and come out the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from jaxtyping import Int32

from haloweave.engine.base import Engine, Forward
from haloweave.engine.sampling import log_softmax
from haloweave.errors import EngineFault, JournalCorrupt
from haloweave.history import History, Step
from haloweave.journal.base import Born, Checkpoint, Committed, Rebuilt, Record, Reread, State, Totals, Turn
from haloweave.memory.brightness import TYPICAL, BrightnessPolicy, curious
from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.mirror import Mirror
from haloweave.memory.rows import SavedRows
from haloweave.memory.tokens import AttentionSample, View


class Context:
    """Rows, tokens and logits of one mind."""

    def __init__(self, engine: Engine, brightness: BrightnessPolicy) -> None:
        self._engine, self._brightness, self._curious = engine, brightness, curious(brightness)
        self._mirror = Mirror()
        self.history = History()
        self.totals = Totals()
        self._logits: np.ndarray | None = None
        self._stale = False
        """An edit changed what the logits follow from: there are none until they are read again."""
        self.torn = False
        """KV is not in step with the mirror: `rebuild` before anything else."""

    @property
    def view(self) -> View:
        return self._mirror.view

    @property
    def logits(self) -> np.ndarray | None:
        """For the token after the last row; None if they are `stale`, or there is nothing to go on from."""
        return self._logits

    @property
    def stale(self) -> bool:
        """Whether the logits have to be read again (`reread`)."""
        return self._stale

    def check(self, edit: Edit) -> None:
        """Raises EditConflict or InvalidEdit where `edit` does not fit."""
        self._mirror.check(edit)

    # ---- what records tell -----------------------------------------------------------------------

    def take_in(self, born: Born) -> Forward:
        """One forward pass over new tokens. Raises EngineError; then no token is in, but KV may be torn."""
        before, kv = self.view, self._engine.kv
        try:
            forward = self._engine.feed(born.tokens.token_id, score=born.scored or self._curious)
            self._mirror.append(born.tokens)
            if forward.attention is not None:
                sample = self._surprised(forward.attention, forward, born.tokens.token_id)
                self._mirror.shine(self._brightness.update(self.view, sample))
        except BaseException:
            self._mirror = Mirror(before)
            self.torn = kv.rows != len(before.tokens)
            raise
        self.history.appended(before.revision, len(before.tokens))
        self._logits, self._stale = forward.logits, False
        self.totals = self.totals.after_birth(born)
        return forward

    def _surprised(
        self, sample: AttentionSample, forward: Forward, ids: Int32[np.ndarray, " Q"]
    ) -> AttentionSample:
        """With the surprisal of the tokens just fed, if the policy asks for it; a first token surprises as a
        typical one does."""
        if not self._curious or forward.logprobs is None:
            return sample
        first = TYPICAL if self._logits is None else -float(log_softmax(self._logits)[ids[0]])
        return replace(sample, nats=np.append(np.float32(first), -forward.logprobs).astype(np.float32))

    def carry_out(self, done: Committed, rows: SavedRows | None = None) -> None:
        """One edit; `rows` are those of a RESTORE. Raises EngineError; then KV is torn, the mirror is not."""
        edit, view = done.edit, self.view
        try:
            self._engine.kv.apply(edit, rows)
            self._mirror.apply(edit)
        except BaseException:
            self._mirror = Mirror(view)
            self.torn = True
            raise
        self.history.edited(edit, len(view.tokens))
        if done.takes_back is not None:
            self.history.took_back(done.takes_back)
        if done.redacts:
            self.history = History()  # nothing before a redaction can be undone
        self.totals = self.totals.after_edit(edit)
        self._follow(edit, len(view.tokens))

    def reread(self) -> None:
        """Logits for the next token, in the context as it is now. Computes the last row again."""
        self._logits, self._stale = self._engine.reread().logits, False

    def rebuild(self) -> None:
        """Put KV back in step with the mirror, by prefilling it."""
        self._engine.kv.rebuild(self.view.tokens.token_id)
        self.torn = False

    def _follow(self, edit: Edit, before: int) -> None:
        """Note whether the edit changed what the logits follow from: the last row, or every row."""
        exact = edit.surgery is Surgery.RECOMPUTE
        at_the_end = edit.first is not None and edit.splices[-1].stop == before
        if not len(self.view.tokens):
            self._logits, self._stale = None, False
        elif (self._logits is not None) and (exact or at_the_end):
            self._logits, self._stale = None, True

    # ---- as a whole ------------------------------------------------------------------------------

    def state(self, turn: Turn) -> State:
        """All there is; the chat frame stands at `turn`. Raises EngineFault if KV is not in step."""
        self._check_step()
        checkpoint = Checkpoint(self.view, turn, self.totals)
        return State(checkpoint, self._engine.kv.dump(), self._logits, self._stale)

    def restore(self, state: State, steps: Iterable[Step]) -> None:
        """Become what `state` tells. Raises ModelCorrupt if its image does not fit the engine."""
        self._engine.kv.load(state.image)
        self._begin_at(state.checkpoint, steps)
        self._check_step()
        self._logits, self._stale = state.logits, state.stale

    def reread_all(self, told: Checkpoint, steps: Iterable[Step]) -> None:
        """Become what the journal tells, its tokens prefilled: as close as text alone can bring it back."""
        self._begin_at(told, steps)
        self.rebuild()
        if len(self.view.tokens):
            self.reread()

    def _check_step(self) -> None:
        rows, tokens = self._engine.kv.rows, len(self.view.tokens)
        if rows != tokens or self.torn:
            raise EngineFault(f"the KV cache holds {rows} rows, the mirror {tokens} tokens: not in step")

    def _begin_at(self, told: Checkpoint, steps: Iterable[Step]) -> None:
        self._mirror, self.totals = Mirror(told.view), told.totals
        self.history = History(steps=steps)
        self._logits, self._stale, self.torn = None, False, False

    def replay(self, record: Record, rows: SavedRows | None = None) -> None:
        """Do what a record tells was done. Raises JournalCorrupt if it cannot have been done here."""
        if isinstance(record, Born):
            self.take_in(record)
        elif isinstance(record, Committed):
            self.carry_out(record, rows)
        elif isinstance(record, Reread):
            self.reread()
        elif isinstance(record, Rebuilt):
            self.rebuild()
        elif isinstance(record, Checkpoint):
            if record.view.tokens != self.view.tokens or record.view.revision != self.view.revision:
                raise JournalCorrupt("replaying the journal leads elsewhere than its next checkpoint says")
        else:
            raise JournalCorrupt("an abort has to be resolved before the journal is replayed")
