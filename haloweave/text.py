# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Text to token ids and back, as the mind sees it, and the frame that a chat template puts around turns.

Knows bytes and ids. Must not know a tokenizer library. A codec turns text into ids that are never
control tokens, whatever the text says; only a `ChatFrame`, made once from the model's own template, holds
control tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from haloweave.memory.tokens import Source


@dataclass(frozen=True)
class ChatFrame:
    """Control tokens around a turn, by role. A model without a chat template has none of it."""

    opening: tuple[int, ...]
    """Before the first turn (a beginning-of-text token)."""
    headers: Mapping[str, tuple[int, ...]]
    footers: Mapping[str, tuple[int, ...]]

    def role(self, source: Source) -> str:
        """The template's name for who speaks; models know few roles, the rest speak as the user."""
        wanted = {Source.SYSTEM: "system", Source.MODEL: "assistant"}.get(source, "user")
        return wanted if wanted in self.headers else "user"


class Codec(Protocol):
    """A tokenizer, as far as the mind needs one."""

    @property
    def frame(self) -> ChatFrame | None: ...

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids that text may never turn into."""
        ...

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids by which the model ends its turn."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, control tokens spelt out as the characters they are."""
        ...

    def piece(self, token_id: int) -> bytes:
        """The bytes one id stands for; joined, the pieces of a text are its UTF-8."""
        ...


def spell(codec: Codec, ids: Sequence[int]) -> str:
    """The text of some ids; a character cut in two shows as U+FFFD."""
    return b"".join(codec.piece(int(i)) for i in ids).decode("utf-8", "replace")


class Speech:
    """Ids one by one to text that can be shown: whole characters only, and nothing that might yet turn
    out to be a stop text."""

    def __init__(self, codec: Codec, stop: Sequence[str] = ()) -> None:
        self._codec = codec
        self._stop = tuple(stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        """A stop text was met; it and what follows are not shown."""

    def push(self, token_id: int) -> str:
        """One more id; the text that may be shown now."""
        self._held += self._utf8.decode(self._codec.piece(token_id))
        return self._release()

    def flush(self) -> str:
        """The rest, once no more ids will come."""
        self._held += self._utf8.decode(b"", final=True)
        shown, self._held = self._held, ""
        return "" if self.stopped else shown

    def _release(self) -> str:
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((_overlap(self._held, s) for s in self._stop), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
