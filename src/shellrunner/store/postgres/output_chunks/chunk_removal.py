"""Removal of the chunks of deleted results, in small transactions: gigabytes at once would hold up everything.

Owned by the store, which runs it as a task at each node; no two of them remove for one job at a time. Until it is
done nobody reads the chunks, as no row of a job leads to them. Must not know why a result was deleted.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import uniform
from typing import Final, Protocol

import psycopg

from shellrunner.store.postgres.engine.connection_thread import PostgresThread
from shellrunner.store.postgres.output_chunks import chunk_rows

_INTERVAL: Final = 5.0  # seconds between two looks of one node, about


class RunOnThread(Protocol):
    """Runs functions on a connection's thread."""

    async def run_unit(self, function: Callable[[PostgresThread], bool], /) -> bool: ...


class ChunkRemoval:
    """Removes chunks from time to time, on the connection of the sender, between its steps."""

    def __init__(self, sender: RunOnThread) -> None:
        self._sender = sender

    async def run(self) -> None:
        """Remove what is discarded, until it is cancelled."""
        while True:
            await asyncio.sleep(uniform(0.5, 1.5) * _INTERVAL)  # noqa: S311  so that the nodes take turns
            with suppress(psycopg.Error):
                while await self._sender.run_unit(_remove):
                    pass


def _remove(thread: PostgresThread) -> bool:
    with thread.connection.transaction():
        return chunk_rows.remove_discarded(thread.db)
