# SPDX-FileCopyrightText: Halo Weave contributors
# SPDX-License-Identifier: LicenseRef-HL3-LAW-MIL-SV
"""The tables of a mind's database, as migrations that only ever grow, and whether a file is such a database.

Knows SQL and the two numbers SQLite keeps for us in the file's header. Must not know what a record says.
A migration that was ever released is never changed: a later one is added below it.
"""

from __future__ import annotations

import apsw

from haloweave.errors import JournalCorrupt

APPLICATION_ID = 0x48414C4F
"""`HALO`, in the header of every mind's database."""

_LOG = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Written once, in order, without gaps: a missing number is a lost record.
CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,      -- see records.py
    tick INTEGER NOT NULL,      -- of the mirror as this was written
    first_uid INTEGER NOT NULL, -- which the mirror would give next, as this was written
    tokens INTEGER NOT NULL,    -- uids taken: the record after this one begins at first_uid + tokens
    source INTEGER,             -- of the first token born
    text BLOB NOT NULL,         -- what is born here spells (UTF-8; a character may be cut in two)
    body BLOB NOT NULL          -- the rest of the record, and a checksum over all of this row
) STRICT;

-- Whatever is no birth is rare: edits, checkpoints, aborts.
CREATE INDEX landmarks ON records (kind) WHERE kind <> 1;

-- Tokens to be forgotten; `rewritten` once no record names them, gone once no byte of the file does.
CREATE TABLE pending (
    uid INTEGER PRIMARY KEY,
    rewritten INTEGER NOT NULL DEFAULT 0
) STRICT;
"""

LANDMARK = "kind <> 1 AND kind = ?"
"""Records of one kind that is no birth; a query has to repeat the condition of a partial index to use it."""

_ARCHIVE = """
-- Stretches of tokens that were born one after another (passages.py); kept from the record that closes them.
CREATE TABLE passages (
    id INTEGER PRIMARY KEY,     -- first uid + 1
    last_uid INTEGER NOT NULL,
    source INTEGER NOT NULL,
    unit INTEGER NOT NULL,
    first_tick INTEGER NOT NULL,
    last_tick INTEGER NOT NULL,
    closed INTEGER NOT NULL,    -- number of the record that closed it
    culled INTEGER,             -- of the first edit that took a token of it: since then it is archived
    holes TEXT,                 -- uids in between that are not part of it: [[first, last], ...]
    text TEXT NOT NULL
) STRICT;

-- Who left by an edit, and from between whom (runs.py).
CREATE TABLE runs (
    id INTEGER NOT NULL,        -- passage they were part of; of tokens in none, the first uid + 1
    seq INTEGER NOT NULL,       -- of the edit
    runs BLOB NOT NULL,
    PRIMARY KEY (id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE recalls (
    passage INTEGER NOT NULL,
    seq INTEGER NOT NULL,       -- of the birth that brought it back
    first_uid INTEGER NOT NULL, -- of the memory
    last_uid INTEGER NOT NULL,
    PRIMARY KEY (passage, seq)
) STRICT, WITHOUT ROWID;

-- Each archived passage that says anything stands in `words`, and in one of the other two.
CREATE VIRTUAL TABLE words USING fts5 (
    text, content = '', tokenize = "porter unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'"
);
CREATE VIRTUAL TABLE terms USING fts5vocab (words, row);
CREATE TABLE vectors (id INTEGER PRIMARY KEY, vector BLOB NOT NULL) STRICT; -- a signed byte for each number
CREATE TABLE unembedded (id INTEGER PRIMARY KEY) STRICT;
"""

MIGRATIONS: tuple[str, ...] = (
    _LOG,
    _ARCHIVE,
    # The next migration goes here.
)
"""Migration n takes a database from `user_version` n to n + 1."""


def version(db: apsw.Connection) -> int:
    """Migrations this database has seen; 0 if it is empty. Raises JournalCorrupt if it is not a mind's, or
    of a newer release."""
    owner, found = _number(db, "application_id"), _number(db, "user_version")
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables and not owner and not found:
        return 0
    if owner != APPLICATION_ID:
        raise JournalCorrupt(
            f"not a mind but another program's: application_id {owner:#x}, expected {APPLICATION_ID:#x}"
        )
    if found > len(MIGRATIONS):
        raise JournalCorrupt(
            f"written by a newer release (schema {found}, this one reads up to {len(MIGRATIONS)}): upgrade"
        )
    if missing := {"meta", "records", "pending"} - tables:
        raise JournalCorrupt(f"tables are missing: {', '.join(sorted(missing))}; restore a backup")
    return found


def migrate(db: apsw.Connection, found: int) -> None:
    """Bring a database of that version up to date, all or nothing."""
    if found == len(MIGRATIONS):
        return
    scripts = "".join(MIGRATIONS[found:])
    db.execute("BEGIN IMMEDIATE")
    db.execute(scripts)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {len(MIGRATIONS)}; COMMIT")


def _number(db: apsw.Connection, pragma: str) -> int:
    value = db.pragma(pragma)
    return value if isinstance(value, int) else 0
