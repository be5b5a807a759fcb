"""Followers of a job's output: one that reads much text, a thousand that read a little, and the first byte."""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.figure import LIMIT, Contenders, Figure, Goal, Measure, Round, Run, Sample, Unavailable
from benchmarks.process_tree import CpuTimer, ProcessTree, peak_bytes, reset_peak, running
from benchmarks.service import MANY_STREAMS, Service, serving, serving_versions
from benchmarks.streams import percentile, read_whole, reading

_BARE_STREAM = Path(__file__).parent.parent / "limits" / "bare_stream.py"
_TEXT = "a line of text, as a build writes it: compiling module"
_LAST_EVENT = b"event: done"
# A program that writes the time: so often (0: after a random delay), in so many lines, once a FIFO has a writer.
_STAMPS = """
import random, sys, time
interval, lines = float(sys.argv[1]), int(sys.argv[2])
for path in sys.argv[3:]:
    open(path).close()
due = time.monotonic()
for _ in range(lines):
    due += interval or random.uniform(.2, .4)
    time.sleep(max(0, due - time.monotonic()))
    print(time.time_ns(), flush=True)
"""


def _stamps(interval: float, lines: int, *fifo: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _STAMPS, str(interval), str(lines), *fifo]


# One follower of much text


def _whole(tree: ProcessTree, port: int, path: str, size: int) -> Sample:
    """Read the stream of a job that has written `size` bytes of text."""
    server = tree.program()
    reset_peak(server)
    before = peak_bytes(server)
    timer = CpuTimer(tree)
    framed, seconds = read_whole(port, path, _LAST_EVENT)
    used, client_cpu = timer.stop()
    return {
        "rate": size / seconds,
        "framed": framed / seconds,
        "cpu": used / (size / 1e6),
        "client": client_cpu / (size / 1e6),
        "growth": peak_bytes(server) - before,
    }


@contextmanager
def _much_text(run: Run) -> Iterator[Contenders]:
    size = run.count(500_000_000, 1_000_000)
    with ExitStack() as stack:
        bare = running([sys.executable, "-I", "-S", str(_BARE_STREAM), str(size)], stdout=subprocess.PIPE)
        limit = stack.enter_context(bare)
        port = int(limit.stdout.readline())
        rounds: dict[str, Round | Unavailable] = {LIMIT: partial(_whole, limit, port, "/", size)}
        for version in run.versions:
            service = stack.enter_context(serving(version, run.directory))
            job_id = service.submit(
                command=f"yes 'a line of text, as a build writes it: compiling module' | head -c {size}"
            )
            service.wait_until_idle()
            path = f"/api/statuses/{job_id}/events"
            rounds[version.name] = partial(_whole, service.tree, service.port, path, size)
        yield rounds


# A thousand followers of a little


def _sample_of_many(service: Service, followers: int, seconds: int) -> Sample:
    with tempfile.TemporaryDirectory() as directory:
        fifo = f"{directory}/begin"
        os.mkfifo(fifo)
        job_id = service.submit(argv=_stamps(0.01, 100 * seconds, fifo))
        service.wait_until_running(job_id)
        with reading(service.port, f"/api/statuses/{job_id}/events", followers) as readers:
            service.tree.settle()
            Path(fifo).write_bytes(b"")  # every follower is connected
            before, began = service.tree.cpu_seconds(), time.perf_counter()
            time.sleep(seconds - 1)  # it ends after the measurement
            used = service.tree.cpu_seconds() - before
            elapsed = time.perf_counter() - began
            report = readers.stop()
    service.wait_until_idle()
    return {
        "p99": percentile(report.delays, 0.99),
        "p50": percentile(report.delays, 0.5),
        "cores": used / elapsed,
        "client": report.cpu / elapsed,
    }


@contextmanager
def _many(run: Run) -> Iterator[Contenders]:
    followers, seconds = run.count(1000, 20), run.count(11, 2)
    with serving_versions(run.versions, run.directory, **MANY_STREAMS) as services:
        yield {name: partial(_sample_of_many, service, followers, seconds) for name, service in services.items()}


# The first byte


def _delays_of_one(service: Service, lines: int) -> Sample:
    job_id = service.submit(argv=_stamps(0, lines))
    with reading(service.port, f"/api/statuses/{job_id}/events", 1) as readers:
        while service.request("GET", f"/api/statuses/{job_id}")[0] == 200:
            time.sleep(random.uniform(0.2, 0.4))
        delays = readers.stop().delays
    return {"p50": statistics.median(delays), "max": max(delays)}


def _delays_of_a_pipe(lines: int) -> Sample:
    with subprocess.Popen(_stamps(0, lines), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        delays = [(time.time_ns() - int(line)) / 1e9 for line in process.stdout]
    return {"p50": statistics.median(delays), "max": max(delays)}


@contextmanager
def _first_byte(run: Run) -> Iterator[Contenders]:
    lines = run.count(20, 3)
    with serving_versions(run.versions, run.directory) as services:
        rounds: Contenders = {name: partial(_delays_of_one, service, lines) for name, service in services.items()}
        yield {LIMIT: partial(_delays_of_a_pipe, lines), **rounds}


FIGURES = (
    Figure(
        "follow",
        "one follower of 500 MB of text",
        (
            Measure("rate", "text", "MB/s", 1e-6, is_rate=True, goal=Goal(330, 600, "value")),
            Measure("framed", "framed bytes", "MB/s", 1e-6, is_rate=True),
            Measure("cpu", "CPU per MB of text", "µs", 1e6),
            Measure("client", "CPU of the reader per MB", "µs", 1e6),
            Measure("growth", "growth of the server meanwhile", "MB", 1e-6, 1),
        ),
        _much_text,
        max_rounds=3,
    ),
    Figure(
        "followers",
        "1,000 followers of one job, 100 lines/s",
        (
            Measure("p99", "p99 of the delay", "ms", 1e3, goal=Goal(60, 60, "value")),
            Measure("p50", "p50 of the delay", "ms", 1e3),
            Measure("cores", "CPU", "% of a core", 100, goal=Goal(40, 25, "value")),
            Measure("client", "CPU of the readers", "% of a core", 100),
        ),
        _many,
        max_rounds=3,
    ),
    Figure(
        "first-byte",
        "first byte to a follower, idle",
        (
            Measure("p50", "p50, a pipe as limit", "ms", 1e3, 2, goal=Goal(10, 3, "value")),
            Measure("max", "longest", "ms", 1e3, 2),
        ),
        _first_byte,
        max_rounds=3,
    ),
)
