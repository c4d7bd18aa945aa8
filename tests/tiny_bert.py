# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A BERT encoder of two layers with a WordPiece vocabulary, as folders; and a toy language it can learn.

Knows transformers' configs and model classes. Must not know any test.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ANIMALS = {"cat": "mat", "dog": "log", "fox": "box", "goat": "boat", "mouse": "house", "frog": "bog"}
_VERBS = ("sits", "sleeps", "sings", "waits")
_WORDS = ("the", "on", "and", "then", ".", "near", "old", *_ANIMALS, *_ANIMALS.values())
_PIECES = ("s", "##it", "##its", "##leeps", "##ings", "w", "##aits", *"abcdefghijklmnopqrtuvxyz")
VOCABULARY = (*SPECIAL, *_WORDS, *_PIECES, *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"))


def toy_text(sentences: int, seed: int = 0) -> str:
    """Sentences in which the place follows from the animal, so that there is something to learn."""
    rng = random.Random(seed)
    lines = []
    for _ in range(sentences):
        animal = rng.choice(list(_ANIMALS))
        lines.append(
            f"The {animal} {rng.choice(_VERBS)} on the {_ANIMALS[animal]} and sings near the old log."
        )
    return "\n".join(lines) + "\n"


def tokenizer(*, padded: bool = False) -> Tokenizer:
    """WordPiece, lower-casing; `padded` as sentence encoders ship it, cut and filled to 16 tokens."""
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    ends = [(word, SPECIAL.index(word)) for word in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    made.add_special_tokens(list(SPECIAL))
    if padded:
        made.enable_padding(length=16)
        made.enable_truncation(16)
    return made


def config(**more: Any) -> BertConfig:
    sizes = {
        "hidden_size": 32,
        "initializer_range": 0.15,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    given = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 160, "pad_token_id": 0}
    return BertConfig(**(sizes | given | more))


def encoder(folder: Path, seed: int = 1) -> Path:
    """A folder with an encoder and no head, and a tokenizer that pads and truncates."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config()).save_pretrained(folder)
    return _with_tokenizer(folder)


def masked_lm(folder: Path, *, tied: bool = True) -> Path:
    """A folder with a masked LM, as transformers saves it."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        BertForMaskedLM(config(tie_word_embeddings=tied)).save_pretrained(folder)
    return _with_tokenizer(folder)


def _with_tokenizer(folder: Path) -> Path:
    tokenizer(padded=True).save(str(folder / "tokenizer.json"))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    told = {
        "tokenizer_class": "BertTokenizer",
        "model_max_length": 128,
        **dict(zip(names, SPECIAL, strict=True)),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# tiny\n")
    return folder
