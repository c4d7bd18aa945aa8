# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The arms of the repair benchmark: what may be done to a culled text, each keeping its number of rows.

none      as it is                           random    dim tokens become others of like frequency
unigram   dim tokens become the most common  hard      dim tokens masked and filled at once by the MLM
mlm       soft mask by heat, guard and gate  self      the host proposes and judges, under the guard
free      self, without the guard            shrink    free, and may leave tokens out; the rows saved
                                                       keep the brightest of the dead
insert    48 rows less kept, and up to 48    joints    free, only next to a gap and at sentence ends
          tokens that the host puts into gaps
denoiser  a denoiser proposes, guard and gate  eager     the same without the gate
trim      eager, and may leave tokens out, as in shrink
rejoin    specks go, the smallest gaps stay  rejoin+   rejoin, then self without the guard
          whole; no model is asked
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from haloweave.bench.holes import Case
from haloweave.memory.rejoin import rejoined
from haloweave.repair.base import Proposal, Repairer, RepairWindow, Scorer
from haloweave.repair.denoise import DenoiserRepairer
from haloweave.repair.diff import applied, repair
from haloweave.repair.gate import Gated
from haloweave.repair.guard import Guarded, positions
from haloweave.repair.masked_lm import MaskedLM, MaskedLMRepairer
from haloweave.repair.selfscore import SelfRepairer
from haloweave.text import Codec, spell

_SINKS = 4
INSERTED = 48

Arm = Callable[[Case], np.ndarray]


@dataclass
class Tools:
    """What arms work with. `places`: at how many places of a text a model may change something."""

    scorer: Scorer
    codec: Codec
    mlm: MaskedLM
    counts: np.ndarray = field(repr=False)
    """How often each token stands in the texts at hand: frequencies for the baselines."""
    places: int = 64
    margin: float = 4.0
    stumble: float = 10.0
    denoiser: DenoiserRepairer | None = None
    """Over the host's own tokens; without one its arms are left out."""

    def host(self, **changes: object) -> SelfRepairer:
        """The self repairer."""
        plain = SelfRepairer(
            self.scorer,
            self.codec.control_ids,
            cutoff=1e-6,
            places=self.places,
            margin=self.margin,
            stumble=self.stumble,
            delete=False,
        )
        return replace(plain, **changes)  # type: ignore[arg-type]

    def masked(self, **changes: object) -> MaskedLMRepairer:
        """The masked-LM repairer."""
        return replace(MaskedLMRepairer(self.mlm, self.codec, cutoff=1e-6), **changes)  # type: ignore[arg-type]

    def gated_mlm(self) -> Guarded:
        """The masked LM as it ships: gated by the host, guarded outermost."""
        mlm = self.masked(choices=3, passes=2)
        return Guarded(Gated(mlm, self.scorer, margin=self.margin, stumble=self.stumble), self.codec)

    def free(self, **changes: object) -> SelfRepairer:
        """The host, changing whatever it finds better by half a nat."""
        return self.host(stumble=0.0, margin=0.5, **changes)

    def gated_denoiser(self, denoiser: DenoiserRepairer) -> Guarded:
        """The denoiser as it ships: gated by the host, guarded outermost."""
        return Guarded(Gated(denoiser, self.scorer, margin=self.margin, stumble=self.stumble), self.codec)

    def loose_mlm(self) -> Gated:
        """The masked LM, changing whatever the host finds better by half a nat."""
        return Gated(self.masked(hard=True, choices=4), self.scorer, margin=0.5, stumble=0.0)


def arms(tools: Tools) -> Mapping[str, Arm]:
    """All arms by name."""
    return _others(tools) | ({} if tools.denoiser is None else _of_denoiser(tools, tools.denoiser))


def _of_denoiser(tools: Tools, denoiser: DenoiserRepairer) -> dict[str, Arm]:
    eager = Guarded(denoiser, tools.codec)
    return {
        "denoiser": partial(_repaired, tools, Lengthwise(tools.gated_denoiser(denoiser)), window=256),
        "eager": partial(_repaired, tools, Lengthwise(eager), window=256),
        "trim": partial(_trimmed, eager),
    }


def _others(tools: Tools) -> dict[str, Arm]:
    return {
        "none": lambda case: case.kept,
        "random": partial(_random, tools),
        "unigram": partial(_unigram, tools),
        "hard": partial(_hard, tools),
        "mlm": partial(_repaired, tools, tools.gated_mlm(), window=128),
        "self": partial(_repaired, tools, Guarded(tools.host(), tools.codec)),
        "free": partial(_repaired, tools, tools.free()),
        "loose": partial(_repaired, tools, tools.loose_mlm(), window=128),
        "joints": partial(_joints, tools),
        "shrink": partial(_shrunk, tools),
        "insert": partial(_inserted, tools),
        "rejoin": _rejoined,
        "rejoin+": partial(_rejoined_then, tools),
    }


def heat(brightness: np.ndarray) -> np.ndarray:
    """The dimmer half is malleable, the dimmest most; by rank, so that every text has as many hot tokens. The
    sinks are locked."""
    rank = np.argsort(np.argsort(brightness, kind="stable"), kind="stable") / max(len(brightness), 1)
    hot = np.maximum(1.0 - 2.0 * rank, 0.0)
    hot[:_SINKS] = 0
    return np.asarray(hot, np.float32)


def _repaired(tools: Tools, repairer: Repairer, case: Case, window: int = 1024) -> np.ndarray:
    warm = heat(case.brightness[~case.dead])
    warm = _hottest(warm, 2 * tools.places) if window < len(case.kept) else warm
    return applied(case.kept, repair(case.kept, warm, repairer, lock=1.0, window=window))


def _hottest(warm: np.ndarray, count: int) -> np.ndarray:
    """Heat of the hottest `count` places; the others are locked."""
    line = np.sort(warm)[::-1][min(count, len(warm)) - 1]
    return np.where(warm >= line, warm, np.float32(0))


def _asked(tools: Tools, case: Case) -> np.ndarray:
    """The hottest places that the guard leaves free: where the baselines put something else."""
    warm = heat(case.brightness[~case.dead])
    warm[positions(tools.codec, case.kept)] = 0
    order = np.argsort(-warm, kind="stable")[: tools.places]
    return np.sort(order[warm[order] > 0])


def _random(tools: Tools, case: Case) -> np.ndarray:
    ids, rng = case.kept.copy(), np.random.default_rng(int(case.ids.sum()))
    band = np.floor(np.log2(tools.counts + 1))
    for place in _asked(tools, case):
        like = np.flatnonzero((band == band[ids[place]]) & (tools.counts > 0))
        ids[place] = rng.choice(like) if len(like) else ids[place]
    return ids


def _unigram(tools: Tools, case: Case) -> np.ndarray:
    ids = case.kept.copy()
    ids[_asked(tools, case)] = int(tools.counts.argmax())
    return ids


def _hard(tools: Tools, case: Case) -> np.ndarray:
    hot = np.zeros(len(case.kept), np.float32)
    hot[_asked(tools, case)] = 1
    return applied(case.kept, repair(case.kept, hot, tools.masked(hard=True), lock=0.9, window=128))


def _joints(tools: Tools, case: Case) -> np.ndarray:
    """Only the two tokens on either side of a gap, and those around the end of a sentence."""
    alive = np.flatnonzero(~case.dead)
    joint = np.diff(alive, prepend=-1) > 1
    ends = np.array([spell(tools.codec, [i]).strip() in {".", "!", "?"} for i in case.kept])
    near = np.convolve(joint | ends, np.ones(4), "same") > 0
    warm = np.where(near, heat(case.brightness[~case.dead]), np.float32(0))
    return applied(case.kept, repair(case.kept, warm, tools.free(), lock=1.0, window=1024))


@dataclass(frozen=True)
class Lengthwise:
    """A repairer of which only those proposals are heard that keep the number of tokens."""

    repairer: Repairer

    def propose(self, windows: Sequence[RepairWindow]) -> tuple[Proposal, ...]:
        return tuple(p for p in self.repairer.propose(windows) if len(p.new_ids) == len(p.uid))


def _shrunk(tools: Tools, case: Case) -> np.ndarray:
    return _made_room(case, tools.free(delete=True), 1024)


def _trimmed(eager: Repairer, case: Case) -> np.ndarray:
    return _made_room(case, eager, 256)


def _made_room(case: Case, repairer: Repairer, window: int) -> np.ndarray:
    """What was left out makes room for the brightest of the dead."""
    warm = heat(case.brightness[~case.dead])
    changes = repair(case.kept, warm, repairer, lock=1.0, window=window)
    alive = np.flatnonzero(~case.dead)
    now = {int(alive[c.index]): c.new_id for c in changes}
    spared = _brightest(case, sum(c.new_id is None for c in changes))
    return _spelt(case, spared, now)


def _inserted(tools: Tools, case: Case) -> np.ndarray:
    """Fewer rows kept, and tokens of the host's own in the gaps instead."""
    dead = case.dead.copy()
    free = np.flatnonzero(~dead)[_SINKS:]
    dead[free[np.argsort(case.brightness[free], kind="stable")[:INSERTED]]] = True
    window = RepairWindow.of(case.ids, dead.astype(np.float32), doomed=dead)
    offered = tools.host(places=2 * INSERTED, margin=0.0).propose([window])
    best = sorted(offered, key=lambda p: -p.gain)[:INSERTED]
    now: dict[int, int | None] = {int(p.uid[0]): int(p.new_ids[0]) for p in best}
    less = Case(case.name, case.ids, case.following, case.brightness, dead, case.full, case.drop)
    return _spelt(less, _brightest(less, INSERTED - len(best), taken=now), now)


def _brightest(case: Case, count: int, taken: Mapping[int, int | None] | None = None) -> np.ndarray:
    """Slots of the brightest dead."""
    dead = np.array([i for i in np.flatnonzero(case.dead) if i not in (taken or {})], np.int64)
    return dead[np.argsort(-case.brightness[dead], kind="stable")[:count]]


def _spelt(case: Case, spared: np.ndarray, now: Mapping[int, int | None]) -> np.ndarray:
    """The text of the living and the spared, with these tokens in place of others."""
    stands = ~case.dead
    stands[spared] = True
    text = []
    for slot, token in enumerate(case.ids.tolist()):
        here = now.get(slot, token if stands[slot] else None)
        if here is not None:
            text.append(here)
    return np.array(text, np.int64)


def _rejoined(case: Case) -> np.ndarray:
    return _rejoin(case).kept


def _rejoin(case: Case) -> Case:
    fixed = np.arange(len(case.ids)) < _SINKS
    dead = rejoined(case.dead, case.brightness, fixed)
    return Case(case.name, case.ids, case.following, case.brightness, dead, case.full, case.drop)


def _rejoined_then(tools: Tools, case: Case) -> np.ndarray:
    return _repaired(tools, tools.free(), _rejoin(case))
