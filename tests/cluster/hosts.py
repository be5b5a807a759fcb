"""The hosts of a cluster under test: one database, and on each host a server on a state directory of its own.

With network namespaces each host has a cable that can be cut, and a token is needed, as in any network; without them
all are on the loopback interface. Used by the tests of this package.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.cluster import network
from tests.cluster.network import HUB, Cable
from tests.faults.chaos.injection import Processes
from tests.support import postgres
from tests.support.clocks import ServerClock
from tests.support.histories import migrate
from tests.support.postgres import SUPERUSER, PostgresServer
from tests.support.processes import children, lives
from tests.support.service import Service
from tests.support.tokens import hash_of, secret_of
from tests.support.waiting import until

ADMIN: Final = "cluster"  # the name of the token that the tests use
_PORT: Final = 8022
_WORKING: Final = {"listening", "running jobs"}  # the events of a server whose start is complete
_START_TIMEOUT: Final = 60.0  # seconds: the database may be away
# As in production, but for what only costs time; nothing here ends the machine.
_DATABASE: Final = {"fsync": "off", "shared_buffers": "64MB", "max_connections": "200"}


class Host:
    """One host: the server that works on its directory, its keepers and their commands."""

    def __init__(self, name: str, state_dir: Path, *, verb: str, cable: Cable | None, **settings: object) -> None:
        """Start nothing yet; `verb` is `serve` or `worker`."""
        self.name, self.state_dir, self.cable, self.verb = name, state_dir, cable, verb
        self.service = Service(state_dir, real_exec=cable is not None, WORKER__NAME=name, **settings)
        self.service.session.headers["Authorization"] = f"Bearer {secret_of(ADMIN)}"
        prefix = cable.host.prefix if cable else []
        self.clock = ServerClock(state_dir.parent, self.service, name) if cable else None  # a program of its own
        module = "tests.support.clocked_server" if cable else "shellrunner"
        self.service.program = [*prefix, sys.executable, "-m", module, verb]
        self.address = ""
        if verb == "serve":
            self.address = f"{cable.address}:{_PORT}" if cable else f"127.0.0.1:{_free_port()}"
            self.service.program += ["--listen", self.address]
            self.service.settings["SERVER__NAMES"] = json.dumps([self.address.partition(":")[0]])

    @property
    def url(self) -> str:
        """Return the URL of its API, which stays the same."""
        return f"http://{self.address}"

    async def start(self) -> None:
        """Start its server, as systemd does: again, if it could not open the history; wait until it works."""
        service = self.service
        seen = len(service.log)

        async def has_begun() -> bool:
            has_ended = service.process.returncode is not None
            return has_ended or any(entry["event"] in _WORKING for entry in service.log[seen:])

        while True:
            await service.launch()
            await until(has_begun, _START_TIMEOUT, what=f"{self.name} works")
            if service.process.returncode is None:
                return
            await service.ended()
            last = str(service.log[-1])
            is_away = any(f"cannot be {verb}" in last for verb in ("opened", "read", "written"))
            assert is_away, f"{self.name} did not start: {service.log[-5:]}"
            seen = len(service.log)

    @property
    def is_running(self) -> bool:
        """Whether its server lives."""
        return hasattr(self.service, "process") and self.service.process.returncode is None

    def processes(self) -> list[int]:
        """Return the pids of everything that runs on it."""
        if self.cable:
            return self.cable.host.members()
        roots = Processes(self.state_dir, "")._helpers() | ({self.service.process.pid} if self.is_running else set())
        found = list[int]()
        while roots:
            found += roots
            roots = {child for pid in roots for child in children(pid)} - {*found}
        return found

    def signal(self, number: int) -> list[int]:
        """Send a signal to everything that runs on it, until nothing new appears; return the pids."""
        reached = list[int]()
        while more := [pid for pid in self.processes() if pid not in reached and lives(pid)]:
            for pid in more:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            reached += more
        return reached

    async def kill(self) -> None:
        """End everything on it at once, as if it lost power; its directory is kept."""
        self.signal(signal.SIGSTOP)  # or a command would report that its keeper is gone, say
        ended = self.signal(signal.SIGKILL)
        await self.service.ended()
        await until(lambda: not any(map(lives, ended)), what=f"nothing runs on {self.name}")

    async def clear_away(self) -> None:
        """End whatever runs on it."""
        if self.is_running or self.processes():
            self.signal(signal.SIGKILL)
            if hasattr(self.service, "process"):
                await self.service.ended()
        await self.service.clear_away()


@dataclass
class Cluster:
    """All hosts, and their database."""

    database: PostgresServer
    name: str  # of the database
    replica: PostgresServer | None = None
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def apis(self) -> list[Host]:
        """Return those that clients can ask."""
        return [host for host in self.hosts.values() if host.verb == "serve"]

    @property
    def workers(self) -> list[Host]:
        """Return those that only run jobs."""
        return [host for host in self.hosts.values() if host.verb == "worker"]

    @property
    def url(self) -> str:
        """Return the address of the database, with that of its standby."""
        both = [self.database] + ([self.replica] if self.replica else [])
        places = ",".join(f"{each.address}:{each.port}" for each in both)
        return f"postgresql://{SUPERUSER}:{self.database.password}@{places}/{self.name}"

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Execute one statement in the database of the cluster."""
        return self.database.execute(statement, *values, database=self.name)


@contextlib.asynccontextmanager
async def cluster(
    path: Path,
    *,
    apis: Sequence[str] = ("api1", "api2"),
    workers: Sequence[str] = (),
    namespaces: bool = False,
    database: Mapping[str, str] = _DATABASE,
    replica: bool = False,
    settings: Mapping[str, object] | None = None,
) -> AsyncIterator[Cluster]:
    """Run a cluster of these hosts; `settings` are environment variables of every server without their prefix.

    With a `replica` the database has a standby, which the servers know.
    """
    names = [*apis, *workers]
    with contextlib.ExitStack() as stack:
        cables: dict[str, Cable] = stack.enter_context(network.connected(names)) if namespaces else {}
        server = PostgresServer(database, listen=HUB if namespaces else "127.0.0.1")
        stack.callback(server.end)
        made = Cluster(server.start(), server.create_database())
        migrate(server.url(made.name))
        if replica:
            made.replica = server.replica(listen=server.address)
            stack.callback(made.replica.end)
        shared: dict[str, object] = {
            "STORE__URL": made.url,
            "AUTH__TOKENS": json.dumps([{"name": ADMIN, "hash": hash_of(ADMIN), "scopes": ["read", "run", "admin"]}]),
        } | dict(settings or {})
        try:
            for name in names:
                verb = "serve" if name in apis else "worker"
                made.hosts[name] = Host(name, path / name, verb=verb, cable=cables.get(name), **shared)
            await asyncio.gather(*(host.start() for host in made.hosts.values()))
            yield made
        finally:
            await asyncio.gather(*(host.clear_away() for host in made.hosts.values()))
            for host in made.hosts.values():
                for line in host.service.log[-30:]:
                    print(host.name, line)  # pytest shows it where the test failed


def require_namespaces() -> None:
    """Skip the test where no network namespaces can be made; in CI that is a failure."""
    if not network.available():
        postgres.skip_or_fail("needs root, who makes network namespaces")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
