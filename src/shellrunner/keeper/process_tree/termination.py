"""End a process tree: TERM and CONT to every process group, a grace, then KILL until nothing is left.

Owned by the running command; its loop calls `step` at each `deadline`, and notices itself when the tree is gone. Must
not know why the tree is ended.

    0           TERM, CONT to the groups that are there
    grace / 2   TERM, CONT to groups that are new since, and have no process that got one: one that a handler of TERM
                made to clean up (with timeout(1), for example) has had its time, and nothing is killed without a TERM
    grace       KILL, again and again

Without a grace (None) there is no TERM: KILL at once.
No group gets TERM twice, as a handler would run twice.
"""

import os
import signal
import time
from contextlib import suppress

from . import Process, kill, living, signal_groups

Helpers = frozenset[tuple[int, int]]  # processes that are no part of the command: pids and start times
KILL_TIMEOUT = 1.0  # seconds that the tree has to be gone once it is killed
_MIN_KILL_INTERVAL, _MAX_KILL_INTERVAL = 0.05, 0.25  # seconds


class Termination:
    """The end of the tree of this process, the descendants of which are to be gone within a grace."""

    def __init__(self, tree: list[Process], grace: float | None, helpers: Helpers = frozenset()) -> None:
        """Send TERM and CONT to the groups of `tree`, the processes that are there; None: kill them in `step`.

        Of the other descendants, `helpers` get only KILL.
        """
        self._helpers = helpers
        now = time.monotonic()
        self._kill_at = now + (grace or 0)
        self._kill_interval = _MIN_KILL_INTERVAL
        self.is_blind = False  # it is time to kill the tree, which could not be looked for
        self._known = {(process.pid, process.start) for process in tree}
        self._groups = {process.group for process in tree}
        self.deadline = now + (grace or 0) / 2
        if grace is not None:
            _send_term(tree)

    def step(self, now: float) -> None:
        """Do what is due."""
        if now < self.deadline:
            return
        if now < self._kill_at:
            self.deadline = self._kill_at
            _send_term(self._newcomers())
        else:
            self.deadline = now + self._kill_interval
            self._kill_interval = min(self._kill_interval * 2, _MAX_KILL_INTERVAL)
            try:
                kill()
                self.is_blind = False
            except OSError:  # no descriptors left to look with: again at the next deadline
                self.is_blind = True

    def has_failed(self, now: float) -> bool:
        """Return whether the tree should have been gone long ago."""
        return now >= self._kill_at + KILL_TIMEOUT

    def _newcomers(self) -> list[Process]:
        tree = living_tree(self._helpers)
        known = self._groups | {p.group for p in tree if (p.pid, p.start) in self._known}
        return [process for process in tree if process.group not in known]


def end_tree() -> None:
    """Kill every descendant of this process and reap its children, for up to `KILL_TIMEOUT`."""
    deadline = time.monotonic() + KILL_TIMEOUT
    while time.monotonic() < deadline:
        try:
            kill()
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        except OSError:
            pass
        time.sleep(_MIN_KILL_INTERVAL / 10)


def living_tree(helpers: Helpers = frozenset()) -> list[Process]:
    """Return this process's descendants that have not ended, but for `helpers`; none if they cannot be looked for."""
    with suppress(OSError):
        return [process for process in living(os.getpid()) if (process.pid, process.start) not in helpers]
    return []


def _send_term(tree: list[Process]) -> None:
    signal_groups(tree, signal.SIGTERM)
    signal_groups(tree, signal.SIGCONT)  # a stopped process does not handle TERM
