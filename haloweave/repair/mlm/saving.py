# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A model and its tokenizer to a folder that transformers reads.

Knows files, and what of a tokenizer is not worth keeping. Must not know training.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from haloweave.errors import ModelError
from haloweave.loading import quiet
from haloweave.repair.mlm.base import Base, positions
from haloweave.repair.mlm.checkpoint import sync

_NOT_OURS = ("is_local", "local_files_only", "max_length", "stride", "truncation_side", "truncation_strategy")
"""Of a tokenizer's configuration: where it was loaded from, and where it once cut texts off."""


def save(base: Base, target: Path, card: str) -> None:
    """Write a folder that transformers reads, with its model card; each file is whole or as it was before.

    Raises ModelError if it cannot be written.
    """
    with _aside(target) as aside, quiet():
        base.model.save_pretrained(aside)
        _save_tokenizer(base, aside)
        _write_card(aside, card)


def save_card(target: Path, card: str) -> None:
    """Another card for a folder. Raises ModelError if it cannot be written."""
    with _aside(target) as aside:
        _write_card(aside, card)


def _write_card(target: Path, card: str) -> None:
    (target / "README.md").write_text(card, encoding="utf-8", newline="\n")


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder for files that replace those of `target` when all of them are there."""
    aside = target / ".new"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        for file in sorted(aside.iterdir()):
            file.chmod(0o644)  # safetensors writes for the owner alone
            sync(file)
            file.replace(target / file.name)
        sync(target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{target}: cannot be written ({error}); make room, or choose another --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _save_tokenizer(base: Base, target: Path) -> None:
    backend = base.tokenizer.backend_tokenizer
    base.tokenizer.model_max_length = positions(base)
    base.tokenizer.save_pretrained(target)
    file = target / "tokenizer_config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    kept = {k: v for k, v in told.items() if k not in _NOT_OURS}
    file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    backend.encode_special_tokens = False  # whoever uses the folder may write [MASK]
    backend.save(str(target / "tokenizer.json"), pretty=False)
    backend.encode_special_tokens = True
    if json.loads(backend.to_str())["model"]["type"] == "WordPiece":
        words = [backend.id_to_token(i) for i in range(backend.get_vocab_size())]
        (target / "vocab.txt").write_text("\n".join([*words, ""]), encoding="utf-8", newline="\n")
