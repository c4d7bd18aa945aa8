# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""A mind of fixed size beside one that holds everything: both read the same text and go on with it.

side          one mind, and what it thinks comes next
drift         how far two such thoughts lie apart: KL divergence, top-1 agreement
generation    one side speaks with a seed, the others are made to hear the same tokens
text_figures  repetition and diversity of what was said
judge         how likely another model finds what was said
run           every text, seed and arm: what was said, and how far apart the sides were
records       that, as records: JSON lines
tables        records as tables for people, with intervals
commands      `halo bench compare`
"""
