# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A causal LM of three small layers in a folder, whose tokens are bytes: a host to borrow from and to be
taught by.

Knows transformers and tokenizers. Must not know any test.
"""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tiny_models import llama
from transformers import PreTrainedTokenizerFast


def host(folder: Path, seed: int = 0) -> Path:
    """The folder, as transformers saves it; the same for the same seed."""
    pieces = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({p: i for i, p in enumerate(pieces)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    llama(seed).save_pretrained(folder)
    return folder
