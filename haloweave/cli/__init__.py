# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The command `halo`: arguments in, screens out. No logic of the memory lives here.

Importing this package loads nothing; torch is loaded by the commands that need a model, when they do.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the command `halo`."""
    from haloweave.cli.app import run

    sys.exit(run(sys.argv[1:]))
