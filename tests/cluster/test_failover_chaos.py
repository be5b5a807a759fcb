"""A failover to a standby that lags behind, under load: nothing runs twice, is reported falsely, or is stuck."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Cluster, cluster, require_namespaces
from tests.cluster.rounds import SETTINGS, ClusterApi
from tests.faults.chaos.requests import Rejected, Unreachable
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(400)
_CLIENTS = 6
_BEFORE, _LAG, _AFTER = 60, 40, 60  # jobs that are accepted in each part of a round
_TIMEOUT = 120.0  # seconds: two leases, and what was waiting


@dataclass(frozen=True)
class Accepted:
    """A job that was answered with 202. forgotten: the standby may not know of it."""

    job_id: int
    nonce: str
    code: int
    forgotten: bool


class Load:
    """Clients that submit short jobs, each once: a standby may not recognize a repetition by its key."""

    def __init__(self, api: ClusterApi, ledger: Path, seed: int) -> None:
        self._api, self._ledger = api, ledger
        self._chance, self._numbers = random.Random(f"{seed} failover"), itertools.count()
        self.accepted: list[Accepted] = []
        self.is_lagging = False

    async def run(self, goes_on: Callable[[], bool]) -> None:
        """Submit until it is over."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_CLIENTS):
                tasks.create_task(self._submit_all(goes_on))

    async def _submit_all(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            nonce, code = f"n{next(self._numbers)}", self._chance.randrange(4)
            script = f"echo S {nonce} >> {self._ledger}; sleep {self._chance.uniform(0, 1):.2f}"
            spec = {"command": f"{script}; echo E {nonce} {code} >> {self._ledger}; exit {code}"}
            with contextlib.suppress(Unreachable, Rejected):
                _, job, _ = await self._api.request("POST", "/api/jobs", json=spec)
                self.accepted.append(Accepted(job["job_id"], nonce, code, self.is_lagging))
            await asyncio.sleep(0.05)

    async def accepted_more(self, number: int) -> None:
        """Wait until so many more jobs were accepted."""
        wanted = len(self.accepted) + number
        await until(lambda: len(self.accepted) >= wanted, _TIMEOUT, what=f"{wanted} jobs are accepted")


async def _fail_over(made: Cluster, load: Load) -> None:
    """Let the standby receive nothing more for a time; then the primary is gone, and the standby takes its place."""
    replica = made.replica
    assert replica is not None
    await load.accepted_more(_BEFORE)
    load.is_lagging = True  # before it does: a job that is accepted at this moment may be on either side
    await asyncio.to_thread(replica.stop_receiving)
    await load.accepted_more(_LAG)
    await asyncio.to_thread(made.database.kill)
    load.is_lagging = False  # nothing is accepted until there is a primary again
    await asyncio.to_thread(replica.promote)
    await load.accepted_more(_AFTER)


async def _kill_servers(made: Cluster, chance: random.Random, goes_on: Callable[[], bool]) -> None:
    """Kill one server after the other, also while there is no primary: it has only its files then."""
    while goes_on():
        await asyncio.sleep(chance.uniform(1, 3))
        host = chance.choice([*made.hosts.values()])
        await host.service.kill()
        await host.start()


@pytest.mark.heavy
async def test_failover_chaos(tmp_path: Path, seed: int) -> None:
    """0 run twice, 0 false, 0 stuck; what is missing was accepted after the standby had begun to lag behind."""
    require_namespaces()
    ledger = tmp_path / "ledger"
    ledger.touch()
    workers = ["worker1", "worker2", "worker3"]
    async with cluster(tmp_path, workers=workers, namespaces=True, replica=True, settings=SETTINGS) as made:
        api = ClusterApi([host.url for host in made.apis], seed)
        try:
            load = Load(api, ledger, seed)
            failing_over = asyncio.ensure_future(_fail_over(made, load))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run(lambda: not failing_over.done()))
                tasks.create_task(
                    _kill_servers(made, random.Random(f"{seed} kills"), lambda: not failing_over.done())
                )
            failing_over.result()

            async def is_done() -> bool:
                return not (await api.persist("GET", "/api/statuses?state=waiting,queued,running"))[1]["statuses"]

            await until(is_done, _TIMEOUT)
            forgotten = [job for job in load.accepted if job.forgotten]
            assert any([(await api.persist("GET", f"/api/jobs/{job.job_id}"))[0] == 404 for job in forgotten])
            violations = api.violations + [each for job in load.accepted for each in await _check(api, job, ledger)]
        finally:
            await api.session.close()
    started = Counter(line.split()[1] for line in ledger.read_text().splitlines() if line.startswith("S"))
    violations += [f"{nonce} ran {count} times" for nonce, count in started.items() if count > 1]
    assert not violations, "\n".join(violations[:20])


async def _check(api: ClusterApi, job: Accepted, ledger: Path) -> list[str]:
    """Return what the history says of an accepted job, and the ledger contradicts."""
    lines = [line.split() for line in ledger.read_text().splitlines()]
    ended: list[Any] = [line[2] for line in lines if line[:2] == ["E", job.nonce]]
    has_started = ["S", job.nonce] in lines
    status, result, _ = await api.persist("GET", f"/api/results/{job.job_id}")
    if status == 404:
        return [] if job.forgotten else [f"{job} is missing"]
    if job.nonce not in result["command"]:
        return [f"{job} has the id of another: {result}"]
    if result["ending"] == "exited":
        is_true = result["exit_code"] == job.code and ended == [str(job.code)]
        return [] if is_true else [f"{job}: {result} is false; ledger: {ended}"]
    if result["ending"] != "lost" or not result["detail"]:
        return [f"{job} is {result}, which nothing caused"]
    return [] if has_started else [f"{job} is lost, but was never started: {result}"]
