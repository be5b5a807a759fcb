"""The hosts of the cluster, as clients see and change them: list, drain, resume, remove.

Part of the store. Works on the rows that each node keeps of itself (`lease`). Must not know connections.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from shellrunner.clock import Millis
from shellrunner.errors import HostReachable, NoSuchHost
from shellrunner.store.db import Db
from shellrunner.store.hosts import Host
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.hosts import lease, losing, shared_settings
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.postgres.transaction import advisory
from shellrunner.store.transition import CommitListener, Transitions

_RUNNING: Final = "SELECT host, count(*) FROM jobs WHERE state = 'running' AND host IS NOT NULL GROUP BY host"
_DRAIN: Final = "UPDATE hosts SET draining = ? WHERE name = ? RETURNING name"
# Its row is locked, so that it does not return meanwhile.
_LOCK: Final = "SELECT unreachable IS NULL FROM hosts WHERE name = ? FOR UPDATE"
_REMOVE: Final = "DELETE FROM hosts WHERE name = ?"


class HostRegistry:
    """The `Hosts` of this back end."""

    def __init__(
        self,
        node: str,
        engine: PostgresEngine,
        listener: CommitListener,
        now: Callable[[], Millis],
        on_changed: Callable[[], Any],
        *,
        own_settings: Callable[[], str],
    ) -> None:
        """`node`: the name of this one. `on_changed` is called after a host was drained, resumed or removed here."""
        self._node, self._engine, self._listener = node, engine, listener
        self._now, self._on_changed, self._own_settings = now, on_changed, own_settings

    async def list(self) -> Sequence[Host]:
        return await self._engine.read(self._read)

    async def drain(self, name: str) -> Host:
        return await self._set_draining(name, draining=True)

    async def resume(self, name: str) -> Host:
        return await self._set_draining(name, draining=False)

    async def remove(self, name: str) -> int:
        lost = 0
        while (number := await self._remove_step(name)) is not None:
            lost += number
        self._on_changed()
        return lost

    def _read(self, db: Db) -> Sequence[Host]:
        running, open_claims = dict(db.execute(_RUNNING).fetchall()), unsettled.count(db)
        return [self._to_host(row, running.get(row.name, 0), open_claims.get(row.name, 0)) for row in lease.read(db)]

    def _to_host(self, row: lease.HostRow, running: int, unsettled_claims: int) -> Host:
        return Host(
            name=row.name,
            version=row.version,
            queues=None if row.queues is None else tuple(row.queues),
            slots=row.slots,
            running=running,
            unsettled=unsettled_claims,
            free=0 if row.draining or row.is_unreachable else row.free,
            claims=row.claims,
            draining=row.draining,
            reachable=not row.is_unreachable,
            stopped=row.is_stopped,
            seen=row.seen,
            joined=row.joined,
            is_this=row.name == self._node,
            differing=tuple(shared_settings.differences(self._own_settings(), row.settings)),
        )

    async def _set_draining(self, name: str, *, draining: bool) -> Host:
        def change(db: Db) -> Host:
            advisory.lock(db, advisory.CLAIMS)  # who claims after this has committed, sees it
            if not db.execute(_DRAIN, (draining, name)).fetchall():
                raise NoSuchHost(name)
            return next(host for host in self._read(db) if host.name == name)

        return await self._engine.write(change, lambda _: self._on_changed())

    async def _remove_step(self, name: str) -> int | None:
        """Declare some of the host's jobs lost; if it has none left, remove it, and return None.

        Raises:
            NoSuchHost, HostReachable: see `Hosts.remove`.
        """

        def remove(db: Db) -> tuple[Transitions, Transitions]:
            advisory.lock_node(db, name)  # a claim of it that is under way is seen
            found = db.execute(_LOCK, (name,)).fetchall()
            if not found:
                raise NoSuchHost(name)
            if found[0][0]:
                raise HostReachable(name)
            detail = f"host {name} was removed while it ran; its end was not seen"
            transitions = losing.lose(db, name, detail, self._now())
            if not transitions:
                db.execute(_REMOVE, (name,))
            return transitions, transitions

        transitions = await self._engine.change(remove, self._listener.committed)
        return losing.count(transitions) or None
