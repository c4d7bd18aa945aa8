# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""`halo eval --suite indic` on a denoiser made in a second, and on data that is not as it should be."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny_denoiser
from terminal import Screens

from haloweave.diffusion.checkpoint import begin, save
from haloweave.diffusion.tokenizer import Tokenizer, train_tokenizer
from haloweave.errors import InvalidInput
from haloweave.language_suite import digest, evaluation_set, lexicon

QUICK = ("--samples", 1, "--infills", 2, "--draws", 1, "--blocks", 12, "--steps", 3)
VOCABULARY = {
    "english": "the cat and a dog of that was on his bed with all this for",
    "hindi": "यह एक छोटा घर है और नदी के पास बड़ा पेड़ बिल्ली सोती मेज़",
    "hinglish": "yeh ek chhota ghar hai aur nadi ke paas bada ped billi soti",
    "mixed": "यह React में state और props के साथ JavaScript को manage करते हैं",
}


def texts(name: str, count: int, seed: int) -> list[str]:
    rng = random.Random(f"{name} {seed}")
    return [" ".join(rng.choices(VOCABULARY[name].split(), k=60)) for _ in range(count)]


def write(folder: Path, seed: int, names: tuple[str, ...] = tuple(VOCABULARY), count: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts(name, count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("indic")
    write(root / "train", 1)
    write(root / "held", 2)
    (root / "pairs.tsv").write_text("ghar\tघर\t3\nnadi\tनदी\t2\nped\tपेड़\t2\nपास\tpaas\nbilli\tबिल्ली\t1\n")
    return root


def made(folder: Path, words: Tokenizer, **told: Any) -> Path:
    denoiser = tiny_denoiser.denoiser(words)
    begin(folder, denoiser, words, {})
    save(folder, denoiser, words, told)
    return folder


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer((t for n in VOCABULARY for t in texts(n, 20, 3)), vocab_size=500)


@pytest.fixture(scope="module")
def model(data: Path, words: Tokenizer) -> Path:
    return made(data / "model", words, data=[str(data / "train")])


def ran(*arguments: object, code: int = 0, **screen: Any) -> Screens:
    one = Screens(**screen)
    assert one.halo(*arguments) == code, one.err
    return one


def suite(model: Path, data: Path, *more: object, code: int = 0, width: int = 120) -> Screens:
    asked = ("eval", model, "--suite", "indic", "--data", data, *QUICK)
    return ran(*asked, *more, code=code, width=width)


def test_the_suite_tells_every_measure_and_the_digest(model: Path, data: Path) -> None:
    out = suite(model, data, "--lexicon", data / "pairs.tsv").out
    for told in (
        digest(data / "held"),
        "no passage of it is in",
        "bits per byte, at most",
        "script: devanagari",
        "words in two scripts at once",
        "words written anew",
        "texts off their prompt's mix",
        "broken clusters",
        "CMI",
        "one word in two scripts",
        "chance",
        "tokens per character",
        *VOCABULARY,
    ):
        assert told in out


def test_the_suite_as_json_is_the_same_again(model: Path, data: Path) -> None:
    found, again = (suite(model, data, "--json").lines[0] for _ in range(2))
    assert found == again
    assert found["evaluation_set"] == digest(data / "held")
    assert found["missing"] == []
    assert set(found["languages"]) == {*VOCABULARY, "all"}
    for one in found["languages"].values():
        value, low, high = one["bits_per_byte"]
        assert low <= value <= high
    assert found["languages"]["all"]["rows"] == 12
    assert found["suite"] == "indic"


def test_held_is_found_in_the_corpus_or_given_itself(model: Path, data: Path) -> None:
    assert suite(model, data / "held", "--json").lines == suite(model, data, "--json").lines


def test_a_missing_language_is_named_and_the_others_measured(model: Path, tmp_path: Path, data: Path) -> None:
    write(tmp_path, 2, ("english", "hindi"))
    (tmp_path / "mixed.jsonl").write_text("")
    found = suite(model, tmp_path, "--json").lines[0]
    assert found["missing"] == ["hinglish", "mixed"]
    assert set(found["languages"]) == {"english", "hindi", "all"}
    assert "no text in hinglish, mixed" in suite(model, tmp_path).out


def test_text_that_was_trained_on_is_refused_and_not_shown(model: Path, data: Path, tmp_path: Path) -> None:
    write(tmp_path, 2)
    leaked = texts("hindi", 1, 1)[0]
    with (tmp_path / "hindi.jsonl").open("a") as file:
        file.write(json.dumps({"text": leaked}) + "\n")
    err = " ".join(suite(model, tmp_path, code=2).err.split())
    assert "1 of 25 evaluation documents (4.0%) were trained on" in err
    assert "--trained-on" in err
    assert leaked[:20] not in err
    assert "NOT looked for" in suite(model, tmp_path, "--unchecked").out
    assert "no passage" in suite(model, tmp_path, "--trained-on", data / "train" / "english.jsonl").out


def test_training_text_that_is_gone_or_not_told_wants_an_answer(
    data: Path, words: Tokenizer, tmp_path: Path
) -> None:
    for told in ({}, {"data": [str(tmp_path / "gone")]}):
        bare = made(tmp_path / f"bare{len(told)}", words, **told)
        err = " ".join(suite(bare, data, code=2).err.split())
        assert "--trained-on" in err
        assert "--unchecked" in err
        suite(bare, data, "--trained-on", data / "train", "--json")
        assert suite(bare, data, "--unchecked", "--json").lines[0]["not_found_in"] == []


def test_a_tokenizer_that_lacks_a_script_still_answers(data: Path, tmp_path: Path) -> None:
    latin = train_tokenizer(texts("english", 20, 3), vocab_size=500)
    model = made(tmp_path / "latin", latin, data=[str(data / "train")])
    out = suite(model, data, "--lexicon", data / "pairs.tsv").out
    assert "the tokenizer lacks devanagari" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--suite", "klingon"), "expected indic"),
        (("--suite", "indic"), "expected one --data"),
        (("--lexicon", "x"), "for --suite indic"),
        (("--unchecked",), "for --suite indic"),
        (("--suite", "indic", "--data", "nowhere"), "halo corpus"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(model: Path, arguments: tuple[str, ...], told: str) -> None:
    err = ran("eval", model, *arguments, code=2).err
    assert told in " ".join(err.split())
    assert "Traceback" not in err


def test_the_evaluation_set_survives_joiners_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    good = json.dumps({"text": "क्\u200dया चिट्\u200cठी " * 4}, ensure_ascii=False).encode()
    (tmp_path / "hindi.jsonl").write_bytes(good + b"\n" + good.replace("या".encode(), b"\xff\xfe"))
    found = evaluation_set(tmp_path)
    assert len(found.documents["hindi"]) == 2
    assert "\u200d" in found.documents["hindi"][0]
    assert "\ufffd" in found.documents["hindi"][1]
    before = found.digest
    (tmp_path / "hindi.jsonl").write_bytes(good)
    assert evaluation_set(tmp_path).digest != before


def test_an_evaluation_set_without_texts_is_none(tmp_path: Path) -> None:
    (tmp_path / "hindi.jsonl").write_text("")
    with pytest.raises(InvalidInput, match="halo corpus"):
        evaluation_set(tmp_path)


def test_a_lexicon_has_its_columns_either_way_and_the_best_attested_first(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("hath\tहाथ\t1\nHaath\tहाथ\t4\nघर\tghar\nno pair\n12\t13\n\tx\n", encoding="utf-8")
    found = lexicon(tmp_path)
    assert found.romanised == {"हाथ": ("haath", "hath"), "घर": ("ghar",)}
    assert found.native["hath"] == ("हाथ",)
    path.write_text("nothing here\n")
    with pytest.raises(InvalidInput, match="Devanagari"):
        lexicon(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        lexicon(tmp_path / "gone.tsv")
