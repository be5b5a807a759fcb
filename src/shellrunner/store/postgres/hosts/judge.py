"""Judging hosts whose leases have expired: what they run is `unreachable`, and after `lost_after` it is `lost`.

Owned by the store, which runs it as a task at each node; one of them at a time judges. That a host cannot be reached
proves nothing of its jobs, and nothing is run again because of it. Nobody is judged before the database itself could
be used for one lease without an interruption: after its own failure, all leases have expired. Must not know keepers.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import uniform
from typing import Any, Final

from shellrunner.clock import boot_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.hosts import losing
from shellrunner.store.postgres.hosts.lease import HostLease, HostRow
from shellrunner.store.postgres.node.database_clock import DatabaseClock
from shellrunner.store.postgres.transaction import advisory
from shellrunner.store.transition import CommitListener, Transitions

_log = logging.getLogger(__name__)

_MAX_INTERVAL: Final = 1.0  # seconds between two looks
_RECHECK_INTERVAL: Final = 60.0  # seconds between two looks for jobs of a host that has had none
# A lease from the future: the clock was set back. Then only that it stood still counts, by this node's boot clock.
_EXPIRED: Final = """(clock_timestamp() - seen > make_interval(secs => ?)
    OR seen > clock_timestamp() + interval '1 s')"""
_TOLERANCE: Final = 1_000  # milliseconds, as there
_SERVER_RUNS: Final = "SELECT clock_timestamp() - pg_postmaster_start_time() > make_interval(secs => ?)"
_JUDGE: Final = f"""UPDATE hosts SET unreachable = least(seen, clock_timestamp())
    WHERE unreachable IS NULL AND {_EXPIRED} AND name = ANY(?) RETURNING name"""  # noqa: S608
_RUNNING: Final = "SELECT id FROM jobs WHERE state = 'running' AND host = ANY(?)"
_IS_AWAY: Final = f"SELECT unreachable IS NOT NULL AND {_EXPIRED} FROM hosts WHERE name = ? FOR UPDATE"  # noqa: S608


@dataclass(slots=True)
class Judge:
    """Judges the hosts.

    lost_after: seconds after which the running jobs of an unreachable host are lost; None: never. on_judged is called
    with the jobs of which it is not known any more how far they are.
    """

    engine: PostgresEngine
    lease: HostLease
    clock: DatabaseClock
    listener: CommitListener
    lost_after: float | None
    on_judged: Callable[[Sequence[int]], Any]
    _emptied: dict[str, tuple[int, int]] = field(default_factory=dict)  # hosts without running jobs, and since when
    _still: dict[str, tuple[int, int]] = field(default_factory=dict)  # when each was seen, and since when that is so

    async def run(self) -> None:
        """Judge from time to time, until it is cancelled."""
        interval = min(_MAX_INTERVAL, self.lease.seconds / 10)
        while True:
            await asyncio.sleep(uniform(0.5, 1.0) * interval)  # noqa: S311  so that the nodes take turns
            with suppress(StoreUnavailable):
                await self.look()

    async def look(self) -> None:
        """Judge the hosts whose time is over, by what was read with this node's own lease."""
        if self.lease.unbroken < self.lease.seconds:
            return
        for row in self.lease.rows:
            if self._still.get(row.name, (None,))[0] != row.seen:
                self._still[row.name] = row.seen, boot_ms()
        expired = [row for row in self.lease.rows if self._is_away(row, self.lease.seconds)]
        if names := [row.name for row in expired if not row.is_unreachable]:
            await self.engine.write(lambda db: self._judge(db, names), self._judged)
        if self.lost_after is None:
            return
        for row in expired:
            if row.is_unreachable and self._is_away(row, self.lost_after) and self._may_run_jobs(row):
                await self._lose_jobs(row)

    def _may_run_jobs(self, row: HostRow) -> bool:
        """Return whether it is time to look for jobs of a host that has been away for a long time.

        Not before this node itself has seen it stand still for the time of a lease: the clock of the database may
        have been set. And again from time to time: the host may have claimed something before it was gone for good.
        """
        now = boot_ms()
        if now - self._still[row.name][1] < self.lease.seconds * 1000:
            return False
        seen, at = self._emptied.get(row.name, (None, 0))
        return seen != row.seen or now - at > _RECHECK_INTERVAL * 1000

    def _is_away(self, row: HostRow, seconds: float) -> bool:
        age = self.clock.now() - row.seen
        if age < -_TOLERANCE:
            age = boot_ms() - self._still[row.name][1]
        return age > seconds * 1000

    def _judge(self, db: Db, names: Sequence[str]) -> tuple[list[str], list[int]]:
        """Return the hosts that are unreachable from now on, and the jobs that run there."""
        seconds = (self.lease.seconds,)
        if not advisory.try_lock(db, advisory.JUDGING) or not db.execute(_SERVER_RUNS, seconds).fetchall()[0][0]:
            return [], []
        hosts = [name for (name,) in db.execute(_JUDGE, (*seconds, names)).fetchall()]
        return hosts, [job_id for (job_id,) in db.execute(_RUNNING, (hosts,)).fetchall()] if hosts else []

    def _judged(self, outcome: tuple[list[str], list[int]]) -> None:
        hosts, job_ids = outcome
        if hosts:
            _log.warning("hosts are unreachable", extra={"hosts": hosts, "jobs": len(job_ids)})
            self.on_judged(job_ids)

    async def _lose_jobs(self, row: HostRow) -> None:
        name, lost_after = row.name, self.lost_after
        detail = f"host {name} was unreachable for {lost_after:g} s while it ran; its end was not seen"

        def lose(db: Db) -> tuple[Transitions | None, Transitions]:
            if not advisory.try_lock(db, advisory.JUDGING):
                return None, []
            if db.execute(_IS_AWAY, (lost_after, name)).fetchall() != [(True,)]:  # it has returned
                return None, []
            transitions = losing.lose(db, name, detail, self.clock.now())
            return transitions, transitions

        def committed(transitions: Transitions | None) -> None:
            if transitions:
                self.listener.committed(transitions)

        while transitions := await self.engine.change(lose, committed):
            _log.warning("jobs of an unreachable host are lost", extra={"host": name, "jobs": len(transitions)})
        if transitions is not None:
            self._emptied[name] = row.seen, boot_ms()
