# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The repair benchmark, put together: texts and a model in, one line per arm out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haloweave import build
from haloweave.bench.arms import Tools, arms
from haloweave.bench.beside import Beside, beside, scarred
from haloweave.bench.clean import Restraint, restraint
from haloweave.bench.holes import Case, Reading, Share, cases, closed, read, stretches, texts
from haloweave.bench.stats import Interval, paired
from haloweave.errors import InvalidInput, ModelNotFound, ModelUnsupported
from haloweave.settings import Settings

_CLEAN_TEXTS, _CLEAN_TOKENS = 10, 128


@dataclass(frozen=True)
class Line:
    """One arm after one kind of culling, over all cases."""

    smooth: int
    arm: str
    following: float
    """Nats a token of what follows, mean."""
    better: Interval | None
    """Nats a token better than no repair, paired over the cases."""
    gap: Share | None
    """Share of the hole gap closed."""
    perplexity: float | None
    """Of the text itself, where it was read again."""
    rows: float
    changed: float

    def json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"smooth": self.smooth, "arm": self.arm, "following": round(self.following, 5)}
        told |= {"better": self.better and self.better.json(), "closed": self.gap and self.gap.json()}
        return told | {"perplexity": self.perplexity, "rows": self.rows, "changed": self.changed}

    def cells(self) -> list[str]:
        b = self.better
        better = f"{b.mean:+.4f} [{b.low:+.4f}, {b.high:+.4f}]" if b else ""
        gap = f"{self.gap.value:.0%} [{self.gap.low:.0%}, {self.gap.high:.0%}]" if self.gap else ""
        cull = "token by token" if self.smooth == 1 else f"smoothed over {self.smooth}"
        head = [cull, self.arm, f"{self.following:.4f}", better, gap]
        perplexity = "" if self.perplexity is None else f"{self.perplexity:.1f}"
        return [*head, perplexity, f"{self.rows:.0f}", f"{self.changed:.0f}"]


@dataclass(frozen=True)
class Bench:
    """A loaded model, tools over it, and stretches of text."""

    settings: Settings
    loaded: Any
    tools: Tools
    stretches: tuple[tuple[str, np.ndarray], ...]
    denoiser: Path | None = None

    @staticmethod
    def of(
        s: Settings, loaded: Any, data: Sequence[Path], windows: int, denoiser: Path | None = None
    ) -> Bench:
        """`denoiser`: the folder of one, for its arms; None: the shipped one, where it fits this host.

        Raises InvalidInput if the texts are too short for a single stretch.
        """
        from haloweave.engine.hf.text import HFCodec

        codec = HFCodec(loaded.tokenizer, [loaded.tokenizer.eos_token_id])
        judge = build.scorer(loaded.model, codec, loaded.max_positions)
        found = tuple(stretches(lambda t: codec.encode([t])[0], texts(data), windows))
        if not found:
            raise InvalidInput("the texts are too short: a stretch takes 1,280 tokens")
        counts = np.bincount(np.concatenate([ids for _, ids in found]), minlength=judge.vocabulary)
        tools = Tools(
            judge,
            codec,
            build.masked_lm(s),
            counts,
            margin=s.repair_margin,
            stumble=s.repair_stumble,
            denoiser=_denoiser(denoiser, codec, judge.vocabulary, s.device),
        )
        return Bench(s, loaded, tools, found, denoiser)

    def holes(
        self,
        smooths: Sequence[int],
        chosen: Sequence[str],
        tell: Callable[[int], None],
        each: Callable[[dict[str, Any]], None],
    ) -> Iterator[Line]:
        """Every arm on every stretch; `each` hears of every case as soon as it is done. Raises InvalidInput
        for an unknown arm."""
        table = arms(self.tools)
        if unknown := sorted(set(chosen) - set(table)):
            raise InvalidInput(f"arms: expected some of {', '.join(table)}, got {', '.join(unknown)}")
        names = ["none", *(n for n in table if n != "none" and (n in chosen or not chosen))]
        seen: dict[int, list[tuple[Case, dict[str, Reading]]]] = {smooth: [] for smooth in smooths}
        for done, (name, ids) in enumerate(self.stretches):
            found = cases(self.loaded, self.settings, self.tools.scorer, name, ids, smooths)
            for smooth, case in zip(smooths, found, strict=True):
                readings = {n: read(self.tools.scorer, case, table[n](case)) for n in names}
                seen[smooth].append((case, readings))
                each(_told(smooth, case, readings))
            tell(done + 1)
        for smooth in smooths:
            yield from lines(smooth, names, seen[smooth])

    def clean(self) -> Iterator[Restraint]:
        """All repairers, as they ship, on texts that nothing was taken from."""
        some = self.stretches[:_CLEAN_TEXTS]
        intact = [ids[256 : 256 + _CLEAN_TOKENS].astype(np.int32) for _, ids in some]
        for name in self._repairers():
            yield restraint(name, self._shipped(name), intact)

    def speed(self) -> Iterator[Beside]:
        """The masked LM alone, then all repairers as they ship, beside decoding."""
        ids = np.concatenate([ids for _, ids in self.stretches]).astype(np.int32)
        windows = scarred(ids, 64)
        yield beside(self.loaded, self.settings, self.tools.masked(), windows, name="mlm, not gated")
        for name in self._repairers():
            yield beside(self.loaded, self.settings, self._shipped(name), windows, name=name, batch=1)

    def _repairers(self) -> list[str]:
        return [name for name in build.REPAIRERS if name != "denoiser" or self.tools.denoiser is not None]

    def _shipped(self, name: str) -> Any:
        s = self.settings
        if name == "denoiser" and self.denoiser is not None:
            s = s.model_copy(update={"repair_model": str(self.denoiser)})
        return build.repairer(s, self.loaded, self.tools.codec, name=name)


def _denoiser(folder: Path | None, codec: Any, vocabulary: int, device: str) -> Any:
    """The one asked for, or the shipped one; None where that is of another host, or there is none."""
    if folder is not None:
        return build.denoiser(folder, codec, vocabulary, device)
    try:
        return build.denoiser(build.SHIPPED_DENOISER, codec, vocabulary, device)
    except (ModelNotFound, ModelUnsupported):
        return None


def _told(smooth: int, case: Case, readings: dict[str, Reading]) -> dict[str, Any]:
    arms = {name: asdict(reading) for name, reading in readings.items()}
    return {"smooth": smooth, "text": case.name, "full": case.full, "drop": case.drop, "arms": arms}


def lines(
    smooth: int, names: Sequence[str], seen: Sequence[tuple[Case, dict[str, Reading]]]
) -> Iterator[Line]:
    """What all cases say of each arm."""

    def column(arm: str, what: str) -> np.ndarray:
        return np.array([getattr(readings[arm], what) for _, readings in seen], np.float64)

    weights = np.ones(len(seen))
    none = column("none", "following")
    drop = np.array([case.drop for case, _ in seen])
    full = np.array([case.full for case, _ in seen])
    yield Line(smooth, "full", float(full.mean()), paired(none, full, weights), None, None, 1024, 0)
    gap = closed(none, drop, drop)
    yield Line(smooth, "drop", float(drop.mean()), paired(none, drop, weights), gap, None, 512, 0)
    for arm in names:
        loss = column(arm, "following")
        yield Line(
            smooth,
            arm,
            float(loss.mean()),
            None if arm == "none" else paired(none, loss, weights),
            None if arm == "none" else closed(none, loss, drop),
            float(np.exp(column(arm, "text").mean())),
            float(column(arm, "rows").mean()),
            float(column(arm, "changed").mean()),
        )
