"""Run a program and adopt every orphan among its descendants; run by file as `python -I -S subreaper.py COMMAND...`.

Whatever the program leaves behind, in any session, is re-parented to this process and reaped by it, so that no CPU
time is lost to a process outside of the tree (PR_SET_CHILD_SUBREAPER in prctl(2)). Ends once no descendant is left,
with the program's exit status. SIGTERM is passed on to the program.
"""

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> int:
    """Run the program of the command line and return its exit status."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until it can be passed on
    program = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, setsigmask=())
    signal.signal(signal.SIGTERM, lambda *_: terminate(program))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    status = 0
    while True:
        try:
            pid, ending = os.wait()
        except ChildProcessError:
            return status
        if pid == program:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its pid may be given to another process
            status = os.waitstatus_to_exitcode(ending)


def terminate(program: int) -> None:
    """Pass SIGTERM on, unless the program has just been reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(program, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main() & 0xFF)
