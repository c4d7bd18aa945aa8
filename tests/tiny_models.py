# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Tiny random causal LMs, one per architecture the engine must serve: no files, no tokenizer, no network.

Knows transformers' configs and model classes. Must not know the engine, the reference or any test.
Weights are drawn large, so that attention is far from uniform and the logits are of order 1: with the usual
0.02 every row weighs the same and a wrong position or a missing row would hardly show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 256
WINDOW = 16  # sliding windows, where a model has them: shorter than any test's context

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_GQA: dict[str, Any] = {**_SHAPE, "num_key_value_heads": 2, "head_dim": 16}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0}
_LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # so that pairs fall on both sides and in between
}


def llama(seed: int) -> PreTrainedModel:
    return _grown(LlamaForCausalLM, LlamaConfig(**_GQA, rope_parameters=dict(_ROPE)), seed)


def llama3_rope(seed: int) -> PreTrainedModel:
    return _grown(LlamaForCausalLM, LlamaConfig(**_GQA, rope_parameters=dict(_LLAMA3)), seed)


def mistral(seed: int) -> PreTrainedModel:
    config = MistralConfig(**_GQA, sliding_window=WINDOW, rope_parameters=dict(_ROPE))
    return _grown(MistralForCausalLM, config, seed)


def qwen2(seed: int) -> PreTrainedModel:
    # head_dim is not a field of Qwen2Config: hidden_size / heads gives the same 16
    shape = {k: v for k, v in _GQA.items() if k != "head_dim"}
    return _grown(Qwen2ForCausalLM, Qwen2Config(**shape, rope_parameters=dict(_ROPE)), seed)


def qwen3(seed: int) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    return _grown(Qwen3ForCausalLM, Qwen3Config(**_GQA, rope_parameters=rope), seed)


def gemma3(seed: int) -> PreTrainedModel:
    config = Gemma3TextConfig(
        **{**_GQA, "num_hidden_layers": 4, "num_key_value_heads": 1},
        query_pre_attn_scalar=16,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
        },
    )
    return _grown(Gemma3ForCausalLM, config, seed)


def phi(seed: int) -> PreTrainedModel:
    rope = {**_ROPE, "partial_rotary_factor": 0.5}
    return _grown(PhiForCausalLM, PhiConfig(**_SHAPE, rope_parameters=rope), seed)


def gpt_neox(seed: int) -> PreTrainedModel:
    return _grown(GPTNeoXForCausalLM, _gpt_neox_config(use_parallel_residual=True), seed)


def gpt_neox_sequential(seed: int) -> PreTrainedModel:
    return _grown(GPTNeoXForCausalLM, _gpt_neox_config(use_parallel_residual=False), seed)


def gpt2(seed: int) -> PreTrainedModel:
    """Absolute positions: rows cannot move, so only RECOMPUTE is possible."""
    shape = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}
    config = GPT2Config(vocab_size=VOCAB, **shape, bos_token_id=None, eos_token_id=None)
    return _grown(GPT2LMHeadModel, config, seed)


ARCHITECTURES: dict[str, Callable[[int], PreTrainedModel]] = {
    "llama": llama,
    "llama3_rope": llama3_rope,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma3": gemma3,
    "phi": phi,
    "gpt_neox": gpt_neox,
    "gpt_neox_sequential": gpt_neox_sequential,
    "gpt2": gpt2,
}


def _gpt_neox_config(use_parallel_residual: bool) -> GPTNeoXConfig:
    rope = {**_ROPE, "partial_rotary_factor": 0.25}
    return GPTNeoXConfig(**_SHAPE, rope_parameters=rope, use_parallel_residual=use_parallel_residual)


def _grown(model_class: type[PreTrainedModel], config: Any, seed: int) -> PreTrainedModel:
    """A model whose every weight depends on the seed alone: fp32, eval mode, no gradients."""
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights of its own
        model = model_class(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = 0.17 * torch.randn(parameter.shape, generator=generator)
        # vectors (norms, biases) keep their neutral start of 0 or 1, shaken enough to matter
        parameter.data = noise if parameter.ndim > 1 else parameter.data + noise
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            parameter.data += 0.5  # unit queries and keys alone would leave attention nearly uniform
        parameter.requires_grad_(False)
    return model.eval()
