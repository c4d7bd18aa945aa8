# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The memory benchmarks on other packages, each in a virtual environment of its own, with what it pins.

venvs      which packages there are, and an environment for each, made once
null       an engine that computes nothing: a mind over it only keeps books of its tokens
job        cases as token ids, so that every arm and every peer reads the same
run        a job to a peer's process; its lines back as records
scripts    what runs in those environments; knows nothing of this package
"""
