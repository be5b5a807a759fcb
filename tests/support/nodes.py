"""Several nodes of one history in a real PostgreSQL, each a store in the test's process with a state directory."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from shellrunner.store import QueueLimits, Retention
from shellrunner.store.postgres import schema
from shellrunner.store.postgres.composition import PostgresConfig, open_store
from shellrunner.store.postgres.node_config import NodeConfig
from shellrunner.store.postgres.store import PostgresStore
from tests.support import postgres


@dataclass
class Cluster:
    """A database of the shared server (or of `server`) with the tables, and the nodes that a test opens on it."""

    directory: Path
    server: postgres.PostgresServer
    database: str
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Return the address of the database."""
        return self.server.url(self.database)

    @asynccontextmanager
    async def node(
        self, name: str, *, queues: QueueLimits | None = None, **config: Any
    ) -> AsyncIterator[PostgresStore]:
        """Open the history at a node of this name.

        `directory`: another one than that of its name; `url`: another way to the database.
        """
        directory = self.directory / config.pop("directory", name)
        directory.mkdir(exist_ok=True)
        postgres_config = PostgresConfig(config.pop("url", self.url), **self.config)
        node = NodeConfig(**{"name": name, "version": "1", "slots": 8, **config})
        async with open_store(postgres_config, directory, Retention(), queues or QueueLimits(), node=node) as store:
            yield store

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Execute one statement outside of a transaction; return its rows."""
        return self.server.execute(statement, *values, database=self.database)

    def expire(self, name: str, seconds: float = 60) -> None:
        """Let a host be judged unreachable, as if its last renewal had been so many seconds ago."""
        statement = """UPDATE hosts SET unreachable = clock_timestamp(),
            seen = clock_timestamp() - make_interval(secs => %s) WHERE name = %s"""
        self.execute(statement, seconds, name)


@contextmanager
def cluster(directory: Path, **config: Any) -> Iterator[Cluster]:
    """Make a database for a test, and drop it afterwards."""
    server = postgres.shared()
    made = Cluster(directory, server, server.create_database(postgres.template(schema.migrate)), config)
    try:
        yield made
    finally:
        drop(made)


def drop(made: Cluster) -> None:
    """Drop its database, if its server still runs."""
    with contextlib.suppress(psycopg.Error):
        made.server.drop_database(made.database)


_OF_DIRECTORIES: dict[Path, Cluster] = {}
_in_use: Counter[Path] = Counter()


@contextmanager
def cluster_of(directory: Path) -> Iterator[Cluster]:
    """Yield the cluster of this directory, which is made when it is opened for the first time.

    Its database is dropped when one of another directory is made, and nobody uses it.
    """
    if directory not in _OF_DIRECTORIES:
        for unused in [each for each in _OF_DIRECTORIES if not _in_use[each]]:
            drop(_OF_DIRECTORIES.pop(unused))
        server = postgres.shared()
        database = server.create_database(postgres.template(schema.migrate))
        _OF_DIRECTORIES[directory] = Cluster(directory, server, database)
    _in_use[directory] += 1
    try:
        yield _OF_DIRECTORIES[directory]
    finally:
        _in_use[directory] -= 1
