# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a mind on disk survives: every operation failed, torn or cut off; a process killed at any moment."""
