# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a small mind lives through, as acts that can be broken off anywhere and gone on with.

Knows minds. Must not know disks, or what is checked. An act is told how many forward passes of it are in the
journal already (a journal tells nothing else of whose wish a pass was), and does the rest: the same passes in
the same shapes as if nothing had happened. What changes no token (a snapshot, a backup) is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from haloweave import look
from haloweave.bench.crash.world import CHUNK, END, Alive
from haloweave.engine.sampling import Sampling
from haloweave.events import Event, Spoke
from haloweave.memory.edit import Edit
from haloweave.memory.plan import boost, delete, pin, substitute
from haloweave.memory.tokens import Source, View
from haloweave.mind import Origin
from haloweave.recall import memory

Act = Callable[[Alive, int], Iterator[Event]]


@dataclass(frozen=True)
class Step:
    """One act."""

    kind: str
    act: Act


def _how(bias: float) -> Sampling:
    return Sampling(temperature=0.9, seed=7, repetition_penalty=1.1, logit_bias={END: bias})


def hear(text: str, source: Source = Source.USER) -> Step:
    """A turn is opened in one pass, then the text is read in chunks."""

    def act(alive: Alive, done: int) -> Iterator[Event]:
        rest = text[max(done - 1, 0) * CHUNK :]
        return alive.mind.listen(rest, source, fresh=not done)

    return Step("hear", act)


def reply() -> Step:
    """Until the model ends its turn."""
    return Step("reply", lambda alive, done: alive.mind.reply(_how(alive.ending), 256))


def say(count: int) -> Step:
    """So many tokens, in whichever turn is open."""

    def act(alive: Alive, done: int) -> Iterator[Event]:
        for _ in range(count - done):
            yield from alive.mind.make_room(1)
            token_id = alive.mind.speak_once(_how(-np.inf))
            yield Spoke(-1 if token_id is None else token_id, "", alive.mind.rows)

    return Step("say", act)


def edit(kind: str, make: Callable[[Alive], Edit]) -> Step:
    """One edit by hand."""

    def act(alive: Alive, done: int) -> Iterator[Event]:
        yield alive.mind.commit(make(alive))

    return Step(kind, act)


def undo() -> Step:
    def act(alive: Alive, done: int) -> Iterator[Event]:
        yield alive.mind.undo()

    return Step("undo", act)


def weave(rows: int) -> Step:
    return Step("weave", lambda alive, done: alive.mind.weave(rows))


def snapshot() -> Step:
    def act(alive: Alive, done: int) -> Iterator[Event]:
        alive.keeper.snapshot(alive.mind.state())
        return iter(())

    return Step("snapshot", act)


def backup() -> Step:
    def act(alive: Alive, done: int) -> Iterator[Event]:
        alive.copies.make(alive.keeper.log)
        return iter(())

    return Step("backup", act)


def recall(query: str) -> Step:
    """A memory, short enough for one pass, enters in a turn of its own; where that is open already, only the
    memory does."""

    def act(alive: Alive, done: int) -> Iterator[Event]:
        if not done:
            yield from alive.recaller.recall(alive.mind, query)
            return
        best = alive.recaller.search(alive.mind, query)[0].passage
        origin = Origin(best.id, best.source)
        yield from alive.mind.listen(memory(best), Source.MEMORY, fresh=False, origin=origin)

    return Step("recall", act)


def restore(query: str) -> Step:
    return Step("restore", lambda alive, done: alive.recaller.restore(alive.mind, alive.keeper, query))


def redact(text: str) -> Step:
    """Wherever the journal says it, in the context or not."""

    def act(alive: Alive, done: int) -> Iterator[Event]:
        named = {uid for place in alive.keeper.log.occurrences(text) for uid in place}
        living = set(alive.mind.view.tokens.uid.tolist())
        yield alive.mind.redact(sorted(named & living), culled=sorted(named - living))

    return Step("redact", act)


# ---- the life --------------------------------------------------------------------------------------------


def secret(cycle: int) -> str:
    """What is told, and redacted, in a cycle."""
    return f"Zq{cycle}xyv"


def life(cycles: int = 1, end: int = 0) -> tuple[Step, ...]:
    """All that can happen, so often over; in the `end` so many tokens more."""
    steps = [step for n in range(cycles) for step in _cycle(n)]
    return (*steps, say(end)) if end else tuple(steps)


def _cycle(n: int) -> tuple[Step, ...]:
    ada, fog, tin = f"Ada{n}", f"fog{n}", f"tin{n}"
    return (
        hear(f"The bees of {ada} live in the north wall."),
        reply(),
        hear(f"{fog} at six\n{fog} at ten\n", Source.LOG),
        say(5),
        edit("substitute", lambda a: substitute(a.mind.view, _plain(a.mind.view)[:2], list(b"xyz"))),
        edit("cull", lambda a: delete(a.mind.view, _plain(a.mind.view)[3:6])),
        undo(),
        edit("pin", lambda a: pin(a.mind.view, _plain(a.mind.view)[5:7])),
        edit("boost", lambda a: boost(a.mind.view, _plain(a.mind.view)[8:10])),
        weave(90),
        hear(f"The vault opens with {secret(n)}."),
        reply(),
        snapshot(),
        backup(),
        say(24),
        hear(f"{tin} bent\n{tin} lost\n", Source.TOOL),
        hear(f"Wasps of {ada} hum."),
        edit("cull", lambda a: delete(a.mind.view, _of(a, f"Wasps of {ada} hum."))),
        recall(f"wasps of {ada} hum"),
        say(4),
        redact(secret(n)),
        hear(f"Copper kettles of {ada} sing."),
        edit("cull", lambda a: delete(a.mind.view, _of(a, f"Copper kettles of {ada} sing."))),
        restore(f"copper kettles {ada} sing"),
        say(6),
        edit("substitute", lambda a: substitute(a.mind.view, _plain(a.mind.view)[-4:-2], list(b"q"))),
        edit("unpin", lambda a: pin(a.mind.view, _pinned(a.mind.view), False)),
        hear("Go on."),
        reply(),
    )


def _plain(view: View) -> list[int]:
    """Tokens that nothing protects from a person's edits."""
    t = view.tokens
    mine = np.isin(t.source, (int(Source.USER), int(Source.MODEL))) & ~t.pinned
    mine[:4] = False
    return [int(uid) for uid in t.uid[mine]]


def _pinned(view: View) -> list[int]:
    t = view.tokens
    return [int(uid) for uid in t.uid[t.pinned & (t.source != int(Source.SYSTEM))]]


def _of(alive: Alive, text: str) -> list[int]:
    return [uid for run in look.find(alive.mind.view, alive.mind.codec, text) for uid in run.uids]


@dataclass(frozen=True)
class Place:
    """Where in a life a mind stands."""

    step: int
    passes: int = 0
    """Of that step, already done."""


def play(
    alive: Alive,
    steps: tuple[Step, ...],
    at: Place,
    heard: Callable[[Event], None],
    stop: int | None = None,
) -> None:
    """Go on from there up to step `stop`. Each event is told once it is acknowledged."""
    for n in range(at.step, len(steps) if stop is None else stop):
        for event in steps[n].act(alive, at.passes if n == at.step else 0):
            heard(event)
            alive.tend()
        alive.tend()
