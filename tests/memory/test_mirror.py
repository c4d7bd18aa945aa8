# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The mirror: identity, revision and tick under any sequence of changes; an illegal call changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memory_strategies import edits, rows_of, text, tokens_of, view_of

from haloweave.errors import EditConflict, HaloError, InvalidEdit, InvalidInput
from haloweave.memory.edit import Edit, Splice, Surgery
from haloweave.memory.mirror import Mirror
from haloweave.memory.tokens import COLUMNS, FULL, Source, Tokens


class MirrorMachine(RuleBasedStateMachine):
    """Append, edit, undo and shine in any order, beside a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.mirror = Mirror()
        self.list: list = []
        self.revision = self.tick = 0
        self.ever: dict[int, int] = {}
        self.undo: list[tuple[Edit, list]] = []

    @rule(ids=st.lists(st.integers(0, 12), min_size=1, max_size=4))
    def append(self, ids: list[int]) -> None:
        v = self.mirror.view
        fed = Tokens.make(ids, first_uid=v.next_uid, source=Source.MODEL, tick=v.tick)
        self.mirror.append(fed)
        self.list = self.list + rows_of(fed)
        self.undo.clear()
        self.revision += 1
        self.tick += 1

    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        edit = data.draw(edits(self.mirror.view))
        before = self.list
        self.mirror.apply(edit)
        self.list = rows_of(edit.apply(tokens_of(before)))
        self.undo.append((edit.inverse(), before))
        self.revision += 1

    @precondition(lambda self: self.undo)
    @rule()
    def take_back(self) -> None:
        undo, self.list = self.undo.pop()
        self.mirror.apply(undo.shifted(self.revision))
        self.revision += 1

    @rule(data=st.data())
    def shine(self, data: st.DataObject) -> None:
        light = [data.draw(st.sampled_from([0.0, 7.5, FULL])) for _ in self.list]
        self.mirror.shine(np.array(light, np.float32))
        self.list = [r._replace(brightness=b) for r, b in zip(self.list, light, strict=True)]
        self.undo.clear()

    @rule(data=st.data())
    def illegal(self, data: st.DataObject) -> None:
        before = self.mirror.view
        v = before
        acts = [
            lambda: self.mirror.append(Tokens.empty()),
            lambda: self.mirror.append(Tokens.make([1], first_uid=v.next_uid + 1, source=Source.MODEL)),
            lambda: self.mirror.append(Tokens.make([1, 2], first_uid=v.next_uid - 1, source=Source.MODEL)),
            lambda: self.mirror.shine(np.zeros(len(self.list) + 1, np.float32)),
            lambda: self.mirror.apply(Edit(v.revision + 1, 0, "", Surgery.DROP, ())),
            lambda: self.mirror.apply(Edit(v.revision - 1, 0, "", Surgery.DROP, ())),
            lambda: self.mirror.apply(
                Edit(
                    v.revision,
                    0,
                    "",
                    Surgery.PATCH,
                    (Splice(len(self.list), tokens_of(text(1)), Tokens.empty()),),
                )
            ),
        ]
        with pytest.raises(HaloError):
            data.draw(st.sampled_from(acts))()
        assert self.mirror.view is before

    @invariant()
    def equals_the_list(self) -> None:
        v = self.mirror.view
        assert rows_of(v.tokens) == self.list
        assert (v.revision, v.tick, self.mirror.rows) == (self.revision, self.tick, len(self.list))

    @invariant()
    def identity_is_for_ever(self) -> None:
        v = self.mirror.view
        uids = v.tokens.uid.tolist()
        assert len(set(uids)) == len(uids)
        assert all(0 <= u < v.next_uid for u in uids)
        for row in rows_of(v.tokens):
            assert self.ever.setdefault(row.uid, row.token_id) == row.token_id
        assert v.next_uid >= len(self.ever)

    @invariant()
    def arrays_are_read_only(self) -> None:
        assert not any(getattr(self.mirror.view.tokens, n).flags.writeable for n in COLUMNS)


TestMirror = MirrorMachine.TestCase


def test_a_mirror_starts_empty() -> None:
    v = Mirror().view
    assert (len(v.tokens), v.revision, v.tick, v.next_uid) == (0, 0, 0, 0)


def test_an_undone_birth_leaves_its_uid_used() -> None:
    mirror = Mirror(view_of(text(3)))
    birth = Edit(
        5,
        0,
        "insert",
        Surgery.PATCH,
        (Splice(1, Tokens.empty(), Tokens.make([9], first_uid=3, source=Source.USER)),),
    )
    mirror.apply(birth)
    mirror.apply(birth.inverse())
    assert mirror.view.next_uid == 4
    with pytest.raises(InvalidEdit):
        mirror.append(Tokens.make([9], first_uid=3, source=Source.USER))


@pytest.mark.parametrize("base", [4, 6])
def test_an_edit_for_another_revision_conflicts(base: int) -> None:
    mirror = Mirror(view_of(text(3)))
    before = mirror.view
    with pytest.raises(EditConflict, match="5"):
        mirror.apply(Edit(base, 0, "", Surgery.DROP, ()))
    assert mirror.view is before


def test_check_changes_nothing() -> None:
    mirror = Mirror(view_of(text(3)))
    before = mirror.view
    edit = Edit(5, 0, "", Surgery.DROP, (Splice(0, before.tokens[:1], Tokens.empty()),))
    assert len(mirror.check(edit)) == 2
    assert mirror.view is before


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -0.5, 255.5])
def test_shine_refuses_what_is_no_brightness(bad: float) -> None:
    mirror = Mirror(view_of(text(3)))
    before = mirror.view
    with pytest.raises(InvalidInput, match="brightness"):
        mirror.shine(np.array([0, bad, 255], np.float32))
    assert mirror.view is before


def test_shine_keeps_no_hold_on_the_callers_array() -> None:
    mirror = Mirror(view_of(text(3)))
    light = np.array([1, 2, 3], np.float32)
    mirror.shine(light)
    light[0] = 99
    assert mirror.view.tokens.brightness.tolist() == [1, 2, 3]
    assert mirror.view.revision == 5


@pytest.mark.parametrize("bad", [float("nan"), -1.0, 256.0])
def test_no_edit_brings_in_an_impossible_brightness(bad: float) -> None:
    mirror = Mirror(view_of(text(3)))
    before = mirror.view
    new = before.tokens[:1].replace(brightness=np.array([bad], np.float32))
    with pytest.raises(InvalidInput):
        mirror.apply(Edit(5, 0, "", Surgery.DROP, (Splice(0, before.tokens[:1], new),)))
    assert mirror.view is before
