# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""All settings, from code, environment (HALO_...) or a .env file. Knows names and ranges, builds nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from haloweave.errors import InvalidInput

SYSTEM_PROMPT = (
    "You are a helpful companion with a living memory: what matters stays, what does not fades. "
    "Tools and logs filter their results by themselves; [...] stands where lines were left out."
)
"""Pinned at the start. The second sentence is true, and tells the model what the markers mean."""

PolicyName = Literal["halo", "linear", "window", "h2o", "tova", "snapkv", "random"]
RepairName = Literal["off", "mlm", "self", "denoiser"]
RecallName = Literal["auto", "ask", "off"]


class Settings(BaseSettings):
    """What a mind is made of. Every field can be set as HALO_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="HALO_", env_file=".env", extra="ignore", frozen=True)

    model: str = "smollm2-135m"
    """A known name, a local folder, a GGUF file, or a hub id."""
    device: str = "auto"
    dtype: str = "auto"
    threads: int = Field(0, ge=0)
    """CPU threads; 0 leaves the choice to torch. Part of what makes runs repeatable."""

    budget: int = Field(512, ge=1)
    """Rows of KV cache held at any time."""
    slack: float = Field(0.125, ge=0, lt=1)
    """Share of the budget freed by one weave while the model speaks."""
    chunk: int = Field(64, ge=1)
    """Tokens of incoming text fed in one pass."""
    kills_per_round: int = Field(0, ge=0)
    sinks: int = Field(4, ge=0)
    tail: float = Field(0.25, ge=0, lt=1)
    """Share of the budget, at the end, that no policy touches."""
    lock: float = Field(250.0, ge=0, allow_inf_nan=False)
    """Brightness from which a token is a rock in the river; above 255 nothing is locked."""

    policy: PolicyName = "halo"
    half_life: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Overrides every source's half-life, in tokens; 0 keeps each source's own."""
    value_weighted: bool = True
    """Whether attention counts by the norm of what it brings."""
    value_power: float = Field(1.0, ge=0, le=8, allow_inf_nan=False)
    """To which power it counts."""
    prior: float = Field(32.0, ge=0, allow_inf_nan=False)
    """Queries that the brightness at birth weighs as much as, times a factor of its source."""
    surprise: float = Field(1.0, ge=0, le=4, allow_inf_nan=False)
    """How far a token is born the brighter the more it surprised the model (a power of its surprisal); 0: not
    at all."""
    head_pooling: Literal["mean", "max"] = "mean"
    """Whether what a token is to the model is what all heads pay it on average, or the most that one pays."""
    observed_layers: str = ""
    """Layers whose attention counts, as in 0-9,20; empty for all."""
    smooth: int = Field(1, ge=1)
    rejoin: int = Field(0, ge=0)
    """Lone survivors of at most so many tokens die too, and as many tokens of the smallest gaps stay; 0: off.
    Costs a little while rows are dropped live, helps where the text will be read again."""
    units: Literal["mean", "max"] = "mean"
    """Whether a log line is as bright as its tokens on average, or as the brightest of them."""
    run_bias: float = Field(0.0, allow_inf_nan=False)
    entropy_bias: float = Field(0.0, allow_inf_nan=False)
    age_bias: float = Field(0.0, allow_inf_nan=False)

    repair: RepairName = "off"
    """Who mends the text around what was culled: a small masked LM (mlm), the model itself (self), a denoiser
    over the model's own tokens (denoiser), nobody."""
    repair_model: str = ""
    """Masked LM of `repair = mlm`: a folder or hub id; empty for the one that comes with the package. Of
    `repair = denoiser`: a folder that `halo train --host MODEL --corruption scars` wrote."""
    repair_wait: bool = False
    """Wait after each cull until its scars are mended: the same seed then gives the same repairs. Otherwise
    repair runs beside the mind, and is applied when it is ready."""
    repair_cutoff: float = Field(0.5, gt=0, le=1)
    """Heat (1 - brightness / 255) from which a token near a scar may change."""
    repair_margin: float = Field(4.0, ge=0, allow_inf_nan=False)
    """Nats by which the model must find the text better for a change to be accepted."""
    repair_stumble: float = Field(10.0, ge=0, allow_inf_nan=False)
    """Nats by which what stands there must surprise the model before it may change: scars do, good writing
    seldom."""
    repair_pace: float = Field(0.35, gt=0, le=1)
    """Share of the time that repair may work beside the mind; means nothing where the mind waits for it."""
    repair_timeout: float = Field(30.0, gt=0, le=3600)
    """Seconds without an answer after which repair counts as failed, and is tried again later."""

    minds: str = ""
    """Folder of the minds that are kept (halo chat --mind NAME); empty for the user's data folder."""
    snapshot_every: int = Field(256, ge=1)
    """Passes and edits between two snapshots of a kept mind: what a restart after a crash may repeat."""
    snapshots: int = Field(2, ge=1)
    """Snapshots that are kept; each is about as large as the KV cache."""
    embedder: str = "minilm-l6"
    """Sentence encoder that finds culled text by its meaning: a known name, a folder, or empty for none."""
    recall: RecallName = "auto"
    """Whether culled text comes back by itself when a person says what is like it (auto), when asked for
    (ask), or never (off)."""
    recall_strong: float = Field(0.4, ge=0, le=1)
    """Likeness (0 to 1) from which culled text comes back by itself."""
    recall_most: int = Field(2, ge=1)
    """Passages that may come back at once."""
    rows_quota: int = Field(0, ge=0)
    """MB of disk for KV rows of culled tokens, so that they can be put back as they were; 0 keeps none."""

    system: str = SYSTEM_PROMPT
    """Pinned first turn; empty for none."""
    temperature: float = Field(0.7, ge=0, allow_inf_nan=False)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.1, gt=0, allow_inf_nan=False)
    seed: int = 0
    limit: int = Field(256, ge=1)
    """Tokens the model may say in one turn."""

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        if self.smooth % 2 == 0:
            raise ValueError(f"smooth: expected an odd number of neighbours, got {self.smooth}")
        return self


def settings(**given: object) -> Settings:
    """Settings from the environment, overridden by what is given and not None.

    Raises InvalidInput, naming every field that is wrong.
    """
    if unknown := sorted(given.keys() - Settings.model_fields.keys()):
        raise InvalidInput(f"settings: no such setting: {', '.join(unknown)}")
    try:
        return Settings(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as err:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in err.errors())
        raise InvalidInput(f"settings: {wrong}") from err
    except UnicodeDecodeError as err:
        raise InvalidInput(f"settings: .env is not UTF-8: {err}") from err
