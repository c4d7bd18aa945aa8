# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A mind: one model, one context, one journal, owned by one person.

Knows protocols only: engine, codec, journal, policies. Must not know a backend, a thread or a screen.
Plain and synchronous, without locks: whoever owns it (a Runner) calls it from one thread.

One tick:     journal -> feed -> mirror -> brightness          (then the next token is sampled)
Over budget:  choose -> plan -> commit                         (a weave)
An edit:      check -> journal -> KV -> mirror -> event        (if KV fails: Aborted, rebuilt from the mirror)

Whatever is interrupted, is interrupted between ticks: mirror and KV agree whenever a call returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from haloweave.budget import Totals, Weave, spare_rows
from haloweave.engine.base import Engine, Forward
from haloweave.engine.sampling import Sampling, sample
from haloweave.errors import Interrupted, InvalidInput, NoRoom
from haloweave.events import Edited, Event, Fed, Notice, Spoke, TurnEnded
from haloweave.history import History
from haloweave.journal.base import Aborted, Born, Committed, Journal
from haloweave.memory.brightness import BrightnessPolicy
from haloweave.memory.cull import CullPolicy
from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.laws import Laws
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import Marker, Proposal, check_act, delete, plan, propose
from haloweave.memory.tokens import Source, Tokens, View
from haloweave.scribe import Opening, Scribe, Segment, packed
from haloweave.text import Codec, Speech, spell

MARKER_TEXT = "[...]\n"

_SPEAKERS = frozenset(Source) - {Source.CONTROL, Source.MARKER}


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
    ) -> None:
        if weave.budget > engine.capabilities.max_rows:
            raise InvalidInput(f"budget {weave.budget}: the engine holds {engine.capabilities.max_rows} rows")
        spare = spare_rows(weave, laws, codec)
        self._engine, self._codec, self._journal = engine, codec, journal
        self._brightness, self._cull, self._laws, self._weave = brightness, cull, laws, weave
        self._mirror = Mirror()
        self._history = History()
        # A unit that reaches out of the tail is protected whole, so it may take up half of what is spare.
        self._scribe = Scribe(codec, longest_unit=min(max(weave.chunk, laws.tail // 2), spare // 2))
        marker_ids = tuple(codec.encode([MARKER_TEXT])[0])
        self._marker = Marker(marker_ids, brightness.birth(Source.MARKER))
        self._logits: np.ndarray | None = None
        self._stale = False
        """An edit changed what the logits follow from; they are read again when they are wanted."""
        self._torn = False
        """KV could not be brought back in step with the mirror: try again before anything else."""
        self._totals = Totals()

    # ---- looking ---------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        return self._mirror.view

    @property
    def rows(self) -> int:
        return self._mirror.rows

    @property
    def budget(self) -> int:
        return self._weave.budget

    @property
    def totals(self) -> Totals:
        return self._totals

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
    ) -> Iterator[Event]:
        """Read text of any length, one event a forward pass; weaves between passes.

        An iterable is read as it comes (a growing log). `fresh=False` goes on in an open turn of the
        same role. Raises NoRoom if nothing more may be culled; what was read until then stays.
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
        yield from self._feed_all(chain([first], content), source, score)
        if self._scribe.long_lines:
            yield Notice(f"too long for one unit, cut into several: {self._scribe.long_lines} line(s)")

    def feed_ids(self, ids: Sequence[int] | np.ndarray, source: Source) -> Forward:
        """Read token ids as they are, in one pass outside any turn: for benchmarks and experiments."""
        if source not in _SPEAKERS or not 1 <= len(ids) <= self.budget:
            raise InvalidInput(f"expected 1..{self.budget} ids of a source that speaks, got {len(ids)}")
        segment = Segment(tuple(int(i) for i in ids), source)
        self._check_ids(segment.ids)
        for _ in self._make_room(len(ids)):
            pass
        return self._tick([segment])

    def _enter(self, opening: Opening) -> Iterator[Event]:
        """Feed the control tokens of a turn in one pass: all are in, or none."""
        if opening.tokens:
            yield from self._make_room(opening.tokens)
            self._tick(opening.segments)
        self._scribe.enter(opening)
        if opening.tokens:
            yield Fed(Source.CONTROL, opening.tokens, self.rows)

    def _feed_all(self, segments: Iterable[Segment], source: Source, score: bool = False) -> Iterator[Event]:
        for chunk in packed(segments, self._weave.chunk):
            yield from self._feed(chunk, source, score)

    def _feed(self, chunk: Sequence[Segment], source: Source, score: bool) -> Iterator[Event]:
        count = sum(len(s.ids) for s in chunk)
        yield from self._make_room(count)
        before = self._current_logits() if score else None
        forward = self._tick(chunk, score=score)
        logprob = None
        if score and forward.logprobs is not None:
            logprob = float(forward.logprobs.sum())
            if before is not None:
                first = float(before[chunk[0].ids[0]])
                top = float(before.max())
                logprob += first - top - float(np.log(np.exp(before.astype(np.float64) - top).sum()))
        yield Fed(source, count, self.rows, logprob)

    def _tick(self, chunk: Sequence[Segment], *, score: bool = False) -> Forward:
        """One forward pass: journal, KV, mirror, brightness."""
        self._mend()
        view = self.view
        born = self._born(chunk)
        self._check_ids(born.token_id)
        self._journal.write(Born(born))
        try:
            forward = self._engine.feed(born.token_id, score=score)
        except BaseException as err:
            self._abort(err, torn=self._engine.kv.rows != self.rows)
            raise
        self._history.appended(view.revision, self.rows)
        self._mirror.append(born)
        self._logits, self._stale = forward.logits, False
        if forward.attention is not None:
            self._mirror.shine(self._brightness.update(self.view, forward.attention))
        self._totals = replace(self._totals, fed=self._totals.fed + len(born))
        return forward

    def _check_ids(self, ids: Sequence[int] | np.ndarray) -> None:
        """Refuse ids that the model has no embedding for, before anything is written."""
        wide = np.asarray(ids, np.int64)
        last = self._engine.capabilities.vocabulary - 1
        if len(wide) and not (wide.min() >= 0 and wide.max() <= last):
            raise InvalidInput(f"token ids: expected 0..{last}, got {wide.min()}..{wide.max()}")

    def _abort(self, err: BaseException, *, torn: bool) -> None:
        """What was journalled last did not happen; KV, if it is torn, is put back in step with the mirror."""
        self._torn = torn
        self._journal.write(Aborted(f"{type(err).__name__}: {err}"))
        self._mend()

    def _mend(self) -> None:
        if self._torn:
            self._engine.kv.rebuild(self.view.tokens.token_id)
            self._torn = False

    def _born(self, chunk: Sequence[Segment]) -> Tokens:
        uid, parts = self.view.next_uid, []
        for s in chunk:
            parts.append(
                Tokens.make(
                    s.ids,
                    first_uid=uid,
                    source=s.source,
                    brightness=self._brightness.birth(s.source),
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
        if self._logits is None and self._codec.frame is None:
            raise InvalidInput("there is nothing to reply to: let the mind read something first")
        yield from self._enter(self._scribe.turn(Source.MODEL, fresh=False))
        speech, spoken, reason = Speech(self._codec, how.stop), 0, "length"
        try:
            while spoken < limit and reason == "length":
                yield from self._make_room(1)
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
        self._tick([Segment((token_id,), Source.MODEL)])
        self._totals = replace(self._totals, spoken=self._totals.spoken + 1)
        return token_id

    def _sample(self, how: Sampling) -> int:
        logits = self._current_logits()
        if logits is None:
            raise InvalidInput("there is nothing to go on from")
        forbidden = [i for i in self._codec.control_ids - self._codec.end_ids if i < len(logits)]
        if forbidden:
            logits = logits.copy()
            logits[forbidden] = -np.inf
        recent = self.view.tokens.token_id
        return sample(logits, recent, how, self.view.tick)

    # ---- weaving ---------------------------------------------------------------------------------

    def _make_room(self, count: int) -> Iterator[Event]:
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
            before = self.rows
            edit = plan(self.view, choice, laws=self._laws, marker=self._marker)
            yield self._commit(edit)
            if self.rows >= before:
                return

    # ---- editing ---------------------------------------------------------------------------------

    def preview(self, edit: Edit) -> View:
        """The context as `edit` would leave it; changes nothing. Raises what `commit` would raise."""
        edit = self._history.forward(edit, self.view.revision)
        self._check(edit)
        shown = Mirror(self.view)
        shown.apply(edit)
        return shown.view

    def commit(self, edit: Edit) -> Edited:
        """Carry out somebody's edit on the live context; the laws that bind the person are checked.

        An edit made for an earlier revision is carried over what has happened since. Raises
        EditConflict, Protected, NoRoom or InvalidEdit, and then nothing has changed.
        """
        edit = self._history.forward(edit, self.view.revision)
        self._check(edit)
        return self._commit(edit)

    def accept(self, proposals: Sequence[Proposal]) -> Edited | None:
        """Carry out those repair proposals that still apply, under the laws that bind policies."""
        edit = propose(self.view, proposals, laws=self._laws, control_ids=self._codec.control_ids)
        return self._commit(edit) if edit.splices else None

    def undo(self) -> Edited:
        """Take back the newest edit not yet taken back. Raises InvalidEdit, EditConflict or NoRoom."""
        edit, key = self._history.undo(self.view.revision)
        self._check(edit, restoring=True)
        done = self._commit(edit)
        self._history.took_back(key)
        return done

    def redact(self, uids: Sequence[int]) -> Edited:
        """Remove tokens, and recompute every row that had seen them. Cannot be undone."""
        edit = delete(self.view, uids, surgery=Surgery.RECOMPUTE, reason="redact")
        self._check(edit)
        done = self._commit(edit)
        gone = np.array(uids, np.int64)
        self._journal.redact(gone.tolist())
        self._history.forget(gone)
        return done

    def _check(self, edit: Edit, *, restoring: bool = False) -> None:
        check_act(self.view, edit, self._codec.control_ids, restoring=restoring)
        if self.rows + edit.growth > self.budget:
            raise NoRoom(
                f"the edit needs {self.rows + edit.growth} rows, the budget is {self.budget}: weave first"
            )
        self._mirror.check(edit)

    def _commit(self, edit: Edit) -> Edited:
        """Law 3: validate, journal, KV, mirror, publish."""
        surgeries = self._engine.kv.surgeries
        if edit.surgery not in surgeries:
            edit = replace(edit, surgery=Surgery.RECOMPUTE)
        edit = edit.stamped(self.view.next_uid)
        self._mirror.check(edit)
        for s in edit.splices:
            self._check_ids(s.new.token_id)
        self._mend()
        rows = self.rows
        self._journal.write(Committed(edit))
        try:
            self._engine.kv.apply(edit)
        except BaseException as err:
            self._abort(err, torn=True)
            raise
        self._mirror.apply(edit)
        self._history.edited(edit, rows)
        gone = sum(len(s.old) - len(s.kept[1]) for s in edit.splices)
        self._totals = replace(self._totals, culled=self._totals.culled + gone, edits=self._totals.edits + 1)
        self._follow(edit, rows)
        return Edited(edit, self.rows)

    def _follow(self, edit: Edit, rows: int) -> None:
        """Note whether the edit changed what the logits follow from: the last row, or every row."""
        if not self.rows:
            self._logits = None
        elif self._logits is not None and edit.first is not None:
            self._stale |= edit.splices[-1].stop == rows or edit.surgery is Surgery.RECOMPUTE

    def _current_logits(self) -> np.ndarray | None:
        """Logits for the next token, in the context as it is now."""
        if self._stale and self._logits is not None:
            self._mend()
            self._logits = self._engine.reread().logits
            self._stale = False
        return self._logits
