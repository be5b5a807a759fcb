"""Measure what the processes of running jobs use: CPU time, memory, how many there are.

Read from /proc, only when asked, and once for all who ask at about the same time; all jobs together cost one look at
every process. Must not know HTTP, slots or the supervisor.

The processes of a job are the descendants of its keeper, which is a subreaper: in whatever session or group they are.
Made by the composition root for `web`, which has a protocol of its own for it.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from shellrunner.clock import Millis, now_ms
from shellrunner.keeper.identity import is_zombie, stat_fields
from shellrunner.model import LiveUsage

_MAX_AGE: Final = 0.25  # seconds for which a measurement is returned again
# Seconds over which the share is measured at least, if the job was measured before that. A tick is 0.01 s.
_MIN_SPAN: Final = 1.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")
_Claim = tuple[int, str]  # a job's id and its claim token


class MeasuredJob(NamedTuple):
    """A running job: its claim, when it was claimed, and the pid of its keeper."""

    job_id: int
    token: str
    claimed: Millis
    keeper_pid: int


class _ProcessUsage(NamedTuple):
    pid: int
    parent: int
    is_alive: bool
    is_stopped: bool
    ticks: int  # of itself and of the children for which it has waited
    pages: int


class _Sample(NamedTuple):
    clock: float
    cpu_seconds: float


class UsageMeter:
    """Measures running jobs; remembers for each what it has used before, for its share of the processors since."""

    processors: Final = len(os.sched_getaffinity(0))  # that this process may use, and so its jobs

    def __init__(self, running_jobs: Callable[[], Iterable[MeasuredJob]]) -> None:
        """`running_jobs` returns the running jobs whose keepers are known."""
        self._running_jobs = running_jobs
        self._lock = asyncio.Lock()
        self._samples: dict[_Claim, deque[_Sample]] = {}
        self._measured: Mapping[int, LiveUsage] = {}
        self._measured_at = -_MAX_AGE

    async def measure(self) -> Mapping[int, LiveUsage]:
        """Return what each running job uses, by job; without those whose keeper is not known at the moment."""
        async with self._lock:
            is_old = time.monotonic() - self._measured_at >= _MAX_AGE
            if is_old or not self._running_ids() <= self._measured.keys():  # a job that was started since
                processes = await asyncio.to_thread(_read_processes)
                self._measured_at = time.monotonic()
                self._measured = self._measure(processes)
            running = self._running_ids()
            return {job_id: usage for job_id, usage in self._measured.items() if job_id in running}

    async def measure_job(self, job_id: int, /) -> LiveUsage | None:
        """Return what one running job uses; None if its keeper is not known at the moment."""
        return (await self.measure()).get(job_id)

    def _running_ids(self) -> set[int]:
        return {job.job_id for job in self._running_jobs()}

    def _measure(self, processes: Mapping[int, list[_ProcessUsage]]) -> dict[int, LiveUsage]:
        found: dict[int, LiveUsage] = {}
        samples: dict[_Claim, deque[_Sample]] = {}
        for job in self._running_jobs():
            claim = job.job_id, job.token
            samples[claim] = self._samples.get(claim) or _from_start(job, self._measured_at)
            found[job.job_id] = _usage(_tree(processes, job.keeper_pid), samples[claim], self._measured_at)
        self._samples = samples
        return found


def _from_start(job: MeasuredJob, now: float) -> deque[_Sample]:
    """Return the first sample of a job: nothing, when it was claimed."""
    return deque([_Sample(now - max(0, now_ms() - job.claimed) / 1000, 0.0)])


def _usage(tree: list[_ProcessUsage], samples: deque[_Sample], now: float) -> LiveUsage:
    """Return what a tree uses now, and add that to the samples, the oldest of which is what its share is since."""
    alive = [process for process in tree if process.is_alive]
    # An orphan that has ended takes its time along, to the keeper.
    cpu_seconds = max(sum(process.ticks for process in tree) / _TICKS, samples[-1].cpu_seconds)
    samples.append(_Sample(now, cpu_seconds))
    while len(samples) > 2 and now - samples[1].clock >= _MIN_SPAN:
        samples.popleft()
    since = samples[0]
    interval = now - since.clock
    return LiveUsage(
        processes=len(alive),
        cpu_seconds=cpu_seconds,
        cpu_share=(cpu_seconds - since.cpu_seconds) / interval if interval > 0 else 0.0,
        interval=interval,
        rss_bytes=sum(process.pages for process in alive) * _PAGE_SIZE,
        stopped=sum(process.is_stopped for process in alive),
    )


def _read_processes() -> Mapping[int, list[_ProcessUsage]]:
    """Return every process by its parent; one that ends meanwhile is left out. Blocking."""
    children: dict[int, list[_ProcessUsage]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                process = _read_process(int(name))
                children.setdefault(process.parent, []).append(process)
    return children


def _read_process(pid: int) -> _ProcessUsage:
    fields = stat_fields(pid)  # from the third on; see proc_pid_stat(5)
    is_alive = not is_zombie(fields[0], int(fields[17]))
    is_stopped = fields[0] == b"T"
    return _ProcessUsage(pid, int(fields[1]), is_alive, is_stopped, sum(map(int, fields[11:15])), int(fields[21]))


def _tree(children: Mapping[int, list[_ProcessUsage]], root: int) -> list[_ProcessUsage]:
    found = list(children.get(root, ()))
    for process in found:  # grows during the iteration
        found += children.get(process.pid, ())
    return found
