# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How numbers with their doubt stand in a table. Knows rich. Must not know what was measured."""

from __future__ import annotations

import math

from rich.table import Table

from haloweave.diffusion.judging.intervals import Interval


def table(*headings: str) -> Table:
    """A table without lines; all columns but the first to the right."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        found.add_column(heading, justify="left" if number == 0 else "right")
    return found


def interval(x: Interval, digits: int) -> tuple[str, str]:
    """The value, and its interval."""
    doubt = f"{x.low:,.{digits}f} .. {x.high:,.{digits}f}" if math.isfinite(x.low) else "not known"
    return f"{x.value:,.{digits}f}", doubt


def percent(x: Interval) -> tuple[str, str]:
    """The same of a share."""
    return f"{x.value:.2%}", f"{x.low:.2%} .. {x.high:.2%}" if math.isfinite(x.low) else "not known"
