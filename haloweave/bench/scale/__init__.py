# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""What a very long past and very many minds cost: measured as far as minutes go, then on paper.

history      one past that grows, and what it costs at each size: disk, opening, waking, searching, copies
crowd        many minds over one model: time of a tick, memory, files
measure      the plan of both, one record a number
paper        limits of counters and formats, and larger models by their shapes
extrapolate  sizes and costs to a law with its doubt, and where it crosses a threshold
breaks       thresholds, and what breaks first
tables       all of it as Markdown
page         tables under headings, and pictures
"""
