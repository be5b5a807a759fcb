"""The queue in front of one connection: what arrives while it works becomes the next batch, one call to its thread.

Owned by the engine. Knows batches, and which outcome belongs to which caller; must not know jobs.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from shellrunner.errors import NoSpace, OutcomeUnknown, StoreUnavailable
from shellrunner.store.db import UnitOfWork
from shellrunner.store.sqlite.engine.db_thread import DbThread

T = TypeVar("T")

SQLITE_FAILURES: Final = (sqlite3.Error, MemoryError)  # the latter is SQLITE_NOMEM


class WorkItem:
    """A unit of work and its caller. If the caller is cancelled, the unit runs all the same, and so does `on_commit`.

    frees_space: whether it frees space on a full disk, or records an end. needs_room: whether it must not be run on a
    disk that is nearly full.
    """

    __slots__ = ("error", "frees_space", "future", "needs_room", "on_commit", "unit", "value")

    def __init__(
        self,
        unit: UnitOfWork[Any],
        on_commit: Callable[[Any], None] | None = None,
        *,
        frees_space: bool = False,
        needs_room: bool = False,
    ) -> None:
        self.unit = unit
        self.on_commit = on_commit
        self.frees_space = frees_space
        self.needs_room = needs_room
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.value: Any = None
        self.error: Exception | None = None

    def settle(self) -> None:
        """Apply the consequences and answer the caller, on the event loop's thread."""
        if self.error is None and self.on_commit is not None:
            self.on_commit(self.value)
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.value)
        else:
            self.future.set_exception(self.error)


class BatchExecutor(Protocol):
    """Runs the units of a batch, on the connection's thread."""

    def execute(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> None:
        """Run every unit, and set the `value` or the `error` of each item."""


class BatchPlanner(Protocol):
    """Looks at each batch before it runs, on the event loop's thread."""

    def plan(self, batch: Sequence[WorkItem]) -> WorkItem | None:
        """Return the item with which the batch ends, if any. No other batch is under way."""


class BatchQueue:
    """Work for one connection, which is done batch after batch."""

    def __init__(self, connection: DbThread, executor: BatchExecutor) -> None:
        self._connection = connection
        self._executor = executor
        self._pending: list[WorkItem] = []
        self._executing = 0
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def load(self) -> int:
        """How many units are pending or under way."""
        return self._executing + len(self._pending)

    def submit(self, item: WorkItem) -> asyncio.Future[Any]:
        """Put the item into the next batch; return the future of its unit's value.

        Raises:
            StoreUnavailable: the queue is closed.
        """
        if self._closed:
            raise StoreUnavailable("the history is closed")
        self._pending.append(item)
        self._wake.set()
        return item.future

    async def run_unit(self, unit: UnitOfWork[T]) -> T:
        """Run the unit on the connection's thread and return its value.

        Raises:
            StoreUnavailable: SQLite failed, and nothing of the unit has happened.
        """
        value: T = await self.submit(WorkItem(unit))
        return value

    def wake(self) -> None:
        """Run a batch now, even if nothing is pending: the planner may have something."""
        self._wake.set()

    def close(self) -> None:
        """Accept no more items; `run` returns once all pending ones are done."""
        self._closed = True
        self._wake.set()

    async def run(self, planner: BatchPlanner | None = None) -> None:
        """Execute batch after batch until closed."""
        while not (self._closed and not self._pending):
            await self._wake.wait()
            self._wake.clear()
            batch, self._pending = self._pending, []
            try:
                await self._run_batch(batch, planner)
            except BaseException:
                self._abandon(batch)
                raise

    async def _run_batch(self, batch: list[WorkItem], planner: BatchPlanner | None) -> None:
        last = planner.plan(batch) if planner is not None else None
        if last is not None:
            batch.append(last)
        if batch:
            self._executing = len(batch)
            await self._connection.run(lambda db: self._executor.execute(db, batch))
            self._executing = 0
            for item in batch:
                item.settle()

    def _abandon(self, batch: list[WorkItem]) -> None:
        """Close after a crash, so that nobody waits for ever: the service ends, and may need the history for that."""
        self._closed = True
        for item in batch:
            item.error = OutcomeUnknown("the history has crashed; whether the request took effect is not known")
        for item in self._pending:
            item.error = StoreUnavailable("the history has crashed")
        for item in batch + self._pending:
            item.settle()
        self._pending.clear()


class BatchReader:
    """Runs each batch of reads in one transaction, which sees one state of the history."""

    def execute(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> None:
        """Run every unit; one that fails does not affect the others."""
        roll_back(db)  # a transaction that could not be ended sees an earlier state
        for item in batch:
            try:
                if not db.in_transaction:
                    db.execute("BEGIN")
                item.value = item.unit(db)
            except Exception as error:  # noqa: BLE001  # each caller gets its own, the queue goes on
                item.error = translate_error(error, "read")
        roll_back(db)


def roll_back(db: sqlite3.Connection) -> None:
    """End the transaction if one is open; if that fails, the next batch tries again before it begins its own."""
    with suppress(*SQLITE_FAILURES):
        if db.in_transaction:
            db.rollback()


def translate_error(error: Exception, action: str) -> Exception:
    """Return the error as callers may see it: SQLite's own never leave the store."""
    if not isinstance(error, SQLITE_FAILURES):
        return error
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
        return NoSpace()
    return StoreUnavailable(f"the history cannot be {action}: {str(error) or 'out of memory'}")
