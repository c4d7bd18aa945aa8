# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A model and a tokenizer small enough to reason about: bytes for tokens, a hash for a mind.

Knows the protocols `Engine`, `KVStore` and `Codec`, and numpy. Must not know torch.

Row i of the fake cache is one number, `trace[i]`: a hash of the token and of all it saw to its left when it
was computed. So the fake has what matters of a real cache: DROP leaves survivors with the memory of the
dead, PATCH computes the born against their left, RECOMPUTE forgets exactly, RESTORE brings numbers back, and
logits show it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from haloweave.budget import Weave
from haloweave.engine.base import Capabilities, Forward
from haloweave.engine.sampling import log_softmax
from haloweave.errors import CapacityExceeded, EngineFault, InvalidInput, ModelCorrupt, SurgeryUnsupported
from haloweave.journal.base import Journal, MemoryJournal, Vault
from haloweave.memory.brightness import BrightnessPolicy, Halo
from haloweave.memory.cull import CullPolicy, DimmestFirst
from haloweave.memory.edit import BORN, Edit, Surgery
from haloweave.memory.laws import Laws
from haloweave.memory.rows import Image, SavedRows
from haloweave.memory.tokens import AttentionSample, Source
from haloweave.mind import Mind
from haloweave.text import ChatFrame

START, END, STOP_TEXT, UNUSED = 256, 257, 258, 259
VOCABULARY = 260
_CONTROL = {START: b"<|im_start|>", END: b"<|im_end|>", STOP_TEXT: b"<|endoftext|>", UNUSED: b""}
_ALPHABET = tuple(b"abcdefghijklmnopqrstuvwxyz     ")
_MASK = 2**64 - 1


class ByteCodec:
    """One id per byte; ids from 256 on are control tokens. `chat=False`: a model without a template."""

    def __init__(self, *, chat: bool = True) -> None:
        self._frame = _chatml() if chat else None

    @property
    def frame(self) -> ChatFrame | None:
        return self._frame

    @property
    def control_ids(self) -> frozenset[int]:
        return frozenset({START, END, STOP_TEXT})

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset({END, STOP_TEXT})

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(t.encode("utf-8", "replace")) for t in texts]

    def piece(self, token_id: int) -> bytes:
        return _CONTROL[token_id] if token_id >= 256 else bytes([token_id])


def _chatml() -> ChatFrame:
    roles = ("system", "user", "assistant")
    return ChatFrame(
        opening=(),
        headers={role: (START, *role.encode(), 10) for role in roles},
        footers=dict.fromkeys(roles, (END, 10)),
    )


class FakeEngine:
    """Engine and KVStore in one. Says `says` each time it is asked, then ends its turn; without it, letters
    that depend on everything its last row has seen. Attention is uniform.

    A pass takes `seconds`, for tests of what happens meanwhile.
    Set `fail` to "feed" or "apply" to have the next such call raise EngineFault.
    """

    def __init__(
        self,
        *,
        max_rows: int = 512,
        surgeries: frozenset[Surgery] = frozenset(Surgery),
        says: str | None = None,
        attention: bool = True,
        seconds: float = 0.0,
    ) -> None:
        self._max_rows, self._surgeries, self._attention = max_rows, surgeries, attention
        self._seconds = seconds
        self._says = None if says is None else [*says.encode(), END]
        self.ids = np.empty(0, np.int32)
        self.trace = np.empty(0, np.uint64)
        self.passes: list[int] = []
        """Tokens of each forward pass that `feed` made."""
        self.fail: str | None = None

    # ---- Engine ----------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            architecture="fake",
            surgeries=self._surgeries,
            max_rows=self._max_rows,
            vocabulary=VOCABULARY,
            layers=1,
            device="cpu",
            dtype="float32",
        )

    @property
    def kv(self) -> FakeEngine:
        return self

    def feed(self, ids: Sequence[int] | np.ndarray, *, score: bool = False) -> Forward:
        new = _checked(ids)
        if self.rows + len(new) > self._max_rows:
            raise CapacityExceeded(f"{self.rows} + {len(new)} rows, the fake holds {self._max_rows}")
        self._maybe_fail("feed")
        time.sleep(self._seconds)
        before = self.rows
        trace = _traces(int(self.trace[-1]) if before else 0, new)
        self.ids, self.trace = np.concatenate([self.ids, new]), np.concatenate([self.trace, trace])
        self.passes.append(len(new))
        logprobs = None
        if score:
            steps = [self._logits(before + n) for n in range(1, len(new))]
            logprobs = np.array([log_softmax(s)[i] for s, i in zip(steps, new[1:], strict=True)], np.float32)
        return Forward(self._logits(self.rows), self._seen(len(new)) if self._attention else None, logprobs)

    def reread(self) -> Forward:
        if not self.rows:
            raise InvalidInput("reread: there is no row yet")
        left = int(self.trace[-2]) if self.rows > 1 else 0
        self.trace = np.concatenate([self.trace[:-1], _traces(left, self.ids[-1:])])
        return Forward(self._logits(self.rows), None)

    # ---- KVStore ---------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        return len(self.ids)

    @property
    def surgeries(self) -> frozenset[Surgery]:
        return self._surgeries

    def apply(self, edit: Edit, rows: SavedRows | None = None) -> None:
        index, ids = edit.gather(self.rows), edit.ids(self.ids)
        if len(ids) > self._max_rows:
            raise CapacityExceeded(f"{len(ids)} rows after the edit, the fake holds {self._max_rows}")
        if edit.first is not None and edit.surgery not in self._surgeries:
            raise SurgeryUnsupported(edit.surgery.name)
        _check_saved(edit, rows)
        exact = edit.surgery is Surgery.RECOMPUTE
        if edit.first is None and not exact:
            return
        self._maybe_fail("apply")
        if exact:
            index = np.full(len(index), BORN)
        born = index == BORN
        trace = np.where(born, np.uint64(0), self.trace[np.maximum(index, 0)] if self.rows else np.uint64(0))
        if rows is not None:
            trace[born] = rows.columns["trace"]
        else:
            for slot in np.flatnonzero(born).tolist():
                trace[slot] = _traces(int(trace[slot - 1]) if slot else 0, ids[slot : slot + 1])[0]
        self.ids, self.trace = ids, trace

    def rebuild(self, ids: Sequence[int] | np.ndarray) -> None:
        new = np.asarray(ids, np.int32)
        if len(new) > self._max_rows:
            raise CapacityExceeded(f"{len(new)} rows, the fake holds {self._max_rows}")
        self.ids, self.trace = new, _traces(0, new)

    def save(self, slots: Sequence[int] | np.ndarray) -> SavedRows:
        where = np.array(slots, np.int64)
        if Surgery.RESTORE not in self._surgeries:
            raise SurgeryUnsupported(Surgery.RESTORE.name)
        if len(where) and not (where.min() >= 0 and where.max() < self.rows):
            raise InvalidInput(f"save: expected slots in 0..{self.rows - 1}, got {where.tolist()}")
        return SavedRows(where, {"trace": self.trace[where]})

    def dump(self) -> Image:
        return {"ids": self.ids.copy(), "trace": self.trace.copy()}

    def load(self, image: Image) -> None:
        if image.keys() != {"ids", "trace"} or len(image["ids"]) != len(image["trace"]):
            raise ModelCorrupt(f"expected as many ids as traces, got {sorted(image)}")
        if len(image["ids"]) > self._max_rows:
            raise ModelCorrupt(f"expected up to {self._max_rows} rows, got {len(image['ids'])}")
        self.ids, self.trace = image["ids"].astype(np.int32), image["trace"].astype(np.uint64)

    # ---- inside ----------------------------------------------------------------------------------

    def _maybe_fail(self, what: str) -> None:
        if self.fail == what:
            self.fail = None
            raise EngineFault(f"the fake was told to fail at {what}")

    def _logits(self, rows: int) -> np.ndarray:
        """For the token after the first `rows` rows."""
        logits = np.full(VOCABULARY, -20.0, np.float32)
        if self._says is not None:
            said = self._since_header(rows)
            if said is not None:
                logits[self._says[min(said, len(self._says) - 1)]] = 20.0
                return logits
        letters = np.array(_ALPHABET, np.uint64)
        seed = np.uint64(self.trace[rows - 1])
        with np.errstate(over="ignore"):
            mixed = (letters * np.uint64(0x9E3779B97F4A7C15) + seed) * np.uint64(0xBF58476D1CE4E5B9)
        logits[letters.astype(int)] = (mixed >> np.uint64(40)).astype(np.float64) / 2.0**22
        return logits

    def _since_header(self, rows: int) -> int | None:
        """How many tokens follow the last assistant header; None if there is none."""
        header = [START, *b"assistant", 10]
        starts = np.flatnonzero(self.ids[:rows] == START)
        if not len(starts) or self.ids[starts[-1] : starts[-1] + len(header)].tolist() != header:
            return None
        said = rows - int(starts[-1]) - len(header)
        return said if said >= 0 else None

    def _seen(self, queries: int) -> AttentionSample:
        """Each query shares its attention equally among the rows it sees."""
        rows = self.rows
        shares = 1.0 / np.arange(rows - queries + 1, rows + 1)
        tails = np.cumsum(shares[::-1])[::-1]
        mass = np.full(rows, tails[0])
        mass[rows - queries :] = tails
        flat = mass.astype(np.float32)
        return AttentionSample(flat, flat.copy(), np.full(rows, 1.0 / rows, np.float32), queries)


def fake_mind(
    *,
    budget: int = 256,
    low_water: int | None = None,
    chunk: int = 16,
    tail: int | None = None,
    lock: float = 250.0,
    says: str | None = "Yes.",
    chat: bool = True,
    engine: FakeEngine | None = None,
    journal: Journal | None = None,
    vault: Vault | None = None,
    kills_per_round: int = 0,
    brightness: BrightnessPolicy | None = None,
    cull: CullPolicy | None = None,
    system: str = "",
) -> Mind:
    """A whole mind over the fakes; everything real but the model. What the fake foresees means nothing, so by
    default nothing depends on how surprising a token is."""
    laws = Laws(sinks=4, tail=budget // 4 if tail is None else tail, lock=lock)
    mind = Mind(
        engine or FakeEngine(max_rows=budget, says=says),
        ByteCodec(chat=chat),
        journal or MemoryJournal(),
        brightness=brightness or Halo(surprise=0.0),
        cull=cull or DimmestFirst(laws=laws),
        laws=laws,
        weave=Weave(
            budget=budget,
            low_water=low_water or budget - budget // 8,
            chunk=chunk,
            kills_per_round=kills_per_round,
        ),
        vault=vault,
    )
    if system:
        for _ in mind.listen(system, Source.SYSTEM, pinned=True):
            pass
    return mind


def same_image(a: Image, b: Image) -> bool:
    """Whether two dumps are the same, byte for byte."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


def _check_saved(edit: Edit, rows: SavedRows | None) -> None:
    """Saved rows are there exactly where an edit restores them, one for each birth."""
    restores = edit.surgery is Surgery.RESTORE
    if (rows is not None and not restores) or (restores and len(rows or ()) != len(edit.born_uids)):
        raise InvalidInput(f"{edit.surgery.name}: {len(edit.born_uids)} births, {len(rows or ())} saved rows")
    if rows is not None and rows.columns.keys() != {"trace"}:
        raise InvalidInput(f"saved rows of another engine: {sorted(rows.columns)}")


def _checked(ids: Any) -> np.ndarray:
    new = np.asarray(ids, np.int64)
    if new.ndim != 1 or not len(new) or new.min() < 0 or new.max() >= VOCABULARY:
        raise InvalidInput(f"token ids: expected some in 0..{VOCABULARY - 1}, got {new.tolist()[:8]}")
    return new.astype(np.int32)


def _traces(left: int, ids: np.ndarray) -> np.ndarray:
    """SplitMix64 over (all to the left, token), row by row."""
    out = np.empty(len(ids), np.uint64)
    for n, token_id in enumerate(ids.tolist()):
        x = (left * 0x9E3779B97F4A7C15 + token_id + 1) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        left = x ^ (x >> 31)
        out[n] = left
    return out
