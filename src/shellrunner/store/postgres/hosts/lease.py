"""The lease of this node: its row in `hosts`, renewed by the clock of the database, and what the rows of others say.

Owned by the store, which runs it as a task. A node differs from an earlier server of the same name by its
incarnation, which each claim checks (`situation`): of two servers with one name, one claims. Must not know jobs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from shellrunner.clock import Millis, boot_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.hosts import losing, shared_settings
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.postgres.node.database_clock import DatabaseClock
from shellrunner.store.postgres.node_config import NodeConfig, Peer
from shellrunner.store.postgres.transaction import advisory
from shellrunner.store.postgres.transaction.claim_journal import MAX_RECORDS, ClaimJournal
from shellrunner.store.postgres.transaction.situation import Era
from shellrunner.store.transition import CommitListener, Transitions

# ruff: noqa: S608  every statement here is put together from constants of this program

_log = logging.getLogger(__name__)

INTERVAL: Final = 2.0  # seconds between two renewals
_MIN_INTERVAL: Final = 0.2  # seconds, however many nodes are met
# Seconds after which a node that has not renewed its lease is unreachable: with the look that follows, within 15 s.
LEASE: Final = 13.0

_MS: Final = "(extract(epoch FROM {}) * 1000)::bigint"
_ERA: Final = """(SELECT value FROM meta WHERE key = 'epoch'), (SELECT value FROM meta WHERE key = 'server'),
    coalesce(current_setting('shellrunner.server', true), '')"""
_SET: Final = """boot = ?, home = ?, version = ?, queues = ?, claims = ?, slots = ?, free = ?,
    settings = ?, seen = clock_timestamp(), unreachable = NULL, stopped = false"""
_RENEW: Final = f"""WITH before AS (SELECT unreachable FROM hosts WHERE name = ? FOR UPDATE)
    UPDATE hosts SET {_SET} FROM before WHERE name = ? AND incarnation = ?
    RETURNING before.unreachable IS NOT NULL, {_ERA}"""
_ADD: Final = """INSERT INTO hosts (name, incarnation, boot, home, version, queues, claims, slots, free,
    settings) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING"""
_EARLIER: Final = f"""SELECT stopped OR (boot = ? AND home = ?), clock_timestamp() - seen > make_interval(secs => ?),
    {_MS.format("seen")} FROM hosts WHERE name = ? FOR UPDATE"""
# A host whose jobs go on under their keepers is not `stopped`: how they end, nobody knows before it is back. Nor is
# one where commands of lost jobs may run on.
_LEAVE: Final = """UPDATE hosts SET free = 0, stopped = own.is_idle,
    unreachable = CASE WHEN own.is_idle THEN clock_timestamp() END
    FROM (SELECT NOT EXISTS (SELECT FROM jobs WHERE host = ? AND state = 'running')
        AND NOT EXISTS (SELECT FROM unsettled WHERE host = ?) AS is_idle) AS own
    WHERE name = ? AND incarnation = ?"""
_REPLACE: Final = f"UPDATE hosts SET incarnation = ?, {_SET} WHERE name = ?"
_READ: Final = f"""SELECT name, incarnation, boot, version, queues, claims, slots, free, draining,
    unreachable IS NOT NULL, stopped, settings,
    {_MS.format("joined")}, {_MS.format("seen")}, {_MS.format("clock_timestamp()")}
    FROM hosts ORDER BY name"""


class HostRow(NamedTuple):
    """A node, as its row says: `seen` is when it renewed its lease last, `age` how many milliseconds ago that was
    (negative if the clock was set back since).

    is_unreachable: a node has judged that its lease has expired, or it is_stopped: it was stopped, and left nothing
    running. settings: see `shared_settings`.
    """

    name: str
    incarnation: str
    boot: str
    version: str
    queues: Sequence[str] | None
    claims: bool
    slots: int
    free: int
    draining: bool
    is_unreachable: bool
    is_stopped: bool
    settings: str
    joined: Millis
    seen: Millis
    age: Millis

    @property
    def state(self) -> str:
        """Its state, as metrics name it."""
        if self.is_stopped:
            return "stopped"
        if self.is_unreachable:
            return "unreachable"
        return "drained" if self.draining else "open" if self.claims else "api_only"


class _Renewed(NamedTuple):
    """was_unreachable: it had been judged so. era: see `situation`; `server`: the one that answered."""

    was_unreachable: bool
    era: Era
    server: str
    rows: Sequence[HostRow]


class _Held(NamedTuple):
    """Another server has this name; its last renewal."""

    seen: Millis


class HostLease:
    """Renews the lease; `rows` is what was read with it last.

    is_current: the history knows this node's name as this server's; else it claims nothing.
    """

    def __init__(
        self,
        node: NodeConfig,
        engine: PostgresEngine,
        clock: DatabaseClock,
        count_free: Callable[[], int],
        *,
        own_settings: Callable[[], str],
        journal: ClaimJournal,
        listener: CommitListener,
        on_met: Callable[[], object],
        seconds: float = LEASE,
    ) -> None:
        """`count_free`: how many keepers of this node wait for a job. `seconds`: how long a lease lasts.

        `own_settings`: digests of what all nodes must have in common. `journal`: what was started in this state
        directory. `listener`: follows that other jobs are lost. `on_met` is called when there is another node, and
        there was none before.
        """
        self._node, self._engine, self._clock = node, engine, clock
        self._count_free, self._journal, self._listener = count_free, journal, listener
        self._own_settings = own_settings
        self._reported: set[tuple[str, str, str]] = set()  # nodes whose settings differ, with both digests
        self._on_met, self.seconds = on_met, seconds
        self._interval = min(INTERVAL, seconds / 7)
        self.rows: Sequence[HostRow] = ()
        self.peers: Sequence[Peer] = ()
        self._met_another = asyncio.Event()
        self._has_left = False
        self.is_current = False
        self._server = ""
        self._unbroken_since: Millis | None = None
        self._renewed_at: Millis | None = None
        self._last_renewal: Millis | None = None  # also if it was interrupted since

    @property
    def seconds_since_renewal(self) -> float:
        """For how many seconds it has not been renewed; 0 before the first time."""
        return 0.0 if self._last_renewal is None else max(0, boot_ms() - self._last_renewal) / 1000

    @property
    def unbroken(self) -> float:
        """For how many seconds it has been renewed in time, without an interruption, at one server."""
        if self._unbroken_since is None or self._renewed_at is None or self._is_late(boot_ms()):
            return 0.0
        return (boot_ms() - self._unbroken_since) / 1000

    async def join(self, on_era: Callable[[Era, str], Awaitable[Any]]) -> None:
        """Make this node's name this server's, once no other server can have it; then renew it once.

        An earlier server that had this state directory, in this boot, is gone, as the directory is locked: it is
        replaced at once, and so is one that is `stopped`. Any other one, if it does not renew its lease for as long
        as that lasts: what it runs is lost, as this directory says nothing of it.

        Raises:
            StoreUnavailable: another server that lives has this name, or the database cannot be used.
        """
        first: Millis | None = None
        began = boot_ms()
        while (held := await self._take_name(is_start=True, stood_still=self._stood_still(first, began))) is not None:
            if first is not None and held.seen != first:
                raise StoreUnavailable(
                    f"another server that is running is host {self._node.name!r} of this history: "
                    "set worker.name to a name of its own"
                )
            if first is None:
                fields = {"host": self._node.name, "seconds": self.seconds}
                _log.warning(
                    "another server has had the name of this host: waiting until its lease expires", extra=fields
                )
            first = held.seen
            await asyncio.sleep(self._interval / 2)
        await self.renew(on_era, lambda: None)

    async def renew(self, on_era: Callable[[Era, str], Awaitable[Any]], on_returned: Callable[[], Any]) -> None:
        """Renew the lease, and read those of the others.

        `on_era` is called with the epoch and the server, `on_returned` if this node had been judged unreachable.

        Raises:
            StoreUnavailable: it could not be renewed.
        """
        if self._has_left:
            return
        try:
            renewed = await self._engine.write(self._renew)
            if renewed is None and not self._has_left:  # removed, or another server's
                held = await self._take_name(is_start=False)
                renewed = await self._engine.write(self._renew) if held is None and not self._has_left else None
        except StoreUnavailable:
            self._renewed_at = None
            raise
        if renewed is None:
            if not self._has_left:
                self._lost_name()
            return
        self.is_current = True
        self._follow(renewed)
        await on_era(renewed.era, renewed.server)
        if renewed.was_unreachable:
            on_returned()

    async def run(self, on_era: Callable[[Era, str], Awaitable[Any]], on_returned: Callable[[], Any]) -> None:
        """Renew the lease from time to time, until it is cancelled."""
        while True:
            await asyncio.sleep(min(_MIN_INTERVAL, self._interval))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval - _MIN_INTERVAL):
                    await self._met_another.wait()
            self._met_another.clear()
            with suppress(StoreUnavailable):
                await self.renew(on_era, on_returned)

    def met(self, name: str) -> None:
        """Follow that this node lives: its row is read soon, if it is a new one."""
        if name != self._node.name and all(peer.name != name for peer in self.peers):
            self._met_another.set()

    def left(self, name: str) -> None:
        """Follow that this node is being stopped."""
        self.peers = [peer for peer in self.peers if peer.name != name]

    async def leave(self) -> None:
        """Write that this node is stopped, or that it at least starts no more jobs: else others would wake it."""
        self._has_left = True
        with suppress(StoreUnavailable):
            await self._engine.write(self._leave)

    def _stood_still(self, seen: Millis | None, since: Millis) -> Millis | None:
        """Return this renewal if it has been the last one for as long as a lease lasts, whatever the clocks say."""
        return seen if boot_ms() - since > self.seconds * 1000 else None

    async def _take_name(self, *, is_start: bool, stood_still: Millis | None = None) -> _Held | None:
        """Make the name this server's, unless another one holds it; `stood_still`: its renewal, if that is over."""

        def committed(outcome: tuple[_Held | None, Transitions]) -> None:
            self._listener.committed(outcome[1])

        join = partial(self._join, is_start=is_start, stood_still=stood_still)
        held, _ = await self._engine.change(join, committed)
        return held

    def _lost_name(self) -> None:
        self._renewed_at = None
        if self.is_current:
            fields = {"host": self._node.name, "repeats": "name of host"}
            _log.error("another server has the name of this host: no more jobs are started here", extra=fields)
        self.is_current = False

    def _follow(self, renewed: _Renewed) -> None:
        now = boot_ms()
        if self._renewed_at is None or self._is_late(now) or renewed.server != self._server:
            self._unbroken_since = now
        was_alone = not self.peers and self._last_renewal is not None
        self._renewed_at = self._last_renewal = now
        self._server, self.rows = renewed.server, renewed.rows
        self.peers = [
            Peer(row.name, row.claims and not row.draining, row.free, _set_of(row.queues))
            for row in self.rows
            if row.age < self.seconds * 1000 and row.name != self._node.name and not row.is_stopped
        ]
        if was_alone and self.peers:
            self._on_met()

        own = self._own_settings()
        for peer in self.peers:
            self._compare(own, next(row for row in self.rows if row.name == peer.name))

    def _compare(self, own: str, row: HostRow) -> None:
        """Log once that the settings of another node differ; again only once one of the two has others."""
        seen = row.name, own, row.settings
        if seen not in self._reported and (found := shared_settings.differences(own, row.settings)):
            self._reported.add(seen)
            text = "settings of another host differ from those of this one: they must be the same on all"
            _log.warning(text, extra={"host": row.name, "settings": found})

    def _is_late(self, now: Millis) -> bool:
        return self._renewed_at is None or now - self._renewed_at > self.seconds * 500

    # On the writer's thread -------------------------------------------------------------------------------------

    def _values(self) -> tuple[Any, ...]:
        node = self._node
        queues = None if node.queues is None else sorted(node.queues)
        return (
            node.boot,
            node.home,
            node.version,
            queues,
            node.claims,
            node.slots,
            self._count_free(),
            self._own_settings(),
        )

    def _renew(self, db: Db) -> _Renewed | None:
        node = self._node
        found = db.execute(_RENEW, (node.name, *self._values(), node.name, node.incarnation)).fetchall()
        if not found:
            return None
        was_unreachable, epoch, server, answering = found[0]
        before = boot_ms()
        rows = read(db)
        self._clock.observe(rows[0].seen + rows[0].age, before, boot_ms())
        return _Renewed(was_unreachable, Era(int(epoch), server), answering, rows)

    def _join(
        self, db: Db, *, is_start: bool, stood_still: Millis | None
    ) -> tuple[tuple[_Held | None, Transitions], Transitions]:
        node, values = self._node, self._values()
        # Whatever an earlier server has sent is over when the lock is there, and later it claims no more.
        advisory.lock_node(db, node.name)
        if db.execute(_ADD, (node.name, node.incarnation, *values)).rowcount:
            return (None, []), []
        parameters = (node.boot, node.home, self.seconds, node.name)
        ((is_gone, has_expired, seen),) = db.execute(_EARLIER, parameters).fetchall()
        # One that is stopped, as when it is restarted, does not lose its name to a server that had it before.
        if not ((is_gone and is_start) or has_expired or seen == stood_still):
            return (_Held(seen), []), []
        db.execute(_REPLACE, (node.incarnation, *values, node.name))
        transitions = [] if is_gone and is_start else self._lose_others(db)
        return (None, transitions), transitions

    def _leave(self, db: Db) -> None:
        name, incarnation = self._node.name, self._node.incarnation
        # What this node has claimed on a connection that was lost is seen, if the server is still at its COMMIT.
        advisory.lock_node(db, name)
        db.execute(_LEAVE, (name, name, name, incarnation))

    def _lose_others(self, db: Db) -> Transitions:
        """End what a server in another state directory has started: by the slots of this one, it never was."""
        detail = f"another server has taken the name of host {self._node.name} while it ran; its end was not seen"
        return losing.lose(
            db,
            self._node.name,
            detail,
            self._clock.now(),
            MAX_RECORDS,
            only=lambda job_id, attempt, token: not self._journal.has_started(job_id, attempt, token),
            claimed_by=unsettled.NOBODY,
        )


def read(db: Db) -> list[HostRow]:
    """Return every node that has ever been there and was not removed."""
    rows = db.execute(_READ).fetchall()
    return [HostRow._make((*row[:14], row[14] - row[13])) for row in rows]


def _set_of(queues: Sequence[str] | None) -> frozenset[str] | None:
    return None if queues is None else frozenset(queues)
