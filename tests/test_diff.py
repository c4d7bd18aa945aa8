# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Heat map in, diff out, against an obvious reference; windows, joints and every bad input."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import FrozenInstanceError, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haloweave.errors import InvalidInput
from haloweave.repair.base import Proposal, RepairWindow
from haloweave.repair.diff import Change, applied, repair

DOC = Path(__file__).parents[1] / "docs" / "repair.md"

Rule = Callable[[int, int], Sequence[int] | None]
"""Uid and id of a token to what it becomes, or None."""


@dataclass
class ByToken:
    """Proposes for each unlocked token whatever a rule says; keeps the windows it was shown."""

    rule: Rule
    gain: Callable[[int], float] = lambda uid: 1.0
    shown: list[list[RepairWindow]] = field(default_factory=list)

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        self.shown.append(list(windows))
        made = []
        for w in windows:
            for uid, token, heat in zip(w.uid.tolist(), w.token_id.tolist(), w.heat.tolist(), strict=True):
                new = self.rule(uid, token) if heat > 0 else None
                if new is not None:
                    made.append(proposal([uid], new, self.gain(uid)))
        return tuple(made)


@dataclass
class Fixed:
    """Proposes these, once."""

    proposals: Sequence[Proposal]
    asked: int = 0

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        self.asked += 1
        return tuple(self.proposals)


def proposal(uid: Sequence[int], new: Sequence[int], gain: float = 1.0) -> Proposal:
    return Proposal(np.array(uid, np.int64), np.array(new, np.int32), gain)


def told(changes: Sequence[Change]) -> list[tuple[int, int, int | None]]:
    return [(c.index, c.old_id, c.new_id) for c in changes]


HOT = [1.0] * 6
IDS = [10, 11, 12, 13, 14, 15]


# ---- what a diff says --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "new", "diff"),
    [
        ([2], [9], [(2, 12, 9)]),
        ([2], [], [(2, 12, None)]),
        ([1, 2, 3], [8, 9], [(1, 11, 8), (2, 12, 9), (3, 13, None)]),
        ([1, 2, 3], [8, 9, 7], [(1, 11, 8), (2, 12, 9), (3, 13, 7)]),
        ([1, 2, 3], [11, 9, 13], [(2, 12, 9)]),
        ([1, 2, 3], [11, 13], [(2, 12, None)]),
        ([1, 2, 3], [13], [(1, 11, None), (2, 12, None)]),
        ([1, 2, 3], [11], [(2, 12, None), (3, 13, None)]),
        ([1, 2, 3], [], [(1, 11, None), (2, 12, None), (3, 13, None)]),
        ([1, 2, 3], [11, 12, 13], []),
        ([0, 1, 2, 3, 4, 5], [], [(i, 10 + i, None) for i in range(6)]),
    ],
)
def test_a_run_becomes_substitutions_and_removals(uid: list[int], new: list[int], diff: list[Any]) -> None:
    changes = repair(IDS, HOT, Fixed([proposal(uid, new, 3.0)]))
    assert told(changes) == diff
    expected = IDS[: uid[0]] + new + IDS[uid[-1] + 1 :]
    assert applied(IDS, changes).tolist() == expected
    assert sum(c.gain for c in changes) == pytest.approx(3.0 if diff else 0.0)


def test_a_change_tells_its_heat_and_is_frozen() -> None:
    (change,) = repair(IDS, [0.3, 0.4, 0.75, 0.4, 0.4, 0.4], Fixed([proposal([2], [9], 1.5)]))
    assert change == Change(index=2, old_id=12, new_id=9, heat=0.75, gain=1.5)
    with pytest.raises(FrozenInstanceError):
        change.index = 3  # type: ignore[misc]


def test_the_greater_gain_wins_then_the_earlier() -> None:
    offered = [proposal([2, 3], [7, 7], 1.0), proposal([3, 4], [8, 8], 2.0), proposal([0, 1], [9, 9], 2.0)]
    assert told(repair(IDS, HOT, Fixed(offered))) == [(0, 10, 9), (1, 11, 9), (3, 13, 8), (4, 14, 8)]
    tied = [proposal([3, 4], [8, 8]), proposal([2, 3], [7, 7])]
    assert told(repair(IDS, HOT, Fixed(tied))) == [(2, 12, 7), (3, 13, 7)]


def test_nothing_to_do() -> None:
    nobody = Fixed([])
    assert repair([], [], nobody) == ()
    assert repair(IDS, [0.0] * 6, nobody) == ()
    assert repair(IDS, [0.2] * 6, nobody) == ()
    assert nobody.asked == 0, "a text that is all locked is nobody's business"
    assert repair(IDS, HOT, nobody) == ()
    assert applied(IDS, ()).tolist() == IDS
    assert applied([], ()).tolist() == []


# ---- locks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", [n / 20 for n in range(21)])
def test_brightness_from_the_lock_on_is_locked(lock: float) -> None:
    heat = [0.0, max(1 - lock - 0.01, 0.0), 1 - lock, min(1 - lock + 0.01, 1.0), 1.0]
    seen = ByToken(lambda uid, token: None)
    repair(range(5), heat, seen, lock=lock)
    shown = seen.shown[0][0].heat.tolist() if seen.shown else [0.0] * 5
    assert [h > 0 for h in shown] == [h > 1 - lock for h in heat]


def test_locked_tokens_are_shown_cold() -> None:
    seen = ByToken(lambda uid, token: None)
    repair(IDS, [1.0, 0.5, 0.2, 0.1, 0.9, 0.0], seen)
    np.testing.assert_array_equal(seen.shown[0][0].heat, np.array([1, 0.5, 0, 0, 0.9, 0], np.float32))


# ---- against an obvious reference --------------------------------------------------------------------


def reference(
    ids: list[int], heat: list[float], rule: Rule, lock: float
) -> list[tuple[int, int, int | None]]:
    """A rule that looks at one token needs no windows."""
    found: list[tuple[int, int, int | None]] = []
    for i, (token, h) in enumerate(zip(ids, heat, strict=True)):
        new = rule(i, token) if np.float32(h) > np.float32(1 - lock) else None
        if new is not None and list(new) != [token]:
            found.append((i, token, new[0] if new else None))
    return found


def odd(uid: int, token: int) -> Sequence[int] | None:
    return None if token % 3 == 0 else [] if token % 3 == 1 else [token * 2]


@given(
    text=st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1, width=32)), max_size=90),
    lock=st.floats(0, 1),
    sizes=st.tuples(st.integers(1, 40), st.integers(0, 12)),
)
def test_windows_change_nothing_for_a_rule_without_context(
    text: list[tuple[int, float]], lock: float, sizes: tuple[int, int]
) -> None:
    ids, heat = [i for i, _ in text], [h for _, h in text]
    window, overlap = sizes[0] + 2 * sizes[1], sizes[1]
    repairer = ByToken(odd)
    changes = repair(ids, heat, repairer, lock=lock, window=window, overlap=overlap)
    assert told(changes) == reference(ids, heat, odd, lock)
    assert changes == repair(ids, heat, ByToken(odd), lock=lock, window=window, overlap=overlap)
    assert len(applied(ids, changes)) <= len(ids)
    open_in = [uid for batch in repairer.shown for w in batch for uid in w.uid[w.heat > 0].tolist()]
    assert len(open_in) == len(set(open_in)), "a token is open in one window only"
    assert all(len(w) <= window for batch in repairer.shown for w in batch)


@st.composite
def proposals(draw: st.DrawFn, size: int) -> list[Proposal]:
    made = []
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, size - 1))
        run = draw(st.integers(1, min(4, size - start)))
        new = draw(st.lists(st.integers(0, 5), max_size=run))
        made.append(proposal(range(start, start + run), new, float(draw(st.integers(-3, 3)))))
    return made


@given(data=st.data(), ids=st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_any_runs_against_a_slow_reference(data: st.DataObject, ids: list[int]) -> None:
    offered = data.draw(proposals(len(ids)))
    changes = repair(ids, [1.0] * len(ids), Fixed(offered))
    pieces: list[list[int]] = [[i] for i in ids]
    taken: set[int] = set()
    for p in sorted(offered, key=lambda p: (-p.gain, p.uid[0])):
        run = set(p.uid.tolist())
        if not run & taken:
            taken |= run
            for i in run:
                pieces[i] = []
            pieces[min(run)] = p.new_ids.tolist()
    assert applied(ids, changes).tolist() == [i for piece in pieces for i in piece]
    assert all(c.new_id != c.old_id for c in changes)
    assert [c.index for c in changes] == sorted({c.index for c in changes})


# ---- windows -----------------------------------------------------------------------------------------


def test_a_long_text_is_cut_where_nothing_changes() -> None:
    heat = np.ones(400, np.float32)
    heat[90:92] = heat[170:172] = heat[240:242] = 0
    seen = ByToken(lambda uid, token: None)
    repair(np.arange(400), heat, seen, window=128, overlap=16)
    cores = sorted(
        (int(w.uid[w.heat > 0].min()), int(w.uid[w.heat > 0].max())) for batch in seen.shown for w in batch
    )
    assert cores[:3] == [(0, 89), (92, 169), (172, 239)]


def test_context_surrounds_every_core() -> None:
    seen = ByToken(lambda uid, token: None)
    repair(np.arange(300), np.ones(300), seen, window=60, overlap=10)
    for w in (w for batch in seen.shown for w in batch):
        hot = np.flatnonzero(w.heat > 0)
        assert hot[0] == min(10, int(w.uid[hot[0]]))
        assert len(w) - 1 - hot[-1] == min(10, 299 - int(w.uid[hot[-1]]))
        assert np.diff(w.uid).tolist() == [1] * (len(w) - 1)
    assert [len(batch) for batch in seen.shown] == [4, 4], "two batches: every other core first"


def test_the_second_batch_sees_what_the_first_changed() -> None:
    repairer = ByToken(lambda uid, token: [99] if uid < 40 else [] if uid < 80 else None)
    repair(np.arange(120), np.ones(120), repairer, window=60, overlap=10)
    second = {int(w.uid[w.heat > 0][0]): w for w in repairer.shown[1]}
    assert second[40].token_id[:10].tolist() == [99] * 10
    assert 80 not in second
    third = next(w for w in repairer.shown[0] if w.uid[w.heat > 0][0] == 80)
    assert third.token_id[:10].tolist() == list(range(70, 80)), "asked beside the first, not after the second"


def test_context_skips_what_is_gone() -> None:
    repairer = ByToken(lambda uid, token: [] if 35 <= uid < 40 else None)
    repair(np.arange(120), np.ones(120), repairer, window=60, overlap=10)
    second = repairer.shown[1][0]
    assert second.uid[:11].tolist() == [*range(25, 35), 40]


def test_windows_without_heat_are_not_asked_about() -> None:
    heat = np.zeros(1000)
    heat[500] = 1
    seen = ByToken(lambda uid, token: [1])
    changes = repair(np.arange(1000), heat, seen)
    assert sum(len(batch) for batch in seen.shown) == 1
    assert told(changes) == [(500, 500, 1)]


def test_the_work_grows_with_the_text_and_no_faster() -> None:
    def shown(size: int) -> int:
        seen = ByToken(lambda uid, token: None)
        repair(np.zeros(size, np.int32), np.ones(size), seen)
        return sum(len(w) for batch in seen.shown for w in batch)

    assert shown(40_000) / shown(10_000) == pytest.approx(4, rel=0.02)


# ---- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "heat", "options", "says"),
    [
        (IDS, [1.0] * 5, {}, "expected 6 values"),
        (IDS, [], {}, "expected 6 values"),
        (IDS, [[1.0]] * 6, {}, "expected 6 values"),
        (IDS, [1.0] * 5 + [np.nan], {}, "within 0..1"),
        (IDS, [1.0] * 5 + [1.01], {}, "within 0..1"),
        (IDS, [1.0] * 5 + [-0.01], {}, "within 0..1"),
        (IDS, [1.0] * 5 + [np.inf], {}, "within 0..1"),
        (IDS, ["hot"] * 6, {}, "numbers within 0..1"),
        ([0.5, 1.5], [1.0, 1.0], {}, "whole numbers"),
        ([[1, 2]], [1.0, 1.0], {}, "whole numbers"),
        ([[1], [2, 3]], [1.0, 1.0], {}, "whole numbers"),
        ([-1, 2], [1.0, 1.0], {}, "whole numbers"),
        ([2**31, 2], [1.0, 1.0], {}, "whole numbers"),
        (IDS, HOT, {"lock": 1.1}, "lock"),
        (IDS, HOT, {"lock": -0.1}, "lock"),
        (IDS, HOT, {"lock": float("nan")}, "lock"),
        (IDS, HOT, {"window": 0}, "window"),
        (IDS, HOT, {"window": -5}, "window"),
        (IDS, HOT, {"window": 10, "overlap": 5}, "window"),
        (IDS, HOT, {"overlap": -1}, "window"),
    ],
)
def test_bad_input_is_refused(ids: Any, heat: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(says)):
        repair(ids, heat, Fixed([]), **options)


@pytest.mark.parametrize(
    "offered",
    [
        proposal([], []),
        proposal([6], [1]),
        proposal([1, 3], [1]),
        proposal([2, 1], [1]),
        proposal([0], [1]),
        proposal([0, 1], [7]),
        proposal([4, 5], [1]),
        proposal([2], [1, 2]),
        proposal([2], [1], float("nan")),
        proposal([2], [1], float("inf")),
        proposal([2], [-1]),
    ],
)
def test_a_repairer_that_breaks_its_contract_is_told_so(offered: Proposal) -> None:
    heat = [0.0, 1.0, 1.0, 1.0, 1.0, 0.1]
    with pytest.raises(InvalidInput, match="wrap it in guard"):
        repair(IDS, heat, Fixed([offered]))


def test_applied_refuses_a_diff_of_another_text() -> None:
    for change in (Change(2, 13, 9, 1, 1), Change(6, 12, 9, 1, 1), Change(-1, 15, None, 1, 1)):
        with pytest.raises(InvalidInput, match=f"change at {change.index}"):
            applied(IDS, [change])
    gone = Change(2, 12, None, 1, 1)
    with pytest.raises(InvalidInput, match="change at 2"):
        applied(IDS, [gone, gone])


# ---- the page ----------------------------------------------------------------------------------------


def test_the_toy_repairer_of_the_page_does_what_the_page_says() -> None:
    section = DOC.read_text(encoding="utf-8").split("## Plug in a repairer")[1]
    (toy,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (said,) = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
    assert len([line for line in toy.splitlines() if line.strip()]) <= 22
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(toy, str(DOC), "exec"), {"__name__": "toy"})
    assert printed.getvalue() == said
