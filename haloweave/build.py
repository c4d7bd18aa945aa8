# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The composition root: settings in, a mind out. The only importer of backends, the only place where a
string chooses a class. Knows everything, decides nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haloweave.budget import Weave
from haloweave.engine.base import Engine
from haloweave.engine.sampling import Sampling
from haloweave.errors import InvalidInput, ModelNotFound, ModelUnsupported
from haloweave.journal.base import Journal, MemoryJournal, Vault
from haloweave.memory import brightness
from haloweave.memory.brightness import RULES, BrightnessPolicy
from haloweave.memory.cull import CullPolicy, DimmestFirst
from haloweave.memory.laws import Laws
from haloweave.memory.rejoin import Rejoined
from haloweave.memory.tokens import Source
from haloweave.mending import Mender, Mending
from haloweave.mind import MARKER_TEXT, Mind
from haloweave.models import resolve
from haloweave.progress import Progress, silent
from haloweave.repair.base import Repairer, Scorer
from haloweave.settings import Settings
from haloweave.text import Codec

if TYPE_CHECKING:
    from haloweave.engine.hf.engine import HFEngine
    from haloweave.engine.hf.text import HFCodec
    from haloweave.repair.denoise import DenoiserRepairer

POLICIES: dict[str, Callable[[Settings], BrightnessPolicy]] = {
    "halo": lambda s: brightness.Halo(_rules(s), s.prior, s.value_weighted, s.surprise),
    "linear": lambda s: brightness.Linear(rules=_rules(s)),
    "window": lambda s: brightness.Window(),
    "h2o": lambda s: brightness.H2O(),
    "tova": lambda s: brightness.Tova(),
    "snapkv": lambda s: brightness.SnapKV(window=max(s.chunk, 1)),
    "random": lambda s: brightness.Random(seed=s.seed),
}
"""Brightness policies by name."""

_LAYERS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_ABSOLUTE = ("halo",)
"""Policies whose brightness means the same at any time, so that a fixed threshold may lock tokens; the
others only rank."""


def _rules(s: Settings) -> dict[Source, brightness.SourceRule]:
    return {k: replace(r, half_life=s.half_life or r.half_life) for k, r in RULES.items()}


def laws(s: Settings) -> Laws:
    """What policies may not touch, in rows."""
    lock = s.lock if s.policy in _ABSOLUTE else float("inf")
    return Laws(sinks=s.sinks, tail=int(s.budget * s.tail), lock=lock)


def cull_policy(s: Settings) -> CullPolicy:
    """Who dies."""
    dimmest = DimmestFirst(
        laws=laws(s),
        smooth=s.smooth,
        run=s.run_bias,
        entropy=s.entropy_bias,
        age=s.age_bias,
        units=s.units,
    )
    return Rejoined(dimmest, laws(s), s.rejoin) if s.rejoin else dimmest


def brightness_policy(s: Settings) -> BrightnessPolicy:
    """Attention to brightness."""
    return POLICIES[s.policy](s)


def sampling(s: Settings, **changes: Any) -> Sampling:
    """How the model chooses tokens."""
    return replace(
        Sampling(
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            min_p=s.min_p,
            repetition_penalty=s.repetition_penalty,
            seed=s.seed,
        ),
        **changes,
    )


def load_model(s: Settings, progress: Progress = silent) -> Any:
    """The model and tokenizer that the settings name (a `LoadedModel`)."""
    from haloweave.engine.hf import model as hf

    path = resolve(s.model, progress=progress)
    if s.threads:
        import torch

        torch.set_num_threads(s.threads)
    return hf.load(path, device=s.device, dtype=s.dtype)


def mind_of(s: Settings, loaded: Any, *, journal: Journal | None = None, vault: Vault | None = None) -> Mind:
    """A mind over a model already loaded; nothing has been fed to it yet."""
    return assemble(s, engine_of(s, loaded), codec_of(loaded), journal, vault)


def engine_of(s: Settings, loaded: Any) -> HFEngine:
    """The model on an arena of the budget's rows. Raises InvalidInput for layers that it does not have."""
    from haloweave.engine.hf.engine import HFEngine

    layers = observed(s.observed_layers, loaded.model.config.num_hidden_layers)
    return HFEngine(
        loaded.model,
        capacity=s.budget,
        max_positions=loaded.max_positions,
        layers=layers,
        pooling=s.head_pooling,
        value_power=s.value_power,
    )


def observed(named: str, layers: int) -> frozenset[int] | None:
    """The layers that `0-9,20` names, None for all. Raises InvalidInput."""
    if not named.strip():
        return None
    found = [_LAYERS.fullmatch(part.strip()) for part in named.split(",")]
    if all(found):
        ends = [(int(m[1]), int(m[2] or m[1])) for m in found if m]
        if all(first <= last < layers for first, last in ends):
            return frozenset(n for first, last in ends for n in range(first, last + 1))
    raise InvalidInput(f"observed_layers: expected numbers below {layers}, as in 0-9,20, got {named!r}")


def codec_of(loaded: Any) -> HFCodec:
    """The model's tokenizer and chat frame."""
    from haloweave.engine.hf.text import HFCodec

    config = loaded.model.generation_config.eos_token_id
    ends = config if isinstance(config, list) else [config] if config is not None else []
    return HFCodec(loaded.tokenizer, ends)


def assemble(
    s: Settings,
    engine: Engine,
    codec: Codec,
    journal: Journal | None = None,
    vault: Vault | None = None,
    marker: str = MARKER_TEXT,
    brightness: BrightnessPolicy | None = None,
) -> Mind:
    """A mind over any engine and codec, with the policies that the settings name, but for what is given."""
    return Mind(
        engine,
        codec,
        journal if journal is not None else MemoryJournal(),
        brightness=brightness or brightness_policy(s),
        cull=cull_policy(s),
        laws=laws(s),
        weave=Weave(
            budget=s.budget,
            low_water=max(1, s.budget - int(s.budget * s.slack)),
            chunk=s.chunk,
            kills_per_round=s.kills_per_round,
        ),
        vault=vault,
        marker=marker,
    )


def build(s: Settings, *, progress: Progress = silent, journal: Journal | None = None) -> Mind:
    """Model, engine, policies and mind, with the system turn read and pinned.

    Raises ModelError if the model cannot be had or used, InvalidInput if the budget cannot hold the system
    turn and still leave room.
    """
    mind = mind_of(s, load_model(s, progress), journal=journal)
    introduce(mind, s)
    return mind


def introduce(mind: Mind, s: Settings) -> None:
    """Read the system turn, pinned."""
    if not s.system or mind.codec.frame is None:
        return
    frame = mind.codec.frame
    role = frame.role(Source.SYSTEM)
    size = len(mind.codec.encode([s.system])[0])
    around = len(frame.opening) + len(frame.headers[role]) + len(frame.footers[role])
    needed = size + s.sinks + s.chunk
    if needed > s.budget // 2 or needed + around + mind.laws.tail >= s.budget:
        raise InvalidInput(
            f"budget {s.budget}: the system prompt ({size} tokens), {s.sinks} sinks, a chunk of {s.chunk} "
            f"and a tail of {mind.laws.tail} leave too little; raise the budget, or shorten HALO_SYSTEM"
        )
    for _ in mind.listen(s.system, Source.SYSTEM, pinned=True):
        pass


# ---- repair ------------------------------------------------------------------------------------------

_ANY = 1e-6
"""Cutoff of repairers built here: whoever makes a window says by its heat what may change at all."""

_Maker = Callable[[Settings, Scorer, Codec, float], Repairer]


def _masked_lm(s: Settings, scorer: Scorer, codec: Codec, margin: float) -> Repairer:
    from haloweave.repair.masked_lm import MaskedLMRepairer

    return MaskedLMRepairer(masked_lm(s), codec, cutoff=_ANY, choices=3, passes=2)


def _self(s: Settings, scorer: Scorer, codec: Codec, margin: float) -> Repairer:
    from haloweave.repair.selfscore import SelfRepairer

    return SelfRepairer(scorer, codec.control_ids, cutoff=_ANY, margin=margin, stumble=s.repair_stumble)


SHIPPED_DENOISER = Path(__file__).resolve().parent / "repair" / "denoiser"
"""The denoiser that comes with the package; it speaks the vocabulary of SmolLM2."""


def _denoiser(s: Settings, scorer: Scorer, codec: Codec, margin: float) -> Repairer:
    folder = Path(s.repair_model).expanduser() if s.repair_model else SHIPPED_DENOISER
    return denoiser(folder, codec, scorer.vocabulary, s.device)


def denoiser(folder: Path, codec: Codec, vocabulary: int, device_name: str) -> DenoiserRepairer:
    """The denoiser in a folder as a repairer, neither gated nor guarded; settled, in the quickest dtype here.

    `vocabulary`: rows of the host's embeddings. Raises ModelNotFound, ModelUnsupported or ModelCorrupt.
    """
    import torch

    from haloweave import denoising
    from haloweave.diffusion.checkpoint import MODEL
    from haloweave.diffusion.errors import DiffusionError
    from haloweave.diffusion.training.hardware import native_bf16
    from haloweave.loading import device
    from haloweave.repair.denoise import DenoiserRepairer

    if not (folder / MODEL).is_file():
        raise ModelNotFound(
            f"repair by a denoiser: none in {folder}; expected HALO_REPAIR_MODEL or --repair-model, a folder "
            "that this wrote: halo train --host MODEL --corruption scars --set time_conditioning=true "
            "--data-dir TEXTS --output-dir FOLDER"
        )
    place = device(device_name)
    try:
        loaded, noted = denoising.load(folder), denoising.calibration(folder)
    except DiffusionError as error:
        raise ModelUnsupported(f"repair by a denoiser: {error}") from error
    if (trained := loaded.told.get("corruption", "scars")) != "scars":
        raise ModelUnsupported(
            f"repair by a denoiser: expected one trained with --corruption scars, got {trained}: it never "
            f"saw a wrong token, and takes whatever it is shown for right"
        )
    size = denoising.speaks(loaded.tokenizer, codec, vocabulary)
    control = codec.control_ids.union(loaded.tokenizer.special_ids)
    ready = loaded.denoiser.to(place).settled(torch.bfloat16 if native_bf16(place) else torch.float32)
    return DenoiserRepairer(
        ready, size, control, cutoff=_ANY, margin=noted.margin, temperature=noted.temperature
    )


REPAIRERS: dict[str, _Maker] = {"mlm": _masked_lm, "self": _self, "denoiser": _denoiser}
"""Repairers by name."""


def masked_lm(s: Settings) -> Any:
    """The masked LM that repairs: the one that comes with the package, or what the settings name.

    Raises a ModelError if it cannot be had or used.
    """
    from haloweave.repair import masked_lm as mlm

    if s.repair_model:
        return mlm.load(resolve(s.repair_model), device=s.device)
    from haloweave.loading import device
    from haloweave.repair.mlm.parcel import load_parcel

    found = load_parcel()
    model = found.model.to(device(s.device))
    return mlm.MaskedLM(model, found.tokenizer, found.tokenizer.token_to_id("[MASK]"))


def scorer(model: Any, codec: Codec, limit: int) -> Scorer:
    """A host LM (a transformers model) as a judge, beside whatever else it does. Raises ModelUnsupported if
    its tokenizer has no token that a text could begin with."""
    from haloweave.engine.hf.scoring import HostScorer

    first = [*(codec.frame.opening if codec.frame else ()), *sorted(codec.end_ids)]
    if not first:
        raise ModelUnsupported("the model's tokenizer has no token for the beginning or the end of a text")
    return HostScorer(model, opening=first[0], limit=limit)


def repairer(
    s: Settings,
    loaded: Any,
    codec: Codec,
    *,
    name: str,
    gated: bool = True,
    margin: float | None = None,
) -> Repairer:
    """A repairer by name, gated by the host LM and guarded.

    Raises InvalidInput for an unknown name, a ModelError if its model cannot be had.
    """
    judge = scorer(loaded.model, codec, loaded.max_positions)
    return _repairer(s, judge, codec, name, gated, s.repair_margin if margin is None else margin)


def _repairer(s: Settings, judge: Scorer, codec: Codec, name: str, gated: bool, nats: float) -> Repairer:
    from haloweave.repair.gate import Gated
    from haloweave.repair.guard import Guarded

    if name not in REPAIRERS:
        raise InvalidInput(f"repairer: expected one of {', '.join(REPAIRERS)}, got {name!r}")
    inner = REPAIRERS[name](s, judge, codec, nats)
    if gated and name != "self":  # it has judged already, by the same host and the same reckoning
        inner = Gated(inner, judge, margin=nats, stumble=s.repair_stumble)
    return Guarded(inner, codec)


def mender(
    s: Settings,
    mind: Mind,
    progress: Progress = silent,
    *,
    instead: Callable[[Repairer], Repairer] | None = None,
) -> Mender | None:
    """What repairs a mind while it lives; None if the settings want none. `instead` makes another repairer
    of the one that they name.

    Raises ModelUnsupported if the mind's engine cannot lend its model to a judge, a ModelError if the masked
    LM cannot be had.
    """
    if s.repair == "off":
        return None
    progress("loading repair", 0, None)
    lend = getattr(mind.engine, "model", None)
    if lend is None:
        raise ModelUnsupported(f"{mind.engine.capabilities.architecture}: no judge for repair on this engine")
    from haloweave.engine.hf.model import max_positions

    judge = scorer(lend, mind.codec, max_positions(lend.config))
    how = Mending(cutoff=s.repair_cutoff, pace=s.repair_pace, wait=s.repair_wait, timeout=s.repair_timeout)
    named = _repairer(s, judge, mind.codec, s.repair, True, s.repair_margin)
    return Mender(named if instead is None else instead(named), laws(s), how)
