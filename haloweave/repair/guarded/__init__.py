# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a text says that repair must never rewrite, and why. The guard itself is `repair/guard.py`."""
