# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Settings, and what is built of them without a model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from fakes import ByteCodec, FakeEngine
from whole import all_of, assert_whole

from haloweave import build
from haloweave.engine.sampling import Sampling
from haloweave.errors import HaloError, InvalidInput
from haloweave.memory.brightness import Halo
from haloweave.memory.tokens import Source
from haloweave.settings import SYSTEM_PROMPT, Settings, settings


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No HALO_ variable and no .env of the machine the tests run on."""
    import os

    for name in [n for n in os.environ if n.upper().startswith("HALO_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


# ---- where they come from ----------------------------------------------------------------------------


def test_environment_then_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().budget == 512
    monkeypatch.setenv("HALO_BUDGET", "1024")
    monkeypatch.setenv("halo_policy", "tova")
    monkeypatch.setenv("BUDGET", "7")
    assert (settings().budget, settings().policy) == (1024, "tova")
    assert settings(budget=300, policy=None).budget == 300
    assert settings(budget=300, policy=None).policy == "tova"


def test_a_dotenv_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("HALO_BUDGET=700\nHALO_SEED=5\nOTHER=1\n")
    monkeypatch.setenv("HALO_SEED", "6")
    assert (settings().budget, settings().seed) == (700, 6)


def test_a_dotenv_file_that_is_no_text_is_a_typed_error() -> None:
    Path(".env").write_bytes(b"HALO_SYSTEM=\xff\xfe caf\xe9\n")
    with suppress(HaloError):
        settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings().budget = 3


WRONG = [
    ("budget", "0"),
    ("budget", "-1"),
    ("budget", "many"),
    ("budget", "1.5"),
    ("budget", ""),
    ("slack", "1"),
    ("slack", "nan"),
    ("slack", "-0.1"),
    ("chunk", "0"),
    ("kills_per_round", "-1"),
    ("sinks", "-1"),
    ("tail", "1.0"),
    ("tail", "nan"),
    ("lock", "nan"),
    ("lock", "inf"),
    ("lock", "-1"),
    ("policy", "brightest"),
    ("half_life", "-1"),
    ("half_life", "inf"),
    ("half_life", "nan"),
    ("smooth", "0"),
    ("smooth", "4"),
    ("run_bias", "nan"),
    ("entropy_bias", "-inf"),
    ("age_bias", "1e999"),
    ("temperature", "-1"),
    ("temperature", "nan"),
    ("top_k", "-1"),
    ("top_p", "0"),
    ("top_p", "1.1"),
    ("top_p", "nan"),
    ("min_p", "-0.1"),
    ("min_p", "nan"),
    ("repetition_penalty", "0"),
    ("repetition_penalty", "inf"),
    ("seed", "x"),
    ("limit", "0"),
    ("threads", "-1"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_bad_values_name_their_field(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=name):
        settings(**{name: value})
    monkeypatch.setenv(f"HALO_{name.upper()}", value)
    with pytest.raises(InvalidInput, match=name):
        settings()


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        settings(budget=0, top_p=7, policy="x")
    assert all(name in str(caught.value) for name in ("budget", "top_p", "policy"))


def test_a_setting_that_does_not_exist_is_not_swallowed() -> None:
    """Given in code or on a command line, a misspelt name is a mistake (law 11)."""
    with pytest.raises(InvalidInput, match="budgett"):
        settings(budgett=1024)


# ---- what is built of them ---------------------------------------------------------------------------


def _mind(**given: object) -> build.Mind:
    s = settings(**given)
    return build.assemble(s, FakeEngine(max_rows=s.budget, says="Yes."), ByteCodec())


@pytest.mark.parametrize("policy", sorted(build.POLICIES))
def test_every_policy_drives_a_mind(policy: str) -> None:
    mind = _mind(policy=policy, budget=160, chunk=16)
    for n in range(12):
        all_of(mind.listen(f"remark {n} of some length\n", (Source.USER, Source.LOG)[n % 2]))
        all_of(mind.reply(Sampling(temperature=0)))
        assert_whole(mind)


def test_policies_that_only_rank_lock_nothing() -> None:
    assert build.laws(settings(policy="halo")).lock == 250.0
    assert build.laws(settings(policy="window")).lock == float("inf")


def test_laws_and_rules_follow_the_settings() -> None:
    laws = build.laws(settings(budget=400, tail=0.5, sinks=2))
    assert (laws.tail, laws.sinks) == (200, 2)
    policy = build.brightness_policy(settings(half_life=99.0))
    assert isinstance(policy, Halo)
    assert {r.half_life for r in policy.rules.values()} == {99.0}
    assert build.cull_policy(settings(smooth=15, age_bias=0.5)).smooth == 15  # type: ignore[attr-defined]


def test_sampling_follows_the_settings() -> None:
    how = build.sampling(settings(temperature=0, seed=9, top_k=3), stop=("x",))
    assert (how.temperature, how.seed, how.top_k, how.stop) == (0, 9, 3, ("x",))


@pytest.mark.parametrize(
    "given",
    [
        {"budget": 80},
        {"budget": 64, "chunk": 64},
        {"budget": 200, "tail": 0.9},
        {"budget": 200, "sinks": 199},
        {"budget": 1, "chunk": 1, "sinks": 0, "tail": 0},
        {"budget": 2, "chunk": 1, "sinks": 4},
    ],
)
def test_budgets_too_small_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="budget"):
        _mind(**given)


@pytest.mark.parametrize("slack", [0.0, 0.999])
def test_any_slack_leaves_a_working_mind(slack: float) -> None:
    mind = _mind(budget=120, chunk=8, slack=slack)
    all_of(mind.listen("many words " * 60))
    all_of(mind.reply(Sampling(temperature=0)))
    assert_whole(mind)


# ---- the system turn ---------------------------------------------------------------------------------


def test_the_system_turn_is_read_and_pinned() -> None:
    mind = _mind(budget=1024)
    build.introduce(mind, settings(budget=1024))
    assert mind.text() == f"<|im_start|>system\n{SYSTEM_PROMPT}"
    tokens = mind.view.tokens
    assert tokens.pinned[tokens.source == Source.SYSTEM].all()
    all_of(mind.listen("words " * 400))
    assert SYSTEM_PROMPT in mind.text()


def test_a_system_prompt_that_would_fill_the_budget_is_refused() -> None:
    mind = _mind(budget=512)
    with pytest.raises(InvalidInput, match="budget"):
        build.introduce(mind, settings(budget=512, system="x" * 300))
    assert mind.rows == 0


def test_a_system_prompt_of_the_largest_size_leaves_a_working_mind() -> None:
    s = settings(budget=512, system="x" * (256 - 64 - 4))
    mind = build.assemble(s, FakeEngine(max_rows=512, says="Yes."), ByteCodec())
    build.introduce(mind, s)
    for _ in range(5):
        all_of(mind.listen("many words " * 60))
        all_of(mind.reply(Sampling(temperature=0)))
        assert_whole(mind)


@pytest.mark.parametrize("tail", [0.5, 0.7, 0.85])
def test_a_system_prompt_is_refused_if_nothing_could_be_culled_beside_it(tail: float) -> None:
    """Pinned prompt, sinks, tail and chunk must leave rows to cull, or the first long text is NoRoom."""
    s = settings(budget=512, chunk=16, tail=tail, system="x" * 230)
    mind = build.assemble(s, FakeEngine(max_rows=512, says="Yes."), ByteCodec())
    try:
        build.introduce(mind, s)
    except InvalidInput:
        return
    all_of(mind.listen("many words " * 100))
    assert_whole(mind)


def test_no_system_prompt() -> None:
    mind = _mind(budget=512)
    build.introduce(mind, settings(budget=512, system=""))
    assert mind.rows == 0


def test_a_model_without_a_template_takes_no_system_turn() -> None:
    s = settings(budget=512)
    mind = build.assemble(s, FakeEngine(max_rows=512), ByteCodec(chat=False))
    build.introduce(mind, s)
    assert mind.rows == 0


def test_fields_and_environment_have_the_same_names() -> None:
    assert Settings.model_config["env_prefix"] == "HALO_"
    assert all(name == name.lower() for name in Settings.model_fields)
