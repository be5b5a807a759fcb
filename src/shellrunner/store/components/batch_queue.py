"""The queue in front of one connection: what arrives while it works becomes the next batch, one call to its thread.

Owned by the engine of a back end. Knows batches, and which outcome belongs to which caller; must not know jobs, or
which database the connection is to.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from shellrunner.errors import OutcomeUnknown, StoreUnavailable
from shellrunner.store.db import UnitOfWork

T = TypeVar("T")
Connection = TypeVar("Connection")


class WorkItem:
    """A unit of work, and who wants its outcome.

    on_commit, on_failure: called with the outcome, in the turn of the loop in which it is known; must not raise.
    future: of the caller, if one waits. If it is cancelled, the unit runs all the same, and so does `on_commit`.
    frees_space: whether it frees space on a full disk, or records an end. needs_room: whether it must not be run on a
    disk that is nearly full.
    """

    __slots__ = ("error", "frees_space", "future", "needs_room", "on_commit", "on_failure", "unit", "value")

    def __init__(
        self,
        unit: UnitOfWork[Any],
        on_commit: Callable[[Any], None] | None = None,
        *,
        on_failure: Callable[[Exception], None] | None = None,
        frees_space: bool = False,
        needs_room: bool = False,
    ) -> None:
        self.unit = unit
        self.on_commit = on_commit
        self.on_failure = on_failure
        self.frees_space = frees_space
        self.needs_room = needs_room
        self.future: asyncio.Future[Any] | None = None
        self.value: Any = None
        self.error: Exception | None = None

    def settle(self) -> None:
        """Apply the consequences and answer the caller, on the event loop's thread."""
        error, future = self.error, self.future
        if error is None:
            if self.on_commit is not None:
                self.on_commit(self.value)
            if future is not None and not future.done():
                future.set_result(self.value)
        else:
            if self.on_failure is not None:
                self.on_failure(error)
            if future is not None and not future.done():
                future.set_exception(error)


Connection_contra = TypeVar("Connection_contra", contravariant=True)
Connection_co = TypeVar("Connection_co", covariant=True)


class ConnectionThread(Protocol[Connection_co]):
    """A connection on a thread of its own."""

    def call(
        self, function: Callable[[Connection_co], object], done: Callable[[BaseException | None], object], /
    ) -> None:
        """Run the function on the connection's thread, then `done` on the event loop's, with what it raised."""


class BatchExecutor(Protocol[Connection_contra]):
    """Runs the units of a batch, on the connection's thread."""

    def execute(self, db: Connection_contra, batch: Sequence[WorkItem], /) -> None:
        """Run every unit, and set the `value` or the `error` of each item."""


class BatchPlanner(Protocol):
    """Looks at each batch before it runs, on the event loop's thread."""

    def plan(self, batch: Sequence[WorkItem]) -> WorkItem | None:
        """Return the item with which the batch ends, if any. No other batch is under way."""


class BatchQueue(Generic[Connection]):
    """Work for one connection, which is done batch after batch.

    By callbacks, because each task or future between a request and its commit is another turn of the loop:

        put ──> _schedule ──(next turn)──> _begin ──> the connection's thread ──> _executed ──> settle, item by item
                     ^                        ^                                        │
                     └──── if idle            └──────────── more has arrived ──────────┘
    """

    def __init__(self, connection: ConnectionThread[Connection], executor: BatchExecutor[Connection]) -> None:
        self._connection = connection
        self._executor = executor
        self._planner: BatchPlanner | None = None
        self._pending: list[WorkItem] = []
        self._batch: list[WorkItem] = []  # under way
        self._is_busy = True  # a batch is under way, or scheduled; until `run` is called, none begins
        self._is_due = False  # one is to follow it, even without items
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] = self._loop.create_future()

    @property
    def load(self) -> int:
        """How many units are pending or under way."""
        return len(self._batch) + len(self._pending)

    def put(self, item: WorkItem) -> None:
        """Put the item into the next batch.

        Raises:
            StoreUnavailable: the queue is closed.
        """
        if self._closed:
            raise StoreUnavailable("the history is closed")
        self._pending.append(item)
        self.wake()

    def submit(self, item: WorkItem) -> asyncio.Future[Any]:
        """Put the item into the next batch; return the future of its unit's value.

        Raises:
            StoreUnavailable: the queue is closed.
        """
        item.future = self._loop.create_future()
        self.put(item)
        return item.future

    async def run_unit(self, unit: UnitOfWork[T]) -> T:
        """Run the unit on the connection's thread and return its value.

        Raises:
            StoreUnavailable: the database failed, and nothing of the unit has happened.
        """
        value: T = await self.submit(WorkItem(unit))
        return value

    def wake(self) -> None:
        """Run a batch now, even if nothing is pending: the planner may have something."""
        self._is_due = True
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._begin)  # with all that arrives in this turn of the loop

    def close(self) -> None:
        """Accept no more items; `run` returns once all pending ones are done."""
        self._closed = True
        self.wake()

    async def run(self, planner: BatchPlanner | None = None) -> None:
        """Execute batch after batch until closed. What a callback, or the executor, raises is raised here."""
        self._planner = planner
        self._begin()
        try:
            await self._drained
        except BaseException:
            self._abandon()
            raise

    def _begin(self) -> None:
        self._is_due = False
        batch, self._pending = self._pending, []
        self._batch = batch
        try:
            if self._planner is not None and (last := self._planner.plan(batch)) is not None:
                batch.append(last)
            if batch:
                self._connection.call(lambda db: self._executor.execute(db, batch), self._executed)
            else:
                self._rest()
        except BaseException as bug:  # noqa: BLE001  `run` raises it
            self._crash(bug)

    def _executed(self, error: BaseException | None) -> None:
        if error is not None:
            self._crash(error)
            return
        try:
            for item in self._batch:
                item.settle()
        except BaseException as bug:  # noqa: BLE001  `run` raises it
            self._crash(bug)
            return
        self._batch = []
        if self._is_due:
            self._begin()
        else:
            self._rest()

    def _rest(self) -> None:
        if self._closed and not self._drained.done():
            self._drained.set_result(None)
        self._is_busy = self._closed

    def _crash(self, bug: BaseException) -> None:
        if not self._drained.done():
            self._drained.set_exception(bug)

    def _abandon(self) -> None:
        """Close after a crash, so that nobody waits for ever: the service ends, and may need the history for that."""
        self._closed = self._is_busy = True
        for item in self._batch:  # some of these may be settled
            if item.future is not None and not item.future.done():
                unknown = "the history has crashed; whether the request took effect is not known"
                item.future.set_exception(OutcomeUnknown(unknown))
        for item in self._pending:
            item.error = StoreUnavailable("the history has crashed")
            item.settle()
        self._batch, self._pending = [], []
