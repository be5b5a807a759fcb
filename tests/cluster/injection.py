"""What is done to a cluster: servers, keepers, hosts, cables and the database, in an order that the seed decides.

Several faults may last at once; each ends by itself, and at the end of a round nothing is stopped or cut any more.
"""

import asyncio
import contextlib
import math
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from tests.cluster.hosts import Cluster, Host
from tests.faults.chaos.injection import Processes, parent
from tests.support.clocks import DAY

PAUSE: Final = (0.2, 1.2)  # seconds between two faults
_MAX_OUTAGE: Final = 4.0  # seconds for which the database is away: clients do not wait for ever

# How often each fault is chosen. Where hosts and keepers are spared, no attempt may be lost.
_SPARING: Final = {
    "kill server": 4, "stop server": 2, "restart server": 2, "stop keeper": 3, "freeze host": 2, "cut cable": 3,
    "kill database": 1, "stop database": 1, "restart database": 1, "freeze database": 1, "cut connections": 1,
    "set clock": 3,
}  # fmt: skip
_ALL: Final = _SPARING | {"kill host": 2, "kill keeper": 4, "kill keeper and server": 1}
_IN_NAMESPACES: Final = {"cut cable", "set clock"}
_CLOCKS: Final = (-60 * DAY, -DAY, -600, -3, 0, 0, 3, 600, DAY, 60 * DAY)  # seconds that a node's clock is off


class ClusterInjection:
    """Does one thing after the other to a cluster."""

    def __init__(
        self, cluster: Cluster, ledger: Path, run: str, seed: int, *, sparing: bool, longest: float = 2.0
    ) -> None:
        """Take faults from the seed, `sparing` keepers and hosts; each lasts `longest` seconds at most."""
        self._cluster, self._ledger, self._run, self._longest = cluster, ledger, run, longest
        self._chance = random.Random(f"{seed} cluster faults {sparing}")
        faults = dict(_SPARING if sparing else _ALL)
        if not all(host.cable for host in cluster.hosts.values()):
            faults = {name: weight for name, weight in faults.items() if name not in _IN_NAMESPACES}
        self._faults = faults
        self._verbs: dict[str, Callable[[Host], Awaitable[None]]] = {
            "kill server": self._kill_server,
            "restart server": self._restart_server,
            "stop server": self._stop_server,
            "stop keeper": self._stop_keeper,
            "kill keeper": self._kill_keeper,
            "kill keeper and server": self._kill_both,
            "freeze host": self._freeze_host,
            "kill host": self._kill_host,
            "cut cable": self._cut_cable,
            "set clock": self._set_clock,
            "kill database": lambda _: self._end_database("kill"),
            "stop database": lambda _: self._end_database("immediate"),
            "restart database": lambda _: self._end_database("fast"),
            "freeze database": lambda _: self._freeze_database(),
            "cut connections": lambda _: self._cut_connections(),
        }
        self.counts: Counter[str] = Counter()
        self._busy: set[str] = set()  # hosts, or the database, to which something is done

    async def run(self, goes_on: Callable[[], bool]) -> None:
        """Inject faults while the round goes on; then let every server and the database work again."""
        faults = self._schedule()
        async with asyncio.TaskGroup() as tasks:
            while goes_on():
                await asyncio.sleep(self._chance.uniform(*PAUSE))
                fault, host = next(faults), self._chance.choice(list(self._cluster.hosts.values()))
                target = "database" if "database" in fault or "connections" in fault else host.name
                if target not in self._busy and not self._is_last_api(host):
                    self._busy.add(target)
                    self.counts[fault] += 1
                    self.counts["faults"] += 1
                    tasks.create_task(self._do(fault, host, target))

    def _is_last_api(self, host: Host) -> bool:
        """Whether no node would be left that clients can ask: they do not wait for ever."""
        others = {each.name for each in self._cluster.apis} - {host.name}
        return host.verb == "serve" and bool(others) and others <= self._busy

    async def _do(self, fault: str, host: Host, target: str) -> None:
        try:
            await self._verbs[fault](host)
        finally:
            self._busy.discard(target)

    def _schedule(self) -> Iterator[str]:
        """Yield faults without end: each once, then by their weights."""
        yield from self._chance.sample(list(self._faults), len(self._faults))
        while True:
            yield from self._chance.choices(list(self._faults), list(self._faults.values()))

    async def _wait(self, most: float = math.inf) -> None:
        await asyncio.sleep(self._chance.uniform(0.05, min(most, self._longest)))

    # One host

    async def _kill_server(self, host: Host) -> None:
        await host.service.kill()
        await host.start()

    async def _restart_server(self, host: Host) -> None:
        status = await host.service.stop()
        assert status == 0, f"{host.name} ended with {status} after SIGTERM: {host.service.log[-5:]}"
        await host.start()

    async def _stop_server(self, host: Host) -> None:
        await self._stop([host.service.process.pid])

    async def _stop_keeper(self, host: Host) -> None:
        await self._stop(self._keeper(host))

    async def _kill_keeper(self, host: Host) -> None:
        for pid in self._keeper(host):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _kill_both(self, host: Host) -> None:
        await self._kill_keeper(host)
        await self._kill_server(host)

    def _keeper(self, host: Host) -> list[int]:
        """Return one of the host's keepers, one with a command if there is any."""
        processes = Processes(host.state_dir, self._run)
        found = processes.keepers()
        busy = [pid for pid in found if any(parent(each) == pid for each in processes.commands())]
        return [self._chance.choice(busy or found)] if found else []

    async def _stop(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            await self._wait()
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def _freeze_host(self, host: Host) -> None:
        self._announce("Z", host)
        host.signal(signal.SIGSTOP)
        try:
            await self._wait()
        finally:
            host.signal(signal.SIGCONT)

    async def _kill_host(self, host: Host) -> None:
        self._announce("K", host)
        await host.kill()
        await self._wait()
        await host.start()

    async def _cut_cable(self, host: Host) -> None:
        assert host.cable is not None
        host.cable.cut(self._chance.choice(("both", "both", "to_host", "from_host")))
        try:
            await self._wait()
        finally:
            host.cable.heal()

    async def _set_clock(self, host: Host) -> None:
        """Set the wall clock of its server; it stays so until it is set again."""
        assert host.clock is not None
        host.clock.set(self._chance.choice(_CLOCKS))

    def _announce(self, letter: str, host: Host) -> None:
        """Write into the ledger that the commands on a host are about to be killed or stopped."""
        here = {*host.processes()}
        for pid, (nonce, token) in Processes(host.state_dir, self._run).commands().items():
            if pid in here:
                with self._ledger.open("a") as file:
                    file.write(f"{letter} {nonce} {token} {pid}\n")

    # The database

    async def _end_database(self, how: str) -> None:
        database = self._cluster.database
        if how == "kill":
            database.kill()
        else:
            database.stop(how)
        await self._wait(_MAX_OUTAGE)
        database.start()

    async def _freeze_database(self) -> None:
        self._cluster.database.freeze()
        try:
            await self._wait(_MAX_OUTAGE)
        finally:
            self._cluster.database.thaw()

    async def _cut_connections(self) -> None:
        self._cluster.database.terminate_connections(self._cluster.name)
