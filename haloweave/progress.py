# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How a long step tells how far it has come. Knows nothing at all; screens decide how it looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told again and again how far a long step has come; `total` is None where nobody knows."""

    def __call__(self, description: str, done: int, total: int | None, /) -> None: ...


def silent(description: str, done: int, total: int | None) -> None:
    """The Progress that shows nothing."""
