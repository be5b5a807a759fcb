"""Private memory: of an idle service, and of each running job (keeper and command)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.figure import Contenders, Figure, Goal, Measure, Round, Run, Sample, Unavailable
from benchmarks.process_tree import private_bytes
from benchmarks.service import Service, serving
from benchmarks.versions import Version


def _whole(service: Service) -> int:
    return sum(private_bytes(pid) for pid in service.tree.pids())


def _sample(version: Version, run: Run) -> Sample:
    jobs = run.count(100, 10)
    with serving(version, run.directory, SUPERVISOR__MAX_RUNNING=jobs) as service:
        service.tree.settle()
        server = private_bytes(service.tree.program())
        idle = _whole(service)
        service.submit_many("exec sleep 3600", jobs)
        while len(service.get(f"/api/jobs?state=running&limit={jobs}&fields=job_id")["jobs"]) < jobs:
            time.sleep(0.1)
        service.tree.settle()
        grown = private_bytes(service.tree.program()) - server
        return {"server": server, "idle": idle, "job": (_whole(service) - grown - idle) / jobs, "grown": grown / jobs}


@contextmanager
def _contenders(run: Run) -> Iterator[Contenders]:
    rounds: dict[str, Round | Unavailable] = {
        version.name: partial(_sample, version, run) for version in run.versions
    }
    yield rounds


FIGURES = (
    Figure(
        "memory",
        "private memory",
        (
            Measure("job", "per running job, keeper and command", "MB", 1e-6, 2, goal=Goal(1.3, 1.0, "value")),
            Measure("grown", "per running job, in the server", "MB", 1e-6, 3),
            Measure("server", "the idle server", "MB", 1e-6, 1, goal=Goal(40, 30, "value")),
            Measure("idle", "the idle service, all processes", "MB", 1e-6, 1),
        ),
        _contenders,
        max_rounds=3,
    ),
)
