"""How many processes of the service's control group the kernel's out-of-memory killer has ended, and when.

Owned by the supervisor. Where a job was killed with SIGKILL, this is the evidence of who did it. Looked at every few
seconds, so that no job costs more for it. Must not know jobs.
"""

import asyncio
import os
from collections import deque
from typing import Final, NamedTuple

from shellrunner.clock import Millis, now_ms

_POLL_INTERVAL: Final = 5.0  # seconds
_MAX_INCREASES: Final = 1000  # that are remembered


class _Increase(NamedTuple):
    by: Millis  # when it was noticed
    number: int


class OomKills:
    """The counter `oom_kill` of a control group's memory.events (cgroup v2)."""

    def __init__(self, path: str | None) -> None:
        """Watch the counter in this file; without one, nothing is ever known."""
        self._path = path
        self._total = self._read()
        self._increases: deque[_Increase] = deque(maxlen=_MAX_INCREASES)

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while self._total is not None:
            await asyncio.sleep(_POLL_INTERVAL)
            self._look()

    def count_since(self, moment: Millis) -> int:
        """Return how many processes were ended since then, or in the few seconds before."""
        self._look()
        return sum(increase.number for increase in self._increases if increase.by >= moment)

    def _look(self) -> None:
        before, total = self._total, self._read()
        if total is not None and before is not None:
            if total > before:
                self._increases.append(_Increase(now_ms(), total - before))
            self._total = total

    def _read(self) -> int | None:
        try:
            with open(self._path or "") as file:
                return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), None)
        except (OSError, ValueError, IndexError):  # no such controller; the file is there for as long as the group
            return None


def own_memory_events() -> str | None:
    """Return the path of memory.events of this process's control group (cgroups(7)); None where there is none."""
    try:
        with open("/proc/self/cgroup") as file:
            group = next((line.strip()[3:] for line in file if line.startswith("0::")), None)
    except OSError:
        return None
    path = f"/sys/fs/cgroup{group}/memory.events"
    return path if group is not None and os.path.exists(path) else None
