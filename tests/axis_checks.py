# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The type checker that the jaxtyping hook of the tests puts on every function of `haloweave.memory`.

It is beartype, but passes over parameters whose type is a plain Protocol: those cannot be checked with
`isinstance`, which beartype takes for an error of the annotation.
"""

from __future__ import annotations

from typing import Any, TypeVar

from beartype import beartype

F = TypeVar("F")


def checked(made: F) -> F:
    hints: dict[str, Any] = getattr(made, "__annotations__", {})
    for name, hint in hints.items():
        if getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False):
            hints[name] = object
    return beartype(made)  # type: ignore[call-overload, no-any-return]
