"""Histories in a directory, opened with the back end under test, and jobs in each state."""

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, TypeVar

from shellrunner.model import Claim, End, Ending, Job, JobSpec, Usage, Volume
from shellrunner.store import Filters, Head, Position, QueueLimits, Retention
from shellrunner.store.sqlite.composition import open_store
from shellrunner.store.sqlite.store import SqliteStore

T = TypeVar("T")

SPEC = JobSpec(command="true")
NOTHING = (Volume(), Head())


# The store's tests run against one of these. Tests that read the file or execute statements have the mark `sqlite`.
BACK_ENDS: Final = {"sqlite": open_store}
BACK_END: Final = os.environ.get("SHELLRUNNER_TEST_STORE", "sqlite")


def opened(
    path: Path, queues: QueueLimits | None = None, **limits: float
) -> AbstractAsyncContextManager[SqliteStore]:
    """Open a history; `limits` are those of its retention."""
    return BACK_ENDS[BACK_END](path, Retention(**limits), queues or QueueLimits())  # type: ignore[arg-type]


def ended(code: int = 0, completed: int = 2_000, started: int = 1_000) -> End:
    return End(Ending.EXITED, completed, exit_code=code, started=started, duration=0.5, usage=Usage(0.1, 0.2, 4096))


async def listed(store: SqliteStore, limit: int = 1000, **filters: Any) -> list[Job]:
    """Return the newest jobs, as far as one page goes."""
    return [listed.job() for listed in (await store.page(Filters(**filters), (), limit=limit)).jobs]


async def everything(store: SqliteStore) -> list[Job]:
    """Every job, page by page."""
    found: list[Job] = []
    after: Position | None = None
    while True:
        page = await store.page(Filters(), (), limit=1000, after=after)
        found += [listed.job() for listed in page.jobs]
        if page.next is None:
            return found
        after = page.next


async def running(store: SqliteStore, token: str = "t", keeper: int = 1) -> Claim:
    await store.add(SPEC)
    return await store.claim(keeper, token)


async def done(store: SqliteStore, token: str = "t", **end: int) -> Job:
    claim = await running(store, token)
    assert await store.finish(claim.job_id, token, ended(**end), *NOTHING)
    return await store.job(claim.job_id)


async def called(function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    """Call the function within the event loop that will run this."""
    return await function(*args, **kwargs)
