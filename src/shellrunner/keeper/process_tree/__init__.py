"""Kill a whole process tree: every descendant of a subreaper, in whatever session or group it is.

Used by the keeper for its command, and by the fork server for what a killed keeper left behind. A subreaper
(prctl(2), PR_SET_CHILD_SUBREAPER) becomes the parent of every orphan below it, so its descendants are exactly what
the command started. Must not know jobs, slots or messages.
"""

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

from ..identity import read_proc_file, stat_fields

_PR_SET_CHILD_SUBREAPER = 36
_MAX_ROUNDS = 64
# Looked up once, before any fork: ctypes makes a class for it, which would be private memory of every keeper.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Process(NamedTuple):
    """A process in /proc. `start` distinguishes it from a later process with the same pid."""

    pid: int
    parent: int
    group: int
    start: int
    zombie: bool


def become_subreaper() -> None:
    """Make this process the parent of every orphan below it; not inherited by fork.

    Raises:
        OSError: the kernel refused.
    """
    if _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_CHILD_SUBREAPER")


def processes() -> Iterator[Process]:
    """Yield every process; one that ends meanwhile is left out."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(ProcessLookupError):
                fields = stat_fields(int(name))
                zombie = fields[0] in (b"Z", b"X")
                yield Process(int(name), int(fields[1]), int(fields[2]), int(fields[19]), zombie)


def descendants(root: int, spared: Collection[int] = ()) -> list[Process]:
    """Return the descendants of `root`, parents first, without the children `spared` and their descendants."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found = [child for child in children.get(root, ()) if child.pid not in spared]
    for process in found:  # grows during the iteration: breadth first
        found += children.get(process.pid, ())
    return found


def group_lives(group: int) -> bool:
    """Return whether a process of this group has not ended."""
    return any(process.group == group and not process.zombie for process in processes())


def kill(spared: Collection[int] = ()) -> None:
    """Stop, then kill, every descendant of this process.

    They are stopped first, and looked for again until no new one is found: a stopped process does not fork, so the
    search ends, where killing one by one would lag behind a tree that keeps forking.
    """
    me = os.getpid()
    stopped: dict[tuple[int, int], Process] = {}
    for _ in range(_MAX_ROUNDS):
        found = descendants(me, spared)
        fresh = [p for p in found if not p.zombie and (p.pid, p.start) not in stopped]
        if not fresh:
            break
        for process in fresh:
            _signal(process, signal.SIGSTOP)
            stopped[process.pid, process.start] = process
    for process in stopped.values():
        _signal(process, signal.SIGKILL)


def _signal(process: Process, signum: signal.Signals) -> None:
    # The pidfd first, the start time after: the signal reaches the process that was found, or none.
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        if int(stat_fields(process.pid)[19]) == process.start:
            signal.pidfd_send_signal(pidfd, signum)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, or is another user's (setuid) and will be reported as a survivor
    finally:
        os.close(pidfd)


def sweep(seconds: float) -> list[str]:
    """Kill and reap every descendant of this process; return descriptions of those left after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while not reap():
        kill()
        if time.monotonic() > deadline:
            survivors = [_describe(process.pid) for process in descendants(os.getpid()) if not process.zombie]
            return survivors or ["a child that could not be found"]
        time.sleep(pause)  # they end meanwhile; no wait covers all of them
        pause = min(pause * 2, 0.02)
    return []


def reap() -> bool:
    """Reap every child that has ended; return whether there is no child left (ECHILD)."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _describe(pid: int) -> str:
    try:
        return f"{read_proc_file(f'/proc/{pid}/comm').decode(errors='replace').strip()} (pid {pid})"
    except OSError:
        return f"pid {pid}"
