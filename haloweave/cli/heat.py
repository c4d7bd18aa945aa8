# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Where a heat map comes from: a file that somebody else wrote, or the model's own attention.

Knows files of numbers, and how a mind reads. Must not know repairers or consoles. A file is only ever
numbers: nothing in it is run.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from haloweave.errors import InvalidInput

if TYPE_CHECKING:
    from haloweave.progress import Progress
    from haloweave.settings import Settings

_ROOM = 64
"""Rows of a context beside the text's own, a chunk and the sinks."""
_NEIGHBOURS = (4, 32)
"""Tokens before and after that a token is compared with: at the ends of a text, within it."""


def given(name: str) -> np.ndarray:
    """The numbers in a .npy file or in a JSON list; or one number, typed as it is, for all tokens alike.

    Raises InvalidInput, and says what was expected.
    """
    path = Path(name)
    if not path.exists():
        with suppress(ValueError):
            return np.array(float(name))
    try:
        values = _npy(path) if path.suffix.lower() == ".npy" else _json(path)
    except OSError as err:
        raise InvalidInput(f"{name}: cannot be read ({err.strerror or err}); check its path") from err
    except (ValueError, OverflowError, TypeError, RecursionError, EOFError, SyntaxError) as err:
        raise InvalidInput(
            f"{name}: expected numbers within 0..1, one a token, as a .npy array or a JSON list: {err}"
        ) from err
    return values


def _npy(path: Path) -> np.ndarray:
    """Mapped, so that a header which lies about the length is found out before memory is asked for; and only
    plain numbers can be mapped: no archive, no pickle."""
    values = np.lib.format.open_memmap(path, mode="r")
    if values.dtype.kind not in "fiu":
        raise ValueError(f"got {values.dtype}")
    return np.array(values, np.float64)


def _json(path: Path) -> np.ndarray:
    found = json.loads(path.read_bytes())
    if not isinstance(found, list) or any(type(v) not in (int, float) for v in found):
        raise ValueError("got something other than a list of numbers")
    return np.array(found, np.float64)


def of_attention(s: Settings, loaded: Any, ids: list[int], progress: Progress) -> np.ndarray:
    """Read the bare text, and see what the model looked at: heat is the share of brighter neighbours.

    Brightness itself will not do: it lies close to the average for most of a text that is read once, and it
    falls with age, since the newest tokens still shine from their birth. Neighbours are of one age.
    """
    from haloweave import build
    from haloweave.memory.tokens import Source

    rows = min(len(ids) + s.chunk + s.sinks + _ROOM, loaded.max_positions)
    if rows < len(ids):
        raise InvalidInput(
            f"the text has {len(ids):,} tokens, {s.model} reads {rows:,} at once: give --heat, or less text"
        )
    mind = build.mind_of(s.model_copy(update={"budget": rows, "tail": 0.0}), loaded)
    for at in range(0, len(ids), s.chunk):
        mind.feed_ids(ids[at : at + s.chunk], Source.TEXT)
        progress("reading", min(at + s.chunk, len(ids)), len(ids))
    return dimmer(mind.view.tokens.brightness, s.sinks)


def dimmer(brightness: np.ndarray, sinks: int) -> np.ndarray:
    """Heat of each token: the share of its neighbours, as many before as after, that are brighter.

    Sinks get 0 and are nobody's neighbours: what attention they are paid means nothing.
    """
    heat = np.zeros(len(brightness), np.float64)
    b = brightness[sinks:].astype(np.float64)
    index = np.arange(len(b))
    reach = np.clip(np.minimum(index, index[::-1]), *_NEIGHBOURS)
    brighter, count = np.zeros(len(b)), np.zeros(len(b))
    for step in [d for n in range(1, _NEIGHBOURS[1] + 1) for d in (-n, n)]:
        there = np.flatnonzero((abs(step) <= reach) & (index + step >= 0) & (index + step < len(b)))
        brighter[there] += b[there + step] > b[there]
        count[there] += 1
    heat[sinks:] = brighter / np.maximum(count, 1)
    return heat
