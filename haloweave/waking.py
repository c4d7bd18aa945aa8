# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Waking a mind that is kept: its lock, its journal, its model, and then to where it was.

Knows settings, the folder of minds and the composition root. Must not know screens. A mind keeps the settings
it was made with; what is given now wins, and is kept from then on.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np
import platformdirs

from haloweave import __version__
from haloweave.errors import (
    HaloError,
    InvalidInput,
    JournalCorrupt,
    JournalFailed,
    ModelError,
    ModelUnsupported,
    NoRoom,
)
from haloweave.journal.archive import Archive
from haloweave.journal.base import Journal, Vault
from haloweave.journal.copies import Copies
from haloweave.journal.fold import context_at
from haloweave.journal.keeper import Keeper, Keeping
from haloweave.journal.log import Log
from haloweave.journal.rows import RowStore
from haloweave.journal.search import Embedder
from haloweave.journal.snapshot import Shelf
from haloweave.mind import Mind
from haloweave.minds import Minds, Place
from haloweave.models import known as known_models
from haloweave.progress import Progress, silent
from haloweave.recall import Recaller, Recalling
from haloweave.resume import Resumed, resume
from haloweave.settings import Settings, settings
from haloweave.text import Codec

_ELSEWHERE = frozenset({"minds", "system"})
"""Settings that a mind does not keep: where it lives, and what it was told first, which it has read."""

Make = Callable[[Settings, Journal, Vault, Progress], tuple[Mind, Mapping[str, str]]]
"""Settings to an empty mind that writes to this journal, and the fingerprint of what it computes with."""


@dataclass(frozen=True)
class Awake:
    """A kept mind, and what keeps it."""

    name: str
    mind: Mind
    keeper: Keeper
    resumed: Resumed
    recaller: Recaller | None
    settings: Settings
    unfinished: bool
    """It was speaking when it was cut off, by no wish of anybody's."""
    unanswered: bool
    """It was cut off before it could answer."""


def minds(s: Settings) -> Minds:
    """The folder of minds that the settings name."""
    return Minds(Path(s.minds).expanduser() if s.minds else _own_folder())


def _own_folder() -> Path:
    return Path(platformdirs.user_data_dir("haloweave")) / "minds"


def _own(log: Log) -> dict[str, Any]:
    """The settings that a mind has kept; none if it is new. Raises JournalCorrupt."""
    try:
        told = json.loads(log.get("settings") or "{}")
        return {k: v for k, v in told.items() if k in Settings.model_fields and k not in _ELSEWHERE}
    except (ValueError, AttributeError, RecursionError) as err:
        raise JournalCorrupt(f"the mind's own settings cannot be read: {err}; restore a backup") from err


def _merged(log: Log, now: Settings) -> Settings:
    """A mind's own settings; what is set `now`, by an option or in the environment, comes first.

    Raises InvalidInput for an imported mind that was made with a model of no known name, if nobody says which
    to use: it may not decide what is fetched and loaded here.
    """
    own = _own(log)
    if log.get("foreign") == "yes":
        known = {spec.name for spec in known_models()}
        if own.get("model") not in known and "model" not in now.model_fields_set:
            raise InvalidInput(
                f"this mind was imported, and wants the model {own.get('model')!r}; if you trust that, say: "
                "--model NAME"
            )
        own = {k: v for k, v in own.items() if k not in ("embedder", "repair_model")}
    return settings(**{**own, **{k: getattr(now, k) for k in now.model_fields_set}})


@contextmanager
def wake(
    name: str, given: Mapping[str, Any], *, make: Make | None = None, progress: Progress = silent
) -> Iterator[Awake]:
    """The mind of that name, brought back to where it was, or made; asleep again, and saved, after the block.

    Raises MindLocked, JournalError, ModelError, or InvalidInput where the settings do not fit the mind.
    """
    home = minds(settings(**given))
    place = home.make(name)
    with home.lock(name):
        _forget_stillborn(place)
        make = make or _real
        if (before := _unsettled(place, given)) is not None:
            with _up(place, before, make, progress) as awake:
                _fit(awake, settings(**given))
        with _up(place, None, make, progress, given) as awake:
            yield awake


@contextmanager
def _up(
    place: Place, s: Settings | None, make: Make, progress: Progress, given: Mapping[str, Any] | None = None
) -> Iterator[Awake]:
    """The mind, awake with these settings (None: its own, and what is given), until the block ends."""
    log = Log(place.database)
    try:
        if s is None:
            s = _merged(log, settings(**(given or {})))
        awake = _awoken(place, log, s, make, progress)
    except BaseException:
        log.close()
        raise
    try:
        yield awake
    finally:
        awake.keeper.close(awake.mind.state)


_REPLAYED = (
    *("model", "dtype", "device", "threads", "chunk", "seed"),
    *("policy", "half_life", "prior", "surprise", "value_weighted", "value_power"),
    *("head_pooling", "observed_layers"),
)
"""Settings by which passes are repeated: with others they come out otherwise."""


def _unsettled(place: Place, given: Mapping[str, Any]) -> Settings | None:
    """The settings with which the mind has to be woken first, before it can be with what is given: it was cut
    off under others, or it holds more than it shall. None if it need not be."""
    if not place.database.exists():
        return None
    log = Log(place.database)
    try:
        if log.get("settings") is None or log.get("foreign") == "yes":
            return None
        own, new = settings(**_own(log)), _merged(log, settings(**given))
        behind = all(kept.seq < log.last for kept in Shelf.peek(place.snapshots))
        cut_off = behind and any(getattr(own, f) != getattr(new, f) for f in _REPLAYED)
        too_large = new.budget < own.budget and len(context_at(log).view.tokens) > new.budget
        return own if cut_off or too_large else None
    finally:
        log.close()


def _fit(awake: Awake, now: Settings) -> None:
    """Weave until the context fits the budget it shall have. Raises NoRoom."""
    new = _merged(awake.keeper.log, now)
    if len(awake.mind.view.tokens) > new.budget:
        for _ in awake.mind.weave(new.budget - int(new.budget * new.slack)):
            pass
    if len(awake.mind.view.tokens) > new.budget:
        raise NoRoom(
            f"{awake.mind.rows} rows cannot be brought under {new.budget}: unpin, or keep the budget"
        )


def _forget_stillborn(place: Place) -> None:
    """What was cut off before it had read its first turn starts anew: nobody was ever told of it."""
    if not place.database.exists():
        return
    log = Log(place.database)
    born, records = log.get("born"), log.last
    log.close()
    if born is None and records:
        for file in place.folder.glob(place.database.name + "*"):
            file.unlink()
        Shelf(place.snapshots).clear(None)


def _awoken(place: Place, log: Log, s: Settings, make: Make, progress: Progress) -> Awake:
    embedder = Lazy(s.embedder) if s.embedder else None
    archive = Archive(log, embedder)
    keeper = Keeper(
        log,
        Shelf(place.snapshots, keep=s.snapshots),
        archive,
        {},
        copies=Copies(place.backups),
        how=Keeping(every=s.snapshot_every),
    )
    try:
        return _brought_back(place, keeper, s, make, progress)
    except BaseException:
        keeper.close(None)
        raise


def _brought_back(place: Place, keeper: Keeper, s: Settings, make: Make, progress: Progress) -> Awake:
    log = keeper.log
    mind, made_of = make(s, keeper, keeper, progress)
    keeper.fingerprint = dict(made_of)
    _keep_rows(keeper, place, s)
    _same_language(log, mind, s)
    resumed = resume(mind, keeper)
    _drop_rows(keeper, place, s)
    cut_off = log.get("asleep") == "no"
    if resumed.how == "new":
        _introduce(log, mind, s)
        keeper.snapshot(mind.state())  # so that there is always one to go on from
        log.put("born", "yes")
    log.put("settings", s.model_dump_json(exclude=set(_ELSEWHERE)))
    log.put("model", s.model)
    log.put("budget", str(s.budget))
    log.put("asleep", "no")
    log.put("foreign", "no")
    how = Recalling(
        strong=s.recall_strong if s.recall == "auto" else 2.0, most=s.recall_most, rows=max(1, s.budget // 4)
    )
    return Awake(
        place.name,
        mind,
        keeper,
        resumed,
        Recaller(keeper.archive, how) if s.recall != "off" else None,
        s,
        unfinished=cut_off and mind.turn.role == "assistant",
        unanswered=cut_off and mind.turn.role == "user",
    )


def _keep_rows(keeper: Keeper, place: Place, s: Settings) -> None:
    """Rows of the culled: if they are wanted, or if what was cut off may still need them."""
    if not s.rows_quota and not place.rows.exists():
        return
    try:
        keeper.rows = RowStore(place.rows, s.rows_quota * 10**6, fingerprint=keeper.fingerprint)
    except JournalFailed as err:  # it is only a cache; left there, no redaction would reach it
        keeper.note(f"rows of culled tokens are lost, and no new ones kept: {err}")
        _remove_rows(place)


def _drop_rows(keeper: Keeper, place: Place, s: Settings) -> None:
    """Where nobody wants rows any more, they go: no redaction would reach them."""
    if s.rows_quota or keeper.rows is None:
        return
    keeper.rows.close()
    keeper.rows = None
    _remove_rows(place)


def _remove_rows(place: Place) -> None:
    for file in place.folder.glob(place.rows.name + "*"):
        file.unlink()


def _introduce(log: Log, mind: Mind, s: Settings) -> None:
    from haloweave.build import introduce

    log.put("id", uuid4().hex)
    log.put("created", datetime.now(UTC).isoformat(timespec="seconds"))
    introduce(mind, s)


def _same_language(log: Log, mind: Mind, s: Settings) -> None:
    """Raises ModelUnsupported if the mind's tokens are another model's."""
    mine = language(mind.codec, mind.engine.capabilities.vocabulary)
    told = log.get("language")
    if told is None:
        log.put("language", mine)
    elif told != mine:
        raise ModelUnsupported(
            f"this mind speaks with {log.get('model')}: its tokens mean something else to {s.model} (another "
            "tokenizer or chat template). Wake it with its own model, or make a new mind"
        )


def language(codec: Codec, vocabulary: int) -> str:
    """A hash of what every token id spells, and of the chat frame: where it differs, a mind cannot live."""
    digest = hashlib.sha256()
    control = codec.control_ids
    for token_id in range(vocabulary):
        digest.update(b"control" if token_id in control else codec.piece(token_id))
        digest.update(b"\xff")
    frame = codec.frame
    digest.update(repr((sorted(codec.control_ids), sorted(codec.end_ids))).encode())
    if frame is not None:
        turns = sorted((r, tuple(frame.headers[r]), tuple(frame.footers[r])) for r in frame.headers)
        digest.update(repr((tuple(frame.opening), turns)).encode())
    return digest.hexdigest()


def _real(s: Settings, journal: Journal, vault: Vault, progress: Progress) -> tuple[Mind, Mapping[str, str]]:
    from haloweave import build

    loaded = build.load_model(s, progress)
    return build.mind_of(s, loaded, journal=journal, vault=vault), fingerprint(loaded)


def fingerprint(loaded: Any) -> dict[str, str]:
    """All that the last bit of a number hangs on: a snapshot is used only where all of it is the same."""
    import torch
    import transformers

    return {
        "model": loaded.fingerprint,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": str(loaded.device),
        "threads": str(torch.get_num_threads()),
        "machine": f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "haloweave": __version__,
    }


class Lazy:
    """An embedder that is fetched and loaded when it is first wanted."""

    dim = 384

    def __init__(self, name: str) -> None:
        self.name = name
        self._loaded: Embedder | None = None
        self._fault = ""
        self._once = Lock()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embedder.embed`. Raises a ModelError if it cannot be had."""
        with self._once:  # two threads may want it: the one that embeds, and the one that searches
            if self._loaded is None:
                self._loaded = self._load()
        return self._loaded.embed(texts)

    def _load(self) -> Embedder:
        from haloweave import embedding
        from haloweave.models import resolve_encoder

        if self._fault:
            raise ModelError(self._fault)
        try:
            return embedding.load(resolve_encoder(self.name))
        except HaloError as err:
            self._fault = f"culled text is found by its words alone: {err}"
            raise ModelError(self._fault) from err
