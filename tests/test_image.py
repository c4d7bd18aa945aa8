# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Rows outside of the cache, and back: an image brings every later number, to the last bit; saved rows come
back as they were; what does not fit changes nothing.

Knows the engine, the fake one, and the contract's way to invent edits. Must not know files or minds. Whether
restored rows are right beside others is the contract's to say (`test_engine.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from fakes import FakeEngine, same_image
from tiny_models import ARCHITECTURES, VOCAB

from haloweave.engine.contract import Words, invent, returning
from haloweave.engine.hf.engine import HFEngine
from haloweave.engine.reference import SlowReference
from haloweave.errors import CapacityExceeded, EngineFault, InvalidInput, ModelCorrupt
from haloweave.memory.edit import Edit, Surgery
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import delete
from haloweave.memory.rows import Image, SavedRows
from haloweave.memory.tokens import Source, Tokens, View

MOVABLE = [name for name in ARCHITECTURES if name != "gpt2"]
DTYPES = [torch.float32, torch.bfloat16]
BOUND = 1e-4

ENGINES: dict[str, Callable[[], Any]] = {
    "hf": lambda: engine_of("llama", 64),
    "fake": lambda: FakeEngine(max_rows=64),
}


def engine_of(name: str, capacity: int = 256, dtype: torch.dtype = torch.float32, **options: Any) -> HFEngine:
    return HFEngine(ARCHITECTURES[name](0).to(dtype), capacity=capacity, **options)


def ids_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, count)


def fed(engine: Any, ids: np.ndarray) -> Mirror:
    """A mirror of what the engine is made to hold."""
    engine.feed(ids)
    mirror = Mirror()
    mirror.append(Tokens.make(ids, first_uid=0, source=Source.USER))
    return mirror


# ---- images ------------------------------------------------------------------------------------------

STEPS: tuple[int | str | Surgery, ...] = (
    *(24, 1, 1, Surgery.DROP, 1, "reread", Surgery.PATCH, 8, Surgery.RESTORE, 1, 1),
    *(Surgery.RECOMPUTE, 1, Surgery.DROP, 5, "dump", Surgery.RESTORE, "reread", 1, "exact", 1, Surgery.DROP),
    *(Surgery.PATCH, "score", Surgery.RESTORE, 1, "rebuild", 1),
)


class Life:
    """The same steps for every engine, each from nothing but its number and what the mirror holds."""

    def __init__(self, engine: HFEngine, view: View | None = None, gone: Any = None) -> None:
        self.engine, self.mirror = engine, Mirror(view)
        self.gone: tuple[Tokens, SavedRows] | None = gone
        """What the newest DROP took out."""

    def step(self, number: int) -> list[np.ndarray]:
        """Numbers that the step gives."""
        what, rng = STEPS[number], np.random.default_rng(number)
        if isinstance(what, Surgery):
            self._edit(what, rng)
        elif what == "reread":
            return [self.engine.reread().logits]
        elif what == "rebuild":
            self.engine.rebuild(self.mirror.view.tokens.token_id)
        elif what == "exact":  # every row that an edit left different from a fresh prefill, and no other
            view = self.mirror.view
            self.engine.apply(Edit(view.revision, view.tick, "exact", Surgery.RECOMPUTE, ()))
        elif what == "dump":  # looking changes nothing
            return list(self.engine.dump().values())
        else:
            return self._feed(what if isinstance(what, int) else 6, rng, score=what == "score")
        return []

    def _feed(self, count: int, rng: np.random.Generator, score: bool) -> list[np.ndarray]:
        ids = rng.integers(0, VOCAB, count)
        out = self.engine.feed(ids, score=score)
        self.mirror.append(Tokens.make(ids, first_uid=self.mirror.view.next_uid, source=Source.USER))
        assert out.attention is not None
        seen = [out.attention.mass, out.attention.value_mass, out.attention.last]
        return [out.logits, *seen, *([] if out.logprobs is None else [out.logprobs])]

    def _edit(self, surgery: Surgery, rng: np.random.Generator) -> None:
        able = self.engine.capabilities.surgeries
        rows = None
        if surgery is Surgery.RESTORE:
            if surgery not in able:
                return
            assert self.gone is not None
            tokens, rows = self.gone
            edit = returning(self.mirror.view, tokens, rng)
        else:
            edit = invent(self.mirror.view, surgery, rng, Words(VOCAB, None, rng))
        if surgery is Surgery.DROP and surgery in able:
            tokens = Tokens.concat([s.old for s in edit.splices])
            slots = np.concatenate([np.arange(s.start, s.stop) for s in edit.splices])
            self.gone = tokens, self.engine.save(slots)
        edit = edit if surgery in able else replace(edit, surgery=Surgery.RECOMPUTE)
        self.engine.apply(edit, rows)
        self.mirror.apply(edit)


def same_numbers(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return same_image(dict(enumerate(a)), dict(enumerate(b)))  # type: ignore[arg-type]


def through_a_file(image: Image) -> Image:
    """As it comes back from disk: other memory, which may not be written to."""
    arrays: Image = safetensors.numpy.load(safetensors.numpy.save(dict(image)))
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_loaded_engine_goes_on_to_the_last_bit(name: str, dtype: torch.dtype) -> None:
    """Cut anywhere: from there on logits, attention, rows, and what is known of them, are those of the engine
    that went on."""
    one = Life(engine_of(name, 96, dtype, chunk=7))
    cuts, told = [], []
    for n in range(len(STEPS)):
        told.append((one.step(n), one.engine.dump()))
        cuts.append((one.mirror.view, one.gone, told[-1][1]))
    for at in range(0, len(STEPS) - 1, 2):
        view, gone, image = cuts[at]
        other = Life(engine_of(name, 96, dtype, chunk=7), view, gone)
        other.engine.load(through_a_file(image))
        assert same_image(other.engine.dump(), image)
        for n in range(at + 1, len(STEPS)):
            numbers, image = told[n]
            assert same_numbers(other.step(n), numbers), f"step {n} ({STEPS[n]}) after a cut at {at}"
            assert same_image(other.engine.dump(), image), f"step {n} ({STEPS[n]}) after a cut at {at}"


def test_a_life_has_rows_that_are_not_exact_and_says_so() -> None:
    """Or the test above would not show whether an image knows where to compute again from."""
    life, exact = Life(engine_of("llama", 96)), []
    for n in range(len(STEPS)):
        life.step(n)
        exact.append((STEPS[n], int(life.engine.dump()["exact"][0]), life.engine.rows))
    assert any(count < rows for what, count, rows in exact if what is Surgery.RESTORE)
    assert all(count == rows for what, count, rows in exact if what in ("exact", "rebuild"))


@pytest.mark.parametrize("rows", [32, 20])
def test_a_dump_is_a_copy(rows: int) -> None:
    """Also of a full arena of one head, whose rows have no gaps."""
    engine = engine_of("gemma3", 32)
    engine.feed(ids_of(rows))
    image, saved = engine.dump(), engine.save(np.arange(rows))
    before = {k: v.copy() for k, v in image.items()}, {k: v.copy() for k, v in saved.columns.items()}
    engine.rebuild(ids_of(rows, seed=1))
    assert same_image(image, before[0])
    assert same_image(saved.columns, before[1])
    assert not same_image(engine.dump(), image)


def test_loading_is_not_holding_on() -> None:
    """What was loaded is not the engine's to write to."""
    engine, other = engine_of("llama"), engine_of("llama")
    mirror = fed(engine, ids_of(12))
    image, saved = engine.dump(), engine.save([3, 4])
    before = {k: v.copy() for k, v in image.items()}, {k: v.copy() for k, v in saved.columns.items()}
    other.load(image)
    gone = delete(mirror.view, [3, 4])
    other.apply(gone)
    other.feed(ids_of(5))
    other.apply(replace(gone.inverse(), surgery=Surgery.RESTORE), saved)
    assert same_image(image, before[0])
    assert same_image(saved.columns, before[1])


def test_an_empty_cache_has_an_image_too() -> None:
    engine, other = engine_of("llama"), engine_of("llama")
    other.feed(ids_of(9))
    other.load(through_a_file(engine.dump()))
    assert other.rows == len(other.ids) == 0
    np.testing.assert_array_equal(other.feed([1, 2]).logits, engine.feed([1, 2]).logits)


Damage = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
DAMAGES: dict[str, Damage] = {
    "no ids": lambda i: {k: v for k, v in i.items() if k != "ids"},
    "no count of exact rows": lambda i: {k: v for k, v in i.items() if k != "exact"},
    "a layer less": lambda i: {k: v for k, v in i.items() if ".2." not in k},
    "a layer more": lambda i: {**i, "keys.3.float32": i["keys.2.float32"]},
    "no norms": lambda i: {k: v for k, v in i.items() if k != "norms.1.float32"},
    "another dtype": lambda i: {k.replace("float32", "bfloat16"): v for k, v in i.items()},
    "another dtype behind the name": lambda i: {**i, "values.0.float32": i["values.0.float32"].astype("f8")},
    "more heads": lambda i: {**i, "keys.1.float32": np.repeat(i["keys.1.float32"], 2, axis=0)},
    "another width": lambda i: {**i, "keys.1.float32": i["keys.1.float32"][:, :, :8]},
    "a row less in one layer": lambda i: {**i, "values.2.float32": i["values.2.float32"][:, :-1]},
    "an id less": lambda i: {**i, "ids": i["ids"][:-1]},
    "ids of another vocabulary": lambda i: {**i, "ids": i["ids"] + VOCAB},
    "ids below 0": lambda i: {**i, "ids": -1 - i["ids"]},
    "wide ids": lambda i: {**i, "ids": i["ids"].astype(np.int64)},
    "ids in two rows": lambda i: {**i, "ids": i["ids"].reshape(2, -1)},
    "more exact rows than rows": lambda i: {**i, "exact": i["exact"] + 1},
    "fewer than no exact rows": lambda i: {**i, "exact": i["exact"] * 0 - 1},
    "two counts": lambda i: {**i, "exact": np.repeat(i["exact"], 2)},
    "nothing": lambda i: {},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_image_that_does_not_fit_changes_nothing(damage: Damage) -> None:
    giver, engine = engine_of("llama"), engine_of("llama")
    giver.feed(ids_of(10))
    engine.feed(ids_of(7, seed=1))
    before = engine.dump()
    with pytest.raises(ModelCorrupt, match="prefill"):
        engine.load(damage(dict(giver.dump())))
    assert same_image(engine.dump(), before)
    engine.load(giver.dump())


def test_an_image_of_more_rows_than_the_arena_holds() -> None:
    giver, engine = engine_of("llama", 64), engine_of("llama", 32)
    giver.feed(ids_of(33))
    with pytest.raises(ModelCorrupt, match="up to 32"):
        engine.load(giver.dump())
    giver.rebuild(ids_of(32))
    engine.load(giver.dump())
    assert engine.rows == 32


# ---- saved rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MOVABLE)
def test_rows_that_leave_and_come_back_are_the_same(name: str, dtype: torch.dtype) -> None:
    """At once, where they were: keys but for the rounding of two turns, values and norms bit for bit."""
    engine = engine_of(name, 64, dtype)
    mirror = fed(engine, ids_of(40))
    before, slots = engine.dump(), np.array([0, 5, 6, 7, 20, 39])
    saved, gone = engine.save(slots), delete(mirror.view, slots.tolist())
    assert saved.positions.tolist() == slots.tolist()
    engine.apply(gone)
    engine.apply(replace(gone.inverse(), surgery=Surgery.RESTORE), saved)
    after = engine.dump()
    assert after["ids"].tolist() == before["ids"].tolist()
    assert after["exact"].tolist() == [0]
    for array, kept in before.items():
        if array.startswith("keys"):
            assert after[array].dtype == kept.dtype == np.float32
            assert np.abs(after[array] - kept).max() <= 1e-5
        elif array != "exact":
            assert after[array].tobytes() == kept.tobytes(), array


def test_restoring_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("llama")
    mirror = fed(engine, ids_of(20))
    saved, gone = engine.save([4, 5, 6]), delete(mirror.view, [4, 5, 6])
    engine.apply(gone)
    monkeypatch.setattr(engine._model, "forward", _out_of_memory)
    engine.apply(replace(gone.inverse(), surgery=Surgery.RESTORE), saved)
    assert engine.rows == 20
    with pytest.raises(EngineFault):
        engine.feed([1])


def test_what_follows_a_restored_row_is_not_exact_until_it_is_recomputed() -> None:
    engine = engine_of("llama")
    mirror = fed(engine, ids_of(30))
    saved, gone = engine.save([10, 11]), delete(mirror.view, [10, 11])
    engine.apply(gone)
    mirror.apply(gone)
    more = Tokens.make(ids_of(5, seed=1), first_uid=mirror.view.next_uid, source=Source.USER)
    engine.feed(more.token_id)
    mirror.append(more)
    back = returning(mirror.view, Tokens.concat([s.old for s in gone.splices]), np.random.default_rng(0))
    engine.apply(back, saved)
    mirror.apply(back)
    assert back.first is not None
    assert engine.dump()["exact"].tolist() == [min(10, back.first)]
    engine.apply(Edit(mirror.view.revision, 0, "exact", Surgery.RECOMPUTE, ()))
    ids = mirror.view.tokens.token_id.tolist()
    want = SlowReference.fresh(ARCHITECTURES["llama"](0), [*ids, 7]).numpy()
    assert float(np.abs(engine.feed([7]).logits - want).max()) <= BOUND


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_any_engine_restores_saved_rows(make: Callable[[], Any]) -> None:
    engine, other = make(), make()
    mirror = fed(engine, ids_of(20))
    image, saved, gone = engine.dump(), engine.save([2, 3, 9]), delete(mirror.view, [2, 3, 9])
    back = replace(gone.inverse(), surgery=Surgery.RESTORE)
    engine.apply(gone)
    engine.apply(back, SavedRows.concat([saved.take([0]), saved.take([1, 2])]))
    other.load(image)
    assert engine.ids.tolist() == other.ids.tolist()
    np.testing.assert_allclose(engine.feed([5]).logits, other.feed([5]).logits, atol=1e-5)
    for bad in ([20], [-1]):
        with pytest.raises(InvalidInput, match="slots"):
            make().save(bad)


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize(
    "wrong",
    ["none", "one less", "one more", "a column less", "another surgery", "too many rows"],
)
def test_rows_that_are_not_those_of_the_births_change_nothing(make: Callable[[], Any], wrong: str) -> None:
    engine = make()
    mirror = fed(engine, ids_of(20))
    saved, gone = engine.save([2, 3, 9]), delete(mirror.view, [2, 3, 9])
    back, rows, expected = replace(gone.inverse(), surgery=Surgery.RESTORE), saved, InvalidInput
    engine.apply(gone)
    mirror.apply(gone)
    if wrong == "none":
        rows = None
    elif wrong == "one less":
        rows = saved.take([0, 1])
    elif wrong == "one more":
        rows = saved.take([0, 1, 2, 2])
    elif wrong == "a column less":
        rows = SavedRows(saved.positions, dict(list(saved.columns.items())[1:]))
    elif wrong == "another surgery":
        back = replace(back, surgery=Surgery.PATCH)
    else:
        engine.feed(ids_of(47))
        expected = CapacityExceeded
    before = engine.dump()
    with pytest.raises(expected):
        engine.apply(back, rows)
    assert same_image(engine.dump(), before)


@pytest.mark.parametrize("part", ["keys", "values", "norms", "positions"])
def test_saved_rows_of_another_shape_change_nothing(part: str) -> None:
    engine = engine_of("llama")
    mirror = fed(engine, ids_of(20))
    saved, gone = engine.save([2, 3, 9]), delete(mirror.view, [2, 3, 9])
    engine.apply(gone)
    before = engine.dump()
    odd = {k: v[:, :1] if k.startswith(part) else v for k, v in saved.columns.items()}
    rows = SavedRows(saved.positions[:2] if part == "positions" else saved.positions, odd)
    with pytest.raises(InvalidInput, match="saved rows"):
        engine.apply(replace(gone.inverse(), surgery=Surgery.RESTORE), rows)
    assert same_image(engine.dump(), before)


def test_a_restoration_without_births_is_a_drop() -> None:
    one, other = engine_of("llama"), engine_of("llama")
    mirror = fed(one, ids_of(20))
    other.feed(ids_of(20))
    gone = delete(mirror.view, [2, 3, 9])
    one.apply(gone)
    other.apply(replace(gone, surgery=Surgery.RESTORE))
    assert same_image(one.dump(), other.dump())


def _out_of_memory(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("out of memory")
