"""Sessions that other processes begin or end: read again whenever the store reports that there are some.

Run by the composition root for as long as the service has clients. Must not know what a session permits.
"""

import asyncio
from contextlib import AbstractContextManager
from typing import Final, Protocol

from shellrunner.errors import StoreUnavailable
from shellrunner.store import Subscription

_RETRY_DELAY: Final = 1.0  # seconds


class SessionChanges(Protocol):
    """Reports that another process has changed sessions; `store.Sessions` does."""

    def watch_sessions(self) -> AbstractContextManager[Subscription]:
        """Subscribe to that."""


class SessionReader(Protocol):
    """Reads sessions again; the authenticator does."""

    async def refresh_sessions(self) -> None:
        """End what is open for sessions that another process has ended.

        Raises:
            StoreUnavailable: they cannot be read.
        """


async def follow_sessions(store: SessionChanges, reader: SessionReader) -> None:
    """Read again after each change by another process, until it is cancelled."""
    with store.watch_sessions() as changes:
        while True:
            await changes.wait()
            await _refresh(reader)


async def _refresh(reader: SessionReader) -> None:
    while True:
        try:
            return await reader.refresh_sessions()
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_DELAY)
