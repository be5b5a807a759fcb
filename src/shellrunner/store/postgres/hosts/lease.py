"""The lease of this node: its row in `hosts`, renewed by the clock of the database, and what the rows of others say.

Owned by the store, which runs it as a task. Must not know jobs.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from shellrunner.clock import Millis, boot_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.node.database_clock import DatabaseClock
from shellrunner.store.postgres.node_config import NodeConfig, Peer

INTERVAL: Final = 2.0  # seconds between two renewals
LEASE: Final = 15.0  # seconds after which a node that has not renewed its lease is unreachable

_MS: Final = "(extract(epoch FROM {}) * 1000)::bigint"
_RENEW: Final = """INSERT INTO hosts (name, incarnation, boot, version, queues, claims, slots, free)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation,
    boot = excluded.boot, version = excluded.version, queues = excluded.queues, claims = excluded.claims,
    slots = excluded.slots, free = excluded.free, seen = clock_timestamp(), unreachable = NULL"""
_READ: Final = f"""SELECT name, incarnation, boot, version, queues, claims, slots, free, draining,
    {_MS.format("joined")}, {_MS.format("seen")}, {_MS.format("clock_timestamp()")} FROM hosts ORDER BY name"""  # noqa: S608


class HostRow(NamedTuple):
    """A node, as its row says: `seen` is when it renewed its lease last, `age` how many milliseconds ago that was."""

    name: str
    incarnation: str
    boot: str
    version: str
    queues: Sequence[str] | None
    claims: bool
    slots: int
    free: int
    draining: bool
    joined: Millis
    seen: Millis
    age: Millis

    @property
    def is_reachable(self) -> bool:
        """Whether its lease has not expired."""
        return self.age < LEASE * 1000


class HostLease:
    """Renews the lease; `rows` is what was read with it last."""

    def __init__(
        self,
        node: NodeConfig,
        engine: PostgresEngine,
        clock: DatabaseClock,
        count_free: Callable[[], int],
        on_renewed: Callable[[], Any] = lambda: None,
    ) -> None:
        """`count_free`: how many keepers of this node wait for a job."""
        self._node, self._engine, self._clock = node, engine, clock
        self._count_free, self._on_renewed = count_free, on_renewed
        self.rows: Sequence[HostRow] = ()
        self.peers: Sequence[Peer] = ()

    async def renew(self) -> None:
        """Renew the lease, and read those of the others.

        Raises:
            StoreUnavailable: it could not be renewed.
        """
        node, free = self._node, self._count_free()
        queues = None if node.queues is None else sorted(node.queues)
        values = (node.name, node.incarnation, node.boot, node.version, queues, node.claims, node.slots, free)

        def renew_and_read(db: Db) -> list[HostRow]:
            db.execute(_RENEW, values)
            before = boot_ms()
            rows = read(db)
            self._clock.observe(rows[0].seen + rows[0].age, before, boot_ms())
            return rows

        self.rows = await self._engine.write(renew_and_read)
        self.peers = [
            Peer(row.name, 0 if row.draining or not row.claims else row.free, _set_of(row.queues))
            for row in self.rows
            if row.is_reachable and row.name != node.name
        ]
        self._on_renewed()

    async def run(self) -> None:
        """Renew the lease from time to time, until it is cancelled."""
        while True:
            with suppress(StoreUnavailable):
                await self.renew()
            await asyncio.sleep(INTERVAL)


def read(db: Db) -> list[HostRow]:
    """Return every node that has ever been there and was not removed."""
    rows = db.execute(_READ).fetchall()
    return [HostRow._make((*row[:11], max(row[11] - row[10], 0))) for row in rows]


def _set_of(queues: Sequence[str] | None) -> frozenset[str] | None:
    return None if queues is None else frozenset(queues)
