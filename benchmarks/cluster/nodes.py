"""Running nodes of a cluster, or the one of a single host, with the CPU time of all parts.

Nodes are real servers: `serve`, which also runs jobs, `serve --no-worker`, and `worker`. They share this machine, so
wall times are not those of machines of their own; CPU times are.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cluster.database import Database
from benchmarks.figure import Run
from benchmarks.http_load import Load, Request, send_to
from benchmarks.process_tree import ProcessTree, main_thread_cpu_seconds, own_cpu_seconds, running
from benchmarks.service import Service, discarding, listening_url
from benchmarks.versions import Version

HOST: Final = ("serve", "--port", "0")  # accepts jobs and runs some
API: Final = (*HOST, "--no-worker")
WORKER: Final = ("worker",)
PARTS: Final = ("loops", "threads", "keepers", "commands", "postgres")
_SETTLED_SHARE: Final = 0.1  # of a core in one interval: leases and sweeps of idle nodes need less
_SETTLE_INTERVAL: Final = 0.1


@dataclass(frozen=True, slots=True)
class System:
    """A cluster that runs, or, without a database, a single host; `apis` are nodes that listen."""

    trees: Sequence[ProcessTree]
    apis: Sequence[Service]
    database: Database | None = None

    def send(self, request: Request, count: int, connections: int) -> Load:
        """Send requests that submit jobs to all APIs in turn; return once each is answered."""
        return send_to([api.port for api in self.apis], request, count, connections, expected=202)

    def wait_until_idle(self) -> None:
        """Wait until no job is waiting, queued or running; in a cluster no node is asked, because that costs."""
        if self.database is None:
            self.apis[0].wait_until_idle()
        else:
            self.database.wait_until_idle()

    def cpu_seconds(self) -> float:
        """Return the CPU time so far of all processes, PostgreSQL's too."""
        nodes = sum(tree.cpu_seconds() for tree in self.trees)
        return nodes + (self.database.cpu_seconds() if self.database else 0)

    def settle(self, seconds: float = 3) -> None:
        """Wait until little is done, at most `seconds`."""
        deadline = time.monotonic() + seconds
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(_SETTLE_INTERVAL)
            now = self.cpu_seconds()
            if now - before < _SETTLED_SHARE * _SETTLE_INTERVAL:
                return
            before = now

    def parts(self) -> dict[str, float]:
        """Return the CPU time so far of each of `PARTS`, while nothing runs."""
        servers = [tree.program() for tree in self.trees]
        loops = sum(map(main_thread_cpu_seconds, servers))
        threads = sum(map(own_cpu_seconds, servers)) - loops
        others = [pid for tree in self.trees for pid in tree.pids() if pid not in servers]
        keepers = sum(map(own_cpu_seconds, others))
        commands = sum(tree.cpu_seconds() for tree in self.trees) - loops - threads - keepers
        postgres = self.database.cpu_seconds() if self.database else 0
        return dict(zip(PARTS, (loops, threads, keepers, commands, postgres), strict=True))


@contextmanager
def single_host(version: Version, directory: Path, **settings: object) -> Iterator[System]:
    """Run a single host on SQLite, in a directory below this one."""
    with _started(version, directory / "single", [HOST], [settings]) as (trees, apis):
        yield System(trees, apis)


@contextmanager
def cluster(
    run: Run,
    version: Version,
    database: Database,
    nodes: Sequence[Sequence[str]],
    **settings: object,
) -> Iterator[System]:
    """Run nodes on a database, each `HOST`, `API` or `WORKER`; the first two that listen are the APIs."""
    names = [f"node-{number}" for number in range(len(nodes))]
    each = [{"STORE__URL": database.url, "WORKER__NAME": name, **settings} for name in names]
    with _started(version, run.directory / database.name, nodes, each) as (trees, apis):
        time.sleep(run.count(5, 0) / 2)  # each lease was renewed: they know each other
        yield System(trees, apis[:2], database)


@contextmanager
def _started(
    version: Version, directory: Path, nodes: Sequence[Sequence[str]], settings: Sequence[dict[str, object]]
) -> Iterator[tuple[list[ProcessTree], list[Service]]]:
    """Start all nodes at once; yield them once each is ready."""
    with ExitStack() as stack:
        trees, apis = [], []
        for number, (arguments, own) in enumerate(zip(nodes, settings, strict=True)):
            state_dir = directory / str(number)
            values = {
                "SUPERVISOR__ON_STOP": "cancel",
                "SUPERVISOR__MAX_QUEUED": "0",
                "STORE__RETENTION_JOBS": "0",
                "STORE__STATE_DIR": state_dir,
            } | own
            command = version.command(*arguments)
            trees.append(stack.enter_context(running(command, version.environment(**values), stderr=subprocess.PIPE)))
        for number, (arguments, tree) in enumerate(zip(nodes, trees, strict=True)):
            if arguments[0] == "serve":
                port = int(listening_url(tree).rsplit(":", 1)[1])
                apis.append(Service(tree, port, directory / str(number)))
            else:
                _wait_until_it_runs_jobs(tree)
            stack.enter_context(discarding(tree.stderr))
        for api in apis:
            while api.request("GET", "/readyz")[0] != 200:
                time.sleep(0.02)
        yield trees, apis


def _wait_until_it_runs_jobs(tree: ProcessTree) -> None:
    for line in tree.stderr:
        if not line.startswith(b"{"):
            raise RuntimeError(f"the worker did not start: {(line + tree.stderr.read()).decode()}")
        if json.loads(line).get("event") == "running jobs":
            return
    raise RuntimeError("the worker did not start")
