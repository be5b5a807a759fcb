"""One client that runs one command after the other on an idle service: `Prefer: wait`."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.figure import LIMIT, Contenders, Figure, Goal, Measure, Run, Sample, client, cpu
from benchmarks.http_load import post, send
from benchmarks.limits.spawn import spawn
from benchmarks.process_tree import CpuTimer
from benchmarks.service import Service, serving_versions

_REQUEST = post("/api/jobs", {"command": "true"}, {"Prefer": "wait=30"})


def _sample(service: Service, count: int) -> Sample:
    timer = CpuTimer(service.tree)
    load = send(service.port, _REQUEST, count, connections=1)
    used, client_cpu = timer.stop()
    return {"wait": statistics.median(load.latencies), "cpu": used / count, "client": client_cpu / count}


def _limit(run: Run, count: int) -> Sample:
    spawned = spawn(run.directory, count, 1, run.directory / "synced")
    return {"wait": spawned.median, "cpu": spawned.cpu / count}


@contextmanager
def _contenders(run: Run) -> Iterator[Contenders]:
    count = run.count(200, 10)
    with serving_versions(run.versions, run.directory) as services:
        for service in services.values():
            send(service.port, _REQUEST, 5, connections=1)
        rounds: Contenders = {name: partial(_sample, service, count) for name, service in services.items()}
        yield {LIMIT: partial(_limit, run, count), **rounds}


FIGURES = (
    Figure(
        "wait",
        "Prefer: wait, idle service",
        (
            Measure("wait", "p50, spawn + wait + fdatasync as limit", "ms", 1e3, 2, goal=Goal(1.8, 1.3, "times")),
            cpu(),
            client(),
        ),
        _contenders,
    ),
)
