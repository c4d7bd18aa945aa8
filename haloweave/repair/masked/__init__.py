# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The way from host tokens to a masked LM's and back: alignment, holes, soft masks, and what may cross."""
