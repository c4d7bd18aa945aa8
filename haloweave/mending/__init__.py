# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Repair beside a living mind: what died leaves scars, a worker proposes what to say there instead, and the
owner of the mind applies it between two events.

Knows memory values, events and the protocols of `haloweave.repair.base`. Must not know engines, journals,
text or runners.

    scars      where running text was cut, found by comparing two views; the bounded queue of them
    windows    the text around the most urgent scars, and how far each token of it may change
    worker     one daemon thread around a `Repairer`: windows in, checked proposals out
    breaker    what becomes of failures: back-off, another try, or an end for good
    mender     all of it together, on the thread that owns the mind

Everything but the repairer's own work happens on that one thread, so there is no lock, and no edit is stale:
a proposal names uids, and is planned against the context as it is when it is applied.
"""

from haloweave.mending.base import Mending, Patient, Stats
from haloweave.mending.mender import Mender

__all__ = ["Mender", "Mending", "Patient", "Stats"]
