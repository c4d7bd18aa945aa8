# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Every error this package raises on purpose, in one tree.

    HaloError
    ├── InvalidInput              a value from outside is unusable (also a ValueError)
    │   ├── InvalidEdit           an edit does not describe the context it is applied to
    │   │   └── EditConflict      the places an edit speaks of have changed since
    │   └── Protected             a law forbids touching that token (pinned, sink, control, unit)
    ├── NoRoom                    the budget cannot be met: nothing more may be culled
    ├── ModelError
    │   ├── ModelNotFound         no such file, name or package
    │   ├── ModelCorrupt          a hash, a length or an offset is wrong
    │   ├── ModelUnsafe           pickle, custom code: never loaded
    │   └── ModelUnsupported      an architecture this engine cannot keep a living context for
    ├── EngineError
    │   ├── CapacityExceeded      more rows than the arena holds
    │   ├── SurgeryUnsupported    this model cannot do that surgery exactly
    │   └── EngineFault           the backend failed or returned numbers that are not finite
    ├── JournalError              what is kept on disk
    │   ├── JournalFailed         a write or sync failed: the mind stops, and is opened again
    │   ├── JournalCorrupt        damaged, not a mind at all, or written by a newer version
    │   ├── MindNotFound          no mind of that name
    │   ├── MindExists            there is one of that name already
    │   └── MindLocked            another process has it
    ├── Interrupted               somebody asked for an end: thrown into what a mind is doing
    └── MindClosed                the mind or its runner has stopped

A message says what was expected, what came, and what to do about it.
"""

from __future__ import annotations


class HaloError(Exception):
    """Root of all errors of this package."""


class InvalidInput(HaloError, ValueError):
    """A value from outside is unusable."""


class InvalidEdit(InvalidInput):
    """An edit does not describe the context it is applied to."""


class EditConflict(InvalidEdit):
    """The places an edit speaks of have changed since it was made."""


class Protected(InvalidInput):
    """A law forbids touching that token."""


class NoRoom(HaloError):
    """The budget cannot be met: nothing more may be culled."""


class ModelError(HaloError):
    """A model could not be found, trusted or used."""


class ModelNotFound(ModelError):
    """No such file, name or package."""


class ModelCorrupt(ModelError):
    """A hash, a length or an offset is wrong."""


class ModelUnsafe(ModelError):
    """The files could run code (pickle, custom modules): never loaded."""


class ModelUnsupported(ModelError):
    """An architecture this engine cannot keep a living context for."""


class EngineError(HaloError):
    """The engine could not do what was asked."""


class CapacityExceeded(EngineError):
    """More rows than the arena holds."""


class SurgeryUnsupported(EngineError):
    """This model cannot do that surgery exactly."""


class EngineFault(EngineError):
    """The backend failed or returned numbers that are not finite."""


class JournalError(HaloError):
    """What is kept on disk cannot be had, trusted or written."""


class JournalFailed(JournalError):
    """A write or a sync failed. Nothing acknowledged is lost; the mind has to be opened again."""


class JournalCorrupt(JournalError):
    """Damaged, not a mind at all, or written by a newer version."""


class MindNotFound(JournalError):
    """No mind of that name."""


class MindExists(JournalError):
    """There is a mind of that name already."""


class MindLocked(JournalError):
    """Another process has it."""


class Interrupted(HaloError):
    """Somebody asked for an end: thrown into what a mind is doing, between two events."""


class MindClosed(HaloError):
    """The mind or its runner has stopped."""
