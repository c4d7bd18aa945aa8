# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Halo Weave: a local LLM whose context is a living memory of fixed size.

Importing this package does nothing: no patching, no thread, no download, no torch.
"""

__version__ = "0.1.0"
