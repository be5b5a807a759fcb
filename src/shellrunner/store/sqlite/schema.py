"""The tables, and the migrations from older versions: one per released version, forwards only.

Used by `opening`. A migration that was released is never changed; the next one is appended. STRICT tables need
SQLite 3.37; nothing in the store needs a newer one.
"""

import sqlite3
from typing import Final

from shellrunner.errors import StoreUnavailable

APPLICATION_ID: Final = 0x53687275  # "Shru" in the file's header (sqlite.org/fileformat2.html, offset 68)

# Lists read `jobs`, so it has no blobs: those are in `outputs`, and only if there was any output. A job with a result
# has its figures (`stdout_bytes` is not null); deleting the result sets them to null. Nearly all jobs are done, so
# only those that are not are indexed by their state. Every statement and every index entry counts: an empty job costs
# two statements, one row written twice.
# `secrets` (values of the environment, standard input) are read by claims only, and deleted when the job ends. Since
# schema 5 they are sealed (`sealing`); `secrets_upgrade` seals what is older.
# No auto-vacuum: its pointer maps cost every insert, and a steady retention uses freed pages again.
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

# A waiting job waits for `awaits` unfinished jobs, and must not start before `due`. `minded`: a job or a callback
# depends on its end, so that the end of any other job costs nothing more. `attempt` counts from 1; earlier attempts
# are in `attempts`.
# Lists: each key has an index, without the value that nearly all jobs have (exit code 0, say), which is found by a
# scan in any order. An index ends with the rowid, which is the id. `search` lags behind: jobs up to `searched` (in
# `meta`) are in it, folded; newer ones are examined one by one. It has no copy of the text.
_VERSION_2 = """
CREATE TABLE jobs_2 (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'queued', 'running', 'done')),
    queue TEXT NOT NULL DEFAULT 'default',
    priority INTEGER NOT NULL,
    created INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    due INTEGER,
    awaits INTEGER NOT NULL DEFAULT 0,
    minded INTEGER NOT NULL DEFAULT 0,
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
INSERT INTO jobs_2 (id, state, queue, priority, created, started, completed, keeper, token, cancelling, ending,
    exit_code, signal, detail, duration, stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped,
    cpu_user, cpu_system, max_rss_bytes, command, spec, secrets)
    SELECT id, state, 'default', priority, created, started, completed, keeper, token, cancelling, ending,
    exit_code, signal, detail, duration, stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped,
    cpu_user, cpu_system, max_rss_bytes, command, spec, secrets FROM jobs ORDER BY id;
UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'jobs') WHERE name = 'jobs_2'
    AND EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'jobs');
INSERT INTO sqlite_sequence (name, seq) SELECT 'jobs_2', seq FROM sqlite_sequence WHERE name = 'jobs'
    AND NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'jobs_2');
DROP TABLE jobs;
ALTER TABLE jobs_2 RENAME TO jobs;
CREATE INDEX jobs_undone ON jobs (state) WHERE state != 'done';
CREATE INDEX jobs_queued ON jobs (queue, priority DESC, id) WHERE state = 'queued';
CREATE INDEX jobs_due ON jobs (due) WHERE state = 'waiting' AND awaits = 0;
CREATE INDEX jobs_created ON jobs (created);
CREATE INDEX jobs_started ON jobs (started) WHERE state = 'done';
CREATE INDEX jobs_completed ON jobs (completed) WHERE state = 'done';
CREATE INDEX jobs_duration ON jobs (duration) WHERE state = 'done';
CREATE INDEX jobs_exit_code ON jobs (exit_code) WHERE exit_code != 0;
CREATE INDEX jobs_ending ON jobs (ending) WHERE ending != 'exited';
CREATE INDEX jobs_queue ON jobs (queue) WHERE queue != 'default';
CREATE INDEX jobs_priority ON jobs (priority) WHERE priority != 0;
CREATE TABLE attempts (
    job INTEGER NOT NULL,
    number INTEGER NOT NULL,
    started INTEGER,
    completed INTEGER NOT NULL,
    ending TEXT NOT NULL,
    exit_code INTEGER,
    signal TEXT,
    detail TEXT,
    duration REAL,
    stdout_bytes INTEGER NOT NULL,
    stderr_bytes INTEGER NOT NULL,
    stdout_dropped INTEGER NOT NULL,
    stderr_dropped INTEGER NOT NULL,
    cpu_user REAL,
    cpu_system REAL,
    max_rss_bytes INTEGER,
    entries BLOB NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (job, number)
) STRICT;
CREATE TABLE labels (key TEXT NOT NULL, value TEXT NOT NULL, job INTEGER NOT NULL, PRIMARY KEY (key, value, job))
    STRICT, WITHOUT ROWID;
CREATE TABLE dependencies (after INTEGER NOT NULL, job INTEGER NOT NULL, PRIMARY KEY (after, job))
    STRICT, WITHOUT ROWID;
CREATE TABLE paused (queue TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE keys (identity TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, job INTEGER NOT NULL,
    created INTEGER NOT NULL, PRIMARY KEY (identity, key)) STRICT, WITHOUT ROWID;
CREATE INDEX keys_created ON keys (created);
CREATE TABLE callbacks (job INTEGER PRIMARY KEY, host TEXT NOT NULL, state TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0, since INTEGER, due INTEGER, error TEXT) STRICT;
CREATE INDEX callbacks_due ON callbacks (due) WHERE due IS NOT NULL;
CREATE VIRTUAL TABLE search USING fts5 (command, content = '', columnsize = 0,
    tokenize = 'trigram case_sensitive 1');
INSERT INTO meta VALUES ('searched', '0');
"""

# `submitter`: `token:NAME` or `uid:1000`; null for jobs of earlier versions. `run_as`: the system user of the
# command; null for the service's own. A session is identified by the SHA-256 of its cookie, and belongs to a token by
# its hash.
_VERSION_3 = """
ALTER TABLE jobs ADD COLUMN submitter TEXT;
ALTER TABLE jobs ADD COLUMN run_as TEXT;
CREATE TABLE sessions (digest BLOB PRIMARY KEY, token TEXT NOT NULL, expires INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""

# `claimed` is when a running job was claimed. Before, `started` was that until the job was done, and the start from
# then on. `has_dependents` (before: `minded`): another job or the job's callback waits for its end.
_VERSION_4 = """
ALTER TABLE jobs RENAME COLUMN minded TO has_dependents;
ALTER TABLE jobs ADD COLUMN claimed INTEGER;
UPDATE jobs SET claimed = started, started = NULL WHERE state != 'done';
"""

# `generation` grows with each start, and from time to time while the service runs: whatever speaks of a larger one
# is newer than this history. `home` is where it was opened last (`state_files.home`). `held` is why nothing is
# started until an admin resumes; empty if it is not held. The token of an ended attempt is kept if it may be in
# file names.
# `kill_only`: the command is ended by KILL, without TERM and grace.
# `leftovers`: what a command left behind and was ended with it, as JSON: [{pid, command}, …]; null if nothing was.
# The queued jobs of each submitter are a line of their own, so that those who may start none hold up nobody.
_VERSION_5 = """
ALTER TABLE jobs ADD COLUMN leftovers TEXT;
ALTER TABLE jobs ADD COLUMN leftovers_count INTEGER;
ALTER TABLE attempts ADD COLUMN leftovers TEXT;
ALTER TABLE attempts ADD COLUMN leftovers_count INTEGER;
INSERT OR IGNORE INTO meta VALUES ('generation', '0'), ('home', ''), ('held', '');
ALTER TABLE attempts ADD COLUMN token TEXT;
ALTER TABLE jobs ADD COLUMN kill_only INTEGER NOT NULL DEFAULT 0;
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (queue, submitter, priority DESC, id) WHERE state = 'queued';
"""

# `name`: null if the job has none, so that a job without one costs no entry of the index. `again_of`: the job whose
# specification it repeats. `held`: it waits until it is released, which counts in `awaits` like a job that it waits
# for.
# `queues`: the limits that were set at run time; null: no limit.
# In `meta`: up to which job it is not known whether it had text for standard input, of which nothing is left in a row
# of an earlier version once the job has ended.
_VERSION_6 = """
ALTER TABLE jobs ADD COLUMN name TEXT;
ALTER TABLE jobs ADD COLUMN again_of INTEGER;
ALTER TABLE jobs ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
CREATE INDEX dependencies_job ON dependencies (job, after);
CREATE INDEX jobs_name ON jobs (name) WHERE name IS NOT NULL;
CREATE TABLE queues (name TEXT PRIMARY KEY, max_running INTEGER, max_queued INTEGER) STRICT, WITHOUT ROWID;
INSERT INTO meta SELECT 'unknown_input_up_to', coalesce(max(id), 0) FROM jobs;
"""

MIGRATIONS: Final = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5, _VERSION_6)


def examine(db: sqlite3.Connection) -> int:
    """Return the version of the history, 0 for a new one. Writes nothing.

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
    """Migrate the history to the current schema, each step in one transaction."""
    for number in range(_pragma(db, "user_version"), len(MIGRATIONS)):
        _migrate(db, number)


def history_id(db: sqlite3.Connection) -> str:
    """Return the history's random id."""
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
