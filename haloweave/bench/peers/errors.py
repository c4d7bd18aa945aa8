# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What can go wrong with a package that is not ours. Branches of the tree in `haloweave.errors`."""

from __future__ import annotations

from haloweave.errors import HaloError


class PeerError(HaloError):
    """A peer cannot be measured."""


class PeerUnavailable(PeerError):
    """Its environment could not be made."""


class PeerFailed(PeerError):
    """Its process ended early, fell silent or said what nobody understands."""


class PeerDiffers(PeerError):
    """It does not compute what we compute of the same tokens, so its other numbers mean nothing."""
