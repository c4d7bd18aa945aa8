# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a run starts from: a folder with an encoder or a masked LM.

Knows transformers, and what a safe folder looks like. Must not know text or training. No pickle is read, no
code from a folder is run, nobody is asked over the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from haloweave.errors import (
    ModelCorrupt,
    ModelNotFound,
    ModelUnsafe,
    ModelUnsupported,
)
from haloweave.loading import explained, quiet
from haloweave.repair.mlm.masking import Vocabulary
from haloweave.repair.mlm.score import head

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
_WITH_HEAD = ("ForMaskedLM", "ForPreTraining")


@dataclass(frozen=True, eq=False)
class Base:
    """A masked LM without dropout, in fp32, and its tokenizer."""

    model: Any
    tokenizer: Any
    vocabulary: Vocabulary

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts to ids; what looks like a special token is text."""
        found = self.tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]


def load(folder: Path, seed: int = 0) -> Base:
    """The model of a folder; an encoder gets a new head, drawn from `seed` and tied to its word embeddings.

    Raises a ModelError if there is none that can be trained.
    """
    _check_folder(folder)
    with quiet(), explained(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            raise ModelUnsupported(
                f"{folder}: {config.model_type!r} is no masked LM; expected BERT or its like"
            )
        for name in _DROPOUTS:  # a few million tokens do not overfit; and nothing is left to chance
            if hasattr(config, name):
                setattr(config, name, 0.0)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        words = _vocabulary(folder, tokenizer, config.vocab_size)
        whole = any(name.endswith(_WITH_HEAD) for name in config.architectures or ())
        model = _masked_lm(folder, config) if whole else _encoder(folder, config, seed)
        head(model)
    return Base(model, tokenizer, words)


def _check_folder(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelNotFound(f"{folder}: {name} is missing; save the model with save_pretrained")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and '"auto_map"' in (folder / name).read_text("utf-8", errors="replace"):
            raise ModelUnsafe(
                f"{folder / name}: wants to run code of its own (auto_map), which is never done"
            )


def _masked_lm(folder: Path, config: Any) -> Any:
    model, report = AutoModelForMaskedLM.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        raise ModelCorrupt(f"{folder}: weights missing: {', '.join(missing[:5])}; fetch the model again")
    return model


def _encoder(folder: Path, config: Any, seed: int) -> Any:
    """The encoder's weights under a head that is drawn; its pooler, if any, is left behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    body = model.base_model
    prefix = f"{model.base_model_prefix}."
    found = {k.removeprefix(prefix): v for k, v in load_file(folder / "model.safetensors").items()}
    weights = {k: v for k, v in found.items() if k in body.state_dict()}
    if missing := sorted(body.state_dict().keys() - weights.keys()):
        raise ModelCorrupt(f"{folder}: weights missing: {', '.join(missing[:5])}; fetch the model again")
    body.load_state_dict(weights)
    model.tie_weights()
    return model


def _vocabulary(folder: Path, tokenizer: Any, rows: int) -> Vocabulary:
    """Ready the tokenizer for text of any length, and look up what masking must know of it."""
    if tokenizer.mask_token_id is None or not tokenizer.is_fast:
        raise ModelUnsupported(f"{folder}: the tokenizer has no mask token, or no tokenizer.json")
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    size = backend.get_vocab_size()
    if size > rows:
        raise ModelUnsupported(f"{folder}: the tokenizer knows {size} tokens, the model {rows}")
    tokens = [backend.id_to_token(i) or "" for i in range(size)]
    return Vocabulary(
        size=size,
        mask=tokenizer.mask_token_id,
        opening=_one(tokenizer.cls_token_id, tokenizer.bos_token_id),
        closing=_one(tokenizer.sep_token_id, tokenizer.eos_token_id),
        special=frozenset(tokenizer.all_special_ids),
        continues=_continues(tokens),
    )


def _one(*ids: int | None) -> tuple[int, ...]:
    return next(((i,) for i in ids if i is not None), ())


def _continues(tokens: Sequence[str]) -> np.ndarray:
    """WordPiece marks what goes on with a word (`##`), the others mark what begins one (`Ġ`, `▁`)."""
    if any(token.startswith("##") for token in tokens):
        return np.array([token.startswith("##") for token in tokens])
    return np.array([token[:1].isalnum() and token[0] != "Ġ" for token in tokens])


def positions(base: Base) -> int:
    """The longest text the model takes, in tokens."""
    return int(
        min(getattr(base.model.config, "max_position_embeddings", 1 << 30), base.tokenizer.model_max_length)
    )
