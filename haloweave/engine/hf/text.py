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
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from haloweave.errors import InvalidInput
from haloweave.text import ChatFrame

_A, _B = "\u241eA\u241e", "\u241eB\u241e"
"""Contents put into the template to see what it puts around them; symbols no template holds."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_SURROGATE = re.compile("[\ud800-\udfff]")


class HFCodec:
    """Encodes, spells, and frames turns for one model. `end_ids`: how the model ends a turn."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # An own copy, so that switching control tokens off changes nobody else's tokenizer.
        self._control: frozenset[int] = frozenset()
        self._plain = Tokenizer.from_str(_bare(tokenizer.backend_tokenizer.to_str(), self._framing()))
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        self._plain.no_padding()
        added = tokenizer.added_tokens_decoder
        self._control = (
            frozenset(int(i) for i, t in added.items() if t.special)
            | set(tokenizer.all_special_ids)
            | self._framing()
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
            table = _byte_of()
            return bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()
        if _BYTE.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()

    @cached_property
    def frame(self) -> ChatFrame | None:
        """What the model's chat template writes around turns; None if it has no template."""
        if not self._tokenizer.chat_template:
            return None
        user, answer = {"role": "user", "content": _A}, {"role": "assistant", "content": _B}
        asked, prompted = self._render([user]), self._render([user], prompt=True)
        replied, again = self._render([user, answer]), self._render([user, answer, user])
        for text, a, b in ((asked, 1, 0), (prompted, 1, 0), (replied, 1, 1), (again, 2, 1)):
            if text.count(_A) != a or text.count(_B) != b:
                raise InvalidInput("the model's chat template does not write each turn once, as it was said")
        footers = {"user": self._shared(asked.split(_A)[1], prompted.split(_A)[1])}
        between = again.split(_B)[1].split(_A)[0]
        footers["assistant"] = self._shared(replied.split(_B)[1], between)
        headers = {"user": between.removeprefix(footers["assistant"])}
        headers["assistant"] = prompted.split(_A)[1].removeprefix(footers["user"])
        before_user = asked.split(_A)[0]
        if not headers["user"] or not before_user.endswith(headers["user"]):
            raise InvalidInput("the model's chat template does not write later turns like the first")
        opening = self._add_system(headers, footers, before_user)
        return ChatFrame(
            opening=self._control_text(opening),
            headers={role: self._control_text(text) for role, text in headers.items()},
            footers={role: self._control_text(text) for role, text in footers.items()},
        )

    def _add_system(self, headers: dict[str, str], footers: dict[str, str], before_user: str) -> str:
        """What is written before any first turn; adds the system turn's frame, if there is such a turn.

        A template may write a system turn of its own accord, so that what precedes the first user turn is
        more than the opening: the opening ends where the first piece of a header begins.
        """
        opening = before_user.removesuffix(headers["user"])
        try:
            framed = self._render([{"role": "system", "content": _B}, {"role": "user", "content": _A}])
        except InvalidInput:
            return opening
        if framed.count(_B) != 1 or _A not in framed.split(_B)[1]:
            return opening
        before, middle = framed.split(_B)[0], framed.split(_B)[1].split(_A)[0]
        if not middle.endswith(headers["user"]):
            return opening
        if not before.startswith(opening):  # what precedes the first user turn is more than the opening
            first = next(part for part in self._marks.split(headers["user"]) if part)
            opening = self._shared(before, before_user).split(first)[0]
        footers["system"] = middle.removesuffix(headers["user"])
        headers["system"] = before.removeprefix(opening)
        return opening

    def _framing(self) -> frozenset[int]:
        """Added tokens by which the template frames turns, special or not."""
        frame = self.frame
        if frame is None:
            return frozenset()
        used = {i for part in (frame.opening, *frame.headers.values(), *frame.footers.values()) for i in part}
        return frozenset(int(i) for i in self._tokenizer.added_tokens_decoder if int(i) in used)

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        contents = sorted((t.content for t in self._tokenizer.added_tokens_decoder.values()), key=len)
        return re.compile(
            "(" + "|".join(re.escape(c) for c in reversed(contents)) + ")" if contents else "(?!)"
        )

    def _shared(self, one: str, other: str) -> str:
        """What both begin with, control tokens whole."""
        shared = ""
        for a, b in zip(self._marks.split(one), self._marks.split(other), strict=False):
            if a != b:
                if not self._marks.fullmatch(a or " ") and not self._marks.fullmatch(b or " "):
                    shared += "".join(x for x, y in takewhile(_same, zip(a, b, strict=False)))
                break
            shared += a
        return shared

    def _render(self, turns: list[dict[str, str]], *, prompt: bool = False) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
            )
        except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as err:
            raise InvalidInput(f"the model's chat template cannot be taken apart: {err}") from err

    def _control_text(self, text: str) -> tuple[int, ...]:
        """Ids of what the template itself writes: here control tokens count."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


def _same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


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


def _bare(told: str, framing: frozenset[int]) -> str:
    """A tokenizer's description in which framing tokens are special, and no space is put before a text."""
    made = json.loads(told)
    for token in made["added_tokens"]:
        token["special"] = token["special"] or token["id"] in framing
    normalizer = made.get("normalizer") or {}
    if normalizer.get("type") == "Sequence":
        normalizer["normalizers"] = [n for n in normalizer["normalizers"] if n["type"] != "Prepend"]
    elif normalizer.get("type") == "Prepend":
        made["normalizer"] = None
    before = made.get("pre_tokenizer") or {}
    for step in [before, *before.get("pretokenizers", [])]:
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
    return json.dumps(made)
