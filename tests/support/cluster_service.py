"""A real cluster of one API node, `serve --no-worker`, and one `worker` beside it, on one PostgreSQL.

It is driven like `Service`, so that tests of the service can run against it: SHELLRUNNER_TEST_STORE=cluster. The
state directory, with its keepers, is the worker's.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

from shellrunner.store import Retention, Store
from shellrunner.store.postgres import schema
from shellrunner.store.postgres.composition import PostgresConfig, open_store
from shellrunner.store.postgres.node_config import NodeConfig
from tests.support import postgres
from tests.support.service import Service
from tests.support.waiting import WAIT_TIMEOUT, until, within

BOTH: Final = ("node", "worker")
NODE: Final = BOTH[:1]

_KNOW_EACH_OTHER = "SELECT count(*) >= ? AND min(seen) > max(joined) FROM hosts"


class Worker(Service):
    """A `shellrunner worker`: it has no address."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.program = [sys.executable, "-m", "shellrunner", "worker"]

    async def start(self, **settings: object) -> Self:
        """Start it and wait until it runs jobs."""
        self.settings |= settings
        before = len(self.log)
        await self.launch()
        await until(lambda: self._runs(before) or self.process.returncode is not None, what="the worker runs jobs")
        if not self._runs(before):
            await self.ended()
        assert self._runs(before), f"it did not start: {self.log[-5:]}"
        return self

    def _runs(self, before: int) -> bool:
        return any(entry["event"] == "running jobs" for entry in self.log[before:])


class ClusterService(Service):
    """Both of them. What is done to "the server" is done to both, or only to those that `acts_on` names.

    Settings are those of both.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        real_exec: bool = False,
        server: postgres.PostgresServer | None = None,
        **settings: object,
    ) -> None:
        """Make a history on `server`, or on that of this test process."""
        super().__init__(state_dir, real_exec=real_exec, **settings)
        self.server = server or postgres.shared()
        if server is None:
            self.database = self.server.create_database(postgres.template(schema.migrate))
        else:
            self.database = server.create_database()
            schema.migrate(server.url(self.database))
        self.settings |= {"STORE__URL": self.server.url(self.database), "WORKER__NAME": "node"}
        self.acts_on = BOTH
        self.worker = Worker(state_dir)
        self.worker.real_exec = real_exec
        self.node_dir = state_dir.with_name(f"{state_dir.name}-of-node")
        self._launched_with: dict[str, object] = {}

    async def start(self, **settings: object) -> Self:
        """Start what does not run; with other settings, both. Wait until it listens and they know each other."""
        if self._launched_with != self.settings | settings:
            services: tuple[Service, ...] = (self, self.worker)
            for each in filter(_runs, services):
                each.process.terminate()
                await within(each.process.wait(), what="what runs with other settings has ended")
        await super().start(**settings)
        await self.acquainted(2)
        return self

    @property
    def directories(self) -> Sequence[Path]:
        """Those of both."""
        return [self.state_dir, self.node_dir]

    @property
    def runner(self) -> Service:
        """The worker."""
        return self.worker

    async def acquainted(self, count: int) -> None:
        """Wait until so many nodes know each other: each reads their rows whenever it renews its own."""
        await until(lambda: self.execute(_KNOW_EACH_OTHER, count) == [(True,)], what="they know each other")

    @asynccontextmanager
    async def history(self) -> AsyncIterator[Store]:
        """Open the history while no server runs, as the API node."""
        config = PostgresConfig(self.server.url(self.database))
        node = NodeConfig("node", "test", 0, claims=False)
        async with open_store(config, self.node_dir, Retention(), node=node) as store:
            yield store

    def job_keys(self) -> list[str]:
        """Return the names of the keys that seal secrets of jobs."""
        return [name for (name,) in self.execute("SELECT name FROM job_keys WHERE name <> 'idempotency'")]

    def stored_files(self) -> list[Path]:
        """Return those in the state directories and all of PostgreSQL, which has written what it had in memory."""
        self.server.drop_database(self.server.create_database())  # a checkpoint leaves out unlogged tables, this not
        return super().stored_files() + [path for path in self.server.directory.rglob("*") if path.is_file()]

    def back_up(self, target: Path) -> None:
        """Dump the database into a new directory, without what the documentation leaves out."""
        target.mkdir()
        url = self.server.url(self.database)
        dump = self.server.run("pg_dump", "--exclude-table-data=job_keys", url)
        (target / "dump.sql").write_text(dump)

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Execute one statement in the database, with `?` for each value."""
        return self.server.execute(statement.replace("?", "%s"), *values, database=self.database)

    async def launch(self) -> None:
        self._launched_with = dict(self.settings)
        self.worker.settings = self.settings | {"WORKER__NAME": "worker"}
        self.worker.environment, self.worker.umask = self.environment, self.umask
        self.worker.log = self.log
        if not _runs(self.worker):
            await self.worker.start()
        if not _runs(self):
            self.url = ""
            self.process = await self.create_process([*self.program, "--no-worker"], self.node_dir)
            self._reader = asyncio.create_task(self._read_log(self.process.stderr))

    async def kill(self) -> None:
        parts = {"node": super().kill, "worker": self.worker.kill}
        await asyncio.gather(*(parts[each]() for each in self.acts_on))

    def terminate(self) -> None:
        parts = {"node": super().terminate, "worker": self.worker.terminate}
        for each in self.acts_on:
            parts[each]()

    async def ended(self, seconds: float = WAIT_TIMEOUT) -> int:
        """Wait until they have ended by themselves; return the exit status of one that failed, or 0.

        A worker does not know that its API node could not start: it is ended then.
        """
        parts = {"node": super().ended, "worker": self.worker.ended}
        statuses = {}
        for each in BOTH:
            if each in self.acts_on:
                statuses[each] = await parts[each](seconds)
                if statuses.get("node", 0) > 0 and _runs(self.worker):
                    self.worker.terminate()
        return max(statuses.values(), key=abs)

    async def clear_away(self) -> None:
        self.acts_on = NODE
        await self.worker.clear_away()
        await super().clear_away()
        self.server.drop_database(self.database)


def _runs(service: Service) -> bool:
    return hasattr(service, "process") and service.process.returncode is None
