# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo eval`, `halo sample` and `halo compare` on denoisers that were trained in a second."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from terminal import Screens
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from haloweave.cli.ar_judge import ARJudge, load_judge
from haloweave.cli.contest import trained
from haloweave.cli.holes import spelt, template
from haloweave.cli.train_denoiser import Unseen
from haloweave.diffusion.checkpoint import from_pretrained, save
from haloweave.diffusion.unmask import Unmasking
from haloweave.errors import InvalidInput

BASE: dict[str, Any] = {
    "arch": "transformer",
    "seq_len": 24,
    "d_model": 16,
    "n_layers": 1,
    "n_heads": 2,
    "d_ff": 32,
    "vocab_size": 400,
    "max_steps": 6,
    "batch_size": 4,
    "dtype": "float32",
    "valid_share": 0.01,
}
QUICK = ("--samples", 2, "--infills", 2, "--draws", 1, "--blocks", 12, "--length", 12, "--judge", "none")
PACE = ("--rounds", 2, "--longest", 32)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)
    english = [
        "the",
        "cat",
        "dog",
        "sees",
        "a",
        "bird",
        "and",
        "sings",
        "to",
        "me",
        "slowly",
        "green",
        "house",
    ]
    hindi = ["नमस्ते", "दुनिया", "यह", "एक", "छोटा", "घर", "है", "नदी", "के", "पास", "और", "बिल्ली", "सोती"]
    with (folder / "t.jsonl").open("w", encoding="utf-8") as file:
        for i in range(300):
            text = f"{i} " + " ".join(rng.choices(english if i % 2 else hindi, k=30))
            file.write(json.dumps({"text": text}) + "\n")
    return folder


def config(path: Path, texts: Path, **changes: Any) -> Path:
    lines = {**BASE, "data_dir": [str(texts)], **changes}
    path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in lines.items()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("model")
    return trained([config(work / "baseline.toml", texts)], work, lambda leads: Unseen())[0]


@pytest.fixture(scope="module")
def apart(texts: Path, model: Path) -> Path:
    """A model whose training held out a whole file."""
    file = model.parent / "held.txt"
    file.write_text("the cat sees a bird and sings to me slowly. " * 30, encoding="utf-8")
    made = config(model.parent / "apart.toml", texts, held_out=[str(file)])
    return trained([made], model.parent, lambda leads: Unseen())[0]


def ran(*arguments: object, code: int = 0, **screen: Any) -> Screens:
    one = Screens(**screen)
    assert one.halo(*arguments) == code, one.err
    return one


# ---- eval -----------------------------------------------------------------------------------------------


def test_eval_measures_what_training_held_out(model: Path) -> None:
    found = ran("eval", model, *QUICK, "--json").lines[0]
    perplexity, low, high = found["bound"]["perplexity"]
    assert low <= perplexity <= high
    assert perplexity == pytest.approx(math.exp(found["bound"]["nats"][0]))
    assert found["bound"]["blocks"] <= 12
    assert set(found["infill"]) == {"1", "3", "8", "several"}
    assert found["generation"]["latency"]["calls_per_sample"] >= 1
    assert found["generation"]["made"]["perplexity"] is None
    assert {"latency", "made", "real", "believable"} <= set(found["generation"])
    assert "nats" not in found


def test_eval_for_people_sets_entropy_beside_and_says_what_it_means(model: Path) -> None:
    out = ran("eval", model, *QUICK, width=120).out
    for word in (
        "perplexity, at most",
        "bits per byte",
        "calibration error",
        "holes of 8",
        "entropy",
        "distinct",
    ):
        assert word in out
    for word in ("p50 ms", "p99 ms", "calls/token", "tok/s", "real text's", "M parameters"):
        assert word in out


def test_eval_of_given_texts_tells_scripts_and_repeats(model: Path, texts: Path) -> None:
    asked = ("eval", model, "--data", texts, *QUICK[:-6], "--blocks", 40, "--samples", 0, "--json")
    one, two = (ran(*asked).lines[0] for _ in range(2))
    assert one["bound"] == two["bound"]
    assert one["calibration"] == two["calibration"]
    assert one["generation"] is None
    assert set(one["bound"]["scripts"]) >= {"devanagari", "latin"}
    assert one["bound"]["unit"] == "documents"


def test_eval_never_takes_for_held_out_what_it_cannot_know(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    shutil.rmtree(copy / "data")
    assert "--data" in ran("eval", copy, *QUICK, code=2).err
    (tmp_path / "one.txt").write_text("the cat sees a bird and sings to me slowly " * 20)
    assert ran("eval", copy, "--data", tmp_path / "one.txt", *QUICK, "--json").lines[0]["bound"]["blocks"] > 1


def test_eval_finds_files_that_were_held_out_and_refuses_another_corpus(
    model: Path, apart: Path, tmp_path: Path
) -> None:
    found = ran("eval", apart, *QUICK, "--json").lines[0]
    assert list(found["bound"]["scripts"]) == ["latin"]
    mixed = tmp_path / "mixed"
    shutil.copytree(apart, mixed)
    shutil.rmtree(mixed / "data" / "apart")
    shutil.copytree(mixed / "data" / "trained", mixed / "data" / "apart")
    assert "--data" in ran("eval", mixed, *QUICK, code=2).err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--data", "nowhere"), "no such file"),
        (("--order", "best"), "left_to_right"),
        (("--threshold", "1.5"), "probability"),
        (("--judge", "no such judge"), "no model"),
        (("--length", "0"), "--length"),
        (("--device", "cuda:99"), "device"),
        (("--device", "abacus"), "cpu"),
        (("--set", "remask=cap"), "cap:0.1"),
        (("--set", "remask=cap:2"), "(0, 1]"),
        (("--set", "remask=often:1"), "rescale"),
        (("--set", "draw=straws"), "gumbel"),
        (("--set", "cache=maybe"), "true or false"),
        (("--set", "block=0"), "1..24"),
        (("--set", "block=-1"), "number"),
        (("--set", "hue=red"), "NAME=VALUE"),
        (("--set", "cache=true", "--set", "cache=true"), "once"),
        (("--schedule", "steep"), "log_linear"),
        (("--confidence-stop", "2"), "probability"),
        (("--ancestral", "--confidence-stop", "0.9"), "ancestral"),
    ],
)
def test_eval_refuses_in_a_line(
    model: Path, more: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    err = ran("eval", model, *QUICK, *more, code=2).err
    assert told in (err or capsys.readouterr().err)  # typer tells of its own on the process's stderr


def test_no_command_takes_a_folder_that_is_none(tmp_path: Path) -> None:
    for command in (("eval", tmp_path), ("sample", tmp_path), ("compare", tmp_path, tmp_path)):
        assert "model.safetensors" in ran(*command, code=2).err


def test_eval_counts_ends_mixed_words_and_samples(model: Path) -> None:
    made = ran("eval", model, *QUICK, "--json").lines[0]["generation"]
    assert made["latency"]["samples"] == 2
    assert made["latency"]["speed"][0] == pytest.approx(made["latency"]["tokens_per_second"])
    assert made["real_words"]["count"] > 0
    assert made["real_words"]["mixed"] == 0
    assert 0 <= made["ended"] <= 2
    out = ran("eval", model, *QUICK, width=140).out
    for word in ("mixed in one word", "(of 2)", "ended by themselves", "Devanagari"):
        assert word in out


PLANS: list[tuple[str, ...]] = [
    ("--confidence-stop", "0.95"),
    ("--schedule", "linear"),
    ("--ancestral",),
    ("--set", "draw=gumbel"),
    ("--set", "remask=cap:0.1"),
    ("--set", "remask=rescale:0.1", "--set", "cache=false"),
    ("--set", "remask=doubtful:0.1"),
    ("--set", "block=6"),
]


@pytest.mark.parametrize("more", PLANS)
def test_every_way_of_unmasking_has_a_name(
    model: Path, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from haloweave.diffusion.sampling import blockwise

    plans: list[tuple[Any, int | None]] = []
    real = blockwise.unmask_long

    def heard(*arguments: Any, **named: Any) -> Any:
        plans.append((named["plan"], named["block"]))
        return real(*arguments, **named)

    monkeypatch.setattr(blockwise, "unmask_long", heard)
    monkeypatch.setattr("haloweave.diffusion.judging.generation.unmask_long", heard)
    sampled = ran("sample", model, "--length", 12, "--steps", 8, *more, "--json").lines[0]
    assert sampled["tokens"] == 12
    measured = ran("eval", model, *QUICK, "--steps", 8, *more, "--json").lines[0]
    assert measured["generation"]["latency"]["calls_per_sample"] >= 1
    assert len({repr(plan) for plan in plans}) == 1, "both commands mean the same"
    plain = (replace(Unmasking(), steps=8), None)
    assert plans[0] != plain


def test_what_is_asked_for_reaches_the_sampler(model: Path) -> None:
    few = ran("sample", model, "--length", 12, "--steps", 12, "--confidence-stop", "1e-6", "--json").lines[0]
    many = ran("sample", model, "--length", 12, "--steps", 12, "--json").lines[0]
    assert few["calls"] == 1 < many["calls"]
    blocks = ran(
        "sample", model, "--length", 12, "--steps", 2, "--schedule", "linear", "--set", "block=3", "--json"
    ).lines[0]
    assert blocks["calls"] == 4 * 2
    twice = ran("sample", model, "-i", "the [MASK*4] sings", "--guidance", 1, "--json").lines[0]
    assert twice["row_calls"] == 2 * twice["calls"]


def test_samples_of_one_command_do_not_remember_each_other(texts: Path, tmp_path: Path) -> None:
    made = config(tmp_path / "self.toml", texts, self_conditioning=True)
    folder = trained([made], tmp_path, lambda leads: Unseen())[0]
    asked = ("sample", folder, "-i", "the [MASK*4] sings", "--guidance", 1, "--json")
    both = ran(*asked, "--count", 2).lines
    assert ran(*asked, "--seed", 1).lines[0]["text"] == both[1]["text"]


@pytest.fixture(scope="module")
def saying_nothing(model: Path) -> Path:
    """A denoiser to whom the pad is the best answer to everything."""
    folder = model.parent / "nothing"
    shutil.copytree(model, folder)
    loaded = from_pretrained(folder)
    with torch.no_grad():
        loaded.denoiser.get_parameter("embedding.bias")[loaded.tokenizer.pad_id] = 1000.0
    told = {k: v for k, v in loaded.told.items() if k not in ("arch", "config")}
    save(folder, loaded.denoiser, loaded.tokenizer, told)
    return folder


@pytest.mark.parametrize("corruption", ["spans", "scars", "absorb"])
def test_a_hole_becomes_shorter_where_a_denoiser_may_say_nothing(
    saying_nothing: Path, corruption: str
) -> None:
    recipe = saying_nothing / "recipe.json"
    told = json.loads(recipe.read_text(encoding="utf-8"))
    recipe.write_text(json.dumps({**told, "corruption": corruption}), encoding="utf-8")
    found = ran("sample", saying_nothing, "-i", "the [MASK*4] sings", "--json").lines[0]
    if corruption == "absorb":
        assert found["tokens"] == 4
        assert found["filled"] != [""]
    else:
        assert (found["text"], found["filled"], found["tokens"]) == ("the sings", [""], 0)
    assert ran("sample", saying_nothing, "--length", 5, "--json").lines[0]["tokens"] == 5


# ---- the judge ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader() -> SimpleNamespace:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=16, **sizes)).eval()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: n for n, c in enumerate(letters)} | {"<|end|>": 256}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")
    return SimpleNamespace(model=network, tokenizer=tokenizer, max_positions=16)


def slowly(reader: SimpleNamespace, text: str) -> float:
    """-log p by plain passes over pieces of 15 tokens behind the opening."""
    ids, total = reader.tokenizer(text, add_special_tokens=False).input_ids, 0.0
    for at in range(0, len(ids), 15):
        part = torch.tensor([[256, *ids[at : at + 15]]])
        with torch.no_grad():
            log_p = reader.model(part).logits[0, :-1].double().log_softmax(-1)
        total -= float(log_p.gather(1, part[0, 1:, None]).sum())
    return total


def test_the_judge_reads_each_text_from_its_beginning(reader: SimpleNamespace) -> None:
    said = ["hello", "नमस्ते", "", "a text that is longer than the model may read at once"]
    found = ARJudge(reader, "tiny").nats(said)
    assert found.nats.tolist() == pytest.approx([slowly(reader, t) if t else 0 for t in said], rel=1e-4)
    assert found.bytes.tolist() == found.tokens.tolist() == [len(t.encode()) for t in said]


def test_none_judges_nothing() -> None:
    assert load_judge("none", lambda *told: None) is None


# ---- sample ---------------------------------------------------------------------------------------------


def test_sample_tells_text_calls_steps_and_milliseconds(model: Path) -> None:
    one = ran("sample", model, "--length", 16, "--steps", 4, "--json").lines[0]
    assert 1 <= one["calls"] <= one["steps"] <= 4
    assert one["milliseconds"] > 0
    assert one["tokens"] == 16
    again = ran("sample", model, "--length", 16, "--steps", 4, "--json").lines[0]
    assert again["text"] == one["text"]
    plain = ran("sample", model, "--length", 16, "--steps", 4)
    assert "calls" in plain.err
    assert "ms" in plain.err
    assert plain.out.strip()


def test_sample_many_have_seeds_of_their_own(model: Path) -> None:
    lines = ran("sample", model, "--length", 16, "--count", 3, "--seed", 5, "--json").lines
    assert [line["seed"] for line in lines] == [5, 6, 7]
    assert len({line["text"] for line in lines}) == 3


@pytest.mark.parametrize("prompt", ["the cat sees", "नमस्ते दुनिया", ""])
def test_sample_goes_on_from_a_prompt(model: Path, prompt: str) -> None:
    found = ran("sample", model, "--prompt", prompt, "--length", 8, "--json").lines[0]
    assert found["text"].startswith(prompt)
    assert found["tokens"] == 8


def test_sample_weighs_what_is_given(model: Path) -> None:
    plain, guided = (
        ran("sample", model, "-i", "the [MASK*12] sings", "--guidance", w, "--json") for w in (0, 3)
    )
    assert plain.lines[0]["filled"] != guided.lines[0]["filled"]


def test_sample_writes_block_by_block_what_is_too_long_to_read(model: Path) -> None:
    prompt = "the cat sees a bird and " * 20
    found = ran("sample", model, "--prompt", prompt, "--length", 30, "--steps", 2, "--json")
    assert found.lines[0]["text"].startswith(prompt)
    assert "block by block" in found.err


def test_sample_fills_holes_and_keeps_the_rest(model: Path) -> None:
    text = "the [MASK*3] sings to ___ और [MASK]!"
    found = ran("sample", model, "--infill", text, "--json").lines[0]
    assert len(found["filled"]) == 3
    a, b, c = found["filled"]
    assert found["tokens"] == 7
    if "\ufffd" not in found["text"]:
        assert found["text"] == f"the{a} sings to{b} और{c}!"
    assert found["text"].startswith("the")
    assert found["text"].endswith("!")


@pytest.mark.parametrize("live", [False, True])
def test_sample_shows_the_text_as_it_emerges(model: Path, live: bool) -> None:
    found = ran("sample", model, "--infill", "the [MASK*4] sings", "--steps", 4, "--watch", live=live)
    shown = found.err.split("seed")[0]
    if not live:
        assert shown.count("left:") == 3  # by the conservative plan the first of four rounds reveals nothing
    assert "░" in shown
    assert "░" not in found.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--order", "best"), "confidence, certainty, margin, entropy, strategic"),
        (("--order", "strategic", "--length", "4"), "strategy"),
        (("--infill", "no hole"), "nothing to fill"),
        (("--infill", "a [MASK*0]"), "one at least"),
        (("--infill", "a [MASK*-1]"), "one at least"),
        (("--infill", "a [MASK*99999999]"), "room for"),
        (("--infill", "[MASK*60000][MASK*60000]"), "room for"),
        (("--infill", "___", "--prompt", "a"), "one of the two"),
        (("--infill", "___", "--length", "3"), "leave it out"),
        (("--infill", "___", "--guidance", "nan"), "a weight"),
        (("--prompt", "a", "--length", "400", "--guidance", "1"), "at most"),
        (("--temperature", "-1"), "temperature"),
        (("--temperature", "nan"), "temperature"),
        (("--top-p", "0"), "top_p"),
        (("--threshold", "0"), "threshold"),
        (("--remask", "2"), "2"),
        (("--remask", "0.1", "--set", "remask=cap:0.1"), "one of the two"),
        (("--device", "mps"), "float64"),
        (("--steps", "0"), "--steps"),
        (("--length", "100001"), "--length"),
    ],
)
def test_sample_refuses_in_a_line(
    model: Path, arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ran("sample", model, *arguments, code=2)
    err = " ".join((found.err or capsys.readouterr().err).split())
    assert told in err
    assert "Traceback" not in err
    assert found.out == ""


def test_a_text_with_control_characters_steers_no_terminal(model: Path) -> None:
    found = ran("sample", model, "--infill", "\x1b[2J ___", "--temperature", "0")
    assert "\x1b" not in found.out


def test_templates_by_hand() -> None:
    found = template("ab ___c[MASK]", lambda t: [ord(c) for c in t], -1, 100)
    assert found.ids == (97, 98, -1, -1, -1, 99, -1)
    assert found.holes == ((2, 3), (6, 1))
    assert spelt(found.ids, -1, lambda ids: "".join(map(chr, ids))) == "ab░░░c░"
    assert template("__init__ ____", lambda t: [ord(c) for c in t], -1, 100).holes == ((8, 4),)
    with pytest.raises(InvalidInput, match="at most 5"):
        template("[MASK]aaaaaaaa", lambda t: [ord(c) for c in t], -1, 5)


# ---- compare --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twin(model: Path) -> Path:
    copy = model.parent / "twin"
    shutil.copytree(model, copy)
    return copy


def test_compare_tells_rules_numbers_and_a_decision(model: Path, twin: Path) -> None:
    out = ran("compare", model, twin, *QUICK, *PACE, width=140).out
    for word in (
        "may twin replace baseline?",
        "sampling throughput",
        "likelihood bound",
        "stability",
        "peak memory",
    ):
        assert word in out
    assert "decision: " in out
    assert "cost of a call" in out


def test_compare_as_json_finds_a_twin_equal(model: Path, twin: Path) -> None:
    found = ran("compare", model, twin, *QUICK, *PACE, "--json").lines[0]
    assert found["mismatches"] == []
    assert found["gaps"]["twin"]["bits_per_byte"] == [0, 0, 0]
    rules = {o["rule"]: o["verdict"] == "holds" for o in found["decisions"]["twin"]["outcomes"]}
    assert rules["likelihood bound"]
    assert rules["peak memory"]
    assert found["primary"] in ("baseline", "twin")
    assert found["results"]["twin"]["training_tokens_per_second"] > 0


def test_compare_trains_configs_first_and_refuses_what_is_not_comparable(texts: Path, tmp_path: Path) -> None:
    a = config(tmp_path / "a.toml", texts)
    wide = config(tmp_path / "wide.toml", texts, d_ff=400)
    long = config(tmp_path / "long.toml", texts, max_steps=7)
    for other, told in ((wide, "parameters"), (long, "tokens")):
        err = ran("compare", a, other, "--out", tmp_path / "out", *QUICK, *PACE, code=2).err
        assert told in err
    assert not (tmp_path / "out").exists()
    b = config(tmp_path / "b.toml", texts, arch="eco_hybrid", memory_slots=2, conv_kernel=3)
    asked = ("compare", a, b, "--out", tmp_path / "out", *QUICK, *PACE)
    found = ran(*asked, "--unmatched", "--json").lines[0]
    assert set(found["results"]) == {"a", "b"}
    assert found["results"]["b"]["slot_entropy"] is not None
    assert (tmp_path / "out" / "b" / "model.safetensors").is_file()
    assert found["mismatches"]
    assert all("parameters" in m for m in found["mismatches"])


def test_compare_trains_nothing_for_one_folder_twice(model: Path, texts: Path, tmp_path: Path) -> None:
    a, out = config(tmp_path / "a.toml", texts), tmp_path / "out"
    for twice in ((a, a), (a, out / "a"), (model, out / "." / "a", a)):
        out.joinpath("a").mkdir(parents=True, exist_ok=True)
        err = ran("compare", *twice, "--out", out, *QUICK, *PACE, "--unmatched", code=2).err
        assert "one folder" in err
        assert not list((out / "a").iterdir())


def test_compare_refuses_another_seed_with_its_name(model: Path, twin: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(twin, other)
    recipe = json.loads((other / "recipe.json").read_text())
    (other / "recipe.json").write_text(json.dumps(recipe | {"seed": 3}))
    assert "other: seed 3, baseline has 0" in ran("compare", model, other, *QUICK, *PACE, code=2).err
    assert "not matched: other: seed 3" in ran("compare", model, other, *QUICK, *PACE, "--unmatched").out


def test_a_run_that_did_not_end_is_not_stable(model: Path, twin: Path, tmp_path: Path) -> None:
    other = tmp_path / "stopped"
    shutil.copytree(twin, other)
    recipe = json.loads((other / "recipe.json").read_text())
    (other / "recipe.json").write_text(json.dumps(recipe | {"max_steps": 600}))
    found = ran("compare", model, other, *QUICK, *PACE, "--json").lines[0]
    outcomes = {o["rule"]: o["verdict"] for o in found["decisions"]["stopped"]["outcomes"]}
    assert outcomes["stability"] == "fails"
    assert found["primary"] == "baseline"


def test_compare_needs_two_and_knows_what_they_are(model: Path, tmp_path: Path) -> None:
    assert "two denoisers" in ran("compare", model, code=2).err
    (tmp_path / "x.txt").write_text("x")
    assert "expected a folder" in ran("compare", model, tmp_path / "x.txt", code=2).err
    assert "expected a folder" in ran("compare", model, tmp_path / "none", code=2).err


def test_results_go_to_stdout_and_all_else_to_stderr(model: Path) -> None:
    screen = Screens(out=io.StringIO())
    assert screen.halo("eval", model, *QUICK, "--json") == 0
    assert len(screen.lines) == 1
