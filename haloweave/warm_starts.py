# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Where a denoiser can start warm: the host LM as its teacher, an encoder's weights as its own to begin with.

Knows folders of models and how the two kinds are read. Must not know how a denoiser is trained. Nothing is
loaded before it is needed: where a teacher's answers are all on disk, neither is the teacher.
Axes: B rows, T sequence, K kept tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from haloweave import models
from haloweave.diffusion.denoisers.base import Denoiser
from haloweave.diffusion.denoisers.encoder import Encoder
from haloweave.diffusion.errors import BadInput
from haloweave.diffusion.soft_targets import kept
from haloweave.diffusion.tokenizer import Tokenizer
from haloweave.diffusion.training.hardware import native_bf16
from haloweave.errors import ModelCorrupt, ModelUnsupported
from haloweave.loading import read_json
from haloweave.progress import Progress, silent

if TYPE_CHECKING:
    from haloweave.engine.hf.model import LoadedModel

_ROWS = 4
"""Read at once. On one core 4 rows of 128 tokens go 1.2 times as fast as one, and their logits are 50 MB."""


@dataclass(frozen=True, eq=False)
class HostTeacher:
    """A causal LM, which foresees each token from those before it, in clean text; the denoiser speaks its
    tokens. In bfloat16 where the hardware does: SmolLM2-135M then answers 3.3 times as fast, and its top 16
    are the same but for 2 % of them (KL from float32: 0.001 nats)."""

    folder: Path
    tokenizer: Tokenizer
    place: torch.device

    @cached_property
    def fingerprint(self) -> str:
        """Of weights, config and what they are multiplied in."""
        found = hashlib.sha256(self._dtype.encode())
        for path in [self.folder / "config.json", *sorted(self.folder.glob("*.safetensors"))]:
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()

    def answers(
        self, rows: Int64[Tensor, "B T"], top: int
    ) -> tuple[Int[Tensor, "B T K"], Float[Tensor, "B T K"]]:
        """See `haloweave.diffusion.training.teacher.Teacher`. It has no answer to a block's first place, nor
        where a token of the denoiser's own stands. Raises BadInput for a `top` above its vocabulary, and for
        rows longer than it was trained on."""
        if top > self._host_size:
            raise BadInput(f"distil_top: expected at most the host's {self._host_size:,} tokens, got {top:,}")
        if rows.shape[1] > (most := self._host.max_positions):
            raise BadInput(
                f"distil: expected blocks of at most the host's {most:,} positions, got {rows.shape[1]:,}; "
                f"set a smaller seq_len, or distil to 0"
            )
        own = rows >= self._host_size
        read = torch.where(own, self._end, rows).to(self.place)
        found = [self._foreseen(part, top) for part in torch.split(read, _ROWS)]
        tokens, probabilities = (torch.cat(parts) for parts in zip(*found, strict=True))
        return tokens, probabilities.masked_fill(own[..., None], 0)

    @torch.inference_mode()
    def _foreseen(
        self, rows: Int64[Tensor, "B T"], top: int
    ) -> tuple[Int[Tensor, "B T K"], Float[Tensor, "B T K"]]:
        """What stood where is told by the logits one place before."""
        logits = self._host.model(input_ids=rows, use_cache=False).logits[..., : self._host_size]
        tokens = torch.zeros(*rows.shape, top, dtype=torch.int32)
        probabilities = torch.zeros(*rows.shape, top)
        for number, row in enumerate(logits):  # one at a time: in float32 they are twice as large
            tokens[number, 1:], probabilities[number, 1:] = (part.cpu() for part in kept(row[:-1], top))
        return tokens, probabilities

    @property
    def _dtype(self) -> str:
        return "bfloat16" if native_bf16(self.place) else "float32"

    @cached_property
    def _host(self) -> LoadedModel:
        from haloweave.engine.hf.model import load

        return load(self.folder, device=str(self.place), dtype=self._dtype)

    @property
    def _host_size(self) -> int:
        if self.tokenizer.host_size is None:
            raise BadInput("teacher: expected a host's tokenizer, got one trained on data: it has no host")
        return self.tokenizer.host_size

    @property
    def _end(self) -> int:
        """The host's own end of a text, in the place of ours."""
        end = self._host.model.generation_config.eos_token_id
        return int((end[0] if isinstance(end, list) else end) or 0)


def initialise(denoiser: Denoiser, encoder: str, progress: Progress = silent) -> str:
    """Let a denoiser begin with the blocks of a known encoder, or of one in a folder; its sha256.

    Raises a ModelError for what is no BERT in safetensors, BadInput for one of another shape.
    """
    if not isinstance(denoiser, Encoder):
        raise BadInput(f"initialiser: expected an encoder, got {denoiser.config.arch}; give --arch encoder")
    folder = models.resolve_encoder(encoder, progress=progress)
    told, file = read_json(folder / "config.json"), folder / "model.safetensors"
    _check_kind(folder, told, denoiser)
    try:
        weights = load_file(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, SafetensorError) as error:
        raise ModelCorrupt(f"{file}: cannot be read ({error}); fetch the encoder again") from error
    denoiser.start_from(weights, int(told["num_attention_heads"]))
    return digest


def _check_kind(folder: Path, told: dict[str, Any], denoiser: Encoder) -> None:
    """Only what our blocks compute exactly: by another activation the same weights make other states."""
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    got = {"position_embedding_type": "absolute"} | told
    for name, value in expected.items():
        if got.get(name) != value:
            raise ModelUnsupported(
                f"{folder}: expected a BERT with {name} {value!r}, got {got.get(name)!r}; take minilm-l6"
            )
    if not isinstance(told.get("num_attention_heads"), int):
        raise ModelUnsupported(f"{folder}: its config tells no num_attention_heads; take minilm-l6")
    if (eps := told.get("layer_norm_eps", 1e-12)) != denoiser.config.norm_eps:
        raise BadInput(
            f"initialiser: its layer_norm_eps is {eps!r}, got norm_eps {denoiser.config.norm_eps}; set that"
        )
