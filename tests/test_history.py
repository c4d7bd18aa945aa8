# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""History: edits carried over what came after them, and taken back, newest first."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, fake_mind, same_image
from hypothesis import given
from hypothesis import strategies as st
from whole import Ledger, all_of, assert_journal_tells_all, assert_well_formed, assert_whole

from haloweave.engine.sampling import Sampling
from haloweave.errors import EditConflict, EngineFault, HaloError, InvalidEdit, NoRoom
from haloweave.events import Edited
from haloweave.history import History
from haloweave.memory.edit import Edit, Splice, Surgery
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import boost, delete, insert, pin, substitute
from haloweave.memory.tokens import Source, Tokens
from haloweave.mind import Mind


def _mind(text: str = "once upon a time there was a mind", **given: Any) -> Mind:
    mind = fake_mind(**given)
    all_of(mind.listen(text))
    return mind


def _run(mind: Mind, text: str) -> list[int]:
    at = mind.text().encode().index(text.encode()) - _shift(mind)
    return [int(u) for u in mind.view.tokens.uid[at : at + len(text.encode())]]


def _shift(mind: Mind) -> int:
    """How many characters more than tokens the first header has: its control token is spelt out."""
    return len("<|im_start|>") - 1


def _said(mind: Mind) -> str:
    return mind.text().split("user\n", 1)[1]


# ---- undo --------------------------------------------------------------------------------------------


def test_undo_takes_back_each_kind_of_edit() -> None:
    for act in (
        lambda m: delete(m.view, _run(m, "upon")),
        lambda m: delete(m.view, _run(m, "upon"), surgery=Surgery.RECOMPUTE),
        lambda m: substitute(m.view, _run(m, "upon"), list(b"twice")),
        lambda m: insert(m.view, 20, list(b"xyz"), source=Source.USER, brightness=9.0),
        lambda m: pin(m.view, _run(m, "upon")),
        lambda m: boost(m.view, _run(m, "upon"), 3.0),
    ):
        mind = _mind()
        before = mind.view.tokens
        mind.commit(act(mind))
        assert mind.view.tokens != before
        mind.undo()
        assert mind.view.tokens == before
        assert_whole(mind)


def test_undo_is_last_in_first_out_over_independent_edits() -> None:
    mind = _mind()
    texts = [_said(mind)]
    for word in ("once ", "time ", "mind"):
        mind.commit(delete(mind.view, _run(mind, word)))
        texts.append(_said(mind))
    for text in reversed(texts[:-1]):
        mind.undo()
        assert _said(mind) == text
    with pytest.raises(InvalidEdit):
        mind.undo()


def test_undo_is_last_in_first_out_over_edits_of_one_place() -> None:
    """The second undo must see that what followed the first edit has itself been taken back."""
    mind = _mind()
    texts = [_said(mind)]
    mind.commit(substitute(mind.view, _run(mind, "upon"), list(b"twice")))
    texts.append(_said(mind))
    mind.commit(substitute(mind.view, _run(mind, "wic"), list(b"WIC")))
    texts.append(_said(mind))
    mind.commit(delete(mind.view, _run(mind, "tWICe ")))
    for text in reversed(texts):
        mind.undo()
        assert _said(mind) == text
    assert_whole(mind)


def test_undo_of_an_insertion_that_was_deleted_and_restored() -> None:
    mind = _mind()
    before = mind.view.tokens
    mind.commit(insert(mind.view, 20, list(b"xyz"), source=Source.USER, brightness=9.0))
    mind.commit(delete(mind.view, _run(mind, "xyz")))
    mind.undo()
    assert "xyz" in mind.text()
    mind.undo()
    assert mind.view.tokens == before


def test_undo_after_appends() -> None:
    mind = _mind()
    mind.commit(delete(mind.view, _run(mind, "upon ")))
    all_of(mind.reply(Sampling(temperature=0)))
    all_of(mind.listen("and then"))
    mind.undo()
    assert "once upon a time" in mind.text()
    assert mind.text().endswith("and then")
    assert_whole(mind)
    assert_well_formed(mind)


def test_undo_of_a_weave_brings_the_dead_back_where_they_were() -> None:
    mind = _mind("a line of words, and so on. " * 5)
    before, text = mind.view.tokens, mind.text()
    all_of(mind.weave(mind.rows - 30))
    mind.undo()
    assert mind.text() == text
    assert np.array_equal(mind.view.tokens.uid, before.uid)


def test_undo_of_weaves_with_markers_all_the_way_back() -> None:
    ledger = Ledger()
    mind = fake_mind(budget=256, tail=8, journal=ledger)
    all_of(mind.listen("".join(f"line number {n}\n" for n in range(10)), Source.LOG))
    text = mind.text()
    weaves = 0
    for rows in range(mind.rows - 10, 60, -10):
        weaves += sum(isinstance(e, Edited) for e in mind.weave(rows))
    assert weaves >= 5
    for _ in range(weaves):
        mind.undo()
        assert_whole(mind)
    assert mind.text() == text
    assert_journal_tells_all(mind, ledger.records)


def test_an_undo_that_does_not_fit_changes_nothing_and_may_come_later() -> None:
    mind = _mind("a line of words, and so on. " * 8)
    all_of(mind.weave(80))
    all_of(mind.listen("more " * 30, fresh=False))
    view = mind.view
    with pytest.raises(NoRoom):
        mind.undo()
    assert mind.view is view
    mind.commit(delete(view, view.tokens.uid[-140:].tolist()))
    assert_whole(mind)


def test_redaction_cannot_be_undone_nor_what_was_before_it() -> None:
    ledger = Ledger()
    mind = _mind("my number is 4711, do not tell", journal=ledger)
    mind.commit(pin(mind.view, _run(mind, "my number is 4711")))
    uids = _run(mind, "4711")
    mind.redact(uids)
    assert ledger.redacted == uids
    assert "4711" not in mind.text()
    with pytest.raises(InvalidEdit):
        mind.undo()
    mind.commit(delete(mind.view, _run(mind, "tell")))
    mind.undo()
    with pytest.raises(InvalidEdit):
        mind.undo()
    assert "4711" not in mind.text()


def test_redaction_leaves_no_residue_in_any_later_row() -> None:
    mind = _mind("my number is 4711, do not tell")
    mind.redact(_run(mind, "4711"))
    fresh = FakeEngine(max_rows=256)
    fresh.rebuild(mind.view.tokens.token_id)
    assert mind.engine.kv.trace.tolist() == fresh.trace.tolist()  # type: ignore[attr-defined]


def test_redaction_forgets_even_when_the_last_step_fails() -> None:
    """Reading the logits afresh comes after the edit is done: its failure must not keep the secret."""

    class Failing(FakeEngine):
        broken = False

        def reread(self) -> Any:
            if self.broken:
                raise EngineFault("no logits")
            return super().reread()

    ledger, engine = Ledger(), Failing(max_rows=256)
    mind = _mind("my number is 4711, do not tell", engine=engine, journal=ledger)
    uids = _run(mind, "4711")
    engine.broken = True
    with contextlib.suppress(EngineFault):
        mind.redact(uids)
    engine.broken = False
    assert "4711" not in mind.text()
    assert ledger.redacted == uids
    with pytest.raises(InvalidEdit):
        mind.undo()


def test_an_undo_whose_last_step_fails_is_not_undone_again() -> None:
    class Failing(FakeEngine):
        broken = False

        def reread(self) -> Any:
            if self.broken:
                raise EngineFault("no logits")
            return super().reread()

    engine = Failing(max_rows=256)
    mind = _mind(engine=engine)
    before = mind.text()
    mind.commit(delete(mind.view, _run(mind, "mind")))
    engine.broken = True
    with contextlib.suppress(EngineFault):
        mind.undo()
    engine.broken = False
    assert mind.text() == before
    with pytest.raises(InvalidEdit):
        mind.undo()


def test_nothing_to_undo() -> None:
    mind = _mind()
    with pytest.raises(InvalidEdit):
        mind.undo()
    with pytest.raises(InvalidEdit):
        fake_mind().undo()


def test_an_undo_is_not_itself_undone() -> None:
    mind = _mind()
    mind.commit(delete(mind.view, _run(mind, "once ")))
    mind.commit(delete(mind.view, _run(mind, "time ")))
    mind.undo()
    mind.undo()
    with pytest.raises(InvalidEdit):
        mind.undo()
    mind.commit(delete(mind.view, _run(mind, "mind")))
    mind.undo()
    assert "a mind" in mind.text()


@given(data=st.data())
def test_any_edits_are_undone_one_by_one(data: st.DataObject) -> None:
    """Random edits, with reading in between: each undo gives back the text before its edit."""
    mind = _mind("the quick brown fox jumps over the lazy dog", budget=512)
    said: list[str] = []
    for number in range(data.draw(st.integers(1, 6), label="edits")):
        tokens = mind.view.tokens
        free = np.flatnonzero(tokens.source != Source.CONTROL)
        start = int(free[0]) + data.draw(st.integers(0, len(free) - 1))
        uids = tokens.uid[start : start + data.draw(st.integers(1, 6))].tolist()
        if len(uids) >= len(free):
            break
        said.append(mind.text())
        match data.draw(st.sampled_from(["delete", "substitute", "insert", "pin"])):
            case "delete":
                mind.commit(delete(mind.view, uids))
            case "substitute":
                mind.commit(substitute(mind.view, uids, list(b"ABCDEF"[: data.draw(st.integers(0, 6))])))
            case "insert":
                mind.commit(insert(mind.view, start, list(b"INS"), source=Source.USER, brightness=9.0))
            case _:
                mind.commit(pin(mind.view, uids))
        if data.draw(st.booleans(), label="read on"):
            more = f" ({number})"
            all_of(mind.listen(more, fresh=False))
            said = [s + more for s in said]
    for text in reversed(said):
        mind.undo()
        assert mind.text() == text
        assert_whole(mind)


# ---- edits made for an earlier revision --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["delete", "substitute", "insert", "pin"])
@pytest.mark.parametrize("meanwhile", ["read", "speak", "edit before", "edit after"])
def test_an_edit_made_earlier_is_carried_over_what_has_happened_since(kind: str, meanwhile: str) -> None:
    """A person edits while the model speaks: the everyday case."""
    mind = _mind("alpha beta gamma delta epsilon", says=None)
    view, uids = mind.view, _run(mind, "gamma")
    slot = int(view.tokens.slots_of(uids)[0])
    edit = {
        "delete": lambda: delete(view, uids),
        "substitute": lambda: substitute(view, uids, list(b"GAMMA!")),
        "insert": lambda: insert(view, slot, list(b"<here>"), source=Source.USER, brightness=9.0),
        "pin": lambda: pin(view, uids),
    }[kind]()
    match meanwhile:
        case "read":
            all_of(mind.listen(" zeta", fresh=False))
        case "speak":
            all_of(mind.reply(Sampling(seed=1), limit=5))
        case "edit before":
            mind.commit(substitute(mind.view, _run(mind, "alpha"), list(b"A")))
        case "edit after":
            mind.commit(substitute(mind.view, _run(mind, "epsilon"), list(b"and further on")))
    expected = mind.preview(edit)
    mind.commit(edit)
    assert np.array_equal(mind.view.tokens.token_id, expected.tokens.token_id)
    wanted = {"delete": "beta  delta", "substitute": "GAMMA!", "insert": "<here>gamma", "pin": "gamma"}
    assert wanted[kind] in mind.text()
    if kind == "pin":
        tokens = mind.view.tokens
        assert tokens.uid[tokens.pinned].tolist() == uids
    assert_whole(mind)


def test_two_edits_made_for_one_revision_both_apply() -> None:
    mind = _mind("alpha beta gamma delta epsilon")
    first = substitute(mind.view, _run(mind, "beta"), list(b"BETA"))
    second = substitute(mind.view, _run(mind, "delta"), list(b"DELTA"))
    mind.commit(first)
    mind.commit(second)
    assert "alpha BETA gamma DELTA epsilon" in mind.text()
    assert_whole(mind)


def test_an_edit_of_a_place_changed_since_is_a_conflict() -> None:
    mind = _mind("alpha beta gamma delta epsilon")
    first = substitute(mind.view, _run(mind, "beta"), list(b"BETA"))
    second = delete(mind.view, _run(mind, "ta gam"))
    mind.commit(first)
    view = mind.view
    with pytest.raises(EditConflict):
        mind.preview(second)
    with pytest.raises(EditConflict):
        mind.commit(second)
    assert mind.view is view


@pytest.mark.parametrize("base", [-1, 10**6])
def test_an_edit_for_a_revision_nobody_knows_is_a_conflict(base: int) -> None:
    mind = _mind()
    edit = delete(mind.view, _run(mind, "upon"))
    with pytest.raises(EditConflict):
        mind.commit(Edit(base, edit.tick, edit.reason, edit.surgery, edit.splices))


def test_an_edit_older_than_the_history_is_a_conflict_not_a_guess() -> None:
    mind = _mind()
    edit = delete(mind.view, _run(mind, "upon"))
    uids = _run(mind, "mind")
    for n in range(300):
        mind.commit(boost(mind.view, uids, float(n % 250)))
    with pytest.raises(EditConflict):
        mind.commit(edit)
    assert "upon" in mind.text()


def test_history_stays_small() -> None:
    mind = _mind()
    uids = _run(mind, "mind")
    for n in range(600):
        mind.commit(boost(mind.view, uids, float(n % 250)))
        mind.undo()
    history: Any = mind._context.history
    assert len(history._steps) <= 256
    held = [len(v) for v in vars(history).values() if hasattr(v, "__len__")]
    assert max(held) <= 600, "settled revisions are never forgotten"


def test_preview_changes_nothing_and_tells_the_truth() -> None:
    ledger = Ledger()
    mind = _mind(journal=ledger)
    view, written, rows = mind.view, len(ledger.records), mind.engine.kv.dump()
    for edit in (
        delete(view, _run(mind, "upon")),
        substitute(view, _run(mind, "upon"), list(b"twice")),
        insert(view, 20, list(b"xyz"), source=Source.USER, brightness=9.0),
        boost(view, _run(mind, "upon"), 3.0),
    ):
        shown = mind.preview(edit)
        assert mind.view is view
        assert len(ledger.records) == written
        assert same_image(mind.engine.kv.dump(), rows)
        other = _mind()
        other.commit(edit)
        assert other.view == shown, "the view a commit leaves is not the one that was shown"
    with pytest.raises(InvalidEdit):
        mind.undo()


# ---- History alone, against a slow list --------------------------------------------------------------


@given(data=st.data())
def test_forward_finds_the_same_tokens_by_uid(data: st.DataObject) -> None:
    """Whatever happened since, a carried deletion removes exactly the uids it was made for, or conflicts."""
    history, mirror = History(), Mirror()
    fresh = itertools.count()

    def append(n: int) -> None:
        view = mirror.view
        history.appended(view.revision, mirror.rows)
        ids = [next(fresh) % 50 for _ in range(n)]
        mirror.append(Tokens.make(ids, first_uid=view.next_uid, source=Source.USER))

    append(data.draw(st.integers(8, 20)))
    old = mirror.view
    start = data.draw(st.integers(0, len(old.tokens) - 2))
    uids = old.tokens.uid[start : start + data.draw(st.integers(1, 4))]
    stale = delete(old, uids.tolist())
    for _ in range(data.draw(st.integers(0, 6))):
        view = mirror.view
        if data.draw(st.booleans()) or len(view.tokens) < 3:
            append(data.draw(st.integers(1, 3)))
            continue
        at = data.draw(st.integers(0, len(view.tokens) - 1))
        stop = at + data.draw(st.integers(0, 2))
        born = Tokens.make([1] * data.draw(st.integers(0, 2)), first_uid=view.next_uid, source=Source.USER)
        edit = Edit(view.revision, view.tick, "x", Surgery.PATCH, (Splice(at, view.tokens[at:stop], born),))
        history.edited(edit, len(view.tokens))
        mirror.apply(edit)
    alive = np.isin(uids, mirror.view.tokens.uid)
    try:
        carried = history.forward(stale, mirror.view.revision)
        mirror.check(carried)
    except HaloError:
        return  # refusing is always safe; that it is not refused without need is tested above
    assert alive.all()
    left = carried.apply(mirror.view.tokens).uid.tolist()
    assert left == [u for u in mirror.view.tokens.uid.tolist() if u not in set(uids.tolist())]
