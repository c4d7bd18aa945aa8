# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The denoiser as a repairer: what it reads of a window, what becomes of its answers, whose tokens it speaks.

The contract of all repairers is in test_repairers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny_mlm
import torch
from lent_denoiser import borrowed, codec, lend, saved
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from haloweave import build, denoising
from haloweave.bench.toy import HELD_OUT, TRAINED, Toy
from haloweave.diffusion import checkpoint
from haloweave.diffusion.denoisers.base import Denoiser, DenoiserConfig, Hidden
from haloweave.diffusion.errors import BadCheckpoint, BadInput
from haloweave.diffusion.loss import masked_mean_ce
from haloweave.diffusion.parcel import note
from haloweave.diffusion.scars import Scars
from haloweave.diffusion.tokenizer import train_tokenizer
from haloweave.diffusion.training import config_file
from haloweave.diffusion.training.optim import Average, adamw
from haloweave.diffusion.training.settings import settled
from haloweave.engine.hf.text import HFCodec
from haloweave.errors import EngineFault, InvalidInput, ModelCorrupt, ModelNotFound, ModelUnsupported
from haloweave.repair.base import Proposal, RepairWindow
from haloweave.repair.denoise import DenoiserRepairer
from haloweave.settings import settings

HOST, CONTROL, MASK, PAD = 20, 19, 20, 21
"""Ids 0..19 are the host's, the last of them a control token."""


@dataclass(frozen=True, kw_only=True)
class ScriptConfig(DenoiserConfig):
    arch: ClassVar[str] = "script"


class Script(Denoiser):
    """Gives each token of a row 5 nats more than the others, and what the script says of it more than that.

    `script` maps what is read at a place to logits by token; a mask is read as MASK."""

    def __init__(self, script: Mapping[int, Mapping[int, float]], max_len: int = 32, **options: Any) -> None:
        super().__init__()
        told = {"vocab_size": 22, "mask_id": MASK, "pad_id": PAD, "max_len": max_len, "d_model": 22}
        self.config = ScriptConfig(**{**told, "n_heads": 1, "time_conditioning": True, **options})
        self.script = script
        self.read: list[tuple[list[int], list[float]]] = []
        self.asked = 0
        self.somewhere = torch.nn.Parameter(torch.zeros(1))

    def hidden(self, xt: Tensor, t: Tensor | None = None, previous: Tensor | None = None) -> Hidden:
        self.check(xt)
        assert t is not None
        assert t.shape == xt.shape
        self.read += [(row, heat) for row, heat in zip(xt.tolist(), t.tolist(), strict=True)]
        states = torch.nn.functional.one_hot(xt.long(), 22) * 5.0
        for seen, says in self.script.items():
            for token, logit in says.items():
                states[..., token] = torch.where(xt == seen, logit, states[..., token])
        return Hidden(states)

    def logits(self, states: Tensor) -> Tensor:
        self.asked += len(states)
        return states.index_fill(-1, torch.tensor([MASK]), -torch.inf)

    def embed_prediction(self, logits: Tensor) -> Tensor:
        return logits

    def auxiliary(self, hidden: Hidden, x0: Tensor, weight: Tensor) -> Mapping[str, Tensor]:
        return {}


def repairer(script: Mapping[int, Mapping[int, float]], **options: Any) -> DenoiserRepairer:
    max_len = options.pop("max_len", 32)
    return DenoiserRepairer(Script(script, max_len), HOST, frozenset({CONTROL}), **options)


def window(
    ids: Sequence[int], heat: Sequence[float] | float = 0.75, doomed: Sequence[int] = ()
) -> RepairWindow:
    """Doomed are these places; uids are 100 and up."""
    going = np.isin(np.arange(len(ids)), doomed)
    heats = np.full(len(ids), heat) if isinstance(heat, float) else heat
    return RepairWindow.of(ids, heats, uid=np.arange(100, 100 + len(ids)), doomed=going)


def told(proposals: Sequence[Proposal]) -> list[tuple[list[int], list[int], float]]:
    return [((p.uid - 100).tolist(), p.new_ids.tolist(), round(p.gain, 4)) for p in proposals]


def read(by: DenoiserRepairer) -> list[tuple[list[int], list[float]]]:
    script: Any = by.denoiser
    return [(row, [round(h, 4) for h in heat]) for row, heat in script.read]


# ---- keep, substitute, delete, shrink ----------------------------------------------------------------


def test_what_it_would_rather_see_is_proposed_and_the_rest_is_kept() -> None:
    by = repairer({3: {7: 6.5}, 5: {PAD: 8.0}, 6: {6: 1.0, 2: 0.5}})
    assert told(by.propose([window([1, 3, 4, 5, 6])])) == [([1], [7], 1.5), ([3], [], 3.0)]
    assert read(by) == [([1, 3, 4, 5, 6], [0.75] * 5)]


def test_locked_and_cool_tokens_are_shown_with_their_heat_and_stay() -> None:
    by = repairer({3: {7: 9.0}}, cutoff=0.5)
    found = by.propose([window([3, 3, 3, 1], [0.0, 0.25, 0.5, 0.0])])
    assert told(found) == [([2], [7], 4.0)]
    assert read(by) == [([3, 3, 3, 1], [0.0, 0.25, 0.5, 0.0])]
    script: Any = by.denoiser
    assert script.asked == 1, "logits where something is asked, and nowhere else"


def test_a_margin_must_be_won() -> None:
    script = {3: {7: 6.5}, 4: {8: 7.0}}
    assert told(repairer(script, margin=1.5).propose([window([3, 4])])) == [([1], [8], 2.0)]


def test_masks_controls_and_ids_beyond_the_host_are_never_proposed() -> None:
    by = repairer({3: {MASK: 99.0, CONTROL: 98.0, 7: 6.0}, MASK: {CONTROL: 9.0, 2: 3.0}})
    assert told(by.propose([window([3])])) == [([0], [7], 1.0)]
    assert told(by.propose([window([1, 8, 8, 1], doomed=[1, 2])])) == [([1, 2], [2], 3.0)]
    assert by.propose([window([CONTROL, CONTROL])]) == ()


def test_control_tokens_are_shown_as_locked() -> None:
    by = repairer({CONTROL: {3: 99.0}, 4: {7: 6.0}})
    assert told(by.propose([window([CONTROL, 4])])) == [([1], [7], 1.0)]
    assert read(by) == [([CONTROL, 4], [0.0, 0.75])]


def test_a_doomed_run_becomes_fewer_masks_and_what_is_put_there() -> None:
    by = repairer({MASK: {2: 3.0, PAD: 1.0}}, fill=2)
    found = by.propose([window([1, 8, 8, 8, 8, 1], [0.0, 1.0, 0.5, 0.1, 1.0, 0.0], doomed=[1, 2, 3, 4])])
    assert read(by) == [([1, MASK, MASK, 1], [0.0, 1.0, 1.0, 0.0])]
    assert told(found) == [([1, 2, 3, 4], [2, 2], 4.0)], "log p of two tokens less that of two pads"


@pytest.mark.parametrize(("long", "fill", "masks"), [(1, 4, 0), (2, 4, 1), (4, 4, 3), (9, 4, 4), (9, 0, 0)])
def test_masks_are_fewer_than_the_run_is_long(long: int, fill: int, masks: int) -> None:
    by = repairer({MASK: {2: 3.0}, 1: {5: 9.0}}, fill=fill)
    (proposals,) = [by.propose([window([1, *[8] * long, 3], [1.0, *[1.0] * long, 0.0], range(1, 1 + long))])]
    assert read(by)[0][0] == [1, *[MASK] * masks, 3]
    assert told(proposals)[0] == ([0], [5], 4.0)
    assert told(proposals)[1:] == ([(list(range(1, 1 + long)), [2] * masks, 3.0 * masks)] if masks else [])


def test_a_run_that_is_to_be_nothing_just_goes() -> None:
    assert repairer({MASK: {PAD: 3.0}}).propose([window([1, 8, 8, 8, 1], doomed=[1, 2, 3])]) == ()


def test_pads_among_the_answers_shrink_the_run_further() -> None:
    by = repairer({})
    script: Any = by.denoiser
    plain, calls = script.hidden, iter([[2, PAD, 3]])

    def in_turn(xt: Tensor, t: Tensor | None = None, previous: Tensor | None = None) -> Hidden:
        states = plain(xt, t).tokens
        for place, token in zip((xt[0] == MASK).nonzero()[:, 0].tolist(), next(calls), strict=True):
            states[0, place, token] = 7.0
        return Hidden(states)

    script.hidden = in_turn
    assert told(by.propose([window([1, 8, 8, 8, 8, 1], doomed=[1, 2, 3, 4])])) == [
        ([1, 2, 3, 4], [2, 3], 14.0)
    ]


def test_doomed_and_locked_tokens_are_not_shown_and_part_runs() -> None:
    by = repairer({MASK: {2: 3.0}})
    heat = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    found = by.propose([window([1, 8, 8, 9, 8, 8, 1], heat, doomed=[1, 2, 3, 4, 5])])
    assert read(by) == [([1, MASK, MASK, 1], [0.0, 1.0, 1.0, 0.0])]
    assert told(found) == [([1, 2], [2], 3.0), ([4, 5], [2], 3.0)]


# ---- rows of all lengths -----------------------------------------------------------------------------


def test_windows_go_through_together_padded_at_heat_0() -> None:
    by = repairer({3: {7: 6.0}})
    found = by.propose([window([3]), window([1], 0.0), replace(window([1, 3, 3]), uid=np.arange(200, 203))])
    assert told(found) == [([0], [7], 1.0), ([101], [7], 1.0), ([102], [7], 1.0)]
    assert read(by) == [([1, 3, 3], [0.75] * 3), ([3, PAD, PAD], [0.75, 0.0, 0.0])]


def test_small_batches_give_the_same() -> None:
    shown = [
        replace(window([3, *range(n)], 0.75), uid=np.arange(n + 1) + 100 * n) for n in (5, 1, 17, 3, 17, 0, 9)
    ]
    whole = repairer({3: {7: 6.0}, 9: {PAD: 7.0}}).propose(shown)
    parts = repairer({3: {7: 6.0}, 9: {PAD: 7.0}}, batch_tokens=1).propose(shown)
    assert told(whole) == told(parts)
    assert len(whole) > 9


def test_of_a_long_window_every_place_is_answered_once_with_text_on_both_sides() -> None:
    ids = [n % 3 for n in range(50)]
    ids[0] = ids[24] = ids[31] = ids[49] = 3
    by = repairer({3: {7: 6.0}}, max_len=16)
    assert told(by.propose([window(ids)])) == [([n], [7], 1.0) for n in (0, 24, 31, 49)]
    script: Any = by.denoiser
    assert all(len(row) == 16 for row, _ in script.read)
    assert script.asked == 50


def test_places_inside_a_long_window_have_text_on_both_sides() -> None:
    by = repairer({}, max_len=16)
    script: Any = by.denoiser
    plain = script.hidden

    def measured(xt: Tensor, t: Tensor | None = None, previous: Tensor | None = None) -> Hidden:
        """The gain of token 7 is the distance to the nearer end of what is read."""
        states, at = plain(xt, t).tokens, torch.arange(xt.shape[1])
        states[..., 7] = 5.0 + torch.minimum(at, at.flip(0))
        return Hidden(states)

    script.hidden = measured
    for length in (17, 24, 50):
        sides = {p.uid[0] - 100: p.gain for p in by.propose([window([1] * length)])}
        inner = range(4, length - 4)
        assert all(sides[n] >= min(n, length - 1 - n, 4) - 1e-4 for n in inner), length


def test_nothing_hot_costs_nothing() -> None:
    by = repairer({3: {7: 9.0}})
    assert by.propose([]) == ()
    assert by.propose([window([3, 3], 0.0), window([]), window([3, 3], 0.0, doomed=[0, 1])]) == ()
    assert by.propose([window([3], doomed=[0])]) == (), "a lone doomed token goes unasked"
    assert read(by) == []


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_a_fault(bad: float) -> None:
    with pytest.raises(EngineFault, match="script denoiser returned logits that are not finite"):
        repairer({3: {7: bad}}).propose([window([3])])


def test_another_hosts_ids_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"ids in 0\.\.19, .* got 3\.\.20"):
        repairer({}).propose([window([3, MASK])])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cutoff": -0.1}, "at least 0"),
        ({"margin": float("nan")}, "at least 0"),
        ({"fill": -1}, "at least 0"),
        ({"batch_tokens": 0}, "at least 1 token"),
        ({"vocabulary": 23}, "got 23 and a denoiser of 22"),
        ({"vocabulary": 0}, "got 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        DenoiserRepairer(**{"denoiser": Script({}), "vocabulary": HOST, **options})


@pytest.mark.parametrize("lacks", [{"time_conditioning": False}, {"pad_id": None}])
def test_a_denoiser_that_hears_no_heat_or_cannot_say_delete_is_refused(lacks: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="--corruption scars"):
        DenoiserRepairer(Script({}, **lacks), HOST)


# ---- it can be learnt --------------------------------------------------------------------------------


def learnt(toy: Toy) -> Denoiser:
    """A tiny denoiser trained on scars of the synthetic grammar, in some twenty seconds."""
    denoiser, grammar = toy.untrained().train(), toy.grammar
    optimizer, average = adamw(denoiser, toy.recipe), Average(denoiser, toy.recipe.ema)
    scars = Scars(
        *(grammar.mask_id, grammar.pad_id, grammar.vocab_size),
        culled=0.2,
        deleted=0.0,
        slack=1,
        wrong=0.4,
        specials=(0, 1, 2, 3),
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(toy.recipe.max_steps):
        x0 = torch.from_numpy(grammar.rows(32, TRAINED, step))
        masked_mean_ce(denoiser, scars(x0, torch.rand(32, generator=generator), generator)).total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), toy.recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = toy.recipe.learning_rate(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
    denoiser.load_state_dict(average.weights, strict=False)
    return denoiser.eval()


def test_wrong_tokens_are_found_among_hot_ones_and_clean_text_is_left_alone() -> None:
    """Half the tokens are hot, a fifth of these wrong. The same denoiser asked the usual way, with all that
    is hot masked, knows less: what stands there is a witness."""
    toy = replace(Toy.of("transformer", length=32, steps=600), options={"time_conditioning": True})
    denoiser, grammar = learnt(toy), toy.grammar
    rows, rng = grammar.rows(200, HELD_OUT), np.random.default_rng(0)
    hot = (rng.random(rows.shape) < 0.5) & (rows > 3)
    seen = np.where(
        hot & (rng.random(rows.shape) < 0.2), rng.integers(4, grammar.vocab_size, rows.shape), rows
    )
    heat = np.where(hot, np.float32(0.7), np.float32(0))
    by = DenoiserRepairer(denoiser, grammar.vocab_size, frozenset({0, 1, 2, 3}), cutoff=0.1)

    def repaired(text: np.ndarray) -> np.ndarray:
        uid = np.arange(text.size).reshape(text.shape)
        out = text.copy()
        for p in by.propose(
            [RepairWindow.of(*part[:2], uid=part[2]) for part in zip(text, heat, uid, strict=True)]
        ):
            out.flat[p.uid[0]] = p.new_ids[0] if len(p.new_ids) else grammar.pad_id
        return out

    def f1(text: np.ndarray) -> float:
        """Of changes that put the right token in place of a wrong one."""
        wrong = seen != rows
        return float(2 * ((text == rows) & wrong).sum() / ((text != seen).sum() + wrong.sum()))

    masked = torch.from_numpy(np.where(hot, grammar.mask_id, seen))
    with torch.no_grad():
        guess = denoiser(masked, torch.from_numpy(hot).float()).argmax(-1).numpy()
    ours, masking = f1(repaired(seen)), f1(np.where(hot, guess, seen))
    assert ours > 0.7
    assert ours > masking + 0.15
    assert float((repaired(rows) != rows).sum() / hot.sum()) < 0.01


# ---- from a folder, for a host -----------------------------------------------------------------------


def judge(codec: HFCodec) -> Any:
    return SimpleNamespace(vocabulary=max(codec.control_ids) + 1)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    return lend(tmp_path / "host", monkeypatch)


def made(folder: Path | str, spoken: HFCodec) -> DenoiserRepairer:
    s = settings(repair_model=str(folder), device="cpu")
    found = build.REPAIRERS["denoiser"](s, judge(spoken), spoken, 0.0)
    assert isinstance(found, DenoiserRepairer)
    return found


def test_a_folder_becomes_a_repairer_of_its_host(tmp_path: Path, host: Tensor) -> None:
    by = made(saved(tmp_path / "model", host), codec())
    assert by.vocabulary == len(host)
    shown = RepairWindow.of(codec().encode(["the cat sat on the mat"])[0], np.ones(6))
    found = by.propose([shown])
    assert found
    assert all(0 <= i < len(host) for p in found for i in p.new_ids.tolist())


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="halo train --host MODEL"):
        made(tmp_path, codec())
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelUnsupported, match="damaged"):
        made(tmp_path, codec())


def test_what_was_calibrated_is_used_and_rubbish_is_told(tmp_path: Path, host: Tensor) -> None:
    folder = saved(tmp_path / "model", host)
    assert (made(folder, codec()).margin, made(folder, codec()).temperature) == (0.0, 1.0)
    denoising.calibrate(folder, denoising.Calibration(temperature=1.5, margin=2.0))
    assert (made(folder, codec()).margin, made(folder, codec()).temperature) == (2.0, 1.5)
    for rubbish in ("", "[]", '{"margin": "much"}', '{"margin": -1}', '{"margin": NaN}', '{"more": 1}'):
        (folder / denoising.CALIBRATION).write_text(rubbish)
        with pytest.raises(ModelCorrupt, match=r"calibration\.json"):
            made(folder, codec())


def test_one_that_never_saw_a_wrong_token_is_refused(tmp_path: Path, host: Tensor) -> None:
    words = borrowed()
    folder = saved(tmp_path / "model", host)
    denoiser = denoising.load(folder).denoiser
    checkpoint.save(folder, denoiser, words, {"host": "somebody", "step": 1, "corruption": "absorb"})
    with pytest.raises(ModelUnsupported, match="--corruption scars, got absorb"):
        made(folder, codec())


def test_the_shipped_one_is_small_and_tells_nobody_where_its_texts_were() -> None:
    folder = build.SHIPPED_DENOISER
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    told = note(folder / "model.safetensors") or {}
    assert (told["bits"], told["host"]) == (8, "smollm2-135m")
    assert not [value for value in told.values() if isinstance(value, str) and "/" in value]
    assert denoising.calibration(folder).temperature != 1.0
    assert (folder / "README.md").is_file()


def test_the_recipe_is_what_the_shipped_one_was_made_by() -> None:
    told = config_file.read(Path(__file__).parents[1] / "recipes" / "repairer.toml")
    run = settled({**told, "data_dir": (Path("texts"),)})
    shipped = json.loads((build.SHIPPED_DENOISER / "recipe.json").read_text())
    for name in ("max_steps", "batch_size", "lr", "corruption", "corruption_options", "seed"):
        assert shipped[name] == asdict(run.recipe)[name]
    made = run.config(49155, 49152, 49153, 576)
    kept = json.loads((build.SHIPPED_DENOISER / "config.json").read_text())
    assert {**checkpoint.config_told(made), "borrowed": kept["borrowed"]} == kept


def test_packed_it_is_a_quarter_and_answers_nearly_as_before(tmp_path: Path, host: Tensor) -> None:
    folder = saved(tmp_path / "model", host, arch="eco_editor", d_model=64, d_ff=256, reads_fully=True)
    checkpoint.pack(folder, tmp_path / "packed")
    whole, packed = (tmp_path / name / "model.safetensors" for name in ("model", "packed"))
    assert packed.stat().st_size < 0.45 * whole.stat().st_size
    one, other = denoising.load(folder).denoiser, denoising.load(tmp_path / "packed").denoiser
    xt = torch.arange(20)[None] % len(host)
    with torch.no_grad():
        p, q = (d(xt, torch.full((1, 20), 0.5)).softmax(-1) for d in (one, other))
    assert float((p - q).abs().max()) < 0.02
    with pytest.raises(BadCheckpoint, match="holds a packed model"):
        checkpoint.begin(tmp_path / "packed", other, borrowed(), {})
    with pytest.raises(BadInput, match="is packed already"):
        checkpoint.pack(tmp_path / "packed", tmp_path / "again")
    with pytest.raises(BadInput, match="would replace itself"):
        checkpoint.pack(folder, folder)


def test_a_denoiser_trained_without_heat_is_refused(tmp_path: Path, host: Tensor) -> None:
    with pytest.raises(InvalidInput, match="--set time_conditioning=true"):
        made(saved(tmp_path / "model", host, time_conditioning=False), codec())


def test_a_vocabulary_of_its_own_is_no_hosts(tmp_path: Path, host: Tensor) -> None:
    words = train_tokenizer(["the cat sat on the mat and the dog ran to the house " * 9], vocab_size=400)
    with pytest.raises(ModelUnsupported, match="a vocabulary of its own; train one for this model"):
        made(saved(tmp_path / "model", host, words), codec())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["house", "the"], "this denoiser's host has"),
        ([*tiny_mlm.COMMON, "garden"], "token|lacks"),
        ([*reversed(tiny_mlm.COMMON)], r"token \d+ is b"),
    ],
)
def test_another_hosts_denoiser_is_refused(words: list[str], said: str) -> None:
    spoken = codec(words)
    with pytest.raises(ModelUnsupported, match=said) as caught:
        denoising.speaks(borrowed(), spoken, judge(spoken).vocabulary)
    assert "halo train --host MODEL --corruption scars" in str(caught.value)


def test_hosts_that_cut_texts_otherwise_are_told_apart() -> None:
    class Otherwise(HFCodec):  # the same tokens, other merges
        def encode(self, texts: Sequence[str]) -> list[list[int]]:
            return [ids[::-1] for ids in super().encode(texts)]

    mine = tiny_mlm.byte_level(tiny_mlm.COMMON, tiny_mlm.CONTROL, first=False)
    other = Otherwise(PreTrainedTokenizerFast(tokenizer_object=mine, eos_token=tiny_mlm.CONTROL[1]))
    with pytest.raises(ModelUnsupported, match="cuts texts into other tokens"):
        denoising.speaks(borrowed(), other, judge(other).vocabulary)


def test_rows_that_only_pad_the_hosts_embeddings_do_no_harm() -> None:
    spoken = codec()
    assert denoising.speaks(borrowed(), spoken, judge(spoken).vocabulary + 40) == borrowed().host_size


def test_its_name_is_known_everywhere() -> None:
    assert settings(repair="denoiser").repair == "denoiser"
    assert set(build.REPAIRERS) == {"mlm", "self", "denoiser"}
    help_ = re.sub(r"\s+", " ", (Path(__file__).parents[1] / "docs" / "commands" / "repair.md").read_text())
    assert "denoiser, one over its own tokens (needs --repair-model)" in help_
