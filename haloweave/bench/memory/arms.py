# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The arms by name, and a reader of each.

    full       as many rows as the model was trained for    none      nothing but system turn and question
    truncate   the last rows, prefilled again               window    sinks + recent (StreamingLLM)
    h2o tova snapkv random                                  baselines that choose who dies
    halo       as it ships: DROP, markers in logs           cull      halo without markers
    halo+repair  +recall  +both                             halo+random  other words where repair changes some
    redact     the least surprising go, the rest is read again (Selective Context, arXiv 2310.06201)
    summary    the older half becomes the model's own summary, and all is read again

Every arm is a mind with other settings, so rows, chunks, sinks, tail and chat frame are the same for all.
`name:setting=value,...` is an arm with settings of its own: `halo:half_life=256,smooth=5`. Knows how minds
are built. Must not know tasks or records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from haloweave import build
from haloweave.bench.memory.reader import MindReader
from haloweave.bench.memory.rereading import Rereads, Summaries, Surprise
from haloweave.bench.memory.words import RandomWords
from haloweave.errors import InvalidInput
from haloweave.journal.base import Journal, Vault
from haloweave.memory.rows import Image
from haloweave.mending import Mender
from haloweave.mind import MARKER_TEXT, Mind
from haloweave.progress import Progress
from haloweave.settings import Settings, settings
from haloweave.waking import fingerprint, wake

if TYPE_CHECKING:
    from haloweave.engine.hf.engine import HFEngine
    from haloweave.engine.hf.text import HFCodec

FULL, NONE = "full", "none"
SLACK = 0.25
"""Share of the rows that an arm which reads everything again gives up at once; less would only cost time."""


@dataclass(frozen=True)
class Arm:
    """What makes an arm differ from a mind as it ships."""

    what: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    rereads: bool = False
    """Whether survivors are prefilled again after each cull, so that they know nothing of the dead."""
    surprise: bool = False
    summary: bool = False
    recall: bool = False
    words: bool = False
    marker: bool = True
    asked: bool = False
    """Whether it differs from another arm only where something is said in turns and asked."""


_WINDOW: dict[str, Any] = {"policy": "window"}
_AGAIN: dict[str, Any] = {"slack": SLACK}
_PHRASES = _AGAIN | {"smooth": 5}
ARMS: Mapping[str, Arm] = {
    FULL: Arm("the whole context, nothing culled"),
    NONE: Arm("system turn and question alone", asked=True),
    "truncate": Arm("the last rows, prefilled again", _WINDOW | _AGAIN, rereads=True),
    "window": Arm("sinks and recent rows (StreamingLLM)", _WINDOW),
    "h2o": Arm("heavy hitters: attention summed up (H2O)", {"policy": "h2o"}),
    "tova": Arm("what the last query looks at (TOVA)", {"policy": "tova"}),
    "snapkv": Arm("votes of the last 64 queries (SnapKV-style)", {"policy": "snapkv"}),
    "random": Arm("random rows and recent ones", {"policy": "random"}),
    "halo": Arm("brightness, rows dropped live, as it ships"),
    "cull": Arm("halo without markers", marker=False, asked=True),
    "halo+repair": Arm("halo, joints mended by the masked LM", {"repair": "mlm"}),
    "halo+random": Arm("halo, other words where repair would change some", {"repair": "mlm"}, words=True),
    "halo+recall": Arm("halo, what was culled comes back if a question is like it", recall=True, asked=True),
    "halo+both": Arm("halo with repair and recall", {"repair": "mlm"}, recall=True, asked=True),
    "redact": Arm("the least surprising go, the rest is read again", _PHRASES, rereads=True, surprise=True),
    "summary": Arm(
        "the older half becomes a summary, by the model", _WINDOW, rereads=True, summary=True, asked=True
    ),
}
"""By name."""


def arm(spec: str) -> tuple[Arm, dict[str, Any]]:
    """An arm, and the settings that its name brings along. Raises InvalidInput."""
    name, _, told = spec.partition(":")
    if name not in ARMS:
        raise InvalidInput(f"no such arm: {name!r}; there are {', '.join(ARMS)}")
    pairs = [pair.partition("=") for pair in told.split(",") if pair]
    if wrong := [key for key, equals, value in pairs if not (equals and key and value)]:
        raise InvalidInput(f"{spec}: expected name:setting=value,..., got {wrong[0]!r}")
    return ARMS[name], {key: value for key, _, value in pairs}


@dataclass
class Studio:
    """Makes readers for one loaded model. `base`: settings of every arm; `longest`: rows of `full`."""

    loaded: Any
    base: Settings
    longest: int
    raw: bool = False
    """Whether text is read as it is, without a chat format."""
    _idle: dict[tuple[object, ...], list[HFEngine]] = field(default_factory=dict, repr=False)
    """Engines to be used again: making one probes the model, which takes a second."""

    @cached_property
    def codec(self) -> HFCodec:
        loaded = self.loaded
        if self.raw:
            tokenizer = copy(loaded.tokenizer)
            tokenizer.chat_template = None
            loaded = replace(loaded, tokenizer=tokenizer)
        return build.codec_of(loaded)

    def settings(self, spec: str, rows: int) -> Settings:
        """Of one arm at one budget. Raises InvalidInput."""
        found, told = arm(spec)
        own = {"budget": self.longest if spec == FULL else rows, "recall": "auto" if found.recall else "off"}
        own |= {"system": ""} if self.raw else {}
        return settings(**{**self.base.model_dump(), **own, "repair_wait": True, **found.changes, **told})

    @contextmanager
    def reader(self, spec: str, rows: int) -> Iterator[MindReader]:
        """An arm that has read nothing but the system turn. Raises InvalidInput, or what a model raises."""
        found, _ = arm(spec)
        s = self.settings(spec, rows)
        with ExitStack() as stack:
            yield (_kept if found.recall else _fleeting)(Making(self, found, s, stack))

    @contextmanager
    def engine(self, s: Settings) -> Iterator[HFEngine]:
        """An empty one, lent."""
        key = (s.budget, s.observed_layers, s.head_pooling, s.value_power)
        idle = self._idle.setdefault(key, [])
        engine = idle.pop() if idle else build.engine_of(s, self.loaded)
        empty = _rows_of_nothing(engine)
        try:
            yield engine
        finally:
            engine.kv.load(empty)
            idle.append(engine)


def _rows_of_nothing(engine: HFEngine) -> Image:
    if engine.kv.rows:
        raise InvalidInput(f"engine: expected an empty one, got {engine.kv.rows} rows")
    return engine.kv.dump()


@dataclass(frozen=True)
class Making:
    """One reader in the making; what it borrows goes back when `stack` unwinds."""

    studio: Studio
    arm: Arm
    settings: Settings
    stack: ExitStack

    def mind(self, journal: Journal | None = None, vault: Vault | None = None) -> Mind:
        """An empty mind of this arm."""
        s, codec = self.settings, self.studio.codec
        inner = self.stack.enter_context(self.studio.engine(s))
        engine = Rereads(inner) if self.arm.rereads else inner
        bright = Surprise() if self.arm.surprise else None
        marker = MARKER_TEXT if self.arm.marker else ""
        return build.assemble(s, engine, codec, journal, vault, marker=marker, brightness=bright)

    def mender(self, mind: Mind) -> Mender | None:
        """What repairs it; stops with the reader."""
        made = build.mender(self.settings, mind, instead=RandomWords if self.arm.words else None)
        if made is not None:
            self.stack.callback(made.stop)
        return made


def _fleeting(making: Making) -> MindReader:
    mind = making.mind()
    build.introduce(mind, making.settings)
    reader = MindReader(mind, making.mind, making.mender(mind), chunk=making.settings.chunk)
    if making.arm.summary:
        reader.before = Summaries(making.mind)
    return reader


def _kept(making: Making) -> MindReader:
    """Kept on disk while it reads; its archive is asked beside a copy in memory."""
    folder = making.stack.enter_context(TemporaryDirectory(prefix="halo-bench-"))

    def make(s: Settings, journal: Journal, vault: Vault, _: Progress) -> tuple[Mind, Mapping[str, str]]:
        return making.mind(journal, vault), fingerprint(making.studio.loaded)

    given = {**making.settings.model_dump(), "minds": folder}
    awake = making.stack.enter_context(wake("bench", given, make=make))
    if awake.recaller is None:
        raise InvalidInput("recall: expected it to be on; unset HALO_RECALL")

    def settle() -> None:
        while awake.keeper.archive.embed_pending(64):
            pass

    mender = making.mender(awake.mind)
    chunk = making.settings.chunk
    return MindReader(awake.mind, making.mind, mender, awake.recaller, settle=settle, chunk=chunk)
