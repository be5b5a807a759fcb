"""A real cluster of one API node, `serve --no-worker`, and one `worker` beside it, on one PostgreSQL.

It is driven like `Service`, so that tests of the service can run against it: SHELLRUNNER_TEST_STORE=cluster. The
state directory, with its keepers, is the worker's.
"""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any, Self

from shellrunner.store.postgres import schema
from tests.support import postgres
from tests.support.service import Service
from tests.support.waiting import WAIT_TIMEOUT, until, within

_KNOW_EACH_OTHER = "SELECT count(*) >= %s AND min(seen) > max(joined) FROM hosts"


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
    """Both of them. What is done to the process is done to both."""

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
        self.program += ["--no-worker"]
        self.worker = Worker(state_dir)
        self.node_dir = state_dir.with_name(f"{state_dir.name}-of-node")

    async def start(self, **settings: object) -> Self:
        """Start both; wait until the node listens and they know each other."""
        await super().start(**settings)
        await self.acquainted(2)
        return self

    async def acquainted(self, count: int) -> None:
        """Wait until so many nodes know each other: each reads their rows whenever it renews its own."""
        await until(lambda: self.execute(_KNOW_EACH_OTHER, count) == [(True,)], what="they know each other")

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Execute one statement in the database."""
        return self.server.execute(statement, *values, database=self.database)

    async def launch(self) -> None:
        self.worker.settings = self.settings | {"WORKER__NAME": "worker"}
        self.worker.environment, self.worker.umask = self.environment, self.umask
        self.worker.log = self.log
        await self.worker.start()
        self.url = ""
        self.process = await self.create_process(self.program, self.node_dir)
        self._reader = asyncio.create_task(self._read_log(self.process.stderr))

    async def kill(self) -> None:
        await asyncio.gather(super().kill(), self.worker.kill())

    async def stop(self, seconds: float = WAIT_TIMEOUT) -> int:
        self.worker.process.terminate()
        status = await super().stop(seconds)
        return await self.worker.ended(seconds) or status

    async def clear_away(self) -> None:
        if hasattr(self.worker, "process"):
            with contextlib.suppress(ProcessLookupError):
                self.worker.process.kill()
            await within(self.worker.process.wait(), what="the worker has ended")
        await self.worker.session.close()
        await super().clear_away()
        self.server.drop_database(self.database)
