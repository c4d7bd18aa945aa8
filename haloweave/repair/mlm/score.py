# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a masked LM predicts at masked positions, and how well.

Knows torch and any masked LM of transformers that has a head. Must not know training or files.
Axes: N predicted positions, D width, V vocabulary, B blocks, T tokens of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor
from torch.nn.functional import cross_entropy

from haloweave.errors import InvalidInput, ModelUnsupported
from haloweave.repair.mlm.masking import Batch, Masking, Vocabulary

_HIDING = Masking(rate=0.15, random=0, soft=0)
_STREAM = 20_406
"""Sets the masks of scoring apart from those of training."""


@dataclass(frozen=True)
class Score:
    """Quality at masked positions (15 % of the words, all of each word's pieces hidden)."""

    top1: float
    top5: float
    nats: float
    predicted: int


def predict(
    model: Any, vocabulary: Vocabulary, batch: Batch, *, bf16: bool = False
) -> tuple[Float[Tensor, "N V"], Int[Tensor, " N"]]:
    """Logits in fp32 at the positions that have a target, and those targets."""
    words = model.get_input_embeddings()
    device = words.weight.device
    ids, heat, target = (torch.from_numpy(a).to(device) for a in (batch.ids, batch.heat, batch.target))
    mask = words.weight[vocabulary.mask]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        embedded = torch.lerp(words(ids), mask.expand(*ids.shape, -1), heat[..., None])
        hidden = model.base_model(inputs_embeds=embedded).last_hidden_state
        there = target >= 0
        logits = head(model)(hidden[there])
    return logits.float(), target[there].long()


@torch.no_grad()
def score(
    model: Any,
    vocabulary: Vocabulary,
    blocks: Int32[np.ndarray, "B T"],
    *,
    bf16: bool = False,
    batch: int = 32,
) -> Score:
    """Quality at whole-word masks over 15 % of some blocks; the same positions at every call.

    Raises InvalidInput if there is nothing to predict.
    """
    training = model.training
    model.eval()
    hits, hits5, nats, count = 0, 0, 0.0, 0
    for at in range(0, len(blocks), batch):
        rng = np.random.Generator(np.random.Philox(key=[_STREAM, at]))
        hidden = _HIDING.batch(blocks[at : at + batch], vocabulary, rng)
        logits, target = predict(model, vocabulary, hidden, bf16=bf16)
        best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == target[:, None]
        hits, hits5 = hits + int(best[:, 0].sum()), hits5 + int(best.sum())
        nats, count = nats + float(cross_entropy(logits, target, reduction="sum")), count + len(target)
    model.train(training)
    if not count:
        raise InvalidInput("nothing to score: no word of the text is in the vocabulary, or there is no text")
    return Score(hits / count, hits5 / count, nats / count, count)


def head(model: Any) -> Callable[[Tensor], Tensor]:
    """The part of a masked LM that turns hidden states [N D] into logits [N V], whatever it is called.

    Raises ModelUnsupported for a model that has none we know of.
    """
    for name in ("cls", "lm_head"):
        if (found := getattr(model, name, None)) is not None:
            return found  # type: ignore[no-any-return]
    if hasattr(model, "vocab_projector"):  # DistilBERT
        return lambda h: model.vocab_projector(
            model.vocab_layer_norm(model.activation(model.vocab_transform(h)))
        )
    if hasattr(model, "decoder") and hasattr(model, "head"):  # ModernBERT
        return lambda h: model.decoder(model.head(h))
    raise ModelUnsupported(f"{type(model).__name__}: no masked-LM head was found")
