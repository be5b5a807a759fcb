"""An empty job, from POST to its recorded end: alone, and a hundred in a request."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
from benchmarks.http_load import Request, post, send
from benchmarks.limits.spawn import spawn
from benchmarks.peers import PEERS
from benchmarks.peers.installation import Installation
from benchmarks.process_tree import CpuTimer, main_thread_cpu_seconds, own_cpu_seconds
from benchmarks.service import Service, serving

_BATCH = 100
_SPEC = {"command": "true"}


class Submission(NamedTuple):
    """How jobs are submitted: so many in each request to a path."""

    path: str
    request: Request
    jobs: int
    connections: int

    def send(self, service: Service, jobs: int) -> None:
        """Submit this many jobs; return once each is accepted."""
        send(service.port, self.request, jobs // self.jobs, self.connections, expected=202)


ALONE = Submission("/api/jobs", post("/api/jobs", _SPEC), 1, connections=16)
BATCHES = Submission("/api/jobs/batch", post("/api/jobs/batch", {"jobs": [_SPEC] * _BATCH}), _BATCH, connections=2)


def _parts(service: Service) -> dict[str, float]:
    """Return the CPU seconds so far of the parts of an idle service."""
    server = service.tree.program()
    loop, whole_server = main_thread_cpu_seconds(server), own_cpu_seconds(server)
    keepers = sum(own_cpu_seconds(pid) for pid in service.tree.pids() if pid != server)
    commands = service.tree.cpu_seconds() - whole_server - keepers
    return {"loop": loop, "threads": whole_server - loop, "keepers": keepers, "commands": commands}


def _sample(service: Service, submission: Submission, jobs: int) -> Sample:
    timer = CpuTimer(service.tree)
    before = _parts(service)
    began = time.perf_counter()
    submission.send(service, jobs)
    service.wait_until_idle()
    seconds = time.perf_counter() - began
    used, load = timer.stop()
    parts = {name: (after - before[name]) / jobs for name, after in _parts(service).items()}
    return {"cpu": used / jobs, "wall": seconds / jobs, "client": load / jobs, **parts}


def bare_spawn(run: Run, jobs: int) -> Round:
    """Return the limit: as many bare spawns at a time as there are cores."""
    processes = len(os.sched_getaffinity(0))

    def sample() -> Sample:
        spawned = spawn(run.directory, jobs, processes)
        return {"cpu": spawned.cpu / jobs, "wall": spawned.wall / jobs}

    return sample


@contextmanager
def _contenders(run: Run, submission: Submission) -> Iterator[Contenders]:
    jobs = run.count(1000, _BATCH)
    with ExitStack() as stack:
        contenders: dict[str, Round | Unavailable] = {LIMIT: bare_spawn(run, jobs)}
        for version in run.versions:
            service = stack.enter_context(serving(version, run.directory))
            if service.request("POST", submission.path, {})[0] != 422:  # that it has the path, and validates
                contenders[version.name] = Unavailable(f"has no {submission.path}")
                continue
            ALONE.send(service, run.count(200, 10))  # every keeper is there, the caches are warm
            service.wait_until_idle()
            contenders[version.name] = partial(_sample, service, submission, jobs)
        yield contenders


@contextmanager
def _with_peers(run: Run) -> Iterator[Contenders]:
    with ExitStack() as stack:
        contenders = dict(stack.enter_context(_contenders(run, ALONE)))
        if run.peers is not None:
            contenders |= _peers(run, run.peers, stack)
        yield contenders


def _peers(run: Run, path: Path, stack: ExitStack) -> Contenders:
    installation = Installation(path)
    contenders: dict[str, Round | Unavailable] = {}
    for peer in PEERS:
        try:
            sample = stack.enter_context(peer.running(run, installation, run.count(200, 10)))
            contenders[peer.name] = partial(_of_peer, sample)
        except Unavailable as reason:
            contenders[peer.name] = reason
        except OSError as error:  # it does not start here
            contenders[peer.name] = Unavailable(str(error))
    return contenders


def _of_peer(sample: Round) -> Sample:
    try:
        return sample()
    except OSError as error:  # a peer's failure costs no other contender its values
        raise Unavailable(str(error)) from error


_PARTS = (
    Measure("loop", "CPU of the event loop", "µs", 1e6),
    Measure("threads", "CPU of the server's other threads", "µs", 1e6),
    Measure("keepers", "CPU of keepers and fork server", "µs", 1e6),
    Measure("commands", "CPU of the commands", "µs", 1e6),
)

FIGURES = (
    Figure("job", "empty job", (cpu(goal=Goal(0.45, 0.48, "share")), wall(), client(), *_PARTS), _with_peers),
    Figure(
        "batch",
        "empty job, 100 a request",
        (cpu(goal=Goal(0.50, 0.60, "share")), wall(), client(), *_PARTS),
        partial(_contenders, submission=BATCHES),
    ),
)
