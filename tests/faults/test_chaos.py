"""The whole promise under chaos: whatever is killed or stopped, the history has what the commands witnessed."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.chaos.checks import Checker
from tests.faults.chaos.clients import Clients
from tests.faults.chaos.injection import Injection, Processes
from tests.faults.chaos.jobs import GRACE, KINDS, plan_job
from tests.faults.chaos.ledger import Ledger
from tests.faults.chaos.requests import Api
from tests.faults.filesystems import Need, mounted
from tests.support.selected_service import at_fixed_port
from tests.support.service import Service
from tests.support.waiting import until

SETTINGS = {
    "JOBS__KILL_GRACE": GRACE,
    "SUPERVISOR__MAX_RUNNING": 6,
    "QUEUES": json.dumps({"single": {"max_running": 1}}),
}


class Round:
    """One service, clients and faults for a time, and the checks afterwards."""

    def __init__(self, path: Path, seed: int, *, sparing: bool, disk: Path | None = None) -> None:
        """Work in `path`; `sparing`: keepers and commands are not killed, so nothing may be lost.

        With `disk`, a small file system, the service's directory is there, and is filled again and again.
        """
        self.path, self.seed, self.sparing, self.disk = path, seed, sparing, disk
        self.run_id = f"{os.getpid()}-{time.monotonic_ns()}"
        self.ledger = path / "ledger"
        self.state = (disk or path) / "state"
        self.processes = Processes(self.state, self.run_id)
        self.counts: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Run the round.

        Raises:
            AssertionError: something did not hold.
        """
        self.ledger.touch()
        async with at_fixed_port(self.state, **SETTINGS) as service:
            api = Api(service.url)
            clients = Clients(api, lambda number: plan_job(self.seed, self.run_id, number, str(self.ledger)),
                              self._processes_of, self.seed)  # fmt: skip
            injection = Injection(
                service, self.processes, self.ledger, self.seed, sparing=self.sparing, disk=self.disk
            )
            start = time.monotonic()

            def goes_on() -> bool:
                """Return whether the time is not over, or so little was done that the round would show nothing."""
                self.counts = clients.counts + injection.counts
                past = time.monotonic() - start
                return past < seconds or (past < 4 * seconds and _missing(self.counts, seconds) != [])

            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(clients.run(10, goes_on))
                    tasks.create_task(injection.run(goes_on))
                await self._settle(api, clients)
                checker = Checker(api, clients.submitted, Ledger(self.ledger), may_lose=not self.sparing)
                await checker.check(clients.statuses)
                violations = [*api.violations, *checker.violations, *await self._leaks(service, clients)]
            finally:
                await api.session.close()
                self._end_commands()
            self.counts = clients.counts + injection.counts + checker.endings + api.answers
            print(f"sparing={self.sparing}: {dict(sorted(self.counts.items()))}")
            assert not violations, "\n".join([f"{len(violations)} violations", *violations[:20]])
            assert _missing(self.counts, seconds) == [], self.counts

    async def _settle(self, api: Api, clients: Clients) -> None:
        """Wait until every job is done and every group deleted."""
        for name in ("default", "single"):
            await api.persist("POST", f"/api/queues/{name}/resume")
        rest: list[object] = []

        async def is_done() -> bool:
            rest[:] = (await api.persist("GET", "/api/statuses?state=waiting,queued,running"))[1]["statuses"]
            return not rest

        try:
            await until(is_done, 40)
        except AssertionError:
            raise AssertionError(f"not done: {rest}") from None
        for group in range(4):
            await clients.delete_group(str(group))
        await clients.see_all_done()

    def _processes_of(self, job_id: int) -> list[int]:
        mark = f"{job_id}:"
        return [pid for pid, (_, token) in self.processes.commands().items() if token.startswith(mark)]

    async def _leaks(self, service: Service, clients: Clients) -> list[str]:
        """Return what is left once nothing runs: processes, slots, sockets, files of output, errors in logs."""
        await until(lambda: not self.processes.commands(), what="no command is left")
        kept = {str(job.job_id) for job in clients.submitted if not job.deleted and not job.plan.group}
        files = [name for name in os.listdir(self.state / "runs") if name.split(".")[0] not in kept]
        found = [f"files of deleted jobs: {files}"] if files else []
        await service.restart()
        try:
            await until(self._slots_match)
        except AssertionError:
            found.append(f"{len(self.processes.keepers())} keepers, but {sorted(os.listdir(self.state / 'slots'))}")
        found += [f"in the log: {entry}" for entry in service.log if "exception" in entry or "line" in entry]
        text = (self.state / "keepers.log").read_text()
        if text:
            found.append(f"keepers.log: {text[-3000:]}")
        status = await service.stop()
        if status != 0:
            found.append(f"the server ended with {status}")
        with contextlib.closing(sqlite3.connect(self.state / "history.db")) as history:
            found += [row[0] for row in history.execute("PRAGMA integrity_check") if row != ("ok",)]
        await until(lambda: not (self.processes.keepers() or self.processes.fork_servers()), what="no keeper is left")
        return found

    def _slots_match(self) -> bool:
        """Return whether every slot and every socket is that of a keeper."""
        names = os.listdir(self.state / "slots")
        return len(names) == 2 * len(self.processes.keepers())

    def _end_commands(self) -> None:
        for pid in self.processes.commands():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.heavy
@pytest.mark.timeout(450)
async def test_chaos(tmp_path: Path, seed: int, whole: bool) -> None:
    """Everything is killed and stopped, then all but keepers and commands: nothing is missing, doubled or false.

    The short selection is one of the two, by the seed.
    """
    seconds = 30 if whole else 3
    for sparing in (False, True) if whole else (bool(seed % 2),):
        path = tmp_path / f"sparing-{sparing}"
        path.mkdir()
        await Round(path, seed, sparing=sparing).run(seconds)


@pytest.mark.usefixtures("root", "only_whole")
async def test_chaos_on_a_disk_that_is_full_at_times(tmp_path: Path, seed: int, need: Need) -> None:
    """The same, while there is no space again and again: what is missing is counted."""
    with mounted("tmpfs", tmp_path, need, size=256) as disk:
        chaos = Round(tmp_path, seed, sparing=False, disk=disk)
        await chaos.run(20)
        assert chaos.counts["fill disk"] > 0


# For each second of a round, so that it is no empty one.
_ENOUGH = {"jobs": 5, "cut": 1, "faults": 2, "server ended": 0.5, "keeper or fork server hit": 0.5}

_CHANGES = ("paused jobs", "held", "queues changed")


def _missing(counts: Counter[str], seconds: float) -> list[str]:
    """Return of what too little was done."""
    missing = [name for name, rate in _ENOUGH.items() if counts[name] < rate * seconds]
    return missing + [what for what in (*KINDS, *_CHANGES) if seconds >= 30 and not counts[what]]


@pytest.mark.soak
@pytest.mark.timeout(0)
async def test_chaos_for_long(tmp_path: Path, seed: int) -> None:
    """Round after round of a minute each, every one with another seed, for 20 minutes."""
    deadline = time.monotonic() + 20 * 60
    number = 0
    while time.monotonic() < deadline:
        path = tmp_path / str(number)
        path.mkdir()
        print(f"round {number}")
        await Round(path, seed + number, sparing=bool(number % 2)).run(60)
        shutil.rmtree(path)
        number += 1
