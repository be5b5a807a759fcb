"""Opening the history at one node: is the schema right, which history is it, what does this node run by its rows.

Runs once, on a thread, before anything else. Must not know tasks or what follows.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import psycopg

from shellrunner.errors import StoreUnavailable
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.postgres import schema, secrets_reading
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import connect
from shellrunner.store.postgres.engine.postgres_db import PostgresDb
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


def open_history(url: str, state_dir: Path, node: str) -> Opened:
    """Open the history; create the directories in which this node keeps what it runs. Blocking.

    Raises:
        StoreUnavailable: it cannot be opened; the message says why and what to do.
    """
    try:
        for name in ("", "slots", "runs"):
            os.makedirs(state_dir / name, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"{state_dir} cannot be used: {error.strerror}") from None
    try:
        with connect(url) as connection:
            schema.check(connection)
            db = PostgresDb(connection)
            ((history, epoch, unknown_input),) = db.execute(_META).fetchall()
            owners = node_jobs.owners(db, node)
            key, indexed = secrets_reading.digest_key(db), schema.has_search_index(connection)
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
