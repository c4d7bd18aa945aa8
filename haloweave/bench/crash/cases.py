# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What can go wrong, where, and what came of it.

Values only. Must not know minds, disks or how any of it is brought about.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Harm(Enum):
    """What goes wrong at operation k."""

    ERROR = "fails once"
    FULL = "disk full from then on"
    TORN = "half done, then fails"
    SILENT = "half done, nobody told"
    DEATH = "killed before it"
    TORN_DEATH = "killed half-way"
    POWER = "power cut before it"
    PART = "power cut, some writes survive"


CUTS = (Harm.POWER, Harm.PART)
DEATHS = (Harm.DEATH, Harm.TORN_DEATH, *CUTS)
_CHANGE = (Harm.ERROR, Harm.DEATH, Harm.POWER)
HARMS: dict[str, dict[str, tuple[Harm, ...]]] = {
    "database": {
        "read": (Harm.ERROR,),
        "write": (Harm.ERROR, Harm.FULL, Harm.DEATH, Harm.TORN_DEATH, *CUTS),
        "sync": (*_CHANGE, Harm.PART),
        "truncate": (*_CHANGE, Harm.PART),
        "delete": _CHANGE,
    },
    "files": {
        "read": (Harm.ERROR,),
        "names": (Harm.ERROR,),
        "exists": (Harm.ERROR,),
        "is_folder": (Harm.ERROR,),
        "write": (Harm.ERROR, Harm.FULL, Harm.TORN, Harm.SILENT, Harm.DEATH, Harm.TORN_DEATH, *CUTS),
        "make_folder": (*_CHANGE, Harm.FULL, Harm.PART),
        "sync": (*_CHANGE, Harm.PART),
        "sync_folder": (*_CHANGE, Harm.PART),
        "rename": (*_CHANGE, Harm.PART),
        "remove": (*_CHANGE, Harm.PART),
        "remove_empty": (*_CHANGE, Harm.PART),
    },
}
"""What can happen to which operation, by layer: SQLite's file system, and all other files."""

WAKING = "waking"


@dataclass(frozen=True)
class Case:
    """One fault in one act."""

    start: str
    """The files it begins with: name of an image."""
    act: str
    layer: str
    at: int
    """Number of the operation, from 0."""
    what: str
    harm: Harm


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    case: Case
    ended: str
    """died; stopped (said that it has to be opened again); or went on."""
    back: str
    """How it came back: see `Resumed.how`."""
    wrong: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What is no fault, but has to be told: rows of the culled that were lost, a context read again."""
