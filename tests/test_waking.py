# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A kept mind is woken by name, with its own settings or others, after a good night or a bad one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import ByteCodec, FakeEngine
from whole import all_of, assert_well_formed, assert_whole, say

from haloweave.build import assemble
from haloweave.cli import slash
from haloweave.engine.sampling import Sampling
from haloweave.errors import InvalidInput, JournalCorrupt, JournalFailed, MindLocked, ModelUnsupported, NoRoom
from haloweave.events import Recalled
from haloweave.look import find
from haloweave.memory.plan import delete
from haloweave.memory.tokens import Source
from haloweave.mind import Mind
from haloweave.waking import Awake, wake

HOW = Sampling(temperature=0.9, seed=3)
PLAIN = {"budget": 256, "chunk": 16, "embedder": "", "system": "You are a mind.", "sinks": 4, "lock": 256.0}


def fake(s: Any, journal: Any, vault: Any, progress: Any) -> tuple[Mind, Mapping[str, str]]:
    engine = FakeEngine(max_rows=s.budget, says=None)
    return assemble(s, engine, ByteCodec(), journal, vault), {"model": s.model, "dtype": s.dtype}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    return {**PLAIN, "minds": str(tmp_path)}


def up(given: Mapping[str, Any], **more: Any) -> Any:
    return wake("ada", {**given, **more}, make=fake)


@contextmanager
def cut_off(given: Mapping[str, Any], **more: Any) -> Iterator[Awake]:
    """Awake until the block ends, and then killed."""
    with suppress(_Killed), up(given, **more) as awake:
        yield awake
        awake.keeper.log._died(JournalFailed("killed"))
        raise _Killed


class _Killed(BaseException):
    pass


def test_a_new_mind_is_introduced_and_a_closed_one_comes_back_as_it_was(given: dict[str, Any]) -> None:
    with up(given) as awake:
        assert awake.resumed.how == "new"
        assert "You are a mind." in awake.mind.text()
        all_of(awake.mind.listen("my name is Ada"))
        all_of(awake.mind.reply(HOW, 8))
        before = awake.mind.view
    with up({"minds": given["minds"]}) as awake:
        assert awake.resumed.how == "snapshot"
        assert awake.settings.budget == 256
        assert awake.mind.view.tokens == before.tokens
        assert not awake.unfinished
        assert_whole(awake.mind)


def test_one_that_was_cut_off_in_mid_sentence_says_so(given: dict[str, Any]) -> None:
    with cut_off(given) as awake:
        all_of(awake.mind.listen("tell me all"))
        running = awake.mind.reply(HOW, 50)
        for _ in range(7):
            next(running)
        tokens = awake.mind.view.tokens
    with up(given) as awake:
        assert awake.resumed.how == "replayed"
        assert awake.unfinished
        assert awake.mind.view.tokens == tokens


def test_an_interrupted_reply_is_not_taken_up_again_by_itself(given: dict[str, Any]) -> None:
    with up(given) as awake:
        all_of(awake.mind.listen("tell me all"))
        next(awake.mind.reply(HOW, 50))
    with up(given) as awake:
        assert awake.mind.turn.role == "assistant"
        assert not awake.unfinished


def test_what_was_cut_off_before_it_had_begun_begins_anew(given: dict[str, Any], monkeypatch: Any) -> None:
    def half(mind: Mind, s: Any) -> None:
        next(mind.listen(s.system, Source.SYSTEM, pinned=True))
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr("haloweave.build.introduce", half)
        with pytest.raises(_Killed), up(given):
            pass
    with up(given) as awake:
        assert awake.resumed.how == "new"
        assert awake.mind.text().count("<|im_start|>") == 1
        assert_well_formed(awake.mind)


def test_a_mind_is_awake_once(given: dict[str, Any]) -> None:
    with up(given), pytest.raises(MindLocked, match="in use"), up(given):
        pass


def test_a_smaller_budget_is_woven_for(given: dict[str, Any]) -> None:
    with up(given) as awake:
        all_of(awake.mind.listen("words and words that say nothing much, one after the other " * 3))
        assert awake.mind.rows > 200
        keep = awake.mind.view.tokens.uid[:16].tolist()
    with up(given, budget=160, chunk=16) as awake:
        assert awake.mind.budget == 160
        assert 0 < awake.mind.rows <= 160
        assert set(keep) <= set(awake.mind.view.tokens.uid.tolist())
        assert_whole(awake.mind)
    with up({"minds": given["minds"]}) as awake:
        assert awake.settings.budget == 160


def test_a_budget_that_cannot_be_reached_changes_nothing(given: dict[str, Any]) -> None:
    with up(given) as awake:
        all_of(awake.mind.listen("words that are pinned, " * 8, pinned=True))
        before = awake.mind.view.tokens
    with pytest.raises(NoRoom), up(given, budget=100, tail=0.1):
        pass
    with up({"minds": given["minds"]}) as awake:
        assert awake.settings.budget == 256
        assert np.array_equal(awake.mind.view.tokens.uid, before.uid)


def test_cut_off_under_one_policy_and_woken_under_another(given: dict[str, Any]) -> None:
    """What is repeated is repeated under the settings that it was done with."""
    with cut_off(given, policy="halo") as awake:
        all_of(awake.mind.listen("first this, then that, and then something else again"))
        say(awake.mind, 20, HOW)
        before = awake.mind.view.tokens
    with up(given, policy="window") as awake:
        assert awake.resumed.how == "snapshot"
        assert awake.settings.policy == "window"
        assert awake.mind.view.tokens == before


def test_another_model_s_tokens_are_refused(given: dict[str, Any]) -> None:
    with up(given):
        pass

    def other(s: Any, journal: Any, vault: Any, progress: Any) -> tuple[Mind, Mapping[str, str]]:
        return assemble(s, FakeEngine(max_rows=256), ByteCodec(chat=False), journal, vault), {"model": "x"}

    with pytest.raises(ModelUnsupported, match="its own model"), wake("ada", given, make=other):
        pass
    with up(given) as awake:
        assert awake.resumed.how == "snapshot"


def test_an_imported_mind_does_not_choose_what_is_loaded(given: dict[str, Any]) -> None:
    with up(given, model="stranger/model") as awake:
        awake.keeper.log.put("foreign", "yes")
    with pytest.raises(InvalidInput, match="imported"), up(given):
        pass
    with up(given, model="stranger/model") as awake:
        assert awake.settings.model == "stranger/model"
    with up(given) as awake:
        assert awake.settings.model == "stranger/model"


def test_settings_that_cannot_be_read_are_told(given: dict[str, Any]) -> None:
    with up(given) as awake:
        awake.keeper.log.put("settings", "[1, 2")
    with pytest.raises(JournalCorrupt, match="settings"), up(given):
        pass


@pytest.mark.parametrize("name", ["", "..", "../x", ".hidden", "a/b", "x" * 65, "naïve", "a b", "a\n"])
def test_names_that_are_none(given: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidInput, match="name"), wake(name, given, make=fake):
        pass


def test_what_was_culled_comes_back_when_it_is_spoken_of(given: dict[str, Any]) -> None:
    with up(given, recall_strong=0.1) as awake:
        all_of(awake.mind.listen("The beekeeper of Lerwick is called Tamsin."))
        for n in range(12):
            all_of(awake.mind.listen(f"now for something else entirely, number {n}, and on it goes"))
        assert "Tamsin" not in awake.mind.text()
        assert awake.recaller is not None
        events = all_of(awake.recaller.hear(awake.mind, "Who is the beekeeper of Lerwick?"))
        assert any(isinstance(e, Recalled) and "Tamsin" in e.text for e in events)
        assert awake.mind.text().count("Tamsin") == 1
        memory = awake.mind.view.tokens.source == Source.MEMORY
        assert memory.any()
        assert_well_formed(awake.mind)
        again = all_of(awake.recaller.hear(awake.mind, "So who is the beekeeper of Lerwick?"))
        assert not any(isinstance(e, Recalled) for e in again)
    with up({"minds": given["minds"]}) as awake:
        assert awake.mind.text().count("Tamsin") == 1


def test_rows_that_nobody_wants_any_more_go(given: dict[str, Any]) -> None:
    with up(given, rows_quota=1) as awake:
        all_of(awake.mind.listen("words and words and words that will be culled " * 8))
        assert awake.keeper.rows is not None
        assert awake.keeper.rows.size() > 0
    with up(given, rows_quota=0):
        pass
    assert not list(Path(given["minds"]).rglob("rows.db*"))


def test_the_environment_comes_before_what_a_mind_has_kept(given: dict[str, Any], monkeypatch: Any) -> None:
    with up(given):
        pass
    monkeypatch.setenv("HALO_TEMPERATURE", "0.1")
    with up({"minds": given["minds"]}) as awake:
        assert awake.settings.temperature == 0.1
        assert awake.settings.budget == 256


def test_the_system_turn_is_nowhere_but_in_the_journal(given: dict[str, Any]) -> None:
    """So that a redaction of it reaches it."""
    with up(given, system="You know of quixotic things.") as awake:
        assert "quixotic" in awake.mind.text()
        uids = [uid for run in find(awake.mind.view, awake.mind.codec, "quixotic") for uid in run.uids]
        awake.mind.redact(uids)
    files = [f for f in Path(given["minds"]).rglob("*") if f.is_file()]
    assert not any(b"quixotic" in f.read_bytes() for f in files)


def test_a_text_of_which_a_part_was_culled_is_redacted_whole(given: dict[str, Any]) -> None:
    with up(given) as awake:
        mind = awake.mind
        all_of(mind.listen("the vault opens with quixotic-zanzibar, remember"))
        uids = [uid for run in find(mind.view, mind.codec, "quixotic-zanzibar") for uid in run.uids]
        mind.commit(delete(mind.view, uids[-5:]))
        slash._redact(mind, "quixotic-zanzibar", awake.keeper.log)
        assert "quixotic" not in mind.text()
    files = [f for f in Path(given["minds"]).rglob("*") if f.is_file()]
    assert not any(w in f.read_bytes() for f in files for w in (b"quixotic", b"zanz"))
