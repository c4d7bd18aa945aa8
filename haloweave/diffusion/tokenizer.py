# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Text to token ids and back, without loss: `decode(encode(text))` is the text in NFC, whatever the text is.

    tokenizer = train_tokenizer(texts, vocab_size=8192)      learned from the data
    tokenizer = borrowed_tokenizer("…/tokenizer.json")       a host LM's own

Text is text: `[MASK]` in it is six characters, never the mask token. Knows both kinds and their file. Must
not know documents, blocks or models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import regex
import tokenizers
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from haloweave.diffusion.disk import write_text
from haloweave.diffusion.errors import BadCheckpoint, BadInput
from haloweave.diffusion.progress import Progress, silent
from haloweave.diffusion.text.bpe import Bpe
from haloweave.diffusion.text.clusters import HANGING, canonical
from haloweave.diffusion.text.host_tokenizer import Host
from haloweave.diffusion.text.joining import TokenTable, joining
from haloweave.diffusion.text.learn_bpe import learn

FILE = "vocabulary.json"
_FORMAT = 1
_CONTINUES = regex.compile(r"['\u2019]?[\p{L}\p{N}]")
_AWAITS = regex.compile(r"[\p{InSC=Virama}\u200d]\Z")
_LATIN, _DEVANAGARI = regex.compile(r"\p{Latin}"), regex.compile(r"\p{Devanagari}")
_DEVANAGARI_BYTES = (b"\xe0\xa4", b"\xe0\xa5")


@runtime_checkable
class Scheme(Protocol):
    """How canonical text becomes ids."""

    @property
    def pieces(self) -> tuple[bytes, ...]: ...
    @property
    def mask_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def host_size(self) -> int | None: ...
    def ids(self, text: str) -> list[int]: ...
    def told(self) -> dict[str, Any]: ...


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Scheme]] = {"bpe": Bpe.of, "host": Host.of}


@final
class Tokenizer:
    """Text to ids in 0..vocab_size-1, and back. Made by `train_tokenizer`, `borrowed_tokenizer` or `load`."""

    def __init__(self, kind: str, scheme: Scheme) -> None:
        self._kind, self._scheme, self._pieces = kind, scheme, scheme.pieces

    # ---- text and ids --------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in NFC; surrogates that are no pair are read as U+FFFD. No special tokens."""
        return self._scheme.ids(canonical(text))

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` of each."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int] | Int[Tensor, " T"]) -> str:
        """The text of some tokens. Never raises: broken characters and ids that no token has read as U+FFFD.

        Special tokens have no text.
        """
        numbers = ids.tolist() if isinstance(ids, Tensor) else ids
        known = range(len(self._pieces))
        lost = "\ufffd".encode()
        return b"".join(self._pieces[i] if i in known else lost for i in map(int, numbers)).decode(
            "utf-8", "replace"
        )

    # ---- the vocabulary ------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """V, special tokens included."""
        return len(self._pieces)

    @property
    def mask_id(self) -> int:
        return self._scheme.mask_id

    @property
    def pad_id(self) -> int:
        return self._scheme.pad_id

    @property
    def eos_id(self) -> int:
        """Ends every document of a corpus."""
        return self._scheme.eos_id

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Tokens that no text has: mask, padding, the end of a document, a host's control tokens."""
        return tuple(i for i, piece in enumerate(self._pieces) if not piece)

    @property
    def host_size(self) -> int | None:
        """Tokens that are the host's own, and rows its embedding table must have; None without a host."""
        return self._scheme.host_size

    @cached_property
    def bytes_per_token(self) -> Int[Tensor, " V"]:
        """UTF-8 bytes of each token's text, 0 for special ones. Over `encode(text)`, they add up."""
        return torch.tensor([len(piece) for piece in self._pieces])

    @cached_property
    def starts_word(self) -> Bool[Tensor, " V"]:
        """Whether a word may begin at a token: it opens with a space or a sign, or is special.

        A word at the beginning of a line has no space and counts with the line end before it.
        """
        return torch.tensor([_starts(piece) for piece in self._pieces])

    @cached_property
    def continues_cluster(self) -> Bool[Tensor, " V"]:
        """Whether a token may go on with the cluster before it: it begins with a hanging mark, or inside a
        character or with bytes that are not all of one."""
        return torch.tensor([_goes_on(piece) for piece in self._pieces])

    @cached_property
    def unfinished_cluster(self) -> Bool[Tensor, " V"]:
        """Whether a letter behind a token may be of the same cluster: it ends in a virama, a joiner, or in
        bytes of which that is not known."""
        return torch.tensor([_awaits(piece) for piece in self._pieces])

    @cached_property
    def scripts(self) -> Int[Tensor, " V"]:
        """Of which script most letters of a token are: 1 Latin, 2 Devanagari, 0 neither, or unknown."""
        return torch.tensor([_script(piece) for piece in self._pieces])

    @cached_property
    def joining(self) -> TokenTable:
        """What each token does to a text: which can stand beside which (see Unmasking.joining)."""
        return joining(self._pieces, self.pad_id)

    def extended(self, table: Float[Tensor, "H E"]) -> Float[Tensor, "V E"]:
        """The host's embedding table [>= host_size, E] with rows for the tokens added to it: exactly V rows.

        Raises BadInput for too small a table, or a tokenizer without a host.
        """
        if not isinstance(self._scheme, Host):
            raise BadInput(
                "embedding table: expected a host's tokenizer, got one trained on data: it has no host"
            )
        return self._scheme.extended(table)

    # ---- identity and file ---------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that decides the ids of a text."""
        return _digest(self._told())

    def save(self, folder: Path) -> None:
        """Write `vocabulary.json`, whole or not at all. Raises CannotWrite where that cannot be."""
        told = self._told() | {"sha256": self.fingerprint}
        write_text(folder / FILE, json.dumps(told, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The inverse of `save`. Raises BadCheckpoint for a file that is missing or damaged."""
        file = folder / FILE
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            claimed = told.pop("sha256")
            if told["format"] != _FORMAT or claimed != _digest(told):
                raise ValueError("format or checksum differ")
            return cls(told["kind"], _KINDS[told["kind"]](told["scheme"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadCheckpoint(
                f"{file}: expected a tokenizer of this library, got {type(error).__name__}: {error}; restore "
                f"the file from where the model came from"
            ) from error

    def _told(self) -> dict[str, Any]:
        return {"format": _FORMAT, "kind": self._kind, "scheme": self._scheme.told()}


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192, progress: Progress = silent) -> Tokenizer:
    """A vocabulary learned from texts, the same whatever their order; smaller where there is little to learn.

    Raises BadInput for a size without room, TooLittleText for texts without a word.
    """
    return Tokenizer("bpe", learn(texts, vocab_size, progress))


def borrowed_tokenizer(host: tokenizers.Tokenizer | str | Path, separator: str | None = None) -> Tokenizer:
    """A host's tokens with mask and padding behind them; `separator` is its own end of a document, if any.

    Raises BadInput for a file that is no tokenizer.json, or a tokenizer that does not keep text as it is.
    """
    if isinstance(host, tokenizers.Tokenizer):
        return Tokenizer("host", Host(host, separator))
    try:
        read = tokenizers.Tokenizer.from_file(str(host))
    except Exception as error:
        raise BadInput(
            f"{host}: expected a fast tokenizer's tokenizer.json ({error}); it is beside the model's weights"
        ) from error
    return Tokenizer("host", Host(read, separator))


def _digest(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _starts(piece: bytes) -> bool:
    """By the first character. One that the piece does not hold whole belongs to what was before it."""
    head = piece[:8].decode("utf-8", "replace")
    return not head or not (_goes_on(piece) or _CONTINUES.match(head))


def _goes_on(piece: bytes) -> bool:
    head = piece[:8].decode("utf-8", "replace")
    broken = head.startswith("\ufffd") and not piece.startswith("\ufffd".encode())
    return broken or bool(HANGING.match(head))


def _awaits(piece: bytes) -> bool:
    """Bytes that begin inside a character may end it with a virama."""
    text = piece.decode("utf-8", "replace")
    broken = text.endswith("\ufffd") and not piece.endswith("\ufffd".encode())
    return broken or bool(_AWAITS.search(text))


def _script(piece: bytes) -> int:
    text = piece.decode("utf-8", "ignore")
    latin, devanagari = (len(script.findall(text)) for script in (_LATIN, _DEVANAGARI))
    devanagari += piece.endswith(_DEVANAGARI_BYTES)  # the first two bytes of a letter's three
    return 0 if not latin and not devanagari else 1 if latin > devanagari else 2
