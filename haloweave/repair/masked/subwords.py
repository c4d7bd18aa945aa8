# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A masked LM's tokenizer, as far as repair needs one: text to tokens with offsets, tokens back to text.

Knows Hugging Face `tokenizers` and three ways to write a word's beginning: WordPiece marks what goes on
(`##ing`), byte-level BPE and SentencePiece mark the space before. Must not know torch or the host's tokens.

    WordPiece      spaces are not written: a prediction has the spaces of what it replaces
    the others     a space belongs to the token: a prediction must have one where the original has one
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from tokenizers import Tokenizer, decoders

from haloweave.errors import ModelCorrupt, ModelUnsupported

_SENTENCEPIECE_SPACE = "\u2581"


class Subwords:
    """Encodes and spells for one masked LM. `mask_id`: its mask token.

    Text is encoded with control tokens switched off: a text that says `[MASK]` holds brackets and a word.
    """

    def __init__(self, tokenizer: Tokenizer, mask_id: int) -> None:
        # An own copy, so that switching things off changes nobody else's tokenizer.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        told = json.loads(self._tokenizer.to_str())
        self.mask_id = mask_id
        self.unknown = _unknown(self._tokenizer, told)
        self.opening, self.closing = _frame(self._tokenizer)
        controls = {t["id"] for t in told["added_tokens"] if t["special"]}
        self.special = frozenset({*controls, *self.opening, *self.closing, mask_id})
        """Ids that stand for no text."""
        self._continuing = told["model"].get("continuing_subword_prefix") or ""
        self._spell = _speller(told, self._continuing)
        normalizer = self._tokenizer.normalizer
        self.uncased = normalizer is not None and normalizer.normalize_str("A") == "a"
        self.strips_marks = normalizer is not None and "\u0941" not in normalizer.normalize_str(
            "\u0915\u0941"
        )
        """True if vowel signs above and below (Unicode Mn) are lost on this model."""

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> tuple[Int64[np.ndarray, " T"], Int64[np.ndarray, "T 2"]]:
        """Ids, and where each stands in the text, spaces around it left out."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(found.ids, np.int64)
        forged = np.isin(ids, list(self.special - {self.unknown}))
        if forged.any():
            ids[forged] = self._stand_in()
        spans = [_without_space(text, start, stop) for start, stop in found.offsets]
        return ids, np.array(spans, np.int64).reshape(-1, 2)

    def begins(self, token_id: int) -> bool:
        """True for a token that starts a word, as this tokenizer marks it."""
        token = self._tokenizer.id_to_token(token_id) or ""
        if self._continuing:
            return not token.startswith(self._continuing)
        return bool(self._spell([token]).startswith(" "))

    def spell(self, ids: Sequence[int], gaps: Sequence[str]) -> str | None:
        """The text of some predicted tokens, None if they have none. `gaps`: the spaces between the tokens
        they replace, for tokenizers that write no spaces."""
        tokens = [t for i in ids if (t := self._tokenizer.id_to_token(int(i))) is not None]
        if len(tokens) < len(ids) or self.special.intersection(int(i) for i in ids):
            return None
        if self._continuing:
            parts = [t.removeprefix(self._continuing) for t in tokens]
            return "".join(p + gap for p, gap in zip(parts, [*gaps, ""], strict=True))
        text = self._spell(tokens).strip()
        return None if "\ufffd" in text else text

    def _stand_in(self) -> int:
        """For a control token that a tokenizer without splitting rules made out of plain text."""
        if self.unknown is None:
            raise ModelUnsupported(
                "the masked LM's tokenizer turned plain text into a control token, and has no token for the "
                "unknown to put there; use another masked LM"
            )
        return self.unknown


def _unknown(tokenizer: Tokenizer, told: dict[str, Any]) -> int | None:
    """Id of the token for what the vocabulary cannot write."""
    model = told["model"]
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    token = model.get("unk_token") or ""
    found = tokenizer.token_to_id(token) if token else None
    return None if found is None else int(found)


def _frame(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer puts before and after a text."""
    bare, framed = tokenizer.encode("a", add_special_tokens=False).ids, tokenizer.encode("a").ids
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return tuple(framed[:start]), tuple(framed[start + len(bare) :])
    raise ModelCorrupt("the masked LM's tokenizer does not keep a text whole when it frames it")


def _speller(told: dict[str, Any], continuing: str) -> Any:
    """Joins tokens to text, spaces in front included."""
    if continuing:
        return "".join
    if "ByteLevel" in json.dumps(told["decoder"]):
        return decoders.ByteLevel().decode
    if "Metaspace" in json.dumps(told["decoder"]):
        return lambda tokens: "".join(tokens).replace(_SENTENCEPIECE_SPACE, " ")
    raise ModelUnsupported(
        f"a masked LM with a {told['model'].get('type')} tokenizer that marks neither spaces nor continued "
        "words; use one with WordPiece, byte-level BPE or SentencePiece"
    )


def _without_space(text: str, start: int, stop: int) -> tuple[int, int]:
    """A span without the spaces at its ends; empty if there is nothing else."""
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return start, stop
