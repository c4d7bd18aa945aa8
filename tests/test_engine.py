# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The engine against the slow reference, on tiny random models of every architecture, and on SmolLM2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, VOCAB

from haloweave.engine.contract import (
    Difference,
    Verdict,
    Words,
    examine,
    examining,
    invent,
    returning,
    verdicts,
)
from haloweave.engine.hf import engine as hf_engine
from haloweave.engine.hf.engine import HFEngine
from haloweave.engine.reference import SlowReference
from haloweave.errors import (
    CapacityExceeded,
    EngineFault,
    InvalidInput,
    ModelUnsupported,
    SurgeryUnsupported,
)
from haloweave.memory.edit import Edit, Splice, Surgery
from haloweave.memory.mirror import Mirror
from haloweave.memory.plan import delete
from haloweave.memory.rows import Image
from haloweave.memory.tokens import Source, Tokens

MOVABLE = [name for name in ARCHITECTURES if name != "gpt2"]
BOUND = 1e-4


def engine_of(name: str, capacity: int = 256, **options: Any) -> HFEngine:
    return HFEngine(ARCHITECTURES[name](0), capacity=capacity, **options)


def surgeries_of(name: str) -> set[Surgery]:
    return {Surgery.RECOMPUTE} if name == "gpt2" else set(Surgery)


def ids_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, count)


def check(told: list[Verdict], surgeries: set[Surgery]) -> None:
    for v in told:
        assert v.supported == (v.surgery in surgeries)
        assert v.within(BOUND), v
        assert not v.supported or v.edits > 0, v


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_contract(name: str) -> None:
    check(examine(engine_of(name), ARCHITECTURES[name](0), sequences=50), surgeries_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_contract_of_200_sequences(name: str) -> None:
    check(examine(engine_of(name), ARCHITECTURES[name](0), sequences=200, seed=1), surgeries_of(name))


def test_contract_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are moved but not turned must be found out, or the contract proves nothing."""
    engine = engine_of("llama")
    monkeypatch.setattr(engine._rotation.__class__, "_turn", lambda self, cos, sin, keys: None)
    assert not all(v.ok(BOUND) for v in examine(engine, ARCHITECTURES["llama"](0), sequences=3))


@pytest.mark.parametrize(("dtype", "small"), [(torch.float32, 1e-4), (torch.float64, 5e-6)])
def test_the_contract_tells_what_the_dtype_itself_costs(dtype: torch.dtype, small: float) -> None:
    """A judge in another dtype than float64 would itself be the difference."""
    model = ARCHITECTURES["llama"](0).to(dtype)
    seen = list(examining(HFEngine(model, capacity=256), model, sequences=6))
    assert all(d.logits < small and d.keys < small and d.values < small for d in seen)
    assert all(0 < d.stock < 1e-4 if dtype == torch.float32 else d.stock == 0 for d in seen)


def test_numbers_that_are_none_are_never_exact() -> None:
    engine = engine_of("llama", 8)
    fine = Difference(Surgery.DROP, 1e-6, 1e-6, 1e-6, 1e-6)
    for wrong in ({"logits": np.nan}, {"keys": np.nan}, {"values": np.nan}, {"logits": 1.0, "stock": np.inf}):
        for seen in ([fine, replace(fine, **wrong)], [replace(fine, **wrong), fine]):
            drop = next(v for v in verdicts(engine, seen) if v.surgery is Surgery.DROP)
            assert not drop.within(BOUND)
            assert not drop.ok(BOUND)


@pytest.mark.parametrize(("stock", "ok"), [(2e-4, True), (0.9e-4, False), (0.0, False)])
def test_only_what_the_stock_model_cannot_tell_either_is_rounding(stock: float, ok: bool) -> None:
    """Edit by edit: that another edit was hard excuses none."""
    engine = engine_of("llama", 8)
    seen = [Difference(Surgery.DROP, 2e-4, 0.0, 0.0, stock), Difference(Surgery.DROP, 1e-6, 0.0, 0.0, 1e-2)]
    drop = next(v for v in verdicts(engine, seen) if v.surgery is Surgery.DROP)
    assert (drop.within(BOUND), drop.ok(BOUND)) == (False, ok)
    assert drop.logits == 2e-4
    rows = [replace(seen[0], stock=1.0, keys=1e-3), replace(seen[0], stock=1.0, values=1e-3)]
    assert not any(v.ok(BOUND) for row in rows for v in verdicts(engine, [row]) if v.edits)


@pytest.mark.parametrize("name", ["gpt2", "interleaved"])
def test_contract_checks_what_it_can_where_the_reference_cannot_move_rows(name: str) -> None:
    """On the engine's own model, as `halo test-kv` runs it."""
    model = ARCHITECTURES["gpt2"](0) if name == "gpt2" else _interleaved()
    engine = HFEngine(model, capacity=256)
    seen = {v.surgery: v for v in examine(engine, model, sequences=3)}
    assert seen[Surgery.RECOMPUTE].edits > 0
    assert seen[Surgery.RECOMPUTE].within(BOUND)
    assert (Surgery.RESTORE in engine.surgeries) == (name == "interleaved")
    assert all(v.edits == 0 for surgery, v in seen.items() if surgery is not Surgery.RECOMPUTE)


def _interleaved() -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CohereForCausalLM(config).eval()


@pytest.mark.parametrize("fault", ["keys are not turned", "values are rounded", "rows change places"])
def test_contract_finds_wrong_restorations(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    engine, restore = engine_of("llama"), hf_engine.restore

    def wrong(arena: Any, slots: Any, saved: Image, turns: Any) -> None:
        if fault == "keys are not turned":
            turns = [None for _ in turns]
        elif fault == "values are rounded":
            saved = {k: v.astype(np.float16).astype(v.dtype) for k, v in saved.items()}
        else:
            saved = {k: v[::-1].copy() for k, v in saved.items()}
        restore(arena, slots, saved, turns)

    monkeypatch.setattr(hf_engine, "restore", wrong)
    seen = {v.surgery: v for v in examine(engine, ARCHITECTURES["llama"](0), sequences=8)}
    assert seen.pop(Surgery.RESTORE).ok(BOUND) is False


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_thousand_moves_cost_no_precision(name: str) -> None:
    """Keys are turned again and again over a long life; the drift must stay far below the bound."""
    engine, model = engine_of(name, 64), ARCHITECTURES[name](0)
    reference, mirror = SlowReference(model), Mirror()
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, VOCAB, 8)
        while mirror.rows + 8 > 64:
            dead = rng.choice(np.arange(4, mirror.rows), 3, replace=False)
            edit = delete(mirror.view, mirror.view.tokens.uid[dead].tolist())
            layout = [
                (int(i), int(t)) for i, t in zip(edit.gather(mirror.rows), edit.ids(engine.ids), strict=True)
            ]
            engine.apply(edit)
            mirror.apply(edit)
            reference.edit(layout)
        got = engine.feed(ids).logits
        want = reference.feed(ids.tolist())
        mirror.append(Tokens.make(ids, first_uid=mirror.view.next_uid, source=Source.USER))
    assert float(np.abs(got - want.numpy()).max()) <= BOUND


@pytest.mark.parametrize("name", MOVABLE)
def test_bfloat16_keeps_keys_in_fp32(name: str) -> None:
    """Moving there and back must leave the keys bit for bit what rounding made of them once."""
    engine = HFEngine(ARCHITECTURES[name](0).to(torch.bfloat16), capacity=64)
    engine.feed(ids_of(40))
    before = [k.clone() for k, _ in engine.layer_rows()]
    mirror = Mirror()
    mirror.append(Tokens.make(ids_of(40), first_uid=0, source=Source.USER))
    for _ in range(50):
        tokens = mirror.view.tokens
        born = Tokens.make([1], first_uid=mirror.view.next_uid, source=Source.USER)
        put = Edit(mirror.view.revision, 0, "put", Surgery.PATCH, (Splice(0, Tokens.empty(), born),))
        engine.apply(put)
        mirror.apply(put)
        take = delete(mirror.view, born.uid.tolist())
        engine.apply(take)
        mirror.apply(take)
        assert mirror.view.tokens == tokens
    for then, (now, _) in zip(before, engine.layer_rows(), strict=True):
        assert now.dtype == torch.float32
        assert float((now - then).abs().max()) <= 1e-4 * float(then.abs().max())


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_attention_is_what_stock_attention_pays(name: str, power: float) -> None:
    """Mass, last and value mass against eager attention weights of the stock model."""
    model = ARCHITECTURES[name](0)
    engine = HFEngine(ARCHITECTURES[name](0), capacity=64, value_power=power)
    model.set_attn_implementation("eager")
    ids = ids_of(24)
    engine.feed(ids[:16])
    sample = engine.feed(ids[16:]).attention
    with torch.inference_mode():
        out = model(torch.from_numpy(ids)[None], output_attentions=True, use_cache=True)
    weights = torch.stack(out.attentions)[:, 0, :, 16:]
    norms = torch.stack([layer.values[0].norm(dim=-1) for layer in _layers(model, ids)])
    groups = weights.shape[1] // norms.shape[1]
    share = (norms / norms.mean(-1, keepdim=True)).repeat_interleave(groups, dim=1)
    assert sample is not None
    assert sample.queries == 8
    np.testing.assert_allclose(sample.mass, weights.sum(2).mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(sample.last, weights[:, :, -1].mean((0, 1)), atol=1e-5)
    meant = weights / weights[..., 4:].sum(-1, keepdim=True)
    expected = (meant.sum(2) * share**power).mean((0, 1))
    np.testing.assert_allclose(sample.value_mass[4:], expected[4:], rtol=1e-3)
    assert not sample.value_mass[:4].any()


def _layers(model: Any, ids: np.ndarray) -> list[Any]:
    """A stock cache whose layers hold all rows (built without a config)."""
    from transformers import DynamicCache

    cache = DynamicCache()
    with torch.inference_mode():
        model(torch.from_numpy(ids)[None], past_key_values=cache, use_cache=True)
    return list(cache.layers)


def test_long_chunks_are_observed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine_of("llama").feed(ids_of(60))
    monkeypatch.setattr("haloweave.engine.hf.attention._BLOCK", 4 * 60 * 7)
    parts = engine_of("llama").feed(ids_of(60))
    np.testing.assert_allclose(whole.logits, parts.logits, atol=1e-5)
    assert whole.attention is not None
    assert parts.attention is not None
    for column in ("mass", "value_mass", "last"):
        got, want = getattr(parts.attention, column), getattr(whole.attention, column)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_observing_fewer_layers() -> None:
    engine = engine_of("llama", layers=frozenset({1}))
    sample = engine.feed(ids_of(10)).attention
    assert sample is not None
    np.testing.assert_allclose(sample.mass.sum(), 10.0, rtol=1e-5)
    np.testing.assert_allclose(
        engine.feed([5]).logits, _after(engine_of("llama"), [*ids_of(10), 5]), atol=1e-5
    )


def _after(engine: HFEngine, ids: list[int]) -> np.ndarray:
    return engine.feed(ids).logits


def test_scores_are_the_models_log_probabilities() -> None:
    engine, model, ids = engine_of("qwen3"), ARCHITECTURES["qwen3"](0), ids_of(12)
    scored = engine.feed(ids, score=True).logprobs
    with torch.inference_mode():
        logits = model(torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)
    expected = logits[:-1].gather(1, torch.from_numpy(ids[1:])[:, None])[:, 0]
    np.testing.assert_allclose(scored, expected, atol=1e-5)


def test_reread_after_an_edit_of_the_tail() -> None:
    engine, ids = engine_of("llama"), ids_of(20)
    engine.feed(ids)
    mirror = Mirror()
    mirror.append(Tokens.make(ids, first_uid=0, source=Source.USER))
    engine.apply(delete(mirror.view, [18, 19]))
    np.testing.assert_allclose(
        engine.reread().logits, _after(engine_of("llama"), ids[:18].tolist()), atol=1e-5
    )
    assert engine.rows == 18


# ---- refusals: an illegal call raises and leaves the rows as they were -----------------------------------


@pytest.mark.parametrize("bad", [[-1], [VOCAB], [], [[1, 2]], [2**40]])
def test_bad_ids(bad: Any) -> None:
    engine = engine_of("llama")
    engine.feed([1, 2, 3])
    with pytest.raises(InvalidInput):
        engine.feed(bad)
    assert engine.rows == 3


def test_more_rows_than_the_arena() -> None:
    engine = engine_of("llama", 16)
    engine.feed(ids_of(12))
    with pytest.raises(CapacityExceeded):
        engine.feed(ids_of(5))
    assert engine.rows == 12
    assert len(engine.ids) == 12
    engine.feed(ids_of(4))


@pytest.mark.parametrize("rows", [0, -1, 513])
def test_rows_outside_the_trained_range(rows: int) -> None:
    with pytest.raises(InvalidInput, match="trained range"):
        engine_of("llama", rows)


def test_absolute_positions_refuse_to_move() -> None:
    engine, mirror = engine_of("gpt2"), Mirror()
    assert engine.capabilities.notes
    engine.feed(ids_of(8))
    mirror.append(Tokens.make(ids_of(8), first_uid=0, source=Source.USER))
    with pytest.raises(SurgeryUnsupported, match="positions"):
        engine.apply(delete(mirror.view, [2]))
    with pytest.raises(SurgeryUnsupported, match=r"RESTORE .*positions"):
        engine.apply(replace(delete(mirror.view, [2]).inverse(), surgery=Surgery.RESTORE, base=0))
    with pytest.raises(SurgeryUnsupported, match=r"RESTORE .*positions"):
        engine.save([2])
    assert engine.rows == 8


def test_numbers_that_are_not_finite_are_a_fault() -> None:
    engine = engine_of("llama")
    engine.feed([1, 2])
    with torch.no_grad():
        engine._model.model.embed_tokens.weight[7] = float("nan")
    with pytest.raises(EngineFault):
        engine.feed([7])
    assert engine.rows == 2
    engine.feed([3])


def test_a_scored_pass_asks_every_row_for_finite_numbers() -> None:
    """The surprisal of each token is remembered as brightness, not that of the last alone."""
    engine = engine_of("llama")

    def spoiled(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(1, torch.tensor([0]), float("nan"))

    hook = engine._model.lm_head.register_forward_hook(spoiled)
    with pytest.raises(EngineFault, match="not finite"):
        engine.feed([1, 2, 3], score=True)
    assert engine.rows == 0
    hook.remove()
    engine.feed([1, 2, 3], score=True)


def test_recurrent_layers_are_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    config.max_position_embeddings = 128
    with pytest.raises(ModelUnsupported):
        HFEngine(MambaForCausalLM(config).eval(), capacity=32)


def test_a_failed_forward_leaves_a_usable_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("llama")
    engine.feed([1, 2, 3])
    layer = engine._model.model.layers[1]
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", _out_of_memory)
        with pytest.raises(EngineFault, match="memory"):
            engine.feed([4])
    assert engine.rows == 3
    np.testing.assert_allclose(engine.feed([4]).logits, _after(engine_of("llama"), [1, 2, 3, 4]), atol=1e-5)


def _out_of_memory(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("out of memory")


def test_returning_rows_come_back_in_order_and_in_several_places() -> None:
    mirror, rng = Mirror(), np.random.default_rng(0)
    mirror.append(Tokens.make(ids_of(40), first_uid=0, source=Source.USER))
    gone = Tokens.make(ids_of(5), first_uid=100, source=Source.USER)
    edits = [returning(mirror.view, gone, rng) for _ in range(100)]
    assert all(e.born_uids.tolist() == gone.uid.tolist() for e in edits)
    assert {sum(bool(len(s.new)) for s in e.splices) for e in edits} == {1, 2, 3}
    assert any(len(s.new) and s.stop == 40 for e in edits for s in e.splices)


def test_invented_edits_cover_what_they_should() -> None:
    """The contract's edits: deletions, births, pure insertions, several splices, the first and last slot."""
    mirror, rng = Mirror(), np.random.default_rng(0)
    mirror.append(Tokens.make(ids_of(40), first_uid=0, source=Source.USER))
    edits = [invent(mirror.view, Surgery.PATCH, rng, Words(VOCAB, None, rng)) for _ in range(300)]
    splices = [s for e in edits for s in e.splices]
    assert any(not len(s.old) and len(s.new) for s in splices)
    assert any(len(s.old) and not len(s.new) for s in splices)
    assert any(s.start == 0 for s in splices)
    assert any(s.stop == 40 and len(s.old) for s in splices)
    assert {len(e.splices) for e in edits} == {1, 2, 3}


@pytest.mark.parametrize("ids", [[1.5], [1.0, 2.0], [True], [2**70], [2**63], [np.nan], ["1"]])
def test_ids_that_are_no_whole_numbers_are_refused(ids: list[Any]) -> None:
    engine = engine_of("llama", 8)
    with pytest.raises(InvalidInput, match="token ids"):
        engine.feed(ids)
    assert engine.rows == 0


# ---- the real model --------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_contract_on_smollm2(dtype: str) -> None:
    """In float32 within the law; in float64, where rounding cannot hide a small fault, far within it."""
    from haloweave import build
    from haloweave.cli.testkv import passages
    from haloweave.settings import settings

    loaded = build.load_model(settings(device="cpu", dtype=dtype))
    engine = HFEngine(loaded.model, capacity=128)
    words = passages(loaded.tokenizer)
    told = examine(engine, loaded.model, sequences=6, text=words)
    check(told, set(Surgery))
    assert dtype == "float32" or all(v.within(4e-5) for v in told), told
