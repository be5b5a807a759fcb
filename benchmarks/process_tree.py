"""A program and all of its descendants, and the CPU time and memory that they use.

The program runs under a subreaper of its own, so a daemon that forked twice still belongs to the tree. CPU time is
what the kernel's scheduler counted: of a living process its CPU clock, which includes threads that have ended; of
ended processes what their parent (or the subreaper) got when it reaped them. Must not know what the program is.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_SUBREAPER = Path(__file__).with_name("subreaper.py")
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLED_SECONDS = 0.001  # of CPU time in one interval: timers of an idle service need less
_SETTLE_INTERVAL = 0.05


def children(pid: int) -> list[int]:
    """Return the pids of its children, those that have ended and were not reaped included; none if it is gone."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):  # each thread has its own
        with contextlib.suppress(OSError):
            found += map(int, path.read_bytes().split())
    return found


def descendants(pid: int) -> list[int]:
    """Return the pids of all processes below this one."""
    found = []
    pending = [pid]
    while pending:
        below = children(pending.pop())
        found += below
        pending += below
    return found


def own_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and all of its threads, ended ones included.

    The clock is what clock_getcpuclockid(3) returns (CPUCLOCK_SCHED of the process): nanoseconds as the scheduler
    counts them, as in /proc/PID/schedstat, which however has only one thread.
    """
    return time.clock_gettime((~pid << 3) | 2)


def main_thread_cpu_seconds(pid: int) -> float:
    """Return the CPU time of the first thread of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def reaped_cpu_seconds(pid: int) -> float:
    """Return the CPU time of the children that a process has waited for, with theirs; in ticks of 10 ms (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICKS


def cpu_seconds_below(pid: int) -> float:
    """Return the CPU time so far of all processes that were ever below this one.

    A process that ends meanwhile moves from its own clock to its parent's account, so the sum is valid only if
    the processes were the same before and after.
    """
    while True:
        pids = descendants(pid)
        try:
            total = sum(own_cpu_seconds(each) + reaped_cpu_seconds(each) for each in pids)
        except OSError:  # one has ended
            continue
        total += reaped_cpu_seconds(pid)
        if descendants(pid) == pids:
            return total


def private_bytes(pid: int) -> int:
    """Return the private memory of a process: what would be free without it; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def reset_peak(pid: int) -> None:
    """Let `peak_bytes` count from now on (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """Return the most resident memory that a process has had since its start or `reset_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class ProcessTree:
    """A running program and its descendants."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        """Start the program; `options` are those of `subprocess.Popen`."""
        self.process = subprocess.Popen([sys.executable, "-I", "-S", str(_SUBREAPER), *command], **options)

    @property
    def stderr(self) -> IO[bytes]:
        """Return the pipe of its stderr."""
        assert self.process.stderr is not None
        return self.process.stderr

    @property
    def stdout(self) -> IO[bytes]:
        """Return the pipe of its stdout."""
        assert self.process.stdout is not None
        return self.process.stdout

    def pids(self) -> list[int]:
        """Return the pids of the program and its descendants."""
        return descendants(self.process.pid)

    def program(self) -> int:
        """Return the pid of the program itself; the subreaper starts it first."""
        while not (found := children(self.process.pid)):
            time.sleep(0.001)
        return found[0]

    def cpu_seconds(self) -> float:
        """Return the CPU time so far of the program and its descendants, ended ones included."""
        return cpu_seconds_below(self.process.pid)

    def settle(self, seconds: float = 5) -> None:
        """Wait until the tree is idle, at most `seconds`: what it does after an answer is part of the work."""
        deadline = time.monotonic() + seconds
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(_SETTLE_INTERVAL)
            now = self.cpu_seconds()
            if now - before < _SETTLED_SECONDS:
                return
            before = now

    def kill(self) -> None:
        """Kill every process of the tree at once, as if its machine lost power."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def stop(self, seconds: float) -> None:
        """Close its stdin, send SIGTERM to the program, wait for the tree to end, and kill what is left."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait(seconds)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str] | None = None, *, stop_timeout: float = 20, **options: Any
) -> Iterator[ProcessTree]:
    """Run a program for as long as the context lasts; what outlives SIGTERM by `stop_timeout` seconds is killed."""
    tree = ProcessTree(command, env=env, **options)
    try:
        yield tree
    finally:
        tree.stop(stop_timeout)


class CpuTimer:
    """Measures what a tree uses, and what this process uses to load it, from its creation to `stop`."""

    def __init__(self, tree: ProcessTree) -> None:
        """Begin to measure once the tree is idle."""
        self._tree = tree
        tree.settle()
        self._before, self._client_before = tree.cpu_seconds(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """Return the CPU seconds of the tree, once it is idle, and those of this process until now."""
        client = time.process_time() - self._client_before
        self._tree.settle()
        return self._tree.cpu_seconds() - self._before, client
