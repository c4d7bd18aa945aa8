# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Rebuild the tokenizer that a GGUF file describes, for the tokenizers library.

Knows the two kinds llama.cpp stores (byte-level BPE, SentencePiece BPE) and how the pre-tokenizers we can
vouch for split text. Must not know weights, configs or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from haloweave.errors import ModelCorrupt, ModelError, ModelUnsupported
from haloweave.gguf_header import Header

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
_PRE_TOKENIZERS: Mapping[
    str, list[Any]
] = {  # by tokenizer.ggml.pre; an unknown name is refused, for a wrong split is a silent one
    "gpt-2": [_BYTES],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), _BYTES],
    "qwen2": [
        pre_tokenizers.Split(Regex(_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ],
}
_NORMAL, _CONTROL, _USER = 1, 3, 4
_LONGEST_TOKEN = 1024  # characters; the search for merges is quadratic in it


def tokenizer_of(header: Header, rows: int) -> Tokenizer:
    """The same tokenizer for the tokenizers library; a user-defined piece matches before any merge."""
    texts, kinds = strings(header, "tokens"), header.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != len(texts) or not len(set(texts)) == len(texts) <= rows:
        raise ModelCorrupt(f"{header.path}: {len(texts)} tokens do not fit their types or {rows} rows")
    if max(map(len, texts)) > _LONGEST_TOKEN:
        raise ModelCorrupt(f"{header.path}: a token longer than {_LONGEST_TOKEN} characters; fetch it again")
    try:
        return _dressed(header, _bare(header, texts, kinds), kinds)
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelCorrupt(f"{header.path}: not a tokenizer ({error}); fetch the file again") from error


def _dressed(header: Header, tokenizer: Tokenizer, kinds: list[int]) -> Tokenizer:
    """Add what is matched in the text itself (control tokens, user-defined pieces) and the token in front."""
    texts = [tokenizer.id_to_token(i) for i in range(len(kinds))]
    control = [text for text, kind in zip(texts, kinds, strict=True) if kind == _CONTROL]
    pieces = [text for text, kind in zip(texts, kinds, strict=True) if kind == _USER]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    tokenizer.add_tokens([AddedToken(text, normalized=True) for text in pieces])
    if header.metadata.get("tokenizer.ggml.add_bos_token") is True:
        bos = header.integer("tokenizer.ggml.bos_token_id", low=0, high=len(texts) - 1)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[texts[bos], "$A"], pair=[texts[bos], "$A", "$B"], special_tokens=[(texts[bos], bos)]
        )
    return tokenizer


def _bare(header: Header, texts: list[str], kinds: list[int]) -> Tokenizer:
    kind = header.text("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level(header, texts)
    if kind == "llama" and header.metadata.get("tokenizer.ggml.add_space_prefix") is False:
        return _sentence_piece(header, texts, kinds)
    raise ModelUnsupported(f"{header.path}: no way to convert a {kind!r} tokenizer; fetch it as safetensors")


def strings(header: Header, key: str) -> list[str]:
    values = header.metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise ModelCorrupt(f"{header.path}: tokenizer.ggml.{key} should be a list of strings; fetch it again")
    return values


def _byte_level(header: Header, texts: list[str]) -> Tokenizer:
    pre, vocabulary = header.text("tokenizer.ggml.pre"), {text: i for i, text in enumerate(texts)}
    if pre not in _PRE_TOKENIZERS:
        raise ModelUnsupported(f"{header.path}: unknown pre-tokenizer {pre!r}; fetch it as safetensors")
    pairs = [tuple(merge.split(" ")) for merge in strings(header, "merges")]
    if not all(len(pair) == 2 and {*pair, "".join(pair)} <= vocabulary.keys() for pair in pairs):
        raise ModelCorrupt(f"{header.path}: tokenizer.ggml.merges speaks of tokens that are not there")
    tokenizer = Tokenizer(models.BPE(vocabulary, [(pair[0], pair[1]) for pair in pairs]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_PRE_TOKENIZERS[pre])
    tokenizer.normalizer = normalizers.NFC() if pre == "qwen2" else None
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(header: Header, texts: list[str], kinds: list[int]) -> Tokenizer:
    """SentencePiece stores scores, not merges: a piece's merges are its possible halves, best score first."""
    scores = header.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(texts):
        raise ModelCorrupt(f"{header.path}: tokenizer.ggml.scores should hold {len(texts)} numbers")
    texts = [
        text.replace(" ", "▁") if kind == _USER else text for text, kind in zip(texts, kinds, strict=True)
    ]
    ids = {text: i for i, text in enumerate(texts) if kinds[i] == _NORMAL}
    merges = []
    for text in sorted(ids, key=lambda text: -scores[ids[text]]):
        halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        pairs = [pair for pair in halves if ids.keys() >= {*pair}]
        merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    unknown = texts[header.integer("tokenizer.ggml.unknown_token_id", low=0, high=len(texts) - 1)]
    vocabulary = {text: i for i, text in enumerate(texts)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    spaces = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer
