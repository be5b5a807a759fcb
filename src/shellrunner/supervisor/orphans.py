"""Find and kill the processes of a lost job whose keeper and fork server are both dead.

A keeper that lives without its slot is not dead: its command is left to it.

Every command has its mark, SHELLRUNNER_JOB=<id>:<token>:<home>, in its environment, and so have its children. One
that removed it is found if a marked process is its ancestor or in its session. The token begins with the boot, and
the home is the state directory: the processes of another one, from which this history was copied, are never found.
Marks of commands that an earlier version started have no home.
Blocking: to be run in a thread. Knows /proc only.
"""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from shellrunner.keeper.identity import is_zombie, start_time, stat_fields


def job_mark(job_id: int, token: str, home: str) -> str:
    """Return the value of SHELLRUNNER_JOB; `home` is empty if it is unknown, or for an earlier version's mark."""
    return f"{job_id}:{token}:{home}" if home else f"{job_id}:{token}"


class _Process(NamedTuple):
    """A process that has not ended, as /proc shows it; `start` distinguishes it from a later one with its pid."""

    pid: int
    parent: int
    session: int
    start: int


def kill_orphans(marks: Iterable[str], seconds: float = 5.0) -> list[int]:
    """Kill every process that carries one of the job's marks, and its relatives, until two scans in a row find none.

    Returns:
        The pids that were killed or, after `seconds`, could not be.
    """
    variables = _variables(marks)
    deadline = time.monotonic() + seconds
    found: list[int] = []
    sessions: set[int] = set()
    empty_scans = 0
    while empty_scans < 2 and time.monotonic() < deadline:
        orphans = _find(variables, sessions)
        empty_scans = 0 if orphans else empty_scans + 1
        for process in orphans:
            _kill(process)
        found += [process.pid for process in orphans if process.pid not in found]
        time.sleep(0.002)
    return found


def are_kept(marks: Iterable[str], state_dir: str) -> bool:
    """Return whether a process with one of the job's marks descends from a keeper of this state directory.

    Such a keeper has lost its slot (removed, or replaced by another file), but still ends its command as it should.
    """
    variables = _variables(marks)
    return any(_has_keeper(pid, state_dir.encode()) for pid in _pids() if _is_marked(pid, variables))


def _variables(marks: Iterable[str]) -> frozenset[bytes]:
    return frozenset(f"SHELLRUNNER_JOB={mark}".encode() for mark in marks)


def _has_keeper(pid: int, state_dir: bytes) -> bool:
    while pid > 1:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            with open(f"/proc/{pid}/stat", "rb") as file:
                _, parent, _, session = file.read().rpartition(b")")[2].split()[:4]
        except OSError:
            return False
        # A keeper has the command line of the fork server, which leads the session (`fork_server_connection`).
        if words[1:3] == [b"-I", b"-S"] and state_dir in words[4:] and int(session) != pid:
            return True
        pid = int(parent)
    return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _find(variables: frozenset[bytes], sessions: set[int]) -> list[_Process]:
    """Return the marked processes and their relatives: descendants, and members of their sessions (setsid(2)).

    A process that removed its mark is found by them. `sessions` keeps those seen while they have members, as only
    then their ids mean the same. The marked ones come last: they are what leads to the others.
    """
    everything = {process.pid: process for process in _processes()}
    marked = [pid for pid in everything if _is_marked(pid, variables)]
    sessions |= {everything[pid].session for pid in marked} - {os.getsid(0)}
    sessions &= {process.session for process in everything.values()}
    related = [*marked, *(pid for pid, process in everything.items() if process.session in sessions)]
    children: dict[int, list[int]] = {}
    for process in everything.values():
        children.setdefault(process.parent, []).append(process.pid)
    for pid in related:  # grows during the iteration
        related += [child for child in children.get(pid, ()) if child not in related]
    others = dict.fromkeys(pid for pid in related if pid not in marked)
    return [everything[pid] for pid in (*others, *marked)]


def _processes() -> Iterator[_Process]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(ProcessLookupError):
                state, parent, _, session, *rest = stat_fields(int(name))
                if not is_zombie(state, int(rest[13])):
                    yield _Process(int(name), int(parent), int(session), int(rest[15]))


def _is_marked(pid: int, variables: frozenset[bytes]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return not variables.isdisjoint(file.read().split(b"\0"))
    except OSError:
        return False  # gone, or another user's


def _kill(process: _Process) -> None:
    with suppress(OSError):
        pidfd = os.pidfd_open(process.pid)
        try:
            if start_time(process.pid) == process.start:  # the pidfd holds this very process
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
