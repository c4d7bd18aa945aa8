# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A transformers tokenizer as a codec, and its chat template taken apart once into a frame.

Knows Hugging Face tokenizers and Jinja templates (rendered in transformers' sandbox). Must not know minds
or models. Text is encoded with control tokens switched off, so `<|im_end|>` typed by a person, or standing
in a log, is just the ten characters it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from haloweave.errors import InvalidInput
from haloweave.text import ChatFrame

_A, _B = "\u241eA\u241e", "\u241eB\u241e"
"""Contents put into the template to see what it puts around them; symbols no template holds."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class HFCodec:
    """Encodes, spells, and frames turns for one model. `end_ids`: how the model ends a turn."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # An own copy, so that switching control tokens off changes nobody else's tokenizer.
        self._plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        added = tokenizer.added_tokens_decoder
        self._control = frozenset(int(i) for i, t in added.items() if t.special) | set(
            tokenizer.all_special_ids
        )
        own = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        frame = self.frame
        closing = (
            {ids[0] for role, ids in frame.footers.items() if role == "assistant" and ids} if frame else set()
        )
        self._end = frozenset([*own, *end_ids]) | (closing & self._control)
        self._byte_level = "ByteLevel" in json.dumps(json.loads(self._plain.to_str())["decoder"])

    @property
    def control_ids(self) -> frozenset[int]:
        return self._control

    @property
    def end_ids(self) -> frozenset[int]:
        return self._end

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Codec.encode`. Lone surrogates, which no UTF-8 can hold, become U+FFFD."""
        clean = [_SURROGATE.sub("\ufffd", t) for t in texts]
        ids = [e.ids for e in self._plain.encode_batch(clean, add_special_tokens=False)]
        forged = self._control.intersection(*[set().union(*ids)]) if ids else set()
        if forged:
            raise InvalidInput(f"the tokenizer turned plain text into control tokens {sorted(forged)[:4]}")
        return ids

    def piece(self, token_id: int) -> bytes:
        """See `Codec.piece`. Ids beyond the tokenizer (padding of the embedding matrix) are empty."""
        cache = self._pieces
        if token_id not in cache:
            cache[token_id] = self._spell(token_id)
        return cache[token_id]

    @cached_property
    def _pieces(self) -> dict[int, bytes]:
        return {}

    def _spell(self, token_id: int) -> bytes:
        token = self._plain.id_to_token(token_id)
        if token is None:
            return b""
        added = token_id in self._tokenizer.added_tokens_decoder
        if token_id in self._control or (added and self._byte_level):
            return token.encode()
        if self._byte_level:
            return bytes(_byte_of()[c] for c in token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()

    @cached_property
    def frame(self) -> ChatFrame | None:
        """What the model's chat template writes around turns; None if it has no template."""
        if not self._tokenizer.chat_template:
            return None
        alternate = [{"role": "user", "content": _A}, {"role": "assistant", "content": _B}]
        system = [{"role": "system", "content": _B}, {"role": "user", "content": _A}]
        try:
            asked = self._render(alternate[:1], prompt=False)
            prompted = self._render(alternate[:1], prompt=True)
            replied = self._render(alternate, prompt=False)
            again = self._render([*alternate, alternate[0]], prompt=False)
        except TemplateError as err:
            raise InvalidInput(f"the model's chat template cannot be taken apart: {err}") from err
        user_footer = asked.split(_A)[1]
        assistant_footer = replied.split(_B)[1]
        user_header = again.split(_B)[1].split(_A)[0].removeprefix(assistant_footer)
        headers = {"user": user_header, "assistant": prompted.removeprefix(asked)}
        footers = {"user": user_footer, "assistant": assistant_footer}
        try:
            framed = self._render(system, prompt=False)
        except TemplateError:
            framed = ""
        opening = asked.split(_A)[0].removesuffix(user_header)
        if (
            framed.count(_B) == 1
            and (between := framed.split(_B)[1].split(_A)[0]).endswith(user_header)
            and user_header
        ):
            before = framed.split(_B)[0]
            footers["system"] = between.removesuffix(user_header)
            opening = _common_opening(before, asked)
            headers["system"] = before.removeprefix(opening)
        return ChatFrame(
            opening=self._control_text(opening),
            headers={role: self._control_text(text) for role, text in headers.items()},
            footers={role: self._control_text(text) for role, text in footers.items()},
        )

    def _render(self, turns: list[dict[str, str]], *, prompt: bool) -> str:
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))

    def _control_text(self, text: str) -> tuple[int, ...]:
        """Ids of what the template itself writes: here control tokens count."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


def _common_opening(system: str, user: str) -> str:
    """What the template writes before any first turn, whoever speaks: a beginning-of-text token.

    A template that writes a system turn of its own accord (ChatML models do) shares more than that with
    an explicit one; only what precedes its first header is the opening, found as the part before the
    character where a turn begins in both.
    """
    shared = 0
    while shared < min(len(system), len(user)) and system[shared] == user[shared]:
        shared += 1
    header = system
    # The header repeats for later turns: its first control token marks where turns begin.
    marker = header[: header.find(">") + 1] if header.startswith("<") else ""
    return "" if marker and user.count(marker) > 1 else system[: min(shared, len(marker))]


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character; this is the way back.

    Printable bytes stand for themselves, the others follow from U+0100 on, in order (GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    table = {chr(b): b for b in printable}
    table.update({chr(0x100 + n): b for n, b in enumerate(others)})
    return table
