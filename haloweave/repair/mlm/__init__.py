# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Making a masked language model: blocks of text, masks, training, and the small parcel it ships in."""
