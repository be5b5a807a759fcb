"""Streams of the statuses of all jobs, beside clients that submit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.figure import Contenders, Figure, Goal, Measure, Run, Sample
from benchmarks.http_load import post, send_for
from benchmarks.service import MANY_STREAMS, Service, serving_versions
from benchmarks.streams import percentile, reading

_POSTERS = 20


def _sample(service: Service, streams: int, seconds: float) -> Sample:
    with reading(service.port, "/api/statuses/events", streams) as readers:
        before = service.tree.cpu_seconds()
        began = time.perf_counter()
        load = send_for(service.port, post("/api/jobs", {"command": "true"}), seconds, _POSTERS, expected=202)
        service.wait_until_idle()
        used = service.tree.cpu_seconds() - before
        elapsed = time.perf_counter() - began
        report = readers.stop()
    return {
        "p99": percentile(load.latencies, 0.99),
        "max": max(load.latencies),
        "cpu": used / len(load.latencies),
        "jobs": len(load.latencies) / elapsed,
        "client": report.cpu / elapsed,
    }


@contextmanager
def _contenders(run: Run) -> Iterator[Contenders]:
    streams, seconds = run.count(1000, 20), run.count(45, 1)
    with serving_versions(run.versions, run.directory, **MANY_STREAMS) as services:
        yield {name: partial(_sample, service, streams, seconds) for name, service in services.items()}


FIGURES = (
    Figure(
        "status-streams",
        f"1,000 all-status streams beside {_POSTERS} posters",
        (
            Measure("p99", "p99 of POST", "s", 1, 2, goal=Goal(1, 0.3, "value")),
            Measure("max", "slowest POST", "s", 1, 2),
            Measure("jobs", "jobs done", "1/s", 1, is_rate=True),
            Measure("cpu", "CPU per job", "µs", 1e6),
            Measure("client", "CPU of the readers", "% of a core", 100),
        ),
        _contenders,
        max_rounds=1,
    ),
)
