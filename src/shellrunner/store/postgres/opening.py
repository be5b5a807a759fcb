"""Opening the history at one node: is the schema right, which history is it, what does this node run by its rows.

Runs once, on a thread of its own, before anything else: a server that does not answer is given up, and does not delay
a stop. Must not know tasks or what follows.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import psycopg

from shellrunner.errors import StoreUnavailable
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.postgres import schema, secrets_reading
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import PostgresThread
from shellrunner.store.postgres.node import node_jobs
from shellrunner.store.postgres.transaction.claim_journal import ClaimJournal
from shellrunner.store.state_files.home import Home
from shellrunner.store.values import HistoryIdentity

_META = """SELECT (SELECT value FROM meta WHERE key = 'history'), (SELECT value FROM meta WHERE key = 'epoch'),
    coalesce((SELECT value FROM meta WHERE key = 'unknown_input_up_to'), '0')"""  # the last only if it was imported


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found: the history, who of this node runs which job, the key of digests, whether texts are indexed.

    place: the state directory, as this host knows it. journal: what this node has started; to be closed.
    """

    identity: HistoryIdentity
    owners: dict[int, SlotOwner]
    digest_key: bytes
    has_search_index: bool
    place: str
    journal: ClaimJournal
    unknown_input_up_to: int


async def open_history(url: str, state_dir: Path, node: str) -> Opened:
    """Open the history; create the directories in which this node keeps what it runs.

    Raises:
        DatabaseLost: the database cannot be used just now.
        StoreUnavailable: it cannot be opened; the message says why and what to do.
    """
    thread = PostgresThread(url, "store-opener")
    try:
        return await thread.run(lambda thread: _open(thread, state_dir, node))
    finally:
        thread.close()


def _open(thread: PostgresThread, state_dir: Path, node: str) -> Opened:
    try:
        for name in ("", "slots", "runs"):
            os.makedirs(state_dir / name, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"{state_dir} cannot be used: {error.strerror}") from None
    try:
        schema.check(thread.connection)
        ((history, epoch, unknown_input),) = thread.db.execute(_META).fetchall()
        owners = node_jobs.owners(thread.db, node)
        key, indexed = secrets_reading.digest_key(thread.db), schema.has_search_index(thread.connection)
    except psycopg.Error as error:
        raise failures.unavailable(error, "the database cannot be opened") from None
    journal = ClaimJournal(state_dir / f"claims-{history}.journal")
    identity = HistoryIdentity(history, int(epoch), _home(state_dir))
    return Opened(identity, owners, key, indexed, _place(state_dir), journal, int(unknown_input))


def _place(state_dir: Path) -> str:
    found = state_dir.stat()
    return f"{found.st_dev}:{found.st_ino}"


def _home(state_dir: Path) -> str:
    try:
        return Home.from_lock(f"{state_dir}/lock").file
    except FileNotFoundError:  # used without the service, which makes the lock file
        return ""
