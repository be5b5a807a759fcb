"""Stop a process tree, keep it stopped, and continue it.

Owned by the running command; its loop calls `step` at each `deadline`. Must not know why the tree is stopped.

    begin    SIGSTOP to one group after the other, parents first, until no new process is found: what is stopped does
             not fork
    step     SIGSTOP to what runs: somebody else has sent it SIGCONT, or it could not be seen before
    end      SIGCONT to each process, children first. What the command itself had stopped stays as it was, unless
             it was continued during the pause: it would run now.

A shell with job control must not notice: it would take its child for suspended, and take over the terminal. So a
group is stopped only once the one before is (wait4(2) returns the status of a child even if a SIGSTOP has come for
its caller meanwhile), and goes on before its parent does.
"""

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby

from ..identity import stat_fields
from . import Process, send_signal, signal_groups

Look = Callable[[], list[Process]]  # returns the processes that are there now, parents first
_MIN_INTERVAL, _MAX_INTERVAL = 0.05, 2.0  # seconds between looks
_MAX_ROUNDS = 64
_MAX_WAIT = 0.25  # seconds in all for processes to stop, before others are stopped
_POLL_INTERVAL = 0.0002  # seconds


class Pause:
    """A tree that is stopped until `end`.

    `deadline` is when `step` is due; `is_blind` whether there was nothing to see when it looked last, as when no
    descriptors are left: then it has stopped nothing.
    """

    def __init__(self, look: Look, now: float) -> None:
        """Stop what `look` finds."""
        self._look = look
        self._tree = look()
        self._stopped_before = {_identity(process) for process in self._tree if process.is_stopped}
        self._interval = _MIN_INTERVAL
        self.deadline = now
        self.step(now)

    @property
    def is_blind(self) -> bool:
        return not self._tree

    def step(self, now: float) -> None:
        """Stop what runs, if it is time to look."""
        if now >= self.deadline:
            self._stop()
            self.deadline = now + self._interval
            self._interval = min(self._interval * 2, _MAX_INTERVAL)

    def end(self) -> None:
        """Continue all of it, apart from what was stopped before."""
        for process in reversed(self._look() or self._tree):
            if _identity(process) not in self._stopped_before:
                send_signal(process, signal.SIGCONT)

    def _stop(self) -> None:
        signalled: set[tuple[int, int]] = set()
        wait_until = time.monotonic() + _MAX_WAIT
        for _ in range(_MAX_ROUNDS):
            self._tree = self._look()
            fresh = [p for p in self._tree if not p.is_stopped and _identity(p) not in signalled]
            if not fresh:
                break
            signalled.update(map(_identity, fresh))
            self._stopped_before.difference_update(map(_identity, fresh))
            for _, group in groupby(fresh, lambda process: process.group):
                _stop_group(list(group), wait_until)


def _identity(process: Process) -> tuple[int, int]:
    return process.pid, process.start


def _stop_group(members: list[Process], wait_until: float) -> None:
    """Stop the group of these processes, and them if they have left it; wait until they are, but not for ever.

    Not for another user's (setuid), to which no signal may be sent.
    """
    signal_groups(members, signal.SIGSTOP)
    signalled = [process for process in members if send_signal(process, signal.SIGSTOP)]
    while any(map(_runs, signalled)) and time.monotonic() < wait_until:
        time.sleep(_POLL_INTERVAL)


def _runs(process: Process) -> bool:
    """Return whether the process can still do something: one that waits for a disk (D) cannot, and may for long."""
    with suppress(ProcessLookupError):
        return stat_fields(process.pid)[0] in (b"R", b"S")
    return False
