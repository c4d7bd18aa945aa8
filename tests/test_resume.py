# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A mind that was closed, or killed, goes on as if nothing had happened; and says how it came back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, fake_mind
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, VOCAB
from whole import all_of, assert_whole, say

from haloweave import look
from haloweave.bench.stream import NumberCodec
from haloweave.budget import Weave
from haloweave.engine.hf.engine import HFEngine
from haloweave.engine.sampling import Sampling
from haloweave.errors import EngineFault, HaloError, InvalidInput, JournalFailed
from haloweave.events import Notice, Recalled, Spoke
from haloweave.journal.archive import Archive
from haloweave.journal.base import Born, Committed
from haloweave.journal.copies import Copies
from haloweave.journal.fold import context_at
from haloweave.journal.keeper import Keeper, Keeping
from haloweave.journal.log import Log
from haloweave.journal.rows import RowStore
from haloweave.journal.snapshot import Shelf
from haloweave.memory.brightness import Halo
from haloweave.memory.cull import DimmestFirst
from haloweave.memory.edit import Edit
from haloweave.memory.laws import Laws
from haloweave.memory.plan import boost, delete, pin, substitute
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.recall import Recaller, Recalling
from haloweave.resume import Resumed, resume

HOW = Sampling(temperature=0.9, seed=7, repetition_penalty=1.1)
MADE_OF = {"model": "fake", "dtype": "float32"}


@dataclass
class Home:
    """One mind's folder, opened as often as wanted."""

    folder: Path
    every: int = 1000
    quota: int = 1 << 20

    def open(self, made_of: dict[str, str] | None = None, **how: Any) -> Alive:
        log = Log(self.folder / "mind.db")
        keeper = Keeper(
            log,
            Shelf(self.folder / "snapshots"),
            Archive(log),
            made_of or MADE_OF,
            rows=RowStore(self.folder / "rows.db", self.quota),
            copies=Copies(self.folder / "backups"),
            how=Keeping(every=self.every),
            background=False,
        )
        engine = how.pop("engine", None) or FakeEngine(max_rows=128, says=None)
        mind = fake_mind(
            budget=128, low_water=96, chunk=16, engine=engine, journal=keeper, vault=keeper, says=None, **how
        )
        return Alive(mind, keeper, resume(mind, keeper))


@dataclass
class Alive:
    mind: Mind
    keeper: Keeper
    resumed: Resumed

    def die(self) -> None:
        """What `kill -9` leaves: files, and nothing said."""
        self.keeper.log.close()
        if self.keeper.rows is not None:
            self.keeper.rows.close()

    def tend(self) -> None:
        assert self.keeper.tend(self.mind.state) == []


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


said = partial(say, how=HOW)


def uids_of(mind: Mind, text: str) -> list[int]:
    return [uid for run in look.find(mind.view, mind.codec, text) for uid in run.uids]


def alike(a: Mind, b: Mind) -> None:
    """Both are the same, to the last bit."""
    left, right = a.state(), b.state()
    assert left.checkpoint == right.checkpoint
    assert left.image.keys() == right.image.keys()
    for name, array in left.image.items():
        assert array.tobytes() == right.image[name].tobytes(), name
    assert left.stale == right.stale
    assert (left.logits is None) == (right.logits is None)
    if left.logits is not None and right.logits is not None:
        assert left.logits.tobytes() == right.logits.tobytes()


def edit_of(make: Callable[..., Edit], at: slice, *more: Any) -> Callable[[Mind], Any]:
    return lambda mind: mind.commit(make(mind.view, mind.view.tokens.uid[at].tolist(), *more))


LIFE: tuple[Callable[[Mind], Any], ...] = (
    lambda m: all_of(m.listen("You are a mind.", Source.SYSTEM, pinned=True)),
    lambda m: all_of(m.listen("a log of lines\nand another line\nand a third of them\n" * 3, Source.LOG)),
    lambda m: all_of(m.listen("my name is Ada, and I keep bees", Source.USER)),
    lambda m: all_of(m.reply(HOW, 9)),
    edit_of(substitute, slice(70, 73), list(b"xyz")),
    lambda m: said(m, 5),
    edit_of(delete, slice(64, 66)),
    lambda m: m.undo(),
    edit_of(pin, slice(60, 64)),
    edit_of(boost, slice(80, 84)),
    lambda m: all_of(m.weave(80)),
    lambda m: said(m, 40),
    lambda m: all_of(m.listen("what is my name?", Source.USER)),
    lambda m: all_of(m.reply(HOW, 30)),
    lambda m: all_of(m.listen("the bees are in the north\n" * 6, Source.TOOL)),
    lambda m: said(m, 30),
)


@pytest.mark.parametrize("every", [1, 7, 1000], ids=["snapshot each", "now and then", "never"])
def test_killed_after_any_act_it_goes_on_to_the_last_bit(home: Home, every: int) -> None:
    home.every = every
    straight = Home(home.folder / "straight", every=10**6)
    straight.folder.mkdir()
    other = straight.open()
    first = home.open()
    first.keeper.snapshot(first.mind.state())
    first.die()
    for act in LIFE:
        alive = home.open()
        act(alive.mind)
        alive.tend()
        alive.die()
        act(other.mind)
        back = home.open()
        if every == 1:
            assert back.resumed.how == "snapshot"
            assert back.resumed.passes == back.resumed.prefilled == 0
        assert back.resumed.how in ("snapshot", "replayed")
        alike(back.mind, other.mind)
        assert_whole(back.mind)
        back.die()
    back = home.open()
    assert said(back.mind, 200) == said(other.mind, 200)
    alike(back.mind, other.mind)


def test_what_was_surprising_is_as_surprising_after_a_restart(home: Home) -> None:
    straight = Home(home.folder / "straight", every=10**6)
    straight.folder.mkdir()
    other, alive = straight.open(brightness=Halo(surprise=1.0)), home.open(brightness=Halo(surprise=1.0))
    alive.keeper.snapshot(alive.mind.state())
    for act in LIFE[:7]:
        act(alive.mind)
        act(other.mind)
    alive.die()
    back = home.open(brightness=Halo(surprise=1.0))
    assert back.resumed.how == "replayed"
    alike(back.mind, other.mind)


def test_without_a_snapshot_the_tokens_are_read_again_and_that_is_said(home: Home) -> None:
    alive = home.open()
    for act in LIFE[:8]:
        act(alive.mind)
    before = alive.mind.view.tokens
    alive.die()
    back = home.open()
    assert back.resumed.how == "reread"
    assert back.resumed.prefilled == len(before)
    assert "no snapshot" in str(back.resumed)
    now = back.mind.view.tokens
    for name in ("uid", "token_id", "source", "unit", "pinned", "born"):
        assert np.array_equal(getattr(before, name), getattr(now, name)), name
    assert_whole(back.mind)
    back.die()
    assert home.open().resumed.how == "snapshot"


def test_a_snapshot_of_another_dtype_is_not_used_and_that_is_said(home: Home) -> None:
    alive = home.open()
    LIFE[0](alive.mind)
    alive.keeper.close(alive.mind.state)
    back = home.open({"model": "fake", "dtype": "bfloat16"})
    assert back.resumed.how == "reread"
    assert "dtype" in back.resumed.why
    assert "float32" in back.resumed.why


def test_a_closed_mind_comes_back_without_one_pass(home: Home) -> None:
    alive = home.open()
    for act in LIFE:
        act(alive.mind)
    alive.keeper.close(alive.mind.state)
    engine = FakeEngine(max_rows=128, says=None)
    back = home.open(engine=engine)
    assert back.resumed == Resumed("snapshot")
    assert engine.passes == []


def test_what_failed_and_was_rebuilt_is_replayed_as_it_was(home: Home) -> None:
    alive = home.open()
    for act in LIFE[:4]:
        act(alive.mind)
    alive.keeper.snapshot(alive.mind.state())
    engine: Any = alive.mind.engine
    engine.fail = "apply"
    with pytest.raises(EngineFault):
        alive.mind.commit(delete(alive.mind.view, alive.mind.view.tokens.uid[20:22].tolist()))
    engine.fail = "feed"
    with pytest.raises(EngineFault):
        said(alive.mind, 1)
    said(alive.mind, 3)
    alive.die()
    back = home.open()
    assert back.resumed.how == "replayed"
    alike(back.mind, alive.mind)


@pytest.mark.parametrize("commits", [1, 2, 3, 5])
def test_a_weave_that_was_broken_off_is_finished(home: Home, commits: int) -> None:
    """One kill a round, so that a weave is many edits; the crash comes after some of them."""

    def life(mind: Mind) -> None:
        all_of(mind.listen("words that fill it all, one after another. " * 4))

    def weaving(mind: Mind) -> Iterator[Any]:
        return mind.weave(90)

    one = home.open(kills_per_round=1)
    life(one.mind)
    one.keeper.snapshot(one.mind.state())
    running = weaving(one.mind)
    for _ in range(commits):
        next(running)
    one.die()
    straight = Home(home.folder / "straight")
    straight.folder.mkdir()
    other = straight.open(kills_per_round=1)
    life(other.mind)
    all_of(other.mind.weave(90))
    back = home.open(kills_per_round=1)
    assert said(back.mind, 20) == said(other.mind, 20)
    alike(back.mind, other.mind)


def test_undo_reaches_over_a_restart(home: Home) -> None:
    alive = home.open()
    for act in LIFE[:4]:
        act(alive.mind)
    text = alive.mind.text()
    LIFE[4](alive.mind)
    alive.die()
    back = home.open()
    back.mind.undo()
    assert back.mind.text() == text
    back.die()
    with pytest.raises(HaloError):  # what is older was a weave, and would not fit any more
        home.open().mind.undo()


def test_rows_are_restored_where_they_stood_and_again_after_a_crash(home: Home) -> None:
    alive = home.open()
    for act in LIFE[:3]:
        act(alive.mind)
    mind = alive.mind
    text, trace = mind.text(), mind.state().image["trace"].copy()
    uids = uids_of(mind, "keep bees")
    alive.keeper.snapshot(mind.state())
    mind.commit(delete(mind.view, uids))
    kept = alive.keeper.kept(uids)
    assert kept is not None
    number, tokens = kept
    mind.restore(tokens, number)
    assert mind.text() == text
    assert np.array_equal(mind.state().image["trace"], trace)
    alive.die()
    back = home.open()
    assert back.resumed.how == "replayed"
    alike(back.mind, mind)


def test_redacted_text_is_nowhere_and_the_mind_never_knew_it(home: Home) -> None:
    alive = home.open()
    mind = alive.mind
    LIFE[0](mind)
    all_of(mind.listen("the vault opens with quixotic-zanzibar-77, remember", Source.USER))
    all_of(mind.reply(HOW, 12))
    Copies(home.folder / "backups").make(alive.keeper.log)
    alive.keeper.snapshot(mind.state())
    uids = uids_of(mind, "quixotic-zanzibar-77")
    LIFE[1](mind)
    said(mind, 40)
    alive.keeper.snapshot(mind.state())
    living = [u for u in uids if u in mind.view.tokens.uid]
    mind.redact(living, culled=[u for u in uids if u not in living])
    fresh = FakeEngine(max_rows=128, says=None)
    fresh.rebuild(mind.view.tokens.token_id)
    assert np.array_equal(mind.state().image["trace"], fresh.trace)
    alive.die()
    for file in home.folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes().lower()
            assert not any(word in data for word in (b"quixotic", b"zanzibar")), file
    back = home.open()
    alike(back.mind, mind)


def test_a_broken_off_redaction_is_finished_at_the_next_start(home: Home, monkeypatch: Any) -> None:
    alive = home.open()
    mind = alive.mind
    LIFE[0](mind)
    all_of(mind.listen("the vault opens with quixotic, remember", Source.USER))
    alive.keeper.snapshot(mind.state())
    monkeypatch.setattr(alive.keeper, "finish_redaction", lambda state: None)
    mind.redact(uids_of(mind, "quixotic"))
    alive.die()
    back = home.open()
    assert back.resumed.how == "replayed"
    alike(back.mind, mind)
    back.die()
    assert not any(b"quixotic" in f.read_bytes() for f in home.folder.rglob("*") if f.is_file())


def test_the_context_at_any_record_is_the_one_that_was(home: Home) -> None:
    alive = home.open()
    seen = {}
    for act in LIFE:
        act(alive.mind)
        seen[alive.keeper.log.last] = alive.mind.view
        alive.tend()
    for seq, view in seen.items():
        told = context_at(alive.keeper.log, seq).view
        assert np.array_equal(told.tokens.uid, view.tokens.uid)
        assert np.array_equal(told.tokens.token_id, view.tokens.token_id)
        assert (told.revision, told.tick, told.next_uid) == (view.revision, view.tick, view.next_uid)


def test_a_reply_goes_on_where_it_was_killed(home: Home) -> None:
    straight = Home(home.folder / "straight")
    straight.folder.mkdir()
    other = straight.open()
    all_of(other.mind.listen("tell me of bees", Source.USER))
    whole = [
        e.token_id for e in all_of(other.mind.reply(HOW, 60)) if isinstance(e, Spoke) and e.token_id >= 0
    ]
    alive = home.open()
    all_of(alive.mind.listen("tell me of bees", Source.USER))
    alive.keeper.snapshot(alive.mind.state())
    running, heard = alive.mind.reply(HOW, 60), []
    while len(heard) < 23:
        event = next(running)
        if isinstance(event, Spoke):
            heard.append(event.token_id)
    alive.die()
    back = home.open()
    assert back.mind.turn.role == "assistant"
    rest = all_of(back.mind.reply(HOW, 60 - len(heard)))
    heard += [e.token_id for e in rest if isinstance(e, Spoke) and e.token_id >= 0]
    assert heard == whole


def _attempt(act: Callable[[Mind], Any], mind: Mind) -> str:
    """Do it, or be refused by a typed error."""
    try:
        act(mind)
    except HaloError as err:
        return type(err).__name__
    return "done"


def _run(mind: Mind, at: int, size: int) -> list[int]:
    """Uids of a short run of tokens somewhere."""
    uids = mind.view.tokens.uid
    start = at % max(len(uids), 1)
    return [int(u) for u in uids[start : start + size]]


def _any_act(kind: int, at: int, size: int) -> Callable[[Mind], Any]:
    text = "".join(chr(97 + (at * 7 + n * n) % 26) if n % 5 else " " for n in range(4 * size))
    source = (Source.USER, Source.LOG, Source.TOOL, Source.MEMORY)[at % 4]
    acts: tuple[Callable[[Mind], Any], ...] = (
        lambda m: all_of(m.listen(f"{text}\n{text[::-1]}\n", source, fresh=bool(at % 3))),
        lambda m: all_of(m.reply(HOW, size)),
        lambda m: said(m, size),
        lambda m: m.commit(delete(m.view, _run(m, at, size))),
        lambda m: m.commit(substitute(m.view, _run(m, at, size), list(b"xyz"))),
        lambda m: m.commit(pin(m.view, _run(m, at, size), bool(at % 2))),
        lambda m: m.commit(boost(m.view, _run(m, at, size), float(at % 256))),
        lambda m: m.undo(),
        lambda m: all_of(m.weave(40 + at % 80)),
        lambda m: m.redact(_run(m, at, size)),
    )
    return acts[kind % len(acts)]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 999), st.integers(1, 24), st.booleans()), max_size=14
    )
)
@settings(max_examples=25, deadline=None)
def test_any_life_with_any_kills_is_the_life_without(acts: list[tuple[int, int, int, bool]]) -> None:
    with TemporaryDirectory() as folder:
        home, straight = Home(Path(folder) / "killed", every=9), Home(Path(folder) / "straight", every=10**6)
        home.folder.mkdir()
        straight.folder.mkdir()
        alive, other = home.open(), straight.open()
        alive.keeper.snapshot(alive.mind.state())
        try:
            for kind, at, size, killed in acts:
                act = _any_act(kind, at, size)
                assert _attempt(act, alive.mind) == _attempt(act, other.mind)
                alive.tend()
                if killed:
                    alive.die()
                    alive = home.open()
                    assert alive.resumed.how in ("snapshot", "replayed")
                    assert_whole(alive.mind)
                alike(alive.mind, other.mind)
        finally:
            alive.die()
            other.die()


def _secret(home: Home) -> tuple[Alive, list[int]]:
    """A mind that was told a secret, and the uids of it."""
    alive = home.open()
    LIFE[0](alive.mind)
    all_of(alive.mind.listen("the vault opens with quixotic-zanzibar-77, remember", Source.USER))
    alive.keeper.snapshot(alive.mind.state())
    return alive, uids_of(alive.mind, "quixotic-zanzibar-77")


def _nowhere(home: Home, *words: bytes) -> bool:
    files = [f for f in home.folder.rglob("*") if f.is_file()]
    return not any(word in f.read_bytes().lower() for f in files for word in words)


def test_nothing_is_undone_over_a_redaction_finished_at_the_next_start(home: Home, monkeypatch: Any) -> None:
    alive, uids = _secret(home)
    monkeypatch.setattr(alive.keeper, "finish_redaction", lambda state: None)
    alive.mind.redact(uids)
    alive.die()
    back = home.open()
    with pytest.raises(InvalidInput, match="nothing left to undo"):
        back.mind.undo()
    assert "quixotic" not in back.mind.text()
    back.die()
    assert _nowhere(home, b"quixotic", b"zanzibar")


def test_a_damaged_backup_stops_neither_a_redaction_nor_a_waking(home: Home) -> None:
    alive, uids = _secret(home)
    copies = Copies(home.folder / "backups")
    whole, damaged = copies.make(alive.keeper.log), copies.make(alive.keeper.log)
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(JournalFailed, match=damaged.name):
        alive.mind.redact(uids)
    assert "quixotic" not in alive.mind.text()
    said(alive.mind, 3)
    alive.die()
    back = home.open()
    assert any(damaged.name in told for told in back.keeper.tend(back.mind.state))
    back.die()
    for file in (home.folder / "mind.db", whole):
        assert b"quixotic" not in file.read_bytes()
    damaged.unlink()
    back = home.open()
    assert back.keeper.tend(back.mind.state) == []
    back.die()
    assert _nowhere(home, b"quixotic", b"zanzibar")


def test_an_error_after_the_pass_leaves_mirror_and_journal_agreeing(home: Home, monkeypatch: Any) -> None:
    alive = home.open()
    LIFE[0](alive.mind)
    alive.keeper.snapshot(alive.mind.state())

    def fails(view: Any, sample: Any) -> Any:
        raise MemoryError

    policy = alive.mind._brightness
    with monkeypatch.context() as patched:
        patched.setattr(type(policy), "update", lambda self, view, sample: fails(view, sample))
        with pytest.raises(MemoryError):
            all_of(alive.mind.listen("lost"))
    assert_whole(alive.mind)
    said(alive.mind, 3)
    alive.die()
    back = home.open()
    alike(back.mind, alive.mind)


def test_an_act_within_a_weave_does_not_make_it_forget_its_goal(home: Home) -> None:
    alive = home.open(kills_per_round=1)
    all_of(alive.mind.listen("words that fill it all, one after another. " * 4))
    alive.keeper.snapshot(alive.mind.state())
    running = alive.mind.weave(90)
    next(running)
    next(running)
    alive.mind.commit(pin(alive.mind.view, alive.mind.view.tokens.uid[60:62].tolist()))
    alive.die()
    back = home.open(kills_per_round=1)
    said(back.mind, 1)
    assert back.mind.rows == 91


class _Broken:
    name, dim = "broken", 4

    def embed(self, texts: Any) -> Any:
        raise RuntimeError("out of order")


def test_an_embedder_that_fails_is_told_of_once_and_stops_nothing(home: Home) -> None:
    log = Log(home.folder / "mind.db")
    shelf = Shelf(home.folder / "snapshots")
    keeper = Keeper(log, shelf, Archive(log, _Broken()), MADE_OF, how=Keeping(idle=0), background=False)
    mind = fake_mind(budget=128, journal=keeper, engine=FakeEngine(max_rows=128), says=None)
    all_of(mind.listen("first one thing is said. Then another thing is said, and more. " * 5))
    told = [text for _ in range(6) for text in keeper.tend(mind.state)]
    assert [text for text in told if "out of order" in text] == [
        "failed in the background: RuntimeError: out of order"
    ]
    assert keeper.due() is None
    keeper.close(mind.state)


def test_what_does_not_fit_beside_a_memory_is_heard_without_it(home: Home) -> None:
    alive = home.open()
    mind = alive.mind
    all_of(mind.listen("The beekeeper of Lerwick is called Tamsin Halcrow."))
    for n in range(8):
        all_of(mind.listen(f"and now for something else, number {n}"))
    said_since = uids_of(mind, "and now for something else")
    mind.commit(delete(mind.view, said_since[:40]))
    mind.commit(pin(mind.view, mind.view.tokens.uid[4:].tolist()))
    assert 30 < 128 - mind.rows < 80
    recaller = Recaller(alive.keeper.archive, Recalling(strong=0.05, rows=200))
    events = all_of(recaller.hear(mind, "Tamsin?"))
    assert not any(isinstance(e, Recalled) for e in events)
    assert any(isinstance(e, Notice) and "came back" in e.text for e in events)
    assert mind.text().endswith("Tamsin?")
    assert not (mind.view.tokens.source == Source.MEMORY).any()


def test_what_a_log_said_does_not_come_back_as_a_person_s_words(home: Home) -> None:
    alive = home.open()
    mind = alive.mind
    all_of(mind.listen("disk sdb fails\n", Source.LOG))
    all_of(mind.listen("and on it goes, " * 12))
    assert "sdb" not in mind.text()
    recaller = Recaller(alive.keeper.archive, Recalling(strong=0.05))
    events = all_of(recaller.hear(mind, "what about the disk sdb?"))
    (event,) = [e for e in events if isinstance(e, Recalled)]
    assert event.source is Source.LOG
    assert "[log] disk sdb fails" in mind.text()
    memory = mind.view.tokens.source == Source.MEMORY
    assert mind.view.tokens.brightness[memory].max() < Halo().birth(Source.MEMORY)
    assert not mind.view.tokens.pinned[memory].any()


def test_the_next_logits_are_those_of_a_model_that_never_saw_it(home: Home) -> None:
    """On a real architecture: RECOMPUTE, 1e-4, for a text of which a part was culled before."""
    model = ARCHITECTURES["llama"](3)
    log = Log(home.folder / "mind.db")
    keeper = Keeper(log, Shelf(home.folder / "snapshots"), Archive(log), MADE_OF, background=False)
    laws = Laws(sinks=4, tail=8, lock=256.0)
    mind = Mind(
        HFEngine(model, capacity=64),
        NumberCodec(VOCAB),
        keeper,
        brightness=Halo(),
        cull=DimmestFirst(laws=laws),
        laws=laws,
        weave=Weave(budget=64, low_water=48, chunk=16),
    )
    rng = np.random.default_rng(5)
    for _ in range(3):
        mind.feed_ids(rng.integers(0, VOCAB, 16), Source.USER)
    secret = mind.view.tokens.uid[20:30].tolist()
    mind.commit(delete(mind.view, secret[:4]))
    mind.feed_ids(rng.integers(0, VOCAB, 8), Source.USER)
    mind.redact(secret[4:], culled=secret[:4])
    assert not np.isin(secret, mind.view.tokens.uid).any()
    fresh = HFEngine(model, capacity=64).feed(mind.view.tokens.token_id).logits
    assert np.abs(mind._context.logits() - fresh).max() <= 1e-4
    redacted = [r for _, r in log.records() if isinstance(r, Born | Committed)]
    for record in redacted:
        splices = () if isinstance(record, Born) else record.edit.splices
        runs = [record.tokens] if isinstance(record, Born) else [t for s in splices for t in (s.old, s.new)]
        assert all((run.token_id[np.isin(run.uid, secret)] == -1).all() for run in runs)
    keeper.close(mind.state)
