"""How long things take that two nodes of a cluster do together: an API node that runs no jobs, and a worker."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial

from benchmarks.cluster.contenders import on_database
from benchmarks.cluster.database import Database
from benchmarks.cluster.nodes import API, WORKER, System, cluster, single_host
from benchmarks.figure import LIMIT, Contenders, Figure, Goal, Measure, Round, Run, Sample, Unavailable
from benchmarks.service import Service
from benchmarks.streams import percentile, read_whole
from benchmarks.versions import Version

_LAST_EVENT = b"event: done"
_WAIT = {"Prefer": "wait=30"}
_MARK = "UPDATE hosts SET unreachable = seen WHERE name = (SELECT host FROM jobs WHERE id = %s)"
_NOTICED_TIMEOUT = 60  # seconds
_POLL_INTERVAL = 0.05
Measured = Callable[[Run, System], Sample]


def _pause() -> None:
    """Let the nodes become idle, and meet their timers at any time."""
    time.sleep(random.uniform(0.03, 0.08))


def _at(time_of: str) -> float:
    return datetime.fromisoformat(time_of).timestamp()


def _start_delay(api: Service) -> float:
    """Return the seconds from the request to the start of the command, which its keeper reports in milliseconds."""
    _pause()
    sent = time.time()
    status, result = api.request("POST", "/api/jobs", {"command": "true"}, _WAIT)
    assert status == 200, (status, result)
    return _at(result["started"]) - sent


def _cancel_delays(api: Service) -> tuple[float, float]:
    """Return the seconds from the request to the end of the command, and until the API node shows it."""
    job_id = api.submit(argv=["sleep", "3600"])
    api.wait_until_running(job_id)
    _pause()
    sent, began = time.time(), time.perf_counter()
    assert api.request("POST", f"/api/jobs/{job_id}/cancel")[0] == 202
    api.request("GET", f"/api/statuses/{job_id}", headers=_WAIT)
    shown = time.perf_counter() - began
    return _at(api.get(f"/api/results/{job_id}")["completed"]) - sent, shown


def _delays(run: Run, system: System) -> Sample:
    api = system.apis[0]
    starts = [_start_delay(api) for _ in range(run.count(200, 5))]
    cancels = [_cancel_delays(api) for _ in range(run.count(40, 2))]
    ended, shown = zip(*cancels, strict=True)
    return {
        "start": percentile(starts, 0.5),
        "start-p99": percentile(starts, 0.99),
        "cancel": percentile([*ended], 0.5),
        "cancel-shown": percentile([*shown], 0.5),
    }


def _output(run: Run, system: System) -> Sample:
    """Follow a job that writes text as fast as it is taken."""
    api, size = system.apis[0], run.count(200_000_000, 1_000_000)
    system.settle()
    before = system.parts()
    job_id = api.submit(command=f"yes 'a line of text, as a build writes it: compiling module' | head -c {size}")
    framed, seconds = read_whole(api.port, f"/api/statuses/{job_id}/events", _LAST_EVENT)
    if framed < size:
        raise Unavailable(f"{framed} of {size} bytes of output have arrived")
    system.settle()
    after = system.parts()
    used = {name: (after[name] - before[name]) / (size / 1e6) for name in after}
    servers = used["loops"] + used["threads"]
    return {"rate": size / seconds, "servers": servers, "keepers": used["keepers"], "postgres": used["postgres"]}


def _until_unreachable(run: Run, system: System) -> Sample:
    """Kill the host that runs a job, and wait until the API node says that it is unreachable.

    A quick run does not wait until the API node has judged it, which it does once it has itself been there for as
    long as a lease lasts.
    """
    api, (_, worker) = system.apis[0], system.trees
    job_id = api.submit(argv=["sleep", "3600"])
    api.wait_until_running(job_id)
    worker.kill()
    began = time.perf_counter()
    if run.is_quick and system.database:
        system.database.execute(_MARK, job_id)
    while not api.get(f"/api/statuses/{job_id}").get("unreachable"):
        time.sleep(_POLL_INTERVAL)
        if time.perf_counter() - began > run.count(_NOTICED_TIMEOUT, 5):
            raise Unavailable("no node has judged that its host is unreachable")
    return {"noticed": time.perf_counter() - began}


def _on_new_nodes(run: Run, version: Version, database: Database, measured: Measured) -> Sample:
    with cluster(run, version, database, [API, WORKER]) as system:
        return measured(run, system)


@contextmanager
def _contenders(run: Run, measured: Measured, *, is_limited: bool = True) -> Iterator[Contenders]:
    """Yield clusters of two nodes, and a single host as limit."""
    with ExitStack() as stack:

        def on_cluster(version: Version, made: Database) -> Round:
            system = stack.enter_context(cluster(run, version, made, [API, WORKER]))
            system.apis[0].request("POST", "/api/jobs", {"command": "true"}, _WAIT)
            return partial(measured, run, system)

        rounds: dict[str, Round | Unavailable] = {
            version.name: on_database(stack, run, version, partial(on_cluster, version)) for version in run.versions
        }
        if is_limited:
            rounds[LIMIT] = partial(measured, run, stack.enter_context(single_host(run.versions[0], run.directory)))
        yield rounds


@contextmanager
def _broken(run: Run) -> Iterator[Contenders]:
    """Yield clusters that are new in each round, as a round breaks them."""
    with ExitStack() as stack:

        def on_cluster(version: Version, made: Database) -> Round:
            return partial(_on_new_nodes, run, version, made, _until_unreachable)

        yield {
            version.name: on_database(stack, run, version, partial(on_cluster, version)) for version in run.versions
        }


FIGURES = (
    Figure(
        "cluster-delays",
        "API node and worker, idle, a single host as limit",
        (
            Measure("start", "submit to running, p50", "ms", 1e3, 1, goal=Goal(10, 6, "value")),
            Measure("start-p99", "submit to running, p99", "ms", 1e3, 1),
            Measure("cancel", "cancel to the command's end, p50", "ms", 1e3, 1, goal=Goal(25, 25, "value")),
            Measure("cancel-shown", "cancel to its end shown at the API node, p50", "ms", 1e3, 1),
        ),
        partial(_contenders, measured=_delays),
        max_rounds=3,
    ),
    Figure(
        "cluster-output",
        "output from a worker to a reader on another node, a single host as limit",
        (
            Measure("rate", "text", "MB/s", 1e-6, is_rate=True, goal=Goal(50, 100, "value")),
            Measure("servers", "CPU of the servers per MB", "ms", 1e3, 1),
            Measure("keepers", "CPU of the keepers per MB", "ms", 1e3, 1),
            Measure("postgres", "CPU of PostgreSQL per MB", "ms", 1e3, 1),
        ),
        partial(_contenders, measured=_output),
        max_rounds=3,
    ),
    Figure(
        "cluster-unreachable",
        "a host that is killed",
        (Measure("noticed", "until its job says `unreachable`", "s", 1, 1, goal=Goal(15, 15, "value")),),
        _broken,
        max_rounds=3,
    ),
)
