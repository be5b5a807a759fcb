"""Named background tasks of a block: cancelled when it is left, and a crash is never silent.

Used by the store and the composition root; must not know what the tasks do. Unlike asyncio.TaskGroup, the block's own
exceptions pass as they are.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

log = logging.getLogger("shellrunner.tasks")


class TaskGroup:
    """The tasks of one block."""

    def __init__(self, owner: asyncio.Task[Any] | None) -> None:
        self._owner = owner
        self._tasks: list[asyncio.Task[None]] = []
        self.crash: BaseException | None = None

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the coroutine as a task until it returns or the block is left."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    async def stop(self) -> None:
        """Cancel the tasks that have not returned, and wait for all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        # A bug in a task would leave its callers waiting for ever, so the block is cancelled.
        self.crash = self.crash or task.exception()
        if self._owner is not None:
            self._owner.cancel()


@asynccontextmanager
async def background() -> AsyncIterator[TaskGroup]:
    """Cancel the block if one of its tasks crashes, and raise the crash from there."""
    tasks = TaskGroup(asyncio.current_task())
    try:
        yield tasks
    except asyncio.CancelledError:
        if tasks.crash is None:
            raise
        raise RuntimeError("a task of the history crashed") from tasks.crash
    finally:
        await tasks.stop()


@asynccontextmanager
async def background_task(name: str, work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run one task behind the block; yield it, so that the block can notice a crash (the only way it gets done).

    A crash does not cancel the block. When the block is left, the crash is logged as critical, also one while it was
    being cancelled.
    """
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        ended_early = task.done()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (bug := task.exception()):
            log.critical("the %s crashed", name, exc_info=bug)
        elif ended_early:
            log.critical("the %s ended although nobody stopped it", name)


def has_failed(task: asyncio.Task[None]) -> bool:
    """Return whether a task that is done raised an exception."""
    return not task.cancelled() and task.exception() is not None
