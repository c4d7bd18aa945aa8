# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Tiny random masked LMs with their tokenizers, and a host codec, all made in code: no files, no network.

Knows transformers' configs and model classes, and `tokenizers`. Must not know any test.

The vocabularies differ on purpose. The host writes `lovely` in two tokens and the masked LMs in one; of
`garden` it is the other way round; `talking` is one token of the host, `walking` two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from haloweave.engine.hf.text import HFCodec
from haloweave.repair.masked_lm import MaskedLM

COMMON = [
    *("the", "a", "cat", "dog", "sat", "ran", "walk", "talk", "on", "in", "of", "mat", "rug", "big", "red"),
    *(
        "house",
        "tree",
        "was",
        "and",
        "but",
        "she",
        "he",
        "said",
        "alice",
        "i",
        "old",
        "new",
        "river",
        "little",
    ),
]
"""Words of one token on both sides."""
TEXT = "The cat sat on the mat, and the big dog ran. Alice said: the lovely old garden was walking red!\n"
CONTROL = ("<|im_start|>", "<|im_end|>")
LIMIT = 48
"""Tokens that a tiny masked LM can read, frame included."""

_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_HIDDEN = 32


# ---- tokenizers --------------------------------------------------------------------------------------


def wordpiece() -> Tokenizer:
    """Uncased, as BERT's: lower case, accents stripped, `##` before what goes on."""
    marks = [chr(c) for c in range(0x21, 0x7F) if not chr(c).isalpha()]
    letters = [*"abcdefghijklmnopqrstuvwxyz", "\u0915", "\u092e", "\u0932"]
    words = [*COMMON, "lovely", "gar", "cafe"]
    pieces = [f"##{p}" for p in ("ing", "ed", "s", "den", "ly", *letters)]
    vocabulary = dict.fromkeys([*_BERT, *words, *letters, *marks, *pieces])
    made = Tokenizer(models.WordPiece({t: n for n, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens([AddedToken(t, special=True) for t in _BERT])
    _frame(made, "[CLS]", "[SEP]")
    return made


def byte_level(words: Sequence[str], special: Sequence[str], *, first: bool = True) -> Tokenizer:
    """A byte-level BPE that writes each of `words` as one token, with a space before it and without."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    words = [_as_bytes(w) for w in words]
    for word in [*(f"Ġ{w}" for w in words), *words]:
        for n in range(1, len(word)):
            merges.setdefault((word[:n], word[n]))
    tokens = [*alphabet, *dict.fromkeys(a + b for a, b in merges)]
    tokens = [*special, *tokens] if first else [*tokens, *special]
    made = Tokenizer(models.BPE({t: n for n, t in enumerate(tokens)}, list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True) for t in special])
    return made


def _as_bytes(word: str) -> str:
    """A word in the printable characters by which byte-level BPE writes bytes."""
    return "".join(t for t, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(word))


def roberta_tokenizer() -> Tokenizer:
    """Cased, as RoBERTa's: a space belongs to the token after it."""
    names = [w.capitalize() for w in COMMON]
    made = byte_level([*names, *COMMON, "lovely", "gar", "den", "ing", "I"], _ROBERTA)
    _frame(made, "<s>", "</s>")
    return made


def modernbert_tokenizer() -> Tokenizer:
    """The same, with BERT's control tokens behind the words."""
    made = byte_level([*(w.capitalize() for w in COMMON), *COMMON, "lovely", "ing"], _BERT, first=False)
    _frame(made, "[CLS]", "[SEP]")
    return made


def sentencepiece() -> Tokenizer:
    """A Unigram over metaspaces, as XLM-R's."""
    words = [f"\u2581{w}" for w in (*COMMON, "lovely")]
    letters = [*"abcdefghijklmnopqrstuvwxyz,.!\u2581"]
    scores = [*((t, 0.0) for t in _ROBERTA), *((w, -5.0) for w in words), *((c, -9.0) for c in letters)]
    made = Tokenizer(models.Unigram(scores, unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens([AddedToken(t, special=True) for t in _ROBERTA])
    _frame(made, "<s>", "</s>")
    return made


_HOST = [
    *(w.capitalize() for w in COMMON),
    *COMMON,
    *("love", "ly", "garden", "talking", "ing", "ed", "café", "cafe", "I", "matin", "!\u200d", "\u0301"),
]


def host_codec() -> HFCodec:
    """A byte-level host with control tokens; every common word, capital or not, is one token."""
    made = byte_level(_HOST, CONTROL, first=False)
    return HFCodec(PreTrainedTokenizerFast(tokenizer_object=made, eos_token=CONTROL[1]))


def metaspace_codec() -> HFCodec:
    """The same words as Llama 2 writes them: spaces are letters, rare characters are bytes."""
    letters = dict.fromkeys("\u2581" + "".join(_HOST) + "bcdefghijklmnopqrstuvwxyz.,;:'<>[]|\"-_/#")
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    merges: dict[tuple[str, str], None] = {}
    for word in [*(f"\u2581{w}" for w in _HOST), *_HOST]:
        for n in range(1, len(word)):
            merges.setdefault((word[:n], word[n]))
    tokens = dict.fromkeys(["<unk>", *CONTROL, *bytes_, *letters, *(a + b for a, b in merges)])
    vocabulary = {t: n for n, t in enumerate(tokens)}
    made = Tokenizer(
        models.BPE(vocabulary, list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", *CONTROL)])
    return HFCodec(PreTrainedTokenizerFast(tokenizer_object=made, eos_token=CONTROL[1], unk_token="<unk>"))


def _frame(tokenizer: Tokenizer, opening: str, closing: str) -> None:
    ids = [(t, tokenizer.token_to_id(t)) for t in (opening, closing)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{opening} $A {closing}", special_tokens=ids
    )


# ---- models ------------------------------------------------------------------------------------------


def bert(seed: int = 0) -> tuple[PreTrainedModel, Tokenizer]:
    tokenizer = wordpiece()
    config = BertConfig(**_shape(tokenizer), intermediate_size=48, max_position_embeddings=LIMIT)
    return _grown(BertForMaskedLM, config, seed), tokenizer


def distilbert(seed: int = 0) -> tuple[PreTrainedModel, Tokenizer]:
    tokenizer = wordpiece()
    config = DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        dim=_HIDDEN,
        n_layers=2,
        n_heads=2,
        hidden_dim=48,
        max_position_embeddings=LIMIT,
        pad_token_id=0,
    )
    return _grown(DistilBertForMaskedLM, config, seed), tokenizer


def roberta(seed: int = 0) -> tuple[PreTrainedModel, Tokenizer]:
    """Positions begin behind the padding index, 1."""
    tokenizer = roberta_tokenizer()
    shape = _shape(tokenizer) | {"pad_token_id": 1}
    config = RobertaConfig(**shape, intermediate_size=48, max_position_embeddings=LIMIT + 2)
    return _grown(RobertaForMaskedLM, config, seed), tokenizer


def modernbert(seed: int = 0) -> tuple[PreTrainedModel, Tokenizer]:
    """Rotary positions, and layers that see their neighbourhood alone."""
    tokenizer = modernbert_tokenizer()
    ids = {f"{n}_token_id": tokenizer.token_to_id(f"[{t}]") for n, t in _MODERN_CONTROL.items()}
    config = ModernBertConfig(
        **{**_shape(tokenizer), **ids},
        intermediate_size=48,
        max_position_embeddings=LIMIT,
        local_attention=8,
        global_attn_every_n_layers=2,
    )
    return _grown(ModernBertForMaskedLM, config, seed), tokenizer


_MODERN_CONTROL = {"pad": "PAD", "cls": "CLS", "sep": "SEP", "bos": "CLS", "eos": "SEP"}

ARCHITECTURES: dict[str, Callable[[int], tuple[PreTrainedModel, Tokenizer]]] = {
    "bert": bert,
    "distilbert": distilbert,
    "roberta": roberta,
    "modernbert": modernbert,
}


def mask_id(tokenizer: Tokenizer) -> int:
    found = tokenizer.token_to_id("[MASK]")
    return int(tokenizer.token_to_id("<mask>") if found is None else found)


def masked_lm(name: str, seed: int = 0, **options: Any) -> MaskedLM:
    """A whole masked LM of random weights."""
    model, tokenizer = ARCHITECTURES[name](seed)
    return MaskedLM(model, tokenizer, mask_id(tokenizer), **options)


def save(folder: Path, name: str = "bert", seed: int = 0) -> Path:
    """The folder that `save_pretrained` makes, model and tokenizer."""
    model, tokenizer = ARCHITECTURES[name](seed)
    mask = "<mask>" if name == "roberta" else "[MASK]"
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token=mask).save_pretrained(folder)
    return folder


def _shape(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": _HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "pad_token_id": 0,
    }


def _grown(model_class: type[PreTrainedModel], config: Any, seed: int) -> PreTrainedModel:
    """A model whose every weight depends on the seed alone: fp32, eval mode, no gradients. Weights are large
    enough for the context to matter."""
    with torch.random.fork_rng(devices=[]):
        model = model_class(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = 0.25 * torch.randn(parameter.shape, generator=generator)
        parameter.data = noise if parameter.ndim > 1 else parameter.data + noise
        parameter.requires_grad_(False)
    return model.eval()
