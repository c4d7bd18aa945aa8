# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The living context as pure values: tokens, edits, brightness, who dies. Numpy only."""
