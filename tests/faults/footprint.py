"""What the processes and the directory of a service use, so that growth can be seen as a slope."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.process_tree import children

from tests.faults.chaos.injection import Processes, read_proc

Footprint = dict[str, int]

# Growth for each unit of work that counts as none: an interpreter's memory moves by some pages.
_ALLOWED: Final = {"memory": 4096}


def measure(server: int, processes: Processes, state_dir: Path) -> Footprint:
    """Return the figures of the server, its fork servers, its keepers (the largest of each) and its directory.

    Nothing if it has no fork server or no keeper: one that forks a keeper holds the slot of that for a moment, and
    looks like a keeper.
    """
    found: Footprint = {}
    pids = {"server": [server], "fork server": processes.fork_servers(), "keeper": processes.keepers()}
    if not all(pids.values()):
        return found
    for name, group in pids.items():
        for kind, figure in _FIGURES.items():
            found[f"{kind} of {name}"] = max((figure(pid) for pid in group), default=0)
    everything = [pid for group in pids.values() for pid in group]
    found["zombies"] = sum(_is_zombie(child) for pid in everything for child in children(pid))
    found["fork servers"] = len(pids["fork server"])
    for name in ("slots", "runs"):
        found[f"files in {name}"] = len(os.listdir(state_dir / name))
    return found


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _status(pid: int, field: str) -> int:
    lines = (line.split() for line in read_proc(pid, "status").decode().splitlines())
    return next((int(words[1]) for words in lines if words[0] == f"{field}:"), 0)


def _is_zombie(pid: int) -> bool:
    return read_proc(pid, "stat").rpartition(b")")[2].split()[:1] == [b"Z"]


_FIGURES: Final[dict[str, Callable[[int], int]]] = {
    "descriptors": _descriptors,
    "threads": lambda pid: _status(pid, "Threads"),
    "memory": lambda pid: _status(pid, "RssAnon") * 1024,
}


def growing(footprints: list[Footprint], units: int, *, memory: bool) -> dict[str, list[int]]:
    """Return the figures that grew with every batch of `units` units of work: those that leak.

    What leaks grows in each batch; what only varies, or is filled once, does not.
    """
    series = {name: [footprint[name] for footprint in footprints] for name in footprints[0]}
    if not memory:
        series = {name: values for name, values in series.items() if not name.startswith("memory")}
    return {name: values for name, values in series.items() if _slope(values) > _allowed(name) * units}


def _slope(values: list[int]) -> int:
    """Return the smallest growth from one measurement to the next."""
    return min(later - earlier for earlier, later in itertools.pairwise(values))


def _allowed(name: str) -> int:
    return next((value for kind, value in _ALLOWED.items() if name.startswith(kind)), 0)
