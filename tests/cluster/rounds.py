"""A round of a cluster under faults: clients at every API node, faults everywhere, and the checks of the ledger.

0 run twice, 0 missing, 0 false (a result that the ledger contradicts), 0 stuck. Clients, jobs and checks are those of
`tests/faults/chaos`, which know the API only.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.cluster.hosts import ADMIN, Cluster, cluster
from tests.cluster.injection import ClusterInjection
from tests.faults.chaos.checks import Checker
from tests.faults.chaos.clients import Clients
from tests.faults.chaos.injection import Processes
from tests.faults.chaos.jobs import GRACE, plan_job
from tests.faults.chaos.ledger import Ledger
from tests.faults.chaos.requests import Api
from tests.support.tokens import secret_of
from tests.support.waiting import until

SETTINGS: Final = {
    "JOBS__KILL_GRACE": GRACE,
    "SUPERVISOR__MAX_RUNNING": 6,
    "QUEUES": json.dumps({"single": {"max_running": 1}}),
}
# What a server prints that ends because the database went away while it started; it is started again.
_FAILED_START = ("the history cannot be read:", "the database cannot be opened:", "the history cannot be written:")
_SETTLE_TIMEOUT: Final = 90.0  # seconds: a lease, and what was waiting


def _none(find: Callable[[], Collection[int]]) -> bool:
    return not find()


class ClusterApi(Api):
    """Requests to any of the API nodes: each to one that the seed chooses, so a repetition may go to another."""

    def __init__(self, urls: Sequence[str], seed: int) -> None:
        """Send requests to these nodes."""
        super().__init__("")
        self._urls, self._chance = urls, random.Random(f"{seed} nodes")
        self.session.headers["Authorization"] = f"Bearer {secret_of(ADMIN)}"

    def url(self, path: str) -> str:
        """Return the URL of a path at some node."""
        return self._chance.choice(self._urls) + path


class ClusterRound:
    """A cluster, clients and faults for a time, and the checks afterwards."""

    def __init__(
        self,
        path: Path,
        seed: int,
        *,
        sparing: bool,
        apis: int = 2,
        workers: int = 3,
        namespaces: bool = False,
        longest: float = 2.0,
    ) -> None:
        """Work in `path`; `sparing`: hosts and keepers are not killed, so nothing may be lost."""
        self.path, self.seed, self.sparing, self.longest = path, seed, sparing, longest
        self.apis = [f"api{number}" for number in range(1, apis + 1)]
        self.workers = [f"worker{number}" for number in range(1, workers + 1)]
        self.namespaces = namespaces
        self.run_id = f"{os.getpid()}-{time.monotonic_ns()}"
        self.ledger = path / "ledger"
        self.counts: Counter[str] = Counter()

    async def run(self, seconds: float, jobs: int = 0, clients: int = 10) -> None:
        """Run the round for this time, and until so many jobs were accepted.

        Raises:
            AssertionError: something did not hold.
        """
        self.ledger.touch()
        async with cluster(
            self.path, apis=self.apis, workers=self.workers, namespaces=self.namespaces, settings=SETTINGS
        ) as made:
            api = ClusterApi([host.url for host in made.apis], self.seed)
            crowd = Clients(api, lambda number: plan_job(self.seed, self.run_id, number, str(self.ledger)),
                            self._processes_of, self.seed)  # fmt: skip
            injection = ClusterInjection(
                made, self.ledger, self.run_id, self.seed, sparing=self.sparing, longest=self.longest
            )
            start = time.monotonic()

            def goes_on() -> bool:
                return time.monotonic() - start < seconds or crowd.counts["jobs"] < jobs

            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(crowd.run(clients, goes_on))
                    tasks.create_task(injection.run(goes_on))
                await self._settle(api, crowd)
                checker = Checker(api, crowd.submitted, Ledger(self.ledger), may_lose=not self.sparing)
                await checker.check(crowd.statuses)
                violations = [*api.violations, *checker.violations, *await self._leaks(made)]
            finally:
                await api.session.close()
                self._end_commands()
            self.counts = crowd.counts + injection.counts + checker.endings + api.answers
            print(f"sparing={self.sparing}: {dict(sorted(self.counts.items()))}")
            assert not violations, "\n".join([f"{len(violations)} violations", *violations[:20]])

    async def _settle(self, api: Api, clients: Clients) -> None:
        """Wait until every job is done and every group deleted."""
        for name in ("default", "single"):
            await api.persist("POST", f"/api/queues/{name}/resume")
        rest: list[object] = []

        async def is_done() -> bool:
            rest[:] = (await api.persist("GET", "/api/statuses?state=waiting,queued,running"))[1]["statuses"]
            return not rest

        try:
            await until(is_done, _SETTLE_TIMEOUT)
        except AssertionError:
            raise AssertionError(f"not done: {rest}") from None
        for group in range(4):
            await clients.delete_group(str(group))
        await clients.see_all_done()

    def _processes_of(self, job_id: int) -> list[int]:
        mark = f"{job_id}:"
        commands = Processes(self.path, self.run_id).commands()
        return [pid for pid, (_, token) in commands.items() if token.startswith(mark)]

    async def _leaks(self, made: Cluster) -> list[str]:
        """Return what is left once nothing runs: processes, errors in logs, servers that do not end in order."""
        commands = Processes(self.path, self.run_id).commands
        await until(lambda: not commands(), what="no command is left")
        found = []
        for host in made.hosts.values():
            status = await host.service.stop()
            if status != 0:
                found.append(f"{host.name} ended with {status}")
            processes = Processes(host.state_dir, self.run_id)
            await until(partial(_none, processes.keepers), what=f"no keeper is left on {host.name}")
            found += [f"in the log of {host.name}: {entry}" for entry in host.service.log if _is_bad(entry)]
        return found

    def _end_commands(self) -> None:
        for pid in Processes(self.path, self.run_id).commands():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is_bad(entry: dict[str, Any]) -> bool:
    line = entry.get("line")
    return "exception" in entry or (line is not None and not line.startswith(_FAILED_START))
