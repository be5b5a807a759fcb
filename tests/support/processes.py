"""Processes, as /proc shows them."""

import contextlib
import os
from pathlib import Path


def lives(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def parent(pid: int) -> int:
    """Return the pid of its parent."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def describe(pid: int) -> str:
    """Return the state of each thread of a process that does not end, and where in the kernel it waits."""
    found = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        with contextlib.suppress(OSError):
            state = task.joinpath("stat").read_text().rpartition(")")[2].split()[0]
            found.append(f"{task.name} {state} {task.joinpath('wchan').read_text()}")
    return ", ".join(found) or "it is gone"


def marked(mark: str) -> list[int]:
    """Return the living processes with `mark` (text) in their command line or environment."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid() and lives(int(name)):
            for part in ("cmdline", "environ"):
                try:
                    with open(f"/proc/{name}/{part}", "rb") as file:
                        if mark.encode() in file.read():
                            found.append(int(name))
                            break
                except OSError:
                    pass
    return found


def children(pid: int) -> list[int]:
    """Return the pids of its children."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdecimal() and parent(int(name)) == pid:
                found.append(int(name))
    return found
