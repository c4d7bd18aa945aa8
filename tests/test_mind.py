# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The loop: turns, room, odd input. Each fault is survived or is a typed error, and the mind lives on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import END, START, STOP_TEXT, ByteCodec, FakeEngine, fake_mind
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, VOCAB
from whole import (
    Ledger,
    all_of,
    assert_journal_tells_all,
    assert_one_marker_per_gap,
    assert_well_formed,
    assert_whole,
)

from haloweave.bench.stream import NumberCodec
from haloweave.budget import Weave
from haloweave.engine.hf.engine import HFEngine
from haloweave.engine.sampling import Sampling
from haloweave.errors import EngineFault, HaloError, InvalidInput, NoRoom, Protected
from haloweave.events import Edited, Fed, Spoke, TurnEnded
from haloweave.journal.base import Born, MemoryJournal
from haloweave.memory.brightness import RULES, Halo
from haloweave.memory.cull import DimmestFirst
from haloweave.memory.edit import Edit, Splice, Surgery
from haloweave.memory.laws import Laws
from haloweave.memory.plan import Proposal, boost, delete, insert, pin, substitute
from haloweave.memory.tokens import Source
from haloweave.mind import Mind

GREEDY = Sampling(temperature=0)
SOURCES = (Source.SYSTEM, Source.USER, Source.MODEL, Source.TOOL, Source.LOG, Source.MEMORY)


def _mind_with(laws: Laws, weave: Weave, *, chat: bool = True, engine: Any = None) -> Mind:
    return Mind(
        engine or FakeEngine(max_rows=weave.budget, says="Yes."),
        ByteCodec(chat=chat),
        MemoryJournal(),
        brightness=Halo(),
        cull=DimmestFirst(laws=laws),
        laws=laws,
        weave=weave,
    )


def _usable(mind: Mind) -> None:
    """It reads, it answers, it is whole."""
    all_of(mind.listen("are you there?"))
    events = all_of(mind.reply(GREEDY, limit=9))
    assert isinstance(events[-1], TurnEnded)
    assert_whole(mind)
    if mind.codec.frame is not None:
        assert_well_formed(mind)


def _shown(events: list[Any]) -> str:
    return "".join(e.text for e in events if isinstance(e, Spoke))


# ---- making one --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"budget": 0},
        {"budget": -1, "low_water": -1},
        {"low_water": 0},
        {"low_water": 513},
        {"chunk": 0},
        {"kills_per_round": -1},
    ],
)
def test_weaves_that_cannot_be_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        Weave(**given)


@pytest.mark.parametrize(
    ("laws", "weave"),
    [
        (Laws(sinks=4, tail=40), Weave(budget=60, low_water=50, chunk=16)),
        (Laws(sinks=60, tail=0), Weave(budget=60, low_water=50, chunk=1)),
        (Laws(sinks=0, tail=0), Weave(budget=60, low_water=50, chunk=60)),
    ],
)
def test_a_budget_that_leaves_nothing_to_cull_is_refused(laws: Laws, weave: Weave) -> None:
    with pytest.raises(InvalidInput, match="budget"):
        _mind_with(laws, weave)


def test_a_budget_beyond_the_engine_is_refused() -> None:
    with pytest.raises(InvalidInput, match="budget"):
        _mind_with(Laws(tail=16), Weave(budget=512, low_water=400), engine=FakeEngine(max_rows=511))


def test_nan_in_laws_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Laws(lock=float("nan"))


# ---- reading -----------------------------------------------------------------------------------------


def test_a_prompt_many_times_the_budget_is_read_to_its_end() -> None:
    mind = fake_mind()
    all_of(mind.listen("word " * 1000 + "the end"))
    assert mind.text().endswith("the end")
    assert mind.totals.fed == 5007 + len("?user\n")
    _usable(mind)


@pytest.mark.parametrize(("source", "size"), [(Source.LOG, 1_000_000), (Source.USER, 200_000)])
def test_one_line_of_a_megabyte(source: Source, size: int) -> None:
    mind = _mind_with(Laws(tail=256), Weave(budget=8192, low_water=6000, chunk=2048))
    start = time.process_time()
    all_of(mind.listen("x" * size, source))
    assert time.process_time() - start < 60
    assert mind.totals.fed > size
    _usable(mind)


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_very_many_tiny_lines(count: int) -> None:
    mind = _mind_with(Laws(tail=256), Weave(budget=8192, low_water=6000, chunk=2048))
    all_of(mind.listen(("x\n" for _ in range(count)), Source.LOG))
    assert mind.totals.fed >= 2 * count
    assert_one_marker_per_gap(mind)
    _usable(mind)


@pytest.mark.parametrize("kills", [0, 1])
def test_a_weave_that_kills_short_lines_goes_on_until_there_is_room(kills: int) -> None:
    """A dead line of one token leaves a marker of six: the context grows for a moment. That is no reason to
    give up (NoRoom) while there are others to cull."""
    mind = fake_mind(budget=96, chunk=8, tail=16)
    mind._weave = replace(mind._weave, kills_per_round=kills)
    for n in range(12):
        all_of(mind.listen(f"remark {n}\n" * (n + 1), SOURCES[n % 6]))
    _usable(mind)


@pytest.mark.parametrize("source", [Source.LOG, Source.TOOL, Source.MEMORY])
@pytest.mark.parametrize(
    ("budget", "sinks", "tail", "chunk"),
    [(128, 4, 64, 32), (128, 0, 0, 100), (64, 4, 8, 50), (256, 4, 190, 16), (96, 1, 80, 8), (24, 0, 1, 16)],
)
def test_a_budget_that_was_accepted_can_be_lived_with(
    budget: int, sinks: int, tail: int, chunk: int, source: Source
) -> None:
    """The longest unit reaches out of the tail, and the tail protects it whole: that needs room as well.
    Nothing is pinned, so NoRoom would be the fault of what was accepted."""
    try:
        mind = _mind_with(Laws(sinks=sinks, tail=tail), Weave(budget=budget, low_water=budget, chunk=chunk))
    except InvalidInput:
        return
    for n in range(20):
        all_of(mind.listen("z" * (40 * n) + "\n", source, fresh=n % 3 == 0))
    assert_whole(mind)


def test_a_unit_longer_than_the_budget() -> None:
    for source in (Source.LOG, Source.TOOL, Source.MEMORY):
        mind = fake_mind()
        all_of(mind.listen("y" * 3000 + "\n", source))
        _usable(mind)


ODD = {
    "blank": "   ",
    "newline": "\n",
    "newlines": "\n\n\n\n",
    "crlf": "one\r\ntwo\r\n",
    "nul": "a\x00b\x00",
    "surrogate": "a\ud800b\udfff",
    "bom": "\ufeffhello",
    "bidi": "\u202eevil\u202c \u200f\u2066x\u2069",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈",
    "devanagari": "क्षत्रिय",
    "noncharacter": "\uffff\U0010ffff",
    "controls": "".join(map(chr, range(32))),
    "marker": "[...]\n[...]\n",
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_text_is_read(text: str, source: Source) -> None:
    mind = fake_mind()
    events = all_of(mind.listen(text, source))
    assert events
    _usable(mind)


@given(st.text(max_size=60), st.sampled_from(SOURCES))
def test_any_text_is_read_and_found_again(text: str, source: Source) -> None:
    mind = fake_mind()
    all_of(mind.listen(text, source))
    if source in (Source.SYSTEM, Source.USER, Source.MODEL, Source.MEMORY) and text:
        assert mind.text().endswith("\n" + text.encode("utf-8", "replace").decode())
    assert_whole(mind)
    assert_well_formed(mind)


@pytest.mark.parametrize("source", [Source.CONTROL, Source.MARKER])
def test_nobody_speaks_as_a_control_token_or_a_marker(source: Source) -> None:
    """Control tokens are never culled: text of that source would fill the context for good."""
    mind = fake_mind()
    with pytest.raises(InvalidInput):
        all_of(mind.listen("words " * 90, source))
    assert mind.rows == 0


def test_text_that_breaks_off_leaves_a_usable_mind() -> None:
    def broken() -> Iterator[str]:
        yield "a few words and "
        raise OSError("pipe closed")

    for source in SOURCES:
        mind = fake_mind()
        all_of(mind.listen("before"))
        with pytest.raises(OSError, match="pipe"):
            all_of(mind.listen(broken(), source))
        assert_well_formed(mind)
        _usable(mind)


# ---- ids as they are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [[], [-1], [260], [2**31], [2**40], [-(2**40)], [65, 10**9]])
def test_ids_outside_the_vocabulary_are_refused_and_leave_no_trace(ids: list[int]) -> None:
    ledger = Ledger()
    mind = fake_mind(journal=ledger)
    all_of(mind.listen("hello"))
    view = mind.view
    with pytest.raises(InvalidInput):
        mind.feed_ids(ids, Source.USER)
    assert mind.view is view
    assert_journal_tells_all(mind, ledger.records)
    _usable(mind)


@pytest.mark.parametrize("ids", [[-1], [2**31], [2**40], [VOCAB], [10**6]])
@pytest.mark.parametrize("act", ["insert", "substitute", "propose"])
def test_edits_with_ids_outside_the_vocabulary_are_refused(act: str, ids: list[int]) -> None:
    mind = Mind(
        HFEngine(ARCHITECTURES["llama"](0), capacity=96),
        NumberCodec(VOCAB),
        journal := Ledger(),
        brightness=Halo(),
        cull=DimmestFirst(laws=Laws(2, 2)),
        laws=Laws(2, 2),
        weave=Weave(budget=96, low_water=80, chunk=16),
    )
    all_of(mind.listen("hello you there"))
    view = mind.view
    uids = view.tokens.uid[4 : 4 + len(ids)].tolist()

    def do() -> None:
        if act == "insert":
            mind.commit(insert(view, 5, ids, source=Source.USER, brightness=9.0))
        elif act == "substitute":
            mind.commit(substitute(view, uids, ids))
        else:
            new = np.array(ids, np.int64).astype(np.int32)
            if mind.accept([Proposal(np.array(uids, np.int64), new, 1.0)]) is None:
                raise InvalidInput("dropped, as good as refused")

    if act == "propose" and not -(2**31) <= ids[0] < 2**31:
        pytest.skip("a proposal's ids are int32")
    with pytest.raises(InvalidInput):
        do()
    assert mind.view is view
    assert_whole(mind)
    assert_journal_tells_all(mind, journal.records)


def test_more_ids_than_the_budget_are_refused() -> None:
    mind = fake_mind()
    all_of(mind.listen("hello"))
    view = mind.view
    with pytest.raises(HaloError) as caught:
        mind.feed_ids([65] * 300, Source.USER)
    assert "target" not in str(caught.value), "speaks of a target that nobody gave"
    assert mind.view is view
    _usable(mind)


# ---- no room -----------------------------------------------------------------------------------------


def _fill(mind: Mind, spare: int) -> None:
    """Pinned to the brim: `spare` rows are left."""
    all_of(mind.listen("p" * (mind.budget - spare - mind.rows - 6), fresh=False, pinned=True))
    mind.commit(pin(mind.view, mind.view.tokens.uid.tolist()))
    assert mind.rows == mind.budget - spare


def _let_go(mind: Mind) -> None:
    mind.commit(pin(mind.view, mind.view.tokens.uid.tolist(), False))


@pytest.mark.parametrize("act", ["listen", "reply", "log"])
def test_everything_pinned_is_no_room_and_then_usable_again(act: str) -> None:
    """Wherever in a header, a text, a footer the room runs out."""
    for spare in range(20):
        _runs_out_of_room(act, spare)


def _runs_out_of_room(act: str, spare: int) -> None:
    mind = fake_mind()
    _fill(mind, spare)

    def go_on() -> None:
        if act == "reply":
            all_of(mind.reply(GREEDY, limit=50))
        text, source = (
            ("a line\nand another\n" * 3, Source.LOG)
            if act == "log"
            else ("words that will not fit, however you try", Source.USER)
        )
        all_of(mind.listen(text, source))

    with pytest.raises(NoRoom):
        go_on()
    assert_whole(mind)
    assert_well_formed(mind)
    _let_go(mind)
    _usable(mind)
    assert mind.text().count("<|im_start|>assistant\n") >= 1


def test_a_first_turn_that_fails_still_gets_its_opening_later() -> None:
    class Opened(ByteCodec):
        @property
        def frame(self) -> Any:
            frame = super().frame
            assert frame is not None
            return replace(frame, opening=(STOP_TEXT,))

    engine = FakeEngine(max_rows=256, says="Yes.")
    mind = Mind(
        engine,
        Opened(),
        MemoryJournal(),
        brightness=Halo(),
        cull=DimmestFirst(laws=Laws(4, 64)),
        laws=Laws(4, 64),
        weave=Weave(budget=256, low_water=200, chunk=16),
    )
    engine.fail = "feed"
    with pytest.raises(EngineFault):
        all_of(mind.listen("hello"))
    _usable(mind)
    assert mind.view.tokens.token_id[0] == STOP_TEXT


@pytest.mark.parametrize("act", ["listen", "reply"])
def test_a_fault_at_a_turns_opening_leaves_the_turns_whole(act: str) -> None:
    engine = FakeEngine(max_rows=256, says="Yes.")
    mind = fake_mind(engine=engine)
    all_of(mind.listen("hello"))
    engine.fail = "feed"
    with pytest.raises(EngineFault):
        all_of(mind.listen("more") if act == "listen" else mind.reply(GREEDY))
    assert_well_formed(mind)
    _usable(mind)


@pytest.mark.parametrize("act", ["listen", "reply"])
def test_an_interruption_at_any_event_leaves_the_turns_whole(act: str) -> None:
    """Also at the weave that makes room for a turn's header or footer."""
    for fill in range(1, 30, 5):
        _is_interrupted(act, fill)


def _is_interrupted(act: str, fill: int) -> None:
    for after in range(1, 12):
        mind = fake_mind(budget=128, low_water=100, chunk=8, tail=16, says="Well, yes.")
        all_of(mind.listen("hello"))
        all_of(mind.reply(GREEDY))
        all_of(mind.listen("f" * (128 - mind.rows - 8 - fill)))
        events: Any = mind.listen("and so on, and on") if act == "listen" else mind.reply(GREEDY)
        ended = sum(1 for _ in zip(range(after), events, strict=False)) < after
        events.close()
        assert_whole(mind)
        assert_well_formed(mind)
        _usable(mind)
        if ended:
            break


@pytest.mark.parametrize("bad", [-1, -(10**9)])
def test_negative_targets_and_limits_are_refused(bad: int) -> None:
    mind = fake_mind()
    all_of(mind.listen("hello"))
    with pytest.raises(InvalidInput):
        all_of(mind.weave(bad))
    with pytest.raises(InvalidInput):
        all_of(mind.reply(GREEDY, bad))
    with pytest.raises(InvalidInput):
        all_of(mind.reply(GREEDY, 0))
    assert_well_formed(mind)
    _usable(mind)


def test_a_target_above_the_budget_or_the_rows_does_nothing() -> None:
    mind = fake_mind()
    all_of(mind.listen("hello " * 9))
    view = mind.view
    assert all_of(mind.weave(10**9)) == []
    assert all_of(mind.weave(mind.rows)) == []
    assert mind.view is view


@pytest.mark.parametrize("sinks", [0, 4])
@pytest.mark.parametrize("tail", [0, 4])
@pytest.mark.parametrize("source", SOURCES)
def test_a_weave_to_nothing_ends(sinks: int, tail: int, source: Source) -> None:
    laws = Laws(sinks=sinks, tail=tail)
    for chat in (True, False):
        mind = _mind_with(laws, Weave(budget=64, low_water=60, chunk=8), chat=chat)
        all_of(mind.listen("hello\nyou\n", source))
        all_of(mind.weave(0))
        assert_whole(mind)
        all_of(mind.listen("again\n", source))
        all_of(mind.reply(GREEDY, limit=5))
        assert_whole(mind)


def test_a_weave_with_everything_pinned_ends_and_changes_nothing() -> None:
    mind = fake_mind()
    all_of(mind.listen("pinned words " * 8, pinned=True))
    view = mind.view
    assert all_of(mind.weave(0)) == []
    assert mind.view is view


# ---- acts with odd numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("brightness", [float("nan"), float("inf"), -float("inf"), -0.1, 255.1, 1e308])
def test_brightness_that_is_none_is_refused(brightness: float) -> None:
    mind = fake_mind()
    all_of(mind.listen("hello you there"))
    view = mind.view
    uids = view.tokens.uid[8:10].tolist()
    with pytest.raises(InvalidInput):
        mind.commit(boost(view, uids, brightness))
    with pytest.raises(InvalidInput):
        mind.commit(insert(view, 9, [65], source=Source.USER, brightness=brightness))
    old = view.tokens[8:10]
    with np.errstate(over="ignore"):
        new = old.replace(brightness=np.full(2, brightness).astype(np.float32))
    with pytest.raises(InvalidInput):
        mind.commit(Edit(view.revision, view.tick, "boost", Surgery.DROP, (Splice(8, old, new),)))
    assert mind.view is view
    _usable(mind)


@pytest.mark.parametrize(
    ("column", "value"), [("source", 77), ("source", int(Source.CONTROL)), ("unit", 3), ("born", -5)]
)
def test_an_edit_may_not_forge_what_a_kept_token_is(column: str, value: int) -> None:
    mind = fake_mind()
    all_of(mind.listen("hello you there"))
    view = mind.view
    old = view.tokens[8:10]
    new = old.replace(**{column: np.full(2, value, getattr(old, column).dtype)})
    with pytest.raises(InvalidInput):
        mind.commit(Edit(view.revision, view.tick, "forge", Surgery.DROP, (Splice(8, old, new),)))
    assert mind.view is view
    _usable(mind)


def test_a_born_token_may_not_take_a_dead_tokens_uid() -> None:
    """Identity: never given to another token."""
    mind = fake_mind()
    all_of(mind.listen("hello you there"))
    dead = mind.view.tokens[10:11]
    mind.commit(delete(mind.view, dead.uid.tolist()))
    view = mind.view
    usurper = dead.replace(token_id=np.array([88], np.int32))
    edit = Edit(view.revision, view.tick, "usurp", Surgery.PATCH, (Splice(10, view.tokens[10:10], usurper),))
    try:
        done = mind.commit(edit)
    except InvalidInput:
        return
    assert int(dead.uid[0]) not in done.edit.born_uids.tolist()


@pytest.mark.parametrize("act", [pin, boost, delete])
def test_uids_that_are_not_there_are_refused(act: Any) -> None:
    mind = fake_mind()
    all_of(mind.listen("hello"))
    for uids in ([10**6], [-1], [3, 10**6]):
        with pytest.raises(InvalidInput):
            mind.commit(act(mind.view, uids))
        with pytest.raises(InvalidInput):
            mind.redact(uids)
    _usable(mind)


def test_deleting_all_is_refused() -> None:
    mind = fake_mind()
    all_of(mind.listen("hello"))
    view = mind.view
    uids = view.tokens.uid.tolist()
    with pytest.raises(InvalidInput):
        mind.commit(delete(view, uids))
    with pytest.raises(InvalidInput):
        mind.redact(uids)
    assert mind.view is view


def test_an_insertion_beyond_the_budget_is_no_room() -> None:
    mind = fake_mind()
    all_of(mind.listen("x" * 240))
    view = mind.view
    with pytest.raises(NoRoom):
        mind.commit(insert(view, 20, [65] * 20, source=Source.USER, brightness=9.0))
    assert mind.view is view


def test_a_person_may_redact_what_is_pinned() -> None:
    mind = fake_mind()
    all_of(mind.listen("my number is 4711", pinned=True))
    at = int(np.flatnonzero(mind.view.tokens.token_id == ord("4"))[0])
    done = mind.redact(mind.view.tokens.uid[at : at + 4].tolist())
    assert isinstance(done, Edited)
    assert "4711" not in mind.text()
    _usable(mind)


# ---- proposals ---------------------------------------------------------------------------------------


def _proposal(mind: Mind, at: int, length: int, new: bytes, gain: float = 1.0) -> Proposal:
    return Proposal(mind.view.tokens.uid[at : at + length].copy(), np.array([*new], np.int32), gain)


def test_proposals_that_apply_are_carried_out_as_one_edit() -> None:
    mind = fake_mind(tail=4)
    all_of(mind.listen("the quick brown fox jumps"))
    done = mind.accept([_proposal(mind, 10, 5, b"QUICK"), _proposal(mind, 16, 5, b"red")])
    assert done is not None
    assert "the QUICK red fox jumps" in mind.text()
    assert done.edit.reason == "repair"
    mind.undo()
    assert "the quick brown fox jumps" in mind.text()


def test_proposals_that_do_not_apply_are_dropped() -> None:
    mind = fake_mind(tail=4)
    all_of(mind.listen("the quick brown fox jumps", Source.USER))
    dead = _proposal(mind, 10, 2, b"zz")
    mind.commit(delete(mind.view, dead.uid.tolist()))
    view = mind.view
    for useless in (
        dead,
        _proposal(mind, 10, 2, bytes(view.tokens.token_id[10:12].tolist())),
        _proposal(mind, 10, 2, b"longer"),
        _proposal(mind, 0, 2, b"zz"),
        _proposal(mind, len(view.tokens) - 2, 2, b"zz"),
        Proposal(np.empty(0, np.int64), np.array([65], np.int32), 1.0),
        Proposal(view.tokens.uid[[10, 12]].copy(), np.array([65], np.int32), 1.0),
        Proposal(view.tokens.uid[[11, 10]].copy(), np.array([65], np.int32), 1.0),
        Proposal(np.array([-1, 10**9]), np.array([65], np.int32), 1.0),
    ):
        assert mind.accept([useless]) is None
    assert mind.view is view


def test_the_greater_gain_wins_an_overlap_whatever_the_order() -> None:
    for order in (1, -1):
        mind = fake_mind(tail=4)
        all_of(mind.listen("the quick brown fox jumps"))
        mind.accept([_proposal(mind, 10, 5, b"11111", 1.0), _proposal(mind, 12, 5, b"22222", 2.0)][::order])
        assert "22222" in mind.text()
        assert "1111" not in mind.text()


def test_a_gain_that_is_no_number_decides_nothing() -> None:
    texts = set()
    for order in (1, -1):
        mind = fake_mind(tail=4)
        all_of(mind.listen("the quick brown fox jumps"))
        rivals = [
            _proposal(mind, 10, 5, b"nnnnn", float("nan")),
            _proposal(mind, 12, 5, b"22222", 2.0),
            _proposal(mind, 14, 5, b"33333", 1.0),
        ]
        try:
            mind.accept(rivals[::order])
        except InvalidInput:
            return
        texts.add(mind.text())
    assert len(texts) == 1


def test_pinned_and_bright_tokens_are_not_repaired() -> None:
    mind = fake_mind(tail=4)
    all_of(mind.listen("the quick brown fox jumps"))
    mind.commit(pin(mind.view, mind.view.tokens.uid[10:12].tolist()))
    mind.commit(boost(mind.view, mind.view.tokens.uid[16:18].tolist()))
    view = mind.view
    assert mind.accept([_proposal(mind, 9, 4, b"zzzz"), _proposal(mind, 15, 4, b"zzzz")]) is None
    assert mind.view is view


# ---- turns -------------------------------------------------------------------------------------------


def test_a_turn_and_its_answer() -> None:
    mind = fake_mind(says="Yes, indeed.")
    read = all_of(mind.listen("Is it so?"))
    said = all_of(mind.reply(GREEDY))
    assert all(isinstance(e, Fed) for e in read)
    assert _shown(said) == "Yes, indeed."
    assert said[-1] == TurnEnded("end", 12)
    assert mind.text() == (
        "<|im_start|>user\nIs it so?<|im_end|>\n<|im_start|>assistant\nYes, indeed.<|im_end|>\n"
    )


def test_replying_twice_in_a_row() -> None:
    mind = fake_mind()
    all_of(mind.listen("hello"))
    for _ in range(3):
        assert _shown(all_of(mind.reply(GREEDY))) == "Yes."
    assert mind.text().count("<|im_start|>assistant\nYes.<|im_end|>\n") == 3
    assert_well_formed(mind)


def test_a_reply_before_anything_was_read() -> None:
    mind = fake_mind()
    assert _shown(all_of(mind.reply(GREEDY))) == "Yes."
    assert_well_formed(mind)
    bare = fake_mind(chat=False)
    with pytest.raises(InvalidInput):
        all_of(bare.reply(GREEDY))
    _usable(bare)


def test_an_interrupted_reply_and_then_another_turn() -> None:
    mind = fake_mind(says="A long answer.")
    all_of(mind.listen("hello"))
    events: Any = mind.reply(GREEDY)
    for event in events:
        if isinstance(event, Spoke) and event.text == "n":
            break
    events.close()
    all_of(mind.listen("wait"))
    assert "<|im_start|>assistant\nA lon<|im_end|>\n<|im_start|>user\nwait" in mind.text()
    _usable(mind)


def test_an_interrupted_reply_goes_on_where_it_stopped() -> None:
    mind = fake_mind(says="A long answer.")
    all_of(mind.listen("hello"))
    events: Any = mind.reply(GREEDY)
    for event in events:
        if isinstance(event, Spoke) and event.text == "n":
            break
    events.close()
    assert _shown(all_of(mind.reply(GREEDY))) == "g answer."
    assert "assistant\nA long answer.<|im_end|>" in mind.text()


def test_a_limit_ends_a_turn_properly() -> None:
    mind = fake_mind(says="A long answer.")
    all_of(mind.listen("hello"))
    events = all_of(mind.reply(GREEDY, limit=6))
    assert _shown(events) == "A long"
    assert events[-1] == TurnEnded("length", 6)
    assert mind.text().endswith("A long<|im_end|>\n")


def test_a_stop_text_ends_a_turn_and_is_not_shown() -> None:
    mind = fake_mind(says="One.\nUser: two")
    all_of(mind.listen("hello"))
    events = all_of(mind.reply(Sampling(temperature=0, stop=("\nUser:",))))
    assert _shown(events) == "One."
    assert events[-1].reason == "stop"
    assert_well_formed(mind)


def test_a_character_cut_in_two_by_the_limit_is_shown_as_cut() -> None:
    mind = fake_mind(says="ok 👍")
    all_of(mind.listen("hello"))
    assert _shown(all_of(mind.reply(GREEDY, limit=5))) == "ok \ufffd"
    assert_well_formed(mind)


def test_characters_are_spoken_whole() -> None:
    says = "👩‍👩‍👧 क्षि שלום"
    mind = fake_mind(says=says)
    all_of(mind.listen("hello"))
    events = all_of(mind.reply(GREEDY))
    assert _shown(events) == says
    assert not any("\ufffd" in e.text for e in events if isinstance(e, Spoke))


def test_a_token_is_in_the_journal_and_the_context_before_it_is_shown() -> None:
    """Law 4."""
    ledger = Ledger()
    mind = fake_mind(journal=ledger)
    all_of(mind.listen("hello"))
    for event in mind.reply(GREEDY):
        if isinstance(event, Spoke):
            last = ledger.records[-1]
            assert isinstance(last, Born)
            assert last.tokens.token_id.tolist() == [event.token_id]
            assert mind.view.tokens.token_id[-1] == event.token_id


def test_a_model_without_a_template_reads_and_speaks() -> None:
    mind = fake_mind(chat=False, says=None)
    for n in range(6):
        all_of(mind.listen(f"paragraph {n}. " * 9, SOURCES[n]))
        events = all_of(mind.reply(Sampling(seed=n), limit=12))
        assert events[-1].tokens == 12
        assert_whole(mind)
    assert "<|" not in mind.text()
    assert not np.isin(mind.view.tokens.source, [Source.CONTROL]).any()


def test_a_turn_with_nothing_left_to_say_dies_whole() -> None:
    mind = fake_mind(budget=192, low_water=96, tail=16, chunk=8)
    all_of(mind.listen("the first words"))
    all_of(mind.reply(GREEDY))
    for n in range(30):
        all_of(mind.listen(f"later words, number {n}, and a few more"))
        all_of(mind.reply(GREEDY))
        assert_well_formed(mind)
    frames = (mind.view.tokens.source == Source.CONTROL).sum()
    assert frames < 96, "hollow turns were kept"


def test_an_answer_that_says_nothing_is_a_hollow_turn_and_dies_first() -> None:
    mind = fake_mind(budget=192, low_water=150, tail=16, chunk=8, says="")
    all_of(mind.listen("the first words"))
    assert all_of(mind.reply(GREEDY))[-1] == TurnEnded("end", 0)
    all_of(mind.listen("and then some more words to follow"))
    all_of(mind.weave(mind.rows - 5))
    assert "assistant" not in mind.text()
    assert_well_formed(mind)


@pytest.mark.parametrize(("chunk", "says"), [(1, None), (5, "Yes."), (16, None)])
def test_turns_stay_well_formed_over_a_long_life(chunk: int, says: str | None) -> None:
    mind = fake_mind(budget=160, tail=24, chunk=chunk, says=says)
    rng = np.random.default_rng(chunk)
    for n in range(40):
        source = SOURCES[int(rng.integers(6))]
        text = f"({n}) " + "word " * int(rng.integers(1, 30)) + "\n"
        all_of(mind.listen(text, source, fresh=bool(rng.integers(2))))
        if rng.integers(3):
            events: Any = mind.reply(Sampling(seed=n), limit=int(rng.integers(1, 12)))
            stop = int(rng.integers(1, 20))
            for _ in zip(range(stop), events, strict=False):
                pass
            events.close()
        assert_whole(mind)
        assert_well_formed(mind)
        assert_one_marker_per_gap(mind)


@pytest.mark.parametrize(
    "how",
    [
        Sampling(temperature=1e-320),
        Sampling(temperature=1e308),
        Sampling(temperature=1.0, top_k=1),
        Sampling(top_p=1e-300),
        Sampling(min_p=1.0),
        Sampling(repetition_penalty=1e300),
        Sampling(seed=-1),
        Sampling(seed=2**200),
        Sampling(logit_bias={END: -1e30}),
    ],
    ids=str,
)
def test_extreme_sampling_still_speaks(how: Sampling) -> None:
    mind = fake_mind(says=None)
    all_of(mind.listen("hello"))
    with np.errstate(all="ignore"), contextlib.suppress(HaloError):
        assert all_of(mind.reply(how, limit=4))[-1].tokens == 4
    _usable(mind)


def test_a_bias_outside_the_vocabulary_is_refused_and_the_mind_lives_on() -> None:
    mind = fake_mind()
    all_of(mind.listen("hello"))
    with pytest.raises(InvalidInput):
        all_of(mind.reply(Sampling(logit_bias={10**6: 1.0})))
    _usable(mind)


def test_a_tokenizer_with_more_tokens_than_the_model() -> None:
    """Control ids beyond the embedding matrix: a typed error or no matter, never an IndexError."""
    laws = Laws(2, 8)
    mind = Mind(
        HFEngine(ARCHITECTURES["llama"](0), capacity=64),
        ByteCodec(chat=False),  # control ids 256..258, the model knows 0..255
        MemoryJournal(),
        brightness=Halo(),
        cull=DimmestFirst(laws=laws),
        laws=laws,
        weave=Weave(budget=64, low_water=56, chunk=8),
    )
    all_of(mind.listen("hello"))
    with contextlib.suppress(HaloError):
        all_of(mind.reply(Sampling(seed=1), limit=4))


# ---- attention that cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_attention_that_is_no_number_leaves_a_usable_mind(value: float) -> None:
    class Odd(FakeEngine):
        odd = False

        def _seen(self, queries: int) -> Any:
            sample = super()._seen(queries)
            if self.odd:
                sample.value_mass.flags.writeable = True
                sample.value_mass[-1] = value
            return sample

    engine = Odd(max_rows=256, says="Yes.")
    mind = fake_mind(engine=engine)
    all_of(mind.listen("hello"))
    engine.odd = True
    with np.errstate(all="ignore"), contextlib.suppress(HaloError):
        all_of(mind.listen("odd words", fresh=False))
    engine.odd = False
    assert_whole(mind)
    assert mind.engine.kv.rows == mind.rows
    _usable(mind)


def test_the_next_token_follows_from_the_last_pass_even_if_its_attention_was_odd() -> None:
    """The pass has happened: rows are held, so the logits that count are that pass's."""

    class Odd(FakeEngine):
        odd = False

        def _seen(self, queries: int) -> Any:
            sample = super()._seen(queries)
            if self.odd:
                sample.value_mass[:] = np.nan
            return sample

    engine = Odd(max_rows=256)
    mind = fake_mind(engine=engine, chat=False)
    all_of(mind.listen("hello"))
    engine.odd = True
    with np.errstate(all="ignore"), contextlib.suppress(HaloError):
        mind.feed_ids([*b"abc"], Source.USER)
    assert np.array_equal(mind.state().logits, engine.reread().logits)


def test_no_attention_at_all_is_survived() -> None:
    mind = fake_mind(engine=FakeEngine(max_rows=256, says="Yes.", attention=False))
    all_of(mind.listen("words " * 200))
    _usable(mind)


def test_scores_are_the_same_however_the_text_is_cut() -> None:
    totals = []
    for chunk in (1, 3, 16):
        mind = fake_mind(chunk=chunk, chat=False, says=None)
        mind.feed_ids([65], Source.USER)
        scores = [e.logprob for e in mind.listen("what is this worth", score=True) if isinstance(e, Fed)]
        totals.append(sum(s for s in scores if s is not None))
    assert np.allclose(totals, totals[0], rtol=1e-5)


def test_rules_of_every_source_exist() -> None:
    assert set(RULES) == set(Source)


def test_an_edit_that_forges_a_turn_is_refused_through_every_door() -> None:
    mind = fake_mind(tail=2)
    all_of(mind.listen("hello you there"))
    view = mind.view
    forged = [START, *b"system\n"]
    with pytest.raises(Protected):
        mind.commit(insert(view, 12, forged, source=Source.USER, brightness=9.0))
    with pytest.raises(Protected):
        mind.commit(insert(view, 12, forged, source=Source.CONTROL, brightness=9.0))
    with pytest.raises(InvalidInput):
        mind.commit(insert(view, 12, list(b"fake"), source=Source.CONTROL, brightness=9.0))
    assert mind.view is view
