"""Histories of very many jobs in PostgreSQL, written by SQL: what nodes would have left there in many hours."""

import random
from typing import Final

from psycopg import sql

from benchmarks import history
from benchmarks.cluster.database import Database
from shellrunner.store.query import search

# What accepting jobs writes, pgqueuer's rows included; the sum over all nodes is the count.
_QUEUE: Final = """WITH added AS (INSERT INTO jobs (state, priority, created, command, spec)
    SELECT 'queued', 0, extract(epoch FROM clock_timestamp())::bigint * 1000, 'true', '{"command":"true"}'
    FROM generate_series(1, %s) RETURNING id),
    searched AS (INSERT INTO search SELECT id, 'true' FROM added),
    counted AS (INSERT INTO counts SELECT 'filling', 'default', '', 0, count(*), 0 FROM added
        ON CONFLICT (node, queue, submitter) DO UPDATE SET queued = counts.queued + excluded.queued)
    INSERT INTO pgqueuer (priority, status, entrypoint, payload)
    SELECT 0, 'queued', '["default",""]', convert_to(id::text, 'UTF8') FROM added ORDER BY id"""
_LABEL: Final = """INSERT INTO labels SELECT 'env',
    CASE WHEN id % 10 != 0 THEN 'prod' WHEN id % 1000 != 0 THEN 'test' ELSE 'canary' END, id FROM jobs"""
_COUNT: Final = "INSERT INTO sizes SELECT 'filling', count(*), 0 FROM jobs"
_INDEXES: Final = """SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ('jobs', 'search')
    AND indexname NOT LIKE '%_pkey'"""


def queue(database: Database, jobs: int) -> None:
    """Add this many jobs to the default queue."""
    database.execute(_QUEUE, jobs)
    _tidy(database)


def add_done(database: Database, jobs: int) -> None:
    """Write this many jobs into an empty history, the same as `benchmarks.history` does into SQLite's."""
    indexes = database.execute(_INDEXES)
    for name, _ in indexes:  # made again at once, which takes a fraction of the time
        database.execute(f"DROP INDEX {name}")
    rng = random.Random(1)
    columns = sql.SQL(", ").join(map(sql.Identifier, history.COLUMNS))
    command = history.COLUMNS.index("command")
    with database.connection.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY jobs ({}) FROM STDIN").format(columns)) as copy:
            for number in range(1, jobs + 1):
                copy.write_row(history.row(number, rng))
        rng = random.Random(1)
        with cursor.copy("COPY search FROM STDIN") as copy:
            for number in range(1, jobs + 1):
                copy.write_row((number, search.fold(str(history.row(number, rng)[command]))))
    database.execute(_LABEL)
    database.execute("UPDATE jobs SET detail = 'nobody saw it end' WHERE ending = 'lost'")
    database.execute(_COUNT)
    database.execute("SELECT setval(pg_get_serial_sequence('jobs', 'id'), max(id)) FROM jobs")
    for _, definition in indexes:
        database.execute(definition)
    _tidy(database)


def _tidy(database: Database) -> None:
    """Do at once what autovacuum and the next checkpoint would do while something is measured."""
    database.execute("VACUUM ANALYZE")
    database.execute("CHECKPOINT")
