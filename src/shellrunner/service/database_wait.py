"""Wait at the start until PostgreSQL can be used: a node may be started before it, or while it is restarted.

Then until the history is open: the database may be lost meanwhile, and an earlier server may have the name of this
host until its lease expires. Used by the composition root. Jobs that run go on under their keepers meanwhile. Must
not know SQL, or what is opened then.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from typing import Any, Final, TypeVar

from shellrunner.config import Settings
from shellrunner.errors import DatabaseLost, NoSpace, OutcomeUnknown, ShellrunnerError
from shellrunner.store.postgres_import import import_postgres
from shellrunner.systemd.notify import Notifier

log = logging.getLogger("shellrunner.service")

T = TypeVar("T")

WAITS_FOR_HISTORY: Final = """the service is starting, and waits for the database, or until the lease of an earlier \
server with the name of this host has expired"""
_RETRY_DELAY: Final = 1.0  # seconds
_ANSWER_AFTER: Final = 0.5  # seconds for which clients wait rather than get 503
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
            _ask_for_time(notifier, failure)
            await asyncio.sleep(_RETRY_DELAY)
            failure = await _probe(settings)
    log.info("PostgreSQL can be used", extra={"database": settings.store.database})


def _ask_for_time(notifier: Notifier, failure: str) -> None:
    """Report to systemd what is waited for, and that the start takes longer."""
    notifier.status(f"waiting for PostgreSQL: {failure}")
    notifier.extend_timeout(_EXTENSION)


async def _probe(settings: Settings) -> str | None:
    """Return why the database cannot be connected to; None if it can."""
    failure: str | None = await import_postgres("maintenance.availability").probe(settings.store.url)
    return failure


@asynccontextmanager
async def opened_once_possible(
    history: Callable[[], AbstractAsyncContextManager[T]], settings: Settings, notifier: Notifier
) -> AsyncIterator[T]:
    """Open the history, and close it at the end: again, if the database cannot be used while it is being opened.

    `history` makes one that is not opened yet. One in SQLite is opened once.
    """
    async with AsyncExitStack() as stack:
        opened = None
        while opened is None:
            try:
                opened = await stack.enter_async_context(history())
            except (DatabaseLost, NoSpace, OutcomeUnknown) as error:
                if not settings.store.url:
                    raise
                fields = {"database": settings.store.database, "reason": error.detail, "repeats": "opening"}
                log.warning("PostgreSQL could not be used while the history was being opened", extra=fields)
                _ask_for_time(notifier, error.detail)
                await asyncio.sleep(_RETRY_DELAY)
                await wait_for_database(settings, notifier)
        yield opened


async def once_possible(read: Callable[[], Awaitable[T]], notifier: Notifier) -> T:
    """Return what `read` returns: called again, as long as the database is lost."""
    while True:
        try:
            return await read()
        except DatabaseLost as error:
            log.warning("waiting for PostgreSQL", extra={"reason": error.detail, "repeats": "waiting for PostgreSQL"})
            _ask_for_time(notifier, error.detail)
        await asyncio.sleep(_RETRY_DELAY)


@asynccontextmanager
async def opened_meanwhile(
    history: AbstractAsyncContextManager[T], meanwhile: AbstractAsyncContextManager[Any]
) -> AsyncIterator[T]:
    """Open the history, and close it at the end; `meanwhile` is entered if its opening takes long."""
    async with AsyncExitStack() as stack:
        answering = asyncio.create_task(_enter_late(meanwhile), name="unavailable responder")
        try:
            opened = await stack.enter_async_context(history)
        finally:
            answering.cancel()
            await asyncio.wait([answering])
        yield opened


async def _enter_late(meanwhile: AbstractAsyncContextManager[Any]) -> None:
    await asyncio.sleep(_ANSWER_AFTER)
    with suppress(ShellrunnerError):  # an address cannot be used, which is reported once the history is open
        async with meanwhile:
            await asyncio.Event().wait()
