"""The limit of open files, shared out: connections must never take the descriptors that running commands need.

Owned by the composition root. Out of descriptors, nothing works: no command starts, no output is read, and nobody can
connect to see why. Must not know the running parts.
"""

import logging
import os
import resource
from typing import Final

from shellrunner.config import Settings
from shellrunner.errors import ConfigError
from shellrunner.supervisor import IDLE_KEEPERS

log = logging.getLogger("shellrunner.service")

_PER_KEEPER: Final = 2  # its connection and its slot
_RESERVE: Final = 24  # the history's three connections (8), directories, listeners, and output that is being read
_MIN_CONNECTIONS: Final = 2
_HOW_TO_RAISE: Final = "raise it (LimitNOFILE= in a unit, ulimit -n in a shell)"


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one.

    Commands keep the limit that the service was started with.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def within_limit(settings: Settings) -> Settings:
    """Lower the maximum of connections and of running commands to what the limit allows, and log a warning if so.

    Raises:
        ConfigError: the limit is too low for any.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return settings
    needed = len(os.listdir("/proc/self/fd")) + _RESERVE + _PER_KEEPER * IDLE_KEEPERS
    connections, running = share(limit - needed, settings.server.max_connections, settings.supervisor.max_running)
    if connections < _MIN_CONNECTIONS or running < 1:
        least = needed + _MIN_CONNECTIONS + _PER_KEEPER
        raise ConfigError(f"the limit of open files is {limit}, and the service needs {least}: {_HOW_TO_RAISE}")
    if (connections, running) == (settings.server.max_connections, settings.supervisor.max_running):
        return settings
    log.warning(
        "the limit of open files is too low for server.max_connections and supervisor.max_running, which are "
        f"lowered: {_HOW_TO_RAISE}, or lower these settings",
        extra={"open_files": limit, "max_connections": connections, "max_running": running},
    )
    server = settings.server.model_copy(update={"max_connections": connections})
    supervisor = settings.supervisor.model_copy(update={"max_running": running})
    return settings.model_copy(update={"server": server, "supervisor": supervisor})


def share(available: int, connections: int, running: int) -> tuple[int, int]:
    """Return how many connections and running commands so many descriptors allow; if too few, half is for each."""
    connections = max(0, min(connections, max(available - _PER_KEEPER * running, available // 2)))
    return connections, max(0, min(running, (available - connections) // _PER_KEEPER))
