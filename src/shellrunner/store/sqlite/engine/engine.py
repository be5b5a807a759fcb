"""The engine of an open history: one connection that writes, some that read, and the queues in front of them.

Built by `composition`. Runs units of work; must not know which units there are, or what follows from them.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import UnitOfWork
from shellrunner.store.sqlite.engine.batch_queue import (
    SQLITE_FAILURES,
    BatchPlanner,
    BatchQueue,
    BatchReader,
    WorkItem,
)
from shellrunner.store.sqlite.engine.batch_writer import BatchWriter
from shellrunner.store.sqlite.engine.db_thread import DbThread
from shellrunner.tasks import TaskGroup

T = TypeVar("T")


class Engine:
    """Runs units of work on the connections."""

    def __init__(self, writing: DbThread, reading: Sequence[DbThread], writer: BatchWriter) -> None:
        self._writing, self._writer = writing, writer
        self.writes = BatchQueue(writing, self._writer)
        self.reads = [BatchQueue(connection, BatchReader()) for connection in reading]

    @property
    def commits(self) -> int:
        """How many transactions were committed."""
        return self._writer.commits

    def refusal(self) -> StoreUnavailable | None:
        """Return the error with which a new job would be refused now, as far as that is known."""
        return self._writer.refusal()

    async def read(self, unit: UnitOfWork[T]) -> T:
        """Run the unit on the reading connection that has the least to do."""
        return await min(self.reads, key=lambda queue: queue.load).run_unit(unit)

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
