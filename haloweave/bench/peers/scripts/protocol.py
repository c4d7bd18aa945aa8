# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A job in, JSON lines out. Knows JSON and standard output. Must not know models.

Whatever else writes to standard output is sent to standard error, so that the lines stay whole.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def read_job() -> dict[str, Any]:
    """The job in the file that the command line names."""
    with open(sys.argv[1], encoding="utf-8") as file:
        told: dict[str, Any] = json.load(file)
    return told


class Out:
    """Lines on what was standard output."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def line(self, **told: Any) -> None:
        self._out.write(json.dumps(told, ensure_ascii=False) + "\n")
        self._out.flush()

    def check(self, nats: float, tokens: int, versions: dict[str, str]) -> None:
        """Mean loss of the text that comes first, by a plain forward pass over all of it."""
        self.line(check={"nats": nats, "tokens": tokens, "versions": versions})

    def cannot(self, arm: str, task: str, why: str) -> None:
        self.line(cannot={"arm": arm, "task": task, "why": why})
