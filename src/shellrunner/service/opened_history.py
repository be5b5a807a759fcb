"""Which back end has the history: SQLite in the state directory, or PostgreSQL, which the nodes of a cluster share.

Used by the composition root for both programs, `serve` and `worker`; nothing else knows that there are two. What
PostgreSQL needs is imported here, and only if config has a URL.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from shellrunner import __version__
from shellrunner.config import Settings
from shellrunner.errors import ConfigError
from shellrunner.service.limits import queue_limits
from shellrunner.store import Retention, Store
from shellrunner.store.hosts import ThisHost
from shellrunner.store.postgres_import import import_postgres
from shellrunner.store.sqlite import composition as sqlite


def check_back_end(settings: Settings, *, runs_jobs: bool = True, new_history: bool = False) -> None:
    """Check that the history can be where config says, before anything is made.

    Raises:
        ConfigError: a package is missing, or an option is for the other back end.
    """
    if not settings.store.url and not runs_jobs:
        raise ConfigError("--no-worker requires store.url: other hosts run jobs only if the history is in PostgreSQL")
    if settings.store.url and new_history:
        raise ConfigError("--new-history is for a history in store.state_dir, and store.url is set")
    if settings.store.url:
        import_postgres("composition")


def describe(settings: Settings) -> dict[str, str]:
    """Return what the log says about a history that other nodes share, and about this node; nothing on one host."""
    return {"database": settings.store.database, "node": settings.worker.name} if settings.store.url else {}


@contextlib.asynccontextmanager
async def open_history(settings: Settings, state_dir: Path, *, new_history: bool = False) -> AsyncIterator[Store]:
    """Open the history; at the end, write everything submitted, and close it. `check_back_end` was called before.

    If supervisor.max_running is 0, this node claims no jobs.

    Raises:
        StoreUnavailable: it cannot be opened; the message says why and what to do.
    """
    if settings.store.url:
        from shellrunner.store.postgres.composition import PostgresConfig, open_store  # noqa: PLC0415  see above
        from shellrunner.store.postgres.node_config import NodeConfig  # noqa: PLC0415

        node = NodeConfig(
            name=settings.worker.name,
            version=__version__,
            slots=settings.supervisor.max_running,
            queues=frozenset(settings.worker.queues) or None,
            claims=settings.supervisor.max_running > 0,
        )
        config = PostgresConfig(
            settings.store.url,
            settings.store.delivery,
            settings.cluster.lost_after,
            min_free=settings.store.min_free_bytes,
        )
        limits = _retention(settings), queue_limits(settings)
        async with open_store(config, state_dir, *limits, node=node) as shared:
            yield shared
    else:
        async with sqlite.open_store(
            state_dir,
            _retention(settings),
            queue_limits(settings),
            settings.store.min_free_bytes,
            new_history=new_history,
            host=ThisHost(settings.worker.name, __version__, settings.supervisor.max_running),
        ) as store:
            yield store


def _retention(settings: Settings) -> Retention:
    """Return how much of the history is kept."""
    store = settings.store
    return Retention(days=store.retention_days, jobs=store.retention_jobs, bytes=store.retention_bytes)
