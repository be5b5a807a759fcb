"""Histories in a directory, opened with the back end under test, and jobs in each state.

With PostgreSQL each path has a database of its own, which is made when it is opened for the first time, and is the
state directory of its only node. For several nodes see `nodes`.
"""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from shellrunner.model import Claim, End, Ending, Job, JobSpec, Usage, Volume
from shellrunner.store import Filters, Head, Position, QueueLimits, Retention
from shellrunner.store.postgres_import import import_postgres
from shellrunner.store.sqlite.composition import open_store
from shellrunner.store.sqlite.store import SqliteStore
from tests.support import postgres

T = TypeVar("T")

SPEC = JobSpec(command="true")
NOTHING = (Volume(), Head())


# The store's tests run against one of these, or, where it is not named, against SQLite and some against both. Tests
# that read the file or execute statements have the mark `sqlite`.
BACK_ENDS: Final = ("sqlite", "postgres")
NAMED_BACK_END: Final = os.environ.get("SHELLRUNNER_TEST_STORE")
_selected = [NAMED_BACK_END or "sqlite"]
_databases: dict[Path, str] = {}  # by the directory for which each was made


def select(back_end: str) -> None:
    """Have `opened` open histories with this back end from now on."""
    assert back_end in BACK_ENDS, back_end
    _selected[:] = [back_end]


def opened(
    path: Path, queues: QueueLimits | None = None, **limits: float
) -> AbstractAsyncContextManager[SqliteStore]:
    """Open a history; `limits` are those of its retention. The type is that of SQLite's; tests use what both have."""
    retention = Retention(**limits)  # type: ignore[arg-type]
    if _selected == ["sqlite"]:
        return open_store(path, retention, queues or QueueLimits())
    return _opened_node(path, retention, queues or QueueLimits())


@asynccontextmanager
async def _opened_node(path: Path, retention: Retention, queues: QueueLimits) -> AsyncIterator[Any]:
    back_end = import_postgres("composition")
    node = import_postgres("node_config").NodeConfig(name="node", version="test", slots=100)
    config = back_end.PostgresConfig(url=database_url(path))
    async with back_end.open_store(config, path, retention, queues, node=node) as store:
        yield store


def database_url(path: Path) -> str:
    """Return the URL of the database of this directory, which is made if there is none."""
    server = postgres.shared()
    if path not in _databases:
        name = _databases[path] = server.create_database(postgres.template(migrate))
        history_id = secrets.token_hex(16)  # a copy of the template has its id
        server.execute("UPDATE meta SET value = %s WHERE key = 'history'", history_id, database=name)
    return server.url(_databases[path])


def drop_databases() -> None:
    """Drop every database that was made here."""
    for name in _databases.values():
        postgres.shared().drop_database(name)
    _databases.clear()


def migrate(url: str) -> None:
    """Make the tables of the product in an empty database."""
    import_postgres("schema").migrate(url)


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
