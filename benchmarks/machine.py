"""Facts about the machine, without which a figure means nothing."""

import os
import platform
import sqlite3
import statistics
import time
from pathlib import Path

import aiohttp


def facts(directory: Path) -> dict[str, str]:
    """Return what the figures depend on; `directory` is where the state directories are."""
    return {
        "CPU": _cpu_model(),
        "cores": f"{len(os.sched_getaffinity(0))}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "aiohttp": aiohttp.__version__,
        "file system": _file_system(directory),
        "fdatasync": f"{_fdatasync_seconds(directory) * 1e6:.0f} µs",
        "load": load(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    path = os.path.realpath(directory)
    best = ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, kind = line.split()[4], line.partition(" - ")[2].split()[0]
        if len(mount) >= len(best[0]) and os.path.commonpath((path, mount)) == mount:
            best = (mount, kind)
    return best[1]


def _fdatasync_seconds(directory: Path) -> float:
    """Return the median time to write and sync 4 KiB, as a commit does."""
    times = []
    path = directory / "synced"
    with path.open("wb", buffering=0) as file:
        for _ in range(20):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(times)


def load() -> str:
    """Return the load averages of 1, 5 and 15 minutes."""
    return "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg())
