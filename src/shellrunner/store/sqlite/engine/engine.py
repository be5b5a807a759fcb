"""The engine of an open history: one connection that writes, some that read, and the queues in front of them.

Built by `composition`. Runs units of work; must not know which units there are, or what follows from them.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from shellrunner.errors import StoreUnavailable
from shellrunner.store.components.batch_queue import BatchPlanner, BatchQueue, WorkItem
from shellrunner.store.db import UnitOfWork
from shellrunner.store.sqlite.engine.batch_reader import SQLITE_FAILURES, BatchReader
from shellrunner.store.sqlite.engine.batch_writer import BatchWriter
from shellrunner.store.sqlite.engine.db_thread import DbThread
from shellrunner.store.sqlite.engine.loop_reader import LoopReader
from shellrunner.tasks import TaskGroup

T = TypeVar("T")


class EngineConnections(NamedTuple):
    """The connections of an open history; `on_loop` reads on the event loop's thread."""

    writing: DbThread
    reading: Sequence[DbThread]
    on_loop: sqlite3.Connection


class Engine:
    """Runs units of work on the connections."""

    def __init__(self, connections: EngineConnections, writer: BatchWriter) -> None:
        self._writing, self._writer = connections.writing, writer
        self._on_loop = LoopReader(connections.on_loop)
        self.writes = BatchQueue(connections.writing, self._writer)
        self.reads = [BatchQueue(connection, BatchReader()) for connection in connections.reading]

    @property
    def commits(self) -> int:
        """How many transactions were committed."""
        return self._writer.commits

    def refusal(self) -> StoreUnavailable | None:
        """Return the error with which a new job would be refused now, as far as that is known."""
        return self._writer.refusal()

    def claim_refusal(self) -> StoreUnavailable | None:
        """Return the error with which a claim would fail now, as far as that is known."""
        return self._writer.claim_refusal()

    async def read(self, unit: UnitOfWork[T]) -> T:
        """Run the unit on the reading connection that has the least to do."""
        return await min(self.reads, key=lambda queue: queue.load).run_unit(unit)

    def read_at_once(self, unit: UnitOfWork[T]) -> T:
        """Run a unit, which must not have to wait for the disk, on the event loop's thread.

        Raises:
            sqlite3.Error, MemoryError: it could not be run without waiting: run it by `read`.
        """
        return self._on_loop.run(unit)

    async def write(
        self, unit: UnitOfWork[T], on_commit: Callable[[T], None] | None = None, *, frees_space: bool = False
    ) -> T:
        """Run the unit in the next write batch; see `WorkItem`."""
        value: T = await self.writes.submit(WorkItem(unit, on_commit, frees_space=frees_space))
        return value

    async def checkpoint(self) -> bool:
        """Copy what is in the WAL into the database, as far as no reader needs it; return whether that was all."""
        return await self._writing.run(_checkpoint)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup, planner: BatchPlanner) -> AsyncIterator[None]:
        """Execute what is submitted; at the end, finish all of it, the writes first: they may need reads."""
        writing = tasks.start("store-writer", self.writes.run(planner))
        reading = [tasks.start("store-reader", queue.run()) for queue in self.reads]
        try:
            yield
        finally:
            self.writes.close()
            await asyncio.wait([writing])
            for queue in self.reads:
                queue.close()
            await asyncio.wait(reading)


def _checkpoint(db: sqlite3.Connection) -> bool:
    try:
        busy, pages, checkpointed = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except SQLITE_FAILURES:  # the history cannot be written now: its writer reports that
        return False
    return not busy and pages == checkpointed
