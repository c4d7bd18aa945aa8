# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""How much of what was read does a context of fixed size still know? The same cases for every arm.

Measuring:
    cases      what is read, in turns, and what is asked on the way; no model, no arm
    tasks      generators of cases: books, needles, lines, logs, talks
    shelf      the texts they are made of, and which of them settings may be tuned on
    reader     what a task wants of an arm: read, be scored, be asked
    arms       the arms by name: settings of a mind, or a way of its own to make a text shorter
               (rereading, words)
    plan, run  tasks, arms and budgets of a run; every case on every arm, one record a number; speed
    record     the records: JSON lines, from here, from peers, from yesterday

Telling:
    tables, doubt, curves, verdict     records to means, paired intervals, wins and losses
    findings, summary, glossary        numbers to words and to JSON
    pictures, gallery                  numbers to PNG
    cells, blocks, tabled, sections    what a report consists of
    page, report                       as HTML, as a folder of files
    commands, report_command           `halo bench memory`, `halo bench report`
"""
