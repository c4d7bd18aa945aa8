# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""From wishes to one lawful edit: choices and proposals by policies, acts by the person.

Knows tokens, laws and edits. Must not know policies, text or models: marker tokens and control ids
come in as numbers. Pure; raises Protected where a law would be broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int32, Int64

from haloweave.errors import InvalidEdit, InvalidInput, Protected
from haloweave.memory.cull import CullChoice, runs
from haloweave.memory.edit import PROVISIONAL, Edit, Splice, Surgery, deletion
from haloweave.memory.laws import WHOLE, Laws, framed, hollow_turns, spread
from haloweave.memory.tokens import FULL, NO_UNIT, Source, Tokens, View

REPAIR = "repair"
"""Reason of an edit made of proposals alone."""


@dataclass(frozen=True)
class Proposal:
    """A repair somebody would like to make: the run `uid` becomes `new_ids`.

    R2 < R shrinks the run, R2 = R substitutes, R2 = 0 deletes. It names uids, so it may be made
    elsewhere and later: what no longer applies is dropped when it is planned.

    A run of which every token is being culled by the same plan may become fewer tokens (0 < R2 < R) instead
    of vanishing; one of which only some are does not apply.
    """

    uid: Int64[np.ndarray, " R"]
    new_ids: Int32[np.ndarray, " R2"]
    gain: float
    """Nats won, by the proposer's own reckoning."""


@dataclass(frozen=True)
class Marker:
    """What a dead unit leaves behind."""

    ids: tuple[int, ...] = ()
    """Host tokens of `[...]` and a line break; empty: leave nothing."""
    brightness: float = 64.0


def plan(
    view: View,
    choice: CullChoice,
    proposals: Sequence[Proposal] = (),
    *,
    laws: Laws,
    marker: Marker,
    control_ids: frozenset[int] = frozenset(),
    reason: str = "weave",
) -> Edit:
    """One edit that carries out a policy's choice and those proposals that still apply.

    A proposal that would bring in one of `control_ids` does not apply. Raises Protected if the choice
    touches what the laws protect, InvalidInput if a uid is gone.
    """
    tokens = view.tokens
    dead = np.zeros(len(tokens), np.bool_)
    dead[tokens.slots_of(choice.uids)] = True
    _check_lawful(tokens, dead, laws)
    born = _Newborn(view)
    accepted = _applicable(tokens, dead, proposals, laws, control_ids)
    for run, ids in accepted:
        dead[run] = not len(ids)
    pieces = _markers(tokens, dead, marker, laws, born)
    for run, ids in accepted:
        dead[run] = True
        if len(ids):
            pieces[run.start] = born.tokens(ids, like=tokens[run])
    return _edit(view, dead, pieces, reason)


def propose(
    view: View, proposals: Sequence[Proposal], *, laws: Laws, control_ids: frozenset[int] = frozenset()
) -> Edit:
    """One edit of those proposals that apply now; without splices if none does."""
    nobody = CullChoice(np.empty(0, np.int64), REPAIR)
    return plan(view, nobody, proposals, laws=laws, marker=Marker(), control_ids=control_ids, reason=REPAIR)


def _check_lawful(tokens: Tokens, dead: Bool[np.ndarray, " S"], laws: Laws) -> None:
    touched = np.flatnonzero(dead & laws.untouchable(tokens))
    if len(touched):
        raise Protected(
            f"slot {touched[0]} is pinned, locked, a sink or in the tail: a policy may not cull it"
        )
    scaffold = (tokens.source == Source.CONTROL) | (tokens.source == Source.MARKER)
    needed = np.flatnonzero(dead & scaffold & (hollow_turns(tokens) == NO_UNIT))
    if len(needed):
        raise Protected(f"slot {needed[0]} is a marker, or frames a turn that still says something")
    torn = np.flatnonzero(spread(tokens, dead) & ~dead)
    if len(torn):
        raise Protected(f"slot {torn[0]}: unit {int(tokens.unit[torn[0]])} must die whole")


class _Newborn:
    """Hands out provisional uids for the tokens born in one edit."""

    def __init__(self, view: View) -> None:
        self._next = PROVISIONAL
        self._tick = view.tick

    def tokens(
        self,
        ids: Sequence[int] | np.ndarray,
        *,
        like: Tokens | None = None,
        source: Source = Source.MODEL,
        brightness: float = FULL,
        unit: int = NO_UNIT,
    ) -> Tokens:
        """New tokens; `like` lends source and mean brightness of the run they replace."""
        if like is not None and len(like):
            source, brightness = Source(int(like.source[0])), float(like.brightness.mean())
        made = Tokens.make(
            ids, first_uid=self._next, source=source, brightness=brightness, tick=self._tick, unit=unit
        )
        self._next += len(made)
        return made


def _markers(
    tokens: Tokens, dead: Bool[np.ndarray, " S"], marker: Marker, laws: Laws, born: _Newborn
) -> dict[int, Tokens]:
    """Where dead units leave `[...]`, by slot.

    A gap is an unbroken run of dead tokens and markers between two living ones. It keeps one marker:
    the first that is there (further ones are added to `dead`), else a new one if a unit died in it,
    unless the marker would take as many rows as the gap has.
    """
    if not marker.ids:
        return {}
    is_marker = tokens.source == Source.MARKER
    whole = np.isin(tokens.source, WHOLE) & (tokens.unit != NO_UNIT)
    fixed = laws.untouchable(tokens)
    pieces: dict[int, Tokens] = {}
    for start, stop in runs(dead | is_marker):
        gap = slice(start, stop)
        if not np.any(dead[gap]) and np.all(tokens.unit[gap] == tokens.unit[start]):
            continue
        there = np.flatnonzero(is_marker[gap] & ~dead[gap])
        if len(there):
            stays = (tokens.unit[gap] == tokens.unit[start + int(there[0])]) | fixed[gap]
            dead[gap] |= is_marker[gap] & ~stays
        elif np.any(whole[gap]) and stop - start > len(marker.ids):
            unit = int(tokens.unit[gap][whole[gap]][0])
            pieces[start] = born.tokens(
                marker.ids, source=Source.MARKER, brightness=marker.brightness, unit=unit
            )
    return pieces


def _applicable(
    tokens: Tokens,
    dead: Bool[np.ndarray, " S"],
    proposals: Sequence[Proposal],
    laws: Laws,
    control_ids: frozenset[int],
) -> list[tuple[slice, np.ndarray]]:
    """Proposals that still speak of free, neighbouring tokens, all of them living or all of them dying; the
    greater gain wins overlaps."""
    rigid = laws.rigid(tokens)
    slot_of = {int(uid): slot for slot, uid in enumerate(tokens.uid)} if proposals else {}
    taken: list[tuple[slice, np.ndarray]] = []
    for p in sorted((p for p in proposals if np.isfinite(p.gain)), key=lambda p: -p.gain):
        slots = [slot_of.get(int(u), -1) for u in p.uid]
        if not slots or slots != list(range(slots[0], slots[0] + len(slots))) or slots[0] < 0:
            continue
        run = slice(slots[0], slots[-1] + 1)
        if np.any(rigid[run]) or control_ids.intersection(p.new_ids.tolist()):
            continue
        if not _becomes(tokens.token_id[run], p.new_ids, dead[run]):
            continue
        rigid[run] = True
        taken.append((run, p.new_ids))
    return sorted(taken, key=lambda t: t[0].start)


def _becomes(
    old: Int32[np.ndarray, " R"], new: Int32[np.ndarray, " R2"], dying: Bool[np.ndarray, " R"]
) -> bool:
    """Whether a run may become that: what lives no longer and otherwise, what dies shorter and something."""
    if dying.any():
        return bool(dying.all()) and 0 < len(new) < len(old)
    return len(new) <= len(old) and not np.array_equal(new, old)


def _edit(view: View, dead: Bool[np.ndarray, " S"], pieces: dict[int, Tokens], reason: str) -> Edit:
    """Deleted runs and the pieces born at their first slots, as one edit."""
    tokens = view.tokens
    splices: list[Splice] = []
    cuts = sorted(pieces)
    for s in deletion(tokens, dead):
        bounds = [s.start, *[c for c in cuts if s.start < c < s.stop], s.stop]
        for a, b in pairwise(bounds):
            splices.append(Splice(a, tokens[a:b], pieces.pop(a, Tokens.empty())))
    splices += [Splice(at, Tokens.empty(), new) for at, new in pieces.items()]
    splices.sort(key=lambda s: (s.start, s.stop))
    surgery = Surgery.PATCH if any(len(s.new) for s in splices) else Surgery.DROP
    return Edit(view.revision, view.tick, reason, surgery, tuple(splices))


# ---- acts of the person, or of an agent in the person's name ----------------------------------------


def delete(
    view: View, uids: Sequence[int], *, surgery: Surgery = Surgery.DROP, reason: str = "delete"
) -> Edit:
    """Remove tokens, pinned ones too. RECOMPUTE also removes what later tokens learned from them."""
    dead = np.zeros(len(view.tokens), np.bool_)
    dead[view.tokens.slots_of(uids)] = True
    return Edit(view.revision, view.tick, reason, surgery, deletion(view.tokens, dead))


def substitute(
    view: View, uids: Sequence[int], new_ids: Sequence[int], *, surgery: Surgery = Surgery.PATCH
) -> Edit:
    """A run of neighbouring tokens becomes other tokens (of any number)."""
    slots = view.tokens.slots_of(uids)
    if not len(slots) or slots[-1] - slots[0] + 1 != len(slots):
        raise InvalidInput("substitute: expected the uids of one unbroken run of tokens")
    old = view.tokens[int(slots[0]) : int(slots[-1]) + 1]
    new = _Newborn(view).tokens(new_ids, like=old)
    return Edit(view.revision, view.tick, "substitute", surgery, (Splice(int(slots[0]), old, new),))


def insert(
    view: View,
    slot: int,
    ids: Sequence[int],
    *,
    source: Source,
    brightness: float,
    surgery: Surgery = Surgery.PATCH,
) -> Edit:
    """New tokens before the token now at `slot` (`slot` = number of rows: at the end)."""
    if not 0 <= slot <= len(view.tokens):
        raise InvalidInput(f"slot: expected 0..{len(view.tokens)}, got {slot}")
    new = _Newborn(view).tokens(ids, source=source, brightness=brightness)
    return Edit(view.revision, view.tick, "insert", surgery, (Splice(slot, Tokens.empty(), new),))


def restored(view: View, tokens: Tokens) -> Edit:
    """Tokens that were culled come back where they stood, uids and all; `tokens` ascend by uid.

    Each stands after the living token that was born last before it, births within edits apart: these stand in
    places of their own. Raises Protected where that is between turns, or within the control tokens of one;
    InvalidInput for tokens that are alive.
    """
    living = view.tokens
    if not len(tokens) or np.any(np.diff(tokens.uid) <= 0) or np.isin(tokens.uid, living.uid).any():
        raise InvalidInput("restore: expected tokens that are not alive, in the order of their birth")
    in_order = living.uid == np.minimum.accumulate(living.uid[::-1])[::-1]
    slots, uids = np.flatnonzero(in_order), living.uid[in_order]
    before = np.searchsorted(uids, tokens.uid)
    starts = np.where(before > 0, slots[before - 1] + 1, 0) if len(slots) else np.zeros_like(before)
    for slot in np.unique(starts).tolist():
        _check_place(living, slot)
    cuts = np.flatnonzero(np.diff(starts)) + 1
    bounds = [0, *cuts.tolist(), len(tokens)]
    nothing = Tokens.empty()
    splices = tuple(Splice(int(starts[a]), nothing, tokens[a:b]) for a, b in pairwise(bounds))
    return Edit(view.revision, view.tick, "restore", Surgery.RESTORE, splices)


def _check_place(tokens: Tokens, slot: int) -> None:
    """Raises Protected unless text may stand before `slot`: inside of a turn, if there are turns."""
    control = (tokens.source == Source.CONTROL) & (tokens.unit != NO_UNIT)
    if not control.any():
        return
    left, right = tokens.unit[:slot][control[:slot]], tokens.unit[slot:][control[slot:]]
    inside = len(left) and (not len(right) or right[0] == left[-1] or slot == len(tokens))
    beside = slot < len(tokens) and control[slot - 1] and control[slot]
    if not inside or beside:
        raise Protected(f"slot {slot}: the turn that this was said in is gone; recall it as a memory instead")


def pin(view: View, uids: Sequence[int], pinned: bool = True) -> Edit:
    """Pin tokens (whole units with them), or let them go."""
    return _recolumn(view, uids, "pin" if pinned else "unpin", "pinned", np.bool_(pinned))


def boost(view: View, uids: Sequence[int], brightness: float = FULL) -> Edit:
    """Set the brightness of tokens (0..255); they fade from there like any other."""
    if not 0 <= brightness <= FULL:
        raise InvalidInput(f"brightness: expected 0..{FULL}, got {brightness}")
    return _recolumn(view, uids, "boost", "brightness", np.float32(brightness))


def _recolumn(view: View, uids: Sequence[int], reason: str, column: str, value: np.generic) -> Edit:
    tokens = view.tokens
    chosen = np.zeros(len(tokens), np.bool_)
    chosen[tokens.slots_of(uids)] = True
    splices = [
        Splice(s.start, s.old, s.old.replace(**{column: np.full(len(s.old), value)}))
        for s in deletion(tokens, spread(tokens, chosen))
    ]
    return Edit(view.revision, view.tick, reason, Surgery.DROP, tuple(splices))


def check_act(view: View, edit: Edit, control_ids: frozenset[int], *, restoring: bool = False) -> None:
    """The laws that bind even the person's own edits.

    Raises Protected if text of a log or tool unit would be rewritten or written into, if a control token
    would be born, or if a turn that still says something would lose a part of its frame; InvalidEdit if
    nothing would remain. `restoring`: the edit brings back what was there, births need no check.
    """
    tokens = view.tokens
    if len(tokens) + edit.growth <= 0:
        raise InvalidEdit("the edit would leave no token at all")
    dead = np.ones(len(tokens), np.bool_)
    index = edit.gather(len(tokens))
    dead[index[index >= 0]] = False
    broken = np.flatnonzero(framed(tokens, dead) & dead)
    if len(broken) and not restoring:
        raise Protected(f"slot {broken[0]} is a control token: it goes with its whole turn, or not at all")
    if restoring:
        return
    known = edit.born_uids[(edit.born_uids >= 0) & (edit.born_uids < view.next_uid)]
    if len(known):
        raise InvalidEdit(f"uid {int(known[0])} was given to another token: leave new uids to the mind")
    for s in edit.splices:
        born = np.delete(np.arange(len(s.new)), s.kept[0])
        if len(born):
            _check_births(tokens, s, s.new.take(born), dead, control_ids)


def _check_births(
    tokens: Tokens, s: Splice, born: Tokens, dead: Bool[np.ndarray, " S"], control_ids: frozenset[int]
) -> None:
    forged = control_ids.intersection(born.token_id.tolist())
    if forged:
        raise Protected(f"token {min(forged)} is a control token: text may not bring it in")
    if np.isin(born.source, (Source.CONTROL, Source.MARKER)).any() or born.source.max() > max(Source):
        raise Protected("only the chat template writes control tokens, only a weave writes markers")
    whole = np.isin(tokens.source, WHOLE) & (tokens.unit != NO_UNIT)
    rewritten = np.any(whole[s.start : s.stop] & dead[s.start : s.stop])
    if rewritten or _within(tokens, whole, s):
        raise Protected(f"slot {s.start}: text of logs and tools may be deleted, never rewritten")
    control = tokens.source == Source.CONTROL
    if _within(tokens, control & (tokens.unit != NO_UNIT), s) and control[s.start - 1 : s.stop + 1].all():
        raise Protected(f"slot {s.start}: nothing may be written into a turn's control tokens")


def _within(tokens: Tokens, these: Bool[np.ndarray, " S"], s: Splice) -> bool:
    """Whether the splice stands between two tokens of one unit, both among `these`."""
    if not 0 < s.start <= s.stop < len(tokens) or not (these[s.start - 1] and these[s.stop]):
        return False
    return bool(tokens.unit[s.start - 1] == tokens.unit[s.stop])
