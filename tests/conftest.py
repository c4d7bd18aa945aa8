# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What every test shares: axis annotations are checked, and hypothesis is deterministic.

`HYPOTHESIS_PROFILE=dev` runs few examples, `explore` runs many with fresh randomness; `ci` is the default.
"""

from __future__ import annotations

import os
import sys

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

_early = sorted(name for name in sys.modules if name.startswith("haloweave.memory"))
if _early:
    raise RuntimeError(f"imported before the type-checking hook could see them: {_early}")
jaxtyping.install_import_hook("haloweave.memory", "axis_checks.checked")

_COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("dev", max_examples=15, stateful_step_count=15, derandomize=True, **_COMMON)
settings.register_profile("ci", max_examples=60, stateful_step_count=30, derandomize=True, **_COMMON)
settings.register_profile("explore", max_examples=1000, stateful_step_count=50, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    # beartype checks one random item of a sequence. Where a strategy builds a checked value, hypothesis takes
    # that for a strategy with randomness of its own; it is not: hypothesis seeds `random` for each example.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning",
    )
