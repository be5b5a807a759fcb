"""Importing a history into an empty one, in one transaction, compared at its end.

Used by the package `backup`. Rows keep their ids and all that they have; secrets are sealed again, with keys that are
in the database. Must not know SQLite or state directories.

    copy       jobs, outputs, attempts, labels, dependencies, keys, callbacks, sessions, pauses, limits
    compare    counts and sums of each table, here and there
    lose       what runs by the history, if that was wanted, with the consequences of its end
    derive     chunks, texts for search, counts, sizes, deliveries, the next id
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

import psycopg

from shellrunner.clock import now_ms
from shellrunner.errors import ShellrunnerError, StoreUnavailable
from shellrunner.model import End, Ending, Volume
from shellrunner.store.output import Head
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.output.location import Recorded
from shellrunner.store.postgres import schema
from shellrunner.store.postgres.delivery import QueuedJob
from shellrunner.store.postgres.delivery.pgqueuer_engine import PgqueuerDelivery
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import connect
from shellrunner.store.postgres.engine.postgres_db import Connection, PostgresDb
from shellrunner.store.postgres.hosts.lease import LEASE
from shellrunner.store.postgres.maintenance.chunk_import import ChunkImport, ImportedOutput
from shellrunner.store.postgres.maintenance.resealing import Resealing
from shellrunner.store.query import search
from shellrunner.store.queues import Line
from shellrunner.store.units import lifecycle, trimming

# ruff: noqa: S608  every statement here is put together from constants of this program, and names of columns

_COMPARED: Final = {
    "jobs": "count(*), sum(id), sum(created), sum(completed), sum(length(command)), sum(length(spec)), "
    "sum(stdout_bytes), sum(stderr_bytes), count(secrets), sum(attempt), sum(awaits), sum(priority)",
    "outputs": "count(*), sum(job), sum(length(entries)), sum(length(data))",
    "attempts": "count(*), sum(job), sum(number), sum(completed), sum(length(entries)), sum(length(data))",
    "labels": "count(*), sum(job), sum(length(key)), sum(length(value))",
    "dependencies": "count(*), sum(job), sum(after)",
    "keys": "count(*), sum(job), sum(length(key)), sum(length(digest)), sum(created)",
    "callbacks": "count(*), sum(job), sum(tries), sum(due)",
    "sessions": "count(*), sum(expires)",
    "paused": "count(*), sum(length(queue))",
    "queues": "count(*), sum(max_running), sum(max_queued), count(max_running)",
}
_NODE: Final = ""  # under which this counts; no node has this name
_BATCH_SIZE: Final = 5_000  # jobs that are delivered by one statement
_PROGRESS_STEP: Final = 2_000  # rows
_LIVING: Final = "SELECT name FROM hosts WHERE seen > clock_timestamp() - make_interval(secs => %s) ORDER BY name"
_SETTINGS: Final = """SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0;
    SET LOCAL maintenance_work_mem = '256MB'; LOCK TABLE jobs IN SHARE ROW EXCLUSIVE MODE"""
_COUNTS: Final = """DELETE FROM counts; INSERT INTO counts (node, queue, submitter, waiting, queued, running)
    SELECT '', queue, coalesce(submitter, ''), count(*) FILTER (WHERE state = 'waiting'),
    count(*) FILTER (WHERE state = 'queued'), count(*) FILTER (WHERE state = 'running')
    FROM jobs WHERE state != 'done' GROUP BY queue, coalesce(submitter, '')"""
_SET_META: Final = """INSERT INTO meta (key, value) VALUES (%s, %s)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
_SET_DIGEST_KEY: Final = """INSERT INTO job_keys (name, key) VALUES ('idempotency', %s)
    ON CONFLICT (name) DO UPDATE SET key = excluded.key"""
_SET_NEXT_ID: Final = "SELECT setval(pg_get_serial_sequence('jobs', 'id'), %s)"
_CHUNKS: Final = "SELECT count(*), coalesce(sum(length), 0) FROM chunks"
_TRIGRAMS_ARE_SLOW: Final = "DROP INDEX IF EXISTS search_trigrams"

Report = Callable[[str], object]


class RunningRow(Protocol):
    """A job that runs by the history, under this claim."""

    @property
    def id(self) -> int: ...
    @property
    def token(self) -> str: ...
    @property
    def attempt(self) -> int: ...


class MetaRow(Protocol):
    """What the history says of itself."""

    @property
    def history(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def last_id(self) -> int: ...
    @property
    def unknown_input_up_to(self) -> int: ...
    @property
    def held(self) -> str: ...


class SourceHistory(Protocol):
    """The history that is read, of one moment. The names of tables and columns are those of `schema`."""

    def meta(self) -> MetaRow:
        """Return what the history says of itself."""

    def columns(self, table: str, /) -> Sequence[str]:
        """Return the columns of a table."""

    def rows(self, table: str, columns: Sequence[str], where: str = ..., /) -> Generator[tuple[Any, ...]]:
        """Yield these columns of a table's rows."""

    def query(self, sql: str, /) -> tuple[Any, ...]:
        """Return the one row of a query."""

    def running(self) -> Sequence[RunningRow]:
        """Return what runs."""

    def spilled(self) -> Iterator[tuple[int, int, Recorded]]:
        """Yield the outputs that are not whole in their rows."""


class OutputFound(NamedTuple):
    """What a job that is lost has written, and when its command started, as far as its slot says."""

    volume: Volume
    head: Head
    started: int | None


@dataclass(frozen=True, slots=True)
class StateFiles:
    """What beside the history is in the state directory.

    read_key: return the key of this name; raises KeyUnusable. find_output: of what is lost; None: nothing may be.
    """

    storage: LocalStorage
    read_key: Callable[[str], bytes]
    digest_key: bytes | None = field(repr=False)
    find_output: Callable[[Any], OutputFound] | None


@dataclass(frozen=True, slots=True)
class Imported:
    """What was imported. lost: jobs that ran. unreadable: jobs that will fail to start, as their keys are missing."""

    jobs: int
    lost: int
    output: ImportedOutput
    unreadable: int


class RunningJobs(ShellrunnerError):
    """Jobs run by the history, so their keepers may live."""

    def __init__(self, ids: Sequence[int]) -> None:
        shown = ", ".join(map(str, ids[:10])) + (", …" if len(ids) > 10 else "")
        super().__init__(
            f"by this history, {len(ids)} job{'s' if len(ids) > 1 else ''} still run{'' if len(ids) > 1 else 's'} "
            f"({shown}): start its server again, let them end, and stop it; or "
            "use --lose-running, which records them as lost with their output so far (their commands are not ended)"
        )


def import_history(url: str, source: SourceHistory, files: StateFiles, report: Report) -> Imported:
    """Import all of a history into the empty one at `url`. Blocking; nothing was changed if it fails.

    Raises:
        ShellrunnerError: it was not imported; the message says why and what to do.
    """
    running = source.running()
    if running and files.find_output is None:
        raise RunningJobs([row.id for row in running])
    try:
        with connect(url) as connection:
            with connection.transaction():
                schema.check(connection)
                connection.execute(_SETTINGS)
                _refuse_used(connection)
                done = _Import(connection, source, files, report).run(running)
            report("analyzing the tables")
            connection.execute("ANALYZE")
    except psycopg.errors.InsufficientPrivilege as error:
        raise StoreUnavailable(
            f"nothing was imported: {failures.describe(error)}; use the URL of the role that owns the tables, as for "
            "`shellrunner migrate`"
        ) from None
    except psycopg.Error as error:
        raise StoreUnavailable(f"nothing was imported: {failures.describe(error)}") from None
    return done


def _refuse_used(connection: Connection) -> None:
    """Refuse a history that has anything of its own, or a server.

    Raises:
        ShellrunnerError: it has.
    """
    living = [name for (name,) in connection.execute(_LIVING, [LEASE]).fetchall()]
    if living:
        raise ShellrunnerError(
            f"servers use the database ({', '.join(living)}): stop them, and import again {LEASE:.0f} s later"
        )
    used = [table for table in _COMPARED if connection.execute(f"SELECT FROM {table} LIMIT 1").fetchone() is not None]
    if used:
        raise ShellrunnerError(
            f"the database has a history already (in {', '.join(used)}): import into an empty one, made by "
            "`shellrunner migrate`"
        )


class _Import:
    """The steps, in their transaction."""

    def __init__(self, connection: Connection, source: SourceHistory, files: StateFiles, report: Report) -> None:
        self._connection, self._source, self._files, self._report = connection, source, files, report
        self._db = PostgresDb(connection)
        self._chunks = ChunkImport(connection, files.storage)
        self._resealing = Resealing(source, files.read_key)

    def run(self, running: Sequence[RunningRow]) -> Imported:
        """Run all steps."""
        meta = self._source.meta()
        self._copy("job_keys", ["name", "key"], self._resealing.new_keys(), "keys of jobs")
        for table in _COMPARED:
            columns = self._source.columns(table)
            rows = self._source.rows(table, columns)
            self._copy(table, columns, self._resealing.seal(columns, rows) if table == "jobs" else rows, table)
        self._write_meta(meta)
        self._compare()
        for job_id, attempt, recorded in self._source.spilled():
            self._report(f"output of job {job_id}")
            self._chunks.add(job_id, attempt, recorded)
        self._lose(running)
        self._compare_chunks()
        self._derive()
        self._connection.execute(_SET_NEXT_ID, [max(meta.last_id, 1)])
        ((jobs,),) = self._connection.execute("SELECT count(*) FROM jobs").fetchall()
        return Imported(jobs, len(running), self._chunks.total, self._resealing.unreadable)

    def _copy(self, table: str, columns: Sequence[str], rows: Generator[tuple[Any, ...]], what: str) -> None:
        statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with closing(rows), self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for number, row in enumerate(rows):
                if any(isinstance(value, str) and "\0" in value for value in row):  # of an early version's label
                    raise ShellrunnerError(_describe_nul(dict(zip(columns, row, strict=True)), table))
                copy.write_row(row)
                if number % _PROGRESS_STEP == 0:
                    self._report(f"{what}: {number}")

    def _write_meta(self, meta: MetaRow) -> None:
        # Keepers and clients that have seen a later generation than this would take the history for an older copy.
        values = {
            "history": meta.history,
            "epoch": str(meta.generation + 1),
            "held": meta.held,
            "unknown_input_up_to": str(meta.unknown_input_up_to),
        }
        for key, value in values.items():
            self._connection.execute(_SET_META, [key, value])
        if self._files.digest_key is not None:
            self._connection.execute(_SET_DIGEST_KEY, [self._files.digest_key])

    def _compare(self) -> None:
        self._report("comparing")
        for table, sums in _COMPARED.items():
            statement = f"SELECT {sums} FROM {table}"
            there, here = self._source.query(statement), self._connection.execute(statement).fetchone()
            if there != here:
                raise ShellrunnerError(
                    f"nothing was imported: the table {table} differs after the copy ({there} in the history, {here} "
                    "in the database)"
                )

    def _lose(self, running: Sequence[RunningRow]) -> None:
        for row in running:
            assert self._files.find_output is not None  # noqa: S101  `import_history` has looked
            volume, head, started = self._files.find_output(row)
            detail = "its history was moved to PostgreSQL while it ran; how it ended is not known"
            end = End(Ending.LOST, now_ms(), detail=detail, started=started)
            lifecycle.finish(self._db, row.id, row.token, end=end, volume=volume, head=head)
            recorded = Recorded(volume, head, row.token)
            if not recorded.is_whole:
                self._chunks.add(row.id, row.attempt, recorded)

    def _compare_chunks(self) -> None:
        found, total = self._connection.execute(_CHUNKS).fetchone(), self._chunks.total
        if found != (total.chunks, total.bytes):
            raise ShellrunnerError(f"nothing was imported: of {total} of output, {found} is in the database")

    def _derive(self) -> None:
        indexed = schema.has_search_index(self._connection)
        if indexed:  # made at once it takes a tenth of the time
            self._connection.execute(_TRIGRAMS_ARE_SLOW)
        self._copy("search", ["job", "text"], self._texts(), "texts for search")
        if indexed:
            self._report("indexing the texts")
            self._connection.execute(schema.TRIGRAMS)
        self._report("counting")
        self._connection.execute(_COUNTS)
        size = trimming.measure(self._db)
        self._connection.execute("DELETE FROM sizes")
        self._connection.execute(
            "INSERT INTO sizes (node, jobs, bytes) VALUES (%s, %s, %s)", [_NODE, size.jobs, size.bytes]
        )
        self._deliver()

    def _texts(self) -> Generator[tuple[int, str]]:
        for job_id, name, command in self._source.rows("jobs", ["id", "name", "command"]):
            yield job_id, search.fold(search.text_of(name, command))

    def _deliver(self) -> None:
        """Offer what is queued; those that became queued by the end of a lost job, too."""
        delivery, columns = PgqueuerDelivery(), "id, queue, submitter, priority"
        with self._connection.cursor("queued") as cursor:
            cursor.execute(f"SELECT {columns} FROM jobs WHERE state = 'queued' ORDER BY id")
            while rows := list(islice(cursor, _BATCH_SIZE)):
                jobs = [QueuedJob(row[0], Line(row[1], row[2]), row[3]) for row in rows]
                delivery.enqueue(self._db, jobs)
                self._report(f"queued jobs: up to {rows[-1][0]}")


def _describe_nul(row: dict[str, Any], table: str) -> str:
    job = row["id"] if table == "jobs" else row.get("job", "unknown")
    names = ", ".join(name for name, value in row.items() if isinstance(value, str) and "\0" in value)
    return (
        f"nothing was imported: job {job} has a NUL character, which PostgreSQL does not store, in the table {table} "
        f"({names}): start the server of this history, delete the job, stop it, and import again"
    )
