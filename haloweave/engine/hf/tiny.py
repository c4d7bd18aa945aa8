# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A random Llama of two layers, made on the spot: for self-checks and for streams of a million tokens."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

VOCABULARY = 512


def tiny_llama(rows: int, *, sharpness: float = 1.0, seed: int = 0) -> PreTrainedModel:
    """The model, for contexts of `rows` rows. As drawn, attention is so even that a wrong row would hardly
    show; `sharpness` multiplies the weights of its layers."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max(rows, 64),
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.eval()
    model.requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed" not in name:
            weight.mul_(sharpness)
    return model
