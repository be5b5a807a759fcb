"""What is known of running commands beside the history: written by their hosts when it changes, kept by all nodes.

Owned by `order_exchange`. For a job that ends within a second nothing is written, unless it runs on a terminal or is
paused. Must not know orders.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from shellrunner.clock import Millis
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim, CommandState
from shellrunner.store.db import Db
from shellrunner.store.hosts import CommandHost
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.orders import command_rows
from shellrunner.store.postgres.orders.command_rows import CommandRow

_TICK: Final = 1.0  # seconds between looks for commands that run longer than that
_GATHER_DELAY: Final = 0.02  # seconds, after a change
_READ_DELAY: Final = 1.0  # seconds, after a failure


class KnownCommands:
    """What the hosts have written of the commands that they run, as far as it has been read."""

    def __init__(self, engine: PostgresEngine, on_changed: Callable[[Iterable[int]], None]) -> None:
        """`on_changed` is called with the jobs of which something else is known now."""
        self._engine, self._on_changed = engine, on_changed
        self._rows: dict[int, CommandRow] = {}
        self._to_read: set[int] | None = None  # None: all
        self._wake = asyncio.Event()

    def find(self, job_id: int, claimed: Millis) -> CommandState:
        """Return what is known of a running command; nothing if that is of another claim than the one of then."""
        row = self._rows.get(job_id)
        return row.state if row is not None and row.claimed in (claimed, None) else CommandState()

    def take(self, rows: Iterable[CommandRow]) -> None:
        """Take over rows; what is older than what is known already counts no more."""
        changed = []
        for row in rows:
            before = self._rows.get(row.job_id)
            earlier = before if before is not None and before.token == row.token else None  # of the same claim
            claimed = row.claimed or (earlier and earlier.claimed)
            if earlier is not None and (row.version or 0) <= (earlier.version or 0):
                self._rows[row.job_id] = earlier._replace(claimed=claimed)
                continue
            if row.version is not None:
                self._rows[row.job_id] = row._replace(claimed=claimed)
            else:
                self._rows.pop(row.job_id, None)
            if row.state != (CommandState() if earlier is None else earlier.state) or before is not earlier:
                changed.append(row.job_id)
        self._on_changed(changed)

    def jobs_changed(self, job_ids: Iterable[int], commands: Iterable[int]) -> None:
        """Follow a change of jobs, and of commands, at another node."""
        ids = {job_id for job_id in job_ids if job_id in self._rows}.union(commands)
        if ids and self._to_read is not None:
            self._to_read |= ids
            self._wake.set()

    async def begin(self) -> None:
        """Read everything for the first time.

        Raises:
            StoreUnavailable: it could not be read.
        """
        await self._read(None)
        self._to_read = set()

    def forget(self) -> None:
        """Read everything again: it is not known what has changed."""
        self._to_read = None
        self._wake.set()

    async def remove_stale(self) -> None:
        """Remove the rows of commands that have ended, whose hosts could not."""
        await self._engine.write(command_rows.remove_stale)

    async def run(self) -> None:
        """Read what has changed, until it is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            wanted, self._to_read = self._to_read, set()
            try:
                await self._read(wanted)
            except StoreUnavailable:
                self._to_read = None if wanted is None or self._to_read is None else self._to_read | wanted
                await asyncio.sleep(_READ_DELAY)
                self._wake.set()

    async def _read(self, wanted: set[int] | None) -> None:
        rows = await self._engine.read(
            command_rows.read_all if wanted is None else lambda db: command_rows.read(db, wanted)
        )
        running = {row.job_id for row in rows}
        for job_id in [*self._rows] if wanted is None else wanted:
            if job_id not in running:
                self._rows.pop(job_id, None)
        self.take(rows)


class OwnCommands:
    """Writes what this host knows of the commands that it runs."""

    def __init__(
        self,
        engine: PostgresEngine,
        owners: Mapping[int, SlotOwner],
        on_written: Callable[[Iterable[int]], None],
    ) -> None:
        """`owners`: of the jobs that this host runs. `on_written` is called with the jobs whose rows have changed."""
        self._engine, self._owners, self._on_written = engine, owners, on_written
        self._host: CommandHost | None = None
        self._written: dict[int, CommandRow] = {}
        self._seen: set[tuple[int, str]] = set()  # claims at the last look
        self._changed: set[int] = set()
        self._wake = asyncio.Event()

    def claimed(self, claim: Claim) -> Claim:
        """Follow a claim: the size of a terminal is shown at every node from the beginning."""
        if claim.spec.tty is not None:
            self.changed(claim.job_id)
        return claim

    def changed(self, job_id: int) -> None:
        """Write what is known of a command, soon."""
        self._changed.add(job_id)
        self._wake.set()

    async def run(self, host: CommandHost) -> None:
        """Write what `host` knows of its commands when it changes, until it is cancelled."""
        self._host = host
        loop = asyncio.get_running_loop()
        look_at = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look_at):
                    await self._wake.wait()
                await asyncio.sleep(_GATHER_DELAY)
            self._wake.clear()
            if loop.time() >= look_at:
                look_at = loop.time() + _TICK
                self._look()
            with suppress(StoreUnavailable):
                await self.write()
                await self._delete_ended()

    def _look(self) -> None:
        """Note the commands that were there at the last look already."""
        claims = {(job_id, owner.token) for job_id, owner in self._owners.items()}
        self._changed |= {job_id for job_id, _ in claims & self._seen if not self._has_pid(job_id)}
        self._seen = claims

    def _has_pid(self, job_id: int) -> bool:
        row = self._written.get(job_id)
        return row is not None and row.state.pid is not None

    async def write(self, *job_ids: int) -> None:
        """Write what is known of these commands, and of those that have changed; return once others may read it.

        Raises:
            StoreUnavailable: it will be tried again.
        """
        wanted = {job_id for job_id in self._changed.union(job_ids) if job_id in self._owners}
        known = {job_id: row for job_id in wanted if (row := self.current_row(job_id))}
        self._changed = wanted - known.keys()  # the rest when it is looked at next: the job was claimed just now
        rows = [row for row in known.values() if self._is_new(row)]
        if not rows:
            return
        try:
            await self._engine.write(lambda db: command_rows.write(db, rows))
        except StoreUnavailable:
            self._changed |= known.keys()
            raise
        self._written |= {row.job_id: row for row in rows}
        self._on_written([row.job_id for row in rows])

    def current_row(self, job_id: int) -> CommandRow | None:
        """Return the row that says what is known now; None: this host does not run the job, or does not know yet."""
        owner, host = self._owners.get(job_id), self._host
        state = host.command_state(job_id) if owner and host else None
        return CommandRow(job_id, owner.token, time.monotonic_ns(), state) if owner and state else None

    def _is_new(self, row: CommandRow) -> bool:
        before = self._written.get(row.job_id)
        return before is None or (before.token, before.state) != (row.token, row.state)

    async def _delete_ended(self) -> None:
        ended = {
            job_id: row.token
            for job_id, row in self._written.items()
            if (owner := self._owners.get(job_id)) is None or owner.token != row.token
        }
        if ended:

            def delete(db: Db) -> Any:
                command_rows.delete(db, ended.items())

            await self._engine.write(delete)
            for job_id, token in ended.items():
                if self._written[job_id].token == token:
                    del self._written[job_id]
