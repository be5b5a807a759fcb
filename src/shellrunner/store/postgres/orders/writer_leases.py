"""Who types into a job, over all nodes: one client that follows it at one of them holds the job's lease.

Owned by `order_exchange`. A lease lasts until it is released, or taken; those of a node that is gone count no more.
A holder that has typed just now is not looked up again, unless another node has reported that it took the lease. Must
not know what is typed.
"""

import asyncio
import math
import time
from contextlib import suppress
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.postgres.effects.outbox import CHANNEL
from shellrunner.store.postgres.hosts.lease import LEASE
from shellrunner.store.postgres.orders.order_connection import OrderConnection

# ruff: noqa: S608  every statement here is put together from constants of this program

_KNOWN_FOR: Final = 2.0  # seconds
_NOT_KNOWN: Final = -math.inf
_RETRY_DELAY: Final = 1.0  # seconds
_IS_REACHABLE: Final = f"hosts.seen > clock_timestamp() - interval '{LEASE:g} s'"
_HOLDS: Final = f"EXISTS (SELECT 1 FROM hosts WHERE incarnation = writers.incarnation AND {_IS_REACHABLE})"
_ACQUIRE: Final = f"""WITH before AS (
        SELECT hosts.name AS host FROM writers JOIN hosts ON hosts.incarnation = writers.incarnation
        WHERE job = ? AND writers.incarnation <> ?),
    acquired AS (INSERT INTO writers (job, name, incarnation) VALUES (?, ?, ?)
        ON CONFLICT (job) DO UPDATE SET name = excluded.name, incarnation = excluded.incarnation
        WHERE ?::boolean OR writers.name = excluded.name OR NOT {_HOLDS} RETURNING job)
    SELECT acquired.job, CASE WHEN before.host IS NOT NULL
        THEN pg_notify({CHANNEL.format("before.host")}, '{{"writer": ' || acquired.job || '}}')::text END
    FROM acquired LEFT JOIN before ON true"""
_IS_HELD: Final = f"SELECT 1 FROM writers WHERE job = ? AND name <> ? AND {_HOLDS}"
_RELEASE: Final = "DELETE FROM writers WHERE job = ? AND name = ? AND incarnation = ?"
_REMOVE_STALE: Final = f"DELETE FROM writers WHERE NOT {_HOLDS}"


class PostgresWriterLeases:
    """Implements `WriterLeases` for one process of a node."""

    def __init__(self, connection: OrderConnection, incarnation: str) -> None:
        self._connection, self._incarnation = connection, incarnation
        # By job, the clients of this process that may hold its lease, and when that was looked up. There is more than
        # one only while it is not known whether another one has got it.
        self._held: dict[int, dict[str, float]] = {}
        self._releasing: set[asyncio.Task[None]] = set()

    async def acquire(self, job_id: int, name: str, *, take: bool, keep: bool) -> bool:
        """Make a client the writer of a job, if it is to `keep` that; return False if another one is."""
        known_at = self._held.get(job_id, {}).get(name, _NOT_KNOWN)
        if not take and time.monotonic() - known_at < _KNOWN_FOR:
            return True
        if not keep:
            return take or not await self._connection.run(lambda db: _is_held(db, job_id, name))
        # From now on, whether there will be an answer or not; and a release that has not begun yet is none any more.
        self._held.setdefault(job_id, {}).setdefault(name, _NOT_KNOWN)
        values = (job_id, self._incarnation, job_id, name, self._incarnation, take)
        if not await self._connection.run(lambda db: db.execute(_ACQUIRE, values).fetchall()):
            self._forget(job_id, name)
            return False
        self._held[job_id] = {name: time.monotonic()}
        return True

    def release(self, job_id: int, name: str) -> None:
        """Let the job have no writer, if this client is it."""
        if self._forget(job_id, name):
            task = asyncio.create_task(self._release(job_id, name), name=f"writer of job {job_id}")
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def _release(self, job_id: int, name: str) -> None:
        while name not in self._held.get(job_id, {}):  # else it has come back meanwhile
            with suppress(StoreUnavailable):
                await self._connection.run(lambda db: db.execute(_RELEASE, (job_id, name, self._incarnation)))
                return
            await asyncio.sleep(_RETRY_DELAY)

    def lost(self, job_id: int) -> None:
        """Look up the holder again: another node has taken the lease."""
        if job_id in self._held:
            self._held[job_id] = dict.fromkeys(self._held[job_id], _NOT_KNOWN)

    def _forget(self, job_id: int, name: str) -> bool:
        """Remove a client from those that may hold the lease; return whether it was one."""
        names = self._held.get(job_id, {})
        known_at = names.pop(name, None)
        if not names:
            self._held.pop(job_id, None)
        return known_at is not None

    async def remove_stale(self) -> None:
        """Remove the leases of processes that are gone."""
        await self._connection.run(lambda db: db.execute(_REMOVE_STALE))

    def close(self) -> None:
        """End what still tries to release: the leases end with the process."""
        for task in self._releasing:
            task.cancel()


def _is_held(db: Db, job_id: int, name: str) -> bool:
    return db.execute(_IS_HELD, (job_id, name)).fetchone() is not None
