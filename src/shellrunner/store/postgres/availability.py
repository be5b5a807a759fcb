"""Whether the database can be used now, asked before a history is opened.

Used by the composition root. Must not know what is opened then.
"""

import asyncio

import psycopg

from shellrunner.store.postgres import schema
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import connect


async def probe(url: str) -> str | None:
    """Return why the database cannot be connected to; None if it can.

    Raises:
        StoreUnavailable: its tables are of another version, or missing; the message says what to do.
    """
    return await asyncio.to_thread(_probe, url)


def _probe(url: str) -> str | None:
    try:
        with connect(url) as connection:
            schema.check(connection)
    except psycopg.Error as error:
        return failures.describe(error)
    return None
