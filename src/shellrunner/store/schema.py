"""The tables, and how an older history becomes today's: one migration per released version, forwards only.

Owned by the store at its opening. A migration that was released is never changed; the next one is appended.
"""

import sqlite3
from typing import Final

from shellrunner.errors import StoreUnavailable

APPLICATION_ID: Final = 0x53687275  # "Shru" in the file's header (sqlite.org/fileformat2.html, offset 68)

# `jobs` is what the lists read, so it has no blobs: those lie in `outputs`, only if there was any output. A job that
# has a result has its figures (`stdout_bytes` is not null); deleting the result is forgetting them. Done jobs are
# nearly all there are, so only what is not done is indexed by its state. Each statement and index entry less is felt:
# an empty job costs two statements, one row written twice.
# `secrets` (values of the environment, standard input) is read by claims alone and wiped with the end.
# No auto-vacuum: its pointer maps cost every insert, and freed pages are used again under a steady retention.
_VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('history', lower(hex(randomblob(16)))), ('alive', '');
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done')),
    priority INTEGER NOT NULL,
    created INTEGER NOT NULL,
    started INTEGER,
    completed INTEGER,
    keeper INTEGER,
    token TEXT,
    cancelling INTEGER NOT NULL DEFAULT 0,
    ending TEXT,
    exit_code INTEGER,
    signal TEXT,
    detail TEXT,
    duration REAL,
    stdout_bytes INTEGER,
    stderr_bytes INTEGER,
    stdout_dropped INTEGER,
    stderr_dropped INTEGER,
    cpu_user REAL,
    cpu_system REAL,
    max_rss_bytes INTEGER,
    command TEXT NOT NULL,
    spec TEXT NOT NULL,
    secrets TEXT
) STRICT;
CREATE TABLE outputs (job INTEGER PRIMARY KEY, entries BLOB NOT NULL, data BLOB NOT NULL) STRICT;
CREATE INDEX jobs_undone ON jobs (state, id) WHERE state != 'done';
CREATE INDEX jobs_with_result ON jobs (id) WHERE stdout_bytes IS NOT NULL;
CREATE INDEX jobs_queued ON jobs (priority DESC, id) WHERE state = 'queued';
CREATE INDEX jobs_completed ON jobs (completed, id) WHERE state = 'done';
"""

MIGRATIONS: Final = (_VERSION_1,)


def examine(db: sqlite3.Connection) -> int:
    """Whether this is a history that can be used, before anything is written to it; its version, 0 for a new one.

    Raises:
        StoreUnavailable: it is of a newer version, or another program's.
        sqlite3.Error: it cannot be read.
    """
    version = _pragma(db, "user_version")
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (version or tables) and _pragma(db, "application_id") != APPLICATION_ID:
        raise StoreUnavailable("it is another program's database")
    if version > len(MIGRATIONS):
        raise StoreUnavailable(f"a newer shellrunner wrote it (schema {version}; this one knows {len(MIGRATIONS)})")
    return version


def migrate(db: sqlite3.Connection) -> None:
    """Bring it to today's schema, each step in one transaction."""
    for number in range(_pragma(db, "user_version"), len(MIGRATIONS)):
        _migrate(db, number)


def history_id(db: sqlite3.Connection) -> str:
    """The history's random id."""
    (value,) = db.execute("SELECT value FROM meta WHERE key = 'history'").fetchone()
    return str(value)


def _migrate(db: sqlite3.Connection, number: int) -> None:
    steps = f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version={number + 1};"
    if number == 0:
        steps += f"PRAGMA application_id={APPLICATION_ID};"
    try:
        db.executescript(f"{steps} COMMIT;")
    finally:
        if db.in_transaction:
            db.rollback()


def _pragma(db: sqlite3.Connection, name: str) -> int:
    (value,) = db.execute(f"PRAGMA {name}").fetchone()
    return int(value)
