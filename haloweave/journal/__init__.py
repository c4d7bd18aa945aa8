# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What is kept of a mind on disk, and what is written before anything happens.

    what is said      base: records, and the protocol that a mind writes to
    the log           log; records, fields, packing: as bytes; schema, connection; transcript; scrub; fold
    the archive       archive; passages, cutter, runs: how it is cut; search, index: how it is found
    beside the log    snapshot, manifest; rows, entry; copies; lock; disk: every operation on files
    all of it         keeper

Knows memory values, SQLite and files. Must not know engines, minds, codecs or settings.
"""
