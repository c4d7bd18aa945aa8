# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A mind: one model, one context, one journal, owned by one person.

Knows protocols only: engine, codec, journal, policies. Must not know a backend, a thread or a screen.
Plain and synchronous, without locks: whoever owns it (a Runner) calls it from one thread.

One tick:     journal -> feed -> mirror -> brightness          (then the next token is sampled)
Over budget:  choose -> plan -> commit                         (a weave)
An edit:      check -> journal -> KV -> mirror -> event        (both see to it in `write_ahead`)

Whatever is interrupted, is interrupted between ticks: mirror and KV agree whenever a call returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from haloweave.budget import Weave, spare_rows
from haloweave.engine.base import Engine, Forward
from haloweave.engine.sampling import Sampling, log_softmax, sample
from haloweave.errors import Interrupted, InvalidInput, NoRoom, SurgeryUnsupported
from haloweave.events import Edited, Event, Fed, Notice, Spoke, TurnEnded
from haloweave.history import Step
from haloweave.journal.base import Checkpoint, Journal, Record, State, Totals, Turn, Vault
from haloweave.memory.brightness import BrightnessPolicy
from haloweave.memory.cull import CullPolicy
from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.laws import Laws
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import Marker, Proposal, check_act, delete, plan, propose, restored
from haloweave.memory.tokens import FULL, Source, Tokens, View
from haloweave.scribe import Opening, Scribe, Segment, packed
from haloweave.text import Codec, Speech, spell
from haloweave.write_ahead import WriteAhead

MARKER_TEXT = "[...]\n"

_SPEAKERS = frozenset(Source) - {Source.CONTROL, Source.MARKER}


@dataclass(frozen=True)
class Origin:
    """What a memory comes from."""

    passage: int
    """Its number in the archive, from 1 on."""
    source: Source
    """Who wrote it."""


class Mind:
    """The loop."""

    def __init__(
        self,
        engine: Engine,
        codec: Codec,
        journal: Journal,
        *,
        brightness: BrightnessPolicy,
        cull: CullPolicy,
        laws: Laws,
        weave: Weave,
        vault: Vault | None = None,
        marker: str = MARKER_TEXT,
    ) -> None:
        """`marker`: what a dead unit leaves behind; empty for nothing, which only experiments want."""
        if weave.budget > engine.capabilities.max_rows:
            raise InvalidInput(f"budget {weave.budget}: the engine holds {engine.capabilities.max_rows} rows")
        spare = spare_rows(weave, laws, codec)
        self._engine, self._codec, self._journal = engine, codec, journal
        self._brightness, self._cull, self._laws, self._weave = brightness, cull, laws, weave
        self._context = WriteAhead(engine, brightness, journal, codec.piece, vault)
        # A unit that reaches out of the tail is protected whole, so it may take up half of what is spare.
        self._longest_unit = min(max(weave.chunk, laws.tail // 2), spare // 2)
        self._scribe = Scribe(codec, longest_unit=self._longest_unit)
        marker_ids = tuple(codec.encode([marker])[0]) if marker else ()
        self._marker = Marker(marker_ids, brightness.birth(Source.MARKER))

    # ---- looking ---------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        return self._context.view

    @property
    def rows(self) -> int:
        return len(self.view.tokens)

    @property
    def budget(self) -> int:
        return self._weave.budget

    @property
    def totals(self) -> Totals:
        return self._context.totals

    @property
    def laws(self) -> Laws:
        return self._laws

    @property
    def codec(self) -> Codec:
        return self._codec

    @property
    def journal(self) -> Journal:
        return self._journal

    @property
    def engine(self) -> Engine:
        return self._engine

    def logits(self) -> np.ndarray | None:
        """For the token to come next, [V]; None if nothing was read yet."""
        return self._context.logits()

    def text(self) -> str:
        """The whole context as the model reads it."""
        return spell(self._codec, self.view.tokens.token_id.tolist())

    # ---- taking in -------------------------------------------------------------------------------

    def listen(
        self,
        text: str | Iterable[str],
        source: Source = Source.USER,
        *,
        pinned: bool = False,
        fresh: bool = True,
        score: bool = False,
        origin: Origin | None = None,
    ) -> Iterator[Event]:
        """Read text of any length, one event a forward pass; weaves between passes.

        An iterable is read as it comes (a growing log). `fresh=False` goes on in an open turn of the
        same role. `origin` is what a memory comes from. Raises NoRoom if nothing more
        may be culled; what was read until then stays.
        """
        if source not in _SPEAKERS:
            raise InvalidInput(f"source: nobody speaks as {Source(source).name}")
        texts = [text] if isinstance(text, str) else text
        self._scribe.long_lines = 0
        content = self._scribe.write(texts, source, pinned=pinned)
        first = next(content, None)
        if first is None:
            yield Notice("nothing to read: the text is empty or blank")
            return
        yield from self._enter(self._scribe.turn(source, fresh=fresh))
        for chunk in packed(chain([first], content), self._weave.chunk):
            yield from self._feed(chunk, source, score, origin)
        if self._scribe.long_lines:
            yield Notice(f"too long for one unit, cut into several: {self._scribe.long_lines} line(s)")

    def feed_ids(self, ids: Sequence[int] | np.ndarray, source: Source, *, score: bool = False) -> Forward:
        """Read token ids as they are, in one pass outside any turn: for benchmarks and experiments."""
        if source not in _SPEAKERS or not 1 <= len(ids) <= self.budget:
            raise InvalidInput(f"expected 1..{self.budget} ids of a source that speaks, got {len(ids)}")
        segment = Segment(tuple(int(i) for i in ids), source)
        for _ in self.make_room(len(ids)):
            pass
        return self._tick([segment], scored=score)

    def _enter(self, opening: Opening) -> Iterator[Event]:
        """Feed the control tokens of a turn in one pass: all are in, or none."""
        if opening.tokens:
            yield from self.make_room(opening.tokens)
            self._tick(opening.segments, turn=self._scribe.stands(opening))
        self._scribe.enter(opening)
        if opening.tokens:
            yield Fed(Source.CONTROL, opening.tokens, self.rows)

    def _feed(
        self, chunk: Sequence[Segment], source: Source, score: bool, origin: Origin | None
    ) -> Iterator[Event]:
        count = sum(len(s.ids) for s in chunk)
        yield from self.make_room(count)
        before = self.logits() if score else None
        forward = self._tick(chunk, scored=score, origin=origin)
        logprob = None
        if score and forward.logprobs is not None:
            logprob = float(forward.logprobs.sum())
            if before is not None:
                logprob += float(log_softmax(before)[chunk[0].ids[0]])
        yield Fed(source, count, self.rows, logprob)

    def _tick(
        self,
        chunk: Sequence[Segment],
        *,
        turn: Turn | None = None,
        sampled: bool = False,
        scored: bool = False,
        origin: Origin | None = None,
    ) -> Forward:
        """One forward pass; afterwards the frame stands at `turn`, or where it stood."""
        stands = turn or self._scribe.stands()
        passage = origin.passage if origin else 0
        born = self._born(chunk, origin)
        return self._context.tick(born, stands, sampled=sampled, scored=scored, origin=passage)

    def _born(self, chunk: Sequence[Segment], origin: Origin | None) -> Tokens:
        """New tokens; what is remembered shines no brighter than it did when it was new."""
        most = self._brightness.birth(origin.source) if origin else FULL
        uid, parts = self.view.next_uid, []
        for s in chunk:
            parts.append(
                Tokens.make(
                    s.ids,
                    first_uid=uid,
                    source=s.source,
                    brightness=min(self._brightness.birth(s.source), most),
                    tick=self.view.tick,
                    unit=s.unit,
                    pinned=s.pinned,
                )
            )
            uid += len(s.ids)
        return Tokens.concat(parts)

    # ---- speaking --------------------------------------------------------------------------------

    def reply(self, how: Sampling, limit: int = 256) -> Iterator[Event]:
        """The model speaks, one event a token, until it ends its turn, meets a stop text, or `limit`.

        A token is journalled before it is shown. Raises InvalidInput if there is nothing to go on from.
        """
        if limit < 1:
            raise InvalidInput(f"limit: expected at least 1 token, got {limit}")
        if self._context.empty and self._codec.frame is None:
            raise InvalidInput("there is nothing to reply to: let the mind read something first")
        yield from self._enter(self._scribe.turn(Source.MODEL, fresh=False))
        speech, spoken, reason = Speech(self._codec, how.stop), 0, "length"
        try:
            while spoken < limit and reason == "length":
                yield from self.make_room(1)
                token_id = self.speak_once(how)
                if token_id is None:
                    reason = "end"
                    break
                spoken += 1
                yield Spoke(token_id, speech.push(token_id), self.rows)
                reason = "stop" if speech.stopped else reason
        except Interrupted:
            reason = "interrupted"
        if rest := speech.flush():
            yield Spoke(-1, rest, self.rows)
        if reason != "interrupted":
            yield from self._enter(self._scribe.end())
        yield TurnEnded(reason, spoken)

    def speak_once(self, how: Sampling) -> int | None:
        """Sample one token and take it in; None, and nothing taken in, if the model ends its turn."""
        token_id = self._sample(how)
        if token_id in self._codec.end_ids:
            return None
        self._tick([Segment((token_id,), Source.MODEL)], sampled=True)
        return token_id

    def _sample(self, how: Sampling) -> int:
        logits = self.logits()
        if logits is None:
            raise InvalidInput("there is nothing to go on from")
        forbidden = [i for i in self._codec.control_ids - self._codec.end_ids if i < len(logits)]
        if forbidden:
            logits = logits.copy()
            logits[forbidden] = -np.inf
        recent = self.view.tokens.token_id
        return sample(logits, recent, how, self.view.tick)

    # ---- weaving ---------------------------------------------------------------------------------

    def make_room(self, count: int) -> Iterator[Event]:
        """Weave, if need be, until `count` more tokens have room. Raises NoRoom."""
        if self._context.goal:
            yield from self.weave(self._context.goal)
        if self.rows + count > self.budget:
            yield from self.weave(min(self._weave.low_water, self.budget - count))
        if self.rows + count > self.budget:
            raise NoRoom(
                f"{count} tokens need room, {self.rows} of {self.budget} rows are held and all of them are "
                "pinned, locked, sinks or recent: unpin something, raise the budget or shorten the tail"
            )

    def weave(self, target: int) -> Iterator[Event]:
        """Cull the dimmest until at most `target` rows are held, or nothing more may be culled."""
        if target < 0:
            raise InvalidInput(f"target: expected a number of rows >= 0, got {target}")
        while self.rows > target:
            surplus = self.rows - target
            choice = self._cull.choose(self.view, min(self._weave.kills_per_round or surplus, surplus))
            if not len(choice):
                return
            edit = plan(self.view, choice, laws=self._laws, marker=self._marker)
            shrinks = edit.growth < 0
            further = shrinks and self.rows + edit.growth > target
            yield self._commit(edit, goal=target if further else 0)
            if not shrinks:
                return

    # ---- editing ---------------------------------------------------------------------------------

    def preview(self, edit: Edit) -> View:
        """The context as `edit` would leave it; changes nothing. Raises what `commit` would raise."""
        edit = self._context.history.forward(edit, self.view.revision)
        self._check(edit)
        shown = Mirror(self.view)
        shown.apply(edit)
        return shown.view

    def commit(self, edit: Edit) -> Edited:
        """Carry out somebody's edit on the live context; the laws that bind the person are checked.

        An edit made for an earlier revision is carried over what has happened since. Raises
        EditConflict, Protected, NoRoom or InvalidEdit, and then nothing has changed.
        """
        edit = self._context.history.forward(edit, self.view.revision)
        self._check(edit)
        return self._commit(edit)

    def accept(self, proposals: Sequence[Proposal]) -> Edited | None:
        """Carry out those repair proposals that still apply, under the laws that bind policies."""
        edit = propose(self.view, proposals, laws=self._laws, control_ids=self._codec.control_ids)
        return self._commit(edit) if edit.splices else None

    def undo(self) -> Edited:
        """Take back the newest edit not yet taken back. Raises InvalidEdit, EditConflict or NoRoom."""
        edit, key = self._context.history.undo(self.view.revision)
        self._check(edit, restoring=True)
        return self._commit(edit, takes_back=key)

    def restore(self, tokens: Tokens, rows: int) -> Edited:
        """Bring culled tokens back where they stood, uids ascending, with the rows they had (kept under the
        number `rows`). They fade again, like any other.

        Raises InvalidInput if those rows are not kept any more, SurgeryUnsupported, Protected if their place
        is gone, NoRoom.
        """
        if Surgery.RESTORE not in self._engine.kv.surgeries:
            raise SurgeryUnsupported(f"{self._engine.capabilities.architecture}: rows cannot be restored")
        glow = np.full(len(tokens), self._brightness.birth(Source.MEMORY), np.float32)
        edit = restored(self.view, tokens.replace(brightness=glow, pinned=np.zeros(len(tokens), np.bool_)))
        self._check(edit, restoring=True)
        return self._commit(edit, rows=rows)

    def redact(self, uids: Sequence[int], *, culled: Sequence[int] = ()) -> Edited:
        """Remove tokens for good, and compute every row again that had seen them. Cannot be undone.

        `culled` are tokens that are no longer in the context, but on disk, and in what the living learned.
        When this returns, their text is nowhere on disk; if it raises JournalError, it may still be.
        """
        edit = delete(self.view, uids, surgery=Surgery.RECOMPUTE, reason="redact")
        self._check(edit)
        gone = tuple(sorted({int(u) for u in (*uids, *culled)}))
        done = self._commit(edit, redacts=gone)
        self._journal.redact(gone, self.state)
        return done

    def _check(self, edit: Edit, *, restoring: bool = False) -> None:
        check_act(self.view, edit, self._codec.control_ids, restoring=restoring)
        if self.rows + edit.growth > self.budget:
            raise NoRoom(
                f"the edit needs {self.rows + edit.growth} rows, the budget is {self.budget}: weave first"
            )
        self._context.check(edit)

    def _commit(self, edit: Edit, **how: Any) -> Edited:
        """See `WriteAhead.commit`."""
        return Edited(self._context.commit(edit, **how), self.rows)

    # ---- ending and going on -----------------------------------------------------------------------

    @property
    def turn(self) -> Turn:
        """Where the chat frame stands: which turn is open."""
        return self._scribe.stands()

    def state(self) -> State:
        """All that this mind is, for a snapshot; quick, but it copies every row."""
        return self._context.state(self.turn)

    def resume(
        self, state: State, steps: Iterable[Step], records: Iterable[Record], last: Record | None = None
    ) -> None:
        """Become what a snapshot tells, and do again what the journal tells since then, in passes of the same
        shapes: every number comes out as it was. Aborts must be resolved. `last` is the birth or edit before
        the snapshot.

        Raises JournalCorrupt, ModelCorrupt, InvalidInput or an EngineError if that cannot be done; then
        `reread` can.
        """
        self._stand_at(self._context.resume(state, steps, records, last))

    def reread(self, told: Checkpoint, steps: Iterable[Step], last: Record | None = None) -> None:
        """Become what the journal tells, its tokens prefilled afresh: what survivors had learned from the
        culled is lost. `last` is the newest record. Raises InvalidInput if that is more than the budget."""
        self._stand_at(self._context.reread(told, steps, last))

    def _stand_at(self, turn: Turn) -> None:
        self._scribe = Scribe(self._codec, longest_unit=self._longest_unit, stands=turn)
