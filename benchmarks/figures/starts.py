"""How long programs take to start: `shellrunner --version`, `ps`, and `serve` until it is ready."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.figure import LIMIT, Contenders, Figure, Goal, Measure, Round, Run, Sample, Unavailable
from benchmarks.process_tree import ProcessTree
from benchmarks.service import Service, discarding, listening_url, serving
from benchmarks.versions import Version


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_command(command: Sequence[str], environment: Mapping[str, str], count: int) -> Sample:
    """Run a command `count` times; return the cost of one."""
    before, began = _children_cpu(), time.perf_counter()
    for _ in range(count):
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return {"wall": (time.perf_counter() - began) / count, "cpu": (_children_cpu() - before) / count}


def bare_interpreter(count: int) -> Round:
    """Return the limit: an interpreter that runs nothing."""
    return lambda: run_command([sys.executable, "-c", "pass"], os.environ, count)


def start_once(version: Version, state_dir: Path, **settings: object) -> Sample:
    """Start a service on a state directory; return the cost until it is ready."""
    command = version.command("serve", "--port", "0", "--state-dir", str(state_dir))
    began = time.perf_counter()
    tree = ProcessTree(command, env=version.environment(**settings), stderr=subprocess.PIPE)
    try:
        port = int(listening_url(tree).rsplit(":", 1)[1])
        with discarding(tree.stderr):
            service = Service(tree, port, state_dir)
            while service.request("GET", "/readyz")[0] != 200:
                time.sleep(0.005)
            sample = {"wall": time.perf_counter() - began, "cpu": tree.cpu_seconds()}
    finally:
        tree.stop(seconds=20)
    return sample


def _starts(run: Run, version: Version, count: int) -> Sample:
    samples = []
    for _ in range(count):
        with tempfile.TemporaryDirectory(dir=run.directory) as directory:
            samples.append(start_once(version, Path(directory) / "state"))
    return {key: sum(sample[key] for sample in samples) / count for key in samples[0]}


@contextmanager
def _version(run: Run) -> Iterator[Contenders]:
    count = run.count(10, 2)
    rounds: dict[str, Round | Unavailable] = {LIMIT: bare_interpreter(count)}
    for version in run.versions:
        rounds[version.name] = partial(run_command, version.command("--version"), version.environment(), count)
    yield rounds


@contextmanager
def _ps(run: Run) -> Iterator[Contenders]:
    count = run.count(10, 2)
    with ExitStack() as stack:
        rounds: dict[str, Round | Unavailable] = {LIMIT: bare_interpreter(count)}
        for version in run.versions:
            service = stack.enter_context(serving(version, run.directory))
            environment = version.environment(URL=f"http://localhost:{service.port}")
            rounds[version.name] = partial(run_command, version.command("ps"), environment, count)
        yield rounds


@contextmanager
def _serve(run: Run) -> Iterator[Contenders]:
    count = run.count(3, 1)
    rounds: dict[str, Round | Unavailable] = {LIMIT: bare_interpreter(count)}
    for version in run.versions:
        rounds[version.name] = partial(_starts, run, version, count)
    yield rounds


def _measures(reach: float, aim: float) -> tuple[Measure, ...]:
    return (
        Measure("wall", "wall, a bare interpreter as limit", "ms", 1e3, goal=Goal(reach, aim, "value")),
        Measure("cpu", "CPU", "ms", 1e3),
    )


FIGURES = (
    Figure("version", "shellrunner --version", _measures(30, 25), _version),
    Figure("ps", "shellrunner ps", _measures(90, 60), _ps),
    Figure("serve", "shellrunner serve to ready", _measures(350, 250), _serve),
)
