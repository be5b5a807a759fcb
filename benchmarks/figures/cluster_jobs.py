"""Empty jobs on a cluster, beside the same jobs on a single host: the CPU time of all nodes and PostgreSQL."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.cluster.contenders import on_database
from benchmarks.cluster.database import Database
from benchmarks.cluster.nodes import HOST, PARTS, System, cluster, single_host
from benchmarks.figure import (
    LIMIT,
    Contenders,
    Figure,
    Goal,
    Measure,
    Round,
    Run,
    Sample,
    Unavailable,
    client,
    cpu,
    wall,
)
from benchmarks.http_load import post
from benchmarks.versions import Version

_REQUEST = post("/api/jobs", {"command": "true"})
_CONNECTIONS = 48
_SLOTS = 16


def _sample(run: Run, system: System, jobs: int) -> Sample:
    transactions = system.database.transactions(wait=not run.is_quick) if system.database else 0
    system.settle()
    before, client_before, began = system.parts(), time.process_time(), time.perf_counter()
    system.send(_REQUEST, jobs, _CONNECTIONS)
    system.wait_until_idle()
    seconds, client_cpu = time.perf_counter() - began, time.process_time() - client_before
    system.settle()
    after = system.parts()
    parts = {name: (after[name] - before[name]) / jobs for name in PARTS}
    sample = {"cpu": sum(parts.values()), "wall": seconds / jobs, "client": client_cpu / jobs, **parts}
    if system.database:
        ended = system.database.transactions(wait=not run.is_quick) - transactions
        sample |= {"transactions": ended / jobs, "connections": system.database.count_connections()}
    return sample


def _ready(run: Run, system: System, jobs: int) -> Round:
    system.send(_REQUEST, run.count(200, 4), _CONNECTIONS)  # every keeper is there, the caches are warm
    system.wait_until_idle()
    return partial(_sample, run, system, jobs)


@contextmanager
def _contenders(run: Run, nodes: int) -> Iterator[Contenders]:
    jobs = run.count(max(1000, 500 * nodes), 40)  # enough for each keeper: ticks of 10 ms
    with ExitStack() as stack:

        def on_cluster(version: Version, delivery: str, hosts: int, made: Database) -> Round:
            started = cluster(
                run, version, made, [HOST] * hosts, SUPERVISOR__MAX_RUNNING=_SLOTS, STORE__DELIVERY=delivery
            )
            return _ready(run, stack.enter_context(started), jobs)

        rounds: dict[str, Round | Unavailable] = {}
        for version in run.versions:
            rounds[version.name] = on_database(
                stack, run, version, partial(on_cluster, version, "pgqueuer", run.count(nodes, 2))
            )
        current = run.versions[0]
        rounds["delivery table"] = on_database(
            stack, run, current, partial(on_cluster, current, "table", run.count(nodes, 1))
        )
        single = single_host(current, run.directory, SUPERVISOR__MAX_RUNNING=_SLOTS)
        rounds[LIMIT] = _ready(run, stack.enter_context(single), jobs)
        yield rounds


_MEASURES = (
    wall(),
    Measure("transactions", "transactions", "a job", 1, 1, goal=Goal(6, 6, "value")),
    Measure("postgres", "CPU of PostgreSQL", "µs", 1e6),
    Measure("loops", "CPU of the event loops", "µs", 1e6),
    Measure("threads", "CPU of the servers' other threads", "µs", 1e6),
    Measure("keepers", "CPU of keepers and fork servers", "µs", 1e6),
    Measure("commands", "CPU of the commands", "µs", 1e6),
    Measure("connections", "connections to PostgreSQL", "", 1),
    client(),
)


def _figure(nodes: int, reach: float, aim: float) -> Figure:
    return Figure(
        f"cluster-jobs-{nodes}",
        f"empty job, {nodes} hosts, a single one as limit",
        (cpu(goal=Goal(reach, aim, "share")), *_MEASURES),
        partial(_contenders, nodes=nodes),
    )


FIGURES = (_figure(2, 0.45, 0.6), _figure(8, 0.35, 0.5))
