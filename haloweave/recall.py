# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Recall (retrieval): what was culled comes back into the live context, because it is asked for or because
what a person says is strongly like it.

Knows minds and the archive. Must not know screens, settings or how a search is done. A memory enters at the
tail, as a MEMORY unit in the turn that called for it, on every engine; or it is put back where it stood, with
the rows it had, where they are kept. It starts at the brightness of its source, inside the budget, and fades
like anything else. It is text: it opens no turn and is never archived again as new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from haloweave.errors import InvalidInput, NoRoom
from haloweave.events import Event, Notice, Recalled
from haloweave.journal.archive import Archive, Found, Passage, Recall
from haloweave.journal.keeper import Keeper
from haloweave.memory.laws import WHOLE
from haloweave.memory.tokens import Source
from haloweave.mind import Mind, Origin

_SEARCHED = 12
_WORDS, _FRAME = 64, 16
"""Tokens of what is said, and of the frame around it, that are to have room beside a memory."""
_CROWD = 5
"""Places below the best, where nothing is any more that says the same once again."""
_ASKS = frozenset("?？؟")


@dataclass(frozen=True)
class Recalling:
    """When a passage comes back by itself, and how much of it."""

    strong: float = 0.4
    """Score (0..1) from which a passage answers a question; above 1 nothing comes back by itself."""
    apart: float = 0.25
    """What a passage must score above the sixth best, if nothing was asked: much of what is said is a little
    like much else, and calls for none of it."""
    near: float = 0.1
    """How far below the best another one may score, to come along."""
    most: int = 2
    """Passages that may come back at once."""
    rows: int = 64
    """Tokens that may come back at once."""

    def __post_init__(self) -> None:
        scores = (self.strong, self.apart, self.near)
        if not all(s >= 0 for s in scores) or self.most < 1 or self.rows < 1:
            raise InvalidInput(f"recall: expected scores from 0 on and counts from 1 on, got {self}")


class Recaller:
    """Brings passages of one archive back into one mind."""

    def __init__(self, archive: Archive, how: Recalling | None = None) -> None:
        self._archive, self._how = archive, how or Recalling()

    @property
    def archive(self) -> Archive:
        return self._archive

    def hear(self, mind: Mind, text: str) -> Iterator[Event]:
        """A person says something in a new turn; what it is strongly like comes first, in the same turn."""
        before = mind.turn
        words = min(len(mind.codec.encode([text])[0]), _WORDS)
        try:
            yield from self._remember(mind, self.called(mind, text), beside=words)
        except NoRoom as err:  # what is said now is worth more than what was said once
            yield Notice(f"nothing more came back to mind: {err}")
        yield from mind.listen(text, Source.USER, fresh=mind.turn == before)

    def called(self, mind: Mind, text: str) -> tuple[Found, ...]:
        """What comes back by itself when a person says `text`."""
        how = self._how
        found = self.search(mind, text)
        if not found or not self._strong(text, found):
            return ()
        near = max(how.strong, found[0].score - how.near)
        return tuple(f for f in found[: how.most] if f.score >= near)

    def _strong(self, text: str, found: Sequence[Found]) -> bool:
        """Whether the best is enough like what was said: for an answer, or to stand out from the crowd."""
        crowd = found[_CROWD].score if len(found) > _CROWD else 0.0
        asked = not _ASKS.isdisjoint(text)
        best = found[0].score
        return best >= self._how.strong and (asked or best - crowd >= self._how.apart)

    def recall(self, mind: Mind, query: str) -> Iterator[Event]:
        """A person asks for what is most like `query`. Raises InvalidInput if nothing is found."""
        found = self.search(mind, query)
        if not found:
            raise InvalidInput(f"nothing that was culled is like “{query}”, or it is in the context already")
        yield from self._remember(mind, found[:1], whole=True)

    def restore(self, mind: Mind, keeper: Keeper, query: str) -> Iterator[Event]:
        """Put what is most like `query` back where it stood, with the rows it had.

        Raises InvalidInput if nothing is found or its rows are not kept, Protected if its turn is gone.
        """
        found = self.search(mind, query)
        if not found:
            raise InvalidInput(f"nothing that was culled is like “{query}”, or it is in the context already")
        best = found[0]
        span = np.array(best.passage.uids)
        dead = span[~np.isin(span, mind.view.tokens.uid)].tolist()
        kept = keeper.kept(dead)
        if kept is None:
            raise InvalidInput("its rows are not kept (any more); /recall brings the text back as a memory")
        yield from mind.make_room(len(dead))
        number, tokens = kept
        yield mind.restore(tokens, number)
        yield _recalled(best, len(dead), mind)

    def search(self, mind: Mind, query: str) -> tuple[Found, ...]:
        """What is like `query` and not in the context now, best first."""
        found = self._archive.search(query, limit=_SEARCHED)
        return tuple(f for f in found if not self._alive(mind, f.passage))

    def _alive(self, mind: Mind, passage: Passage) -> bool:
        """Whether all of it is in the context, as it was or as a memory: where one token in ten was culled,
        it was in most cases (87 of 148) one that mattered."""
        uid = mind.view.tokens.uid
        if np.isin(passage.uids, uid).all():
            return True
        return any(bool(np.isin(span, uid).all()) for span in _whole(self._archive.recalls(passage)))

    def _remember(
        self, mind: Mind, found: Sequence[Found], *, whole: bool = False, beside: int = 0
    ) -> Iterator[Event]:
        """At the tail, in one turn, oldest first; what does not fit is left where it is, unless all of it was
        asked for. Raises NoRoom, before anything is read, unless `beside` more tokens find room as well."""
        left, chosen = self._how.rows, []
        for f in found:
            size = len(mind.codec.encode([memory(f.passage)])[0])
            if whole or size <= left:
                left -= size
                chosen.append((f, size))
        if chosen:
            yield from mind.make_room(sum(size for _, size in chosen) + beside + _FRAME)
        fresh = True
        for f, size in sorted(chosen, key=lambda pair: pair[0].passage.first_uid):
            origin = Origin(f.passage.id, f.passage.source)
            yield from mind.listen(memory(f.passage), Source.MEMORY, fresh=fresh, origin=origin)
            yield _recalled(f, size, mind)
            fresh = False


def memory(passage: Passage) -> str:
    """A culled text as it comes back: on a line of its own, and if a log or tool wrote it, it says so. What a
    tool said must not pass for what the person said (MINJA, arXiv 2503.03704)."""
    text = passage.text.strip()
    if passage.source in WHOLE:
        who = passage.source.name.lower()
        text = "\n".join(f"[{who}] {line}" for line in text.splitlines())
    return f"{text}\n"


def _recalled(found: Found, tokens: int, mind: Mind) -> Recalled:
    passage = found.passage
    return Recalled(
        passage.id, passage.text, passage.source, passage.first_tick, found.score, tokens, mind.rows
    )


def _whole(recalls: Sequence[Recall]) -> Iterator[np.ndarray]:
    """The uids of each memory: one that was read in several passes has an entry for each of them."""
    first = last = -1
    for r in sorted(recalls, key=lambda r: r.first_uid):
        if r.first_uid != last + 1 or first < 0:
            if first >= 0:
                yield np.arange(first, last + 1)
            first = r.first_uid
        last = r.last_uid
    if first >= 0:
        yield np.arange(first, last + 1)
