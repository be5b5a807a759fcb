"""Find and kill the processes of a lost job whose keeper and fork server are both dead.

A keeper that lives without its slot is not dead: its command is left to it.

Every command has its mark, SHELLRUNNER_JOB=<id>:<token>:<home>, in its environment, and so have its children unless
they removed it. The token begins with the boot, and the home is the state directory: the processes of another one,
from which this history was copied, are never found. Marks of commands that an earlier version started have no home.
Blocking: to be run in a thread. Knows /proc only.
"""

import os
import signal
import time
from collections.abc import Iterable

from shellrunner.keeper.identity import ProcessIdentity


def job_mark(job_id: int, token: str, home: str) -> str:
    """Return the value of SHELLRUNNER_JOB; `home` is empty if it is unknown, or for an earlier version's mark."""
    return f"{job_id}:{token}:{home}" if home else f"{job_id}:{token}"


def kill_orphans(marks: Iterable[str], seconds: float = 5.0) -> list[int]:
    """Kill every process that carries one of the job's marks, until two scans in a row find none.

    Returns:
        The pids that were killed or, after `seconds`, could not be.
    """
    variables = _variables(marks)
    deadline = time.monotonic() + seconds
    found: list[int] = []
    empty_scans = 0
    while empty_scans < 2 and time.monotonic() < deadline:
        pids = [pid for pid in _pids() if _is_marked(pid, variables)]
        empty_scans = 0 if pids else empty_scans + 1
        for pid in pids:
            _kill(pid, variables)
        found += [pid for pid in pids if pid not in found]
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


def _is_marked(pid: int, variables: frozenset[bytes]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return not variables.isdisjoint(file.read().split(b"\0"))
    except OSError:
        return False  # gone, another user's, or a zombie


def _kill(pid: int, variables: frozenset[bytes]) -> None:
    try:
        pidfd = ProcessIdentity.from_pid(pid).open_pidfd()
    except ProcessLookupError:
        return
    if pidfd is None:
        return
    try:
        if _is_marked(pid, variables):  # checked again now that the pidfd holds it: this very process is signalled
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)
