"""Whether the database can be used now, asked before a history is opened.

Used by the composition root. Must not know what is opened then.
"""

import psycopg

from shellrunner.store.postgres import schema
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import PostgresThread


async def probe(url: str) -> str | None:
    """Return why the database cannot be connected to; None if it can.

    If the awaiter is cancelled, nothing waits for the attempt to connect.

    Raises:
        StoreUnavailable: its tables are of another version, or missing; the message says what to do.
    """
    thread = PostgresThread(url, "store-probe")
    try:
        await thread.run(lambda thread: schema.check(thread.connection))
    except psycopg.Error as error:
        return failures.describe(error)
    finally:
        thread.close()
    return None
