"""`migrate --after-restore`: declare that the database was restored, so it has forgotten some of what was done.

Used by the command line, while no node or any number of them runs. What runs by the history is lost, as nobody knows
what has become of it since; nothing is claimed until an admin resumes all queues; ids continue far above those that
may have been given. Nodes follow the new epoch (`reconciler`): what their journals have started is not run again.
"""

from typing import Final, NamedTuple

import psycopg

from shellrunner.clock import Millis
from shellrunner.errors import StoreUnavailable
from shellrunner.model import End, Ending, Volume
from shellrunner.store.db import Db
from shellrunner.store.output import Head
from shellrunner.store.postgres import schema
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import connect
from shellrunner.store.postgres.engine.postgres_db import Connection, PostgresDb
from shellrunner.store.postgres.hosts import losing
from shellrunner.store.postgres.hosts.reconciler import skip_ids
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.postgres.transaction import advisory, tallies
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle, queue_pauses

_NODE: Final = ""  # under which this counts what it changes; no node has this name
_BATCH_SIZE: Final = 200
_REASON: Final = "the database was restored from a backup"
_DETAIL: Final = f"{_REASON} while it ran; how it ended is not known"
_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_RAISE_EPOCH: Final = """UPDATE meta SET value = (value::bigint + 1)::text WHERE key = 'epoch'
    RETURNING value::bigint"""
_RUNNING: Final = """SELECT id, attempt, token, spec FROM jobs WHERE state = 'running' AND id > ? ORDER BY id LIMIT ?
    FOR UPDATE"""
_UPDATE_HOSTS: Final = 'SELECT pg_notify(\'shellrunner_nodes\', \'{"from": "", "flags": ["everything"]}\')'


class DeclaredRestore(NamedTuple):
    """The epoch from now on, and how many jobs are lost by this."""

    epoch: int
    lost: int


def declare_restored(url: str) -> DeclaredRestore:
    """Raise the epoch, pause all queues with a hold, and end what runs by the history as lost. Blocking.

    Raises:
        StoreUnavailable: the database cannot be reached, or is not of the current schema.
    """
    try:
        with connect(url) as connection:
            schema.check(connection)
            db = PostgresDb(connection)
            with connection.transaction():
                epoch, now = _begin(db)
            lost, last = 0, 0
            while ended := _lose_some(connection, db, last, now):
                lost, last = lost + len(ended), ended[-1]
            connection.execute(_UPDATE_HOSTS)
    except psycopg.Error as error:
        raise StoreUnavailable(f"the restore cannot be declared: {failures.describe(error)}") from None
    return DeclaredRestore(epoch, lost)


def _begin(db: Db) -> tuple[int, Millis]:
    advisory.lock(db, advisory.CLAIMS)
    ((now,),) = db.execute(_NOW).fetchall()
    queue_pauses.hold(db, _REASON, now)
    skip_ids(db)
    ((epoch,),) = db.execute(_RAISE_EPOCH).fetchall()
    return epoch, now


def _lose_some(connection: Connection, db: Db, after: int, now: Millis) -> list[int]:
    """End some of the running jobs as lost; return their ids."""
    end, ended = End(Ending.LOST, now, detail=_DETAIL), []
    transitions: Transitions = []
    with connection.transaction():
        claims = db.execute(_RUNNING, (after, _BATCH_SIZE)).fetchall()
        unsettled.add(db, [job_id for job_id, *_ in claims])
        for job_id, attempt, token, spec in claims:
            transitions += lifecycle.finish(
                db,
                job_id,
                token,
                end=end,
                volume=Volume(),
                head=Head(),
                next_attempt_at=losing.retry_at(spec, attempt, end),
            )
            ended.append(job_id)
        tallies.write(db, _NODE, transitions)
    return ended
