# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""Scripts that run in a peer's own environment, where this package is not installed: they import each other,
torch, transformers and the peer, nothing else. `python -m scripts.generate_peer JOB.json` prints one JSON
object a line: the check first, then records, and what cannot be done and why.
"""
