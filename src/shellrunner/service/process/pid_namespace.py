"""A service as process 1 of a PID namespace, as in a container: the kernel ends every process of it with process 1.

Owned by the composition root. Running commands cannot outlive such a service. Orphans become children of process 1
(pid_namespaces(7)), so they are reaped here.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_INITIAL_NAMESPACE: Final = 0xEFFFFFFC  # the inode of /proc/self/ns/pid outside of any container (linux/proc_ns.h)
# Programs that, as process 1, end with their child: `docker run --init`, and shells.
_SMALL_INITS: Final = frozenset(
    {"tini", "docker-init", "podman-init", "catatonit", "dumb-init", "sh", "bash", "dash", "ash", "busybox"}
)
_INTERVAL: Final = 1.0  # seconds between two searches for zombies
_FOREVER: Final = 86_400.0  # seconds


def ends_with_service() -> bool:
    """Return whether every process of the PID namespace ends with this one."""
    if os.getpid() == 1:
        return True
    with suppress(OSError):
        if os.getppid() == 1 and os.stat("/proc/self/ns/pid").st_ino != _INITIAL_NAMESPACE:
            return Path("/proc/1/comm").read_text().strip() in _SMALL_INITS
    return False


def stop_policy(on_stop: str) -> str:
    """Return what is done with running commands at a stop: `keep` cannot be kept if they end with the service."""
    return "cancel" if on_stop == "keep" and ends_with_service() else on_stop


async def reap_orphans() -> None:
    """Reap what becomes a child of this process by the death of its parent, until cancelled; only as process 1."""
    is_init = os.getpid() == 1
    while True:
        if is_init:
            _reap()
        await asyncio.sleep(_INTERVAL if is_init else _FOREVER)


def _reap() -> None:
    """Reap every child that has ended. The only one of our own is the fork server, whose status is not needed."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
