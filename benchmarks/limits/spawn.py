"""The limit of running commands: bare posix_spawn and wait, in C where there is a compiler, else in Python."""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Spawned(NamedTuple):
    """The cost of running commands, in seconds."""

    wall: float
    cpu: float
    median: float  # of one command


def program(directory: Path) -> list[str]:
    """Return the command line of the program that spawns; compiled into the directory if there is a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return [sys.executable, "-I", "-S", __file__]
    binary = directory / "spawn"
    if not binary.exists():
        source = Path(__file__).with_suffix(".c")
        subprocess.run([compiler, "-O2", "-o", str(binary), str(source)], check=True)
    return [str(binary)]


def spawn(directory: Path, jobs: int, processes: int, synced: Path | None = None) -> Spawned:
    """Run `sh -c true` this often in so many processes; `synced` is a file that is written and synced after each."""
    arguments = [str(jobs), str(processes), *([str(synced)] if synced else [])]
    done = subprocess.run([*program(directory), *arguments], check=True, stdout=subprocess.PIPE, text=True)
    wall, cpu, median = map(float, done.stdout.split())
    return Spawned(wall, cpu, median)


def _spawn_here(jobs: int, fd: int) -> float:
    environment = dict(os.environ)
    times = []
    for _ in range(jobs):
        began = time.perf_counter()
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "true"], environment)
        if os.waitpid(pid, 0)[1] != 0:
            raise ChildProcessError("sh failed")
        if fd >= 0:
            os.write(fd, bytes(512))
            os.fdatasync(fd)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main(arguments: list[str]) -> None:
    """Do in Python what spawn.c does."""
    jobs, processes = int(arguments[0]), int(arguments[1])
    fd = os.open(arguments[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if len(arguments) > 2 else -1
    began = time.perf_counter()
    workers = []
    for _ in range(processes - 1):
        if (pid := os.fork()) == 0:
            _spawn_here(jobs // processes, fd)
            os._exit(0)
        workers.append(pid)
    median = _spawn_here(jobs // processes, fd)
    for pid in workers:
        os.waitpid(pid, 0)
    accounts = [resource.getrusage(account) for account in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(used.ru_utime + used.ru_stime for used in accounts)
    print(time.perf_counter() - began, cpu, median)


if __name__ == "__main__":
    main(sys.argv[1:])
