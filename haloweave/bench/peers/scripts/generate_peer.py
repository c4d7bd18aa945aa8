# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Plain transformers: `generate` with a cache that grows, and text cut to the last tokens by hand.

generate            everything that was read
generate:truncate   the last rows, prefilled again
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from .context import Arm
from .held import Everything, Truncated
from .measure import check, run, too_long
from .protocol import Out, read_job
from .weights import load

FULL, TRUNCATE = "generate", "generate:truncate"


def main() -> None:
    out, job = Out(), read_job()
    model = load(job)
    plain = Everything(model, FULL, job["chunk"])
    versions = {name: version(name) for name in ("transformers", "torch")}
    out.check(check(plain.start(), job["check"]), len(job["check"]) - 1, versions)
    arms: list[Arm] = [plain] if FULL in job["arms"] or not job["arms"] else []
    if TRUNCATE in job["arms"] or not job["arms"]:
        arms += [Truncated(model, TRUNCATE, rows, job["chunk"]) for rows in job["rows"]]
    longest = model.config.max_position_embeddings

    def why_not(arm: Arm, case: dict[str, Any]) -> str:
        return "" if arm.rows else too_long(case, longest)

    run(job, arms, plain, out, why_not)


if __name__ == "__main__":
    main()
