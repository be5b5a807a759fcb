"""An empty job, from POST to its recorded end: alone, and a hundred in a request."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.figure import LIMIT, Contenders, Figure, Goal, Round, Run, Sample, Unavailable, client, cpu, wall
from benchmarks.http_load import post, send
from benchmarks.limits.spawn import spawn
from benchmarks.peers import PEERS
from benchmarks.peers.installation import Installation
from benchmarks.process_tree import CpuTimer
from benchmarks.service import Service, serving

_CONNECTIONS = 16
_BATCH = 100
_SPEC = {"command": "true"}

Submit = Callable[[Service, int], None]


def submit_alone(service: Service, jobs: int) -> None:
    """Submit each job in a request of its own."""
    send(service.port, post("/api/jobs", _SPEC), jobs, _CONNECTIONS, expected=202)


def submit_in_batches(service: Service, jobs: int) -> None:
    """Submit a hundred jobs in each request, over two connections."""
    if service.request("POST", "/api/jobs/batch", {"jobs": [_SPEC]})[0] in (404, 405):
        raise Unavailable("has no /api/jobs/batch")
    send(service.port, post("/api/jobs/batch", {"jobs": [_SPEC] * _BATCH}), jobs // _BATCH, 2, expected=202)


def _sample(service: Service, submit: Submit, jobs: int) -> Sample:
    timer = CpuTimer(service.tree)
    began = time.perf_counter()
    submit(service, jobs)
    service.wait_until_idle()
    seconds = time.perf_counter() - began
    used, load = timer.stop()
    return {"cpu": used / jobs, "wall": seconds / jobs, "client": load / jobs}


def bare_spawn(run: Run, jobs: int) -> Round:
    """Return the limit: as many bare spawns at a time as there are cores."""
    processes = len(os.sched_getaffinity(0))

    def sample() -> Sample:
        spawned = spawn(run.directory, jobs, processes)
        return {"cpu": spawned.cpu / jobs, "wall": spawned.wall / jobs}

    return sample


@contextmanager
def _contenders(run: Run, submit: Submit) -> Iterator[Contenders]:
    jobs = run.count(1000, _BATCH)
    with ExitStack() as stack:
        contenders: dict[str, Round | Unavailable] = {LIMIT: bare_spawn(run, jobs)}
        for version in run.versions:
            service = stack.enter_context(serving(version, run.directory))
            submit_alone(service, run.count(200, 10))  # every keeper is there, the caches are warm
            service.wait_until_idle()
            contenders[version.name] = partial(_sample, service, submit, jobs)
        yield contenders


@contextmanager
def _with_peers(run: Run) -> Iterator[Contenders]:
    with ExitStack() as stack:
        contenders = dict(stack.enter_context(_contenders(run, submit_alone)))
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


FIGURES = (
    Figure("job", "empty job", (cpu(goal=Goal(0.45, 0.48, "share")), wall(), client()), _with_peers),
    Figure(
        "batch",
        "empty job, 100 a request",
        (cpu(goal=Goal(0.50, 0.60, "share")), wall(), client()),
        partial(_contenders, submit=submit_in_batches),
    ),
)
