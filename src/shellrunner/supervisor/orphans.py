"""Find and kill what a lost job left when its keeper and the fork server are both dead.

Every command carries SHELLRUNNER_JOB=<id>:<token> in its environment, and so do its children unless they took care
not to. Blocking; run it on a thread. Knows /proc only.
"""

import os
import signal
import time

from shellrunner.keeper.identity import ProcessIdentity


def end_strays(job_id: int, token: str, seconds: float = 5.0) -> list[int]:
    """Kill every process with the job's mark until two scans in a row find none.

    Returns:
        The pids that were killed or, after `seconds`, could not be.
    """
    mark = f"SHELLRUNNER_JOB={job_id}:{token}".encode()
    deadline = time.monotonic() + seconds
    found: list[int] = []
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:
        pids = [pid for pid in _pids() if _marked(pid, mark)]
        quiet = 0 if pids else quiet + 1
        for pid in pids:
            _kill(pid, mark)
        found += [pid for pid in pids if pid not in found]
        time.sleep(0.002)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _marked(pid: int, mark: bytes) -> bool:
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
        if _marked(pid, mark):  # looked at again once the pidfd holds it: this is the process that is signalled
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)
