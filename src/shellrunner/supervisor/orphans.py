"""Find and kill the processes of a lost job whose keeper and fork server are both dead.

Every command has SHELLRUNNER_JOB=<id>:<token> in its environment, and so have its children unless they removed it.
Blocking: to be run in a thread. Knows /proc only.
"""

import os
import signal
import time

from shellrunner.keeper.identity import ProcessIdentity


def kill_orphans(job_id: int, token: str, seconds: float = 5.0) -> list[int]:
    """Kill every process that carries the job's mark, until two scans in a row find none.

    Returns:
        The pids that were killed or, after `seconds`, could not be.
    """
    mark = f"SHELLRUNNER_JOB={job_id}:{token}".encode()
    deadline = time.monotonic() + seconds
    found: list[int] = []
    empty_scans = 0
    while empty_scans < 2 and time.monotonic() < deadline:
        pids = [pid for pid in _pids() if _is_marked(pid, mark)]
        empty_scans = 0 if pids else empty_scans + 1
        for pid in pids:
            _kill(pid, mark)
        found += [pid for pid in pids if pid not in found]
        time.sleep(0.002)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False  # gone, another user's, or a zombie


def _kill(pid: int, mark: bytes) -> None:
    try:
        pidfd = ProcessIdentity.from_pid(pid).open_pidfd()
    except ProcessLookupError:
        return
    if pidfd is None:
        return
    try:
        if _is_marked(pid, mark):  # checked again now that the pidfd holds it: this very process is signalled
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)
