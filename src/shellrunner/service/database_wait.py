"""Wait at the start until PostgreSQL can be used: a node may be started before it, or while it is restarted.

Used by the composition root before the history is opened. Jobs that run go on under their keepers meanwhile. Must not
know SQL, or what is opened then.
"""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

from shellrunner.config import Settings
from shellrunner.store.postgres_import import import_postgres
from shellrunner.systemd.notify import Notifier

log = logging.getLogger("shellrunner.service")

_RETRY_DELAY: Final = 1.0  # seconds
_EXTENSION: Final = 30.0  # seconds: an attempt to connect takes less


async def wait_for_database(
    settings: Settings, notifier: Notifier, meanwhile: AbstractAsyncContextManager[Any] | None = None
) -> None:
    """Return once the database can be used; at once if there is none. `meanwhile` is entered if that takes long.

    Raises:
        StoreUnavailable: it has the tables of another version, or none; the message says what to do.
    """
    if not settings.store.url or (failure := await _probe(settings)) is None:
        return
    async with meanwhile or nullcontext():
        while failure is not None:
            fields = {"database": settings.store.database, "reason": failure, "repeats": "waiting for PostgreSQL"}
            log.warning("waiting for PostgreSQL", extra=fields)
            notifier.status(f"waiting for PostgreSQL: {failure}")
            notifier.extend_timeout(_EXTENSION)
            await asyncio.sleep(_RETRY_DELAY)
            failure = await _probe(settings)
    log.info("PostgreSQL can be used", extra={"database": settings.store.database})


async def _probe(settings: Settings) -> str | None:
    """Return why the database cannot be connected to; None if it can."""
    failure: str | None = await import_postgres("maintenance.availability").probe(settings.store.url)
    return failure
