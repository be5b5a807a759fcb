"""The engine of an open history: one connection that writes, some that read, and the queues in front of them.

Built by `composition`. Runs units of work; must not know which units there are, or what follows from them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from shellrunner.errors import StoreUnavailable
from shellrunner.store.components.batch_queue import BatchPlanner, BatchQueue, WorkItem
from shellrunner.store.db import Db, UnitOfWork
from shellrunner.store.postgres.engine.connection_thread import PostgresThread
from shellrunner.store.postgres.engine.group_commit import ChangeItem, CommitHooks, GroupCommit, GroupRead
from shellrunner.store.transition import Transitions
from shellrunner.tasks import TaskGroup

T = TypeVar("T")
_READERS: Final = 2


class PostgresEngine:
    """Runs units of work on this node's connections."""

    def __init__(self, url: str, node: str, hooks: CommitHooks) -> None:
        self._writer = GroupCommit(hooks)
        self._writing = PostgresThread(url, "store-writer", node, plans_once=True)
        self._reading = [PostgresThread(url, f"store-reader-{number}") for number in range(_READERS)]
        self.writes: BatchQueue[PostgresThread] = BatchQueue(self._writing, self._writer)
        self._readers = [GroupRead() for _ in self._reading]
        self.reads = [BatchQueue(*both) for both in zip(self._reading, self._readers, strict=True)]

    @property
    def commits(self) -> int:
        """How many transactions were committed."""
        return self._writer.commits

    @property
    def reads_begun(self) -> int:
        """How many transactions were begun that only read."""
        return sum(reader.begun for reader in self._readers)

    @property
    def runs_again(self) -> int:
        """How many transactions were run again because another one was in their way."""
        return self._writer.runs_again

    def refusal(self) -> StoreUnavailable | None:
        """Return the error with which a write would be refused now, as far as that is known; on any thread."""
        return self._writer.failure

    async def read(self, unit: UnitOfWork[T]) -> T:
        """Run the unit on the reading connection that has the least to do."""
        return await min(self.reads, key=lambda queue: queue.load).run_unit(unit)

    async def write(self, unit: UnitOfWork[T], on_commit: Callable[[T], None] | None = None) -> T:
        """Run a unit that changes no job in the next write batch; see `WorkItem`."""
        value: T = await self.writes.submit(WorkItem(unit, on_commit))
        return value

    async def change(
        self, unit: Callable[[Db], tuple[T, Transitions]], on_commit: Callable[[Any], None] | None = None
    ) -> T:
        """Run a unit that changes jobs in the next write batch; see `ChangeItem`."""
        value: T = await self.writes.submit(ChangeItem(unit, on_commit))
        return value

    def close_soon(self) -> None:
        """Have all that is left to do end soon, also if the database does not answer."""
        for thread in (self._writing, *self._reading):
            thread.close_soon()

    @asynccontextmanager
    async def running(self, tasks: TaskGroup, planner: BatchPlanner) -> AsyncIterator[None]:
        """Execute what is submitted; at the end, finish all of it, the writes first: they may need reads."""
        writing = tasks.start("store-writer", self.writes.run(planner))
        reading = [tasks.start("store-reader", queue.run()) for queue in self.reads]
        try:
            yield
        finally:
            self.close_soon()
            self.writes.close()
            await asyncio.wait([writing])
            for queue in self.reads:
                queue.close()
            await asyncio.wait(reading)
            for thread in (self._writing, *self._reading):
                thread.close()
