# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Texts to vectors whose angle tells how near their meanings are (sentence embeddings).

Knows torch and one Hugging Face encoder (MiniLM-L6 from `models.resolve_encoder`, or any BERT-like folder).
Must not know journals, archives or minds. Mean pooling over the tokens, then unit length, as these models
were trained (Sentence-BERT, arXiv 1908.10084). Axes: N texts, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModel

from haloweave.errors import EngineFault, InvalidInput, ModelNotFound, ModelUnsafe, ModelUnsupported
from haloweave.loading import PICKLES, explained, load_weights, quiet, read_json, refuse_code
from haloweave.loading import device as device_named

_LONGEST = 256
"""Tokens of a text that are read; MiniLM-L6 was trained on less. What follows them has no say."""
_BATCH = 16
"""Texts of one forward pass: half a second at the longest, on one core."""
_SPELT = 1 / 3
"""A text of which more letters than this have a token each was spelt out, not read: its vector would say
little but the script. MiniLM-L6 gives two Hindi sentences taken at random a cosine of 0.69 (median), two
English ones 0.15; the share is 0.42 and more for Hindi, 1 for Russian and Chinese, up to 0.2 for English."""
_FILES = ("config.json", "tokenizer.json", "model.safetensors")


class SentenceEncoder:
    """An `Embedder` (see journal/search.py). `name` tells vector spaces apart.

    `threads`: what torch may use while it embeds; None leaves it as it is. Ask for 1 only on a thread that
    does nothing else: the number is a thread's own once it has computed anything, but it is also what a
    thread started meanwhile begins with.
    """

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise InvalidInput(f"threads: expected at least 1, got {threads}")
        self.name = name
        self.dim = int(model.config.hidden_size)
        self._model, self._threads = model, threads
        # An own copy: control tokens that a text spells out are text, and nobody else's switches are touched.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._unknown = self._tokenizer.token_to_id("[UNK]")
        limit = getattr(model.config, "max_position_embeddings", _LONGEST)
        self._tokenizer.enable_truncation(min(_LONGEST, int(limit)))

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """One vector for each text: of unit length, or zero for a text in a script this encoder cannot read.
        Raises EngineFault if a number is not finite."""
        out = np.zeros((len(texts), self.dim), np.float32)
        written = [_writable(text) for text in texts]
        told = self._tokenizer.encode_batch(written)
        encoded = [t.ids for t in told]
        read = [n for n, t in enumerate(told) if self._reads(written[n], t)]
        order = sorted(read, key=lambda n: len(encoded[n]))  # little padding
        with _threads(self._threads):
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                out[batch] = self._pass([encoded[n] for n in batch]).cpu().numpy()
        if not np.isfinite(out).all():
            raise EngineFault(f"{self.name} returned vectors that are not finite; fetch the model again")
        return out

    def _reads(self, text: str, told: Encoding) -> bool:
        """Whether the tokenizer knows words, or parts of words, of most that the text says."""
        letters = [sum(c.isalpha() for c in text[a:b]) for a, b in told.offsets]
        unknown = zip(letters, told.ids, strict=True)
        spelt = sum(n for n, i in unknown if n == 1 or i == self._unknown)
        return spelt <= _SPELT * sum(letters)

    @torch.inference_mode()
    def _pass(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "N D"]:
        """One padded batch; padding is masked, so its id does not matter."""
        longest = max(1, *(len(row) for row in rows))
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        there = torch.zeros_like(ids)
        for n, row in enumerate(rows):
            ids[n, : len(row)] = torch.tensor(row, dtype=torch.long)
            there[n, : len(row)] = 1
        ids, there = ids.to(self._model.device), there.to(self._model.device)
        hidden = self._model(input_ids=ids, attention_mask=there).last_hidden_state.float()
        weight = there[..., None].float()
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp_min(1.0)
        return torch.nn.functional.normalize(mean, dim=-1)


def load(folder: Path, *, device: str = "cpu", threads: int | None = None) -> SentenceEncoder:
    """The encoder in a local folder; a `ModelError` says why not. Nothing is fetched, no code is run."""
    place = device_named(device)
    _check_folder(folder)
    with quiet(), explained(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False):
            raise ModelUnsupported(f"{folder}: {config.model_type} is no encoder; use MiniLM or another BERT")
        model, missing = load_weights(AutoModel, folder, config, torch.float32)
        if missing := [
            name for name in missing if not name.startswith("pooler.")
        ]:  # the mean needs no pooler
            raise ModelUnsupported(f"{folder}: weights are missing: {', '.join(missing[:5])}")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        encoder = model.to(place).eval().requires_grad_(False)
        return SentenceEncoder(folder.name, encoder, tokenizer, threads=threads)


def _check_folder(folder: Path) -> None:
    for name in _FILES:
        if not (folder / name).is_file():
            if name == _FILES[-1] and any(True for p in PICKLES for _ in folder.glob(p)):
                raise ModelUnsafe(f"{folder}: only pickle weights, which can run code; use safetensors")
            raise ModelNotFound(f"{folder}: {name} is missing; expected {', '.join(_FILES)}")
    refuse_code(folder / "config.json", read_json(folder / "config.json"))


def _writable(text: str) -> str:
    """Text that has an UTF-8: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
